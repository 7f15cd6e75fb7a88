package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/suggest"
)

// Namespace is what is known of a pod's namespace.
type Namespace struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// wishes are what injection is to heed beside the pod itself.
type wishes struct {
	config Config
	// flags are settings by name, which outdo annotations.
	flags     map[string]string
	namespace Namespace
	by        string
	// asked: pods are injected only where the pod or its namespace asks for it.
	asked bool
}

// template is a pod, or what pods are made of: a value with metadata and spec.
type template struct {
	value any
	core.PodTemplateSpec
}

func newTemplate(value any) (template, error) {
	t := template{value: value}
	data, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(data, &t.PodTemplateSpec)
	}
	if err != nil {
		return t, fmt.Errorf("cannot read its pod: %w", err)
	}
	return t, nil
}

// verdict is what is to be done with a template.
type verdict struct {
	ops    []Op
	reason string // where nothing is
	// unwanted: the reason is that somebody wants it so.
	unwanted bool
	notes    []string
}

// inject decides about a pod, and says what is to be added. The error names an
// annotation that cannot be heeded.
func (t template) inject(w wishes, owner Owner) (verdict, error) {
	c, err := w.settle(t.Annotations)
	if err != nil {
		return verdict{}, err
	}
	if err := checkIntent("label ", t.Labels); err != nil {
		return verdict{}, err
	}
	if reason := t.unwanted(w); reason != "" {
		return verdict{reason: reason, unwanted: true}, nil
	}
	if reason := refusal(&t.Spec); reason != "" {
		return verdict{reason: reason}, nil
	}
	if reason := forbidden(w.namespace.Name, w.namespace.Labels); reason != "" {
		return verdict{reason: reason}, nil
	}
	v := verdict{notes: notes(c, owner, &t.Spec)}
	p := build(c, owner, probePorts(&t.Spec))
	v.ops = addKeys(t.value, []string{"metadata", "annotations"}, map[string]string{
		AnnotationProxyVersion: c.Version,
		AnnotationInjectedBy:   w.by,
	})
	if c.NativeSidecar {
		v.ops = append(v.ops, addItems(t.value, "initContainers", false, p.init, p.proxy)...)
	} else {
		// The application's init containers end before the proxy is there, so
		// nothing may be redirected until then.
		v.ops = append(v.ops, addItems(t.value, "initContainers", true, p.init)...)
		v.ops = append(v.ops, addItems(t.value, "containers", false, p.proxy)...)
	}
	v.ops = append(v.ops, addItems(t.value, "volumes", false, p.volumes...)...)
	return v, nil
}

// notes are what whoever injects a pod should know.
func notes(c Config, owner Owner, spec *core.PodSpec) []string {
	var out []string
	if c.NativeSidecar {
		return nil
	}
	if owner.Kind == "job" || owner.Kind == "cronjob" {
		out = append(out, "with --native-sidecar=false its Jobs do not complete: the proxy goes on when the application has ended")
	}
	if len(spec.InitContainers) > 0 {
		out = append(out, "with --native-sidecar=false the connections of its init containers pass the proxy by")
	}
	return out
}

// intent is what an object's metadata says of injection, by an annotation or, which
// the webhook's selectors need, a label.
func intent(annotations, labels map[string]string) string {
	if v, ok := annotations[AnnotationInject]; ok {
		return v
	}
	return labels[AnnotationInject]
}

// unwanted says why a pod is not to be injected, "" where it is.
func (t template) unwanted(w wishes) string {
	own := intent(t.Annotations, t.Labels)
	whole := intent(w.namespace.Annotations, w.namespace.Labels)
	switch {
	case own == Disabled:
		return AnnotationInject + ": disabled is set on it"
	case own == Enabled:
		return ""
	case whole == Disabled:
		return fmt.Sprintf("%s: disabled is set on namespace %s", AnnotationInject, w.namespace.Name)
	case w.asked && whole != Enabled:
		return AnnotationInject + ": enabled is set neither on it nor on its namespace"
	}
	return ""
}

// settle is the Config for a pod: the installation's, changed by annotations of
// the namespace, of the pod, and by flags, in this order.
func (w wishes) settle(annotations map[string]string) (Config, error) {
	c := w.config
	for _, from := range []struct {
		what        string
		annotations map[string]string
	}{{"namespace " + w.namespace.Name + ": ", w.namespace.Annotations}, {"", annotations}} {
		if err := annotate(&c, from.annotations); err != nil {
			return Config{}, fmt.Errorf("%s%w", from.what, err)
		}
	}
	for name, value := range w.flags {
		if err := c.Set(name, value); err != nil {
			return Config{}, fmt.Errorf("--%s %w", name, err)
		}
	}
	if c.RequireMTLS && !identified(c) {
		return Config{}, errors.New("require-mtls needs the installation's trust anchors and bus, and here are none")
	}
	return c, c.Check()
}

// annotate changes c by annotations; those of others are left alone.
func annotate(c *Config, annotations map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ours := strings.CutPrefix(key, Domain+"/")
		value := annotations[key]
		switch {
		case !ours || key == AnnotationProxyVersion || key == AnnotationInjectedBy:
		case key == AnnotationInject:
			if err := checkIntent("annotation ", annotations); err != nil {
				return err
			}
		case !slices.ContainsFunc(Settings(), func(s Setting) bool { return s.Name == name }):
			return fmt.Errorf("there is no annotation %s%s", key, meant(name))
		default:
			if err := c.Set(name, value); err != nil {
				return fmt.Errorf("annotation %s %w", key, err)
			}
		}
	}
	return nil
}

// checkIntent refuses what is neither enabled nor disabled.
func checkIntent(what string, in map[string]string) error {
	if v, ok := in[AnnotationInject]; ok && v != Enabled && v != Disabled {
		return fmt.Errorf("%s%s: %q is neither %s nor %s", what, AnnotationInject, v, Enabled, Disabled)
	}
	return nil
}

// meant asks for the annotation that may have been meant.
func meant(name string) string {
	known := []string{"inject"}
	for _, s := range Settings() {
		known = append(known, s.Name)
	}
	near := suggest.Near(name, known)
	for i := range near {
		near[i] = Domain + "/" + near[i]
	}
	if len(near) == 0 {
		return ": remove it, or see docs/inject.md for those that there are"
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

// addKeys sets keys of a mapping, which is made where there is none, and its parent
// with it.
func addKeys(value any, path []string, keys map[string]string) []Op {
	for i := range path {
		if _, ok := at(value, path[:i+1]...).(map[string]any); ok {
			continue
		}
		var v any = keys
		for j := len(path) - 1; j > i; j-- {
			v = map[string]any{path[j]: v}
		}
		return []Op{{Op: "add", Path: pointer(path[:i+1]...), Value: v}}
	}
	var ops []Op
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		ops = append(ops, Op{Op: "add", Path: pointer(append(slices.Clone(path), k)...), Value: keys[k]})
	}
	return ops
}

// addItems puts items into a list of the pod's spec, which is made where there is
// none: before those that are there, or behind them.
func addItems(value any, list string, behind bool, items ...any) []Op {
	if len(items) == 0 {
		return nil
	}
	there, ok := at(value, "spec", list).([]any)
	if !ok || len(there) == 0 && behind {
		return []Op{{Op: "add", Path: pointer("spec", list), Value: items}}
	}
	var ops []Op
	for _, item := range items {
		if behind {
			ops = append(ops, Op{Op: "add", Path: pointer("spec", list, "-"), Value: item})
		} else {
			// The last first, so that they stand in their order.
			ops = slices.Insert(ops, 0, Op{Op: "add", Path: pointer("spec", list, "0"), Value: item})
		}
	}
	return ops
}
