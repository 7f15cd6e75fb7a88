package node

import "path/filepath"

// A component is one process of the node, and its arguments.
type component struct {
	name string
	args []string
}

const etcdURL = "http://127.0.0.1:2379"

// first are the components that need nobody.
func (c Config) first() []component {
	const peers = "http://127.0.0.1:2380"
	return []component{
		{"etcd", []string{
			"--data-dir=" + filepath.Join(c.Dir, "etcd"), "--log-level=warn",
			"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
			"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers,
			"--unsafe-no-fsync", // what it holds ends with the cluster anyway
		}},
		{"containerd", []string{"-c", filepath.Join(c.Dir, "containerd.toml")}},
		{"kube-apiserver", c.apiServer()},
	}
}

func (c Config) apiServer() []string {
	pki := func(name string) string { return filepath.Join(c.PKI(), name) }
	return []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + c.Address.Addr().String(),
		"--service-cluster-ip-range=" + c.ServiceRange.String(),
		"--client-ca-file=" + pki("ca.crt"),
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"), "--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--allow-privileged=true", "--profiling=false", "--cert-dir=" + filepath.Join(c.Dir, "apiserver"),
		"--requestheader-client-ca-file=" + pki("ca.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy.crt"), "--proxy-client-key-file=" + pki("front-proxy.key"),
	}
}

// then are the components that would end or wait longer and longer without an
// API server.
func (c Config) then() []component {
	own := func(user string) []string {
		file := c.Kubeconfig(user)
		return []string{
			"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file,
			"--bind-address=127.0.0.1", "--leader-elect=false", "--cert-dir=" + filepath.Join(c.Dir, user),
		}
	}
	return []component{
		{"kube-controller-manager", append(own("controllers"),
			"--use-service-account-credentials=true",
			"--service-account-private-key-file="+filepath.Join(c.PKI(), "sa.key"),
			"--root-ca-file="+filepath.Join(c.PKI(), "ca.crt"),
			"--cluster-signing-cert-file="+filepath.Join(c.PKI(), "ca.crt"), "--cluster-signing-key-file="+filepath.Join(c.PKI(), "ca.key"),
			"--allocate-node-cidrs=false", "--service-cluster-ip-range="+c.ServiceRange.String(),
			"--flex-volume-plugin-dir="+filepath.Join(c.Dir, "kubelet-plugins"),
			// The default of 20 a second makes a new namespace wait for seconds.
			"--kube-api-qps=500", "--kube-api-burst=1000")},
		{"kube-scheduler", own("scheduler")},
		{"kubelet", []string{
			"--config=" + filepath.Join(c.Dir, "kubelet.yaml"), "--kubeconfig=" + c.Kubeconfig("kubelet"),
			"--root-dir=" + filepath.Join(c.Dir, "kubelet"), "--cert-dir=" + filepath.Join(c.Dir, "kubelet", "pki"),
			"--hostname-override=" + Name, "--node-ip=" + c.Address.Addr().String(),
		}},
		{"kube-proxy", []string{"--config=" + filepath.Join(c.Dir, "kube-proxy.yaml")}},
	}
}
