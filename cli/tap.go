package cli

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type tapCommand struct {
	*app
	scope        scope
	peers        peers
	filter       filterFlags
	since, until string
	output       output
	// template is that of -o jsonpath=…
	template *template
	req      weirpb.TapRequest
	// Of the stream under way: what --max-rps kept back since it was last said,
	// and when this command was last said to be behind.
	limited     uint64
	saidBehind  time.Time
	saidOldest  bool
	saidReading time.Time
	// shown is how many events were, progress what was heard last.
	shown    uint64
	progress *weirpb.TapProgress
}

func newTap(a *app) *cobra.Command {
	t := &tapCommand{app: a}
	cmd := &cobra.Command{
		Use:   "tap (TYPE [NAME] | TYPE/NAME)",
		Short: "Show each request, as it happens or from the past",
		Long: `Show each exchange of a resource as soon as it is over, one line each, as its
proxy saw it: proxy=in where the resource answered, proxy=out where it asked.
A request between two resources that are both tapped shows twice. Long-lived
exchanges also show now and then what they carried since ("progress").

Nothing is sampled, and nothing is lost however slowly this command reads. What
is missing all the same, because of --max-rps, or because a proxy's batches are
missing in their numbering, is counted and named on stderr.

With --since the requests of the past are read back from the stream, to --until
or now; with -f it then goes on into the present, without gap or repetition.

It outlives the API: where that is restarted, the tap goes on where it was. What
is not kept any more then is named as a gap.

Filters are asked before anything is sent here, and all must agree. Each may
also speak of the response. --where takes an expression over the fields of an
event (docs/cli.md lists them) with ==, !=, <, <=, >, >=, +, -, *, /, in [..],
contains, startsWith, endsWith, and, or, not; numbers may have units.`,
		Example: `  weir tap deploy/web -n emojivoto
  weir tap deploy/voting -n emojivoto --status 5xx -o wide
  weir tap deploy/web -n emojivoto --since 10m --latency '>250ms' -f
  weir tap deploy/web -n emojivoto -o jsonpath='{.status} {.requestInitEvent.path} {.latency_us}'
  weir tap ns/emojivoto --where 'bytes > 10kB or path startsWith "/api/vote"' -o json`,
		ValidArgsFunction: completeResources,
		RunE:              t.run,
	}
	t.scope.flags(cmd)
	t.peers.flags(cmd)
	f := cmd.Flags()
	t.filter.flags(cmd)
	f.StringVar(&t.since, "since", "", "begin with the past: a time (RFC 3339, or 15:04[:05] today) or how long ago, as 10m")
	f.StringVar(&t.until, "until", "", "end there, as --since (default: now)")
	f.BoolVarP(&t.req.Follow, "follow", "f", false, "after the past, go on with what comes")
	f.Float64Var(&t.req.MaxRps, "max-rps", 0, "show at most so many a second (0: all) and count the rest")
	f.Uint32Var(&t.req.Limit, "limit", 0, "end after so many (0: never)")
	outputFlag(cmd, &t.output, outputTable, outputWide, outputJSON, outputJSONPath)
	return cmd
}

func (t *tapCommand) run(cmd *cobra.Command, args []string) error {
	resources, err := parseResources(args)
	if err != nil {
		return Usagef(cmd, "%w", err)
	}
	if len(resources) != 1 {
		return Usagef(cmd, "which resource? Give one TYPE, TYPE NAME or TYPE/NAME, as in `weir tap deploy/web`")
	}
	if err := t.scope.check(cmd); err != nil {
		return err
	}
	if t.req.Filter, err = t.filter.resolve(cmd, &t.peers, &t.scope); err != nil {
		return err
	}
	if text, ok := strings.CutPrefix(string(t.output), jsonPathPrefix); ok {
		if t.template, err = parseTemplate(text); err != nil {
			return Usagef(cmd, "-o: %w", err)
		}
	}
	if err := t.resolveTimes(cmd); err != nil {
		return err
	}
	if t.req.GetMaxRps() < 0 {
		return Usagef(cmd, "--max-rps %v is no rate", t.req.GetMaxRps())
	}
	t.req.Resource = resources[0]
	t.scope.apply(t.req.GetResource())
	ctx := cmd.Context()
	c, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return t.follow(ctx, c)
}

// resolveTimes turns --since, --until and -f into the request's.
func (t *tapCommand) resolveTimes(cmd *cobra.Command) error {
	if t.since == "" {
		if t.until != "" {
			return Usagef(cmd, "--until needs --since: without it a tap begins now")
		}
		t.req.Follow = false // it does anyway
		return nil
	}
	if t.until != "" && t.req.GetFollow() {
		return Usagef(cmd, "--until and -f contradict each other")
	}
	now := t.now()
	since, err := parseTime(t.since, now)
	if err != nil {
		return Usagef(cmd, "--since: %w", err)
	}
	t.req.Since = timestamppb.New(since)
	if t.until == "" {
		return nil
	}
	until, err := parseTime(t.until, now)
	if err != nil {
		return Usagef(cmd, "--until: %w", err)
	}
	if !since.Before(until) {
		return Usagef(cmd, "--since %s is not before --until %s", t.since, t.until)
	}
	t.req.Until = timestamppb.New(until)
	return nil
}

func parseDirection(s string) (string, error) {
	switch s {
	case "", "inbound", "outbound":
		return s, nil
	case "in":
		return "inbound", nil
	case "out":
		return "outbound", nil
	}
	return "", fmt.Errorf("%q is neither in nor out", s)
}

// noteUnseen says where no proxy of the resource has reported: the tap may
// wait in vain.
func (t *tapCommand) noteUnseen(ctx context.Context, c *client.Client) {
	known, err := seen(ctx, c)
	if err != nil {
		slog.Debug("cannot ask what has been seen", "error", err)
		return
	}
	if note := t.unseen(known); note != "" {
		t.notef("%s Waiting.", note)
	}
}

// unseen says that no proxy of the resource has reported, and what may have been
// meant; "" where one has.
func (t *tapCommand) unseen(known workloads) string {
	r := t.req.GetResource()
	if _, ok := known.lastSeen(r); ok {
		return ""
	}
	note := fmt.Sprintf("No proxy of%s has reported yet.", strings.TrimPrefix((&question{resource: r}).describe(), " for"))
	if r.GetKind() == kindNamespace {
		return note
	}
	return strings.TrimSpace(note + " " + known.hint(r, &t.scope))
}

// noteNone says why a reading of the past showed nothing.
func (t *tapCommand) noteNone(ctx context.Context, c *client.Client) {
	if t.shown > 0 || t.req.GetSince() == nil {
		return
	}
	when := readingOf(t.req.GetSince(), t.req.GetUntil(), t.now())
	if n := t.progress.GetEvents(); n > 0 {
		t.notef("None of the %d events%s match.", n, when)
		return
	}
	note := ""
	if known, err := seen(ctx, c); err == nil {
		note = t.unseen(known)
	}
	t.notef("%s", strings.TrimSpace("No events"+(&question{resource: t.req.GetResource()}).describe()+when+". "+note))
}

// tapItem is what of a tap waits to be shown.
type tapItem struct {
	*weirpb.TapResponse
	// note, where there is one, is about the tap itself; opened: it has begun.
	note   string
	opened bool
}

// follow shows what comes until it ends or ctx does.
func (t *tapCommand) follow(ctx context.Context, c *client.Client) error {
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	items := make(chan tapItem, 256)
	send := func(item tapItem) error {
		select {
		case items <- item:
			return nil
		case <-rctx.Done():
			return rctx.Err()
		}
	}
	r := &tapReader{
		client: c,
		req:    &t.req,
		handle: func(r *weirpb.TapResponse) error { return send(tapItem{TapResponse: r}) },
		// What is said too late is of no use to anybody.
		say:    func(note string) { _ = send(tapItem{note: note}) },
		opened: func() { _ = send(tapItem{opened: true}) },
		now:    t.now,
	}
	ended := make(chan error, 1)
	go func() {
		defer close(items)
		ended <- r.read(rctx)
	}()
	printErr := t.printAll(ctx, c, items)
	cancel()
	err := <-ended
	switch {
	case printErr != nil:
		return printErr
	case ctx.Err() != nil:
		return nil
	case err == nil:
		t.noteNone(ctx, c)
	}
	return err
}

// printAll writes items as they come: in one go as many as there are, and
// flushed whenever none waits.
func (t *tapCommand) printAll(ctx context.Context, c *client.Client, items <-chan tapItem) error {
	out := bufio.NewWriterSize(t.Streams.Out, 32<<10)
	for item := range items {
		switch {
		case item.note != "":
			t.notef("%s", item.note)
		case item.opened && t.req.GetSince() == nil:
			t.noteUnseen(ctx, c)
		}
		if err := t.note(item.TapResponse); err != nil {
			return err
		}
		if e := item.GetEvent(); e != nil {
			line, err := t.line(e)
			if err != nil {
				return err
			}
			t.shown++
			if _, err := out.Write(append(line, '\n')); err != nil {
				return fmt.Errorf("cannot write the output: %w", err)
			}
		}
		if len(items) == 0 {
			if err := out.Flush(); err != nil {
				return fmt.Errorf("cannot write the output: %w", err)
			}
		}
	}
	t.noteLimited(0)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("cannot write the output: %w", err)
	}
	return nil
}

func (t *tapCommand) line(e *weirpb.TapEvent) ([]byte, error) {
	if t.output != outputJSON && t.template == nil {
		return tapLine(e, t.output == outputWide), nil
	}
	object, err := tapJSON(e)
	if err != nil || t.template == nil {
		return object, err
	}
	return t.template.render(object)
}
