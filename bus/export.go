package bus

import "time"

// StreamExports keeps what exporters have to remember: for each part of an
// exporter's state, the newest.
const StreamExports = "WEIR_EXPORTS"

const (
	prefixExports = "weir.v1.exports"
	// exportBytes bounds the stream, which holds one message a part.
	exportBytes = 512 << 20
	// exportAge is how long an exporter that is never run again is remembered.
	exportAge = 366 * 24 * time.Hour
)

// ExportSubject is where an exporter keeps one part of its state.
func ExportSubject(exporter, part string) string {
	return prefixExports + "." + Token(exporter) + "." + Token(part)
}

// exports is the stream of what exporters remember.
func exports(r Retention) Stream {
	return Stream{
		Name:        StreamExports,
		Description: "How far exporters have come, and what they have counted",
		Subjects:    []string{prefixExports + ".*.*"},
		MaxAge:      exportAge,
		MaxBytes:    exportBytes,
		MaxMessage:  MaxPayload,
		Dedup:       DedupWindow,
		Replicas:    r.Replicas,
		Latest:      true,
	}
}
