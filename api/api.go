// Package api serves Weir's query API, weir.v1.Weir of weirpb/weir.proto: as
// gRPC with reflection and health, and as HTTP/JSON under /api/v1/ beside an
// OpenAPI document, metrics and probes.
//
// It holds no data. Each question is checked, put to all aggregators over a
// [Backend], and their partial answers are added up; rates and quantiles are
// worked out last, from exact sums. Taps and scans read the raw events back from
// the stream and filter them here, before anything is encoded: a consumer that
// is slow or asks for little costs the mesh nothing, loses nothing, and is told
// what is missing.
package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
)

// Backend is the way to the aggregators and to the stream of events. Package bus/client has one. It must
// be safe for concurrent use.
type Backend interface {
	// Ask puts request to every member of service and gathers their replies
	// until all have answered or ctx ends. Replies gathered before an error are
	// returned beside it. An error without replies means that none answers.
	Ask(ctx context.Context, service, method string, request []byte) (replies [][]byte, err error)
	// ReadEvents calls fn with every batch of the workloads that match w, whose
	// empty fields match all, in the order of the stream: those stored at since
	// or later (zero: that come from now on), and ends before until or, where it
	// is zero, with ctx. from is whose subject the batch came on; data is fn's to
	// keep. sequence is its number in the stream. opened is called once before,
	// with what the stream holds.
	ReadEvents(ctx context.Context, w event.Workload, since, until time.Time, opened func(event.Extent),
		fn func(sequence uint64, from event.Workload, stored time.Time, data []byte) error) error
	// AnnounceTapped tells the proxies of a workload that somebody waits for
	// their events, so that they send them at once for a while.
	AnnounceTapped(w event.Workload) error
}

// Build names a build of Weir.
type Build struct {
	// Version is the release ("v0.1.0"), Commit the revision it was built
	// from, GoVersion the compiler.
	Version, Commit, GoVersion string
}

// Bounds of what one question may ask for and how many are worked on.
const (
	// MaxWindow is the longest window: the longest that any statistics are kept.
	MaxWindow = 31 * 24 * time.Hour
	// MaxPoints is the largest number of points of one series.
	MaxPoints = 3600
	// MaxMessageBytes bounds one request.
	MaxMessageBytes = 64 << 10

	defaultWindow = time.Minute
	// defaultPoints is how many steps a series has where none were asked for.
	defaultPoints = 60
	// settle is how long after a second's end its events may be under way: all
	// proxies have flushed them after half a second (see package telemetry), and
	// an aggregator folds soon after. A window that says no end stops at the last
	// second that ended this long before now, so that its rates are not too low
	// by what is still missing.
	settle = 800 * time.Millisecond
	// gatherTimeout bounds the wait for aggregators that do not answer: longer
	// than it takes to notice that a member is dead (3 s would be the worst
	// case), it would make each question wait; the answer says who is missing.
	gatherTimeout = 2 * time.Second
	// askAgain is the pause before a question is put again because partitions
	// were changing hands.
	askAgain = 100 * time.Millisecond
	// queryTimeout bounds one question, with its wait for a free place.
	queryTimeout = 10 * time.Second
	// maxQueries are worked on at a time; more wait for their turn.
	maxQueries = 32
	// maxTaps run at a time, and maxScans; more are refused.
	maxTaps  = 64
	maxScans = 2
	// scanTimeout bounds one scan.
	scanTimeout = 10 * time.Minute
)

// service implements weirpb.WeirServer.
type service struct {
	weirpb.UnimplementedWeirServer

	backend Backend
	build   Build
	log     *slog.Logger
	metrics *serverMetrics
	now     func() time.Time
	// inventory asks the controller; bus, which may be nil, tells how the bus does.
	inventory inventory
	bus       func(ctx context.Context) (*BusState, error)

	// shared are the answers of several who ask the same.
	shared shared
	// writings are what was written of answers.
	writings writings
	// queries, taps and scans are places: a send takes one, a receive frees it.
	queries chan struct{}
	taps    chan struct{}
	scans   chan struct{}
	// stopping is closed when taps have to end.
	stopping chan struct{}
	stopOnce sync.Once
}

func newService(o *Options, m *serverMetrics) *service {
	return &service{
		backend:   o.Backend,
		build:     o.Build,
		log:       o.Logger,
		metrics:   m,
		now:       time.Now,
		inventory: inventory{ask: o.Controller},
		bus:       o.BusState,
		queries:   make(chan struct{}, maxQueries),
		taps:      make(chan struct{}, maxTaps),
		scans:     make(chan struct{}, maxScans),
		stopping:  make(chan struct{}),
	}
}

// stop ends all taps, and keeps no answer any more.
func (s *service) stop() {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.shared.stop()
	s.writings.stop()
}

// Version implements weirpb.WeirServer.
func (s *service) Version(context.Context, *weirpb.VersionRequest) (*weirpb.VersionResponse, error) {
	return &weirpb.VersionResponse{
		Version:   s.build.Version,
		Commit:    s.build.Commit,
		GoVersion: s.build.GoVersion,
	}, nil
}
