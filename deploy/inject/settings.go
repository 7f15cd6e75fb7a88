package inject

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// A Setting is something that a flag --NAME of `weir inject` and an annotation
// weir.dev/NAME of a pod or namespace change.
type Setting struct {
	// Name is that of the flag, and of the annotation behind "weir.dev/".
	Name string
	// Value names what is accepted, for help: "PORTS", "true|false".
	Value string
	// Usage says what it does.
	Usage string
}

// setting is one field of Config.
type setting struct {
	Setting
	// field is its name in YAML; want says what is accepted, with an example.
	field, want string
	// required fields may not be empty. A setting without Name is changed by
	// values only.
	required bool
	get      func(c *Config) string
	// set checks v and sets the field.
	set func(c *Config, v string) error
}

// Settings are all that can be changed for a pod, in the order of the help.
func Settings() []Setting {
	var out []Setting
	for _, s := range settings() {
		if s.Name != "" {
			out = append(out, s.Setting)
		}
	}
	return out
}

// Set changes the setting name, as a flag or an annotation does. The error says
// what is accepted, with an example.
func (c *Config) Set(name, value string) error {
	for _, s := range settings() {
		if s.Name == name && name != "" {
			if err := s.set(c, value); err != nil {
				return fmt.Errorf("%q: %w; want %s", value, err, s.want)
			}
			return nil
		}
	}
	return fmt.Errorf("there is no setting %q", name)
}

// settings is every field of Config.
func settings() []setting {
	const (
		ports    = "ports and ranges, for example 22,8000-8010"
		quantity = "a quantity of Kubernetes, for example "
		duration = "a duration, for example 5s"
		boolean  = "true or false"
	)
	return []setting{
		text("proxy-image", "NAME[:TAG]", "the sidecar's image; without a tag that of the installation", "image", "a name of an image, for example ghcr.io/weirmesh/weir-proxy:v1.2.3", true,
			func(c *Config) *string { return &c.Image }, setImage),
		text("", "", "", "version", "a tag of an image, for example v1.2.3", true,
			func(c *Config) *string { return &c.Version }, checkTag),
		text("image-pull-policy", "POLICY", "when the image is pulled", "pullPolicy", "Always, IfNotPresent or Never", true,
			func(c *Config) *string { return &c.PullPolicy }, oneOf("Always", "IfNotPresent", "Never")),
		text("proxy-cpu-request", "CPU", "processor time that the sidecar asks for", "resources.cpu.request", quantity+"100m", false,
			func(c *Config) *string { return &c.Resources.CPU.Request }, checkQuantity),
		text("proxy-cpu-limit", "CPU", "processor time that the sidecar gets at most", "resources.cpu.limit", quantity+"1", false,
			func(c *Config) *string { return &c.Resources.CPU.Limit }, checkQuantity),
		text("proxy-memory-request", "BYTES", "memory that the sidecar asks for", "resources.memory.request", quantity+"16Mi", false,
			func(c *Config) *string { return &c.Resources.Memory.Request }, checkQuantity),
		text("proxy-memory-limit", "BYTES", "memory beyond which the sidecar is killed", "resources.memory.limit", quantity+"128Mi", false,
			func(c *Config) *string { return &c.Resources.Memory.Limit }, checkQuantity),
		text("proxy-log-level", "LEVEL", "how much the sidecar logs", "logLevel", "debug, info, warn or error", true,
			func(c *Config) *string { return &c.LogLevel }, oneOf("debug", "info", "warn", "error")),
		text("proxy-log-format", "FORMAT", "form of the sidecar's log", "logFormat", "text or json", true,
			func(c *Config) *string { return &c.LogFormat }, oneOf("text", "json")),
		text("skip-inbound-ports", "PORTS", "ports of the pod that are reached without the proxy", "skipInboundPorts", ports, false,
			func(c *Config) *string { return &c.SkipInboundPorts }, checkPorts),
		text("skip-outbound-ports", "PORTS", "ports that are reached from the pod without the proxy", "skipOutboundPorts", ports, false,
			func(c *Config) *string { return &c.SkipOutboundPorts }, checkPorts),
		text("skip-subnets", "CIDRS", "addresses that are reached from the pod without the proxy", "skipSubnets", "subnets, for example 10.96.0.0/12,fd00::/8", false,
			func(c *Config) *string { return &c.SkipSubnets }, checkSubnets),
		text("opaque-ports", "PORTS|none", "ports whose connections are carried as TCP and not looked into", "opaquePorts", ports+", or none", false,
			func(c *Config) *string { return &c.OpaquePorts }, orNone(checkPorts)),
		text("drain-delay", "DURATION", "for how long the proxy goes on accepting when the pod ends", "drainDelay", duration, true,
			func(c *Config) *string { return &c.DrainDelay }, checkDuration),
		text("drain-timeout", "DURATION", "for how long open connections may then go on", "drainTimeout", duration, true,
			func(c *Config) *string { return &c.DrainTimeout }, checkDuration),
		boolSetting("require-mtls", "refuse clients that have no identity of the mesh", "requireMTLS", boolean, func(c *Config) *bool { return &c.RequireMTLS }),
		boolSetting("native-sidecar", "add the proxy as an init container that restarts always; false: as a plain container", "nativeSidecar", boolean,
			func(c *Config) *bool { return &c.NativeSidecar }),
		text("spool", "BYTES|none", "size of a volume in memory where unsent telemetry outlives the proxy's being killed", "spool", quantity+"16Mi, or none", false,
			func(c *Config) *string { return &c.Spool }, orNone(checkQuantity)),
		text("", "", "", "bus", "nats://HOST:PORT or tls://HOST:PORT, for example tls://weir-bus.weir.svc:4222", false,
			func(c *Config) *string { return &c.Bus }, checkBus),
		text("", "", "", "cluster", "letters, digits, '-', '_' and '.', for example east", true,
			func(c *Config) *string { return &c.Cluster }, checkName),
		text("", "", "", "trustDomain", "letters, digits, '-', '_' and '.', for example cluster.local", true,
			func(c *Config) *string { return &c.TrustDomain }, checkName),
		text("", "", "", "trustAnchors", "certificates in PEM", false,
			func(c *Config) *string { return &c.TrustAnchors }, checkPEM),
	}
}

// text makes a setting of a field that holds text.
func text(name, value, usage, field, want string, required bool, at func(*Config) *string, check func(string) error) setting {
	return setting{Setting: Setting{Name: name, Value: value, Usage: usage}, field: field, want: want, required: required,
		get: func(c *Config) string { return *at(c) },
		set: func(c *Config, v string) error {
			if v == "" && required {
				return errors.New("it is empty")
			}
			if v != "" {
				if err := check(v); err != nil {
					return err
				}
			}
			if name == "proxy-image" {
				v = takeTag(c, v)
			}
			*at(c) = v
			return nil
		}}
}

// boolSetting makes a setting of a field that is true or false.
func boolSetting(name, usage, field, want string, at func(*Config) *bool) setting {
	return setting{Setting: Setting{Name: name, Value: "true|false", Usage: usage}, field: field, want: want,
		get: func(c *Config) string { return strconv.FormatBool(*at(c)) },
		set: func(c *Config, v string) error {
			if v != "true" && v != "false" {
				return errors.New("it is neither true nor false")
			}
			*at(c) = v == "true"
			return nil
		}}
}

// takeTag moves an image's tag, if it has one, to the version.
func takeTag(c *Config, image string) string {
	if at := strings.LastIndexByte(image, ':'); at > strings.LastIndexByte(image, '/') {
		c.Version = image[at+1:]
		return image[:at]
	}
	return image
}

func setImage(v string) error {
	if strings.ContainsAny(v, " \t\n\"'@") || strings.HasSuffix(v, ":") || strings.HasSuffix(v, "/") {
		return errors.New("it is no name of an image")
	}
	return nil
}

func checkTag(v string) error {
	if len(v) > 128 {
		return errors.New("it is longer than 128")
	}
	for i, r := range v {
		if !isNameRune(r) || i == 0 && (r == '.' || r == '-') {
			return fmt.Errorf("%q cannot stand in a tag", r)
		}
	}
	return nil
}

func checkName(v string) error {
	if len(v) > 253 {
		return errors.New("it is longer than 253")
	}
	for _, r := range v {
		if !isNameRune(r) {
			return fmt.Errorf("%q cannot stand in a name", r)
		}
	}
	return nil
}

func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.'
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return errors.New("it is none of them")
		}
		return nil
	}
}

// orNone accepts "none", too.
func orNone(check func(string) error) func(string) error {
	return func(v string) error {
		if v == "none" {
			return nil
		}
		return check(v)
	}
}

func checkQuantity(v string) error {
	q, err := resource.ParseQuantity(v)
	if err != nil {
		return errors.New("it is no quantity")
	}
	if q.Sign() < 0 {
		return errors.New("it is negative")
	}
	return nil
}

func checkPorts(v string) error {
	entries := strings.Split(v, ",")
	if len(entries) > 64 {
		return fmt.Errorf("it has %d entries, more than 64", len(entries))
	}
	for _, e := range entries {
		first, last, ranged := strings.Cut(strings.TrimSpace(e), "-")
		if !ranged {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || from == 0 || to < from {
			return fmt.Errorf("%q is no port from 1 to 65535 and no range of them", e)
		}
	}
	return nil
}

func checkSubnets(v string) error {
	for e := range strings.SplitSeq(v, ",") {
		if _, err := netip.ParsePrefix(strings.TrimSpace(e)); err != nil {
			return fmt.Errorf("%q is no subnet", e)
		}
	}
	return nil
}

func checkDuration(v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		return errors.New("it is no duration")
	}
	if d < 0 {
		return errors.New("it is negative")
	}
	return nil
}

func checkBus(v string) error {
	for e := range strings.SplitSeq(v, ",") {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" {
			return fmt.Errorf("%q is no address of a bus", e)
		}
	}
	return nil
}

func checkPEM(v string) error {
	block, _ := pem.Decode([]byte(v))
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("there is no certificate in it")
	}
	if strings.Contains(v, "PRIVATE KEY") {
		return errors.New("it holds a private key, which must stay secret")
	}
	return nil
}
