package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// freeAddress is one that nobody listens on at this moment, with a port that the
// system gives to nobody.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 5_000+rand.IntN(5_000)))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no free port")
	return ""
}

// start runs a workload until the test ends, which waits for it.
func start(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, append(args, "--drain-delay=0s"), io.Discard) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
	})
}

func TestWorkloadsMakeTheApplication(t *testing.T) {
	emoji, voting, web := freeAddress(t), freeAddress(t), freeAddress(t)
	start(t, "emoji", "--listen", emoji)
	start(t, "voting", "--listen", voting)
	start(t, "web", "--listen", web, "--emoji", emoji, "--voting", voting)
	start(t, "vote-bot", "--web", "http://"+web, "--rate", "50")

	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + web + "/api/leaderboard")
		if err != nil {
			last = err.Error()
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		last = fmt.Sprint(resp.Status, string(body), err)
		if resp.StatusCode == http.StatusOK && strings.Contains(string(body), "votes") {
			return // the bot's votes came through all three
		}
	}
	t.Fatalf("no votes on the leaderboard: %s", last)
}

func TestWrongUsageSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "which workload"},
		{[]string{"wab"}, `"wab"`},
		{[]string{"web", "--emojis", "x"}, "emojis"},
		{[]string{"web", "x"}, `"x"`},
	} {
		err := run(t.Context(), c.args, io.Discard)
		if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
}
