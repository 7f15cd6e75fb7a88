package http2

// transferTable maps stream identifiers to transfers, as streamTable does to
// streams: a transfer has another identifier on each of its two connections.
type transferTable struct {
	slots []transferSlot
	count int
}

type transferSlot struct {
	id uint32
	t  *transfer // nil: the slot is empty
}

func (tt *transferTable) len() int { return tt.count }

func (tt *transferTable) slot(id uint32) int { return spread(id, len(tt.slots)) }

// get returns the transfer, or nil.
func (tt *transferTable) get(id uint32) *transfer {
	if tt.count == 0 {
		return nil
	}
	for i := tt.slot(id); ; i = (i + 1) & (len(tt.slots) - 1) {
		if s := &tt.slots[i]; s.t == nil || s.id == id {
			return s.t
		}
	}
}

// put adds a transfer by an identifier that the table does not have.
func (tt *transferTable) put(id uint32, t *transfer) {
	if 2*(tt.count+1) > len(tt.slots) {
		old := tt.slots
		tt.slots = make([]transferSlot, max(minSlots, 2*len(old)))
		for _, s := range old {
			if s.t != nil {
				tt.place(s)
			}
		}
	}
	tt.place(transferSlot{id, t})
	tt.count++
}

func (tt *transferTable) place(s transferSlot) {
	i := tt.slot(s.id)
	for tt.slots[i].t != nil {
		i = (i + 1) & (len(tt.slots) - 1)
	}
	tt.slots[i] = s
}

// remove takes an identifier out, where it is there.
func (tt *transferTable) remove(id uint32) {
	if tt.get(id) == nil {
		return
	}
	mask := len(tt.slots) - 1
	i := tt.slot(id)
	for tt.slots[i].id != id {
		i = (i + 1) & mask
	}
	// Move those behind it that would no longer be found past the gap.
	for j := (i + 1) & mask; tt.slots[j].t != nil; j = (j + 1) & mask {
		if home := tt.slot(tt.slots[j].id); (j-home)&mask >= (j-i)&mask {
			tt.slots[i] = tt.slots[j]
			i = j
		}
	}
	tt.slots[i] = transferSlot{}
	if tt.count--; tt.count == 0 && len(tt.slots) > keepSlots {
		tt.slots = nil
	}
}

// each calls f for each transfer that is there now and when its turn comes.
func (tt *transferTable) each(f func(*transfer)) {
	if tt.count == 0 {
		return
	}
	ids := make([]uint32, 0, tt.count)
	for _, s := range tt.slots {
		if s.t != nil {
			ids = append(ids, s.id)
		}
	}
	for _, id := range ids {
		if t := tt.get(id); t != nil {
			f(t)
		}
	}
}
