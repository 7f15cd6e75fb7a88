package inject

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
)

// uninject says what is to be removed from a pod.
func (t template) uninject() verdict {
	all := slices.Concat(t.Spec.InitContainers, t.Spec.Containers)
	if !slices.ContainsFunc(all, func(c core.Container) bool { return c.Name == ProxyContainer || c.Name == InitContainer }) {
		return verdict{reason: "it is not injected"}
	}
	v := verdict{}
	if intent(t.Annotations, t.Labels) == Enabled {
		v.notes = append(v.notes, AnnotationInject+": enabled stays on it, so the webhook injects its pods; set it to disabled to prevent that")
	}
	v.ops = slices.Concat(
		removeKeys(t.value, "annotations", AnnotationProxyVersion, AnnotationInjectedBy),
		removeItems(t.value, "initContainers", InitContainer, ProxyContainer),
		removeItems(t.value, "containers", ProxyContainer),
		removeItems(t.value, "volumes", IdentityVolume, SpoolVolume),
	)
	return v
}

// removeKeys removes annotations or labels, and the mapping they are in where it
// holds nothing else, and so on.
func removeKeys(value any, mapping string, keys ...string) []Op {
	path := []string{"metadata", mapping}
	there, _ := at(value, path...).(map[string]any)
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { _, ok := there[k]; return !ok })
	if len(keys) == 0 {
		return nil
	}
	if len(keys) < len(there) {
		var ops []Op
		for _, k := range keys {
			ops = append(ops, Op{Op: "remove", Path: pointer(append(slices.Clone(path), k)...)})
		}
		return ops
	}
	if metadata, _ := at(value, "metadata").(map[string]any); len(metadata) == 1 {
		path = path[:1]
	}
	return []Op{{Op: "remove", Path: pointer(path...)}}
}

// removeItems removes those of a list of the pod's spec that have one of the names,
// and the list where it holds nothing else.
func removeItems(value any, list string, names ...string) []Op {
	items, _ := at(value, "spec", list).([]any)
	var ops []Op
	for i, item := range items {
		if name, _ := at(item, "name").(string); slices.Contains(names, name) {
			// The last first, so that the others keep their places.
			ops = slices.Insert(ops, 0, Op{Op: "remove", Path: pointer("spec", list, strconv.Itoa(i))})
		}
	}
	if len(ops) > 0 && len(ops) == len(items) {
		return []Op{{Op: "remove", Path: pointer("spec", list)}}
	}
	return ops
}

// marked is a value of AnnotationInjectedBy that also says which settings were added
// to a namespace or a Service.
func marked(by string, added []string) string {
	if len(added) == 0 {
		return by
	}
	return by + "; " + strings.Join(added, ",")
}

// annotateOps sets settings of flags on a namespace or a Service, and on a namespace
// the label that has its pods injected. What is there already stays.
func annotateOps(value any, w wishes, enable bool, allowed func(name string) bool) verdict {
	annotations := stringMap(at(value, "metadata", "annotations"))
	labels := stringMap(at(value, "metadata", "labels"))
	add := map[string]string{}
	var added []string
	v := verdict{}
	for _, name := range slices.Sorted(maps.Keys(w.flags)) {
		key := Domain + "/" + name
		if !allowed(name) {
			continue
		}
		if have, ok := annotations[key]; ok {
			if have != w.flags[name] {
				v.notes = append(v.notes, "it has the annotation "+key+" already, which stays as it is")
			}
			continue
		}
		add[key], added = w.flags[name], append(added, name)
	}
	label := enable && labels[AnnotationInject] != Enabled
	if label {
		added = append(added, "inject")
	}
	switch {
	case enable && intent(annotations, labels) == Disabled:
		return verdict{reason: AnnotationInject + ": disabled is set on it"}
	case len(added) == 0 && enable:
		v.reason = AnnotationInject + ": enabled is set on it already"
		return v
	case len(added) == 0:
		v.reason = "there is nothing to annotate it with"
		return v
	}
	if _, ok := annotations[AnnotationInjectedBy]; !ok {
		add[AnnotationInjectedBy] = marked(w.by, added)
	}
	v.ops = addKeys(value, []string{"metadata", "annotations"}, add)
	if label {
		v.ops = append(v.ops, addKeys(value, []string{"metadata", "labels"}, map[string]string{AnnotationInject: Enabled})...)
	}
	return v
}

// unannotateOps undoes annotateOps. A namespace is no longer to be injected, whoever
// said it was.
func unannotateOps(value any) verdict {
	annotations := stringMap(at(value, "metadata", "annotations"))
	keys := []string{AnnotationInjectedBy}
	if annotations[AnnotationInject] == Enabled {
		keys = append(keys, AnnotationInject)
	}
	if _, added, ok := strings.Cut(annotations[AnnotationInjectedBy], "; "); ok {
		for name := range strings.SplitSeq(added, ",") {
			if name != "inject" {
				keys = append(keys, Domain+"/"+name)
			}
		}
	}
	v := verdict{ops: removeKeys(value, "annotations", keys...)}
	if stringMap(at(value, "metadata", "labels"))[AnnotationInject] == Enabled {
		v.ops = append(v.ops, removeKeys(value, "labels", AnnotationInject)...)
	}
	if len(v.ops) == 0 {
		v.reason = "it is not annotated by Weir"
	}
	return v
}
