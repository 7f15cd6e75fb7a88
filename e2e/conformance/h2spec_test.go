package conformance

import (
	"context"
	"encoding/xml"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// report is what h2spec says of its cases, by section and description: "" for
// a case that passed, else what went wrong.
type report map[string]string

// h2spec runs every case against address, or those of the sections. A case may
// wait so many seconds for what it wants to see.
func h2spec(t *testing.T, address string, seconds int, sections ...string) report {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.xml")
	args := append([]string{"--host", host, "--port", port, "--timeout", strconv.Itoa(seconds), "--junit-report", file}, sections...)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	// It fails where a case does; the report tells.
	out, runErr := exec.CommandContext(ctx, tool(t, "h2spec"), args...).CombinedOutput()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("h2spec left no report: %v, %v\n%s", runErr, err, out)
	}
	var all struct {
		Suites []struct {
			Cases []struct {
				Package string `xml:"package,attr"`
				Name    string `xml:"classname,attr"`
				Failure string `xml:"failure"`
				Error   string `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	r := report{}
	for _, s := range all.Suites {
		for _, c := range s.Cases {
			r[c.Package+" "+c.Name] = strings.TrimSpace(c.Failure + c.Error)
		}
	}
	return r
}

// failed names the cases of r that failed.
func (r report) failed() []string {
	var names []string
	for name, problem := range r {
		if problem != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// goServer is Go's own HTTP/2 server, without TLS.
func goServer(t *testing.T) string {
	t.Helper()
	ln := listenLocal(t)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: &protocols, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// First all of the request: what is wrong with its end would else be
		// found before the answer or after it, by chance.
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write([]byte("hello\n"))
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return ln.Addr().String()
}

// nghttpd is nghttp2's server, without TLS.
func nghttpd(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddr(t)
	host, port, _ := net.SplitHostPort(address)
	start(t, program(t, "nghttpd"), "--no-tls", "--address="+host, "--htdocs="+dir, port)
	eventually(t, func() string {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err.Error()
		}
		_ = conn.Close()
		return ""
	})
	return address
}

// TestH2spec holds HTTP/2 through a proxy against the same server without one:
// no case may fail that the server alone passes, neither through the side that
// relays nor through the one that ends HTTP/2 and balances its requests.
func TestH2spec(t *testing.T) {
	for _, s := range []struct {
		name  string
		start func(*testing.T) string
	}{{"net-http", goServer}, {"nghttpd", nghttpd}} {
		t.Run(s.name, func(t *testing.T) {
			server := s.start(t)
			alone := h2spec(t, server, 2)
			t.Run("inbound", func(t *testing.T) {
				noWorse(t, startProxy(t, "inbound", server), alone)
			})
			t.Run("outbound", func(t *testing.T) {
				noWorse(t, startProxy(t, "outbound", server+",balance"), alone)
			})
		})
	}
}

// noWorse runs every case through p, of which none may fail that does not fail
// without it.
func noWorse(t *testing.T, p *proxy, alone report) {
	t.Helper()
	through := h2spec(t, p.addr, 2)
	if len(alone) < 100 || len(through) != len(alone) {
		t.Fatalf("%d cases through the proxy, %d without: want more than 100 of both", len(through), len(alone))
	}
	t.Logf("%d cases; fail without the proxy: %q; fail through it: %q", len(alone), alone.failed(), through.failed())
	for _, name := range through.failed() {
		if alone[name] != "" {
			continue
		}
		// On a busy machine an answer may take long.
		section, _, _ := strings.Cut(name, " ")
		if problem := h2spec(t, p.addr, 15, section)[name]; problem != "" {
			t.Errorf("fails through the proxy alone: %s\n%s", name, problem)
		}
	}
}
