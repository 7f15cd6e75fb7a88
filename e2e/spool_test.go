package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clients send requests through a proxy that comes and goes.
type clients struct {
	url            string
	sent, answered atomic.Uint64
}

// run sends with so many clients, each one request after another, until the
// function that it returns is called, which waits for them.
func (c *clients) run(n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
			for ctx.Err() == nil {
				c.sent.Add(1)
				resp, err := client.Get(c.url)
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK {
					c.answered.Add(1)
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// spoolingProxy runs a proxy with a spool, and waits until it accepts.
func (m *mesh) spoolingProxy(spool, listen, target string) *exec.Cmd {
	m.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "weir-proxy"), "--inbound", listen+"="+target, "--bus", "nats://"+m.bus,
		"--workload", "emojivoto/deploy/killed", "--pod", "killed-0", "--admin", "off", "--telemetry-spool", spool)
	cmd.Stderr = m.log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	eventually(m.t, 30*time.Second, func() string {
		conn, err := net.Dial("tcp", listen)
		if err != nil {
			return err.Error()
		}
		_ = conn.Close()
		return ""
	})
	return cmd
}

// TestProxyKilled kills a proxy again and again, under load and at rest: what
// clients saw answered is counted, once, and no batch is missing. Under load, a
// client may have its answer some microseconds before the proxy records it: so
// much is left open a kill and client, and nothing at rest.
func TestProxyKilled(t *testing.T) {
	m := startDemo(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer server.Close()
	listen := "127.0.0.1:" + strconv.Itoa(freePorts(t, 1))
	spool := t.TempDir()
	c := &clients{url: "http://" + listen}
	const n, kills = 4, 12
	underLoad := 0
	for i := range kills {
		proxy := m.spoolingProxy(spool, listen, server.Listener.Addr().String())
		stop := c.run(n)
		time.Sleep(time.Duration(50+150*(i%5)) * time.Millisecond)
		if i%2 == 0 {
			underLoad++
		} else {
			stop()
			time.Sleep(20 * time.Millisecond) // recorded, and mostly not published
		}
		_ = proxy.Process.Kill()
		_ = proxy.Wait()
		stop()
	}
	proxy := m.spoolingProxy(spool, listen, server.Listener.Addr().String())
	t.Cleanup(func() { _ = proxy.Process.Kill(); _ = proxy.Wait() })
	answered, sent, open := c.answered.Load(), c.sent.Load(), uint64(underLoad*n)
	eventually(t, 30*time.Second, func() string {
		row := m.stat()["killed"]
		// Connections by which the test looked whether it accepts are no requests.
		if got := row.Requests; got+open < answered || got > min(answered+open, sent) || row.Lost != 0 || row.Shed != 0 {
			return fmt.Sprintf("%d requests counted, %d batches lost, %d events shed; %d were answered, %d sent", got, row.Lost, row.Shed, answered, sent)
		}
		return ""
	})
	time.Sleep(3 * time.Second) // what is counted twice would show by now
	row := m.stat()["killed"]
	if row.Requests > min(answered+open, sent) || row.Lost != 0 {
		t.Errorf("after it had settled: %d requests, %d batches lost; %d were answered", row.Requests, row.Lost, answered)
	}
	t.Logf("%d answered, %d counted, %d kills", answered, row.Requests, kills)
}
