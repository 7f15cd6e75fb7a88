package listen_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
)

// capture is a connection that keeps what is written and then fails.
type capture struct {
	net.Conn
	b []byte
}

func (r *capture) Write(p []byte) (int, error) { r.b = append(r.b, p...); return len(p), nil }
func (r *capture) Read([]byte) (int, error)    { return 0, net.ErrClosed }

// clientHello is what crypto/tls sends first.
func clientHello(t *testing.T, name string) string {
	t.Helper()
	r := &capture{}
	_ = tls.Client(r, &tls.Config{ServerName: name}).HandshakeContext(context.Background())
	return string(r.b)
}
