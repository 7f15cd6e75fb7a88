package event

import "math"

// RowsAtOnce is how many events [Decoder.NextRows] gives at most.
const RowsAtOnce = blockRows

// Rows are some events of a batch in numbers, column by column: elements of the
// same index are of the same event, and those from N on mean nothing. The
// numbers are those of a [Row].
type Rows struct {
	N                                              int
	Exchange, Connection                           [RowsAtOnce]uint64
	End                                            [RowsAtOnce]int64
	Latency, Duration, RequestBytes, ResponseBytes [RowsAtOnce]uint64
	// First and Last are the least and the greatest of the Ends, Times has the bits
	// that any Latency or Duration has.
	First, Last int64
	Times       uint64
	// Untimed, to be set before a batch, leaves out End and Duration, which then
	// mean nothing; nor do First, Last and Times.
	Untimed bool
}

// NextRows sets r to the next events' numbers and returns false where there are
// none left. It takes less than as many calls of [Decoder.NextRow], which may
// have given a multiple of RowsAtOnce events before, but must not be called for
// the same batch afterwards; nor must Next and Fill.
func (d *Decoder) NextRows(r *Rows) bool {
	r.N = min(RowsAtOnce, d.count-d.row)
	if r.N <= 0 {
		r.N = 0
		return false
	}
	n, c := r.N, &d.block
	d.column(r.Exchange[:n], eventExchange)
	d.column(r.Connection[:n], eventConnection)
	d.column(r.Latency[:n], eventLatency)
	d.column(r.RequestBytes[:n], eventRequestBytes)
	d.column(r.ResponseBytes[:n], eventResponseBytes)
	exchanges := d.exchanges
	for i, number := range r.Exchange[:n] {
		x := &exchanges[number]
		x.request += r.RequestBytes[i]
		x.response += r.ResponseBytes[i]
		r.RequestBytes[i], r.ResponseBytes[i] = x.request, x.response
	}
	if !r.Untimed {
		d.column(r.Duration[:n], eventTail)
		d.column(c[eventEnd][:n], eventEnd)
		sent := d.header.Sent
		first, last, times := int64(math.MaxInt64), int64(math.MinInt64), uint64(0)
		for i := range n {
			latency := r.Latency[i]
			duration := r.Duration[i] + latency
			end := sent + int64(c[eventEnd][i])
			r.Duration[i], r.End[i] = duration, end
			first, last, times = min(first, end), max(last, end), times|latency|duration
		}
		r.First, r.Last, r.Times = first, last, times
	}
	d.row += n
	return true
}

// column unpacks one column for the rows from d.row on.
func (d *Decoder) column(dst []uint64, number int) {
	if p := &d.columns[number]; p.n > 0 {
		p.read(dst, d.row)
		return
	}
	clear(dst)
}
