package listen_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/listen"
)

// fewFiles tells a copy of the test program to be a proxy with few open files,
// before the server whose address it holds.
const fewFiles = "WEIR_TEST_FEW_FILES"

// TestFewFilesProxy is the copy: it serves until its stdin ends.
func TestFewFilesProxy(t *testing.T) {
	target := os.Getenv(fewFiles)
	if target == "" {
		t.Log("runs as a child of TestTooManyOpenFiles")
		return
	}
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Inbound, Target: target})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening on", n.addr)
	eventually(t, "a connection that is not accepted", func() bool { return n.group.Stats().AcceptErrors > 0 })
	fmt.Println("out of files")
	_, _ = io.Copy(io.Discard, os.Stdin)
	fmt.Println("accept errors", n.group.Stats().AcceptErrors)
}

// When there are no more files, accepting pauses; nobody is harmed for good.
func TestTooManyOpenFiles(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestFewFilesProxy$", "-test.timeout", "2m")
	cmd.Env = append(os.Environ(), fewFiles+"="+server(t, echo))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	addr := waitLine(lines, "listening on ")
	var conns []net.Conn
	for range 100 {
		conns = append(conns, dial(t, addr))
	}
	waitLine(lines, "out of files")
	for _, c := range conns {
		_ = c.Close()
	}
	const message = "GET / HTTP/1.1\r\n\r\n"
	for range 3 {
		// Those that were closed take some time to be noticed.
		eventually(t, "a connection that is served", func() bool {
			c := dial(t, addr)
			defer c.Close()
			got := make([]byte, len(message))
			_, _ = io.WriteString(c, message)
			_, err := io.ReadFull(c, got)
			return err == nil && string(got) == message
		})
	}
	_ = stdin.Close()
	if got := waitLine(lines, "accept errors "); got == "0" || got == "" {
		t.Fatalf("%q accept errors: it never ran out", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// waitLine returns what follows prefix in the first line that has it.
func waitLine(lines *bufio.Scanner, prefix string) string {
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			return rest
		}
	}
	return ""
}
