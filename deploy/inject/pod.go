package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Ports and paths of the sidecar, as its own defaults are.
const (
	inboundPort  = 4143
	outboundPort = 4140
	adminPort    = 4191
	program      = "/weir-proxy"
	identityPath = "/var/run/weir/identity"
	spoolPath    = "/var/run/weir/spool"
)

const (
	// audience is whom the proxy's token is for; tokenSeconds is how long one is
	// valid. The kubelet renews it at four fifths of that.
	audience     = "weir"
	tokenSeconds = 3600
	// awaitSeconds bounds how long a container may wait for the proxy.
	awaitSeconds = 60
	// pauseSeconds is for how long a proxy that is a plain container goes on after
	// the pod has begun to end, for the application to end before it.
	pauseSeconds = 5
)

// The pod's namespace, which a manifest need not say, as Kubernetes puts it into
// the variable below.
const (
	namespaceVariable = "WEIR_NAMESPACE"
	namespaceOfPod    = "$(" + namespaceVariable + ")"
	nameOfPod         = "$(WEIR_PROXY_POD)"
	hostVariable      = "WEIR_HOST_IP"
)

// Owner is the workload that a pod belongs to: kubectl's short kind, and a name.
type Owner struct{ Kind, Name string }

// workload is the proxy's name for its workload, variables unexpanded.
func (o Owner) workload() string {
	if o.Kind == "" || o.Kind == "pod" || o.Name == "" {
		// A pod may not know its name before it is made.
		return namespaceOfPod + "/pod/" + nameOfPod
	}
	return namespaceOfPod + "/" + o.Kind + "/" + o.Name
}

// parts are what injection adds to a pod, as JSON.
type parts struct {
	init, proxy any
	volumes     []any
}

// build makes the parts. c has been checked; probed are the ports that the kubelet
// probes.
func build(c Config, owner Owner, probed []string) parts {
	proxy := proxyContainer(c, owner, probed)
	p := parts{init: entry(initContainer(c))}
	if identified(c) {
		p.volumes = append(p.volumes, core.Volume{Name: IdentityVolume, VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{
			Sources: []core.VolumeProjection{{ServiceAccountToken: &core.ServiceAccountTokenProjection{
				Audience: audience, ExpirationSeconds: ptr[int64](tokenSeconds), Path: "token",
			}}},
		}}})
		proxy.VolumeMounts = append(proxy.VolumeMounts, core.VolumeMount{Name: IdentityVolume, MountPath: identityPath, ReadOnly: true})
	}
	if spooled(c) {
		limit := resource.MustParse(c.Spool)
		p.volumes = append(p.volumes, core.Volume{Name: SpoolVolume, VolumeSource: core.VolumeSource{
			EmptyDir: &core.EmptyDirVolumeSource{Medium: core.StorageMediumMemory, SizeLimit: &limit},
		}})
		proxy.VolumeMounts = append(proxy.VolumeMounts, core.VolumeMount{Name: SpoolVolume, MountPath: spoolPath})
	}
	p.proxy = entry(proxy)
	return p
}

// entry is a container as people write it: its type writes `resources: {}` always.
func entry(c core.Container) any {
	data, err := json.Marshal(c)
	if err != nil { // texts and numbers alone: it cannot fail
		return c
	}
	return json.RawMessage(bytes.Replace(data, []byte(`"resources":{},`), nil, 1))
}

// identified tells that the proxy proves whose it is: to the bus, and by a
// certificate to other proxies.
func identified(c Config) bool { return c.TrustAnchors != "" && c.Bus != "" }

// spooled tells that unsent telemetry is kept where it outlives the proxy.
func spooled(c Config) bool { return c.Spool != "" && c.Spool != "none" }

func initContainer(c Config) core.Container {
	args := []string{"init"}
	for _, a := range [][2]string{
		{"--skip-inbound-ports", c.SkipInboundPorts},
		{"--skip-outbound-ports", c.SkipOutboundPorts},
		{"--skip-subnets", c.SkipSubnets},
	} {
		if a[1] != "" {
			args = append(args, a[0]+"="+a[1])
		}
	}
	s := confined(0)
	s.RunAsNonRoot = ptr(false)
	s.Capabilities.Add = []core.Capability{"NET_ADMIN"}
	return core.Container{
		Name:                     InitContainer,
		Image:                    c.Image + ":" + c.Version,
		ImagePullPolicy:          core.PullPolicy(c.PullPolicy),
		Args:                     args,
		Resources:                c.Resources.requirements(),
		TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          s,
	}
}

// confined is the security context of a container that may do nothing but run. The
// group is said, too: of an image's user the kubelet takes the user alone, and the
// group would be root's.
func confined(user int64) *core.SecurityContext {
	return &core.SecurityContext{
		RunAsUser: ptr(user), RunAsGroup: ptr(user), RunAsNonRoot: ptr(true),
		AllowPrivilegeEscalation: ptr(false),
		ReadOnlyRootFilesystem:   ptr(true),
		Capabilities:             &core.Capabilities{Drop: []core.Capability{"ALL"}},
		SeccompProfile:           &core.SeccompProfile{Type: core.SeccompProfileTypeRuntimeDefault},
	}
}

func proxyContainer(c Config, owner Owner, probed []string) core.Container {
	admin := intstr.FromInt32(adminPort)
	get := func(path string) core.ProbeHandler {
		return core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: path, Port: admin}}
	}
	p := core.Container{
		Name:            ProxyContainer,
		Image:           c.Image + ":" + c.Version,
		ImagePullPolicy: core.PullPolicy(c.PullPolicy),
		Ports: []core.ContainerPort{
			{Name: "weir-inbound", ContainerPort: inboundPort, Protocol: core.ProtocolTCP},
			{Name: "weir-admin", ContainerPort: adminPort, Protocol: core.ProtocolTCP},
		},
		Env:                      environment(c, owner, probed),
		Resources:                c.Resources.requirements(),
		TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          confined(ProxyUID),
		// Kubernetes starts the next container when the hook has returned. A
		// startup probe would find the same out up to two seconds later.
		Lifecycle: &core.Lifecycle{PostStart: &core.LifecycleHandler{Exec: &core.ExecAction{
			Command: []string{program, "await", fmt.Sprintf("--timeout=%ds", awaitSeconds)},
		}}},
		ReadinessProbe: &core.Probe{ProbeHandler: get("/ready"), PeriodSeconds: 2, FailureThreshold: 3, TimeoutSeconds: 2},
		LivenessProbe:  &core.Probe{ProbeHandler: get("/live"), PeriodSeconds: 10, FailureThreshold: 3, TimeoutSeconds: 5, InitialDelaySeconds: 10},
	}
	if c.NativeSidecar {
		p.RestartPolicy = ptr(core.ContainerRestartPolicyAlways)
	} else {
		p.Lifecycle.PreStop = &core.LifecycleHandler{Exec: &core.ExecAction{
			Command: []string{program, "pause", fmt.Sprintf("%ds", pauseSeconds)},
		}}
	}
	return p
}

func environment(c Config, owner Owner, probed []string) []core.EnvVar {
	field := func(name, path string) core.EnvVar {
		return core.EnvVar{Name: name, ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: path}}}
	}
	env := []core.EnvVar{
		// These first: what follows refers to them.
		field(namespaceVariable, "metadata.namespace"),
		field("WEIR_PROXY_POD", "metadata.name"),
		field("WEIR_PROXY_NODE", "spec.nodeName"),
		{Name: "WEIR_PROXY_WORKLOAD", Value: owner.workload()},
		{Name: "WEIR_PROXY_CLUSTER", Value: c.Cluster},
		{Name: "WEIR_PROXY_TRANSPARENT", Value: "true"},
		{Name: "WEIR_PROXY_ADMIN", Value: fmt.Sprintf(":%d", adminPort)},
		{Name: "WEIR_PROXY_LOG_LEVEL", Value: c.LogLevel},
		{Name: "WEIR_PROXY_LOG_FORMAT", Value: c.LogFormat},
		{Name: "WEIR_PROXY_DRAIN_DELAY", Value: c.DrainDelay},
		{Name: "WEIR_PROXY_DRAIN_TIMEOUT", Value: c.DrainTimeout},
	}
	add := func(when bool, name, value string) {
		if when && value != "" {
			env = append(env, core.EnvVar{Name: name, Value: value})
		}
	}
	add(true, "WEIR_PROXY_BUS", c.Bus)
	add(true, "WEIR_PROXY_OPAQUE_PORTS", c.OpaquePorts)
	add(spooled(c), "WEIR_PROXY_TELEMETRY_SPOOL", spoolPath)
	add(identified(c), "WEIR_PROXY_TRUST_DOMAIN", c.TrustDomain)
	add(identified(c), "WEIR_PROXY_IDENTITY_TOKEN", identityPath+"/token")
	add(identified(c), "WEIR_PROXY_IDENTITY_TRUST_ANCHORS", c.TrustAnchors)
	add(c.RequireMTLS, "WEIR_PROXY_REQUIRE_MTLS", "true")
	if len(probed) > 0 {
		// The kubelet has no identity: its probes come from the node, by which they
		// are told from other clients, and are let in where mutual TLS is required,
		// to the ports that are probed.
		env = append(env, field(hostVariable, "status.hostIP"),
			core.EnvVar{Name: "WEIR_PROXY_PROBES_FROM", Value: "gateway,$(" + hostVariable + ")"},
			core.EnvVar{Name: "WEIR_PROXY_PROBE_PORTS", Value: strings.Join(probed, ",")})
	}
	return env
}

// probePorts are the ports of the application that the kubelet probes, sorted.
func probePorts(spec *core.PodSpec) []string {
	var out []int
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, p := range []*core.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if port := probePort(p, c.Ports); port != 0 && !slices.Contains(out, port) {
				out = append(out, port)
			}
		}
	}
	slices.Sort(out)
	texts := make([]string, len(out))
	for i, port := range out {
		texts[i] = strconv.Itoa(port)
	}
	return texts
}

// probePort is the port of a probe over the network, 0 where there is none.
func probePort(p *core.Probe, named []core.ContainerPort) int {
	var port intstr.IntOrString
	switch {
	case p == nil:
		return 0
	case p.HTTPGet != nil:
		port = p.HTTPGet.Port
	case p.TCPSocket != nil:
		port = p.TCPSocket.Port
	case p.GRPC != nil:
		return int(p.GRPC.Port)
	}
	for _, n := range named {
		if port.Type == intstr.String && n.Name == port.StrVal {
			return int(n.ContainerPort)
		}
	}
	return int(port.IntVal)
}

// requirements turns quantities that have been checked into Kubernetes' type.
func (r Resources) requirements() core.ResourceRequirements {
	list := func(cpu, memory string) core.ResourceList {
		l := core.ResourceList{}
		for name, v := range map[core.ResourceName]string{core.ResourceCPU: cpu, core.ResourceMemory: memory} {
			if v != "" {
				l[name] = resource.MustParse(v)
			}
		}
		if len(l) == 0 {
			return nil
		}
		return l
	}
	return core.ResourceRequirements{Requests: list(r.CPU.Request, r.Memory.Request), Limits: list(r.CPU.Limit, r.Memory.Limit)}
}

func ptr[T any](v T) *T { return &v }
