package conformance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// curlShapes are command lines; URL is the server, FILE a file of 16 MiB.
var curlShapes = []string{
	"URL/",
	"-0 URL/",
	"-0 -H Connection:keep-alive URL/ URL/",
	"URL/ URL/a URL/b?c=d",
	"-H Connection:close URL/ URL/",
	"-I URL/", "-I URL/file", "-I URL/chunked", "-I URL/close", "-I URL/ URL/",
	"URL/204 URL/", "URL/304 URL/", "-X DELETE URL/204", "URL/401 URL/500",
	"URL/chunked", "--raw URL/chunked", "-0 URL/chunked", "--raw URL/extension", "URL/extension",
	"-d name=value URL/ URL/", "--data-binary @FILE URL/", "-T FILE URL/put", "--json {} URL/json",
	"-H Transfer-Encoding:chunked --data-binary @FILE URL/ URL/",
	"-0 -d name=value URL/",
	"-H Expect:100-continue -d name=value URL/", "-H Expect:100-continue --data-binary @FILE URL/",
	"-H Expect:100-continue --expect100-timeout 30 -d name=value URL/417",
	"URL/103 URL/", "--raw URL/103",
	"URL/close URL/", "-0 URL/close", "URL/1.0", "URL/1.0-length URL/", "URL/no-reason",
	"URL/file", "-r 5-99 URL/file", "-C 1000 URL/file", "-z 2020-01-01 URL/file", "--limit-rate 40M URL/file",
	"URL/large-head",
	"-L URL/redirect", "URL/redirect",
	"-X OPTIONS --request-target * URL/", "-X PATCH -d x URL/", "-X PROPFIND URL/", "-X TRACE URL/",
	"--path-as-is URL/a/../b//c?d=%00%zz&e=[]", "-g URL/%E2%82%AC?a=b;c=d#fragment",
	"-H Cookie:a=b;c=d -H X-Empty; -A agent -e referer -u user:password URL/",
	"--compressed URL/", "-H X-Twice:1 -H X-Twice:2 -H x-lower:3 URL/",
	"-H Upgrade:h2c -H Connection:Upgrade URL/",
	"-H Keep-Alive:timeout=5 -H TE:trailers URL/",
	"URL/cut", "URL/cut-chunked", "URL/none", "-m 3 URL/lengthy-head",
	"-I URL/lengthy-head",
	"-x URL http://origin.test/absolute?form=1", "-x URL -d body http://origin.test/absolute",
	"-p -x URL ORIGIN/through-a-tunnel", "-p -x URL ORIGIN/ ORIGIN/again", "-p -x URL http://127.0.0.1:1/nobody",
}

// TestCurl holds curl over every shape of HTTP/1 through two proxies against
// curl without them: the same bytes, the same end.
func TestCurl(t *testing.T) {
	curl := program(t, "curl")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, large, 0o600); err != nil {
		t.Fatal(err)
	}
	server := shapesServer(t)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		echo(w, r)
	}))
	defer origin.Close()
	out, in := pair(t, server)
	expand := strings.NewReplacer("FILE", file, "ORIGIN", origin.URL)
	for _, shape := range curlShapes {
		t.Run(shape, func(t *testing.T) {
			direct := runCurl(t, curl, server, expand.Replace(shape))
			through := runCurl(t, curl, out.addr, expand.Replace(shape))
			if direct != through {
				t.Errorf("without proxies:\n%s\nthrough them:\n%s", direct, through)
			}
		})
	}
	for _, p := range []*proxy{out, in} {
		if n := p.metric(`weir_proxy_detections_total{detection="bytes",protocol="http/1"}`) +
			p.metric(`weir_proxy_detections_total{detection="hello",protocol="http/1"}`); n < float64(len(curlShapes)/2) {
			t.Errorf("only %v connections passed as HTTP/1:\n%s", n, p.metrics())
		}
	}
}

// runCurl returns what curl printed, large bodies cut, and how it ended.
func runCurl(t *testing.T, curl, address, shape string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// The same name in the URL, wherever the server is.
	args := []string{"-s", "-i", "-m", "50", "--connect-to", "app.test:80:" + address,
		"-w", "\\n[%{http_code} %{http_version} down %{size_download} up %{size_upload} connections %{num_connects}]\\n"}
	for _, word := range strings.Fields(shape) {
		if word == "URL" { // a proxy in curl's sense
			word = "http://" + address
		}
		args = append(args, strings.ReplaceAll(word, "URL", "http://app.test"))
	}
	said, err := exec.CommandContext(ctx, curl, args...).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if len(said) > 64<<10 {
		said = append(bytes.Clone(said[:2<<10]), fmt.Sprintf("… %d bytes …%s", len(said), said[len(said)-300:])...)
	}
	return fmt.Sprintf("%s%v", said, err)
}

// TestTrailersAndPipelines sends what curl cannot: trailers of a request, an
// informational answer that is waited for, and several requests at once.
func TestTrailersAndPipelines(t *testing.T) {
	server := shapesServer(t)
	out, _ := pair(t, server)
	chunked := "POST /t HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5;ext=1\r\nhello\r\n0\r\nSum: 5\r\n\r\n"
	get := "GET /%d HTTP/1.1\r\nHost: app.test\r\n\r\n"
	for name, shape := range map[string]string{
		"trailers":          chunked + "GET /last HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n",
		"pipeline":          strings.Repeat(fmt.Sprintf(get, 1)+chunked+"HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n", 20) + "GET /last HTTP/1.0\r\n\r\n",
		"1.0 without Host":  "GET / HTTP/1.0\r\n\r\n",
		"half-closed":       "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello",
		"empty line before": "\r\nGET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			direct, through := exchangeRaw(t, server, shape), exchangeRaw(t, out.addr, shape)
			if direct != through || direct == "" {
				t.Errorf("without proxies:\n%s\nthrough them:\n%s", direct, through)
			}
		})
	}
}

// exchangeRaw sends bytes, says that no more come, and returns all that comes
// back.
func exchangeRaw(t *testing.T, address, send string) string {
	t.Helper()
	conn := dial(t, address)
	if _, err := io.WriteString(conn, send); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("after %q: %v", answer, err)
	}
	return string(answer)
}

// TestContinue waits for 100 Continue before it sends the body.
func TestContinue(t *testing.T) {
	out, _ := pair(t, shapesServer(t))
	conn := dial(t, out.addr)
	reader := bufio.NewReader(conn)
	for range 3 {
		fmt.Fprint(conn, "POST /c HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		for _, want := range []string{"HTTP/1.1 100 Continue\r\n", "\r\n"} {
			if line, err := reader.ReadString('\n'); err != nil || line != want {
				t.Fatalf("got %q, %v; want %q", line, err, want)
			}
		}
		fmt.Fprint(conn, "hello")
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), "body of 5 ") {
			t.Fatalf("got %s, %v", body, err)
		}
	}
}

// TestWebSocket echoes messages of all sizes through two proxies.
func TestWebSocket(t *testing.T) {
	server := httptest.NewServer(websocket.Handler(func(ws *websocket.Conn) {
		for {
			var message []byte
			if websocket.Message.Receive(ws, &message) != nil || websocket.Message.Send(ws, message) != nil {
				return
			}
		}
	}))
	defer server.Close()
	out, _ := pair(t, server.Listener.Addr().String())
	for range 3 {
		config, err := websocket.NewConfig("ws://"+out.addr+"/echo", "http://app.test/")
		if err != nil {
			t.Fatal(err)
		}
		config.Dialer = &net.Dialer{Timeout: patience}
		ws, err := websocket.DialConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		_ = ws.SetDeadline(time.Now().Add(patience))
		for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
			var got []byte
			if err := websocket.Message.Send(ws, large[:size]); err != nil {
				t.Fatal(err)
			}
			if err := websocket.Message.Receive(ws, &got); err != nil || !bytes.Equal(got, large[:size]) {
				t.Fatalf("a message of %d came back as %d bytes, %v", size, len(got), err)
			}
		}
		_ = ws.Close()
	}
}
