package event

import (
	"strconv"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// AppendJSON appends one event as one JSON object, on one line and without a
// newline: what the tap subjects carry (docs/subjects.md has its keys). h is
// the header of the event's batch and index its place in it, from 0. Bytes that
// are not valid UTF-8 become U+FFFD. It allocates only to grow dst.
func AppendJSON(dst []byte, h *Header, index int, e *Event) []byte {
	dst = appendHex(append(dst, `{"instance":"`...), h.Instance)
	dst = strconv.AppendUint(append(dst, `","sequence":`...), h.Sequence, 10)
	dst = strconv.AppendInt(append(dst, `,"index":`...), int64(index), 10)
	dst = append(append(dst, `,"event":"`...), e.Kind.String()...)
	dst = append(append(dst, `","direction":"`...), e.Direction.String()...)
	dst = append(append(dst, `","protocol":"`...), e.Protocol.String()...)
	dst = strconv.AppendInt(append(dst, `","start_us":`...), e.Start, 10)
	dst = strconv.AppendUint(append(dst, `,"latency_us":`...), e.Latency, 10)
	dst = strconv.AppendUint(append(dst, `,"duration_us":`...), e.Duration, 10)
	dst = appendText(dst, `,"method":`, e.Method)
	dst = appendText(dst, `,"authority":`, e.Authority)
	dst = appendText(dst, `,"path":`, e.Path)
	dst = appendOutcome(dst, e)
	dst = strconv.AppendUint(append(dst, `,"request_bytes":`...), e.RequestBytes, 10)
	dst = strconv.AppendUint(append(dst, `,"response_bytes":`...), e.ResponseBytes, 10)

	from, to := appendPeer, appendSource
	if e.Direction == Outbound {
		from, to = appendSource, appendPeer
	}
	dst = from(append(dst, `,"source":`...), h, e)
	dst = to(append(dst, `,"destination":`...), h, e)
	return appendConnection(dst, e)
}

func appendOutcome(dst []byte, e *Event) []byte {
	if e.Status != 0 {
		dst = strconv.AppendUint(append(dst, `,"status":`...), uint64(e.Status), 10)
	}
	if e.GRPCStatus != NoGRPCStatus {
		dst = strconv.AppendInt(append(dst, `,"grpc_status":`...), int64(e.GRPCStatus), 10)
	}
	if e.Kind == End && e.Success() {
		dst = append(dst, `,"success":true`...)
	} else if e.Kind == End {
		dst = append(dst, `,"success":false`...)
	}
	dst = appendText(dst, `,"error":`, e.Error)
	separator := `,"fate":["`
	for i, name := range fateNames {
		if e.Fate&(1<<i) != 0 {
			dst = append(append(append(dst, separator...), name...), '"')
			separator = `,"`
		}
	}
	if separator == `,"` {
		dst = append(dst, ']')
	}
	if e.Attempt > 0 {
		dst = strconv.AppendUint(append(dst, `,"attempt":`...), uint64(e.Attempt), 10)
	}
	return dst
}

func appendSource(dst []byte, h *Header, _ *Event) []byte {
	at := len(dst)
	dst = appendWorkload(dst, &h.Source.Workload)
	dst = appendText(dst, `,"pod":`, h.Source.Pod)
	return closeObject(dst, at)
}

func appendPeer(dst []byte, _ *Header, e *Event) []byte {
	at := len(dst)
	if addr := e.Peer.Addr.Addr(); addr.IsValid() {
		dst = append(dst, `,"ip":"`...)
		dst = append(addr.WithZone("").AppendTo(dst), '"')
	}
	if port := e.Peer.Addr.Port(); port > 0 {
		dst = strconv.AppendUint(append(dst, `,"port":`...), uint64(port), 10)
	}
	dst = appendWorkload(dst, &e.Peer.Workload)
	dst = appendText(dst, `,"pod":`, e.Peer.Pod)
	dst = appendText(dst, `,"identity":`, e.Peer.Identity)
	return closeObject(dst, at)
}

func appendWorkload(dst []byte, w *Workload) []byte {
	dst = appendText(dst, `,"cluster":`, w.Cluster)
	dst = appendText(dst, `,"namespace":`, w.Namespace)
	dst = appendText(dst, `,"kind":`, w.Kind)
	return appendText(dst, `,"name":`, w.Name)
}

// closeObject ends an object whose keys, from at on, each begin with a comma:
// the first comma becomes its brace.
func closeObject(dst []byte, at int) []byte {
	if len(dst) == at {
		return append(dst, '{', '}')
	}
	dst[at] = '{'
	return append(dst, '}')
}

func appendConnection(dst []byte, e *Event) []byte {
	dst = strconv.AppendBool(append(dst, `,"meshed":`...), e.Peer.Meshed)
	dst = append(append(dst, `,"security":"`...), e.Security.String()...)
	dst = append(dst, '"')
	dst = appendText(dst, `,"security_reason":`, e.SecurityReason)
	dst = appendHex(append(dst, `,"connection":"`...), e.Connection)
	dst = strconv.AppendUint(append(dst, `","stream":`...), uint64(e.Stream), 10)
	if e.Detection != DetectNone {
		dst = append(append(dst, `,"detection":"`...), e.Detection.String()...)
		dst = strconv.AppendUint(append(dst, `","detection_us":`...), uint64(e.DetectionTime), 10)
	}
	if e.TraceID != ([16]byte{}) {
		dst = append(dst, `,"trace_id":"`...)
		for _, b := range e.TraceID {
			dst = append(dst, hexDigits[b>>4], hexDigits[b&15])
		}
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

// appendHex appends 16 hexadecimal digits.
func appendHex(dst []byte, v uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[v>>shift&15])
	}
	return dst
}

// appendText appends a key, given as it is written, and a string; nothing where
// the string is empty.
func appendText(dst []byte, key, s string) []byte {
	if s == "" {
		return dst
	}
	dst = append(append(dst, key...), '"')
	done := 0 // of s
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == '"' || c == '\\' {
				dst = appendEscape(append(dst, s[done:i]...), c)
				done = i + 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(append(dst, s[done:i]...), "\uFFFD"...)
			done = i + 1
		}
		i += size
	}
	return append(append(dst, s[done:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
