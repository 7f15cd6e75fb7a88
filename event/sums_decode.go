package event

import (
	"errors"
	"fmt"
	"math"
)

// ReadSums has Reset read the sums of a batch, too; it is to be called before that.
func (d *Decoder) ReadSums(read bool) { d.readSums = read }

// Sums are the sums of all events of the batch and the second in which they ended,
// Unix time, by the source's clock. There are none where the batch has none, or
// where they were not read. They are valid until the next Reset.
func (d *Decoder) Sums() (second int64, sums []Sum) { return d.sumSecond, d.sums }

// DescribeOutcome sets those fields of e that an outcome stands for.
func (d *Decoder) DescribeOutcome(n int, e *Event) {
	o := &d.outcomes[n]
	e.Kind, e.Status, e.GRPCStatus = o.kind, o.status, o.grpcStatus
	e.Error, e.Fate, e.Attempt = o.error, o.fate, o.attempt
}

// Outcomes is how many outcomes the batch has.
func (d *Decoder) Outcomes() int { return len(d.outcomes) }

var (
	errSumPart  = errors.New("it is of neither a route nor a peer, or of both, or not of both, where its direction has it otherwise")
	errSumOf    = errors.New("its outcomes are not those of its kind")
	errSumTimes = errors.New("its times are not possible")
	errSumTotal = errors.New("they are not those of the events")
)

// parseSums reads and checks the sums.
func (d *Decoder) parseSums(data []byte) error {
	if len(data) == 0 || !d.readSums {
		return nil
	}
	limit := d.limit
	d.limit = MaxSums
	n, f, err := d.readDictionary(data, []spec{
		{"part", 4}, {"exchange", max(uint64(len(d.exchanges)), 1)}, {"connection", max(uint64(len(d.connections)), 1)},
		{"request_bytes", 0}, {"response_bytes", 0}, {"latency_least", 1 << 32}, {"latency_spread", 1 << 32}, {"latency_rest", 0},
		{"tail_least", 0}, {"tail_spread", 0}, {"tail_rest", 0},
	})
	d.limit = limit
	if err != nil {
		return err
	}
	if n == 0 || d.count == 0 {
		return errSumTotal
	}
	outcomes := len(d.outcomes)
	if n*outcomes > d.limit {
		return fmt.Errorf("there are %d of %d outcomes, and more than %d are not accepted", n, outcomes, d.limit)
	}
	d.sumEvents, err = readColumn(d.sumEvents, f.data[fieldSumEvents-fieldColumn], n*outcomes, spec{"events", MaxEvents + 1})
	if err != nil {
		return err
	}
	if len(d.sumEvents) == 0 {
		return errSumTotal
	}
	d.sums = room(d.sums, n)
	var totals [2]uint64
	for i := range d.sums {
		s := &d.sums[i]
		if err := d.parseSum(s, i); err != nil {
			return fmt.Errorf("number %d: %w", i, err)
		}
		if s.OfRoute {
			totals[0] += s.Events
		}
		if s.OfPeer {
			totals[1] += s.Events
		}
	}
	if totals != [2]uint64{uint64(d.count), uint64(d.count)} {
		return errSumTotal
	}
	if err := d.parseBuckets(f.data[fieldSumBuckets-fieldColumn]); err != nil {
		return err
	}
	ends := d.columns[eventEnd]
	var block [blockRows]uint64
	if ends.n > 0 {
		ends.read(block[:min(d.count, blockRows)], 0)
	}
	d.sumSecond = floorSecond(d.header.Sent+int64(block[0])) / 1e6
	return nil
}

// parseSum sets a sum from its columns.
func (d *Decoder) parseSum(s *Sum, i int) error {
	c := &d.dictionary
	part := at(c[sumPart], i)
	*s = Sum{
		OfRoute: part&partRoute != 0, OfPeer: part&partPeer != 0,
		Exchange: int(at(c[sumExchangeNumber], i)), Connection: int(at(c[sumConnection], i)),
		RequestBytes: at(c[sumRequest], i), ResponseBytes: at(c[sumResponse], i),
		Outcomes: d.sumEvents[i*len(d.outcomes) : (i+1)*len(d.outcomes)],
	}
	of := Event{}
	d.DescribeExchange(s.Exchange, &of)
	switch both := s.OfRoute && s.OfPeer; {
	case part == 0, of.Direction != Inbound && of.Direction != Outbound, both != (of.Direction == Outbound):
		return errSumPart
	}
	request := of.IsRequest()
	for o, n := range s.Outcomes {
		if n == 0 {
			continue
		}
		s.Events += n
		if request && d.outcomes[o].kind != End {
			return errSumOf
		}
	}
	if s.Events == 0 || s.Events > uint64(d.count) {
		return errSumTotal
	}
	if !request {
		return nil
	}
	l := sumMoments(s.Events, at(c[sumLeast], i), at(c[sumSpread], i), at(c[sumRest], i))
	t := sumMoments(s.Events, l.min+at(c[sumTailLeast], i), l.max-l.min+at(c[sumTailSpread], i), at(c[sumRest], i)+at(c[sumTailRest], i))
	if !l.possible() || !t.possible() {
		return errSumTimes
	}
	s.Latency, s.Duration = Moments{l}, Moments{t}
	return nil
}

// sumMoments are moments as sums have them.
func sumMoments(n, least, spread, rest uint64) moments {
	return moments{n, least*n + rest, least, least + spread}
}

// possible tells whether a sum's moments can be those of times of 32 bits.
func (m *moments) possible() bool {
	return m.min <= m.max && m.max <= math.MaxUint32 && m.sum >= m.count*m.min && m.sum <= m.count*m.max
}

// parseBuckets reads the buckets of all sums.
func (d *Decoder) parseBuckets(data []byte) error {
	d.sumBits = append(append(d.sumBits[:0], data...), make([]byte, padding)...)
	r := bitReader{data: d.sumBits}
	list := d.sumBuckets[:0]
	var err error
	for i := range d.sums {
		s := &d.sums[i]
		if s.Latency.count == 0 {
			continue
		}
		from := len(list)
		if list, err = r.histogram(list, bucket(s.Latency.min), bucket(s.Latency.max), s.Events); err != nil {
			return fmt.Errorf("number %d: %w", i, err)
		}
		middle := len(list)
		if list, err = r.histogram(list, bucket(s.Duration.min), bucket(s.Duration.max), s.Events); err != nil {
			return fmt.Errorf("number %d: %w", i, err)
		}
		// Where the list grows later, this part of it stays where it was.
		s.LatencyBuckets, s.DurationBuckets = list[from:middle:middle], list[middle:len(list):len(list)]
	}
	d.sumBuckets = list
	if used := (r.at + 7) / 8; used != uint(len(data)) {
		return fmt.Errorf("buckets have %d bytes, and %d are theirs", len(data), used)
	}
	return nil
}
