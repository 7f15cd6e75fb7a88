package resident

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DropText takes the program's own code and constants out of this process's
// resident memory. They stay in the kernel's page cache, which all processes of
// the program share, and come back page by page where they are used: most never
// are, for a start touches most of a program. Where it cannot, it does nothing.
// Safe for concurrent use.
func DropText() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }() // only read
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// 00400000-0238e000 r-xp 00000000 00:66 10832417   /weir
		line := lines.Text()
		var from, to uintptr
		var mode string
		if n, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || n != 3 {
			continue
		}
		// What can be written has changed, and could not be read again.
		if !strings.HasSuffix(line, " "+exe) || mode[1] == 'w' {
			continue
		}
		// What is only a saving is not worth an error.
		for _, advice := range []uintptr{unix.MADV_RANDOM, unix.MADV_DONTNEED} {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, advice)
		}
	}
}
