package inject

import (
	"errors"
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/deploy/values"
)

// Config is what Inject makes of a pod: the sidecar's image, resources and
// settings. FromValues makes it of an installation's values; annotations
// (weir.dev/NAME) and flags (--NAME) change it for a pod, see Settings. Lists of
// ports are ports and ranges with commas between, "22,8000-8010"; durations are
// Go's, "1m30s"; quantities are Kubernetes', "100m", "64Mi".
type Config struct {
	// Image is the sidecar's image without tag, Version its tag, which is also
	// what the mark weir.dev/proxy-version says.
	Image   string
	Version string
	// PullPolicy is Always, IfNotPresent or Never.
	PullPolicy string

	// Resources are those of the sidecar, and of the init container, which ends
	// before anything else needs them.
	Resources Resources

	// LogLevel is debug, info, warn or error; LogFormat text or json.
	LogLevel  string
	LogFormat string

	// Bus is the address of the bus, nats://HOST:PORT or tls://HOST:PORT, several
	// with commas between; empty: no telemetry, no identity, no discovery.
	Bus string
	// Cluster names the cluster in events and subjects.
	Cluster string
	// TrustDomain is the first part of identities, spiffe://TRUSTDOMAIN/ns/NS/sa/SA.
	TrustDomain string
	// TrustAnchors are the certificates, PEM, that identities and the bus must
	// lead to; empty: no mutual TLS.
	TrustAnchors string
	// RequireMTLS refuses clients without an identity of the mesh.
	RequireMTLS bool

	// SkipInboundPorts and SkipOutboundPorts pass the proxy by, as do connections
	// to SkipSubnets (CIDRs with commas between). Empty: none.
	SkipInboundPorts  string
	SkipOutboundPorts string
	SkipSubnets       string
	// OpaquePorts are carried as TCP and not looked into; "none" for none, empty
	// for the proxy's own default.
	OpaquePorts string

	// DrainDelay is for how long the proxy goes on accepting after SIGTERM,
	// DrainTimeout for how long open connections may then go on.
	DrainDelay   string
	DrainTimeout string

	// NativeSidecar makes the proxy an init container that restarts always
	// (Kubernetes 1.29): it is there before the application's own init
	// containers and ends after the application, so that Jobs complete. Else it
	// is a container among others.
	NativeSidecar bool
	// Spool is the size of an emptyDir in memory in which unsent telemetry outlives
	// the proxy's being killed; empty or "none" for none.
	Spool string
}

// Resources are what containers ask for and may use.
type Resources struct {
	CPU    Range
	Memory Range
}

// Range is a request and a limit, as Kubernetes quantities; empty: none.
type Range struct {
	Request string
	Limit   string
}

// Installation is what is known of an installation beside its values.
type Installation struct {
	// Namespace is Weir's own, Version the release, for images whose tag the values
	// leave to it.
	Namespace, Version string
	// TrustAnchors are the certificates, PEM, of the ConfigMap weir-trust-anchors;
	// empty: those of the values, if there are any.
	TrustAnchors string
}

// Defaults are the settings of an installation that says nothing, of version "dev"
// in the namespace weir. There are no trust anchors, which are made at installation.
func Defaults() Config {
	return FromValues(values.Default(), Installation{Namespace: "weir", Version: "dev"})
}

// FromValues is the Config of an installation.
func FromValues(v *values.Values, at Installation) Config {
	p := v.Proxy
	amount := func(a values.Amount) Range { return Range{Request: a.Request, Limit: a.Limit} }
	c := Config{
		Image:             v.Images.Registry + "/weir-proxy",
		Version:           v.Images.Tag,
		PullPolicy:        p.PullPolicy,
		Resources:         Resources{CPU: amount(p.Resources.CPU), Memory: amount(p.Resources.Memory)},
		LogLevel:          p.LogLevel,
		LogFormat:         p.LogFormat,
		Bus:               fmt.Sprintf("tls://weir-bus.%s.svc.%s:4222", at.Namespace, v.ClusterDomain),
		Cluster:           v.ClusterName,
		TrustDomain:       v.TrustDomain,
		TrustAnchors:      at.TrustAnchors,
		RequireMTLS:       p.RequireMTLS,
		SkipInboundPorts:  p.SkipInboundPorts,
		SkipOutboundPorts: p.SkipOutboundPorts,
		SkipSubnets:       p.SkipSubnets,
		OpaquePorts:       p.OpaquePorts,
		DrainDelay:        p.DrainDelay,
		DrainTimeout:      p.DrainTimeout,
		NativeSidecar:     p.NativeSidecar,
		Spool:             p.Spool,
	}
	if c.Version == "" {
		c.Version = at.Version
	}
	if c.TrustAnchors == "" {
		c.TrustAnchors = v.Issuer.TrustAnchors
	}
	if c.OpaquePorts == "" {
		c.OpaquePorts = "none"
	}
	return c
}

// Check finds what is wrong with a Config; its error names the field, the value and what is accepted.
func (c Config) Check() error {
	var wrong []error
	for _, s := range settings() {
		v := s.get(&c)
		if v == "" && !s.required {
			continue
		}
		if err := s.set(&Config{}, v); err != nil {
			wrong = append(wrong, fmt.Errorf("%s %q: %w; want %s", s.field, v, err, s.want))
		}
	}
	return errors.Join(wrong...)
}

// ParseValues makes a Config of the chart's values (YAML), such as the ConfigMap
// weir-config holds; what they do not say is as the chart has it. The error names
// the value that is unknown or wrong.
func ParseValues(data []byte, at Installation) (Config, error) {
	var given map[string]any
	if err := yaml.Unmarshal(data, &given); err != nil {
		return Config{}, fmt.Errorf("cannot read the values: %w", err)
	}
	v, err := values.Decode(values.Default(), given)
	if err != nil {
		return Config{}, fmt.Errorf("cannot use the values: %w", err)
	}
	c := FromValues(v, at)
	if err := c.Check(); err != nil {
		return Config{}, fmt.Errorf("cannot use the values: %w", err)
	}
	return c, nil
}
