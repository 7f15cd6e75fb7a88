package bus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/event"
)

// Prefixes of the subjects. A workload's four tokens, cluster, namespace, kind
// and name, follow after a dot.
const (
	prefixEvents  = "weir.v1.events"
	prefixPart    = "weir.v1.part"
	prefixTap     = "weir.v1.tap"
	prefixStats   = "weir.v1.stats"
	prefixTapped  = "weir.v1.tapped"
	prefixRollups = "weir.v1.rollups"
	prefixRPC     = "weir.v1.rpc"
	prefixEndpts  = "weir.v1.endpoints"
)

// MaxToken is the longest token that is written into a subject, in bytes. A
// Kubernetes name has at most 253.
const MaxToken = 253

// EventsSubject is where the proxies of a workload publish their batches.
func EventsSubject(w event.Workload) string { return workloadSubject(prefixEvents, w) }

// TapSubject is where a workload's events are published as JSON, one a
// message, while someone listens.
func TapSubject(w event.Workload) string { return workloadSubject(prefixTap, w) }

// StatsSubject is where a workload's summary is published as JSON once a
// second, while someone listens.
func StatsSubject(w event.Workload) string { return workloadSubject(prefixStats, w) }

// TappedSubject is where aggregators tell a workload's proxies that it is
// tapped, so that they send what they have at once.
func TappedSubject(w event.Workload) string { return workloadSubject(prefixTapped, w) }

// TapFilter is what to subscribe to for the taps of all workloads that match:
// each field of w that is empty matches any.
func TapFilter(w event.Workload) string { return workloadFilter(prefixTap, w) }

// StatsFilter is what to subscribe to for the summaries of all workloads that
// match: each field of w that is empty matches any.
func StatsFilter(w event.Workload) string { return workloadFilter(prefixStats, w) }

// PartitionFilter matches the subjects that the events stream gives to the
// batches of one partition.
func PartitionFilter(partition int) string {
	return prefixPart + "." + strconv.Itoa(partition) + ".>"
}

// StoredFilter matches the subjects that the events stream gives to the batches
// of all workloads that match, whichever partition they are in: each field of w
// that is empty matches any.
func StoredFilter(w event.Workload) string { return workloadFilter(prefixPart+".*", w) }

// EndpointsSubject is where changes of a service's endpoints are published, as
// control.Destination; an empty service stands for a namespace's single pods.
func EndpointsSubject(namespace, service string) string {
	return prefixEndpts + "." + Token(namespace) + "." + Token(service)
}

// EndpointsFilter matches the subjects of all services' endpoints.
const EndpointsFilter = prefixEndpts + ".>"

// InboxPrefix is what the subjects of replies to a pod begin with, or with an
// empty namespace of those to a person of that name: the only ones of their kind
// that it may subscribe to. Each has its own, whatever the names hold ([Token]),
// and none begins another's: permissions are made of it.
func InboxPrefix(namespace, pod string) string {
	return "_INBOX." + Token(namespace) + "." + Token(pod)
}

// RPCSubject is where requests for a method of a service are sent.
func RPCSubject(service, method string) string {
	return prefixRPC + "." + Token(service) + "." + Token(method)
}

func workloadSubject(prefix string, w event.Workload) string {
	return prefix + "." + Token(w.Cluster) + "." + Token(w.Namespace) + "." + Token(w.Kind) + "." + Token(w.Name)
}

func workloadFilter(prefix string, w event.Workload) string {
	for _, field := range []string{w.Cluster, w.Namespace, w.Kind, w.Name} {
		if field == "" {
			prefix += ".*"
		} else {
			prefix += "." + Token(field)
		}
	}
	return prefix
}

// Token writes a name as one token of a subject. Letters, digits and '-' stand
// for themselves and '.' becomes '_', which Kubernetes names cannot hold. Any
// other byte becomes '=' and two hexadecimal digits, so that no name, however
// hostile, reaches outside its token; the empty name becomes "=". What would be
// longer than MaxToken is cut and ends in "=-" and 16 bytes of the SHA-256 of the
// whole name, in hexadecimal.
// Different names give different tokens.
func Token(name string) string {
	if plain(name) {
		return name
	}
	if name == "" {
		return "="
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, min(len(name)+16, MaxToken))
	for i := range len(name) {
		start := len(b)
		switch c := name[i]; {
		case plainByte(c):
			b = append(b, c)
		case c == '.':
			b = append(b, '_')
		default:
			b = append(b, '=', digits[c>>4], digits[c&15])
		}
		if len(b) > MaxToken {
			return cut(name, b[:start])
		}
	}
	return string(b)
}

// cut ends an over-long token with a hash of the whole name.
func cut(name string, b []byte) string {
	// Permissions are made of tokens: nobody may find another name of a hash.
	sum := sha256.Sum256([]byte(name))
	tail := "=-" + hex.EncodeToString(sum[:16])
	b = b[:min(len(b), MaxToken-len(tail))]
	// Do not end within an escape.
	if i := strings.LastIndexByte(string(b), '='); i >= 0 && i > len(b)-3 {
		b = b[:i]
	}
	return string(b) + tail
}

func plain(name string) bool {
	if name == "" || len(name) > MaxToken {
		return false
	}
	for i := range len(name) {
		if !plainByte(name[i]) {
			return false
		}
	}
	return true
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c >= 'A' && c <= 'Z'
}

// ParseToken reads a name back from a token as Token writes it. The rest of a
// name that was cut is not known; what is returned then ends in "=-" and the
// hash.
func ParseToken(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	if token == "" || len(token) > MaxToken {
		return "", fmt.Errorf("cannot parse token %.300q: its length is not in [1, %d]", token, MaxToken)
	}
	if plain(token) {
		return token, nil
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		switch c := token[i]; {
		case plainByte(c):
			b = append(b, c)
		case c == '_':
			b = append(b, '.')
		case c == '=' && strings.HasPrefix(token[i:], "=-"):
			return string(b) + token[i:], nil
		case c == '=' && i+2 < len(token):
			v, err := strconv.ParseUint(token[i+1:i+3], 16, 8)
			if err != nil {
				return "", fmt.Errorf("cannot parse token %q: bad escape at byte %d", token, i)
			}
			b = append(b, byte(v))
			i += 2
		default:
			return "", fmt.Errorf("cannot parse token %q: unexpected %q at byte %d", token, c, i)
		}
	}
	return string(b), nil
}

// ParseWorkload reads the workload back from a subject of its events, as
// published or as kept by the stream, taps, stats or tapped notices.
func ParseWorkload(subject string) (event.Workload, error) {
	rest, ok := cutPrefix(subject)
	if !ok {
		return event.Workload{}, fmt.Errorf("cannot parse subject %.300q: it is no workload's subject", subject)
	}
	tokens := strings.Split(rest, ".")
	if len(tokens) != 4 {
		return event.Workload{}, fmt.Errorf("cannot parse subject %.300q: want cluster, namespace, kind and name, got %d tokens", subject, len(tokens))
	}
	var w event.Workload
	for i, field := range []*string{&w.Cluster, &w.Namespace, &w.Kind, &w.Name} {
		name, err := ParseToken(tokens[i])
		if err != nil {
			return event.Workload{}, fmt.Errorf("cannot parse subject %.300q: %w", subject, err)
		}
		*field = name
	}
	return w, nil
}

func cutPrefix(subject string) (string, bool) {
	if rest, ok := strings.CutPrefix(subject, prefixPart+"."); ok {
		number, rest, ok := strings.Cut(rest, ".")
		n, err := strconv.Atoi(number)
		return rest, ok && err == nil && n >= 0 && n < Partitions
	}
	for _, prefix := range []string{prefixEvents, prefixTap, prefixStats, prefixTapped} {
		if rest, ok := strings.CutPrefix(subject, prefix+"."); ok {
			return rest, true
		}
	}
	return "", false
}

// CheckPartition returns an error that wraps ErrPartition unless the number is
// a partition's.
func CheckPartition(partition int) error {
	if partition < 0 || partition >= Partitions {
		return fmt.Errorf("cannot use partition %d: %w (they are 0 to %d)", partition, ErrPartition, Partitions-1)
	}
	return nil
}
