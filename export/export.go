// Package export is what the exporters of events have in common: reading the
// stream of events on their own and taking each batch once, however often it
// comes, in whatever order, and whenever the exporter was killed. Package
// prometheus counts, package ndjson writes each event out.
//
// An [Intake] knows how far one partition has been read and which batches of
// each proxy were taken. Its [Intake.Marks] belong into the same commit as what
// was made of the batches; an exporter that begins again from its last commit
// then reads on as if nothing had happened.
package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
)

// Stream is the stream of events. bus/client.Client is one.
type Stream interface {
	// ConsumeEvents calls fn with every batch of a partition that comes after
	// those that were read, of which read has the last, in order, until ctx ends or fn
	// fails, whose error it returns. It sits out absences of the bus. Where the
	// stream has lost what was read, and others may have its sequences, fn begins
	// before that, and some come again.
	ConsumeEvents(ctx context.Context, partition int, read []event.Mark, fn func(at event.Mark, subject string, data []byte) error) error
	// NextStored tells when the stream got the first batch of a partition after
	// a sequence; the zero time where there is none.
	NextStored(ctx context.Context, partition int, after uint64) (time.Time, error)
}

// Bounds of what is known of sources.
const (
	// maxSources of a partition are remembered. Those not heard of for longest
	// go first; should one of them repeat a batch, it would be taken twice.
	maxSources = 20_000
	// sourceMemory is how long a silent source is remembered, and finalMemory
	// how long one that said it had ended, seconds. Both outlive the stream.
	sourceMemory = 24 * 3600
	finalMemory  = 2 * 3600
	maxName      = 253
	// maxMarks bounds what Marks returns, far above what sources can take.
	maxMarks = 1 << 30
	// beginSlack is how long after the begin of a reading a batch may have been
	// sealed for the ones before it to be nobody's loss.
	beginSlack = 10 * 1e6
	// quietBatches before the first one of a source are still taken, should
	// they come after it.
	quietBatches = 1024
)

// Counts are what an intake saw, from its first batch on.
type Counts struct {
	// Batches that were taken; Duplicates were taken before, Refused are none.
	Batches, Duplicates, Refused uint64
	// Lost batches are missing in the proxies' numbering.
	Lost int64
	// Shed events come in summaries only: their proxies had no room for them.
	Shed uint64
}

// Intake takes the batches of one partition, each once. It is not safe for
// concurrent use.
type Intake struct {
	// Counts go on growing; they are not part of the marks.
	Counts Counts
	// Forgotten, where not nil, is told of each source that is forgotten.
	Forgotten func(rollup.SourceID)

	partition int
	at        event.Mark
	// begin is when the reading was to begin, µs since 1970; 0: at the oldest.
	begin   int64
	sources map[rollup.SourceID]*rollup.Source
	decoder event.Decoder
}

// NewIntake returns an intake that knows nothing and will take what comes after
// the stream's sequence after. begin is the time that it stands for; zero: the
// oldest that there is.
func NewIntake(partition int, after uint64, begin time.Time) *Intake {
	in := &Intake{partition: partition, at: event.Mark{Sequence: after}, sources: map[rollup.SourceID]*rollup.Source{}}
	if !begin.IsZero() {
		in.begin = begin.UnixMicro()
	}
	return in
}

// RestoreIntake returns the intake whose marks these are.
func RestoreIntake(partition int, marks []byte) (*Intake, error) {
	part, err := rollup.Decode(marks)
	if err != nil {
		return nil, fmt.Errorf("cannot read the marks of partition %d: %w", partition, err)
	}
	if part.Partition != partition || !part.Last {
		return nil, fmt.Errorf("cannot read the marks of partition %d: they are of partition %d, or not whole", partition, part.Partition)
	}
	in := NewIntake(partition, 0, time.Time{})
	in.at = event.Mark{Sequence: part.Delta.Position, Stored: part.Delta.Stored}
	for i := range part.Delta.Sources {
		s := &part.Delta.Sources[i]
		in.sources[s.ID] = s
	}
	in.begin = part.Written
	return in, nil
}

// OpenConnections calls fn with each proxy's gauge of open connections in marks
// that Marks returned, but for those that have ended or were silent since before
// a time, Unix seconds.
func OpenConnections(marks []byte, since int64, fn func(w event.Workload, pod string, open uint64)) error {
	part, err := rollup.Decode(marks)
	if err != nil {
		return fmt.Errorf("cannot read marks: %w", err)
	}
	for i := range part.Delta.Sources {
		if s := &part.Delta.Sources[i]; !s.Final && s.LastSeen >= since {
			fn(s.ID.Workload, s.Pod, s.OpenConnections)
		}
	}
	return nil
}

// Marks are the position and what is known of the sources, to be kept. They are
// a group of rollup.proto without cells.
func (in *Intake) Marks() []byte {
	d := &rollup.Delta{Position: in.at.Sequence, Stored: in.at.Stored, Full: true, Sources: make([]rollup.Source, 0, len(in.sources))}
	for _, s := range in.sources {
		d.Sources = append(d.Sources, *s)
	}
	return rollup.Encode(d, rollup.Meta{Partition: in.partition, Owner: "export", Written: in.begin}, maxMarks)[0]
}

// Partition is the number of the partition.
func (in *Intake) Partition() int { return in.partition }

// Position is the sequence in the stream of the last message seen.
func (in *Intake) Position() uint64 { return in.at.Sequence }

// Read is that message, as Stream.ConsumeEvents wants it.
func (in *Intake) Read() []event.Mark { return []event.Mark{in.at} }

// Sources is how many proxies are known.
func (in *Intake) Sources() int { return len(in.sources) }

// Live calls fn with the workload and pod of each proxy that sent a batch at
// since or later, Unix seconds.
func (in *Intake) Live(since int64, fn func(w event.Workload, pod string)) {
	for _, s := range in.sources {
		if s.LastSeen >= since {
			fn(s.ID.Workload, s.Pod)
		}
	}
}

// Take admits one message of the stream. It returns a decoder at the beginning
// of the batch, valid until the next call; nil where the batch was taken before;
// and an error, after which to go on all the same, where it is none. What the stream
// got before the reading was to begin, and the stream's reader may give where the
// stream has lost its end, is not taken.
func (in *Intake) Take(at event.Mark, subject string, data []byte, now time.Time) (*event.Decoder, error) {
	in.at = at
	if at.Stored != 0 && at.Stored < in.begin*1000 {
		return nil, nil
	}
	h, err := in.read(subject, data)
	if err != nil {
		in.Counts.Refused++
		return nil, err
	}
	s, known := in.sources[rollup.SourceID{Instance: h.Instance, Workload: h.Source.Workload}]
	if !known {
		s = in.newSource(h)
	}
	s.LastSeen = now.Unix()
	fresh, lost, ok := s.Admit(h.Sequence, now.Unix())
	if !ok || h.Instance == 0 {
		in.Counts.Refused++
		return nil, fmt.Errorf("batch refused: instance %016x, sequence %d after %d", h.Instance, h.Sequence, s.High)
	}
	if !fresh {
		in.Counts.Duplicates++
		return nil, nil
	}
	if !known {
		in.sources[s.ID] = s
		if len(in.sources) > maxSources+maxSources/10 {
			in.evict()
		}
	}
	in.Counts.Batches++
	in.lose(lost)
	if h.Shed > s.Shed {
		in.Counts.Shed += h.Shed - s.Shed
		s.Shed = h.Shed
	}
	s.Final = s.Final || h.Final
	if h.Sequence == s.High {
		s.OpenConnections = h.OpenConnections
	}
	return &in.decoder, nil
}

// read decodes a batch and checks that it came on its source's own subject.
func (in *Intake) read(subject string, data []byte) (*event.Header, error) {
	if err := in.decoder.Reset(data); err != nil {
		return nil, fmt.Errorf("batch refused: %w", err)
	}
	h := in.decoder.Header()
	if h.Source.Workload.IsZero() {
		return nil, errors.New("batch refused: it names no source")
	}
	w, err := bus.ParseWorkload(subject)
	if err != nil {
		return nil, fmt.Errorf("batch refused: %w", err)
	}
	// Not the workloads: a subject may hold a long name cut.
	if w != h.Source.Workload && !strings.HasSuffix(subject, strings.TrimPrefix(bus.EventsSubject(h.Source.Workload), "weir.v1.events")) {
		return nil, fmt.Errorf("batch refused: its source is %s, and it came on the subject of %s", h.Source.Workload, w)
	}
	return h, nil
}

func (in *Intake) newSource(h *event.Header) *rollup.Source {
	w := h.Source.Workload
	s := &rollup.Source{ID: rollup.SourceID{Instance: h.Instance, Workload: event.Workload{
		Cluster:   strings.Clone(w.Cluster),
		Namespace: strings.Clone(w.Namespace),
		Kind:      strings.Clone(w.Kind),
		Name:      strings.Clone(w.Name),
	}}}
	s.Pod = strings.Clone(h.Source.Pod[:min(len(h.Source.Pod), maxName)])
	if in.begin > 0 && h.Sent < in.begin+beginSlack && h.Sequence > 1 {
		// What came before the begin is not missing. A batch that was overtaken
		// at the begin is still taken.
		from := uint64(1)
		if h.Sequence > quietBatches {
			from = h.Sequence - quietBatches
		}
		s.High, s.Shed = h.Sequence-1, h.Shed
		s.Missing = []rollup.Gap{{From: from, To: h.Sequence - 1, Since: h.Sent / 1e6, Lost: true}}
	}
	return s
}

// lose counts lost batches. What was not asked for, and came all the same, is
// not found again.
func (in *Intake) lose(n int64) { in.Counts.Lost = max(in.Counts.Lost+n, 0) }

// Sweep declares batches lost that did not come in time, and forgets sources that
// have been silent for long, and more where they are too many. It is to be called
// now and then.
func (in *Intake) Sweep(now time.Time) {
	at := now.Unix()
	for _, s := range in.sources {
		in.lose(s.Expire(at))
		if silent := at - s.LastSeen; silent > sourceMemory || s.Final && silent > finalMemory {
			in.forget(s)
		}
	}
	in.evict()
}

// evict keeps the bound on sources, with some room below it.
func (in *Intake) evict() {
	if len(in.sources) <= maxSources {
		return
	}
	all := make([]*rollup.Source, 0, len(in.sources))
	for _, s := range in.sources {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *rollup.Source) int { return cmp.Compare(a.LastSeen, b.LastSeen) })
	for _, s := range all[:len(all)-maxSources*9/10] {
		in.forget(s)
	}
}

func (in *Intake) forget(s *rollup.Source) {
	delete(in.sources, s.ID)
	if in.Forgotten != nil {
		in.Forgotten(s.ID)
	}
}
