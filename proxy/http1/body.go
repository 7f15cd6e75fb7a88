package http1

// What can be wrong with a chunked body.
var (
	faultChunkSize    = malformed("a chunk size is not valid")
	faultChunkLine    = malformed("a chunk's line is too long")
	faultChunkEnd     = malformed("a chunk is not followed by CR LF")
	faultTrailer      = malformed("a trailer is not valid")
	faultTrailerField = malformed("a trailer that may only stand in the head")
	faultTrailerSize  = malformed("the trailers are too large")
)

// maxChunkLine bounds a chunk's size line with its extensions, in bytes.
const maxChunkLine = 4096

// framing is how the end of a body is found.
type framing byte

const (
	framedNone framing = iota
	framedLength
	framedChunked
	framedClose // the body ends with the connection
)

// body follows the framing of a message's body, whose bytes are passed on as
// they are.
type body struct {
	framing framing
	left    uint64 // of framedLength
	chunks  chunks
}

// begin sets b to a body of the framing that h gives it; where it gives none
// the body is of framing otherwise.
func (b *body) begin(h *head, otherwise framing, limit int) {
	*b = body{framing: otherwise}
	switch {
	case h.chunked:
		b.framing = framedChunked
		b.chunks.limit = limit
	case h.hasLength:
		b.framing = framedLength
		b.left = uint64(h.length)
	}
}

// done tells whether the body is whole.
func (b *body) done() bool {
	switch b.framing {
	case framedLength:
		return b.left == 0
	case framedChunked:
		return b.chunks.state == chunkDone
	case framedClose:
		return false
	}
	return true
}

// large tells whether enough is left of the body to be moved inside the kernel.
func (b *body) large() bool { return b.framing == framedLength && b.left > spliceAbove }

// scan follows the framing through p and returns how many bytes of it belong
// to the body. The message may end in any place of p.
func (b *body) scan(p []byte) (int, *fault) {
	switch b.framing {
	case framedLength:
		n := min(uint64(len(p)), b.left)
		b.left -= n
		return int(n), nil
	case framedChunked:
		return b.chunks.scan(p)
	case framedClose:
		return len(p), nil
	}
	return 0, nil
}

// chunkState is where in a chunked body the next byte stands.
type chunkState byte

const (
	chunkSize      chunkState = iota // before or in the digits
	chunkExt                         // in the extensions
	chunkSizeLF                      // after the CR of the size line
	chunkData                        // in the data
	chunkDataCR                      // after the data
	chunkDataLF                      // after the CR after the data
	trailerBegin                     // at the beginning of a line after the last chunk
	trailerName                      // in a trailer's name
	trailerValue                     // in a trailer's value
	trailerValueLF                   // after the CR of a trailer
	trailerEndLF                     // after the CR of the last line
	chunkDone
)

// chunks follows the chunked coding (RFC 9112, section 7.1), strictly: no
// white space around the size, every line ends in CR LF.
type chunks struct {
	state  chunkState
	digits byte
	left   uint64 // size so far, then what is left of the data
	line   int    // bytes of this size line
	total  int    // bytes of the trailers
	limit  int    // bound of total
	name   [17]byte
	named  int // length of the trailer's name; name holds its first bytes
}

// scan returns how many bytes of p belong to the body, all of them unless it
// ends before. It may be called with any pieces of a body.
func (c *chunks) scan(p []byte) (int, *fault) {
	for i := 0; i < len(p); {
		if c.state == chunkData {
			n := min(uint64(len(p)-i), c.left)
			c.left -= n
			i += int(n)
			if c.left == 0 {
				c.state = chunkDataCR
			}
			continue
		}
		var f *fault
		if c.state >= trailerBegin {
			f = c.trailer(p[i])
		} else {
			f = c.size(p[i])
		}
		if f != nil {
			return i, f
		}
		i++
		if c.state == chunkDone {
			return i, nil
		}
	}
	return len(p), nil
}

// size takes a byte of a size line or of the line end after the data.
func (c *chunks) size(b byte) *fault {
	switch c.state {
	case chunkSize, chunkExt:
		if c.line++; c.line > maxChunkLine {
			return faultChunkLine
		}
		return c.sizeLine(b)
	case chunkSizeLF:
		if b != '\n' {
			return faultChunkSize
		}
		c.state = chunkData
		if c.left == 0 {
			c.state = trailerBegin
		}
		c.digits, c.line = 0, 0
	case chunkDataCR:
		if b != '\r' {
			return faultChunkEnd
		}
		c.state = chunkDataLF
	case chunkDataLF:
		if b != '\n' {
			return faultChunkEnd
		}
		c.state = chunkSize
	}
	return nil
}

// sizeLine takes a byte of the digits or extensions.
func (c *chunks) sizeLine(b byte) *fault {
	switch {
	case b == '\r' && c.digits > 0:
		c.state = chunkSizeLF
	case c.state == chunkExt:
		if b < 0x20 && b != '\t' || b == 0x7f {
			return faultChunkSize
		}
	case b == ';' && c.digits > 0:
		c.state = chunkExt
	default:
		d := hexDigit(b)
		// 15 digits always fit, whatever the one who reads it counts in.
		if d < 0 || c.digits == 15 {
			return faultChunkSize
		}
		c.digits++
		c.left = c.left<<4 | uint64(d)
	}
	return nil
}

// trailer takes a byte after the last chunk.
func (c *chunks) trailer(b byte) *fault {
	if c.total++; c.total > c.limit {
		return faultTrailerSize
	}
	switch c.state {
	case trailerBegin:
		if b == '\r' {
			c.state = trailerEndLF
			return nil
		}
		c.state, c.named = trailerName, 0
		return c.trailerName(b)
	case trailerName:
		return c.trailerName(b)
	case trailerValue:
		switch {
		case b == '\r':
			c.state = trailerValueLF
		case b < 0x20 && b != '\t' || b == 0x7f:
			return faultTrailer
		}
	case trailerValueLF, trailerEndLF:
		if b != '\n' {
			return faultTrailer
		}
		if c.state == trailerEndLF {
			c.state = chunkDone
		} else {
			c.state = trailerBegin
		}
	}
	return nil
}

// trailerName takes a byte of a trailer's name or the colon after it. Fields
// that decide about framing or routing must not come so late (RFC 9110,
// section 6.5.1).
func (c *chunks) trailerName(b byte) *fault {
	if b != ':' {
		if !token[b] {
			return faultTrailer
		}
		if c.named < len(c.name) {
			c.name[c.named] = b
		}
		c.named++
		return nil
	}
	c.state = trailerValue
	if c.named == 0 {
		return faultTrailer
	}
	if c.named > len(c.name) {
		return nil
	}
	switch name := c.name[:c.named]; {
	case equalFold(name, "content-length"), equalFold(name, "transfer-encoding"), equalFold(name, "host"):
		return faultTrailerField
	}
	return nil
}
