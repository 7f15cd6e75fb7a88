package inject

import "reflect"

// equal compares values, empty mappings and lists being as good as none: Kubernetes
// makes no difference.
func equal(a, b any) bool { return reflect.DeepEqual(prune(a), prune(b)) }

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, child := range v {
			if child = prune(child); child != nil {
				out[k] = child
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = prune(v[i])
		}
		return out
	}
	return v
}
