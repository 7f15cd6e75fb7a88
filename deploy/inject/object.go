package inject

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// workloads are the kinds whose pods are injected: where their template is, and
// kubectl's short form. groups are those of their apiVersion.
var workloads = map[string]struct {
	template []string
	short    string
	groups   []string
}{
	"Deployment":            {[]string{"spec", "template"}, "deploy", []string{"apps", "extensions"}},
	"DaemonSet":             {[]string{"spec", "template"}, "ds", []string{"apps", "extensions"}},
	"StatefulSet":           {[]string{"spec", "template"}, "sts", []string{"apps"}},
	"ReplicaSet":            {[]string{"spec", "template"}, "rs", []string{"apps", "extensions"}},
	"ReplicationController": {[]string{"spec", "template"}, "rc", []string{""}},
	"Job":                   {[]string{"spec", "template"}, "job", []string{"batch"}},
	"CronJob":               {[]string{"spec", "jobTemplate", "spec", "template"}, "cronjob", []string{"batch"}},
	"Pod":                   {nil, "pod", []string{""}},
}

// object is one Kubernetes object of a document, or of a List in it.
type object struct {
	value any
	// prefix is where it is in its document.
	prefix                       string
	kind, group, name, namespace string
}

func newObject(value any, prefix string) object {
	o := object{value: value, prefix: prefix}
	o.kind, _ = at(value, "kind").(string)
	version, _ := at(value, "apiVersion").(string)
	if group, _, ok := strings.Cut(version, "/"); ok {
		o.group = group
	}
	o.name, _ = at(value, "metadata", "name").(string)
	if prefix, _ := at(value, "metadata", "generateName").(string); o.name == "" && prefix != "" {
		o.name = prefix + "*"
	}
	o.namespace, _ = at(value, "metadata", "namespace").(string)
	return o
}

// objects are those of a document: itself, or the items of a List.
func objects(value any, prefix string) []object {
	o := newObject(value, prefix)
	items, ok := at(value, "items").([]any)
	if !ok || !strings.HasSuffix(o.kind, "List") {
		return []object{o}
	}
	var out []object
	for i, item := range items {
		out = append(out, objects(item, prefix+pointer("items", strconv.Itoa(i)))...)
	}
	return out
}

// is tells whether o is of a kind of a group.
func (o object) is(kind, group string) bool { return o.kind == kind && o.group == group }

// inject says what is to be done with o.
func (o object) inject(w wishes) (Report, []Op, error) {
	r := Report{Kind: o.kind, Name: o.name, Action: Skipped}
	v, err := o.decide(w, &r)
	if err != nil {
		return r, nil, fmt.Errorf("cannot inject %s %q: %w", strings.ToLower(o.kind), o.name, err)
	}
	r.Reason, r.Notes = v.reason, v.notes
	if len(v.ops) == 0 {
		r.Action = Skipped
	}
	return r, below(o.prefix, v.ops), nil
}

// decide finds the verdict on o, and what the report calls it if it is done.
func (o object) decide(w wishes, r *Report) (verdict, error) {
	switch {
	case o.is("Namespace", ""):
		r.Action = Annotated
		labels := stringMap(at(o.value, "metadata", "labels"))
		if reason := forbidden(o.name, labels); reason != "" {
			return verdict{reason: reason}, nil
		}
		return annotateOps(o.value, w, true, func(string) bool { return true }), nil
	case o.is("Service", ""):
		r.Action = Annotated
		return annotateOps(o.value, w, false, func(name string) bool { return name == "opaque-ports" }), nil
	}
	t, owner, reason, err := o.template()
	if reason != "" || err != nil {
		return verdict{reason: reason}, err
	}
	r.Action = Injected
	return t.inject(w, owner)
}

// uninject says what is to be undone of o.
func (o object) uninject() (Report, []Op, error) {
	r := Report{Kind: o.kind, Name: o.name, Action: Uninjected}
	var v verdict
	if o.is("Namespace", "") || o.is("Service", "") {
		v = unannotateOps(o.value)
	} else {
		t, _, reason, err := o.template()
		if err != nil {
			return r, nil, fmt.Errorf("cannot uninject %s %q: %w", strings.ToLower(o.kind), o.name, err)
		}
		if v.reason = reason; reason == "" {
			v = t.uninject()
		}
	}
	r.Reason, r.Notes = v.reason, v.notes
	if len(v.ops) == 0 {
		r.Action = Skipped
	}
	return r, below(o.prefix, v.ops), nil
}

// template finds the pod of o; else the reason why there is none. Operations on it
// are relative to o.
func (o object) template() (located, Owner, string, error) {
	w, ok := workloads[o.kind]
	if !ok || !slices.Contains(w.groups, o.group) {
		reason := "it has no pods"
		if at(o.value, "spec", "template", "spec", "containers") != nil {
			reason = fmt.Sprintf("kind %s of %q is not supported: label its pods %s: %s, and the webhook injects them",
				o.kind, o.group, AnnotationInject, Enabled)
		}
		return located{}, Owner{}, reason, nil
	}
	value := at(o.value, w.template...)
	if value == nil {
		return located{}, Owner{}, "it has no pod template", nil
	}
	t, err := newTemplate(value)
	return located{t, pointer(w.template...)}, Owner{Kind: w.short, Name: o.name}, "", err
}

// located is a template, and where it is in its object.
type located struct {
	template
	path string
}

func (l located) inject(w wishes, owner Owner) (verdict, error) {
	v, err := l.template.inject(w, owner)
	v.ops = below(l.path, v.ops)
	return v, err
}

func (l located) uninject() verdict {
	v := l.template.uninject()
	v.ops = below(l.path, v.ops)
	return v
}

func stringMap(v any) map[string]string {
	m, _ := v.(map[string]any)
	out := map[string]string{}
	for k, v := range m {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}
