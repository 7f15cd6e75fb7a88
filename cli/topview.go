package cli

import (
	"fmt"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// topRedraw is how often the picture changes at most.
const topRedraw = 100 * time.Millisecond

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
	// err is why the stream ended.
	err error
}

// redrawMsg asks for a new picture, endedMsg says that the stream is over.
type (
	redrawMsg struct{}
	endedMsg  struct{ err error }
)

func redrawLater() tea.Cmd {
	return tea.Tick(topRedraw, func(time.Time) tea.Msg { return redrawMsg{} })
}

// Init implements tea.Model.
func (v *topView) Init() tea.Cmd { return redrawLater() }

// Update implements tea.Model.
func (v *topView) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case redrawMsg:
		if !v.paused {
			v.rows, v.notes = v.table.snapshot(v.sort)
		}
		v.scroll(0)
		return v, redrawLater()
	case endedMsg:
		if v.err = msg.err; msg.err == nil {
			// The past is read: it stays to be looked at.
			v.table.now("All is read.")
			return v, nil
		}
		return v, tea.Quit
	case tea.WindowSizeMsg:
		v.height, v.width = msg.Height, msg.Width
		v.scroll(0)
	case tea.KeyMsg:
		return v.key(msg.String())
	}
	return v, nil
}

func (v *topView) key(key string) (tea.Model, tea.Cmd) {
	switch key {
	case "q", "ctrl+c", "esc":
		return v, tea.Quit
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
	return v, nil
}

// room is how many rows fit.
func (v *topView) room() int { return max(1, v.height-3-len(v.notes)) }

func (v *topView) scroll(by int) {
	v.offset = max(0, min(v.offset+by, len(v.rows)-v.room()))
}

// View implements tea.Model.
func (v *topView) View() string {
	var out strings.Builder
	state := ""
	if v.paused {
		state = ", paused"
	}
	v.line(&out, fmt.Sprintf("%s   by %s%s   q quit, arrows scroll, space pause; sort: c b w l s S D m p", v.title, v.sort, state))
	end := min(len(v.rows), v.offset+v.room())
	for line := range strings.Lines(string(v.table.render(v.rows[v.offset:end]))) {
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
