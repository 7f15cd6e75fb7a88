package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// repeat shows what once renders each interval, until ctx ends. On a terminal
// each takes the place of the one before; elsewhere they follow each other. A
// failure ends it only if it never worked.
func (a *app) repeat(ctx context.Context, interval time.Duration, once func(context.Context) ([]byte, error)) error {
	redraw := isTerminal(a.Streams.Out)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var said string
	for first := true; ; first = false {
		var frame, talk bytes.Buffer
		// Notes are part of the picture on a terminal: written between two
		// frames they would be wiped out, or scroll the table away.
		notes := a.Streams.ErrOut
		if redraw {
			frame.WriteString("\x1b[H\x1b[2J")
			a.Streams.ErrOut = &frame
		} else {
			a.Streams.ErrOut = &talk
			if !first {
				frame.WriteByte('\n')
			}
		}
		out, err := once(ctx)
		a.Streams.ErrOut = notes
		// Beside frames that follow each other, what was just said is not news.
		if err := writeNews(notes, talk.String(), said); err != nil {
			return err
		}
		said = talk.String()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && first {
			return err
		}
		if err != nil {
			// It worked before and may work again: components restart.
			note := fmt.Sprintf("%s  %v\n", a.now().Format(time.TimeOnly), err)
			if redraw {
				frame.WriteString(note)
			} else if _, err := io.WriteString(notes, note); err != nil {
				return fmt.Errorf("cannot write to stderr: %w", err)
			}
		}
		frame.Write(out)
		if err := a.write(frame.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// writeNews writes the lines of talk that are not in said.
func writeNews(to io.Writer, talk, said string) error {
	old := slices.Collect(strings.Lines(said))
	for line := range strings.Lines(talk) {
		if slices.Contains(old, line) {
			continue
		}
		if _, err := io.WriteString(to, line); err != nil {
			return fmt.Errorf("cannot write to stderr: %w", err)
		}
	}
	return nil
}

// isTerminal tells whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}
