package event

import (
	"errors"
	"fmt"
)

// MaxSummaries is how many summaries a batch may carry.
const MaxSummaries = 4096

// CoalescedPath is the path of a summary's route: a proxy that cannot keep
// events one by one does not keep their routes either.
const CoalescedPath = "(coalesced)"

// Summary is the sum of events that a bound kept a proxy from telling one by
// one: those of a second that have their peer, protocol and outcome in common.
type Summary struct {
	// Exchange and Connection are numbers in the batch that was read: see
	// [Decoder.Describe]. The connection has a peer and a security, but no id.
	Exchange, Connection int
	// Second in which they are counted, Unix time: that in which they ended, or
	// one before it, where a proxy had to merge seconds.
	Second int64
	// Events is how many they are, RequestBytes and ResponseBytes what they
	// carried.
	Events, RequestBytes, ResponseBytes uint64
	// Latency and Duration of requests, in the binary form of a [Histogram],
	// and empty for what are no requests (see [Event.IsRequest]).
	Latency, Duration []byte
}

// AddSummary adds a summary, of events that are as of says; what of says of one
// event alone (times, bytes, ordinal, trace) does not count. The histograms must
// be what [Histogram.AppendBinary] gave. The encoder copies what it needs.
func (e *Encoder) AddSummary(of *Event, s *Summary) {
	plain := *of
	plain.RequestBytes, plain.ResponseBytes, plain.Connection, plain.Stream = 0, 0, 0, 0
	c := &e.summaryColumns
	c[summarySecond].put(uint64(s.Second))
	c[summaryExchange].put(uint64(e.exchange(&plain)))
	c[summaryConnection].put(uint64(e.connection(&plain)))
	c[summaryEvents].put(s.Events)
	c[summaryRequest].put(s.RequestBytes)
	c[summaryResponse].put(s.ResponseBytes)
	c[summaryLatency].put(uint64(len(s.Latency)))
	c[summaryDuration].put(uint64(len(s.Duration)))
	e.histograms = append(append(e.histograms, s.Latency...), s.Duration...)
	e.summaries++
	e.summed += s.Events
}

// Summaries is how many summaries were added, Summed of how many events.
func (e *Encoder) Summaries() (n int, summed uint64) { return e.summaries, e.summed }

// appendSummaries writes the section of summaries.
func (e *Encoder) appendSummaries(dst []byte) []byte {
	if e.summaries == 0 {
		return dst
	}
	dst, at := begin(dst, fieldSummaries, e.summaries)
	for i := range e.summaryColumns {
		dst = e.work.packer.append(dst, fieldColumn+i, source{data: e.summaryColumns[i].data, n: e.summaries, mode: either})
	}
	if len(e.histograms) > 0 {
		dst = appendBytes(dst, fieldHistograms, e.histograms)
	}
	return endField(dst, at)
}

func (e *Encoder) resetSummaries(over bool) {
	e.summaries, e.summed = 0, 0
	resetColumns(e.summaryColumns[:], over)
	e.histograms = emptied(e.histograms, &e.most.histograms, keepColumn, over)
}

// summary is one that was read.
type summary struct {
	second                              int64
	exchange, connection                uint32
	latency, duration                   uint32 // lengths
	events, requestBytes, responseBytes uint64
}

var errSums = errors.New("its histograms are not those of its events")

// parseSummaries checks all summaries and their histograms.
func (d *Decoder) parseSummaries(data []byte) error {
	d.limit = min(MaxSummaries, 64+len(data))
	n, f, err := d.readDictionary(data, []spec{
		{"second", 0}, {"exchange", max(uint64(len(d.exchanges)), 1)}, {"connection", max(uint64(len(d.connections)), 1)},
		{"events", 1 << 48}, {"request_bytes", 0}, {"response_bytes", 0},
		{"latency", MaxBatchBytes}, {"duration", MaxBatchBytes},
	})
	if err != nil {
		return err
	}
	if n > 0 && (len(d.exchanges) == 0 || len(d.connections) == 0) {
		return errors.New("there are no exchanges or connections for them")
	}
	c := &d.dictionary
	d.summaries = room(d.summaries, n)
	d.histograms = f.data[fieldHistograms-fieldColumn]
	left := d.histograms
	for i := range d.summaries {
		s := summary{
			second: int64(at(c[summarySecond], i)), events: at(c[summaryEvents], i),
			exchange: uint32(at(c[summaryExchange], i)), connection: uint32(at(c[summaryConnection], i)),
			requestBytes: at(c[summaryRequest], i), responseBytes: at(c[summaryResponse], i),
			latency: uint32(at(c[summaryLatency], i)), duration: uint32(at(c[summaryDuration], i)),
		}
		d.summaries[i] = s
		want := uint64(0)
		x := &d.exchanges[s.exchange]
		e := Event{Kind: d.outcomes[x.outcome].kind, Protocol: d.routes[x.route].protocol}
		if e.IsRequest() {
			want = s.events
		}
		for _, length := range [2]uint32{s.latency, s.duration} {
			if int(length) > len(left) {
				return fmt.Errorf("number %d: %w", i, errShort)
			}
			if err := d.checked.UnmarshalBinary(left[:length]); err != nil {
				return fmt.Errorf("number %d: %w", i, err)
			}
			if d.checked.Count() != want {
				return fmt.Errorf("number %d: %w", i, errSums)
			}
			left = left[length:]
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%d bytes of histograms are no summary's", len(left))
	}
	return nil
}

// NextSummary sets s to the next summary and returns false where there is none
// left. Its histograms point into the batch.
func (d *Decoder) NextSummary(s *Summary) bool {
	if d.summary >= len(d.summaries) {
		return false
	}
	r := &d.summaries[d.summary]
	d.summary++
	*s = Summary{
		Exchange: int(r.exchange), Connection: int(r.connection), Second: r.second,
		Events: r.events, RequestBytes: r.requestBytes, ResponseBytes: r.responseBytes,
		Latency: d.histograms[:r.latency], Duration: d.histograms[r.latency : r.latency+r.duration],
	}
	d.histograms = d.histograms[r.latency+r.duration:]
	return true
}

// Summaries is how many summaries the batch has.
func (d *Decoder) Summaries() int { return len(d.summaries) }
