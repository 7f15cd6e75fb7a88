package client_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus/bustest"
)

// BenchmarkPublish is what proxies get through: each batch stored in a file and
// acknowledged, 8 of them under way at once.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{4 << 10, 32 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := bustest.Connect(b, bustest.Run(b))
			batch := make([]byte, size)
			var sequence atomic.Uint64
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			var workers sync.WaitGroup
			for range 8 {
				workers.Go(func() {
					for n := sequence.Add(1); n <= uint64(b.N); n = sequence.Add(1) {
						if err := c.Publish(b.Context(), web, 1, n, batch); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			workers.Wait()
		})
	}
}

// BenchmarkConsume is what an aggregator reads back, in order.
func BenchmarkConsume(b *testing.B) {
	for _, size := range []int{4 << 10, 32 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := bustest.Connect(b, bustest.Run(b))
			batch := make([]byte, size)
			stored := min(64<<20/size, b.N)
			for n := range stored {
				if _, err := c.PublishRollup(b.Context(), 0, 0, batch, uint64(n)); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; {
				err := c.ReadRollups(b.Context(), 0, 0, 0, time.Time{}, func(uint64, []byte) error {
					if left--; left == 0 {
						return errEnough
					}
					return nil
				})
				if err != nil && !errors.Is(err, errEnough) {
					b.Fatal(err)
				}
			}
		})
	}
}
