package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// behindEvery is how often a tap says that it is behind, and readingEvery how
// often it says how far in the past it is.
const (
	behindEvery  = 10 * time.Second
	readingEvery = time.Second
)

// note says on stderr what of a tap is no event.
func (t *tapCommand) note(item *weirpb.TapResponse) error {
	if gap := item.GetGap(); gap != nil && gap.GetReason() == "max_rps" {
		t.limited += gap.GetSkipped()
	} else if gap != nil {
		return t.noteGap(gap)
	}
	if p := item.GetProgress(); p != nil {
		t.progress = p
		t.noteProgress(p)
	}
	return nil
}

func (t *tapCommand) noteGap(g *weirpb.TapGap) error {
	if t.output != outputJSON {
		t.notef("%s", gapNote(g, t.now()))
		return nil
	}
	line, err := json.Marshal(map[string]gapObject{"gap": {
		Source:   describeFull(g.GetSource()),
		Pod:      g.GetPod(),
		Instance: g.GetInstance(),
		From:     g.GetFrom(),
		To:       g.GetTo(),
		Count:    g.GetSkipped(),
		Reason:   g.GetReason(),
		Since:    jsonTime(g.GetSince()),
		Until:    jsonTime(g.GetUntil()),
	}})
	if err != nil {
		return fmt.Errorf("cannot encode a gap: %w", err)
	}
	t.notef("%s", line)
	return nil
}

// gapObject is a gap in JSON.
type gapObject struct {
	Source   string `json:"source"`
	Pod      string `json:"pod"`
	Instance string `json:"instance"`
	From     uint64 `json:"from"`
	To       uint64 `json:"to"`
	Count    uint64 `json:"count"`
	Reason   string `json:"reason"`
	// Since and Until say between when events may be missing that nobody can
	// count.
	Since string `json:"since,omitempty"`
	Until string `json:"until,omitempty"`
}

// jsonTime is a time in JSON; "" for none.
func jsonTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339Nano)
}

// describeFull names a workload with its namespace: "emojivoto/deploy/web".
func describeFull(r *weirpb.Resource) string {
	if r == nil {
		return none
	}
	return r.GetNamespace() + "/" + describe(r)
}

// gapNote says what is missing, and whose.
func gapNote(g *weirpb.TapGap, now time.Time) string {
	between := func() string {
		return "between " + clock(g.GetSince().AsTime(), now) + " and " + clock(g.GetUntil().AsTime(), now)
	}
	who := printable(describeFull(g.GetSource()))
	if g.GetPod() != "" {
		who += " (pod " + printable(g.GetPod()) + ")"
	}
	switch g.GetReason() {
	case "lost":
		batches := fmt.Sprintf("batches %d to %d", g.GetFrom(), g.GetTo())
		if g.GetFrom() == g.GetTo() {
			batches = fmt.Sprintf("batch %d", g.GetFrom())
		}
		return fmt.Sprintf("Gap: %s of %s, instance %s, never arrived: %d events.", batches, who, g.GetInstance(), g.GetSkipped())
	case "shed":
		return fmt.Sprintf("Gap: the proxy of %s, instance %s, had to give up the detail of %d events before batch %d.", who, g.GetInstance(), g.GetSkipped(), g.GetTo())
	case "discarded":
		return fmt.Sprintf("Gap: what came %s is not kept any more.", between())
	case gapUnseen:
		return fmt.Sprintf("Gap: nothing was seen %s.", between())
	case "unreadable":
		return fmt.Sprintf("Gap: a message of %s is no batch of its events.", who)
	}
	return fmt.Sprintf("Gap: %d events of %s are missing: %s.", g.GetSkipped(), who, printable(g.GetReason()))
}

func (t *tapCommand) noteProgress(p *weirpb.TapProgress) {
	t.noteLimited(p.GetMatchedRps())
	now := t.now()
	since := t.req.GetSince()
	if since == nil {
		if behind := p.GetBehind().AsDuration(); behind > 0 && now.Sub(t.saidBehind) >= behindEvery {
			t.saidBehind = now
			t.notef("Behind by %s: more comes than is read here. Nothing is lost.", behind.Round(time.Second))
		}
		return
	}
	if !t.saidOldest {
		t.saidOldest = true
		if note := reachNote(p, since, now); note != "" {
			t.notef("%s", note)
		}
		t.saidReading = now
		return
	}
	if note := readingNote(p, since, now); note != "" && now.Sub(t.saidReading) >= readingEvery {
		t.saidReading = now
		t.notef("%s", note)
	}
}

// reachNote says where the stream does not reach back to since; "" where it does.
func reachNote(p *weirpb.TapProgress, since *timestamppb.Timestamp, now time.Time) string {
	switch {
	case since == nil:
	case p.GetOldest() == nil:
		return "The stream holds no events."
	case p.GetOldest().AsTime().After(since.AsTime().Add(time.Second)):
		return fmt.Sprintf("Events reach back to %s: what was before is not kept.", clock(p.GetOldest().AsTime(), now))
	}
	return ""
}

// readingOf is the time of a reading of the past, as the end of a sentence.
func readingOf(since, until *timestamppb.Timestamp, now time.Time) string {
	if until == nil {
		return " since " + clock(since.AsTime(), now)
	}
	return " between " + clock(since.AsTime(), now) + " and " + clock(until.AsTime(), now)
}

// readingNote says how far in the past a reading is, "" where it is done.
func readingNote(p *weirpb.TapProgress, since *timestamppb.Timestamp, now time.Time) string {
	if since == nil || p.GetReadTo() == nil || p.GetBatches() >= p.GetBatchesTotal() {
		return ""
	}
	return fmt.Sprintf("Read %d of %d batches, to %s: %d of %d events match.", p.GetBatches(), p.GetBatchesTotal(),
		clock(p.GetReadTo().AsTime(), now), p.GetMatched(), p.GetEvents())
}

// noteLimited says what --max-rps kept back, beside the true rate where it is
// known.
func (t *tapCommand) noteLimited(rps float64) {
	if t.limited == 0 {
		return
	}
	rate := ""
	if rps > 0 {
		rate = fmt.Sprintf(" (%.1f a second)", rps)
	}
	t.notef("%d skipped: more came%s than --max-rps lets through.", t.limited, rate)
	t.limited = 0
}
