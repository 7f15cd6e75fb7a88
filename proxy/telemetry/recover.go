package telemetry

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/event"
)

// remains is what one earlier process left.
type remains struct {
	instance uint64
	// newest is the header of the newest batch.
	newest   event.Header
	batches  []batch
	covered  []kept // by the batches
	journals []string
	sums     string
	state    string
}

// recover makes batches of all that earlier processes left, oldest first, and
// tells how many events were in no batch yet. Whenever it is killed itself, it
// finds the same again. Beyond limit bytes, the oldest batches are given up.
func (s *spool) recover(limit int) (left []batch, events int) {
	found := make(map[uint64]*remains)
	names, err := os.ReadDir(s.dir)
	if err != nil {
		s.complain(fmt.Errorf("cannot read the telemetry spool: %w", err))
	}
	for _, entry := range names { // by name: batches come in order
		s.sort(found, entry.Name())
	}
	all := make([]*remains, 0, len(found))
	for _, r := range found {
		s.readHeaders(r)
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *remains) int { return int(min(max(a.newest.Sent-b.newest.Sent, -1), 1)) })
	for _, r := range all {
		events += s.complete(r)
		left = append(left, r.batches...)
	}
	total := 0
	for _, b := range left {
		total += b.size
	}
	for ; total > limit && len(left) > 0; left = left[1:] {
		s.refuse(left[0].path, fmt.Errorf("the spool has more than %d bytes", limit))
		total -= left[0].size
	}
	return left, events
}

// sort notes a file with others of its instance.
func (s *spool) sort(found map[uint64]*remains, name string) {
	path := filepath.Join(s.dir, name)
	prefix, rest, _ := strings.Cut(name, ".")
	instance, err := strconv.ParseUint(prefix, 16, 64)
	if err != nil || len(prefix) != 16 {
		return // not ours
	}
	if strings.HasSuffix(rest, ".refused") || rest == "part" {
		_ = os.Remove(path)
		return
	}
	r := found[instance]
	if r == nil {
		r = &remains{instance: instance}
		found[instance] = r
	}
	switch {
	case rest == "state":
		r.state = path
	case rest == "sums":
		r.sums = path
	case strings.HasSuffix(rest, ".journal"):
		r.journals = append(r.journals, path)
	case strings.HasSuffix(rest, ".batch"):
		r.batches = append(r.batches, batch{instance: instance, path: path})
	}
}

// readHeaders reads the batches and the state.
func (s *spool) readHeaders(r *remains) {
	var d event.Decoder
	r.batches = slices.DeleteFunc(r.batches, func(b batch) bool { return b.path == "" })
	good := r.batches[:0]
	for _, b := range r.batches {
		k, data, err := readKept(b.path, batchMagic)
		if err == nil {
			err = d.Reset(data)
		}
		if err == nil && d.Header().Instance != r.instance {
			err = errors.New("it is another instance's")
		}
		if err != nil {
			s.refuse(b.path, err)
			continue
		}
		h := d.Header()
		r.learn(h)
		b.sequence, b.source, b.size = h.Sequence, cloneWorkload(h.Source.Workload), len(data)
		good = append(good, b)
		r.covered = append(r.covered, k)
	}
	r.batches = good
	if r.state == "" {
		return
	}
	h, err := readState(r.state, &d)
	switch {
	case err != nil:
		s.refuse(r.state, err)
	case h.Instance == r.instance:
		r.learn(&h)
	}
}

// learn takes the header of a batch, if it is newer than the newest.
func (r *remains) learn(h *event.Header) {
	if h.Sequence <= r.newest.Sequence && r.newest.Instance != 0 {
		return
	}
	r.newest = *h
	r.newest.Version = strings.Clone(h.Version)
	r.newest.Source = event.Source{
		Workload: cloneWorkload(h.Source.Workload), Pod: strings.Clone(h.Source.Pod), Node: strings.Clone(h.Source.Node),
	}
}

func cloneWorkload(w event.Workload) event.Workload {
	return event.Workload{
		Cluster: strings.Clone(w.Cluster), Namespace: strings.Clone(w.Namespace),
		Kind: strings.Clone(w.Kind), Name: strings.Clone(w.Name),
	}
}

// complete makes batches of what is in none, and a final one.
func (s *spool) complete(r *remains) (events int) {
	s.prefix = prefixOf(s.dir, r.instance)
	sums, ok := kept{}, false
	var c coalescer
	if r.sums != "" {
		k, data, err := readKept(r.sums, sumsMagic)
		if err == nil && !slices.ContainsFunc(r.covered, func(by kept) bool { return by.sums == k.sums }) {
			err = c.add(data)
		}
		if err != nil {
			s.refuse(r.sums, err)
		} else {
			sums, ok = k, true
		}
	}
	if ok {
		// Either way the sums have what they say of a journal.
		r.covered = append(r.covered, kept{index: sums.index, generation: sums.generation})
	}
	for _, path := range r.journals {
		events += s.completeJournal(r, path)
	}
	if !c.empty() {
		enc := new(event.Encoder)
		c.put(enc)
		events += int(c.events)
		s.store(r, enc, kept{index: -1, sums: sums.sums}, false)
	}
	if r.newest.Sequence > 0 && !r.newest.Final {
		s.store(r, new(event.Encoder), kept{index: -1}, true)
	}
	for _, path := range append(r.journals, r.sums, r.state) {
		if path != "" {
			_ = os.Remove(path)
		}
	}
	return events
}

// completeJournal makes a batch of a journal's events, unless they are in one.
func (s *spool) completeJournal(r *remains, path string) (events int) {
	data, err := loadJournal(path)
	if err != nil {
		s.refuse(path, err)
		return 0
	}
	generation, _, _ := journalHead(data)
	_, rest, _ := strings.Cut(filepath.Base(path), ".")
	index, err := strconv.Atoi(strings.TrimSuffix(rest, ".journal"))
	if err != nil {
		return 0 // not ours
	}
	k := kept{index: int32(index), generation: generation}
	if slices.ContainsFunc(r.covered, func(by kept) bool { return by.index == k.index && by.generation == k.generation }) {
		return 0
	}
	if r.newest.Instance == 0 {
		if generation > 1 || len(data) > journalStart {
			s.refuse(path, errors.New("nothing tells the number of its batch"))
		}
		return 0
	}
	enc, more := new(event.Encoder), 0
	err = readJournal(data, func(e *event.Event) {
		if enc.Full() {
			more++
			return
		}
		enc.Add(e)
	})
	if err == nil && more > 0 {
		err = fmt.Errorf("it has %d events more than a batch can hold", more)
	}
	if err != nil {
		s.refuse(path, err)
	}
	if enc.Len() > 0 {
		s.store(r, enc, k, false)
	}
	return enc.Len()
}

// loadJournal reads the part of a journal's file that has records.
func loadJournal(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, journalStart)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head = append(head, make([]byte, max(0, min(info.Size(), journalBytes)-journalStart))...)
	_, committed, err := journalHead(head)
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(f, head[journalStart:committed])
	return head[:committed], err
}

// store makes the next batch of an earlier process.
func (s *spool) store(r *remains, enc *event.Encoder, k kept, final bool) {
	h := &r.newest
	_, summed := enc.Summaries()
	h.Instance, h.Sent, h.Final, h.OpenConnections = r.instance, time.Now().UnixMicro(), final, 0
	h.Sequence++
	h.Produced += uint64(enc.Len()) + summed
	h.Shed += summed
	data := enc.Encode(nil, h)
	b := batch{
		instance: r.instance, sequence: h.Sequence, source: h.Source.Workload, size: len(data),
		path: fmt.Sprintf("%s%020d.batch", s.prefix, h.Sequence),
	}
	if err := s.write(b.path, batchMagic, k, data); err != nil {
		s.complain(err)
		b.path, b.data = "", data
	}
	r.batches = append(r.batches, b)
}
