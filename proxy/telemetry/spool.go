package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/event"
)

// A spool is a directory of files that begin with an instance in hex:
//
//	INSTANCE.N.journal         what is being recorded, see journal
//	INSTANCE.SEQUENCE.batch    a sealed batch that is not acknowledged
//	INSTANCE.sums              what was coalesced and is in no batch yet
//	INSTANCE.state             the header of the newest batch
//
// What a journal or the sums held is in a batch's file or the sums' before they
// begin anew, and each of these files says which fill of a journal, and which
// sums, it holds: so whenever the process is killed, each event is in exactly
// one of them that counts.
type spool struct {
	dir      string
	lock     *os.File
	log      *slog.Logger
	prefix   string // of the instance's files
	journals []*journal
	state    *os.File
	// turn of the state's two slots, sums is the number of the newest sums.
	turn, sums uint64
	failed     atomic.Uint64
	complained bool
	scratch    []byte
	empty      event.Encoder
}

// Files of the spool.
const (
	batchMagic = "WEIRBAT1"
	sumsMagic  = "WEIRSUM1"
	stateMagic = "WEIRSTA1"
	keptHead   = 40
	// minSpoolBytes of batches, or four times Options.RetainBytes, may be left by
	// earlier processes. Only processes killed again and again, without a bus,
	// leave as much.
	minSpoolBytes = 8 << 20
	// stateSlot is what each of the two slots of the state has room for.
	stateSlot = 32 << 10
)

// kept says what a file holds: a fill of a journal (none where index is below
// 0), and sums (none where 0).
type kept struct {
	index      int32
	generation uint64
	sums       uint64
}

// lockSpool makes and takes the directory.
func lockSpool(dir string, log *slog.Logger) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the telemetry spool: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the telemetry spool: %w", err)
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		if errors.Is(err, errors.ErrUnsupported) {
			return nil, fmt.Errorf("cannot use telemetry spool %s: this system has none: %w", dir, err)
		}
		return nil, fmt.Errorf("cannot use telemetry spool %s: another process does: give each proxy a directory of its own: %w", dir, err)
	}
	return &spool{dir: dir, lock: f, log: log}, nil
}

// open makes the files of an instance, whose first header is given, with so
// many journals.
func (s *spool) open(first *event.Header, journals int) (err error) {
	s.prefix = prefixOf(s.dir, first.Instance)
	if s.state, err = os.OpenFile(s.prefix+"state", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return fmt.Errorf("cannot make the telemetry spool's state: %w", err)
	}
	s.note(first)
	for range journals {
		if err := s.addJournal(); err != nil {
			return err
		}
	}
	return nil
}

// addJournal makes one more.
func (s *spool) addJournal() error {
	i := len(s.journals)
	j, err := openJournal(fmt.Sprintf("%s%d.journal", s.prefix, i), i, &s.failed)
	if err == nil {
		s.journals = append(s.journals, j)
	}
	return err
}

func prefixOf(dir string, instance uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x.", instance))
}

// journal is the one with a number; nil where there is no spool.
func (s *spool) journal(i int) *journal {
	if s == nil {
		return nil
	}
	return s.journals[i]
}

func (s *spool) errors() uint64 {
	if s == nil {
		return 0
	}
	return s.failed.Load()
}

// keep stores a sealed batch, which holds what is in a journal (where not nil)
// and the sums (where told), and lets these begin anew. It returns where; ""
// where it could not.
func (s *spool) keep(h *event.Header, data []byte, j *journal, sums bool) (path string) {
	if s == nil {
		return ""
	}
	k := kept{index: -1}
	if j != nil {
		k.index, k.generation = int32(j.index), j.generation
	}
	if sums {
		k.sums = s.sums
	}
	path = fmt.Sprintf("%s%020d.batch", s.prefix, h.Sequence)
	if err := s.write(path, batchMagic, k, data); err != nil {
		s.complain(err)
		path = ""
	}
	j.reset()
	if sums {
		_ = os.Remove(s.prefix + "sums")
	}
	s.note(h)
	return path
}

// keepSums stores what was coalesced, which now holds what is in a journal.
func (s *spool) keepSums(c *coalescer, j *journal) {
	if s == nil {
		return
	}
	s.sums++
	enc := new(event.Encoder)
	c.put(enc)
	data := enc.Encode(nil, &event.Header{})
	if err := s.write(s.prefix+"sums", sumsMagic, kept{int32(j.index), j.generation, s.sums}, data); err != nil {
		s.complain(err)
	}
	j.reset()
}

// write stores a file whole or not at all.
func (s *spool) write(path, magic string, k kept, data []byte) error {
	b := append(s.scratch[:0], magic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(k.index))
	b = binary.LittleEndian.AppendUint64(b, k.generation)
	b = binary.LittleEndian.AppendUint64(b, k.sums)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	b = append(b, data...)
	binary.LittleEndian.PutUint32(b[8:], checksum(b[12:]))
	if s.scratch = b; cap(b) > 256<<10 {
		s.scratch = nil
	}
	part := s.prefix + "part"
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return fmt.Errorf("cannot write to the telemetry spool: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("cannot write to the telemetry spool: %w", err)
	}
	return nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// readKept reads what write wrote.
func readKept(path, magic string) (k kept, data []byte, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return k, nil, err
	}
	if len(b) < keptHead || string(b[:8]) != magic ||
		binary.LittleEndian.Uint32(b[8:]) != checksum(b[12:]) || binary.LittleEndian.Uint64(b[32:]) != uint64(len(b)-keptHead) {
		return k, nil, errJournal
	}
	k.index = int32(binary.LittleEndian.Uint32(b[12:]))
	k.generation, k.sums = binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	return k, b[keptHead:], nil
}

// note writes the header of the newest batch, in the slot that does not hold the
// one before.
func (s *spool) note(h *event.Header) {
	s.turn++
	b := append(s.scratch[:0], stateMagic...)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, s.turn)
	b = s.empty.Encode(b, h)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)-16))
	binary.LittleEndian.PutUint32(b[8:], checksum(b[12:]))
	s.scratch = b
	if _, err := s.state.WriteAt(b, int64(s.turn%2)*stateSlot); err != nil {
		s.complain(fmt.Errorf("cannot write to the telemetry spool: %w", err))
	}
}

// readState reads the newer of the two slots that are whole.
func readState(path string, d *event.Decoder) (h event.Header, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return h, err
	}
	newest, err := uint64(0), errJournal
	for _, slot := range [][]byte{b[:min(len(b), stateSlot)], b[min(len(b), stateSlot):]} {
		if len(slot) < 24 || string(slot[:8]) != stateMagic {
			continue
		}
		n := int(binary.LittleEndian.Uint32(slot[12:]))
		if n < 8 || n > len(slot)-16 || binary.LittleEndian.Uint32(slot[8:]) != checksum(slot[12:16+n]) {
			continue
		}
		if turn := binary.LittleEndian.Uint64(slot[16:]); turn > newest && d.Reset(slot[24:16+n]) == nil {
			newest, h, err = turn, *d.Header(), nil
		}
	}
	return h, err
}

// load reads a batch that an earlier process left, or nil.
func (s *spool) load(path string) []byte {
	_, data, err := readKept(path, batchMagic)
	if err != nil {
		s.refuse(path, err)
		return nil
	}
	return data
}

// forget removes the file of a batch that is acknowledged.
func (s *spool) forget(path string) {
	if s != nil && path != "" {
		_ = os.Remove(path)
	}
}

// complain counts and logs what cannot be kept; the log has the first of a row.
func (s *spool) complain(err error) {
	s.failed.Add(1)
	if !s.complained {
		s.log.Warn("telemetry would not survive a kill now; is the spool's file system full?", "error", err)
	}
	s.complained = true
}

// refuse puts a file aside that cannot be read.
func (s *spool) refuse(path string, err error) {
	s.failed.Add(1)
	s.log.Warn("cannot read a file of the telemetry spool; what it held is lost", "file", path, "error", err, "kept_as", path+".refused")
	_ = os.Rename(path, path+".refused")
}

// close lets the directory go. Batches that are not acknowledged stay for the
// next process.
func (s *spool) close() {
	if s == nil || s.lock == nil {
		return
	}
	for i, j := range s.journals {
		j.close()
		_ = os.Remove(fmt.Sprintf("%s%d.journal", s.prefix, i))
	}
	if s.state != nil {
		_ = s.state.Close()
		_ = os.Remove(s.prefix + "state")
	}
	s.journals = nil
	_ = s.lock.Close()
	s.lock = nil
}

// openSpool takes the directory, and returns what earlier processes left to be
// published.
func (p *Pipeline) openSpool() ([]batch, error) {
	s, err := lockSpool(p.o.Spool, p.o.Logger)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	left, events := s.recover(max(4*p.o.RetainBytes, minSpoolBytes))
	first := event.Header{Instance: p.sealer.instance, Source: p.o.Source, Version: p.o.Version}
	if err := s.open(&first, len(p.shards)+1); err != nil {
		s.close()
		return nil, err
	}
	p.sealer.spool = s
	if len(left) > 0 {
		p.o.Logger.Info("took over telemetry of an earlier process",
			"batches", len(left), "events_from_journals", events, "took", time.Since(began).Round(time.Millisecond))
	}
	return left, nil
}
