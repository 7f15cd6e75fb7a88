package route

import "strings"

// Placeholders: what stands in a template for what varies.
const (
	// ID stands for a number, a UUID, a hash or another token, or is the part of
	// a segment that is one, as in app.{id}.js.
	ID = "{id}"
	// Date stands for a date or a time.
	Date = "{date}"
	// Email stands for an address.
	Email = "{email}"
	// Any stands for a segment that was seen with too many values, or is too long
	// to tell anything.
	Any = "{*}"
	// Rest stands for all that follows, in a path that is too long.
	Rest = "{**}"
	// Authority stands for the host and port that a CONNECT request names.
	Authority = "{authority}"
)

// Bounds of a template.
const (
	// maxSegment is how long a segment may be before it becomes Any, bytes.
	maxSegment = 64
	// maxSegments are told apart; what follows is Rest.
	maxSegments = 16
	// MaxTemplate is how long a template gets at most, bytes.
	MaxTemplate = 256
)

// longest is what one more segment and Rest can add to a template, bytes.
const longest = 1 + maxSegment + 1 + len(Rest)

// Shape appends the template of a path as far as the shapes of its segments
// tell: it knows nothing of other paths. The template of a template is itself.
// Shape is safe for concurrent use.
func Shape(dst []byte, path string) []byte {
	w := walk{rest: pathOf(path)}
	if !strings.HasPrefix(w.rest, "/") {
		return append(dst, bare(w.rest)...)
	}
	start := len(dst)
	for w.next() {
		if w.full(len(dst) - start) {
			return append(append(dst, '/'), Rest...)
		}
		dst = appendSegment(append(dst, '/'), w.segment)
	}
	return dst
}

// pathOf is the part of a request's target that is a path.
func pathOf(target string) string {
	if i := strings.IndexByte(target, '?'); i >= 0 {
		target = target[:i]
	}
	if strings.HasPrefix(target, "/") || strings.HasPrefix(target, "{") {
		return target
	}
	if _, after, ok := strings.Cut(target, "://"); ok {
		if i := strings.IndexByte(after, '/'); i >= 0 {
			return after[i:]
		}
		return "/"
	}
	return target
}

// bare is the template of a target that is no path.
func bare(target string) string {
	switch target {
	case "", "*", Authority, OtherName, CoalescedName:
		return target
	}
	host, port, ok := cutLast(target, ':')
	if ok && host != "" && isDigits(port) {
		return Authority
	}
	return Any
}

// Names that stand for what has no route: too many others have one, or its
// detail was not kept.
const (
	OtherName     = "(other)"
	CoalescedName = "(coalesced)"
)

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// walk goes through the segments of a path that begins with a slash.
type walk struct {
	rest, segment string
	count         int
}

func (w *walk) next() bool {
	if w.rest == "" {
		return false
	}
	w.count++
	w.segment, w.rest = w.rest[1:], ""
	if i := strings.IndexByte(w.segment, '/'); i >= 0 {
		w.segment, w.rest = w.segment[:i], w.segment[i:]
	}
	return true
}

// full tells that the segment at hand and what follows is Rest, after a
// template of n bytes.
func (w *walk) full(n int) bool { return w.count > maxSegments || n+longest > MaxTemplate }

// whole tells whether a segment's template is nothing but a placeholder.
func whole(s string) bool {
	switch s {
	case ID, Date, Email, Any, Rest:
		return true
	}
	return false
}

func wholeBytes(s []byte) bool { return len(s) > 0 && s[0] == '{' && len(s) <= 8 && whole(string(s)) }

// appendSegment appends a segment's template.
func appendSegment(dst []byte, s string) []byte {
	start := len(dst)
	switch {
	case whole(s), plain(s):
		return append(dst, s...)
	case strings.Contains(s, ID):
		dst = append(dst, s...) // a template already
	case isVersion(s):
		return append(dst, s...)
	case isDate(s):
		return append(dst, Date...)
	case isEmail(s):
		return append(dst, Email...)
	case isUUID(s), isToken(s):
		return append(dst, ID...)
	case len(s) > 37 && isUUID(s[len(s)-36:]) && classes[s[len(s)-37]] == separator:
		dst = append(append(dst, s[:len(s)-36]...), ID...)
	default:
		dst = appendPieces(dst, s)
	}
	if len(dst)-start > maxSegment {
		dst = append(dst[:start], Any...)
	}
	return dst
}

// appendPieces appends a segment with those of its pieces replaced that are
// ids. Ids side by side are one.
func appendPieces(dst []byte, s string) []byte {
	start := len(dst)
	last := -1 // where the id ends that nothing but separators follow
	for len(s) > 0 {
		n := separators(s)
		dst, s = append(dst, s[:n]...), s[n:]
		n = piece(s)
		if n == 0 {
			break
		}
		kept, id := split(s[:n])
		switch {
		case !id:
			dst, last = append(dst, s[:n]...), -1
		case last >= 0 && kept == 0:
			dst = dst[:last]
		default:
			dst = append(append(dst, s[:kept]...), ID...)
			last = len(dst)
		}
		s = s[n:]
		if len(dst)-start > 4*maxSegment {
			break // far too long already
		}
	}
	if last >= 0 && padding(dst[last:]) {
		dst = dst[:last]
	}
	return dst
}

// padding tells whether b is what ends base64.
func padding(b []byte) bool {
	s := string(b)
	for s != "" {
		switch {
		case s[0] == '=':
			s = s[1:]
		case strings.HasPrefix(s, "%3D"), strings.HasPrefix(s, "%3d"):
			s = s[3:]
		default:
			return false
		}
	}
	return true
}

// separators is how many bytes at the start of s separate pieces.
func separators(s string) (n int) {
	for n < len(s) {
		switch {
		case classes[s[n]] == separator:
			n++
		case escaped(s[n:]):
			n += 3
		default:
			return n
		}
	}
	return n
}

// piece is how many bytes at the start of s are no separators.
func piece(s string) int {
	for n := range len(s) {
		if classes[s[n]] == separator || s[n] == '%' && escaped(s[n:]) {
			return n
		}
	}
	return len(s)
}

func escaped(s string) bool {
	return len(s) >= 3 && s[0] == '%' && isHex(s[1]) && isHex(s[2])
}
