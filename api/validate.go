package api

import (
	"strings"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxName bounds a name, as Kubernetes does.
const maxName = 253

// Kinds that group rather than name a workload.
const (
	kindPod       = "pod"
	kindNamespace = "ns"
)

const kindList = "deploy, sts, ds, job, cronjob, rs, rc, pod, ns, ext"

// invalid is the answer to a request whose field is not acceptable.
func invalid(field, format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, field+": "+format, args...)
}

// selector checks a resource of a request. A namespace as resource is selected
// by its name, whichever of the two fields holds it.
func selector(field string, r *weirpb.Resource) (query.Selector, error) {
	sel := query.Selector{
		Cluster:   r.GetCluster(),
		Namespace: r.GetNamespace(),
		Kind:      r.GetKind(),
		Name:      r.GetName(),
	}
	for _, f := range []struct{ name, value string }{
		{"cluster", sel.Cluster}, {"namespace", sel.Namespace}, {"name", sel.Name},
	} {
		if err := checkName(field+"."+f.name, f.value); err != nil {
			return sel, err
		}
	}
	if sel.Kind != "" && !strings.Contains(", "+kindList+",", ", "+sel.Kind+",") {
		return sel, invalid(field+".kind", "unknown kind %q; known are %s", clip(sel.Kind), kindList)
	}
	if sel.Kind == kindNamespace && sel.Name != "" {
		if sel.Namespace != "" && sel.Namespace != sel.Name {
			return sel, invalid(field+".namespace", "%q contradicts the name %q of the namespace asked for", sel.Namespace, sel.Name)
		}
		sel.Namespace, sel.Name = sel.Name, ""
	}
	return sel, nil
}

// peer checks a resource that limits traffic to one side; nil where none is set.
func peer(field string, r *weirpb.Resource) (*query.Selector, error) {
	if r == nil {
		return nil, nil
	}
	sel, err := selector(field, r)
	if err != nil {
		return nil, err
	}
	if sel == (query.Selector{}) {
		return nil, nil
	}
	return &sel, nil
}

// checkName accepts what a cluster, namespace, workload, pod or host may be
// called, which excludes the wildcards and separators of subjects.
func checkName(field, s string) error {
	if len(s) > maxName {
		return invalid(field, "is %d bytes long; at most %d are allowed", len(s), maxName)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-._:()", c) >= 0:
		default:
			return invalid(field, "%q has the character %q, which no name holds", clip(s), rune(c))
		}
	}
	return nil
}

// clip keeps a hostile value from filling an error message.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
