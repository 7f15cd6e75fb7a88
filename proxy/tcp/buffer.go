package tcp

import "sync"

const (
	// BufferSize is what a [Buffer] borrows at first, in bytes, and RoomySize what
	// it borrows where it is to be roomy.
	BufferSize = 16 << 10
	RoomySize  = 64 << 10
)

// buffers and roomyBuffers are the memory that idle connections do not hold.
var (
	buffers      = sync.Pool{New: func() any { return new([BufferSize]byte) }}
	roomyBuffers = sync.Pool{New: func() any { return new([RoomySize]byte) }}
)

// Buffer holds bytes that were read and not yet written. It borrows memory
// while it holds any and gives it back when it has none, so that a connection
// that waits costs none. The zero value is empty and ready for use. A Buffer
// is not safe for concurrent use.
type Buffer struct {
	// Roomy has the buffer borrow RoomySize when it borrows the next time. A Reader
	// of a *net.TCPConn sets it by what its last read gave.
	Roomy bool

	mem  []byte
	r, w int
	// One of them is mem, or neither where mem is too large for the pools.
	pooled *[BufferSize]byte
	roomy  *[RoomySize]byte
}

// Bytes returns what is unread. The slice is valid until the next call of any
// method of b or of a Reader that fills b.
func (b *Buffer) Bytes() []byte { return b.mem[b.r:b.w] }

// Len returns how many bytes are unread.
func (b *Buffer) Len() int { return b.w - b.r }

// Advance drops the first n unread bytes, and gives the memory back where none
// are left.
func (b *Buffer) Advance(n int) {
	b.r += n
	if b.r == b.w {
		b.Release()
	}
}

// Release drops everything and gives the memory back.
func (b *Buffer) Release() {
	b.lendBack()
	*b = Buffer{Roomy: b.Roomy}
}

func (b *Buffer) lendBack() {
	switch {
	case b.pooled != nil:
		buffers.Put(b.pooled)
	case b.roomy != nil:
		roomyBuffers.Put(b.roomy)
	}
}

// Append adds a copy of p to the unread bytes.
func (b *Buffer) Append(p []byte) {
	if len(p) > 0 {
		b.w += copy(b.free(len(p)), p)
	}
}

// free returns the memory behind the unread bytes, of at least n bytes.
func (b *Buffer) free(n int) []byte {
	if len(b.mem)-b.w >= n {
		return b.mem[b.w:]
	}
	need := b.Len() + n
	switch {
	case b.mem == nil && b.Roomy && need <= RoomySize:
		b.roomy = roomyBuffers.Get().(*[RoomySize]byte)
		b.mem = b.roomy[:]
	case b.mem == nil && need <= BufferSize:
		b.pooled = buffers.Get().(*[BufferSize]byte)
		b.mem = b.pooled[:]
	case need <= len(b.mem):
		b.w = copy(b.mem, b.mem[b.r:b.w])
		b.r = 0
	default:
		b.grow(max(need, 2*len(b.mem)))
	}
	return b.mem[b.w:]
}

// grow moves the unread bytes to memory of their own. That is rare (heads
// larger than BufferSize), so it is left to the garbage collector afterwards.
func (b *Buffer) grow(size int) {
	mem := make([]byte, size)
	w := copy(mem, b.Bytes())
	b.lendBack()
	*b = Buffer{Roomy: b.Roomy, mem: mem, w: w}
}
