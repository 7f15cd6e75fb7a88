package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/export/ndjson"
)

// exportNDJSON is `weir export ndjson`.
func exportNDJSON(ctx context.Context, cmd *cobra.Command, r cli.ExportNDJSON) error {
	o := ndjson.Options{
		Dir:          r.Dir,
		Cursor:       r.Cursor,
		MaxFileBytes: r.MaxFileBytes,
		MaxFiles:     r.MaxFiles,
		Since:        r.Since,
		Once:         r.Once,
		Progress:     teller(cmd.ErrOrStderr()),
		Logger:       slog.Default(),
	}
	if r.Dir == "" {
		o.Out = cmd.OutOrStdout()
	}
	if r.Filter != nil {
		var err error
		if o.Match, err = api.Matcher(r.Filter); err != nil {
			return cli.BadFilter(cmd, err)
		}
	}
	c, err := (&busFlags{url: r.Bus, tokenFile: r.BusTokenFile, anchorsFile: r.BusAnchorsFile}).connect(cmd, "weir-export-ndjson")
	if err != nil {
		return err
	}
	defer c.Close()
	o.Stream = c
	return ndjson.Run(ctx, o)
}

// teller says how an export goes: how much, how far behind, and what is missing.
func teller(w io.Writer) func(ndjson.Progress) {
	var before ndjson.Progress
	return func(p ndjson.Progress) {
		lag := "nothing waits"
		switch {
		case p.Lag < 0:
			lag = "how far behind is not known: the bus does not answer; --bus says where it is"
		case p.Lag > 0:
			lag = p.Lag.Round(10*time.Millisecond).String() + " behind"
		}
		_, _ = fmt.Fprintf(w, "%d events written, %s\n", p.Written, lag)
		for _, one := range []struct {
			now, before uint64
			what        string
		}{
			{uint64(p.Counts.Lost), uint64(before.Counts.Lost), "batches are missing in the numbering of the proxies"},
			{p.Counts.Shed, before.Counts.Shed, "events were only summed up by the proxies, for want of room, and have no line"},
			{p.Counts.Refused, before.Counts.Refused, "messages were no batches of their source"},
		} {
			if one.now > one.before {
				_, _ = fmt.Fprintf(w, "%d %s\n", one.now, one.what)
			}
		}
		before = p
	}
}
