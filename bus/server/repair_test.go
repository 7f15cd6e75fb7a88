package server_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/server"
)

// smallDisk is the path of a file system of 32 MiB, which only an open file holds.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("a disk of its own takes root")
		}
		t.Skip("NOT TESTED: a disk of its own takes root")
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetString(fs, "size", "32m"); err != nil {
		t.Fatal(err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(mount) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), mount)
}

// TestFullDisk: what cannot be stored is refused, what was stored is kept, and
// when there is room again, the same server stores again.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t)
	s, err := server.Start(t.Context(), server.Options{Listen: "127.0.0.1:0", DataDir: disk + "/data"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	nc, err := nats.Connect(s.URL(), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stored, tried := 0, 0
	// publish tells whether one more message was stored. Where it was not,
	// nats-server gives no answer.
	publish := func(patience time.Duration) bool {
		tried++
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := js.Publish(ctx, "weir.v1.events.c.n.deploy.w", []byte(strings.Repeat("x", 8000)), jetstream.WithRetryAttempts(0))
		if err == nil {
			stored++
		}
		return err == nil
	}
	for range 2 {
		if !publish(time.Minute) {
			t.Fatal("a message is not stored although there is room")
		}
		ballast, err := os.Create(disk + "/ballast")
		if err != nil {
			t.Fatal(err)
		}
		for block := make([]byte, 1<<20); len(block) > 0; {
			if _, err := ballast.Write(block); err != nil {
				block = block[:len(block)/2]
			}
		}
		for deadline := time.Now().Add(time.Minute); publish(2*time.Second) || s.Ready() == nil; {
			if time.Now().After(deadline) {
				t.Fatalf("a full disk takes messages, or a server whose disk is full is ready: %v", s.Ready())
			}
		}
		if err := ballast.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(ballast.Name()); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); !publish(2 * time.Second); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nothing is stored although there is room again")
			}
		}
	}
	stream, err := js.Stream(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n < uint64(stored) || n > uint64(tried) {
		t.Errorf("the stream has %d messages; of %d, %d were acknowledged", n, tried, stored)
	}
	if err := s.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}
