package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"
)

//go:embed files
var files embed.FS

// apiTimeout bounds the start of the API server: some seconds on an idle machine.
const apiTimeout = 3 * time.Minute

// Run is the node's first process. It returns when a component has ended, with an
// error that names it, or when ctx ends; the rest ends when this process does. It
// must be the first of new pid, mount and network namespaces: it mounts over the
// host's folders, and would do so for everybody.
func Run(ctx context.Context, c Config) error {
	if os.Getpid() != 1 {
		return errors.New("cannot run a node outside of namespaces of its own: `weir-cluster up` makes them")
	}
	began := time.Now()
	if err := c.mounts(); err != nil {
		return err
	}
	p, stop := reap()
	defer stop()
	if err := c.network(p); err != nil {
		return err
	}
	if err := c.render(); err != nil {
		return err
	}
	done := make(chan ended, 16)
	if err := c.startAll(p, done, c.first()); err != nil {
		return err
	}
	if err := c.awaitAPI(ctx, done); err != nil {
		return err
	}
	slog.Info("API server ready", "after", time.Since(began).Round(time.Millisecond))
	if err := c.startAll(p, done, c.then()); err != nil {
		return err
	}
	select {
	case e := <-done:
		return e
	case <-ctx.Done():
		return nil
	}
}

// startAll starts components, each with a log of its own.
func (c Config) startAll(p *processes, done chan<- ended, all []component) error {
	for _, one := range all {
		path := filepath.Join(c.Bin, one.name)
		if _, err := os.Stat(path); err != nil {
			// containerd is Debian's.
			if path, err = exec.LookPath(one.name); err != nil {
				return fmt.Errorf("cannot start %s: %w", one.name, err)
			}
		}
		out, err := c.open(one.name)
		if err != nil {
			return fmt.Errorf("cannot start %s: %w", one.name, err)
		}
		err = errors.Join(p.start(out, done, one.name, path, one.args...), out.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

// render writes the components' configuration.
func (c Config) render() error {
	targets := map[string]string{
		"cni.conflist":    "cni/10-weir.conflist",
		"containerd.toml": "containerd.toml",
		"kubelet.yaml":    "kubelet.yaml",
		"kube-proxy.yaml": "kube-proxy.yaml",
	}
	for source, target := range targets {
		t, err := template.ParseFS(files, "files/"+source)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", source, err)
		}
		var text bytes.Buffer
		if err := t.Execute(&text, c); err != nil {
			return fmt.Errorf("cannot write %s: %w", target, err)
		}
		if err := c.write(target, text.String()); err != nil {
			return err
		}
	}
	return c.write("resolv.conf", "# There is no world outside.\n")
}

func (c Config) write(name, text string) error {
	path := filepath.Join(c.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// awaitAPI waits until the API server is ready.
func (c Config) awaitAPI(ctx context.Context, done <-chan ended) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	last := errors.New("it was never asked")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case e := <-done:
			return e
		case <-ctx.Done():
			return fmt.Errorf("the API server did not become ready: %w", last)
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, APIAddress+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			last = err
			continue
		}
		_ = resp.Body.Close() // the status is all that counts
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("/readyz: %s", resp.Status)
	}
}

// APIAddress is the API server's, from within the node's network.
const APIAddress = "https://127.0.0.1:6443"

// Client returns an HTTP client of the API server, as the user "admin". Its
// transport is an *http.Transport.
func (c Config) Client() (*http.Client, error) {
	ca, err := os.ReadFile(filepath.Join(c.PKI(), "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.PKI(), "admin.crt"), filepath.Join(c.PKI(), "admin.key"))
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}},
	}, nil
}
