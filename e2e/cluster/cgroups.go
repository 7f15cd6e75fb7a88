package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A hierarchy is a mounted tree of cgroups.
type hierarchy struct {
	dir string
	v2  bool
}

// hierarchies lists the host's.
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find the cgroup hierarchies: %w", err)
	}
	defer f.Close()
	var all []hierarchy
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 /root /mount/point options … - type source options
		mount, kind, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		kind, _, _ = strings.Cut(kind, " ")
		if !ok || len(fields) < 5 || !strings.HasPrefix(kind, "cgroup") {
			continue
		}
		all = append(all, hierarchy{dir: fields[4], v2: kind == "cgroup2"})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot find the cgroup hierarchies: %w", err)
	}
	if len(all) == 0 {
		return nil, errors.New("cannot find the cgroup hierarchies: none is mounted")
	}
	return all, nil
}

// makeCgroups makes the cluster's folder in every hierarchy.
func makeCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	unified := !slices.ContainsFunc(all, func(h hierarchy) bool { return !h.v2 })
	for _, h := range all {
		if h.v2 && !unified {
			continue // no controllers there: version 1 has them
		}
		if h.v2 {
			// Refused where this is not the root and has processes: the kubelet
			// then says which controller it misses.
			_ = os.WriteFile(filepath.Join(h.dir, "cgroup.subtree_control"), []byte("+cpuset +cpu +io +memory +pids"), 0)
		}
		dir := filepath.Join(h.dir, cgroup(name))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make the cluster's cgroups: %w", err)
		}
		if h.v2 {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpuset +cpu +io +memory +pids"), 0); err != nil {
				return fmt.Errorf("cannot give the cluster's cgroup its controllers: %w", err)
			}
			continue
		}
		// In version 1 a new cpuset is empty, and takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(h.dir, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0)
			}
			if err != nil {
				return fmt.Errorf("cannot fill the cluster's cpuset: %w", err)
			}
		}
	}
	return nil
}

// removeCgroups removes the cluster's folders with all below them. Those whose last
// process is just ending take a moment.
func removeCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var left error
	for range 100 {
		left = nil
		for _, h := range all {
			left = errors.Join(left, removeTree(filepath.Join(h.dir, cgroup(name))))
		}
		if left == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("cannot remove the cluster's cgroups: %w", left)
}

// removeTree removes folders of cgroups, deepest first: their files go with them.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(dirs) {
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
