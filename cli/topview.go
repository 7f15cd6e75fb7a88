package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/muesli/cancelreader"
	"golang.org/x/term"
)

// topRedraw is how often the picture changes at most.
const topRedraw = 100 * time.Millisecond

// What a terminal is told: to show another screen without a cursor, on which
// long lines are cut, and to go back to the one that was.
const (
	screenBegin = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
	screenEnd   = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineEnd     = "\x1b[K"
	screenRest  = "\x1b[J"
)

// topView is top on a terminal.
type topView struct {
	table *topTable
	title string
	sort  string
	// offset is the first row shown, of rows; height and width are the
	// terminal's.
	offset, height, width int
	paused                bool
	rows                  []topRow
	notes                 []string
	// drawn is the picture on the screen.
	drawn string
}

// run shows the table until the user quits, ctx ends, or ended has an error,
// which it returns. The terminal is as it was then.
func (v *topView) run(ctx context.Context, in io.Reader, out io.Writer, ended <-chan error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	restore, err := raw(in)
	if err != nil {
		return err
	}
	defer restore()
	keys, stop, err := readKeys(ctx, in)
	if err != nil {
		return err
	}
	defer stop()
	defer cancel()
	if _, err := io.WriteString(out, screenBegin); err != nil {
		return fmt.Errorf("cannot write the output: %w", err)
	}
	defer func() {
		if _, werr := io.WriteString(out, screenEnd); werr != nil && err == nil {
			err = fmt.Errorf("cannot write the output: %w", werr)
		}
	}()
	tick := time.NewTicker(topRedraw)
	defer tick.Stop()
	for {
		if err := v.draw(out); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			if err != nil {
				return err
			}
			// The past is read: it stays to be looked at.
			v.table.now("All is read.")
			ended = nil
		case key, ok := <-keys:
			if !ok {
				keys = nil
			} else if v.key(key) {
				return nil
			}
		case <-tick.C:
			v.refresh(out)
		}
	}
}

// refresh takes what has come since, and the terminal's size.
func (v *topView) refresh(out io.Writer) {
	if f, ok := out.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil {
			v.width, v.height = width, height
		}
	}
	if !v.paused {
		v.rows, v.notes = v.table.snapshot(v.sort)
	}
	v.scroll(0)
}

// draw puts the picture on the screen where it is another than the one there.
func (v *topView) draw(out io.Writer) error {
	picture := v.View()
	if picture == v.drawn {
		return nil
	}
	v.drawn = picture
	lines := strings.Split(strings.TrimSuffix(picture, "\n"), "\n")
	if _, err := io.WriteString(out, screenHome+strings.Join(lines, lineEnd+"\r\n")+lineEnd+screenRest); err != nil {
		return fmt.Errorf("cannot write the output: %w", err)
	}
	return nil
}

// key does what a key is for, and tells whether it ends the view.
func (v *topView) key(key string) (quit bool) {
	switch key {
	case "q", "ctrl+c", "esc":
		return true
	case "up", "k":
		v.scroll(-1)
	case "down", "j":
		v.scroll(1)
	case "pgup":
		v.scroll(-v.room())
	case "pgdown":
		v.scroll(v.room())
	case "home", "g":
		v.scroll(-len(v.rows))
	case "end", "G":
		v.scroll(len(v.rows))
	case " ":
		v.paused = !v.paused
	}
	for _, s := range topSorts {
		if s.key == key {
			v.sort = s.name
			v.rows, v.notes = v.table.snapshot(v.sort)
		}
	}
	return false
}

// room is how many rows fit.
func (v *topView) room() int { return max(1, v.height-3-len(v.notes)) }

func (v *topView) scroll(by int) {
	v.offset = max(0, min(v.offset+by, len(v.rows)-v.room()))
}

// View is the picture: lines that fit.
func (v *topView) View() string {
	var out strings.Builder
	state := ""
	if v.paused {
		state = ", paused"
	}
	v.line(&out, fmt.Sprintf("%s   by %s%s   q quit, arrows scroll, space pause; sort: c b w l s S D m p", v.title, v.sort, state))
	end := min(len(v.rows), v.offset+v.room())
	for line := range strings.Lines(string(v.table.within(v.rows[v.offset:end], v.width))) {
		v.line(&out, strings.TrimSuffix(line, "\n"))
	}
	if end < len(v.rows) {
		v.line(&out, fmt.Sprintf("… %d more", len(v.rows)-end))
	}
	for _, note := range v.notes {
		v.line(&out, note)
	}
	return out.String()
}

// line writes what fits on one.
func (v *topView) line(out *strings.Builder, text string) {
	if runes := []rune(text); v.width > 0 && len(runes) > v.width {
		text = string(runes[:v.width])
	}
	out.WriteString(text)
	out.WriteByte('\n')
}

// raw has a terminal hand over keys as they are pressed; restore ends that.
func raw(in io.Reader) (restore func(), err error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot read keys from the terminal: %w", err)
	}
	// There is nothing left to do about a terminal that does not want to.
	return func() { _ = term.Restore(int(f.Fd()), state) }, nil
}

// readKeys gives the keys that are pressed until ctx ends; stop, which is to be
// called after that, waits until nothing is read any more. What is no terminal
// has none.
func readKeys(ctx context.Context, in io.Reader) (keys <-chan string, stop func(), err error) {
	if f, ok := in.(*os.File); ok && !term.IsTerminal(int(f.Fd())) {
		return nil, func() {}, nil
	}
	reader, err := cancelreader.NewReader(in)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read keys from the terminal: %w", err)
	}
	out, done := make(chan string), make(chan struct{})
	go func() {
		defer close(done)
		defer close(out)
		buf := make([]byte, 256)
		for {
			n, err := reader.Read(buf)
			for _, key := range keysOf(string(buf[:n])) {
				select {
				case out <- key:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return out, func() {
		if reader.Cancel() {
			<-done
		}
		_ = reader.Close()
	}, nil
}

// sequences are what terminals send for keys that are no characters.
var sequences = [...]struct{ bytes, key string }{
	{"\x1b[A", "up"}, {"\x1bOA", "up"}, {"\x1b[B", "down"}, {"\x1bOB", "down"}, {"\x1b[5~", "pgup"}, {"\x1b[6~", "pgdown"},
	{"\x1b[H", "home"}, {"\x1bOH", "home"}, {"\x1b[1~", "home"}, {"\x1b[F", "end"}, {"\x1bOF", "end"}, {"\x1b[4~", "end"}, {"\x03", "ctrl+c"},
}

// keysOf are the keys that a terminal's bytes stand for.
func keysOf(s string) (keys []string) {
next:
	for s != "" {
		for _, one := range sequences {
			if rest, ok := strings.CutPrefix(s, one.bytes); ok {
				keys, s = append(keys, one.key), rest
				continue next
			}
		}
		if s[0] != '\x1b' {
			r := []rune(s)[0]
			keys, s = append(keys, string(r)), s[len(string(r)):]
			continue
		}
		if len(s) == 1 {
			return append(keys, "esc")
		}
		// Some other sequence: it ends with a letter or ~.
		end := 2 + strings.IndexFunc(s[2:], func(r rune) bool { return r >= '@' && r <= '~' })
		if end < 2 {
			return keys
		}
		s = s[end+1:]
	}
	return keys
}
