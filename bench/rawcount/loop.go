package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/measure"
)

// loop is one goroutine with its client.
type loop struct {
	*tally
	session  *kgo.GroupTransactSession
	slab     []kgo.Record
	failures atomic.Int64
}

// promise is every record's: the client would commit a transaction some records of which failed.
func (l *loop) promise(_ *kgo.Record, err error) {
	if err != nil {
		l.failures.Add(1)
	}
}

// epoch is one transaction.
func (l *loop) epoch(ctx context.Context) error {
	if err := l.session.Begin(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	var failed error
	n := int64(0)
	deadline := time.Now().Add(l.commit)
	for time.Now().Before(deadline) {
		poll, cancel := context.WithDeadline(ctx, deadline)
		fetches := l.session.PollRecords(poll, 10_000)
		cancel()
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) {
				failed = fmt.Errorf("read %s/%d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		if ctx.Err() != nil || failed != nil {
			break
		}
		if fetches.NumRecords() > 0 {
			l.begin()
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			if l.changelog != "" {
				l.write(ctx, l.changelog, r)
			}
			l.write(ctx, l.config.out, r)
		})
	}
	began := time.Now()
	if err := l.session.Client().Flush(context.Background()); err != nil {
		return err
	}
	// kgo may not know yet that a new topic's records are written, and would abort (docs/design/0004).
	if err := l.session.Client().AbortBufferedRecords(context.Background()); err != nil {
		return err
	}
	commit := failed == nil && l.failures.Swap(0) == 0
	committed, err := l.session.End(context.Background(), kgo.TransactionEndTry(commit))
	if err != nil || failed != nil {
		return errors.Join(failed, err)
	}
	l.ended(n, committed, time.Since(began))
	return nil
}

// write produces a record as large as keyedcount's. Nobody looks at the bytes, but for the stamp that a record may begin with.
func (l *loop) write(ctx context.Context, topic string, in *kgo.Record) {
	if len(l.slab) == 0 {
		l.slab = make([]kgo.Record, 1024)
	}
	r := &l.slab[0]
	l.slab = l.slab[1:]
	value := in.Value
	switch {
	case len(value) > l.bytes:
		value = value[:l.bytes:l.bytes]
	case len(value) < 8:
		value = binary.BigEndian.AppendUint64(nil, uint64(in.Offset))
	}
	*r = kgo.Record{Topic: topic, Partition: in.Partition, Key: in.Key, Value: value, Timestamp: in.Timestamp}
	l.session.Produce(ctx, r, l.promise)
}

// partitioner hashes keys as Kafka does, and leaves changelog records where they are put.
func partitioner(changelog string) kgo.Partitioner {
	byKey := kgo.StickyKeyPartitioner(nil)
	return kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
		if topic == changelog {
			return func(r *kgo.Record, _ int) int { return int(r.Partition) }
		}
		return byKey.ForTopic(topic).Partition
	})
}

// tally counts for all loops, and tells about it.
type tally struct {
	config
	out *measure.Out

	mu                       sync.Mutex
	began, said              time.Time
	records, commits, aborts int64
	ending                   time.Duration // spent in End
}

func (t *tally) enough() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.config.records > 0 && t.records >= t.config.records
}

func (t *tally) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.began.IsZero() {
		t.began, t.said = time.Now(), time.Now()
		t.tell("running")
	}
}

func (t *tally) ended(n int64, committed bool, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !committed:
		t.aborts++
	case n > 0:
		t.records += n
		t.commits++
		t.ending += took
	}
	if !t.began.IsZero() && time.Since(t.said) > time.Second {
		t.said = time.Now()
		t.tell("progress")
	}
}

func (t *tally) say(event string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(event)
}

func (t *tally) tell(event string) {
	line := measure.Line{Event: event, Records: t.records, Commits: t.commits, Aborts: t.aborts}
	if !t.began.IsZero() {
		line.Seconds = time.Since(t.began).Seconds()
	}
	if t.commits > 0 {
		line.CommitMS = float64(t.ending.Microseconds()) / 1000 / float64(t.commits)
	}
	line.CPUSeconds, line.RSSMax = measure.Self()
	t.out.Say(line)
}
