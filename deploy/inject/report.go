package inject

import (
	"fmt"
	"io"
	"strings"
)

// Action is what was done to an object.
type Action string

// Actions.
const (
	Injected   Action = "injected"
	Uninjected Action = "uninjected"
	// Annotated objects tell the webhook what to do: namespaces and Services.
	Annotated Action = "annotated"
	Skipped   Action = "skipped"
)

// Report says what became of one object.
type Report struct {
	// Kind and Name are the object's, Kind as in manifests. A pod that is to be
	// named by Kubernetes has its prefix and "*".
	Kind, Name string
	Action     Action
	// Reason is why it was skipped.
	Reason string
	// Notes are what else there is to know.
	Notes []string
}

// String is the report in one line: deployment "web" injected.
func (r Report) String() string {
	s := fmt.Sprintf("%s %s", r.object(), r.Action)
	if r.Reason != "" {
		s += ": " + r.Reason
	}
	return s
}

// object names what was reported on.
func (r Report) object() string {
	if r.Kind == "" {
		return "document without kind"
	}
	return fmt.Sprintf("%s %q", strings.ToLower(r.Kind), r.Name)
}

// WriteReports writes what is to be noted of each object, then a line for each. The
// error is the writer's.
func WriteReports(w io.Writer, reports []Report) error {
	var b strings.Builder
	for _, r := range reports {
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "‼ %s: %s\n", r.object(), n)
		}
	}
	for _, r := range reports {
		b.WriteString(r.String() + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
