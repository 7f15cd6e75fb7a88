package telemetry_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/telemetry"
)

const (
	childEnv = "WEIR_TEST_SPOOL_CHILD"
	workers  = 3
)

// stored is a sink that keeps batches as files, as the stream does: once each,
// whoever asks. Another content under the same number is an error that the test
// sees.
type stored struct {
	dir  string
	mode string
}

func (s *stored) Publish(_ context.Context, _ event.Workload, instance, sequence uint64, batch []byte) error {
	switch {
	case s.mode == "away":
		return errAway
	case s.mode == "flaky" && rand.IntN(3) == 0:
		return errAway
	}
	path := filepath.Join(s.dir, fmt.Sprintf("%016x-%08d", instance, sequence))
	if old, err := os.ReadFile(path); err == nil {
		if !bytes.Equal(old, batch) {
			return os.WriteFile(path+"-changed", batch, 0o600)
		}
	} else if err := os.WriteFile(path+".part", batch, 0o600); err != nil {
		return err
	} else if err := os.Rename(path+".part", path); err != nil {
		return err
	}
	if s.mode == "flaky" && rand.IntN(3) == 0 {
		return errAway // stored, and the answer is lost
	}
	return nil
}

func (s *stored) WatchTap(context.Context, event.Workload, func()) error { return nil }

// TestSpoolChild is no test: it is the process that the tests below kill. It
// records and notes, after each event, how many it has recorded.
func TestSpoolChild(t *testing.T) {
	dir, mode, _ := strings.Cut(os.Getenv(childEnv), ":")
	if dir == "" {
		return
	}
	p, err := telemetry.New(telemetry.Options{
		Source: event.Source{Workload: web, Pod: "web-0"}, Sink: &stored{filepath.Join(dir, "stream"), mode},
		Spool: filepath.Join(dir, "spool"), FlushEvery: 10 * time.Millisecond, RetainBytes: 16 << 10, MaxEvents: 300, Shards: 2,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Start()
	if mode == "last" {
		if err := closeIn(t, p, time.Minute); err != nil {
			t.Fatal(err)
		}
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		notes, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("notes-%d-%d", w, os.Getpid())), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := 1; ; i++ {
				e := request(i)
				e.TraceID[15] = byte(i % 2)
				e.Peer.Workload.Name = fmt.Sprintf("peer-%d", i%3)
				e.Start = time.Now().UnixMicro()
				p.Record(e)
				if _, err := notes.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(i)), 0); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
}

// child runs one, and kills it after a while, but for the last one.
func child(t *testing.T, dir, mode string, after time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestSpoolChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+dir+":"+mode)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if mode == "last" {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		return out.String()
	}
	// Not before it records.
	eventually(t, "notes", func() bool {
		noted, _ := filepath.Glob(filepath.Join(dir, fmt.Sprintf("notes-*-%d", cmd.Process.Pid)))
		return len(noted) == workers
	})
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return out.String()
}

// noted adds up what all children recorded for sure.
func noted(t *testing.T, dir string) (events uint64, slack int) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "notes-*"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil {
			t.Fatal(err)
		} else if len(b) == 8 {
			events += binary.LittleEndian.Uint64(b)
		}
	}
	return events, len(files)
}

// streamed reads all that was published, and checks that no instance has a gap.
func streamed(t *testing.T, dir string) (events, summed uint64, instances int) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(dir, "stream"))
	if err != nil {
		t.Fatal(err)
	}
	var d event.Decoder
	last := event.Header{Final: true}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, "stream", f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(f.Name(), "part") {
			continue // killed while it was being stored
		}
		if strings.Contains(f.Name(), "changed") {
			t.Fatalf("%s: published with another content", f.Name())
		}
		if err := d.Reset(data); err != nil {
			t.Fatal(err)
		}
		h := *d.Header()
		if h.Instance != last.Instance {
			instances++
			if !last.Final {
				t.Errorf("instance %x ends with %d, which is not final", last.Instance, last.Sequence)
			}
			last = event.Header{Instance: h.Instance}
		}
		if h.Sequence != last.Sequence+1 {
			t.Fatalf("instance %x: %d follows %d", h.Instance, h.Sequence, last.Sequence)
		}
		var s event.Summary
		sums := uint64(0)
		for d.NextSummary(&s) {
			sums += s.Events
		}
		if h.Produced != last.Produced+uint64(d.Len())+sums || h.Shed != last.Shed+sums {
			t.Fatalf("instance %x, %d: produced %d, shed %d after %d, %d", h.Instance, h.Sequence, h.Produced, h.Shed, last.Produced, last.Shed)
		}
		events += uint64(d.Len()) + sums
		summed += sums
		last = h
	}
	return events, summed, instances
}

// TestKilled kills a process that records, again and again, while its bus is
// there, answers badly, or is away: each event that Record returned from is
// published once.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "stream"), 0o700); err != nil {
		t.Fatal(err)
	}
	modes := []string{"good", "flaky", "away", "good", "flaky", "flaky", "away", "away", "good"}
	for i, mode := range modes {
		child(t, dir, mode, time.Duration(5+37*i)*time.Millisecond)
	}
	child(t, dir, "last", 0)
	want, slack := noted(t, dir)
	got, summed, instances := streamed(t, dir)
	if got < want || got > want+uint64(slack) {
		t.Errorf("%d events published, %d to %d recorded", got, want, want+uint64(slack))
	}
	if summed == 0 || summed == got {
		t.Errorf("%d of %d events are told as sums", summed, got)
	}
	if instances != len(modes)+1 {
		t.Errorf("%d instances published, %d ran", instances, len(modes)+1)
	}
	left, _ := os.ReadDir(filepath.Join(dir, "spool"))
	for _, f := range left {
		if f.Name() != "lock" {
			t.Errorf("%s is left in the spool", f.Name())
		}
	}
	t.Logf("%d events recorded by %d processes, %d of them told as sums", got, instances, summed)
}

// spooled is a Pipeline whose bus is away, with so many events recorded; it is
// left as a kill leaves it, and its directory given back.
func spooled(t *testing.T, n int) string {
	t.Helper()
	o := options(&sink{before: func(uint64) error { return errAway }})
	o.Spool, o.Shards, o.FlushEvery = t.TempDir(), 1, time.Hour
	p := start(o)
	eventually(t, "the first batch", func() bool { return p.Stats().Sealed == 1 })
	for i := range n {
		p.Record(request(i))
	}
	at := t.TempDir()
	if err := os.CopyFS(at, os.DirFS(o.Spool)); err != nil {
		t.Fatal(err)
	}
	_ = closeIn(t, p, time.Millisecond)
	return at
}

// recovered starts and ends a Pipeline on a directory.
func recovered(t *testing.T, dir string) (totals, telemetry.Stats) {
	t.Helper()
	s := &sink{}
	p := start(withSpool(s, dir))
	mustClose(t, p)
	return s.readAll(t), p.Stats()
}

func withSpool(s telemetry.Sink, dir string) telemetry.Options {
	o := options(s)
	o.Spool, o.Shards = dir, 1
	return o
}

// TestDamagedSpool: whatever is in a file, what is good is published, and what
// is not is counted and named.
func TestDamagedSpool(t *testing.T) {
	f := func(name, pattern string, damage func([]byte) []byte, least, most uint64, refused bool) {
		t.Run(name, func(t *testing.T) {
			dir := spooled(t, 1000)
			if pattern != "" {
				files, _ := filepath.Glob(filepath.Join(dir, pattern))
				if len(files) == 0 {
					t.Fatal("no such file")
				}
				for _, file := range files {
					b, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(file, damage(b), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, st := recovered(t, dir)
			if got.events < least || got.events > most {
				t.Errorf("%d events, want %d to %d", got.events, least, most)
			}
			if refused != (st.SpoolErrors > 0) {
				t.Errorf("%d errors", st.SpoolErrors)
			}
			kept, _ := filepath.Glob(filepath.Join(dir, "*.refused"))
			if refused != (len(kept) > 0) {
				t.Errorf("put aside: %v", kept)
			}
		})
	}
	same := func(b []byte) []byte { return b }
	zeros := func(b []byte) []byte { clear(b); return b }
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[min(at, len(b)-1)] ^= 4; return b }
	}
	f("nothing", "", same, 1000, 1000, false)
	f("half written", "*.journal", func(b []byte) []byte {
		// The last record is there, and not committed.
		at := binary.LittleEndian.Uint64(b[16:])
		if at > 64 {
			b[at+6] = 7
		}
		return b
	}, 1000, 1000, false)
	f("a record in the middle", "*.0.journal", flip(9000), 1, 999, true)
	f("its end", "*.0.journal", func(b []byte) []byte { return b[:9000] }, 0, 0, true)
	f("its head", "*.0.journal", zeros, 0, 0, true)
	f("another generation", "*.0.journal", flip(8), 0, 0, true)
	f("no journal", "*.0.journal", func([]byte) []byte { return nil }, 0, 0, true)
	f("the state", "*.state", zeros, 1000, 1000, true)
	f("a batch", "*.batch", flip(60), 1000, 1000, true)
	f("the rest of a write", "*.batch", func(b []byte) []byte { return b[:20] }, 1000, 1000, true)
}

// TestSpoolIsOnes: a directory has one user at a time.
func TestSpoolIsOnes(t *testing.T) {
	dir := t.TempDir()
	p := start(withSpool(&sink{}, dir))
	if _, err := telemetry.New(withSpool(&sink{}, dir)); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second one: %v", err)
	}
	mustClose(t, p)
	q, err := telemetry.New(withSpool(&sink{}, dir))
	if err != nil {
		t.Fatal(err)
	}
	q.Discard()
	if _, err := telemetry.New(withSpool(&sink{}, filepath.Join(dir, "lock"))); !errors.Is(err, fs.ErrExist) && err == nil {
		t.Errorf("a file: %v", err)
	}
}
