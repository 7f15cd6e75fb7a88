package measure

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what the figures depend on most, in words.
type Machine struct {
	// CPU is how many cores of what there are, Kernel the kernel's version, and
	// Load the load averages of 1, 5 and 15 minutes before the run.
	CPU, Kernel, Load string
}

// Quiet says in a sentence whether the machine had other work when the run
// began: a load average above 1.
func (m Machine) Quiet() string {
	first, _, _ := strings.Cut(m.Load, " ")
	if load, err := strconv.ParseFloat(first, 64); err == nil && load <= 1 {
		return "The machine had nothing else to do."
	}
	return "**The machine had other work: figures by the clock are worse than on a quiet one, those by CPU time somewhat.**"
}

// DescribeMachine looks at the machine before any load.
func DescribeMachine() Machine {
	m := Machine{CPU: "unknown CPU", Kernel: "unknown kernel", Load: "unknown"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	m.CPU = fmt.Sprintf("%s of %s (%s)", Plural(runtime.NumCPU(), "core"), m.CPU, runtime.GOARCH)
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.Kernel = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 2 {
			m.Load = strings.Join(fields[:3], " ")
		}
	}
	return m
}

// FirstLine is the beginning of what a program says of its version, given ten
// seconds; or that it is unknown.
func FirstLine(ctx context.Context, argv ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Its exit code says nothing: wrk has none for this.
	out, _ := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	for _, noise := range []string{" - http", " [", " Copyright"} {
		line, _, _ = strings.Cut(line, noise)
	}
	if line == "" {
		return filepath.Base(argv[0]) + " of unknown version"
	}
	return line
}
