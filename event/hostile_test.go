package event_test

import (
	"encoding/binary"
	"testing"

	"github.com/weirmesh/weir/event"
)

// TestHostileBatchIsBounded: a batch whose dictionaries are as long as they may
// be, each entry of which took next to nothing, makes the decoder hold no more
// than DecoderBytes.
func TestHostileBatchIsBounded(t *testing.T) {
	field := func(dst []byte, number int, data []byte) []byte {
		dst = binary.AppendUvarint(dst, uint64(number)<<3|2)
		return append(binary.AppendUvarint(dst, uint64(len(data))), data...)
	}
	section := func(columns int) []byte {
		body := binary.AppendUvarint([]byte{1 << 3}, event.MaxEvents)
		for i := range columns {
			// One bit each, and all zeros: every column is read, and none may be
			// left out.
			column := append([]byte{1 << 2}, make([]byte, event.MaxEvents/8)...)
			body = field(body, 2+i, column)
		}
		return body
	}
	data := []byte{1<<3 | 1, 1, 0, 0, 0, 0, 0, 0, 0}
	for number, columns := range map[int]int{10: 2, 11: 4, 12: 8, 13: 9, 14: 6, 15: 4, 16: 8} {
		data = field(data, number, section(columns))
	}
	if len(data) > event.MaxBatchBytes {
		t.Fatalf("the batch has %d bytes", len(data))
	}
	var d event.Decoder
	var err error
	bytes := allocated(func() { err = d.Reset(data) })
	if err != nil || d.Len() != event.MaxEvents {
		t.Fatalf("%d events, %v", d.Len(), err)
	}
	if bytes > event.DecoderBytes {
		t.Errorf("it took %d bytes, at most %d are promised", bytes, event.DecoderBytes)
	}
	t.Logf("%d bytes made the decoder hold %d", len(data), bytes)
	var e event.Event
	for d.Next(&e) {
	}
}
