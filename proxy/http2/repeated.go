package http2

import "bytes"

// Peers send the same header blocks over and over: once a connection's dynamic
// table has what all its requests say, a block is some bytes of indexes; and
// many servers do not look fields up in the table at all, though they may enter
// them (nginx does). So the last blocks are kept with what they say, where that
// needs no decoding to know again: a block that refers to the table and leaves
// it as it was says the same for as long as the table stays, and one that does
// not refer to it always does, and enters the same fields.

const (
	// keptBlocks is how many blocks are kept: responses of gRPC are two in
	// turn, heads and trailers.
	keptBlocks = 2
	// maxKeptBlock is how long a block may be to be kept, and maxKeptList a
	// list of fields to be encoded, in bytes.
	maxKeptBlock = 512
	maxKeptList  = 1024
)

// headBlock is a header block and what it says.
type headBlock struct {
	block []byte
	valid bool   // head and fields are what block says
	state uint32 // the table's, for which that is so, where refers is set
	// refers: the block refers to the table. entered is what it enters there.
	refers  bool
	entered []byte
	keeps   bool // head has literals
	head    head
	// fields has all fields, where the direction wants them.
	fields fields
}

// heads are the blocks of a direction that were decoded last.
type heads struct {
	kept [keptBlocks]*headBlock // nil: not yet used
	last int                    // which of them came last
}

// find returns what was decoded from the same block, or nil.
func (hs *heads) find(block []byte, state uint32, keeps bool) *headBlock {
	for n := range hs.kept {
		i := (hs.last + n) % keptBlocks
		if h := hs.kept[i]; h != nil && h.valid && (!h.refers || h.state == state) && h.keeps == keeps && bytes.Equal(h.block, block) {
			hs.last = i
			return h
		}
	}
	return nil
}

// next returns the memory for what another block says: that of the one that
// came longest ago.
func (hs *heads) next() *headBlock {
	hs.last = (hs.last + 1) % keptBlocks
	h := hs.kept[hs.last]
	if h == nil {
		h = new(headBlock)
		hs.kept[hs.last] = h
	}
	h.valid = false
	return h
}

// decode decodes a whole header block into the session's head, which is valid
// until the next; all says to keep the fields too.
func (d *direction) decode(block []byte, all bool) error {
	s := d.s
	if h := d.heads.find(block, d.hpack.table.state, d.transcode); h != nil {
		s.head = &h.head
		for list := h.entered; len(list) > 0; {
			id, _, text, n, rest := nextField(list)
			d.hpack.table.insert(text[:n], text[n:], id)
			list = rest
		}
		return nil
	}
	h := d.heads.next()
	s.head = &h.head
	h.head.keepAll = d.transcode
	h.head.fields = nil
	if all {
		if cap(h.fields.buf) > bufferSize {
			h.fields.buf = nil
		}
		h.fields.reset()
		h.head.fields = &h.fields
	}
	h.head.reset()
	hp := &d.hpack
	if err := hp.decode(block, s.maxHead, &h.head); err != nil {
		return err
	}
	if hp.unkept || hp.refers && len(hp.entered) > 0 || len(block) > maxKeptBlock {
		return nil
	}
	h.block = append(h.block[:0], block...)
	h.entered = append(h.entered[:0], hp.entered...)
	h.valid, h.refers, h.state, h.keeps = true, hp.refers, hp.table.state, d.transcode
	return nil
}

// listBlock is a list of fields, as fields.add has them, and how it is encoded.
type listBlock struct {
	list, block []byte
	state       uint32 // the table's, for which that is so
}

// lists are the lists of fields that a connection was sent last.
type lists struct {
	kept [keptBlocks]listBlock
	last int
}

// find returns how the same list was encoded, or nil.
func (ls *lists) find(list []byte, state uint32) []byte {
	for n := range ls.kept {
		i := (ls.last + n) % keptBlocks
		if l := &ls.kept[i]; l.state == state && len(l.block) > 0 && bytes.Equal(l.list, list) {
			ls.last = i
			return l.block
		}
	}
	return nil
}

// keep keeps how a list was encoded, in place of the one of longest ago.
func (ls *lists) keep(list, block []byte, state uint32) {
	if len(list) > maxKeptList {
		return
	}
	ls.last = (ls.last + 1) % keptBlocks
	l := &ls.kept[ls.last]
	l.list, l.block, l.state = append(l.list[:0], list...), append(l.block[:0], block...), state
}
