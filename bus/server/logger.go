package server

import (
	"fmt"
	"log/slog"
	"strings"
)

// logger passes nats-server's log on to slog. Its notices are routine and go to
// the debug level; what it calls fatal ends the server's start, not the process.
type logger struct {
	log   *slog.Logger
	fatal chan string // holds the first
}

func newLogger(log *slog.Logger) logger {
	return logger{log.With("component", "nats-server"), make(chan string, 1)}
}

func (l logger) Noticef(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l logger) Errorf(format string, args ...any)  { l.log.Error(fmt.Sprintf(format, args...)) }
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
