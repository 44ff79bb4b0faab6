// Package workload makes the topics and the input of the benchmark: 16-byte keys, values that nobody reads, and which key comes
// next. The same workload is the same input on every machine.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// KeySize is the length of every key.
const KeySize = 16

// Spec is an input.
type Spec struct {
	Dist       string // zipf, uniform, or each: every key once per round, in a random order
	Keys       int
	Records    int
	ValueBytes int
	Partitions int
	Seed       int64
	Age        time.Duration // how much older than now the timestamps are
}

// Check says what is wrong with s.
func (s Spec) Check() error {
	var wrong []string
	if s.Dist != "zipf" && s.Dist != "uniform" && s.Dist != "each" {
		wrong = append(wrong, fmt.Sprintf("distribution %q is none of zipf, uniform, each", s.Dist))
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"keys", s.Keys}, {"records", s.Records}, {"value bytes", s.ValueBytes}, {"partitions", s.Partitions}} {
		if n.value < 1 {
			wrong = append(wrong, fmt.Sprintf("%s is %d, which is less than one", n.name, n.value))
		}
	}
	if wrong != nil {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// Draw returns the function that names the next key.
func (s Spec) Draw() func() int {
	r := rand.New(rand.NewSource(s.Seed))
	switch s.Dist {
	case "uniform":
		return func() int { return r.Intn(s.Keys) }
	case "each":
		order, i := r.Perm(s.Keys), 0
		return func() int {
			i++
			return order[(i-1)%len(order)]
		}
	default:
		// The frequent keys are scattered over the key space, as they are in life.
		z := rand.NewZipf(r, 1.01, 1, uint64(s.Keys-1))
		return func() int { return int(z.Uint64() * 7919 % uint64(s.Keys)) }
	}
}

// AppendKey appends key number i: "k" and 15 digits.
func AppendKey(dst []byte, i int) []byte {
	dst = append(dst, "k000000000000000"...)
	for p := len(dst) - 1; i > 0; p-- {
		dst[p] = byte('0' + i%10)
		i /= 10
	}
	return dst
}

// Index is the number of a key, -1 for bytes that are none.
func Index(key []byte) int {
	if len(key) != KeySize || key[0] != 'k' {
		return -1
	}
	n := 0
	for _, c := range key[1:] {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// Fill writes the input to a topic and returns how many different keys there are. progress, if not nil, is called now and then
// with the number of records written.
func Fill(ctx context.Context, brokers []string, topic string, s Spec, progress func(int)) (distinct int, err error) {
	if err := s.Check(); err != nil {
		return 0, err
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(50_000),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	value := make([]byte, s.ValueBytes)
	for i := range value {
		value[i] = 'a' + byte(i%26)
	}
	seen := make([]bool, s.Keys)
	var stamp time.Time // zero: when it is sent
	draw := s.Draw()
	var written atomic.Int64
	for i := range s.Records {
		if i%1000 == 0 {
			if ctx.Err() != nil {
				break // it would be refused, record by record
			}
			if s.Age > 0 {
				stamp = time.Now().Add(-s.Age)
			}
		}
		k := draw()
		if !seen[k] {
			seen[k] = true
			distinct++
		}
		cl.Produce(ctx, &kgo.Record{Topic: topic, Key: AppendKey(make([]byte, 0, KeySize), k), Value: value, Timestamp: stamp}, func(_ *kgo.Record, err error) {
			if err != nil {
				cancel(err)
			}
			written.Add(1)
		})
		if progress != nil && i%10_000 == 0 {
			progress(int(written.Load()))
		}
	}
	err = cl.Flush(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return 0, fmt.Errorf("fill %s: %w", topic, err)
	}
	return distinct, nil
}

// Exists is a topic that should be new and is not.
type Exists struct{ Topic string }

func (e *Exists) Error() string {
	return "topic " + e.Topic + " is there already and may hold old records; delete it, or take other names"
}

// Create makes topics. With again, those that are there are deleted first; without, such a one is
// an *Exists.
func Create(ctx context.Context, brokers []string, partitions int, settings map[string]string, again bool, topics ...string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RetryTimeout(15*time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	configs := map[string]*string{}
	for k, v := range settings {
		configs[k] = &v
	}
	if again {
		if err := Delete(ctx, brokers, topics...); err != nil {
			return err
		}
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for _, t := range topics {
		for {
			_, err := adm.CreateTopic(ctx, int32(partitions), -1, configs, t)
			if err == nil {
				break
			}
			// A deletion is answered before it is over.
			if !again && errors.Is(err, kerr.TopicAlreadyExists) {
				return &Exists{t}
			}
			if !errors.Is(err, kerr.TopicAlreadyExists) {
				return fmt.Errorf("create topic %s: %w", t, err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// Delete deletes those of the topics that exist.
func Delete(ctx context.Context, brokers []string, topics ...string) error {
	if len(topics) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RetryTimeout(15*time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	answers, err := kadm.NewClient(cl).DeleteTopics(ctx, topics...)
	if err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	for _, a := range answers {
		if a.Err != nil && !errors.Is(a.Err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("delete topic %s: %w", a.Topic, a.Err)
		}
	}
	return nil
}

// DeletePrefix deletes the topics whose names begin so.
func DeletePrefix(ctx context.Context, brokers []string, prefix string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RetryTimeout(15*time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	var ours []string
	for _, name := range all.Names() {
		if strings.HasPrefix(name, prefix) {
			ours = append(ours, name)
		}
	}
	return Delete(ctx, brokers, ours...)
}
