package inject

import (
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// Config is what Inject makes of a pod: the sidecar's image, resources and
// settings. It is the part `proxy` of the chart's values; annotations
// (weir.dev/NAME) and flags (--NAME) change it for a pod, see Settings. Lists of
// ports are ports and ranges with commas between, "22,8000-8010"; durations are
// Go's, "1m30s"; quantities are Kubernetes', "100m", "64Mi".
type Config struct {
	// Image is the sidecar's image without tag, Version its tag, which is also
	// what the mark weir.dev/proxy-version says.
	Image   string `json:"image" yaml:"image"`
	Version string `json:"version" yaml:"version"`
	// PullPolicy is Always, IfNotPresent or Never.
	PullPolicy string `json:"pullPolicy" yaml:"pullPolicy"`

	// Resources are those of the sidecar, and of the init container, which ends
	// before anything else needs them.
	Resources Resources `json:"resources" yaml:"resources"`

	// LogLevel is debug, info, warn or error; LogFormat text or json.
	LogLevel  string `json:"logLevel" yaml:"logLevel"`
	LogFormat string `json:"logFormat" yaml:"logFormat"`

	// Bus is the address of the bus, nats://HOST:PORT or tls://HOST:PORT, several
	// with commas between; empty: no telemetry, no identity, no discovery.
	Bus string `json:"bus" yaml:"bus"`
	// Cluster names the cluster in events and subjects.
	Cluster string `json:"cluster" yaml:"cluster"`
	// TrustDomain is the first part of identities, spiffe://TRUSTDOMAIN/ns/NS/sa/SA.
	TrustDomain string `json:"trustDomain" yaml:"trustDomain"`
	// TrustAnchors are the certificates, PEM, that identities and the bus must
	// lead to; empty: no mutual TLS.
	TrustAnchors string `json:"trustAnchors" yaml:"trustAnchors"`
	// RequireMTLS refuses clients without an identity of the mesh.
	RequireMTLS bool `json:"requireMTLS" yaml:"requireMTLS"`

	// SkipInboundPorts and SkipOutboundPorts pass the proxy by, as do connections
	// to SkipSubnets (CIDRs with commas between). Empty: none.
	SkipInboundPorts  string `json:"skipInboundPorts" yaml:"skipInboundPorts"`
	SkipOutboundPorts string `json:"skipOutboundPorts" yaml:"skipOutboundPorts"`
	SkipSubnets       string `json:"skipSubnets" yaml:"skipSubnets"`
	// OpaquePorts are carried as TCP and not looked into; "none" for none, empty
	// for the proxy's own default.
	OpaquePorts string `json:"opaquePorts" yaml:"opaquePorts"`

	// DrainDelay is for how long the proxy goes on accepting after SIGTERM,
	// DrainTimeout for how long open connections may then go on.
	DrainDelay   string `json:"drainDelay" yaml:"drainDelay"`
	DrainTimeout string `json:"drainTimeout" yaml:"drainTimeout"`

	// NativeSidecar makes the proxy an init container that restarts always
	// (Kubernetes 1.29): it is there before the application's own init
	// containers and ends after the application, so that Jobs complete. Else it
	// is a container among others.
	NativeSidecar bool `json:"nativeSidecar" yaml:"nativeSidecar"`
	// Spool keeps unsent telemetry in an emptyDir in memory, where it outlives the
	// proxy's being killed.
	Spool bool `json:"spool" yaml:"spool"`
}

// Resources are what containers ask for and may use.
type Resources struct {
	CPU    Range `json:"cpu" yaml:"cpu"`
	Memory Range `json:"memory" yaml:"memory"`
}

// Range is a request and a limit, as Kubernetes quantities; empty: none.
type Range struct {
	Request string `json:"request" yaml:"request"`
	Limit   string `json:"limit" yaml:"limit"`
}

// Defaults are the settings that the chart begins with. Version is "dev": whoever
// installs a release sets its own. There are no trust anchors, which are made at
// installation.
func Defaults() Config {
	return Config{
		Image:         "ghcr.io/weirmesh/weir-proxy",
		Version:       "dev",
		PullPolicy:    "IfNotPresent",
		Resources:     Resources{CPU: Range{Request: "10m"}, Memory: Range{Request: "16Mi", Limit: "256Mi"}},
		LogLevel:      "info",
		LogFormat:     "text",
		Bus:           "tls://weir-bus.weir.svc:4222",
		Cluster:       "local",
		TrustDomain:   "cluster.local",
		DrainDelay:    "1s",
		DrainTimeout:  "30s",
		NativeSidecar: true,
	}
}

// Check finds what is wrong with a Config; its error names the field as it is
// called in YAML, the value and what is accepted.
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

// ParseValues reads the part `proxy` of the chart's values (YAML), such as the
// ConfigMap weir-config holds; what it does not say is as in Defaults. The error
// names the field that is unknown or wrong.
func ParseValues(data []byte) (Config, error) {
	c := Defaults()
	var parts map[string]any
	if err := yaml.Unmarshal(data, &parts); err != nil {
		return Config{}, fmt.Errorf("cannot read the values: %w", err)
	}
	part, ok := parts["proxy"]
	if !ok {
		return Config{}, errors.New("cannot read the values: they have no part `proxy`")
	}
	text, err := yaml.Marshal(part)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the values: proxy: %w", err)
	}
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return Config{}, fmt.Errorf("cannot read the values: proxy: %s", strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: json: "))
	}
	if err := c.Check(); err != nil {
		return Config{}, fmt.Errorf("cannot use the values: proxy: %w", err)
	}
	return c, nil
}
