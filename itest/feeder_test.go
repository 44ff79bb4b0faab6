package itest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// feeder writes the input of an application: seeded keys, values counting up. It is not transactional, so offsets are
// dense and every acknowledged record is input.
type feeder struct {
	t     *testing.T
	cl    *kgo.Client
	topic string
	keys  int
	rand  *rand.Rand
	value func(r *rand.Rand, i int64) int32

	mu   sync.Mutex
	sent int64
}

// newFeeder feeds topic with records of that many keys.
func newFeeder(t *testing.T, addrs []string, topic string, keys int, seed uint64) *feeder {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ProducerLinger(2*time.Millisecond), kgo.MaxBufferedRecords(20_000), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &feeder{t: t, cl: cl, topic: topic, keys: keys, rand: rand.New(rand.NewPCG(seed, 0)),
		value: func(_ *rand.Rand, i int64) int32 { return int32(i) }}
}

// feed writes n records and waits until the broker has them.
func (f *feeder) feed(n int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	if err := f.write(ctx, n); err != nil {
		f.t.Fatal(err)
	}
}

func (f *feeder) write(ctx context.Context, n int) error {
	var first firstError
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		r := &kgo.Record{Topic: f.topic, Key: fmt.Appendf(nil, "k%d", f.rand.IntN(f.keys)),
			Value: binary.BigEndian.AppendUint32(nil, uint32(f.value(f.rand, f.sent)))}
		f.sent++
		f.cl.Produce(ctx, r, func(_ *kgo.Record, err error) { first.set(err) })
	}
	return errors.Join(f.cl.Flush(ctx), first.get())
}

// put writes one record with a given key and raw value.
func (f *feeder) put(key string, value []byte) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
	if err := f.cl.ProduceSync(ctx, &kgo.Record{Topic: f.topic, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		f.t.Fatal(err)
	}
}

// total is how many records were written.
func (f *feeder) total() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

// flow writes rate records per second in the background, until the returned function is called, which waits and requires
// that all of them were written.
func (f *feeder) flow(rate int) (stop func()) {
	ctx, cancel := context.WithCancel(f.t.Context())
	over := make(chan error, 1)
	go func() {
		const beat = 20 * time.Millisecond
		tick := time.NewTicker(beat)
		defer tick.Stop()
		began, written := time.Now(), 0
		for {
			select {
			case <-ctx.Done():
				over <- nil
				return
			case <-tick.C:
			}
			due := int(time.Since(began).Seconds()*float64(rate)) - written
			if err := f.write(f.t.Context(), due); err != nil {
				over <- err
				return
			}
			written += due
		}
	}()
	return sync.OnceFunc(func() {
		f.t.Helper()
		cancel()
		if err := <-over; err != nil {
			f.t.Errorf("feeding %s: %v", f.topic, err)
		}
	})
}

// firstError keeps the first error set.
type firstError struct {
	mu  sync.Mutex
	err error
}

func (e *firstError) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

func (e *firstError) get() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}
