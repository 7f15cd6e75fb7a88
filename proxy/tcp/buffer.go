package tcp

import "sync"

const (
	// BufferSize is what a [Buffer] borrows at first, in bytes, RoomySize what it
	// borrows where it is to be roomy, and FrugalSize where it is to be frugal.
	BufferSize = 16 << 10
	RoomySize  = 64 << 10
	FrugalSize = 512
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
	// Frugal has it borrow FrugalSize: for who holds memory while it waits long.
	Frugal bool

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
	*b = Buffer{Roomy: b.Roomy, Frugal: b.Frugal}
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
	case b.mem == nil && b.Frugal && need <= FrugalSize:
		b.mem = make([]byte, FrugalSize)
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
		b.grow(max(need, 2*len(b.mem), BufferSize)) // the least where it was frugal
	}
	return b.mem[b.w:]
}

// grow moves the unread bytes to larger memory. More than BufferSize is rare
// (heads that are so large), so it is left to the garbage collector afterwards.
func (b *Buffer) grow(size int) {
	next := Buffer{Roomy: b.Roomy, Frugal: b.Frugal}
	if size <= BufferSize {
		next.pooled = buffers.Get().(*[BufferSize]byte)
		next.mem = next.pooled[:]
	} else {
		next.mem = make([]byte, size)
	}
	next.w = copy(next.mem, b.Bytes())
	b.lendBack()
	*b = next
}
