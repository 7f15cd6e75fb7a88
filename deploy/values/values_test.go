package values

import (
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestTags holds that every field says what it does and may be.
func TestTags(t *testing.T) {
	known := forms()
	var walk func(t reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			at := path + "." + f.Name
			if f.Tag.Get("json") == "" || !strings.HasSuffix(f.Tag.Get("doc"), ".") {
				t.Errorf("%s has no name, or no sentence as its doc", at)
			}
			if strings.Contains(f.Tag.Get("doc"), "\n") {
				t.Errorf("%s: its doc is more than a line", at)
			}
			if name := f.Tag.Get("form"); name != "" {
				if _, ok := known[name]; !ok {
					t.Errorf("%s: no form %q", at, name)
				}
			}
			if least, most := bounds(f); f.Type.Kind() == reflect.Int && least >= most {
				t.Errorf("%s: no bounds", at)
			}
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type, at)
			}
		}
	}
	walk(reflect.TypeFor[Values](), "Values")
}

// TestDefaultsAreGood holds that the defaults pass their own checks, and that
// values.yaml says the same.
func TestDefaultsAreGood(t *testing.T) {
	var given map[string]any
	if err := yaml.Unmarshal(YAML(), &given); err != nil {
		t.Fatal(err)
	}
	got, err := Decode(Default(), given)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, Default()) {
		t.Errorf("values.yaml gives\n%+v, the defaults are\n%+v", got, Default())
	}
	if got, err = Decode(Default(), Default().Map()); err != nil || !reflect.DeepEqual(got, Default()) {
		t.Errorf("Map gives\n%+v, %v", got, err)
	}
}

func TestDecode(t *testing.T) {
	f := func(given, want string) {
		t.Helper()
		var m map[string]any
		if err := yaml.Unmarshal([]byte(given), &m); err != nil {
			t.Fatal(err)
		}
		_, err := Decode(Default(), m)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", given, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", given, err, want)
		}
	}
	f("", "")
	f("bus:", "")
	f("images: {tag: 1.5}", "")
	f("controller: {replicas: 2, resources: {cpu: {limit: 1}}}", "")
	f("scheduling: {tolerations: [{key: a, operator: Exists}], nodeSelector: {a: b}}", "")
	f("proxy: {skipInboundPorts: '25,8000-9000'}", "")
	f("proxy: {skipSubnets: '192.0.2.0/24,2001:db8::/32', drainDelay: 5s, drainTimeout: 2m}", "")

	f("proxy: {skipSubnets: 192.0.2.1}", `proxy.skipSubnets: "192.0.2.1" is not subnets with commas between`)
	f("proxy: {skipSubnets: 192.0.2.0/40}", `proxy.skipSubnets: "192.0.2.0/40" is no subnet`)
	f("proxy: {drainDelay: soon}", `proxy.drainDelay: "soon" is not a duration`)
	f("bux: {}", "bux: there is no such value; the top has: aggregator, api, bus,")
	f("bus: {size: 1}", "bus.size: there is no such value; bus has: eventsMaxAge,")
	f("bus: 5", "bus: 5 is no set of values")
	f("bus: {eventsMaxAge: forever}", `bus.eventsMaxAge: "forever" is not a duration, as 1h30m`)
	f("bus: {storage: {size: much}}", `bus.storage.size: "much" is not a quantity`)
	f("highAvailability: 'yes'", `highAvailability: "yes" is neither true nor false`)
	f("controller: {replicas: 99}", "controller.replicas: 99 is not between 0 and 16")
	f("controller: {replicas: 1.5}", "controller.replicas: 1.5 is no whole number")
	f("injector: {failurePolicy: Maybe}", `injector.failurePolicy: "Maybe" is none of Ignore, Fail`)
	f("networkPolicies: {namespaces: [UPPER]}", `networkPolicies.namespaces: "UPPER" is not a name`)
	f("networkPolicies: {namespaces: x}", `networkPolicies.namespaces: "x" is no list`)
	f("scheduling: {nodeSelector: {a: 1}}", "scheduling.nodeSelector: a: 1 is no text")
	f("clusterName: a.b", `clusterName: "a.b" is not a name`)
	f("issuer: {key: x}", "issuer: trustAnchors, certificate and key belong together")
	f("issuer: {key: x, certificate: x, trustAnchors: x, existing: true}", "issuer.existing")
	// All at once.
	f("{clusterName: '', verbose: 1}", "verbose: 1 is neither")
}
