package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

// slowRelay stands between a client and the bus, and hands so many bytes a second
// on to the client. connections counts the client's.
func slowRelay(t *testing.T, to string, perSecond int) (address string, connections *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		group.Wait()
	})
	connections = new(atomic.Int32)
	group.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			up, err := net.Dial("tcp", to)
			if err != nil {
				_ = down.Close()
				continue
			}
			finish := func() { _, _ = down.Close(), up.Close() }
			stop := context.AfterFunc(ctx, finish)
			group.Go(func() {
				_, _ = io.Copy(up, down)
				finish()
			})
			group.Go(func() {
				defer stop()
				defer finish()
				const pieces = 50 // a second
				for {
					if _, err := io.CopyN(down, up, int64(perSecond/pieces)); err != nil {
						return
					}
					time.Sleep(time.Second / pieces)
				}
			})
		}
	})
	return l.Addr().String(), connections
}

// TestSlowReaderIsNotCutOff: an aggregator that comes back reads what all its
// partitions have kept, and what came meanwhile. Where it is slower than the bus,
// it still gets all of it over one connection: were it cut off for what waits for
// it, the next connection would be, too.
func TestSlowReaderIsNotCutOff(t *testing.T) {
	for _, test := range []struct {
		name    string
		size, n int
		publish func(ctx context.Context, c *client.Client, i int, data []byte) error
		read    func(ctx context.Context, c *client.Client, partition int, fn func(n int)) error
	}{
		{"rollups", 7 << 20, bus.Partitions, func(ctx context.Context, c *client.Client, i int, data []byte) error {
			_, err := c.PublishRollup(ctx, i, 0, data, 0)
			return err
		}, func(ctx context.Context, c *client.Client, partition int, fn func(int)) error {
			return c.ReadRollups(ctx, partition, 0, 0, time.Time{}, func(_ uint64, data []byte) error { fn(len(data)); return nil })
		}},
		{"events", 1000 << 10, 8 * bus.Partitions, func(ctx context.Context, c *client.Client, i int, data []byte) error {
			w := web
			w.Name = strconv.Itoa(i)
			return c.Publish(ctx, w, uint64(i+1), 1, data)
		}, func(ctx context.Context, c *client.Client, partition int, fn func(int)) error {
			err := c.ConsumeEvents(ctx, partition, nil, func(_ event.Mark, _ string, data []byte) error { fn(len(data)); return nil })
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			s := bustest.Run(t)
			writer := bustest.Connect(t, s)
			data := make([]byte, test.size)
			for i := range test.n {
				if err := test.publish(ctx, writer, i, data); err != nil {
					t.Fatal(err)
				}
			}
			address, connections := slowRelay(t, s.Addr(), 40<<20)
			c := dial(t, client.Options{URL: "nats://" + address})
			var left atomic.Int64
			left.Store(int64(test.n * test.size))
			var group sync.WaitGroup
			for partition := range bus.Partitions {
				group.Go(func() {
					err := test.read(ctx, c, partition, func(size int) {
						if left.Add(-int64(size)) <= 0 {
							cancel()
						}
					})
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Errorf("partition %d: %v", partition, err)
					}
				})
			}
			group.Wait()
			if n := left.Load(); n != 0 {
				t.Errorf("%d bytes were not read", n)
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("it took %d connections to read all; want 1", n)
			}
		})
	}
}
