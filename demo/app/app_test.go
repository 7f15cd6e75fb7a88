package app

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	pb "github.com/weirmesh/weir/demo/app/emojipb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// start serves the whole application without a mesh and returns its URL.
func start(t *testing.T) string {
	t.Helper()
	serve := func(register func(*grpc.Server)) grpc.ClientConnInterface {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(ln) }()
		t.Cleanup(func() { s.Stop(); <-done })
		cc, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cc.Close() })
		return cc
	}
	emoji := serve(func(s *grpc.Server) { pb.RegisterEmojiServiceServer(s, &Emoji{}) })
	voting := serve(func(s *grpc.Server) { pb.RegisterVotingServiceServer(s, &Voting{}) })
	web := httptest.NewServer(NewWeb(emoji, voting))
	t.Cleanup(web.Close)
	return web.URL
}

func TestEveryVoteButOneSucceeds(t *testing.T) {
	base := start(t)
	f := func(path string, status int, body string) {
		t.Helper()
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || !strings.Contains(string(got), body) {
			t.Errorf("%s: %d %q, %v; want %d with %q", path, resp.StatusCode, got, err, status, body)
		}
	}
	for _, c := range catalog() {
		path := "/api/vote?choice=" + url.QueryEscape(c.shortcode)
		if c.shortcode == failing {
			f(path, 500, "eaten")
			continue
		}
		f(path, 200, `"votes":1`)
		f(path, 200, `"votes":2`)
	}
	f("/api/vote?choice=:none:", 404, ":none:")
	f("/api/list", 200, ":doughnut:")
	f("/api/leaderboard", 200, `"votes":2`)
	f("/", 200, "<h1>Emoji vote</h1>")
	f("/nothing", 404, "")
}

func TestBotCountsWhatItSent(t *testing.T) {
	served := make(chan string, 10_000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served <- r.Host
		if strings.Contains(r.URL.RawQuery, "doughnut") {
			w.WriteHeader(500)
		}
	}))
	defer s.Close()
	b := &Bot{URL: "http://web.example", Dial: s.Listener.Addr().String(), Rate: 500}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	for range 200 {
		select {
		case host := <-served:
			if host != "web.example" {
				t.Errorf("host %q", host)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the bot does not vote")
		}
	}
	cancel()
	<-done
	var total uint64
	for status, n := range b.Counts() {
		if status != 200 && status != 500 {
			t.Errorf("%d requests ended with %d", n, status)
		}
		total += n
	}
	if want := uint64(200 + len(served)); total != want {
		t.Errorf("the bot counted %d requests, the server %d", total, want)
	}
}
