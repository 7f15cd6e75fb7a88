//go:build linux

package resident_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/weirmesh/weir/resident"
)

// filePages is RssFile of this process in KiB.
func filePages(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDropText(t *testing.T) {
	before := filePages(t)
	resident.DropText()
	after := filePages(t)
	if after >= before {
		t.Errorf("%d KiB of the program are resident, %d KiB before", after, before)
	}
	t.Logf("%d KiB, before %d KiB", after, before)
}

func TestKeepEnds(t *testing.T) {
	stop := resident.Keep()
	stop() // waits: one that does not end hangs here
}
