// Package cli is Weir's command line. Its commands ask the query API as any
// client may, and follow the columns, units and key names of `linkerd viz`.
//
// What a command found goes to Streams.Out, everything said about it to
// Streams.ErrOut, so that output can be piped. Commands return errors; printing
// them and exiting is the caller's. Each command has a file of its own.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/suggest"
)

// Streams are what a command reads and writes.
type Streams struct {
	In  io.Reader
	Out io.Writer
	// ErrOut takes what is not output: notes, warnings, logs.
	ErrOut io.Writer
}

// Build names this build of Weir.
type Build struct {
	// Version is the release ("v0.1.0"), Commit the revision it was built
	// from, GoVersion the compiler.
	Version, Commit, GoVersion string
}

// Options of the command line.
type Options struct {
	Streams Streams
	Build   Build
	// Roles are the commands that run a component of Weir. Their GroupID is set
	// here.
	Roles []*cobra.Command
	// ServeDashboard serves the dashboard on the address listen, with the
	// HTTP API at api behind it, until ctx ends: `weir dashboard --listen`.
	ServeDashboard func(ctx context.Context, api *url.URL, listen string) error
	// ExportNDJSON writes events from the bus until it is done or ctx ends:
	// `weir export ndjson`. It says how it goes on cmd's error output.
	ExportNDJSON func(ctx context.Context, cmd *cobra.Command, r ExportNDJSON) error
}

// UsageError is an error in how a command was called rather than in what it
// did.
type UsageError struct {
	// Command is the path of the command, "weir stat"; "" where Err says all that
	// there is to know.
	Command string
	// Err is what was wrong.
	Err error
}

// Error says what was wrong and where to read how it goes.
func (e *UsageError) Error() string {
	if e.Command == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v (see `%s --help`)", e.Err, e.Command)
}

// Unwrap gives what was wrong.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError of cmd.
func Usagef(cmd *cobra.Command, format string, args ...any) error {
	return &UsageError{Command: cmd.CommandPath(), Err: fmt.Errorf(format, args...)}
}

// app is what the commands share.
type app struct {
	Options

	apiAddr string
	verbose bool

	// cluster says which Kubernetes cluster is meant; newCluster, where it is
	// set, gives it.
	cluster    kubeFlags
	newCluster func(f *kubeFlags) (*kubeCluster, error)

	now func() time.Time
	// open shows a URL in a browser.
	open func(ctx context.Context, url string) error
}

// Groups of commands in the help.
const (
	groupLook = "look"
	groupRun  = "run"
	// groupInstall is what changes a cluster, or prints what does.
	groupInstall = "install"
	groupOther   = "other"
)

// New makes the root command, `weir`.
func New(o Options) *cobra.Command {
	return newRoot(&app{Options: o, now: time.Now, open: openBrowser})
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "weir",
		Short: "See and steer the traffic between services",
		Long: `Weir is an ultralight service mesh whose telemetry is an event stream.

Sidecar proxies carry the traffic and publish one event for each request.
These commands show what the events say; others run Weir's own components.

The query API is looked for at --api-addr, then at $WEIR_API_ADDR, then in the
cluster of the kubeconfig, by a forwarded port, then at ` + client.DefaultAddr + `.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          rejectUnknown,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			level := slog.LevelInfo
			if a.verbose {
				level = slog.LevelDebug
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(a.Streams.ErrOut, &slog.HandlerOptions{Level: level})))
		},
	}
	root.SetIn(a.Streams.In)
	root.SetOut(a.Streams.Out)
	root.SetErr(a.Streams.ErrOut)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return Usagef(cmd, "%w", meant(cmd, plainly(err))) })
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().StringVar(&a.apiAddr, "api-addr", os.Getenv("WEIR_API_ADDR"), "address of the query API (gRPC), host:port; default from $WEIR_API_ADDR")
	a.cluster.register(root.PersistentFlags())
	root.PersistentFlags().BoolVar(&a.verbose, "verbose", false, "log more, to stderr")
	root.AddGroup(
		&cobra.Group{ID: groupLook, Title: "Look at traffic:"},
		&cobra.Group{ID: groupInstall, Title: "Put Weir and workloads into a cluster:"},
		&cobra.Group{ID: groupRun, Title: "Run Weir's components:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupLook, newStat(a), newSeries(a), newTap(a), newTop(a), newEdges(a), newRoutes(a), newDashboard(a), newExport(a))
	add(groupInstall, newInstall(a), newUpgrade(a), newUninstall(a), newInject(a), newUninject(a))
	add(groupRun, newDemo(a))
	add(groupRun, a.Roles...)
	add(groupOther, newCheck(a), newDiagnostics(a), newVersion(a), newCompletion(a))
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			c.Args = knownCommand
		}
	}
	return root
}

// plainly says what is wrong with a number without the words of Go's parser.
func plainly(err error) error {
	var number *strconv.NumError
	var value *pflag.InvalidValueError
	if !errors.As(err, &number) || !errors.As(err, &value) {
		return err
	}
	want := map[string]string{"ParseUint": "whole number from 0 on", "ParseInt": "whole number", "ParseFloat": "number"}[number.Func]
	switch {
	case want == "":
		return err
	case errors.Is(number, strconv.ErrRange):
		want = "number that is possible here: it is too large"
	}
	return fmt.Errorf("--%s: %q is no %s", value.GetFlag().Name, value.GetValue(), want)
}

// meant adds to the error of an unknown flag what may have been meant.
func meant(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return err
	}
	name := unknown.GetSpecifiedName()
	for _, c := range cmd.Commands() {
		if c.Name() == name {
			return fmt.Errorf("%w; did you mean `%s`?", err, c.CommandPath())
		}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	near := suggest.Near(name, names)
	for i := range near {
		near[i] = "--" + near[i]
	}
	return fmt.Errorf("%w%s", err, didYouMean(near))
}

// knownCommand refuses what follows the help command and is none.
func knownCommand(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	if err != nil {
		return Usagef(cmd, "%w", err)
	}
	return rejectUnknown(found, rest)
}

// rejectUnknown refuses what is no command, with the near ones.
func rejectUnknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return Usagef(cmd, "unknown command %q%s", args[0], didYouMean(suggest.Near(args[0], names)))
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef(cmd, "unexpected argument %q", args[0])
	}
	return nil
}

// notef says something that is not output.
func (a *app) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Streams.ErrOut, format+"\n", args...)
}

// write puts out the whole of a command's output at once.
func (a *app) write(data []byte) error {
	if _, err := a.Streams.Out.Write(data); err != nil {
		return fmt.Errorf("cannot write the output: %w", err)
	}
	return nil
}

// output is the flag -o.
type output string

const (
	outputTable output = "table"
	outputWide  output = "wide"
	outputJSON  output = "json"
	// outputJSONPath is followed by a template.
	outputJSONPath output = jsonPathPrefix
)

// outputFlag adds -o to cmd with the formats given, the first as default.
func outputFlag(cmd *cobra.Command, o *output, formats ...output) {
	var names []string
	for _, f := range formats {
		names = append(names, string(f))
	}
	*o = formats[0]
	directive := cobra.ShellCompDirectiveNoFileComp
	if slices.Contains(formats, outputJSONPath) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	cmd.Flags().VarP(&outputValue{o, names}, "output", "o", "output format: "+formatList(names))
	// The error is about a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(names, directive))
}

// formatList names formats for people.
func formatList(names []string) string {
	return strings.Replace(strings.Join(names, ", "), jsonPathPrefix, jsonPathPrefix+"TEMPLATE", 1)
}

type outputValue struct {
	to    *output
	names []string
}

func (v *outputValue) String() string {
	if v.to == nil {
		return ""
	}
	return string(*v.to)
}

func (v *outputValue) Type() string { return "format" }

func (v *outputValue) Set(s string) error {
	for _, name := range v.names {
		if s == name && name != jsonPathPrefix || name == jsonPathPrefix && strings.HasPrefix(s, name) {
			*v.to = output(s)
			return nil
		}
	}
	return errors.New("must be one of " + formatList(v.names))
}
