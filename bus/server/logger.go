package server

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// sayViolation is how often a client's attempt at what it may not do is logged: one
// that goes on trying must not fill the disk.
const sayViolation = 100 * time.Millisecond

// logger passes nats-server's log on to slog. Its notices are routine and go to
// the debug level; what it calls fatal ends the server's start, not the process.
type logger struct {
	log   *slog.Logger
	fatal chan string // holds the first

	violations *atomic.Uint64
	sometimes  *rate.Sometimes
}

func newLogger(log *slog.Logger) logger {
	return logger{log.With("component", "nats-server"), make(chan string, 1), new(atomic.Uint64), &rate.Sometimes{Interval: sayViolation}}
}

// Errorf also counts what clients tried that they may not do.
func (l logger) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !strings.Contains(text, " Violation") {
		l.log.Error(text)
		return
	}
	n := l.violations.Add(1)
	l.sometimes.Do(func() { l.log.Warn("refused: "+text, "refused_so_far", n) })
}

func (l logger) Noticef(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l logger) Debugf(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l logger) Tracef(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }

// unverified is how nats-server warns of a tls.Config that verifies by a function,
// as those of the routes do (Cluster.verify).
const unverified = "will not be verified. DO NOT USE IN PRODUCTION"

func (l logger) Warnf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if strings.Contains(text, unverified) {
		return
	}
	l.log.Warn(text)
}

func (l logger) Fatalf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Error(text)
	select {
	case l.fatal <- text:
	default:
	}
}
