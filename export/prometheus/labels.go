package prometheus

import (
	"cmp"
	"encoding/binary"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weirmesh/weir/event"
)

// The labels of a row, by their place in it.
const (
	labelDirection = iota
	labelCluster
	labelNamespace
	// labelKind is not a label: it is the name of labelWorkload.
	labelKind
	labelWorkload
	labelPod
	labelDstNamespace
	labelDstKind
	labelDstWorkload
	labelAuthority
	labelTLS
	labelNoTLSReason
	labelStatus
	labelGRPCStatus
	labelClassification
	labelError
	labelDstPod // places are part of what is stored: new ones come last
	labelCount
)

// labelNames are the names as Linkerd has them, where it has them.
var labelNames = [labelCount]string{
	"direction", "cluster", "namespace", "", "", "pod", "dst_namespace", "", "", "authority", "tls", "no_tls_reason",
	"status_code", "grpc_status", "classification", "error", "dst_pod",
}

type labels [labelCount]string

// otherName stands for what has no row of its own.
const otherName = "(other)"

const (
	success = "success"
	failure = "failure"
	// maxValue bounds the value of a label, bytes.
	maxValue = 253
	ellipsis = "…"
)

// family is a set of metrics that have the same labels. The numbers are part of
// what is stored.
type family uint8

const (
	// requests: request_total.
	requests family = 1
	// responses: response_total.
	responses family = 2
	// latencies: response_latency_ms.
	latencies family = 3
	// connections: tcp_open_total, and the bytes of all protocols.
	connections family = 4
	// closes: tcp_close_total.
	closes family = 5
)

// kindLabels are Linkerd's names for kinds of workloads. A label job would be
// at odds with the one that Prometheus gives to a target.
var kindLabels = map[string]string{
	"deploy": "deployment", "sts": "statefulset", "ds": "daemonset", "job": "k8s_job", "cronjob": "cronjob",
	"rs": "replicaset", "rc": "replicationcontroller", "pod": "pod",
}

// kindLabel is the name of the label that names a workload of a kind.
func kindLabel(kind string) string {
	if name, ok := kindLabels[kind]; ok {
		return name
	}
	return "workload"
}

// ofPod are the labels that name a pod and its workload.
func ofPod(w event.Workload, pod string) labels {
	var l labels
	l[labelCluster], l[labelNamespace] = w.Cluster, w.Namespace
	l[labelKind], l[labelWorkload], l[labelPod] = kindLabel(w.Kind), w.Name, pod
	if l[labelKind] == "pod" {
		l[labelKind], l[labelWorkload] = "", ""
		if pod == "" {
			l[labelPod] = w.Name
		}
	}
	l.bounded()
	return l
}

// common are the labels that all families of an event have.
func common(h *event.Header, e *event.Event) labels {
	l := ofPod(h.Source.Workload, h.Source.Pod)
	l[labelDirection] = e.Direction.String()
	if p := &e.Peer.Workload; e.Direction == event.Outbound && !p.IsZero() {
		l[labelDstNamespace], l[labelDstKind], l[labelDstWorkload] = p.Namespace, kindLabel(p.Kind), p.Name
		l[labelDstPod] = e.Peer.Pod
		if l[labelDstKind] == "pod" {
			// There is no workload, and one label of that name.
			l[labelDstKind], l[labelDstWorkload], l[labelDstPod] = "", "", cmp.Or(e.Peer.Pod, p.Name)
		}
	}
	switch e.Security {
	case event.Mutual:
		l[labelTLS] = "true"
	case event.Passthrough:
		l[labelTLS] = "opaque"
	default:
		l[labelTLS], l[labelNoTLSReason] = "no_identity", e.SecurityReason
	}
	return l
}

// asRequest adds what request_total has.
func (l labels) asRequest(e *event.Event) labels {
	l[labelAuthority] = e.Authority
	return l
}

// asLatency adds to the labels of a request what response_latency_ms has.
func (l labels) asLatency(e *event.Event) labels {
	if e.Status > 0 {
		l[labelStatus] = strconv.Itoa(int(e.Status))
	}
	return l
}

// asResponse adds to the labels of a latency what response_total has.
func (l labels) asResponse(e *event.Event) labels {
	if e.Protocol == event.GRPC && e.GRPCStatus != event.NoGRPCStatus {
		l[labelGRPCStatus] = strconv.Itoa(int(e.GRPCStatus))
	}
	l[labelClassification] = failure
	if e.Success() {
		l[labelClassification] = success
	}
	l[labelError] = e.Error
	return l
}

// asClose adds to the common labels what tcp_close_total has.
func (l labels) asClose(e *event.Event) labels {
	l[labelError] = e.Error
	return l
}

// ofWorkload is the row of a workload that takes what has none of its own.
func (l labels) ofWorkload() labels {
	o := l.ofAll()
	o[labelCluster], o[labelNamespace], o[labelKind], o[labelWorkload] = l[labelCluster], l[labelNamespace], l[labelKind], l[labelWorkload]
	o[labelPod] = otherName
	return o
}

// ofAll is the row that takes what not even its workload has a row for.
func (l labels) ofAll() labels {
	var o labels
	o[labelDirection], o[labelClassification] = l[labelDirection], l[labelClassification]
	o[labelNamespace] = otherName
	return o
}

// workload is what rows of one workload have in common.
func (l *labels) workload() string {
	return l[labelDirection] + "\x00" + l[labelCluster] + "\x00" + l[labelNamespace] + "\x00" + l[labelKind] + "\x00" + l[labelWorkload]
}

// bounded cuts what is too long and replaces what is no UTF-8: a label must be.
func (l *labels) bounded() {
	for i := range l {
		if s := l[i]; len(s) > maxValue {
			l[i] = strings.ToValidUTF8(s[:maxValue-len(ellipsis)], "") + ellipsis
		} else if !utf8.ValidString(s) {
			l[i] = strings.ToValidUTF8(s, "\uFFFD")
		}
	}
}

// canonical makes labels equal that are written the same: the kind of what has no
// name is not.
func (l *labels) canonical() {
	for _, i := range [...]int{labelKind, labelDstKind} {
		if l[i+1] == "" {
			l[i] = ""
		}
	}
}

// appendID appends a form of a family and labels that equals another's only if
// they are equal.
func (l *labels) appendID(dst []byte, f family) []byte {
	dst = append(dst, byte(f))
	for i := range l {
		dst = binary.AppendUvarint(dst, uint64(len(l[i])))
		dst = append(dst, l[i]...)
	}
	return dst
}

// size is about what the labels take when stored, bytes.
func (l *labels) size() int {
	n := 0
	for i := range l {
		n += 2 + len(l[i])
	}
	return n
}

// append writes the labels in the text format, without braces.
func (l *labels) append(dst []byte) []byte {
	first := true
	for i := range l {
		name := labelNames[i]
		switch i {
		case labelKind, labelDstKind:
			continue
		case labelWorkload:
			name = l[labelKind]
		case labelDstWorkload:
			name = "dst_" + l[labelDstKind]
		}
		if l[i] == "" {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(dst, name...), '=', '"')
		dst = append(appendEscaped(dst, l[i]), '"')
	}
	return dst
}

func appendEscaped(dst []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; c {
		case '\\', '"':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
