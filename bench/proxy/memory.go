package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

// memoryOf is the resident memory of one contender, in bytes.
type memoryOf struct {
	name                 string
	idle, busy100, burst uint64
	after, idle10k       uint64
	connections          int // that idle10k was measured with
}

// measureMemory measures fresh processes one after another: idle, with 100 busy
// connections, with 1,000, a while after those have closed, and with as many
// idle connections as the limit of open files allows.
func measureMemory(ctx context.Context, l *lab) ([]memoryOf, error) {
	var contenders []*contender
	var all []memoryOf
	for _, name := range []string{weirIn, weirOut, nginx, haproxy, reverseProxy} {
		c, err := l.contender(ctx, name)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, c)
		all = append(all, memoryOf{name: name, connections: l.connections()})
	}
	if err := pause(ctx, 3*time.Second); err != nil {
		return nil, err
	}
	for i, c := range contenders {
		var err error
		if all[i].idle, err = measure.Resident(c.procs); err != nil {
			return nil, err
		}
		if all[i].busy100, err = residentUnder(ctx, c, 100); err != nil {
			return nil, err
		}
		if all[i].burst, err = residentUnder(ctx, c, 1000); err != nil {
			return nil, err
		}
	}
	measure.Note("memory: waiting for %v", l.o.wait)
	if err := pause(ctx, l.o.wait); err != nil {
		return nil, err
	}
	for i, c := range contenders {
		var err error
		if all[i].after, err = measure.Resident(c.procs); err != nil {
			return nil, err
		}
	}
	for i, c := range contenders {
		var err error
		if all[i].idle10k, err = residentIdle(ctx, c, all[i].connections); err != nil {
			return nil, err
		}
		m := all[i]
		measure.Note("memory of %s, MB: idle %s, 100 busy %s, 1,000 busy %s, after that %s, %d idle %s", m.name,
			measure.Megabytes(m.idle), measure.Megabytes(m.busy100), measure.Megabytes(m.burst), measure.Megabytes(m.after), m.connections, measure.Megabytes(m.idle10k))
	}
	return all, measure.Alive(l.procs)
}

// residentUnder is the most memory that c is seen to have while so many
// connections are busy.
func residentUnder(ctx context.Context, c *contender, connections int) (uint64, error) {
	done := make(chan error, 1)
	go func() {
		_, err := runWrk(ctx, connections, "http://"+c.at.HTTP1+"/128", 3*time.Second)
		done <- err
	}()
	var most uint64
	for {
		select {
		case err := <-done:
			if err != nil {
				err = fmt.Errorf("%s, %d busy connections: %w", c.name, connections, err)
			}
			return most, err
		case <-time.After(100 * time.Millisecond):
		}
		now, err := measure.Resident(c.procs)
		if err != nil {
			return 0, errors.Join(err, <-done)
		}
		most = max(most, now)
	}
}

// residentIdle is the memory of c while so many connections have each made one
// request and then do nothing.
func residentIdle(ctx context.Context, c *contender, connections int) (bytes uint64, err error) {
	conns := make([]net.Conn, 0, connections)
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	var dialer net.Dialer
	for len(conns) < connections {
		conn, err := dialer.DialContext(ctx, "tcp", c.at.HTTP1)
		if err != nil {
			return 0, err
		}
		conns = append(conns, conn)
		if _, err := exchange(conn); err != nil {
			return 0, fmt.Errorf("%s, idle connection %d: %w", c.name, len(conns), err)
		}
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return 0, err
	}
	bytes, err = measure.Resident(c.procs)
	// Some that did nothing for so long still work.
	for i := 0; i < len(conns) && err == nil; i += 100 {
		_, err = exchange(conns[i])
	}
	return bytes, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
