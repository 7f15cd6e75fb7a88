package measure

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc: USER_HZ, 100 on every
// architecture that Go knows.
const clockTick = 10 * time.Millisecond

// CPUTime is the user and system time of the processes and of all below them.
func CPUTime(procs []*Process) (time.Duration, error) {
	var sum time.Duration
	err := eachPID(procs, func(pid int) error {
		fields, err := statFields(pid)
		if err != nil {
			return err
		}
		user, err1 := strconv.ParseInt(fields[11], 10, 64)
		system, err2 := strconv.ParseInt(fields[12], 10, 64)
		sum += time.Duration(user+system) * clockTick
		return errors.Join(err1, err2)
	})
	return sum, err
}

// Resident is the resident memory of the processes and of all below them, in
// bytes: the sum of each one's VmRSS.
func Resident(procs []*Process) (uint64, error) {
	var sum uint64
	err := eachPID(procs, func(pid int) error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		for line := range bytes.Lines(status) {
			if value, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
				kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(string(value)), " kB"), 10, 64)
				sum += kib << 10
				return err
			}
		}
		return fmt.Errorf("/proc/%d/status has no VmRSS", pid)
	})
	return sum, err
}

// eachPID calls fn for each of the processes and for each process below one.
func eachPID(procs []*Process, fn func(pid int) error) error {
	if len(procs) == 0 {
		return nil
	}
	children, err := childProcesses()
	if err != nil {
		return err
	}
	var pids []int
	for _, p := range procs {
		pids = append(pids, p.cmd.Process.Pid)
	}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
		if err := fn(pids[i]); err != nil {
			return err
		}
	}
	return nil
}

// childProcesses maps each process to those that it started.
func childProcesses() (map[int][]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		fields, err := statFields(pid)
		if err != nil {
			continue // It ended meanwhile.
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("cannot read %s/stat: %w", dir, err)
		}
		children[parent] = append(children[parent], pid)
	}
	return children, nil
}

// statFields is /proc/PID/stat from the third field on, the state.
func statFields(pid int) ([]string, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	stat, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	// The second field is a name in brackets, which may hold anything.
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return nil, fmt.Errorf("%s has only %d fields", name, len(fields))
	}
	return fields, nil
}
