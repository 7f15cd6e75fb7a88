package inject

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
)

// otherMeshes are containers of other meshes, by name.
var otherMeshes = map[string]string{
	"istio-proxy": "Istio", "istio-init": "Istio", "istio-validation": "Istio",
	"linkerd-proxy": "Linkerd", "linkerd-init": "Linkerd", "linkerd-network-validator": "Linkerd",
	"conduit-proxy": "Conduit", "conduit-init": "Conduit",
	"kuma-sidecar": "Kuma", "kuma-init": "Kuma",
	"consul-dataplane": "Consul", "consul-connect-envoy-sidecar": "Consul", "consul-connect-inject-init": "Consul",
	"envoy-sidecar": "Envoy", "osm-init": "Open Service Mesh",
}

// otherImages are images of other meshes' sidecars, tags and registries left out.
var otherImages = map[string]string{
	"istio/proxyv2": "Istio", "istio-release/proxyv2": "Istio",
	"linkerd/proxy": "Linkerd", "kumahq/kuma-dp": "Kuma", "hashicorp/consul-dataplane": "Consul",
}

// envoyImages are sidecars beside another container, and applications alone.
var envoyImages = []string{"envoyproxy/envoy", "envoyproxy/envoy-alpine", "envoyproxy/envoy-distroless"}

// refusal says why a pod cannot be injected, "" where it can.
func refusal(spec *core.PodSpec) string {
	switch {
	case len(spec.Containers) == 0:
		return "it has no containers"
	case spec.HostNetwork:
		return "hostNetwork is true: the node's connections would be redirected"
	case spec.OS != nil && spec.OS.Name == core.Windows || spec.NodeSelector[core.LabelOSStable] == string(core.Windows):
		return "it runs on Windows, and the proxy on Linux only"
	}
	if uid := userOf(spec.SecurityContext); uid == ProxyUID {
		return fmt.Sprintf("its user is %d, the proxy's own: its connections would not be redirected", ProxyUID)
	}
	names := map[string]bool{}
	for _, v := range spec.Volumes {
		names[v.Name] = true
	}
	for _, name := range []string{IdentityVolume, SpoolVolume} {
		if names[name] {
			return fmt.Sprintf("it has a volume %s already", name)
		}
	}
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		if reason := refusalOf(container, len(spec.Containers) > 1); reason != "" {
			return reason
		}
	}
	return ""
}

func userOf(s *core.PodSecurityContext) int64 {
	if s == nil || s.RunAsUser == nil {
		return -1
	}
	return *s.RunAsUser
}

// refusalOf says why a pod with this container cannot be injected.
func refusalOf(c core.Container, besideOthers bool) string {
	if c.Name == ProxyContainer || c.Name == InitContainer {
		return fmt.Sprintf("it has been injected already (container %s)", c.Name)
	}
	mesh := otherMeshes[c.Name]
	image := repository(c.Image)
	for suffix, name := range otherImages {
		if image == suffix || strings.HasSuffix(image, "/"+suffix) {
			mesh = name
		}
	}
	for _, suffix := range envoyImages {
		if besideOthers && (image == suffix || strings.HasSuffix(image, "/"+suffix)) {
			mesh = "Envoy"
		}
	}
	if mesh != "" {
		return fmt.Sprintf("it has a sidecar of %s already (container %s)", mesh, c.Name)
	}
	if s := c.SecurityContext; s != nil && s.RunAsUser != nil && *s.RunAsUser == ProxyUID {
		return fmt.Sprintf("the user of container %s is %d, the proxy's own: its connections would not be redirected", c.Name, ProxyUID)
	}
	for _, p := range c.Ports {
		for _, own := range []int32{inboundPort, outboundPort, adminPort} {
			if p.ContainerPort == own && p.Protocol != core.ProtocolUDP {
				return fmt.Sprintf("container %s has port %d, which the proxy needs", c.Name, own)
			}
		}
	}
	return ""
}

// repository is an image without tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	return takeTag(&Config{}, image)
}

// Levels of Pod Security at which no container may have NET_ADMIN.
const enforceLabel = "pod-security.kubernetes.io/enforce"

// forbidden says why pods of a namespace with these labels may not have the init
// container; "" where they may.
func forbidden(namespace string, labels map[string]string) string {
	switch level := labels[enforceLabel]; level {
	case "baseline", "restricted":
		return fmt.Sprintf("namespace %s enforces Pod Security %s, which forbids the capability NET_ADMIN that %s needs", namespace, level, InitContainer)
	}
	return ""
}
