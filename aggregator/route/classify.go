package route

import "strings"

// class of a byte in a segment.
type class uint8

const (
	foreign class = iota // of no class: beyond ASCII, or braces
	lower
	upper
	digit
	separator
)

var classes = func() (t [256]class) {
	for c := range t {
		switch {
		case 'a' <= c && c <= 'z':
			t[c] = lower
		case 'A' <= c && c <= 'Z':
			t[c] = upper
		case '0' <= c && c <= '9':
			t[c] = digit
		}
	}
	for _, c := range []byte("-_.:,;=~()'!+ $&|@*[]") {
		t[c] = separator
	}
	return t
}()

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// plain tells quickly that a segment is a word, or a few, as most are.
func plain(s string) bool {
	if len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// isVersion tells versions of an API: v1, v2.1, v1beta1, v1.2.3, 2.0.
func isVersion(s string) bool {
	if s == "" || len(s) > 16 {
		return false
	}
	if s[0] != 'v' && s[0] != 'V' {
		major, minor, ok := strings.Cut(s, ".")
		return ok && isDigits(major) && isDigits(minor) && len(major) <= 2 && len(minor) <= 2
	}
	parts := 0
	for s = s[1:]; ; s = s[1:] {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		if n == 0 || n > 3 {
			return false
		}
		parts++
		s = s[n:]
		if s == "" || s[0] != '.' || parts == 3 {
			break
		}
	}
	for _, stage := range []string{"", "alpha", "beta", "rc", "p", "preview", "-alpha", "-beta", "-rc", "-preview"} {
		if after, ok := strings.CutPrefix(s, stage); ok && (after == "" || stage != "" && isDigits(after) && len(after) <= 3) {
			return true
		}
	}
	return false
}

// isDate tells dates and times that begin as ISO 8601 has it: 2024-05,
// 2024-05-17, 2024-05-17T12:00:00Z, 2024-W20.
func isDate(s string) bool {
	if len(s) < 7 || s[0] != '1' && s[0] != '2' || !isDigits(s[:4]) || s[4] != '-' && s[4] != '_' {
		return false
	}
	if s[5] == 'W' {
		return isDigits(s[6:]) && len(s) <= 8
	}
	month := s[5:7]
	if !isDigits(month) || month < "01" || month > "12" {
		return false
	}
	if len(s) == 7 {
		return true
	}
	if len(s) < 10 || s[7] != s[4] || !isDigits(s[8:10]) || s[8:10] < "01" || s[8:10] > "31" {
		return false
	}
	return len(s) == 10 || s[10] == 'T' || s[10] == 't' || s[10] == ' ' || s[10] == '+' || escaped(s[10:])
}

// isEmail tells addresses, their at-sign escaped or not.
func isEmail(s string) bool {
	at, n := strings.IndexByte(s, '@'), 1
	if at < 0 {
		at, n = strings.Index(s, "%40"), 3
	}
	if at <= 0 {
		return false
	}
	domain := s[at+n:]
	dot := strings.LastIndexByte(domain, '.')
	return dot > 0 && len(domain)-dot > 2 && !strings.ContainsAny(domain, "@%")
}

// isUUID tells UUIDs, hyphens and all.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return false
			}
		} else if !isHex(s[i]) {
			return false
		}
	}
	return true
}

// looks is what can be said of a run of bytes at a glance.
type looks struct {
	lowers, uppers, digits, separators, foreign int
	// switches counts where no word has them: between letter and digit, and
	// from a lower-case letter to an upper-case one.
	switches int
	hex      bool
}

func look(s string) (l looks) {
	l.hex = true
	var last class
	for i := range len(s) {
		c := classes[s[i]]
		switch c {
		case lower:
			l.lowers++
		case upper:
			l.uppers++
		case digit:
			l.digits++
		case separator:
			l.separators++
		default:
			l.foreign++
		}
		if c != last && (c == digit && (last == lower || last == upper) || last == digit && (c == lower || c == upper) || last == lower && c == upper) {
			l.switches++
		}
		last = c
		l.hex = l.hex && isHex(s[i])
	}
	return l
}

// isToken tells random tokens of the alphabet of URLs, hyphens and underscores
// among them, as nanoid makes them.
func isToken(s string) bool {
	if len(s) < 16 {
		return false
	}
	if kind, _, ok := strings.Cut(s, "_"); ok && kind != "" && plain(kind) {
		return false // cus_9s6XKzkNRiz8i3 keeps its prefix
	}
	for i := range len(s) {
		if c := classes[s[i]]; c == foreign || c == separator && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	l := look(s)
	return l.uppers > 0 && l.lowers > 0 && l.digits >= 2 && 5*l.switches >= len(s)
}

// split tells whether a piece is an id, or ends in one after so many bytes that
// are none: user1234.
func split(s string) (kept int, id bool) {
	l := look(s)
	if l.foreign > 0 {
		return 0, len(s) > maxSegment
	}
	if opaque(s, &l) {
		return 0, true
	}
	if letters := len(s) - l.digits; l.digits >= 4 && l.switches == 1 && letters <= 16 && isDigits(s[letters:]) {
		return letters, true
	}
	return 0, false
}

// opaque tells ids by their looks. Where it errs, learning helps.
func opaque(s string, l *looks) bool {
	n, letters := len(s), l.lowers+l.uppers
	switch {
	case letters == 0, n >= 40:
		return true
	case l.hex && (n >= 16 || n >= 8 && l.digits >= 2 || n >= 6 && l.digits >= 2 && l.switches >= 2):
		return true
	case l.hexNumber(s):
		return true
	case l.digits < 2:
		return n >= 16 && l.digits == 1 && l.uppers > 0 && l.lowers > 0 && 5*l.switches >= n
	case l.uppers > 0 && l.lowers > 0:
		return n >= 8 && l.switches >= 3 && 5*l.switches >= n
	case n >= 8:
		return l.switches >= 2 && 6*l.digits >= n
	}
	return n >= 5 && l.switches >= 3
}

// hexNumber tells 0x1f.
func (l *looks) hexNumber(s string) bool {
	return len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') && look(s[2:]).hex
}
