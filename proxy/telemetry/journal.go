package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"sync/atomic"
	"unicode/utf8"
	"unsafe"

	"github.com/weirmesh/weir/event"
)

// A journal is a file that is mapped into memory: what is written there stays
// when the process is killed. It has
//
//	8 bytes  journalMagic
//	8 bytes  generation: one more each time that the journal begins anew
//	8 bytes  committed: where the records end
//	records  4 bytes CRC-32C of what follows and of the generation, 2 bytes
//	         length, and so many bytes
//
// all little-endian. A record that is half written is not committed.
const (
	journalMagic   = "WEIRJRN1"
	journalStart   = 64
	journalBytes   = 4 << 20
	journalStep    = 256 << 10 // allocated at a time
	journalKeep    = 512 << 10 // of them are kept from one fill to the next
	recordOverhead = 6
	// maxRecords is what the records of one event take at the most: two that
	// define what it has in common with others, and its own.
	maxRecords = event.MaxEventBytes + 256
)

// Kinds of records.
const (
	recordExchange   = 1
	recordConnection = 2
	recordEvent      = 3
	recordTraced     = 4 // an event with a trace id
)

// journal is what one buffer writes. A nil journal takes nothing and is never
// full. It has the lock of what it belongs to: the shard, or the sealer.
type journal struct {
	index      int
	file       *os.File
	mem        []byte
	at         int // where the next record goes
	allocated  int // bytes of the file that have memory behind them
	generation uint64
	// exchanges and connections are how many are defined.
	exchanges, connections int
	start                  int64 // of the event before
	// broken: there is no more memory; what is recorded until the next fill is
	// not in the journal.
	broken bool
	failed *atomic.Uint64 // events that were not kept
	table  *crc32.Table
}

// openJournal makes a journal in a new file.
func openJournal(path string, index int, failed *atomic.Uint64) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make journal: %w", err)
	}
	j := &journal{index: index, file: f, failed: failed, table: crc32.MakeTable(crc32.Castagnoli)}
	if err := f.Truncate(journalBytes); err == nil {
		j.mem, err = mapFile(f, journalBytes)
		if err == nil {
			err = j.allocate(journalStep)
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("cannot map journal %s: %w", path, err)
		}
	} else {
		_ = f.Close()
		return nil, fmt.Errorf("cannot size journal: %w", err)
	}
	j.generation = 1
	j.begin()
	return j, nil
}

// allocate makes sure that writing up to an offset does not fault: a full file
// system is an error here, and a signal there.
func (j *journal) allocate(to int) error {
	if to > len(j.mem) {
		return errors.New("journal is full")
	}
	if err := reserve(j.file, int64(j.allocated), int64(to-j.allocated)); err != nil {
		return err
	}
	j.allocated = to
	return nil
}

// begin empties the journal under its present generation.
func (j *journal) begin() {
	j.at, j.exchanges, j.connections, j.start, j.broken = journalStart, 0, 0, 0, false
	// First that there are no records, and then of which generation they are
	// not.
	atomic.StoreUint64(j.word(16), journalStart)
	atomic.StoreUint64(j.word(8), j.generation)
	copy(j.mem, journalMagic)
}

// reset begins the next fill, when what the journal holds is kept elsewhere.
func (j *journal) reset() {
	if j == nil {
		return
	}
	if j.allocated > journalKeep {
		release(j.file, journalKeep, int64(j.allocated-journalKeep))
		j.allocated = journalKeep
	}
	j.generation++
	j.begin()
}

func (j *journal) word(at int) *uint64 { return (*uint64)(unsafe.Pointer(&j.mem[at])) }

// full tells that another event may have no room.
func (j *journal) full() bool { return j != nil && !j.broken && j.at+maxRecords > len(j.mem) }

// add writes an event that an encoder gave the numbers of. It tells whether the
// journal is half full.
func (j *journal) add(e *event.Event, exchange, connection int) bool {
	if !j.broken && j.at+maxRecords > j.allocated {
		j.broken = j.allocate(min(j.allocated+journalStep, len(j.mem))) != nil
	}
	if j.broken {
		j.failed.Add(1)
		return false
	}
	at := j.at
	if exchange == j.exchanges {
		j.exchanges++
		at = j.record(at, appendExchange(j.payload(at), e))
	}
	if connection == j.connections {
		j.connections++
		at = j.record(at, appendConnection(j.payload(at), e))
	}
	b := j.payload(at)
	if e.TraceID == ([16]byte{}) {
		b = append(b, recordEvent)
	} else {
		b = append(append(b, recordTraced), e.TraceID[:]...)
	}
	b = binary.AppendUvarint(b, uint64(exchange))
	b = binary.AppendUvarint(b, uint64(connection))
	b = binary.AppendVarint(b, e.Start-j.start)
	b = binary.AppendUvarint(b, e.Latency)
	b = binary.AppendUvarint(b, e.Duration)
	b = binary.AppendUvarint(b, e.RequestBytes)
	b = binary.AppendUvarint(b, e.ResponseBytes)
	b = binary.AppendUvarint(b, uint64(e.Stream))
	j.start = e.Start
	j.at = j.record(at, b)
	atomic.StoreUint64(j.word(16), uint64(j.at))
	return j.at > len(j.mem)/2
}

// payload is where a record's bytes go.
func (j *journal) payload(at int) []byte {
	return j.mem[at+recordOverhead : at+recordOverhead : len(j.mem)]
}

// record completes one whose bytes are there, and returns where it ends.
func (j *journal) record(at int, payload []byte) int {
	end := at + recordOverhead + len(payload)
	binary.LittleEndian.PutUint16(j.mem[at+4:], uint16(len(payload)))
	sum := crc32.Update(uint32(j.generation), j.table, j.mem[at+4:end])
	binary.LittleEndian.PutUint32(j.mem[at:], sum)
	return end
}

func (j *journal) close() {
	unmapFile(j.mem)
	_ = j.file.Close()
}

func appendExchange(b []byte, e *event.Event) []byte {
	b = append(b, recordExchange, byte(e.Direction), byte(e.Protocol), byte(e.Kind), e.Attempt)
	b = binary.AppendUvarint(b, uint64(e.Status))
	b = binary.AppendVarint(b, int64(e.GRPCStatus))
	b = binary.AppendUvarint(b, uint64(e.Fate))
	for _, s := range [...]string{e.Method, e.Authority, e.Path, e.Error} {
		b = appendText(b, s)
	}
	return b
}

func appendConnection(b []byte, e *event.Event) []byte {
	meshed := byte(0)
	if e.Peer.Meshed {
		meshed = 1
	}
	b = append(b, recordConnection, byte(e.Security), byte(e.Detection), meshed)
	b = binary.AppendUvarint(b, e.Connection)
	b = binary.AppendUvarint(b, uint64(e.DetectionTime))
	b = binary.AppendUvarint(b, uint64(e.Peer.Addr.Port()))
	addr := e.Peer.Addr.Addr().Unmap()
	switch {
	case addr.Is4():
		ip := addr.As4()
		b = append(append(b, 4), ip[:]...)
	case addr.Is6():
		ip := addr.As16()
		b = append(append(b, 16), ip[:]...)
	default:
		b = append(b, 0)
	}
	w := &e.Peer.Workload
	for _, s := range [...]string{e.SecurityReason, w.Cluster, w.Namespace, w.Kind, w.Name, e.Peer.Pod, e.Peer.Identity} {
		b = appendText(b, s)
	}
	return b
}

// appendText writes as much of a string as a batch would.
func appendText(b []byte, s string) []byte {
	if len(s) > event.MaxStringBytes {
		n := event.MaxStringBytes
		for n > event.MaxStringBytes-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errJournal = errors.New("it is damaged")

// readJournal calls fn with each event of a journal's file, whose memory data
// is. Where it ends early, the error says so; events before that are good.
func readJournal(data []byte, fn func(*event.Event)) error {
	generation, committed, err := journalHead(data)
	if err != nil {
		return err
	}
	var exchanges, connections []event.Event
	table := crc32.MakeTable(crc32.Castagnoli)
	start := int64(0)
	for at := journalStart; at < committed; {
		if at+recordOverhead > committed {
			return errJournal
		}
		end := at + recordOverhead + int(binary.LittleEndian.Uint16(data[at+4:]))
		if end > committed || crc32.Update(uint32(generation), table, data[at+4:end]) != binary.LittleEndian.Uint32(data[at:]) {
			return fmt.Errorf("%w at offset %d", errJournal, at)
		}
		r := reader{data: data[at+recordOverhead : end]}
		at = end
		switch kind := r.byte(); kind {
		case recordExchange:
			exchanges = append(exchanges, r.exchange())
		case recordConnection:
			connections = append(connections, r.connection())
		case recordEvent, recordTraced:
			var trace [16]byte
			if kind == recordTraced {
				copy(trace[:], r.bytes(16))
			}
			x, c := r.uint(), r.uint()
			if x >= uint64(len(exchanges)) || c >= uint64(len(connections)) {
				return errJournal
			}
			e := exchanges[x]
			join(&e, &connections[c])
			start += r.int()
			e.TraceID, e.Start = trace, start
			e.Latency, e.Duration, e.RequestBytes, e.ResponseBytes = r.uint(), r.uint(), r.uint(), r.uint()
			e.Stream = uint32(r.uint())
			if !r.bad {
				fn(&e)
			}
		default:
			return errJournal
		}
		if r.bad {
			return errJournal
		}
	}
	return nil
}

// journalHead reads the head of a journal's file.
func journalHead(data []byte) (generation uint64, committed int, err error) {
	if len(data) < journalStart || string(data[:8]) != journalMagic {
		return 0, 0, errors.New("it is no journal")
	}
	end := binary.LittleEndian.Uint64(data[16:])
	if end < journalStart || end > uint64(len(data)) {
		return 0, 0, errJournal
	}
	return binary.LittleEndian.Uint64(data[8:]), int(end), nil
}

// reader reads the bytes of a record. What is not there is zero, and bad is set.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.data) {
		r.bad, r.data = true, nil
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) int() int64 {
	v := r.uint()
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) text() string {
	return string(r.bytes(int(min(r.uint(), event.MaxStringBytes+1))))
}

func (r *reader) exchange() event.Event {
	return event.Event{
		Direction: event.Direction(r.byte()), Protocol: event.Protocol(r.byte()), Kind: event.Kind(r.byte()), Attempt: r.byte(),
		Status: uint16(r.uint()), GRPCStatus: int16(r.int()), Fate: event.Fate(r.uint()),
		Method: r.text(), Authority: r.text(), Path: r.text(), Error: r.text(),
	}
}

func (r *reader) connection() event.Event {
	e := event.Event{Security: event.Security(r.byte()), Detection: event.Detection(r.byte())}
	e.Peer.Meshed = r.byte() == 1
	e.Connection, e.DetectionTime = r.uint(), uint32(r.uint())
	port := uint16(r.uint())
	addr, _ := netip.AddrFromSlice(r.bytes(int(r.byte())))
	e.Peer.Addr = netip.AddrPortFrom(addr, port)
	e.SecurityReason = r.text()
	e.Peer.Workload = event.Workload{Cluster: r.text(), Namespace: r.text(), Kind: r.text(), Name: r.text()}
	e.Peer.Pod, e.Peer.Identity = r.text(), r.text()
	return e
}

// join adds what an event's connection says.
func join(e, c *event.Event) {
	e.Connection, e.Peer, e.Security, e.SecurityReason = c.Connection, c.Peer, c.Security, c.SecurityReason
	e.Detection, e.DetectionTime = c.Detection, c.DetectionTime
}
