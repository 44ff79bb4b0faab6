package millrace_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/observe"
)

// fake is an embedded cluster that can be made to misbehave.
func fake(t *testing.T, partitions int32, opts ...kfake.Opt) (*kfake.Cluster, []string) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(1), kfake.SeedTopics(partitions, "words", "totals"),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "1000000000"}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, c.ListenAddrs()
}

// watcher reads committed totals as they come, and checks that every key counts 1, 2, 3, ...
type watcher struct {
	t    *testing.T
	cl   *kgo.Client
	last map[string]int64
	n    int
}

func watch(t *testing.T, addrs []string) *watcher {
	t.Helper()
	return &watcher{t: t, last: map[string]int64{}, cl: client(t, addrs, kgo.ConsumeTopics("totals"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond))}
}

// until reads until n totals have come in all.
func (w *watcher) until(n int, within time.Duration) bool {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for w.n < n && ctx.Err() == nil {
		w.take(w.cl.PollFetches(ctx))
	}
	if w.n < n {
		w.t.Errorf("%d of %d totals came within %s", w.n, n, within)
	}
	return w.n >= n
}

func (w *watcher) take(fetches kgo.Fetches) {
	fetches.EachRecord(func(r *kgo.Record) {
		w.n++
		v := int64(binary.BigEndian.Uint64(r.Value))
		if v != w.last[string(r.Key)]+1 {
			w.t.Errorf("key %s counts %d after %d", r.Key, v, w.last[string(r.Key)])
		}
		w.last[string(r.Key)] = v
	})
}

// exact wants n totals and not one more, once nobody writes any longer.
func (w *watcher) exact(addrs []string, n int) {
	w.t.Helper()
	w.until(n, 40*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(client(w.t, addrs)).ListCommittedOffsets(ctx, "totals")
	if err != nil {
		w.t.Fatal(err)
	}
	all := client(w.t, addrs, kgo.ConsumeTopics("totals"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	at, got := map[int32]int64{}, 0
	behind := func() bool {
		left := false
		ends.Each(func(o kadm.ListedOffset) { left = left || at[o.Partition] < o.Offset })
		return left
	}
	for behind() {
		fetches := all.PollFetches(ctx)
		if ctx.Err() != nil {
			w.t.Fatalf("the end of totals was not reached: %v of %v", at, ends)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at[r.Partition] = r.Offset + 1
			if !r.Attrs.IsControl() {
				got++
			}
		})
	}
	if got != n {
		w.t.Errorf("%d totals are committed, want %d", got, n)
	}
}

// feed produces n words over k keys, however often the broker refuses, and reports the end.
func feed(t *testing.T, addrs []string, n, keys int) (fed <-chan struct{}) {
	t.Helper()
	done := make(chan struct{})
	cl := client(t, addrs, kgo.DefaultProduceTopic("words"), kgo.ProducerLinger(2*time.Millisecond))
	go func() {
		defer close(done)
		for i := range n {
			cl.Produce(context.Background(), &kgo.Record{Key: fmt.Appendf(nil, "k%d", i%keys), Value: []byte("x")}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error("feeding:", err)
				}
			})
			if i%50 == 49 {
				if err := cl.Flush(context.Background()); err != nil {
					t.Error("feeding:", err)
				}
			}
		}
	}()
	return done
}

// logTo is a logger that says what is worth saying, and everything with -v.
func logTo(name string) millrace.Option {
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	return millrace.Logger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("test", name))
}

// states collects what happens to tasks.
type states struct {
	mu      sync.Mutex
	running map[string]int // times a task began to run
	changed chan struct{}
}

func watchStates() (*states, millrace.Option) {
	s := &states{running: map[string]int{}, changed: make(chan struct{}, 1)}
	return s, millrace.Observe(observe.Hooks{Task: func(c observe.TaskChange) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.To == "running" {
			s.running[c.Task]++
		}
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}})
}

// wait waits until so many tasks have begun to run, counting each begin.
func (s *states) wait(t *testing.T, n int, within time.Duration) {
	t.Helper()
	timeout := time.After(within)
	for {
		s.mu.Lock()
		sum := 0
		for _, v := range s.running {
			sum += v
		}
		s.mu.Unlock()
		if sum >= n {
			return
		}
		select {
		case <-s.changed:
		case <-timeout:
			t.Fatalf("%d task starts, want %d", sum, n)
		}
	}
}

// TestRebalancesUnderLoad lets members come and go, more than twenty times, while records flow.
func TestRebalancesUnderLoad(t *testing.T) {
	for _, engine := range []string{"memory", "pebble"} {
		t.Run(engine, func(t *testing.T) {
			const n = 12_000
			_, addrs := fake(t, 6)
			state := func() millrace.Option {
				if engine == "memory" {
					return millrace.MemoryStores()
				}
				return millrace.StateDir(t.TempDir())
			}
			fed := feed(t, addrs, n, 60)
			w := watch(t, addrs)
			first := instance(t, addrs, state(), logTo("first"))
			w.until(100, 30*time.Second)
			for round := range 11 { // each a join and a leave
				s, opt := watchStates()
				stop := instance(t, addrs, state(), opt, logTo(fmt.Sprint("round ", round)))
				s.wait(t, 1, 30*time.Second)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			}
			<-fed
			w.until(n, 60*time.Second)
			if err := first(); err != nil {
				t.Fatal(err)
			}
			w.exact(addrs, n)
		})
	}
}

// TestErrorCodes injects what brokers may say, a few times each, under load.
func TestErrorCodes(t *testing.T) {
	general := []*kerr.Error{kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.UnknownServerError}
	with := func(more ...*kerr.Error) []*kerr.Error { return append(append([]*kerr.Error{}, general...), more...) }
	cases := []struct {
		key   kmsg.Key
		codes []*kerr.Error
		top   bool
		join  bool // provoked by a rebalance
	}{
		{kmsg.TxnOffsetCommit, with(kerr.ConcurrentTransactions, kerr.IllegalGeneration, kerr.RebalanceInProgress, kerr.UnknownMemberID,
			kerr.RequestTimedOut, kerr.UnknownTopicOrPartition, kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidTxnState,
			kerr.UnknownProducerID, kerr.InvalidProducerIDMapping, kerr.TransactionAbortable), false, false},
		{kmsg.EndTxn, with(kerr.ConcurrentTransactions, kerr.InvalidTxnState, kerr.InvalidProducerEpoch, kerr.ProducerFenced,
			kerr.InvalidProducerIDMapping, kerr.TransactionAbortable, kerr.NetworkException), false, false},
		{kmsg.Produce, []*kerr.Error{kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
			kerr.UnknownTopicOrPartition, kerr.CorruptMessage, kerr.KafkaStorageError, kerr.UnknownServerError, kerr.UnknownProducerID,
			kerr.OutOfOrderSequenceNumber, kerr.InvalidTxnState, kerr.ConcurrentTransactions, kerr.TransactionAbortable}, false, false},
		{kmsg.Fetch, []*kerr.Error{kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.KafkaStorageError, kerr.UnknownServerError,
			kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.OffsetNotAvailable, kerr.CorruptMessage, kerr.UnknownTopicID}, false, false},
		{kmsg.Heartbeat, with(kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID), false, false},
		{kmsg.JoinGroup, with(kerr.UnknownMemberID, kerr.RebalanceInProgress), false, true},
		{kmsg.SyncGroup, with(kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.IllegalGeneration), false, true},
		{kmsg.OffsetFetch, with(kerr.UnstableOffsetCommit, kerr.UnknownTopicOrPartition), false, true},
		{kmsg.OffsetFetch, general, true, true},
		{kmsg.ListOffsets, []*kerr.Error{kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.OffsetNotAvailable}, false, true},
		{kmsg.InitProducerID, with(kerr.ConcurrentTransactions), false, true},
	}
	for _, c := range cases {
		name := c.key.Name()
		if c.top {
			name += " top level"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fk, addrs := fake(t, 3)
			w := watch(t, addrs)
			stop := instance(t, addrs, millrace.MemoryStores(), millrace.Workers(1), logTo(name))
			n := 0
			more := func(k int) { produceWords(t, addrs, k, 20); n += k }
			more(300)
			if !w.until(n, 30*time.Second) {
				return
			}
			for _, code := range c.codes {
				count := 2
				if code == kerr.InvalidProducerEpoch || code == kerr.ProducerFenced {
					count = 1 // four of them within a minute mean that somebody else uses the id
				}
				h := fk.Fault(kfake.Fault{Keys: []kmsg.Key{c.key}, Err: code, Count: count, TopLevel: c.top, When: ours})
				var leave func() error
				if c.join { // another member comes
					leave = instance(t, addrs, millrace.MemoryStores(), millrace.Workers(1), logTo(name+" second"))
				}
				more(300)
				if !w.until(n, 40*time.Second) {
					t.Fatalf("stalled after %v (%d hits)", code, h.Hits())
				}
				if !c.join || c.key == kmsg.OffsetFetch {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					for h.Hits() < 1 && ctx.Err() == nil { // heartbeats come by themselves, the rest with records
						more(20)
						w.until(n, 20*time.Second)
					}
					cancel()
					if h.Hits() == 0 {
						t.Errorf("%v was never injected", code)
					}
				}
				h.Remove()
				if leave != nil {
					if err := leave(); err != nil {
						t.Errorf("%v: %v", code, err)
					}
				}
				more(100)
				if !w.until(n, 40*time.Second) {
					t.Fatalf("stalled behind %v", code)
				}
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			w.exact(addrs, n)
		})
	}
}

// ours leaves the clients that feed the test alone.
func ours(r kmsg.Request) bool {
	switch r := r.(type) {
	case *kmsg.ProduceRequest:
		return r.TransactionID != nil
	case *kmsg.InitProducerIDRequest:
		return r.TransactionalID != nil
	}
	return true
}
