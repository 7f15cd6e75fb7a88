package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/tools/image"
)

// kubernetesVersion is what the API server says it is: the linker sets it in a
// release, so it must here, too. It is the version of k8s.io/kubernetes in
// kubenode/go.mod, which a test holds it to.
const kubernetesVersion = "v1.36.3"

// A program is a Go program of this module's folder.
type program struct {
	name    string
	ldflags string
}

func kubenode() program {
	v := strings.SplitN(strings.TrimPrefix(kubernetesVersion, "v"), ".", 3)
	const in = " -X k8s.io/component-base/version."
	return program{"kubenode", "-s -w" + in + "gitVersion=" + kubernetesVersion + in + "gitMajor=" + v[0] + in + "gitMinor=" + v[1]}
}

func coredns() program { return program{"coredns", "-s -w"} }

// components are the names that kubenode is started under.
func components() []string {
	return []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}
}

// keepFor is how long a program is cached that no cluster has used.
const keepFor = 30 * 24 * time.Hour

// Build builds what a cluster consists of, unless it was built before: some 10
// minutes and 4 GB of build cache on two cores the first time. Up does it, too.
func Build(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err != nil {
		return fmt.Errorf("cannot build a cluster's programs: %w", err)
	}
	_, err = o.programs(ctx)
	return err
}

// programs builds or finds kubenode and coredns: their folders.
func (o *Options) programs(ctx context.Context) (folders map[string]string, err error) {
	if o.Source == "" {
		out, err := goCommand(ctx, "", "list", "-f", "{{.Dir}}", "github.com/weirmesh/weir/e2e/cluster")
		if err != nil {
			return nil, fmt.Errorf("cannot find the sources of the cluster's programs: %w; run it from within e2e/cluster", err)
		}
		o.Source = strings.TrimSpace(out)
	}
	folders = map[string]string{}
	for _, p := range []program{kubenode(), coredns()} {
		if folders[p.name], err = o.cached(ctx, p); err != nil {
			return nil, err
		}
	}
	return folders, nil
}

// flags are those of every build. A cluster's programs are the same whatever the
// caller's environment says.
func (p program) flags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=" + p.ldflags}
}

// key names what a build depends on, short of the module cache, which go.sum pins.
func (p program) key(ctx context.Context, source string) (string, error) {
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(source, p.name, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
	}
	toolchain, err := goCommand(ctx, filepath.Join(source, p.name), "env", "GOVERSION", "GOARCH")
	if err != nil {
		return "", err
	}
	fmt.Fprintf(sum, "%q %q", toolchain, p.flags())
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// cached returns the folder with the program, and builds it if there is none. One
// process builds at a time.
func (o *Options) cached(ctx context.Context, p program) (string, error) {
	key, err := p.key(ctx, o.Source)
	if err != nil {
		return "", fmt.Errorf("cannot build %s: %w", p.name, err)
	}
	bin := filepath.Join(o.Home, "bin")
	l, err := awaitLock(ctx, filepath.Join(bin, p.name+".lock"), func() {
		o.Logger.Info("waiting for another build", "program", p.name)
	})
	if err != nil {
		return "", fmt.Errorf("cannot build %s: %w", p.name, err)
	}
	defer l.release()
	dir := filepath.Join(bin, p.name+"-"+key)
	if _, err := os.Stat(filepath.Join(dir, p.name)); err == nil {
		now := time.Now()
		return dir, errors.Join(os.Chtimes(dir, now, now), prune(bin, p.name))
	}
	o.Logger.Info("building; minutes, once", "program", p.name, "into", dir)
	began := time.Now()
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return "", fmt.Errorf("cannot build %s: %w", p.name, err)
	}
	if err := o.build(ctx, p, filepath.Join(part, p.name)); err != nil {
		return "", err
	}
	if err := errors.Join(p.pack(part), os.Rename(part, dir), prune(bin, p.name)); err != nil {
		return "", fmt.Errorf("cannot build %s: %w", p.name, err)
	}
	o.Logger.Info("built", "program", p.name, "in", time.Since(began).Round(time.Second))
	return dir, nil
}

// pack makes CoreDNS, which runs in a pod, an image.
func (p program) pack(dir string) error {
	if p.name != coredns().name {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(dir, p.name))
	if err != nil {
		return err
	}
	return image.WriteFile(filepath.Join(dir, p.name+".tar"), image.Image{
		Name: "localhost/coredns:e2e", Files: []image.File{{Path: "/coredns", Data: data}},
		Entrypoint: []string{"/coredns"}, User: "0", // it listens on port 53
	})
}

// build builds a program of this module's folder.
func (o *Options) build(ctx context.Context, p program, target string) error {
	args := append([]string{"build", "-o", target}, p.flags()...)
	if _, err := goCommand(ctx, filepath.Join(o.Source, p.name), append(args, ".")...); err != nil {
		return fmt.Errorf("cannot build %s: %w", p.name, err)
	}
	return nil
}

// prune removes builds that nobody has used for keepFor.
func prune(bin, name string) error {
	old, err := filepath.Glob(filepath.Join(bin, name+"-*"))
	if err != nil {
		return err
	}
	return errors.Join(slices.Collect(func(yield func(error) bool) {
		for _, dir := range old {
			info, err := os.Stat(dir)
			if err != nil || time.Since(info.ModTime()) < keepFor {
				continue
			}
			if !yield(os.RemoveAll(dir)) {
				return
			}
		}
	})...)
}

// goCommand runs the go command in a folder and returns what it printed.
func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, tail(&said, 20))
	}
	return out.String(), nil
}

// tail returns the last lines of a text.
func tail(r io.Reader, lines int) string {
	text, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
