package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

// meter is the neutral side: a read_committed consumer of the output. It keeps the highest count of each key; the input is done
// when their sum is the number of its records. So a program is measured by what others can see of it, one that merges updates is
// measured like one that does not, and a record that was lost or counted twice shows. A program without state is measured by the
// number of its output records instead.
type meter struct {
	cl      *kgo.Client
	want    int64
	records bool    // count records, whatever is in them
	more    bool    // more than wanted is no mistake: at-least-once
	highest []int64 // by number of the key

	sum, seen  int64
	first, end time.Time
	began      func() // called when the first output is seen; may be nil
	steps      []step // how the sum grew
	wrong      error
	settled    float64 // part of what was done that is behind before the rate is taken; 0: a tenth
}

// step is a point of the way.
type step struct {
	at  time.Time
	sum int64
}

// stepTime is the least time between steps, so that there are not too many.
const stepTime = 5 * time.Millisecond

func newMeter(brokers []string, topic string, want int64, keys int, records bool) (*meter, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(50*time.Millisecond),
	)
	if err != nil {
		return nil, err
	}
	return &meter{cl: cl, want: want, records: records, highest: make([]int64, keys)}, nil
}

func (m *meter) close() { m.cl.Close() }

// poll takes what has come, or returns when nothing came for some time. done says that all is there.
func (m *meter) poll(ctx context.Context, wait time.Duration) (done bool, err error) {
	poll, cancel := context.WithTimeout(ctx, wait)
	fetches := m.cl.PollFetches(poll)
	cancel()
	for _, e := range fetches.Errors() {
		if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) {
			return false, fmt.Errorf("read the output: %w", e.Err)
		}
	}
	if fetches.NumRecords() > 0 {
		fetches.EachRecord(m.take)
		m.note(time.Now())
	}
	return m.sum >= m.want, errors.Join(m.wrong, ctx.Err())
}

func (m *meter) take(r *kgo.Record) {
	m.seen++
	if m.records {
		m.sum++
		return
	}
	i := workload.Index(r.Key)
	if i < 0 || i >= len(m.highest) || len(r.Value) < 1 {
		m.wrong = fmt.Errorf("%s/%d@%d is not a count of a key of the input", r.Topic, r.Partition, r.Offset)
		return
	}
	n, err := countOf(r.Value)
	if err != nil {
		m.wrong = fmt.Errorf("%s/%d@%d is not a count: %w", r.Topic, r.Partition, r.Offset, err)
		return
	}
	if n > m.highest[i] {
		m.sum += n - m.highest[i]
		m.highest[i] = n
	}
}

// countOf reads a count: 8 bytes, big-endian, and whatever comes after them, or ASCII digits. Eight digits would be a number beyond
// 3e18, which no count is.
func countOf(value []byte) (int64, error) {
	if len(value) >= 8 {
		if n := binary.BigEndian.Uint64(value); n < 1<<56 {
			return int64(n), nil
		}
	}
	return strconv.ParseInt(string(value), 10, 64)
}

func (m *meter) note(now time.Time) {
	m.end = now
	if m.first.IsZero() {
		m.first = now
		if m.began != nil {
			m.began()
		}
	}
	if n := len(m.steps); n == 0 || now.Sub(m.steps[n-1].at) >= stepTime {
		m.steps = append(m.steps, step{now, m.sum})
	}
}

// settle reads what still comes after the program has ended, and says whether the sum is what it must be.
func (m *meter) settle(ctx context.Context) error {
	end := m.end
	for {
		before := m.seen
		if _, err := m.poll(ctx, 300*time.Millisecond); err != nil {
			return err
		}
		if m.seen == before {
			break
		}
	}
	m.end = end
	if m.sum < m.want || m.sum > m.want && !m.more {
		return fmt.Errorf("the counts add up to %d instead of %d", m.sum, m.want)
	}
	return nil
}

// rate is records per second from the first tenth (or what settled says) of what was done to the last, so that the start is not
// in it.
func (m *meter) rate() float64 {
	done := min(m.sum, m.want)
	begin := done / 10
	if m.settled > 0 {
		begin = int64(float64(done) * m.settled)
	}
	for _, from := range m.steps {
		if from.sum < begin {
			continue
		}
		if s := m.end.Sub(from.at).Seconds(); s > 0 {
			return float64(done-from.sum) / s
		}
		break
	}
	return 0
}
