package cli

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
)

type topCommand struct {
	*app
	scope               scope
	peers               peers
	filter              filterFlags
	past                pastFlags
	hideSources, routes bool
	sort                string
	length              time.Duration
	output              output
	// saidReading is when it was last said how far in the past it is.
	saidReading time.Time
}

const outputLive output = "live"

func newTop(a *app) *cobra.Command {
	t := &topCommand{app: a}
	cmd := &cobra.Command{
		Use:   "top (TYPE [NAME] | TYPE/NAME)",
		Short: "Show which requests come most, live",
		Long: `Count the exchanges of a resource as they come: none is sampled, and a request
that both sides' proxies report counts once. BEST, WORST and LAST are times to
the first byte. Filters are as those of ` + "`weir tap`" + `.

On a terminal the table is live: q quits, arrows scroll, space pauses, and the
keys c, b, w, l, s, S, D, m and p sort by count, best, worst, last, success,
source, destination, method and path. Elsewhere, or with -o table or -o json, it
is printed once, after --for.

With -t, --since or --until it begins with the past, read back from the stream.
On a terminal it then goes on into the present, unless there is an --until; what
is printed once ends there.`,
		Example: `  weir top deploy/web -n emojivoto
  weir top ns/emojivoto --hide-sources --status 5xx
  weir top deploy/voting -n emojivoto --routes -o table --for 10s
  weir top deploy/web -n emojivoto --since 14:00 --until 14:05 --sort worst -o table`,
		ValidArgsFunction: completeResources,
		RunE:              t.run,
	}
	t.scope.flags(cmd)
	t.peers.flags(cmd)
	t.filter.flags(cmd)
	t.past.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&t.hideSources, "hide-sources", false, "sum up over the sources")
	f.BoolVar(&t.routes, "routes", false, "one column for method and path; gRPC methods as Service/Method")
	f.StringVar(&t.sort, "sort", "count", "order: count, best, worst, last, success, source, destination, method or path")
	t.length = 10 * time.Second
	f.Var((*lengthValue)(&t.length), "for", "with -o table or json: how long to count")
	outputFlag(cmd, &t.output, outputLive, outputTable, outputJSON)
	return cmd
}

func (t *topCommand) run(cmd *cobra.Command, args []string) error {
	resources, err := parseResources(args)
	if err != nil {
		return Usagef(cmd, "%w", err)
	}
	if len(resources) != 1 {
		return Usagef(cmd, "which resource? Give one TYPE, TYPE NAME or TYPE/NAME, as in `weir top deploy/web`")
	}
	if err := t.scope.check(cmd); err != nil {
		return err
	}
	known := false
	for _, s := range topSorts {
		known = known || s.name == t.sort
	}
	if !known {
		return Usagef(cmd, "--sort %s: there are count, best, worst, last, success, source, destination, method and path", t.sort)
	}
	if t.length <= 0 {
		return Usagef(cmd, "--for %s is no length of time", t.length)
	}
	filter, err := t.filter.resolve(cmd, &t.peers, &t.scope)
	if err != nil {
		return err
	}
	req := &weirpb.TapRequest{Resource: resources[0], Filter: filter}
	if req.Since, req.Until, err = t.past.bounds(cmd, t.now()); err != nil {
		return err
	}
	if req.GetSince() != nil && cmd.Flags().Changed("for") {
		return Usagef(cmd, "--for goes with the present: -t, --since and --until say which past is meant")
	}
	t.scope.apply(req.GetResource())
	ctx := cmd.Context()
	c, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	table := newTopTable(req.GetResource(), t.hideSources, t.routes)
	if t.output == outputLive && isTerminal(t.Streams.Out) {
		req.Follow = req.GetSince() != nil && req.GetUntil() == nil
		return t.live(ctx, c, req, table)
	}
	return t.once(ctx, c, req, table)
}

// fill counts what the stream brings until it or ctx ends, and hands on what
// else it says. An end of the API it outlives, and says so.
func (t *topCommand) fill(ctx context.Context, c *client.Client, req *weirpb.TapRequest, table *topTable, progress func(*weirpb.TapProgress), say func(string)) error {
	r := &tapReader{client: c, req: req, say: say, now: t.now}
	r.handle = func(item *weirpb.TapResponse) error {
		if e := item.GetEvent(); e != nil {
			table.add(e)
		}
		if gap := item.GetGap(); gap != nil {
			table.say(gapNote(gap, t.now()))
		}
		if p := item.GetProgress(); p != nil {
			progress(p)
		}
		return nil
	}
	return r.read(ctx)
}

// once counts for a while, or the past, and prints the table.
func (t *topCommand) once(ctx context.Context, c *client.Client, req *weirpb.TapRequest, table *topTable) error {
	counting, cancel := context.WithCancel(ctx)
	defer cancel()
	if req.GetSince() == nil {
		// No deadline: gRPC would tell it to the API, which may end the tap just
		// before this side knows that it is time.
		defer time.AfterFunc(t.length, cancel).Stop()
	}
	t.saidReading = t.now()
	first := true
	err := t.fill(counting, c, req, table, func(p *weirpb.TapProgress) {
		if note := reachNote(p, req.GetSince(), t.now()); first && note != "" {
			table.say(note)
		}
		first = false
		if note := readingNote(p, req.GetSince(), t.now()); note != "" && t.now().Sub(t.saidReading) >= readingEvery {
			t.saidReading = t.now()
			t.notef("%s", note)
		}
	}, func(note string) { t.notef("%s", note) })
	if err != nil {
		return err
	}
	rows, notes := table.snapshot(t.sort)
	for _, note := range notes {
		t.notef("%s", note)
	}
	if t.output == outputJSON {
		out, err := topJSON(rows, t.routes)
		if err != nil {
			return err
		}
		return t.write(out)
	}
	if len(rows) == 0 {
		if req.GetSince() != nil {
			t.notef("No such request is in the events%s.", readingOf(req.GetSince(), req.GetUntil(), t.now()))
		} else {
			t.notef("Nothing came within %s.", t.length)
		}
		return nil
	}
	return t.write(table.render(rows, 0))
}

// live shows the table until the user quits.
func (t *topCommand) live(ctx context.Context, c *client.Client, req *weirpb.TapRequest, table *topTable) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	view := &topView{table: table, title: "weir top " + describe(req.GetResource()), sort: t.sort, height: 24}
	filled := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		first := true
		filled <- t.fill(ctx, c, req, table, func(p *weirpb.TapProgress) {
			if note := reachNote(p, req.GetSince(), t.now()); first && note != "" {
				table.say(note)
			}
			first = false
			note := readingNote(p, req.GetSince(), t.now())
			if behind := p.GetBehind().AsDuration(); note == "" && behind > 0 {
				note = fmt.Sprintf("Behind by %s. Nothing is lost.", behind.Round(time.Second))
			}
			table.now(note)
		}, table.now)
	})
	return view.run(ctx, t.Streams.In, t.Streams.Out, filled)
}

// topObject is a row of the JSON output; times in µs.
type topObject struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Method      string `json:"method"`
	Path        string `json:"path"`
	// Route is in the place of Method and Path with --routes.
	Route       string  `json:"route,omitempty"`
	Count       uint64  `json:"count"`
	BestUS      uint64  `json:"best_us"`
	WorstUS     uint64  `json:"worst_us"`
	LastUS      uint64  `json:"last_us"`
	SuccessRate float64 `json:"success_rate"`
}

func topJSON(rows []topRow, routes bool) ([]byte, error) {
	var out []topObject
	for i := range rows {
		r := &rows[i]
		o := topObject{r.source, r.destination, r.method, r.path, "", r.count, r.best, r.worst, r.last, r.success()}
		if routes {
			o.Path, o.Route = "", r.path
		}
		out = append(out, o)
	}
	return renderJSON(out)
}
