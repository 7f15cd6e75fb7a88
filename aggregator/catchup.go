package aggregator

import (
	"context"
	"math"
	"sync"
	"time"
)

// catchUpMost bounds how long a partition that was taken over does not answer
// because it has not come as far as its predecessor may have.
const catchUpMost = 5 * time.Second

// behindMost is for how long after that it says so where it still has not.
const behindMost = time.Minute

// streamEnd looks up where the stream of events ends, for the partition: what its
// predecessor had counted, published or not, came before. It tries until the
// deadline; where the bus can't tell, it is later than any.
func (p *partition) streamEnd(ctx context.Context, deadline time.Duration) uint64 {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for delay := retryLeast; ; delay = min(2*delay, retryMost) {
		end, err := p.a.o.Source.LastBatch(ctx, p.number)
		if err == nil {
			return end
		}
		if ctx.Err() != nil {
			p.a.log.Warn("cannot look up where the stream ends; answering without what was not read again yet", "partition", p.number, "error", err)
			return math.MaxUint64
		}
		sleep(ctx, delay)
	}
}

// answering tells whether the partition is taken over and has come as far as its
// predecessor may have, whose totals would else be followed by lesser ones, and
// has read the coarser tiers where the finer ones lack something; or has had time
// enough. p.mu is held.
func (p *partition) answering() bool {
	caught := p.folder != nil && p.folder.Position() >= p.end && (p.complete || !p.holed)
	return p.ready && (caught || !p.a.o.Now().Before(p.answerBy))
}

// behind tells whether the partition answers though it has not come as far as its
// predecessor may have. The bus may have lost what was last in the stream, and then
// nobody comes that far: after a while there is no telling any more. p.mu is held.
func (p *partition) behind() bool {
	return p.folder.Position() < p.end && p.a.o.Now().Before(p.answerBy.Add(behindMost))
}

// touched notes that a heartbeat was told, which began then.
func (a *Aggregator) touched(began time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = began
}

// untouched tells whether the last heartbeat, if there was any, is so long ago. It
// goes by the time that passes, be the process paused or cut off.
func (a *Aggregator) untouched(now time.Time, long time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.heard.IsZero() && now.Sub(a.heard) >= long
}

// lookAgain is for a member that has been out of touch and may get back what others
// have meanwhile answered for: its partitions answer once they have come as far. It
// is to be done before the next heartbeat, upon which the others give them up.
func (a *Aggregator) lookAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	for _, p := range a.partitions {
		p.mu.RLock()
		term := p.folder
		p.mu.RUnlock()
		if term == nil {
			continue
		}
		group.Go(func() {
			end, err := a.o.Source.LastBatch(ctx, p.number)
			if err != nil {
				a.log.Debug("cannot look up where the stream ends", "partition", p.number, "error", err)
				return
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.ready && p.folder == term {
				p.end, p.answerBy = end, a.o.Now().Add(catchUpMost)
			}
		})
	}
}
