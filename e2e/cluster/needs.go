package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// searchPath has the folders in which servers may be that only root looks for.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ErrCannotRun is wrapped by the error of Up where this machine cannot run a
// cluster at all, which the error explains.
var ErrCannotRun = errors.New("this machine cannot run a cluster")

// debian names the package of each program that must be there.
var debian = []struct{ program, pkg string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"nft", "nftables"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
}

// check says what this machine lacks, and returns the folder of CNI plugins.
func check() (plugins string, err error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("%w: it takes root, for namespaces and cgroups", ErrCannotRun)
	}
	missing := map[string]bool{}
	var names []string
	lack := func(pkg string) {
		if !missing[pkg] {
			missing[pkg] = true
			names = append(names, pkg)
		}
	}
	for _, d := range debian {
		if !onPath(d.program) {
			lack(d.pkg)
		}
	}
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			plugins = dir
			break
		}
	}
	if plugins == "" {
		lack("containernetworking-plugins")
	}
	if len(names) > 0 {
		list := strings.Join(names, " ")
		return "", fmt.Errorf("%w: it lacks %s (Debian: apt-get install %s)", ErrCannotRun, list, list)
	}
	return plugins, nil
}

func onPath(program string) bool {
	for _, dir := range filepath.SplitList(searchPath) {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return true
		}
	}
	return false
}
