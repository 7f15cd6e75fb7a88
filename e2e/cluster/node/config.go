// Package node is what runs inside a cluster's namespaces: the first process of
// the node, which mounts what is the node's own, sets its network up, starts
// Kubernetes and containerd, and ends when one of them does. With it the kernel
// ends all the rest.
package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Name is the node's name in the cluster.
const Name = "node1"

// Config is all that the node needs to know; Up writes it, the node reads it.
type Config struct {
	// Dir holds the cluster's state: keys, logs, etcd's and containerd's data.
	Dir string
	// Bin holds the components' programs, one name each.
	Bin string
	// PluginDir holds the CNI plugins.
	PluginDir string
	// Cgroup is the folder of every cgroup hierarchy that is the cluster's, with
	// a leading slash.
	Cgroup string
	// Address is the node's, with its subnet.
	Address netip.Prefix
	// PodRange and ServiceRange are where pods' and Services' addresses are from.
	PodRange, ServiceRange netip.Prefix
}

// APIService is the address of the Service "kubernetes": the range's first.
func (c Config) APIService() netip.Addr { return c.ServiceRange.Masked().Addr().Next() }

// DNSService is the address of the Service "kube-dns": the range's tenth.
func (c Config) DNSService() netip.Addr {
	a := c.ServiceRange.Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	return a
}

// PKI is the folder of keys and certificates.
func (c Config) PKI() string { return filepath.Join(c.Dir, "pki") }

// Kubeconfig is the file with which user, of those that the cluster's set-up has
// made certificates for, reaches the API server: "admin" may do everything.
func (c Config) Kubeconfig(user string) string { return filepath.Join(c.Dir, user+".kubeconfig") }

// LogDir has a file for each component, <name>.log.
func (c Config) LogDir() string { return filepath.Join(c.Dir, "log") }

// File is where the configuration itself is kept.
func (c Config) File() string { return filepath.Join(c.Dir, "node.json") }

// Save writes the configuration to File.
func (c Config) Save() error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the node's configuration: %w", err)
	}
	return os.WriteFile(c.File(), append(text, '\n'), 0o600)
}

// Load reads what Save has written.
func Load(file string) (Config, error) {
	var c Config
	text, err := os.ReadFile(file)
	if err != nil {
		return c, fmt.Errorf("cannot read the node's configuration: %w", err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("cannot read the node's configuration %s: %w", file, err)
	}
	return c, nil
}
