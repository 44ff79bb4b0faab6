package workload

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Feed writes the keys of s to a topic at a rate, until ctx ends, which is no error. It returns how many records were written. What
// it cannot write in time it makes up for, but never has more than a second's worth under way.
func Feed(ctx context.Context, brokers []string, topic string, s Spec, perSecond int) (written int, err error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(max(1, perSecond)),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	var failed atomic.Pointer[error]
	whole := context.WithoutCancel(ctx) // what is begun is written
	value := make([]byte, s.ValueBytes)
	draw := s.Draw()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		for due := int(time.Since(began).Seconds() * float64(perSecond)); written < due; written++ {
			cl.Produce(whole, &kgo.Record{Topic: topic, Key: AppendKey(make([]byte, 0, KeySize), draw()), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			})
		}
		if err := failed.Load(); err != nil {
			return written, fmt.Errorf("feed %s: %w", topic, *err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			err := cl.Flush(whole)
			if lost := failed.Load(); lost != nil {
				err = fmt.Errorf("feed %s: %w", topic, *lost)
			}
			return written, err
		}
	}
}
