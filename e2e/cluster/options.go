// Package cluster runs a real Kubernetes cluster of one node on this machine, for
// tests and for development: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler, kubelet, kube-proxy and CoreDNS, built from their Go modules, over
// the containerd and runc of the distribution. It needs root and Linux, and neither
// a registry nor a virtual machine.
//
// All of a cluster lives in network, mount and pid namespaces of its own, below one
// process: nothing of it reaches the host's network, nothing of the host's is
// changed, and when that process ends the kernel ends everything. Several clusters
// may be up at once.
//
// `make cluster-up`, `make kubectl` and `make cluster-down` are this package by way
// of cmd/weir-cluster. Package clustertest starts a cluster for the tests of a
// package.
package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/node"
)

// Options says what cluster is wanted. The zero value is the one that `make
// cluster-up` starts.
type Options struct {
	// Name tells clusters of this machine apart: it names folders and cgroups.
	// Lower-case letters, digits and "-", at most 32. "" means "dev".
	Name string
	// Home is where programs are cached and state is kept while a cluster runs;
	// "" means a folder weir/cluster in os.UserCacheDir.
	Home string
	// Source is the folder of this module, with its go.mod; "" has the go command
	// look for it, which finds it from within the module.
	Source string
	// Images are tar files to import before the node is ready.
	Images []string
	// Address is the node's, with its subnet; zero means 172.30.0.2/24.
	Address netip.Prefix
	// PodRange and ServiceRange are where addresses are taken from; zero means
	// 10.244.0.0/24 and 10.96.0.0/16. Clusters may have the same ones.
	PodRange, ServiceRange netip.Prefix
	// Timeout bounds the start, without the builds; 0 means 5 min.
	Timeout time.Duration
	// Logger is told what happens, builds above all; nil means slog.Default.
	Logger *slog.Logger
}

// DefaultName is the cluster's that `make cluster-up` starts.
const DefaultName = "dev"

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// complete fills in what was left out and refuses what makes no sense.
func (o Options) complete() (Options, error) {
	var problems []error
	if o.Name == "" {
		o.Name = DefaultName
	}
	if !nameForm.MatchString(o.Name) {
		problems = append(problems, fmt.Errorf("the name %q is not of lower-case letters, digits and '-', at most 32", o.Name))
	}
	if o.Home == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			problems = append(problems, fmt.Errorf("cannot find a folder for programs and state: %w; name one", err))
		}
		o.Home = filepath.Join(cache, "weir", "cluster")
	}
	for _, r := range []struct {
		what  string
		value *netip.Prefix
		usual string
	}{
		{"node's address", &o.Address, "172.30.0.2/24"},
		{"pods' range", &o.PodRange, "10.244.0.0/24"},
		{"Services' range", &o.ServiceRange, "10.96.0.0/16"},
	} {
		if *r.value == (netip.Prefix{}) {
			*r.value = netip.MustParsePrefix(r.usual)
		}
		if !r.value.IsValid() || !r.value.Addr().Is4() {
			problems = append(problems, fmt.Errorf("the %s %s is not one of IPv4", r.what, *r.value))
		}
	}
	for _, pair := range [][2]netip.Prefix{{o.Address, o.PodRange}, {o.Address, o.ServiceRange}, {o.PodRange, o.ServiceRange}} {
		if pair[0].Overlaps(pair[1]) {
			problems = append(problems, fmt.Errorf("%s and %s overlap", pair[0], pair[1]))
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, errors.Join(problems...)
}

// runs is the folder of clusters' state.
func (o Options) runs() string { return filepath.Join(o.Home, "run") }

// dir is the folder of this cluster's state.
func (o Options) dir() string { return filepath.Join(o.runs(), o.Name) }

// cgroup is the name of the cluster's folder in each cgroup hierarchy.
func cgroup(name string) string { return "weir-" + name }

// config is what the node is told.
func (o Options) config(plugins string) node.Config {
	return node.Config{
		Dir: o.dir(), Bin: filepath.Join(o.dir(), "bin"), PluginDir: plugins, Cgroup: "/" + cgroup(o.Name),
		Address: o.Address, PodRange: o.PodRange.Masked(), ServiceRange: o.ServiceRange.Masked(),
	}
}
