package ndjson

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxy is a source of batches.
type proxy struct {
	c        *client.Client
	source   event.Source
	instance uint64
	sequence uint64
	sent     int
}

func newProxy(c *client.Client, name string) *proxy {
	return &proxy{c: c, instance: rand.Uint64() | 1, source: event.Source{
		Workload: event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: name}, Pod: name + "-0",
	}}
}

// publish sends a batch of n requests, and sometimes again.
func (p *proxy) publish(t *testing.T, n int, again bool) {
	t.Helper()
	var enc event.Encoder
	for range n {
		enc.Add(&event.Event{
			Direction: event.Inbound, Protocol: event.HTTP1, Method: "GET", Authority: "web", Path: fmt.Sprintf("/%d", p.sent),
			Status: uint16(200 + 300*(p.sent%2)), GRPCStatus: event.NoGRPCStatus, Start: time.Now().UnixMicro(), Connection: 1, Stream: 1,
		})
		p.sent++
	}
	p.sequence++
	data := enc.Encode(nil, &event.Header{
		Source: p.source, Instance: p.instance, Sequence: p.sequence, Produced: uint64(p.sent), Sent: time.Now().UnixMicro(),
	})
	times := 1
	if again {
		times = 2
	}
	for range times {
		// Under another's message id, so that the stream keeps repetitions.
		if err := p.c.Publish(t.Context(), p.source.Workload, rand.Uint64(), p.sequence, data); err != nil {
			t.Fatal(err)
		}
	}
}

// read checks that each line is one event, that none is there twice, and
// returns how many there are of each workload.
func read(t *testing.T, texts ...[]byte) map[string]int {
	t.Helper()
	seen, byName := map[string]bool{}, map[string]int{}
	for _, text := range texts {
		if len(text) > 0 && text[len(text)-1] != '\n' {
			t.Fatalf("the last line is not whole: %q", text[max(0, len(text)-200):])
		}
		for l := range bytes.Lines(text) {
			var e struct {
				Instance        string
				Sequence, Index uint64
				Destination     struct{ Name string }
			}
			if err := json.Unmarshal(l, &e); err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			id := fmt.Sprint(e.Instance, "-", e.Sequence, "-", e.Index)
			if seen[id] {
				t.Fatalf("event %s is there twice", id)
			}
			seen[id] = true
			byName[e.Destination.Name]++
		}
	}
	return byName
}

// readDir is read of all files of a folder, whose size it checks.
func readDir(t *testing.T, dir string, most int64) (byName map[string]int, files int) {
	t.Helper()
	numbers, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	var texts [][]byte
	for _, n := range numbers {
		text, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf(filePattern, n)))
		if err != nil {
			t.Fatal(err)
		}
		if most > 0 && int64(len(text)) > most {
			t.Errorf("file %d has %d bytes; at most %d are allowed", n, len(text), most)
		}
		texts = append(texts, text)
	}
	return read(t, texts...), len(numbers)
}

func quiet(o Options) Options {
	o.Logger = slog.New(slog.DiscardHandler)
	return o
}

// start runs an export; stop ends it as Ctrl-C does.
func start(t *testing.T, o Options) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Run(ctx, quiet(o)); err != nil {
			t.Errorf("the export ends with %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// image copies a folder as a kill would leave it: the cursor of one moment, and
// files that may have grown since, or gone, as what was written after the cursor
// goes when an export begins.
func image(t *testing.T, dir string) (to string) {
	t.Helper()
	to = t.TempDir()
	copied := func(name string) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && name != cursorName {
			return
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copied(cursorName)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "events-") {
			copied(e.Name())
		}
	}
	return to
}

// TestEachEventOnceThroughKills goes on from the image of a killed export, again
// and again, with a torn line at its end.
func TestEachEventOnceThroughKills(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	proxies := []*proxy{newProxy(c, "web"), newProxy(c, "voting"), newProxy(c, "emoji")}
	random := rand.New(rand.NewPCG(3, 4))
	const most = 20_000
	dir := t.TempDir()
	for range 8 {
		stop := start(t, Options{Stream: c, Dir: dir, MaxFileBytes: most, Every: 10 * time.Millisecond})
		for range 30 {
			proxies[random.IntN(3)].publish(t, 1+random.IntN(20), random.IntN(4) == 0)
		}
		at := filepath.Join(dir, cursorName)
		for {
			if _, err := os.Stat(at); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
		next := image(t, dir)
		stop()
		dir = next
		tear(t, dir)
	}
	if err := Run(t.Context(), quiet(Options{Stream: c, Dir: dir, MaxFileBytes: most, Once: true})); err != nil {
		t.Fatal(err)
	}
	got, files := readDir(t, dir, most)
	for _, p := range proxies {
		if name := p.source.Workload.Name; got[name] != p.sent {
			t.Errorf("%s: %d events; want %d", name, got[name], p.sent)
		}
	}
	if files < 10 {
		t.Errorf("%d files", files)
	}
}

// tear adds half a line to the last file, and a file after it.
func tear(t *testing.T, dir string) {
	t.Helper()
	numbers, err := list(dir)
	if err != nil || len(numbers) == 0 {
		return
	}
	last := numbers[len(numbers)-1]
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf(filePattern, last)), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(`{"instance":"00`)
		err = errors.Join(err, f.Close(), os.WriteFile(filepath.Join(dir, fmt.Sprintf(filePattern, last+1)), []byte("{"), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStdoutSinceAndFilters(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	web := newProxy(c, "web")
	web.publish(t, 7, false)
	time.Sleep(20 * time.Millisecond)
	since := time.Now()
	web.publish(t, 5, true)
	export := func(o Options) int {
		t.Helper()
		var out bytes.Buffer
		o.Stream, o.Out, o.Once = c, &out, true
		if err := Run(t.Context(), quiet(o)); err != nil {
			t.Fatal(err)
		}
		return read(t, out.Bytes())["web"]
	}
	if n := export(Options{}); n != 12 {
		t.Errorf("%d events; want 12", n)
	}
	if n := export(Options{Since: since}); n != 5 {
		t.Errorf("%d events since the first batch; want 5", n)
	}
	failures, err := match.Compile(&match.Filter{Status: "5xx"})
	if err != nil {
		t.Fatal(err)
	}
	if n := export(Options{Match: failures}); n != 6 {
		t.Errorf("%d failures; want 6", n)
	}
	cursor := filepath.Join(t.TempDir(), "c")
	if n := export(Options{Cursor: cursor}); n != 12 {
		t.Errorf("%d events; want 12", n)
	}
	web.publish(t, 3, false)
	var last Progress
	if n := export(Options{Cursor: cursor, Progress: func(p Progress) { last = p }}); n != 3 {
		t.Errorf("%d events after the cursor; want 3", n)
	}
	if last.Written != 15 || last.Lag != 0 || last.Counts.Batches != 1 || last.Counts.Lost != 0 {
		t.Errorf("progress is %+v", last)
	}
}

func TestOldFilesGo(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	web := newProxy(c, "web")
	for range 50 {
		web.publish(t, 10, false)
	}
	dir := t.TempDir()
	if err := Run(t.Context(), quiet(Options{Stream: c, Dir: dir, MaxFileBytes: 10_000, MaxFiles: 3, Once: true})); err != nil {
		t.Fatal(err)
	}
	if _, files := readDir(t, dir, 10_000); files != 3 {
		t.Errorf("%d files are left; want 3", files)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	web := newProxy(c, "web")
	web.publish(t, 10, false)
	f := func(o Options, want string) {
		t.Helper()
		o.Stream, o.Once = c, true
		if err := Run(t.Context(), quiet(o)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	f(Options{}, "either a folder or a writer")
	f(Options{Dir: "x", Out: io.Discard}, "either a folder or a writer")

	dir := t.TempDir()
	stop := start(t, Options{Stream: c, Dir: dir, Every: 10 * time.Millisecond})
	for {
		info, err := os.Stat(filepath.Join(dir, fmt.Sprintf(filePattern, 1)))
		if err == nil && info.Size() > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	f(Options{Dir: dir}, "another export is running")
	stop()
	if got, _ := readDir(t, dir, 0); got["web"] != 10 {
		t.Errorf("Ctrl-C leaves %d of 10 events", got["web"])
	}
	f(Options{Dir: dir, Cursor: filepath.Join(t.TempDir(), "other")}, "there is no cursor")
	if err := os.Truncate(filepath.Join(dir, fmt.Sprintf(filePattern, 1)), 10); err != nil {
		t.Fatal(err)
	}
	f(Options{Dir: dir}, "the cursor says that")
	if err := os.WriteFile(filepath.Join(dir, cursorName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(Options{Dir: dir}, "version 0")
	f(Options{Out: broken{}}, "no room")
}

// broken is a full disk.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no room") }
