package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

// traffic sends records at a rate, whether they are answered or not, and knows how long each waited for its answer. The time
// counts from when a record was due: a sender that is held up does not make the app look faster.
type traffic struct {
	brokers   []string
	topic     string
	spec      workload.Spec
	perSecond int64
	stamped   bool // the app carries the number of a record over; else it counts

	mu       sync.Mutex
	began    time.Time
	sent     int64
	byKey    [][]int64       // numbers of the records of each key that were sent
	answered []int           // of each key, how many are covered
	waited   []time.Duration // by number of the record; 0: not yet
	open     int64           // sent and not yet covered
	wrong    error
	first    chan struct{} // closed at the first answer
	done     chan struct{} // closed when ended and nothing is open
	ended    bool
}

func newTraffic(brokers []string, topic string, s workload.Spec, perSecond int64, stamped bool) *traffic {
	return &traffic{
		brokers: brokers, topic: topic, spec: s, perSecond: perSecond, stamped: stamped,
		byKey: make([][]int64, s.Keys), answered: make([]int, s.Keys), first: make(chan struct{}), done: make(chan struct{}),
	}
}

// due is when a record should be sent.
func (t *traffic) due(number int64) time.Time {
	return t.began.Add(time.Duration(float64(number) / float64(t.perSecond) * 1e9))
}

// send sends until ctx ends, which is no error.
func (t *traffic) send(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.brokers...), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(1_000_000),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	var lost error
	var once sync.Once
	draw := t.spec.Draw()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	t.mu.Lock()
	t.began = time.Now()
	t.mu.Unlock()
	for {
		for n := int64(time.Since(t.began).Seconds() * float64(t.perSecond)); t.sent < n; {
			cl.Produce(context.WithoutCancel(ctx), t.next(draw()), func(_ *kgo.Record, err error) {
				if err != nil {
					once.Do(func() { lost = err })
				}
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err := cl.Flush(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			return lost
		}
	}
}

func (t *traffic) next(key int) *kgo.Record {
	value := make([]byte, t.spec.ValueBytes)
	t.mu.Lock()
	defer t.mu.Unlock()
	binary.BigEndian.PutUint64(value, uint64(t.sent))
	t.byKey[key] = append(t.byKey[key], t.sent)
	t.waited = append(t.waited, 0)
	t.sent++
	t.open++
	return &kgo.Record{Topic: t.topic, Key: workload.AppendKey(make([]byte, 0, workload.KeySize), key), Value: value}
}

// follow reads the output until ctx ends, which is no error.
func (t *traffic) follow(ctx context.Context, out string) error {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(t.brokers...),
		kgo.ConsumeTopics(out),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(50*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		now := time.Now()
		t.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) { t.take(r, now) })
		if t.sent > t.open {
			closeOnce(t.first)
		}
		if t.ended && t.open == 0 {
			closeOnce(t.done)
		}
		err := t.wrong
		t.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// closeOnce is for one goroutine at a time.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// take is called under the lock.
func (t *traffic) take(r *kgo.Record, now time.Time) {
	if t.stamped {
		if len(r.Value) < 8 || binary.BigEndian.Uint64(r.Value) >= uint64(t.sent) {
			t.wrong = fmt.Errorf("%s/%d@%d carries no stamp of ours", r.Topic, r.Partition, r.Offset)
			return
		}
		t.cover(int64(binary.BigEndian.Uint64(r.Value)), now)
		return
	}
	key := workload.Index(r.Key)
	n, err := countOf(r.Value)
	if err != nil || key < 0 || key >= len(t.byKey) || n > int64(len(t.byKey[key])) {
		t.wrong = errors.Join(err, fmt.Errorf("%s/%d@%d is not a count of what was sent", r.Topic, r.Partition, r.Offset))
		return
	}
	for ; t.answered[key] < int(n); t.answered[key]++ {
		t.cover(t.byKey[key][t.answered[key]], now)
	}
}

func (t *traffic) cover(number int64, now time.Time) {
	if t.waited[number] == 0 {
		t.open--
	}
	t.waited[number] = max(1, now.Sub(t.due(number)))
}

// complete is closed when all that was sent is covered. It is to be called when nothing is sent any more.
func (t *traffic) complete() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	if t.open == 0 {
		closeOnce(t.done)
	}
	return t.done
}

// between are the times of the records that were due in a span, and how many of them were sent.
func (t *traffic) between(from, to time.Time) (waited []time.Duration, sent int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for number, d := range t.waited {
		if due := t.due(int64(number)); due.Before(from) || !due.Before(to) {
			continue
		}
		sent++
		waited = append(waited, d)
	}
	return waited, sent
}
