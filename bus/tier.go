package bus

import (
	"fmt"
	"strconv"
	"time"
)

// Tiers is how many resolutions rollups are kept at: 1 s, 10 s and 1 min. Each
// has a stream of its own, whose age is the tier's retention; a coarse rollup
// sums up some of the next finer tier's.
const Tiers = 3

// Names of the streams of coarse rollups.
const (
	StreamRollups10s = "WEIR_ROLLUPS_10S"
	StreamRollups1m  = "WEIR_ROLLUPS_1M"
)

// rollupTiers are the stream of each tier, and what its subjects end in.
var rollupTiers = [Tiers]struct{ stream, suffix, step string }{
	{StreamRollups, "", "one second"},
	{StreamRollups10s, ".10s", "10 seconds"},
	{StreamRollups1m, ".1m", "one minute"},
}

// RollupStream is the stream of a tier's rollups. The tier must have passed
// CheckTier.
func RollupStream(tier int) string { return rollupTiers[tier].stream }

// RollupSubject is where the owner of a partition publishes its rollups of a
// tier, which must have passed CheckTier.
func RollupSubject(partition, tier int) string {
	return prefixRollups + "." + strconv.Itoa(partition) + rollupTiers[tier].suffix
}

// CheckTier returns an error that wraps ErrTier where the tier is not in
// [0, Tiers).
func CheckTier(tier int) error {
	if tier < 0 || tier >= Tiers {
		return fmt.Errorf("cannot use tier %d: %w: there are %d", tier, ErrTier, Tiers)
	}
	return nil
}

// recountMargin is how much longer than the events the one-second rollups are
// kept. An owner that comes back after a long absence begins where the last
// rollup says; were that gone before the events which it counted, they would be
// counted again.
const recountMargin = 15 * time.Minute

// rollupStreams are the streams of all tiers.
func rollupStreams(r Retention) []Stream {
	ages := [Tiers]time.Duration{max(r.RollupAge, r.EventAge+recountMargin), r.Rollup10sAge, r.Rollup1mAge}
	// A tier's rollups are a fraction of the finer one's in number, but each
	// is kept for much longer.
	bytes := [Tiers]int64{r.RollupBytes, r.RollupBytes, r.RollupBytes}
	var streams []Stream
	for tier, t := range rollupTiers {
		streams = append(streams, Stream{
			Name:        t.stream,
			Description: "Rollups of " + t.step + ", one subject a partition",
			Subjects:    []string{prefixRollups + ".*" + t.suffix},
			MaxAge:      ages[tier],
			MaxBytes:    bytes[tier],
			MaxMessage:  MaxPayload,
			Dedup:       min(DedupWindow, ages[tier]),
			Replicas:    r.Replicas,
		})
	}
	return streams
}
