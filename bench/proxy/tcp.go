package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// sendTCP sends as much as it can over so many connections for d, closes its
// side of each, and has the backend tell how much came. The units are MiB.
func sendTCP(ctx context.Context, address string, connections int, d time.Duration) (result, error) {
	var wg sync.WaitGroup
	errs := make(chan error, connections)
	counts := make(chan uint64, connections)
	began := time.Now()
	for range connections {
		wg.Go(func() {
			n, err := sendOne(ctx, address, began.Add(d))
			errs <- err
			counts <- n
		})
	}
	wg.Wait()
	r := result{elapsed: time.Since(began)}
	for range connections {
		if err := <-errs; err != nil {
			return result{}, err
		}
		r.units += float64(<-counts) / (1 << 20)
	}
	return r, nil
}

func sendOne(ctx context.Context, address string, until time.Time) (uint64, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(until.Add(20 * time.Second)); err != nil {
		return 0, err
	}
	var sent uint64
	for buf := make([]byte, tcpBuffer); time.Now().Before(until) && ctx.Err() == nil; {
		n, err := conn.Write(buf)
		sent += uint64(n)
		if err != nil {
			return 0, fmt.Errorf("cannot send after %d bytes: %w", sent, err)
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	answer := make([]byte, 8)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, fmt.Errorf("cannot read what the backend counted: %w", err)
	}
	if got := binary.BigEndian.Uint64(answer); got != sent {
		return 0, fmt.Errorf("%d bytes were sent, %d came", sent, got)
	}
	return sent, ctx.Err()
}
