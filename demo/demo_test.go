package demo

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPortInUseNamesFlag(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f := func(flag string, set func(*Options, string)) {
		t.Helper()
		o := Defaults()
		o.Weir, o.Proxy = "weir", "weir-proxy"
		set(&o, taken.Addr().String())
		err := Run(t.Context(), o, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), flag) || !strings.Contains(err.Error(), taken.Addr().String()) {
			t.Errorf("%s at a taken address: %v", flag, err)
		}
	}
	f("--bus-addr", func(o *Options, a string) { o.BusAddr = a })
	f("--grpc-addr", func(o *Options, a string) { o.GRPCAddr = a })
	f("--http-addr", func(o *Options, a string) { o.HTTPAddr = a })
	f("--dashboard-addr", func(o *Options, a string) { o.DashboardAddr = a })
	f("--web-addr", func(o *Options, a string) { o.WebAddr = a })
	f("--port-base", func(o *Options, _ string) { o.PortBase = taken.Addr().(*net.TCPAddr).Port - 3 })
}

func TestBadOptions(t *testing.T) {
	f := func(want string, set func(*Options)) {
		t.Helper()
		o := Defaults()
		set(&o)
		if err := Run(t.Context(), o, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want an error that names %s", err, want)
		}
	}
	f("--rate", func(o *Options) { o.Rate = -1 })
	f("--port-base", func(o *Options) { o.PortBase = 80 })
	f("--port-base", func(o *Options) { o.PortBase = 65530 })
	f("--proxy", func(o *Options) { o.Weir = filepath.Join(t.TempDir(), "weir"); t.Setenv("PATH", t.TempDir()) })
}

func TestTemporaryFoldersOfTheDeadAreSwept(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	live, remove, err := dataDir("")
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(os.TempDir(), tempPattern+"dead")
	if err := os.MkdirAll(filepath.Join(dead, "jetstream"), 0o700); err != nil {
		t.Fatal(err)
	}
	second, removeSecond, err := dataDir("")
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{live: true, second: true, dead: false} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", dir, err == nil, want)
		}
	}
	remove()
	removeSecond()
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKeptFolderStays(t *testing.T) {
	want := filepath.Join(t.TempDir(), "data")
	dir, remove, err := dataDir(want)
	if err != nil {
		t.Fatal(err)
	}
	remove()
	if _, err := os.Stat(want); dir != want || err != nil {
		t.Errorf("%s, %v", dir, err)
	}
}

// script writes an executable shell script.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSupervisor(t *testing.T) {
	said := make(chan string, 100)
	s := newSupervisor(func(format string, args ...any) { said <- strings.TrimSpace(format) }, false)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.forker(ctx) }()
	defer func() { cancel(); <-ended }()

	starts := filepath.Join(t.TempDir(), "starts")
	p := s.start("dying", script(t, "echo x >> "+starts+"\nexit 3\n"))
	deadline := time.After(30 * time.Second)
	for n := 0; n < 2; {
		select {
		case line := <-said:
			if strings.Contains(line, "starting it again") {
				n++
			}
		case <-deadline:
			t.Fatal("a process that dies is not started again")
		}
	}
	p.stop()
	if b, err := os.ReadFile(starts); err != nil || len(b) < 4 {
		t.Errorf("started %d times, %v", len(b)/2, err)
	}

	q := s.start("obedient", script(t, "trap 'exit 0' TERM\nwhile :; do sleep 0.05; done\n"))
	q.stop() // returns: the test's own limit is the bound
}

func TestWelcomeNamesWhatDiffers(t *testing.T) {
	o := Defaults()
	if s := (layout{o}).welcome(); strings.Contains(s, "--api-addr") || !strings.Contains(s, "bin/weir stat deploy -n emojivoto") {
		t.Error(s)
	}
	o.GRPCAddr, o.BusAddr = "127.0.0.1:9", "127.0.0.1:10"
	if s := (layout{o}).welcome(); !strings.Contains(s, "--api-addr 127.0.0.1:9") || !strings.Contains(s, "-s nats://127.0.0.1:10") {
		t.Error(s)
	}
}

func TestCounts(t *testing.T) {
	if got, want := counts(map[int]uint64{500: 2, 200: 7, 0: 1}), "10 requests, no answer: 1, 200: 7, 500: 2"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}
