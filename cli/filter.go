package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/weirpb"
)

// filterFlags are the flags that say which requests are meant. --to and --from
// are peers.
type filterFlags struct{ filter weirpb.Filter }

func (f *filterFlags) flags(cmd *cobra.Command) {
	for _, one := range []struct {
		to          *string
		name, usage string
	}{
		{&f.filter.Method, "method", "only these HTTP methods, with commas between"},
		{&f.filter.Path, "path", "only paths that begin so"},
		{&f.filter.Authority, "authority", "only this host (:authority)"},
		{&f.filter.Status, "status", "only these HTTP statuses: 404 (0: no response), 5xx, '>=500', with commas between"},
		{&f.filter.GrpcStatus, "grpc-status", "only these gRPC statuses: 14, Unavailable, '>0', none, with commas between"},
		{&f.filter.Latency, "latency", "only these times to the first byte, as '>250ms'"},
		{&f.filter.Duration, "duration", "only these times to the end, as '>1s'"},
		{&f.filter.Bytes, "bytes", "only this many bytes of request and response, as '>1MB'"},
		{&f.filter.Pod, "pod", "only with this pod on either side"},
		{&f.filter.Tls, "tls", "only mutual, passthrough, none, or reasons why none, with commas between"},
		{&f.filter.Fate, "fate", "only what the proxy retried, timed_out, shed, denied, breaker_open, refused or drained, with commas between; any"},
		{&f.filter.Protocol, "protocol", "only http/1, http/2, grpc, websocket, tcp or tls, with commas between"},
		{&f.filter.Error, "error", "only these reasons, as connect_refused, with commas between; any; none"},
		{&f.filter.Direction, "direction", "only what the proxy saw inbound (in) or outbound (out)"},
		{&f.filter.Where, "where", `only what this expression is true of, as 'latency > 250ms and path startsWith "/api"'`},
	} {
		cmd.Flags().StringVar(one.to, one.name, "", one.usage)
	}
	cmd.Flags().BoolVar(&f.filter.Not, "not", false, "turn it round: only what all of these flags do not say")
}

// filterNames are those of the flags above.
var filterNames = [...]string{
	"method", "path", "authority", "status", "grpc-status", "latency", "duration", "bytes", "pod", "tls", "fate", "protocol", "error",
	"direction", "where", "not",
}

// given gives the flags that were, as --name.
func (f *filterFlags) given(cmd *cobra.Command) (names []string) {
	for _, name := range filterNames {
		if cmd.Flags().Changed(name) {
			names = append(names, "--"+name)
		}
	}
	return names
}

// resolve gives the filter with its two sides.
func (f *filterFlags) resolve(cmd *cobra.Command, p *peers, s *scope) (*weirpb.Filter, error) {
	for _, name := range filterNames {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return nil, Usagef(cmd, "--%s is empty: leave it out, or say what is meant", name)
		}
	}
	var err error
	if f.filter.To, f.filter.From, err = p.resolve(cmd, s); err != nil {
		return nil, err
	}
	if f.filter.Direction, err = parseDirection(f.filter.GetDirection()); err != nil {
		return nil, Usagef(cmd, "--direction: %w", err)
	}
	return &f.filter, nil
}

// asFlags turns the names of a request's fields in an error into those of the
// flags: "filter.grpc_status: …" into "--grpc-status: …".
func asFlags(msg string) string {
	for _, name := range append([]string{"to", "from", "since", "until", "by", "top", "max_rps", "window", "step"}, filterNames[:]...) {
		field := strings.ReplaceAll(name, "-", "_")
		for _, prefix := range []string{"filter.", "window.", ""} {
			if rest, ok := strings.CutPrefix(msg, prefix+field+": "); ok {
				if name == "window" {
					return "the window of -t, --since and --until: " + rest
				}
				return "--" + strings.ReplaceAll(name, "_", "-") + ": " + rest
			}
		}
	}
	return msg
}
