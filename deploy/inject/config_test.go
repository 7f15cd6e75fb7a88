package inject

import (
	"strings"
	"testing"
)

func TestDefaultsAreValid(t *testing.T) {
	if err := Defaults().Check(); err != nil {
		t.Fatal(err)
	}
}

// TestSettings: each value that is accepted is kept, each that is not is refused by
// its name and with an example.
func TestSettings(t *testing.T) {
	f := func(name, value, want string) {
		t.Helper()
		c := Defaults()
		err := c.Set(name, value)
		if want == "" {
			if err != nil {
				t.Errorf("%s %q: %v", name, value, err)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %q: %v, want %q", name, value, err, want)
		}
		if c != Defaults() {
			t.Errorf("%s %q is refused, and changes the settings", name, value)
		}
	}
	f("skip-inbound-ports", "22,8000-8010", "")
	f("skip-inbound-ports", "", "")
	f("skip-inbound-ports", "0", `"0" is no port from 1 to 65535`)
	f("skip-outbound-ports", "9-8", `"9-8" is no port`)
	f("skip-outbound-ports", "http", "want ports and ranges, for example 22,8000-8010")
	f("skip-subnets", "10.0.0.0/8,fd00::/8", "")
	f("skip-subnets", "10.0.0.0", `"10.0.0.0" is no subnet`)
	f("opaque-ports", "none", "")
	f("proxy-cpu-request", "100m", "")
	f("proxy-cpu-limit", "lots", "it is no quantity; want a quantity of Kubernetes, for example 1")
	f("proxy-memory-limit", "-1Mi", "negative")
	f("proxy-log-level", "trace", "want debug, info, warn or error")
	f("image-pull-policy", "never", "want Always, IfNotPresent or Never")
	f("drain-timeout", "5", "it is no duration")
	f("native-sidecar", "yes", "neither true nor false")
	f("proxy-image", "", "it is empty")
	f("proxy-image", "a b", "no name of an image")
	f("proxy-imag", "x", `there is no setting "proxy-imag"`)

	var c Config
	for image, want := range map[string][2]string{
		"localhost:5000/proxy":    {"localhost:5000/proxy", ""},
		"localhost:5000/proxy:v2": {"localhost:5000/proxy", "v2"},
		"proxy:v3":                {"proxy", "v3"},
	} {
		c = Config{}
		if err := c.Set("proxy-image", image); err != nil || [2]string{c.Image, c.Version} != want {
			t.Errorf("image %s: %q %q, %v", image, c.Image, c.Version, err)
		}
	}
}

func TestParseValues(t *testing.T) {
	at := Installation{Namespace: "mesh", Version: "v1", TrustAnchors: anchors}
	c, err := ParseValues([]byte("clusterName: east\nclusterDomain: example.org\nproxy:\n  logLevel: debug\n  logFormat: json\n  drainDelay: 5s\n  drainTimeout: 2m\n  skipSubnets: 192.0.2.0/24\n  opaquePorts: ''\n  resources: {cpu: {request: 5m}}\n  nativeSidecar: false\n"), at)
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Version, want.TrustAnchors, want.Cluster, want.Bus = "v1", anchors, "east", "tls://weir-bus.mesh.svc.example.org:4222"
	want.LogLevel, want.Resources.CPU.Request, want.NativeSidecar, want.OpaquePorts = "debug", "5m", false, "none"
	want.LogFormat, want.DrainDelay, want.DrainTimeout, want.SkipSubnets = "json", "5s", "2m", "192.0.2.0/24"
	if c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for values, wrong := range map[string]string{
		"proxy: {logLevels: debug}":              "proxy.logLevels",
		"proxy: {drainTimeout: soon}":            "proxy.drainTimeout",
		"proxy: {skipSubnets: 10.0.0.0/40}":      "proxy.skipSubnets",
		"proxy: {skipInboundPorts: '70000'}":     `skipInboundPorts "70000": "70000" is no port from 1 to 65535`,
		"\t":                                     "cannot read the values",
		"proxy: {resources: {cpu: {limit: 1q}}}": "resources.cpu.limit",
		"proxy: {nativeSidecar: maybe}":          "nativeSidecar",
	} {
		if _, err := ParseValues([]byte(values), at); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v, want %q", values, err, wrong)
		}
	}
}
