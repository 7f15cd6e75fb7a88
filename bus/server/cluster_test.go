package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/server"
)

// peerFiles writes an authority and, below it, a certificate for each name.
func peerFiles(t *testing.T, names ...string) (anchors string, files []server.CertificateFiles) {
	t.Helper()
	dir := t.TempDir()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	now := time.Now()
	caKey := newKey()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	anchors = write("ca.crt", "CERTIFICATE", der)
	for n, name := range names {
		key := newKey()
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(n + 2)), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, server.CertificateFiles{
			Certificate: write(fmt.Sprintf("%d.crt", n), "CERTIFICATE", der), Key: write(fmt.Sprintf("%d.key", n), "EC PRIVATE KEY", keyDER),
		})
	}
	return anchors, files
}

// freeAddresses returns addresses of this machine that nobody listens on now, with
// ports that the system gives to nobody: a server is to have its own again when it
// is back.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var addresses []string
	for range 100 * n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 5_000+mathrand.IntN(5_000)))
		if err != nil {
			continue
		}
		defer func() { _ = l.Close() }()
		if addresses = append(addresses, l.Addr().String()); len(addresses) == n {
			return addresses
		}
	}
	t.Fatal("no free ports")
	return nil
}

// TestCluster holds that three servers are one bus: what one has stored, the
// others have when it is gone, and it gets what it missed when it is back. One
// whose certificate is not a server's joins none.
func TestCluster(t *testing.T) {
	anchors, files := peerFiles(t, "weir-bus", "weir-bus", "weir-bus", "someone-else")
	routes := freeAddresses(t, 4)
	quiet := slog.New(slog.DiscardHandler)
	options := make([]server.Options, 4)
	for i := range options {
		options[i] = server.Options{
			Listen: "127.0.0.1:0", DataDir: t.TempDir(), Name: fmt.Sprintf("bus-%d", i), TLS: &files[i], Logger: quiet,
			Retention: bus.Retention{Replicas: 3},
			Cluster:   &server.Cluster{Listen: routes[i], Peers: routes[:3], Anchors: anchors, PeerName: "weir-bus"},
		}
	}
	servers := make([]*server.Server, 3)
	start := func(i int) error {
		s, err := server.Start(t.Context(), options[i])
		servers[i] = s
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range servers {
		wg.Go(func() { errs[i] = start(i) })
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, s := range servers {
			if s != nil {
				s.Close()
			}
		}
	})
	for i, err := range errs {
		if err != nil {
			t.Fatalf("server %d: %v", i, err)
		}
	}

	publish(t, servers[0], anchors, "1")
	servers[0].Close()
	servers[0] = nil
	publish(t, servers[1], anchors, "2")
	if n := stored(t, servers[2], anchors); n != 2 {
		t.Errorf("%d messages are stored, want 2", n)
	}
	if err := start(0); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, servers[0], anchors); n != 2 {
		t.Errorf("the server that was away knows of %d messages, want 2", n)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if s, err := server.Start(ctx, options[3]); err == nil {
		s.Close()
		t.Error("one with somebody else's certificate joined the servers")
	}
}

// untilDone repeats what fails while servers choose whom to follow.
func untilDone(t *testing.T, try func(ctx context.Context) error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func stream(t *testing.T, s *server.Server, anchors string) (jetstream.JetStream, func()) {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(s.URL(), nats.Timeout(time.Minute), nats.RootCAs(anchors), nats.Secure(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.SetCustomDialer(&net.Dialer{}), func(o *nats.Options) error {
			o.TLSConfig.ServerName = "weir-bus"
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js, func() {
		nc.Close()
		<-closed
	}
}

func publish(t *testing.T, s *server.Server, anchors, id string) {
	t.Helper()
	js, done := stream(t, s, anchors)
	defer done()
	untilDone(t, func(ctx context.Context) error {
		_, err := js.Publish(ctx, bus.EventsSubject(cart), []byte(id), jetstream.WithMsgID(id))
		return err
	})
}

func stored(t *testing.T, s *server.Server, anchors string) (n uint64) {
	t.Helper()
	js, done := stream(t, s, anchors)
	defer done()
	untilDone(t, func(ctx context.Context) error {
		st, err := js.Stream(ctx, bus.StreamEvents)
		if err != nil {
			return err
		}
		info, err := st.Info(ctx)
		if err != nil {
			return err
		}
		n = info.State.Msgs
		return nil
	})
	return n
}
