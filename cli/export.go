package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc/status"
)

// ExportNDJSON is what `weir export ndjson` is to do.
type ExportNDJSON struct {
	// Bus is its address. BusTokenFile holds the token to show it and
	// BusAnchorsFile the trust anchors that it must prove its name by; both may be
	// empty.
	Bus, BusTokenFile, BusAnchorsFile string
	// Dir is the folder for files; empty: lines go to Streams.Out.
	Dir string
	// Cursor is the file that says how far it has come; may be empty.
	Cursor string
	// MaxFileBytes and MaxFiles bound the files; 0: they do not.
	MaxFileBytes int64
	MaxFiles     int
	// Since is where to begin; zero: at the oldest event there is.
	Since time.Time
	// Once: end when all is written that there is now.
	Once bool
	// Filter says which events; nil: all.
	Filter *weirpb.Filter
}

type exportCommand struct {
	*app
	scope    scope
	peers    peers
	filter   filterFlags
	since    string
	output   string
	maxBytes byteSize
	request  ExportNDJSON
}

func newExport(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write events out, each once",
		Long: `Write events out for other systems. What an export has written, and how far it
has come, survive any end: it goes on where it stopped. Prometheus asks the API
instead, on /metrics/mesh.`,
		Args: rejectUnknown,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newExportNDJSON(a))
	return cmd
}

func newExportNDJSON(a *app) *cobra.Command {
	x := &exportCommand{app: a, maxBytes: 100 << 20}
	cmd := &cobra.Command{
		Use:   "ndjson",
		Short: "Write every event as one line of JSON",
		Long: `Write every event of the mesh as one JSON object on one line (docs/subjects.md
has the keys), read from the bus, to --output: a folder, or "-" for stdout.

To a folder each event is written exactly once, through any kill: files
events-00000001.ndjson and so on, and cursor.json, which says how far it has
come. Started again with the same --output it cuts off what was not yet
certain, and goes on there.

To stdout it begins with --since, or goes on from --cursor. What was written in the
last second before a kill comes again then; instance, sequence and index of a
line are unique.

Without --since and cursor it begins with the oldest event that the bus has, and
goes on until it is interrupted; with --once, until it has what there was when it
began.`,
		Example: `  weir export ndjson --output /var/lib/weir-events --max-file-size 100MiB --max-files 50
  weir export ndjson --since 10m --once --status 5xx > failures.ndjson
  weir export ndjson --since 0s --cursor tail.json | vector --config sink.toml`,
		Args: noArgs,
		RunE: x.run,
	}
	f := cmd.Flags()
	f.StringVar(&x.request.Bus, "bus", "nats://127.0.0.1:4222", "the bus, nats://host:port; several with commas between")
	f.StringVar(&x.request.BusTokenFile, "bus-token-file", "", "file of the token to show to the bus, read anew for each connection")
	f.StringVar(&x.request.BusAnchorsFile, "bus-anchors-file", "", "file of trust anchors, PEM; where given, the bus must prove its name by TLS")
	f.StringVarP(&x.output, "output", "o", "-", "folder for files, made if missing; -: stdout")
	f.StringVar(&x.request.Cursor, "cursor", "", "file that says how far it has come (default: cursor.json in --output)")
	f.Var(&x.maxBytes, "max-file-size", "begin the next file at this size, as 100MiB; 0: never")
	f.IntVar(&x.request.MaxFiles, "max-files", 0, "keep so many files, the newest; 0: all")
	f.StringVar(&x.since, "since", "", "begin there if there is no cursor yet: a time (RFC 3339, or 15:04[:05] today) or how long ago, as 10m")
	f.BoolVar(&x.request.Once, "once", false, "end when all is written that there is now")
	f.StringVarP(&x.scope.namespace, "namespace", "n", defaultNamespace, "namespace of --to and --from")
	x.peers.flags(cmd)
	x.filter.flags(cmd)
	return cmd
}

func (x *exportCommand) run(cmd *cobra.Command, _ []string) error {
	r := x.request
	r.MaxFileBytes = int64(x.maxBytes)
	if x.output != "-" {
		r.Dir = x.output
	}
	switch {
	case x.output == "":
		return Usagef(cmd, "--output is empty: give a folder, or - for stdout")
	case r.Dir == "" && (cmd.Flags().Changed("max-files") || cmd.Flags().Changed("max-file-size")):
		return Usagef(cmd, "--max-files and --max-file-size are about files: give a folder with --output")
	case r.MaxFiles < 0:
		return Usagef(cmd, "--max-files %d: it must not be negative", r.MaxFiles)
	}
	var err error
	if x.since != "" {
		if r.Since, err = parseTime(x.since, x.now()); err != nil {
			return Usagef(cmd, "--since: %w", err)
		}
	}
	filter, err := x.filter.resolve(cmd, &x.peers, &x.scope)
	if err != nil {
		return err
	}
	if filter.GetTo() != nil || filter.GetFrom() != nil || len(x.filter.given(cmd)) > 0 {
		r.Filter = filter
	}
	if x.ExportNDJSON == nil {
		return errors.New("cannot export: this program does not know the bus")
	}
	return x.ExportNDJSON(cmd.Context(), cmd, r)
}

// BadFilter is the error for an ExportNDJSON's filter that the API's own reading
// of filters refuses with err.
func BadFilter(cmd *cobra.Command, err error) error {
	if s, ok := status.FromError(err); ok {
		err = errors.New(asFlags(s.Message()))
	}
	return Usagef(cmd, "%w", err)
}

// byteSize is a flag for a number of bytes.
type byteSize int64

// sizes are the units of a byteSize, longest first.
var sizes = []struct {
	unit string
	n    int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

// String implements pflag.Value.
func (b *byteSize) String() string {
	for i := 2; i >= 0; i-- {
		if s := sizes[i]; *b != 0 && int64(*b)%s.n == 0 {
			return strconv.FormatInt(int64(*b)/s.n, 10) + s.unit
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "size" }

// Set implements pflag.Value.
func (b *byteSize) Set(s string) error {
	number, factor := s, int64(1)
	for _, size := range sizes {
		if n, ok := strings.CutSuffix(s, size.unit); ok {
			number, factor = n, size.n
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return fmt.Errorf("%q is no size such as 100MiB, 5GB or 1048576", s)
	}
	*b = byteSize(n * factor)
	return nil
}
