package inject

import (
	"encoding/json"
	"fmt"
)

// PodOptions say how a pod that is being made is injected.
type PodOptions struct {
	// Config is the installation's.
	Config Config
	// Owner is the workload that the pod belongs to.
	Owner Owner
	// Namespace is the pod's.
	Namespace Namespace
	// By is what the mark weir.dev/injected-by says.
	By string
}

// Decision is what is to be done with a pod.
type Decision struct {
	// Patch is to be applied to the pod; empty where it is left as it is.
	Patch []Op
	// Reason is why it is left as it is. Wanted says that somebody asked for
	// injection all the same, and should know the reason.
	Reason string
	Wanted bool
	// Notes are what else there is to know.
	Notes []string
}

// Pod decides about a pod, as JSON, that is being made. Unlike Inject it leaves alone
// pods for which neither they nor their namespace ask. The error names an annotation
// that cannot be heeded; such a pod should be refused, for the annotation would
// silently be without effect.
func Pod(pod []byte, o PodOptions) (Decision, error) {
	value, err := parseJSON(pod)
	if err != nil {
		return Decision{}, fmt.Errorf("cannot read the pod: %w", err)
	}
	t, err := newTemplate(value)
	if err != nil {
		return Decision{}, err
	}
	w := wishes{config: o.Config, namespace: o.Namespace, by: o.By, asked: true}
	// Who does not ask is not told what is wrong with annotations.
	if reason := t.unwanted(w); reason != "" {
		return Decision{Reason: reason}, nil
	}
	v, err := t.inject(w, o.Owner)
	if err != nil {
		return Decision{}, err
	}
	return Decision{Patch: v.ops, Reason: v.reason, Wanted: v.reason != "" && !v.unwanted, Notes: v.notes}, nil
}

// PatchJSON is the patch as the API server takes it.
func (d Decision) PatchJSON() ([]byte, error) { return json.Marshal(d.Patch) }
