package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// openConnections is how many connections an open loop spreads its requests
// over; a request waits only if all of them wait for a response.
const openConnections = 32

// smallRequest asks for the small body over HTTP/1.1.
const smallRequest = "GET /128 HTTP/1.1\r\nHost: bench\r\n\r\n"

// caller is the state of an open loop. It uses the kernel's calls directly:
// Go's own timers and its poller may be a millisecond late, more than what is
// to be measured.
type caller struct {
	conns     []*openConn
	polls     []unix.PollFd // of conns, by index
	free      []int         // indexes of conns that wait for nothing, longest free first
	latencies []time.Duration
	size      int // of a response in bytes, known from the first
}

type openConn struct {
	file   *os.File
	fd     int
	intent time.Time // when its request was to be sent
	got    int       // bytes of the response so far
}

// openLoop sends rate requests a second, whether or not those before were
// answered, and measures from the time at which each was to be sent.
func openLoop(ctx context.Context, address string, rate int, d time.Duration) (result, error) {
	c := &caller{}
	if err := c.open(ctx, address); err != nil {
		c.close()
		return result{}, err
	}
	defer c.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Timers of this thread are then as exact as the kernel's clock; without, 50 µs late.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return result{}, fmt.Errorf("cannot set the timer slack: %w", err)
	}
	// The first calls make the connections behind the proxy: they do not count.
	if err := c.call(ctx, rate, openConnections); err != nil {
		return result{}, err
	}
	c.latencies = c.latencies[:0]
	began := time.Now()
	if err := c.call(ctx, rate, int(d.Seconds()*float64(rate))); err != nil {
		return result{}, err
	}
	slices.Sort(c.latencies)
	n := len(c.latencies)
	at := func(q float64) time.Duration { return c.latencies[min(n-1, int(q*float64(n)))] }
	return result{units: float64(n), elapsed: time.Since(began), p50: at(0.5), p99: at(0.99), p999: at(0.999)}, nil
}

// open makes the connections and learns how long a response is.
func (c *caller) open(ctx context.Context, address string) error {
	var dialer net.Dialer
	for i := range openConnections {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		if i == 0 {
			if c.size, err = exchange(conn); err != nil {
				conn.Close()
				return err
			}
		}
		file, err := conn.(*net.TCPConn).File() // a duplicate, out of Go's poller
		conn.Close()
		if err != nil {
			return err
		}
		o := &openConn{file: file, fd: int(file.Fd())}
		c.conns = append(c.conns, o)
		c.free = append(c.free, i)
		if err := unix.SetNonblock(o.fd, true); err != nil {
			return err
		}
		c.polls = append(c.polls, unix.PollFd{Fd: int32(o.fd), Events: unix.POLLIN})
	}
	return nil
}

// exchange makes one request for the small body and returns how many bytes the
// response has.
func exchange(conn net.Conn) (int, error) {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, smallRequest); err != nil {
		return 0, err
	}
	var response []byte
	for buf := make([]byte, 4096); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("cannot read a response: %w", err)
		}
		response = append(response, buf[:n]...)
		head, body, whole := bytes.Cut(response, []byte("\r\n\r\n"))
		if !whole || len(body) < smallBody {
			continue
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || len(body) > smallBody {
			return 0, fmt.Errorf("unexpected response: %q", head)
		}
		return len(response), conn.SetDeadline(time.Time{})
	}
}

func (c *caller) close() {
	for _, o := range c.conns {
		o.file.Close()
	}
}

// call makes n calls, rate a second, and waits for all responses.
func (c *caller) call(ctx context.Context, rate, n int) error {
	interval := time.Second / time.Duration(rate)
	began := time.Now().Add(interval)
	deadline := began.Add(time.Duration(n)*interval + 20*time.Second)
	for sent := 0; sent < n || len(c.free) < len(c.conns); {
		now := time.Now()
		if now.After(deadline) {
			return errors.New("responses stay away")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		next := deadline
		if sent < n && len(c.free) > 0 {
			next = began.Add(time.Duration(sent) * interval)
			if !next.After(now) {
				if err := c.send(next); err != nil {
					return err
				}
				sent++
				continue
			}
		}
		if err := c.receive(time.Until(next)); err != nil {
			return err
		}
	}
	return nil
}

// send sends a request that was to be sent at intent.
func (c *caller) send(intent time.Time) error {
	o := c.conns[c.free[0]]
	c.free = append(c.free[:0], c.free[1:]...)
	o.intent, o.got = intent, 0
	n, err := unix.Write(o.fd, []byte(smallRequest))
	if err != nil || n != len(smallRequest) {
		return fmt.Errorf("cannot send a request (%d bytes sent): %w", n, err)
	}
	return nil
}

// receive waits for responses, for as long as wait.
func (c *caller) receive(wait time.Duration) error {
	timeout := unix.NsecToTimespec(int64(max(wait, 0)))
	n, err := unix.Ppoll(c.polls, &timeout, nil)
	if errors.Is(err, unix.EINTR) || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot wait for responses: %w", err)
	}
	var buf [4096]byte
	for i := range c.polls {
		if c.polls[i].Revents == 0 {
			continue
		}
		o := c.conns[i]
		n, err := unix.Read(o.fd, buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("cannot read a response: %w", err)
		case n == 0:
			return errors.New("a connection was closed")
		}
		o.got += n
		if o.got > c.size || o.got == n && !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("unexpected response: %q", buf[:n])
		}
		if o.got == c.size {
			c.latencies = append(c.latencies, time.Since(o.intent))
			c.free = append(c.free, i)
		}
	}
	return nil
}
