package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// kubelet answers to forwarded ports as the real one does over SPDY: port 80
// echoes lines, any other is refused on the error stream.
func kubelet(t *testing.T) *rest.Config {
	t.Helper()
	var sessions sync.WaitGroup // the server does not wait for connections that changed hands
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sessions.Add(1)
		defer sessions.Done()
		if r.URL.Path != "/api/v1/namespaces/shop/pods/web-1/portforward" || r.Method != http.MethodPost {
			// A WebSocket's upgrade, too: this one knows none.
			http.Error(w, "no such pod", http.StatusNotFound)
			return
		}
		if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
			t.Error(err)
			return
		}
		streams := make(chan httpstream.Stream, 2)
		session := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if session == nil {
			return
		}
		defer func() { _ = session.Close() }()
		var two [2]httpstream.Stream
		for i := range two {
			select {
			case two[i] = <-streams:
			case <-session.CloseChan(): // the client has thought better of it
				return
			}
		}
		failure, data := two[0], two[1]
		if data.Headers().Get(core.PortHeader) != "80" {
			_, _ = fmt.Fprint(failure, "connection refused")
			_ = failure.Close()
			<-session.CloseChan()
			return
		}
		lines := bufio.NewScanner(data)
		for lines.Scan() {
			_, _ = fmt.Fprintln(data, strings.ToUpper(lines.Text()))
		}
		_ = failure.Close()
	}))
	t.Cleanup(sessions.Wait)
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

func TestForwardedConnections(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dial := dialThrough(kubelet(t))
	for range 3 {
		conn, err := dial(ctx, "shop", "web-1", 80)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "HELLO\n" {
			t.Errorf("%q, %v", line, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	// What the pod refuses ends the connection.
	conn, err := dial(ctx, "shop", "web-1", 81)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(conn); err != nil || len(text) > 0 {
		t.Errorf("%q, %v", text, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := dial(ctx, "shop", "web-2", 80); err == nil || !strings.Contains(err.Error(), "port 80 of pod shop/web-2") {
		t.Error(err)
	}
	ended, end := context.WithCancel(ctx)
	end()
	if _, err := dial(ended, "shop", "web-1", 80); err == nil {
		t.Error("a connection for a context that ended")
	}
}
