package millrace_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// outage is a service that handlers need, a clock that stands still, and what observers have been told.
type outage struct {
	t       *testing.T
	addrs   []string
	down    atomic.Bool
	now     atomic.Int64
	retries chan string // policies
	empty   chan struct{}
	cl      *kgo.Client
	out     *kgo.Client
}

func newOutage(t *testing.T, partitions int32) *outage {
	o := &outage{t: t, addrs: broker(t, partitions), retries: make(chan string, 1000), empty: make(chan struct{}, 1)}
	o.down.Store(true)
	o.now.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	o.cl = client(t, o.addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	o.out = client(t, o.addrs, kgo.ConsumeTopics("totals"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	return o
}

// topology counts words, and fails for the word "bad" while the service is down.
func (o *outage) topology(p processor.Policy, stateful bool) *topology.Topology {
	o.t.Helper()
	b := stream.NewBuilder()
	checked := stream.MapValues(stream.From(b, words), func(w string) string {
		if w == "bad" && o.down.Load() {
			panic(errors.New("the service is down"))
		}
		return w
	}).OnError(p)
	if stateful {
		stream.GroupByKey(checked).Count(counts).ToStream().To(totals)
	} else {
		stream.MapValues(checked, func(string) int64 { return 1 }).To(totals)
	}
	top, err := b.Build()
	if err != nil {
		o.t.Fatal(err)
	}
	return top
}

func (o *outage) launch(p processor.Policy, stateful bool, opts ...millrace.Option) *running {
	o.t.Helper()
	return launch(o.t, o.addrs, o.topology(p, stateful), append(opts,
		millrace.Clock(func() time.Time { return time.UnixMilli(o.now.Load()) }),
		millrace.Observe(observe.Hooks{
			Record: func(e observe.RecordError) { o.retries <- e.Policy },
			Commit: func(c observe.Commit) {
				if c.Records == 0 {
					select {
					case o.empty <- struct{}{}:
					default:
					}
				}
			},
		}))...)
}

func (o *outage) stop(r *running) {
	o.t.Helper()
	r.cancel()
	<-r.done
	if r.err != nil {
		o.t.Fatal(r.err)
	}
}

func (o *outage) send(partition int32, key string, values ...string) {
	o.t.Helper()
	for _, v := range values {
		if err := o.cl.ProduceSync(context.Background(), &kgo.Record{Topic: "words", Partition: partition, Key: []byte(key), Value: []byte(v)}).FirstErr(); err != nil {
			o.t.Fatal(err)
		}
	}
}

// policy waits for a record that fails.
func (o *outage) policy() string {
	o.t.Helper()
	select {
	case p := <-o.retries:
		return p
	case <-time.After(30 * time.Second):
		o.t.Fatal("no record has failed")
		return ""
	}
}

// want waits for committed totals, "key=count", which must be these in any order over keys, and nothing else.
func (o *outage) want(want ...string) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var got []string
	for len(got) < len(want) {
		fetches := o.out.PollFetches(ctx)
		if ctx.Err() != nil {
			o.t.Fatalf("got %v, want %v", got, want)
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, fmt.Sprintf("%s=%d", r.Key, binary.BigEndian.Uint64(r.Value))) })
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		o.t.Fatalf("got %v, want %v", got, want)
	}
}

// A task is parked; the worker's other task goes on, what came before is committed, a clean stop is a clean stop, and
// each start goes on with the count where the one before it was, also when nothing but a try was committed.
func TestRetryParks(t *testing.T) {
	for _, c := range []string{"disk kept", "disk lost", "memory", "no state"} {
		t.Run(c, func(t *testing.T) {
			o := newOutage(t, 2)
			dir := t.TempDir()
			state := millrace.StateDir(dir)
			if c == "memory" {
				state = millrace.MemoryStores()
			}
			policy := processor.Retry(2, time.Hour, processor.Skip())
			run := o.launch(policy, c != "no state", state)
			o.send(0, "a", "x")
			o.want("a=1")
			// The epoch of a try alone.
			for len(o.empty) > 0 {
				<-o.empty
			}
			o.send(0, "a", "bad")
			if p := o.policy(); p != "retry" {
				t.Fatal(p)
			}
			select {
			case <-o.empty:
			case <-time.After(30 * time.Second):
				t.Fatal("an epoch of nothing but a try was not committed")
			}
			o.send(0, "z", "y") // waits
			o.send(1, "b", "x")
			o.want("b=1")
			for i, want := range []string{"retry", "skip"} {
				o.stop(run)
				if c == "disk lost" {
					if err := os.RemoveAll(filepath.Join(dir, "counter")); err != nil {
						t.Fatal(err)
					}
				}
				run = o.launch(policy, c != "no state", state)
				o.send(1, fmt.Sprint("c", i), "x")
				o.want(fmt.Sprint("c", i, "=1"))
				if n := len(o.retries); n > 0 {
					t.Fatalf("start %d did not wait", i)
				}
				o.now.Add(time.Hour.Milliseconds() << i)
				if p := o.policy(); p != want {
					t.Fatalf("after start %d: %s, want %s", i, p, want)
				}
			}
			o.want("z=1")
			o.stop(run)
		})
	}
}

// While a task is parked its partition is paused when it has its share of the memory, and nobody else's; then all comes.
func TestRetryBackPressure(t *testing.T) {
	o := newOutage(t, 2)
	run := o.launch(processor.Retry(1, time.Hour, processor.Fail()), true, millrace.MemoryStores(), millrace.MemoryLimit(32<<20))
	o.send(0, "a", "bad")
	if p := o.policy(); p != "retry" {
		t.Fatal(p)
	}
	const n, size = 600, 100_000
	value := strings.Repeat("v", size)
	for range n {
		o.cl.Produce(context.Background(), &kgo.Record{Topic: "words", Partition: 0, Key: []byte("a"), Value: []byte(value)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := o.cl.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 20; i++ {
		o.send(1, "b", "x")
		o.want(fmt.Sprint("b=", i))
	}
	o.down.Store(false)
	o.now.Add(time.Hour.Milliseconds())
	var want []string
	for i := 1; i <= n+1; i++ {
		want = append(want, fmt.Sprint("a=", i))
	}
	o.want(want...)
	o.stop(run)
}

// Fail, in the end, stops the instance with the record's error; what came before is committed.
func TestRetryFails(t *testing.T) {
	o := newOutage(t, 1)
	run := o.launch(processor.Retry(1, time.Hour, processor.Fail()), true, millrace.MemoryStores())
	o.send(0, "a", "x", "bad", "x")
	if p := o.policy(); p != "retry" {
		t.Fatal(p)
	}
	o.want("a=1")
	o.now.Add(time.Hour.Milliseconds())
	if p := o.policy(); p != "fail" {
		t.Fatal(p)
	}
	<-run.done
	if !errors.Is(run.err, &millrace.Error{Code: "record/panicked"}) || millrace.ExitCode(run.err) != 1 {
		t.Fatalf("Run returned %v", run.err)
	}
	o.down.Store(false)
	run = o.launch(processor.Retry(1, time.Hour, processor.Fail()), true, millrace.MemoryStores())
	o.want("a=2", "a=3")
	o.stop(run)
}
