package event

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
	"unsafe"
)

// stringsFactor bounds the bytes of the strings that are written out, and of those
// that are joined, by those that they were told in. What an [Encoder] writes
// is below it, even of prefixes of each other.
const stringsFactor = 900

// parseStrings puts the strings together. Number 0 is the empty string.
func (d *Decoder) parseStrings(data []byte) error {
	n, f, err := d.readDictionary(data, []spec{{"shared", MaxStringBytes + 1}, {"length", MaxStringBytes + 1}})
	if err != nil {
		return err
	}
	text := f.data[fieldText-fieldColumn]
	most := min(MaxBatchBytes, stringsFactor*len(data))
	total, err := d.measurePlain(n, text, most)
	if err != nil {
		return err
	}
	joins, err := d.parseJoined(f.data[fieldJoined-fieldColumn], n)
	if err != nil {
		return fmt.Errorf("joined: %w", err)
	}
	more, err := d.measureJoined(joins, most)
	if err != nil {
		return err
	}
	// Memory of its own for each batch, so that strings that somebody keeps
	// stay what they are.
	all := make([]byte, 0, total+more)
	d.strings = append(room(d.strings, n+joins+1)[:0], "")
	c, before := &d.dictionary, 0
	for i := range n {
		shared, length := int(at(c[stringShared], i)), int(at(c[stringLength], i))
		start := len(all)
		all = append(all, all[before:before+shared]...)
		all = append(all, text[:length]...)
		text, before = text[length:], start
		d.strings = append(d.strings, tail(all, start))
	}
	for i := range joins {
		start := len(all)
		all = append(all, d.strings[at(d.joins[joinedHead], i)]...)
		all = append(all, d.strings[at(d.joins[joinedTail], i)]...)
		d.strings = append(d.strings, tail(all, start))
	}
	if ascii(all) {
		return nil
	}
	for i, s := range d.strings {
		if !utf8.ValidString(s) {
			return fmt.Errorf("number %d is no valid UTF-8", i)
		}
	}
	return nil
}

// ascii tells that text is of ASCII only, of which any part is valid UTF-8.
func ascii(text []byte) bool {
	var any uint64
	for ; len(text) >= 8; text = text[8:] {
		any |= binary.LittleEndian.Uint64(text)
	}
	for _, c := range text {
		any |= uint64(c)
	}
	return any&0x8080808080808080 == 0
}

// tail is what was appended from start on.
func tail(all []byte, start int) string {
	return unsafe.String(unsafe.SliceData(all[start:]), len(all)-start)
}

// measurePlain checks the columns of the strings that are written out, whose
// lengths it leaves in d.lengths, and sums these up.
func (d *Decoder) measurePlain(n int, text []byte, most int) (total int, err error) {
	c, before := &d.dictionary, 0
	d.lengths = append(room(d.lengths, n+1)[:0], 0)
	for i := range n {
		shared, length := int(at(c[stringShared], i)), int(at(c[stringLength], i))
		if shared > before || shared+length > MaxStringBytes || length > len(text) {
			return 0, fmt.Errorf("number %d shares %d bytes with the %d before it, and goes on with %d of %d that are left",
				i+1, shared, before, length, len(text))
		}
		text, before = text[length:], shared+length
		d.lengths = append(d.lengths, uint16(before))
		if total += before; total > most {
			return 0, fmt.Errorf("they have more than %d bytes", most)
		}
	}
	if len(text) > 0 {
		return 0, fmt.Errorf("%d bytes of text are no string's", len(text))
	}
	return total, nil
}

// parseJoined reads the columns of those that are joined of the n others into
// d.joins, and returns how many there are.
func (d *Decoder) parseJoined(data []byte, n int) (int, error) {
	var f fields
	if err := f.parse(data, d.limit-n); err != nil {
		return 0, err
	}
	for i, s := range [joinedColumns]spec{{"head", uint64(n) + 1}, {"tail", uint64(n) + 1}} {
		var err error
		if d.joins[i], err = readColumn(d.joins[i], f.data[i], f.count, s); err != nil {
			return 0, err
		}
	}
	return f.count, nil
}

// measureJoined sums up the lengths of those that are joined.
func (d *Decoder) measureJoined(n, most int) (total int, err error) {
	for i := range n {
		one := int(d.lengths[at(d.joins[joinedHead], i)]) + int(d.lengths[at(d.joins[joinedTail], i)])
		if total += one; one > MaxStringBytes || total > most {
			return 0, fmt.Errorf("joined number %d has %d bytes, and they have %d so far: at most are %d and %d", i, one, total, MaxStringBytes, most)
		}
	}
	return total, nil
}
