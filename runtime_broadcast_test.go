package millrace_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

var (
	limitsIn = stream.NewTopic("limits", serde.String(), serde.Int64())
	limits   = store.Broadcast("limits", serde.String(), serde.Int64())
	heard    = store.Partition("heard", serde.Int64())
	marks    = store.Global("marks", serde.Int64())
)

// herald says of each record which limit holds and how many records of the broadcast topic its task has seen; and how many
// tasks have ever said anything, as far as the task has heard.
type herald struct {
	limits *store.BroadcastState[string, int64]
	heard  *store.PartitionState[int64]
	marks  *store.GlobalState[int64]
}

func (h *herald) Init(ctx processor.InitContext) (err error) {
	if h.limits, err = limits.In(ctx); err != nil {
		return err
	}
	if h.marks, err = marks.In(ctx); err != nil {
		return err
	}
	h.heard, err = heard.In(ctx)
	return err
}

func (h *herald) ProcessBroadcast(ctx processor.BroadcastContext[string, string], r processor.Record[string, int64]) error {
	n, _, err := h.heard.Get()
	if err != nil {
		return err
	}
	if err := h.heard.Put(n + 1); err != nil {
		return err
	}
	return h.limits.Put(ctx, r.Key, r.Value)
}

func (h *herald) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	x, _, err := h.limits.Get("x")
	if err != nil {
		return err
	}
	n, _, err := h.heard.Get()
	if err != nil {
		return err
	}
	if err := h.marks.Put("last", x); err != nil {
		return err
	}
	tasks := 0
	if err := h.marks.Each(func(store.GlobalEntry, int64) error { tasks++; return nil }); err != nil {
		return err
	}
	return ctx.Forward(processor.With(r, r.Key, fmt.Sprintf("x=%d heard=%d tasks=%d", x, n, tasks)))
}

func heralds(t *testing.T) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	stream.ProcessBroadcast(stream.From(b, words), limitsIn,
		func() processor.BroadcastProcessor[string, string, string, int64, string, string] { return &herald{} }, limits, heard, marks).
		To(stream.NewTopic("totals", serde.String(), serde.String()))
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// stands is a cluster for heralds, and what goes in and comes out.
type stands struct {
	t     *testing.T
	addrs []string
	in    *kgo.Client
	out   *kgo.Client
	sent  int
}

const standTasks = 8

func newStands(t *testing.T) *stands {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(standTasks, "words"), kfake.SeedTopics(1, "limits", "totals"),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "1000000000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := &stands{t: t, addrs: c.ListenAddrs()}
	s.in = client(t, s.addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	s.out = client(t, s.addrs, kgo.ConsumeTopics("totals"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	return s
}

func (s *stands) limit(name string, most uint64) {
	s.t.Helper()
	r := &kgo.Record{Topic: "limits", Key: []byte(name), Value: binary.BigEndian.AppendUint64(nil, most)}
	if err := s.in.ProduceSync(context.Background(), r).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// aborted writes a limit in a transaction that comes to nothing.
func (s *stands) aborted(name string, most uint64) {
	s.t.Helper()
	cl := client(s.t, s.addrs, kgo.TransactionalID("limits"))
	if err := cl.BeginTransaction(); err != nil {
		s.t.Fatal(err)
	}
	r := &kgo.Record{Topic: "limits", Key: []byte(name), Value: binary.BigEndian.AppendUint64(nil, most)}
	if err := cl.ProduceSync(context.Background(), r).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
	if err := cl.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
		s.t.Fatal(err)
	}
}

// ask sends a record to every task and returns what they say, without the number of tasks.
func (s *stands) ask() (said [standTasks]string, tasks [standTasks]string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s.sent++
	for p := range standTasks {
		r := &kgo.Record{Topic: "words", Partition: int32(p), Key: fmt.Appendf(nil, "%d of %d", p, s.sent), Value: []byte("?")}
		if err := s.in.ProduceSync(ctx, r).FirstErr(); err != nil {
			s.t.Fatal(err)
		}
	}
	for n := 0; n < standTasks; {
		fetches := s.out.PollFetches(ctx)
		if ctx.Err() != nil {
			s.t.Fatalf("%d of %d tasks answered: %q", n, standTasks, said)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var p, of int
			if _, err := fmt.Sscanf(string(r.Key), "%d of %d", &p, &of); err != nil || of != s.sent || said[p] != "" {
				s.t.Fatalf("an answer to %q when %d was asked; %v", r.Key, s.sent, err)
			}
			said[p], tasks[p], _ = strings.Cut(string(r.Value), " tasks=")
			n++
		})
	}
	return said, tasks
}

// until asks until every task says so. A task that has said it does not take it back; before, it says what it was.
func (s *stands) until(before, want string) {
	s.t.Helper()
	var done [standTasks]bool
	for {
		said, _ := s.ask()
		all := true
		for p, a := range said {
			switch {
			case a == want:
				done[p] = true
			case done[p] || a != before:
				s.t.Fatalf("task %d says %q after %q, and is to say %q", p, a, before, want)
			default:
				all = false
			}
		}
		if all {
			return
		}
	}
}

// now wants every task to say so at once.
func (s *stands) now(want string) {
	s.t.Helper()
	said, _ := s.ask()
	for p, a := range said {
		if a != want {
			s.t.Errorf("task %d says %q, want %q", p, a, want)
		}
	}
}

func TestBroadcast(t *testing.T) {
	s := newStands(t)
	dirs := t.TempDir()
	run := func(name string) *running {
		return launch(t, s.addrs, heralds(t), millrace.StateDir(filepath.Join(dirs, name)))
	}
	s.limit("x", 100)
	s.aborted("x", 1)
	a := run("a")
	s.now("x=100 heard=1")
	s.limit("x", 200)
	s.until("x=100 heard=1", "x=200 heard=2")

	// Four instances: every task has what it had, wherever it is now.
	b := run("b")
	s.now("x=200 heard=2")
	c, d := run("c"), run("d")
	s.now("x=200 heard=2")
	s.aborted("x", 2)
	s.limit("y", 1)
	s.until("x=200 heard=2", "x=200 heard=3")
	for _, r := range []*running{a, b, c} {
		if err := r.stop(t, 60*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	s.now("x=200 heard=3")
	if err := d.stop(t, 60*time.Second); err != nil {
		t.Fatal(err)
	}

	// What was published while nothing ran is there before the first record is processed; also without a disk.
	s.limit("x", 300)
	s.aborted("x", 3)
	if err := os.RemoveAll(filepath.Join(dirs, "d")); err != nil {
		t.Fatal(err)
	}
	d = run("d")
	s.now("x=300 heard=4")

	// Global state: every task has written its mark, and all hear of all of them.
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, tasks := s.ask()
		if tasks == [standTasks]string{"8", "8", "8", "8", "8", "8", "8", "8"} {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tasks know of %q others", tasks)
		}
	}
	if err := d.stop(t, 60*time.Second); err != nil {
		t.Fatal(err)
	}
}

// TestBroadcastLogStart: a task goes on where the topic begins now, also when nothing is left of it, and does not wait for records that
// are not there any more.
func TestBroadcastLogStart(t *testing.T) {
	s := newStands(t)
	dir := millrace.StateDir(t.TempDir())
	admin := kadm.NewClient(s.in)
	forget := func(upTo int64) {
		t.Helper()
		to := kadm.Offsets{}
		to.Add(kadm.Offset{Topic: "limits", At: upTo})
		answers, err := admin.DeleteRecords(context.Background(), to)
		if err == nil {
			err = answers.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.limit("x", 1)
	s.limit("x", 2)
	s.limit("x", 3)
	forget(2)
	r := launch(t, s.addrs, heralds(t), dir)
	s.now("x=3 heard=1")
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Fatal(err)
	}
	s.limit("x", 4)
	forget(4)
	r = launch(t, s.addrs, heralds(t), dir)
	s.now("x=3 heard=1")
	s.limit("x", 5)
	s.until("x=3 heard=1", "x=5 heard=2")
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Fatal(err)
	}
}

// TestBroadcastRecreated: a broadcast topic that was made anew is not read as if it were the one that was.
func TestBroadcastRecreated(t *testing.T) {
	s := newStands(t)
	dir := millrace.StateDir(t.TempDir())
	s.limit("x", 1)
	r := launch(t, s.addrs, heralds(t), dir)
	s.now("x=1 heard=1")
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client(t, s.addrs))
	if _, err := admin.DeleteTopic(context.Background(), "limits"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateTopic(context.Background(), 1, 1, nil, "limits"); err != nil {
		t.Fatal(err)
	}
	r = launch(t, s.addrs, heralds(t), dir)
	if err := r.ends(t, 60*time.Second); fault.Code(err) != "topic/recreated" {
		t.Errorf("the error is %v", err)
	}
}

func TestBroadcastPartitions(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "words", "limits", "totals"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r := launch(t, c.ListenAddrs(), heralds(t), millrace.MemoryStores())
	if err := r.ends(t, 60*time.Second); fault.Code(err) != "topic/broadcast-partitions" {
		t.Errorf("the error is %v", err)
	}
}

// TestState/RS-1: 128 partitions, each with one key and a state of its own, on two instances, one, three and two. Each key goes on from
// its state wherever it is: readTotals finds a count that begins again, or is another key's.
func TestState(t *testing.T) {
	t.Run("RS-1", func(t *testing.T) {
		const keys = 128
		addrs := broker(t, keys)
		in := client(t, addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		rounds := 0
		feed := func() {
			t.Helper()
			for p := range keys {
				for range p%3 + 1 { // states differ
					in.Produce(context.Background(), &kgo.Record{Topic: "words", Partition: int32(p), Key: fmt.Appendf(nil, "key %d", p), Value: []byte("x")}, nil)
				}
			}
			if err := in.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			rounds++
			got := readTotals(t, addrs, rounds*255)
			for p := range keys {
				if n := got[fmt.Sprintf("key %d", p)]; n != int64(rounds*(p%3+1)) {
					t.Errorf("key %d counts %d after %d rounds", p, n, rounds)
				}
			}
		}
		dirs := t.TempDir()
		run := func(name string) *running {
			return launch(t, addrs, countWords(t), millrace.StateDir(filepath.Join(dirs, name)))
		}
		stop := func(r *running) {
			t.Helper()
			if err := r.stop(t, 60*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		a, b := run("a"), run("b")
		feed()
		stop(a)
		feed()
		a, c := run("a"), run("c")
		feed()
		stop(b)
		feed()
		stop(a)
		stop(c)
	})
}

// TestBroadcastMany: a topic of rules that is larger than what a task may hold at a time is read to its end, in order, by every task.
func TestBroadcastMany(t *testing.T) {
	s := newStands(t)
	const rules = 20_000
	for i := range rules {
		s.in.Produce(context.Background(), &kgo.Record{Topic: "limits", Key: []byte("x"), Value: binary.BigEndian.AppendUint64(nil, uint64(i)),
			Headers: []kgo.RecordHeader{{Key: "why", Value: make([]byte, 100)}}}, nil)
	}
	if err := s.in.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	r := launch(t, s.addrs, heralds(t), millrace.StateDir(t.TempDir()), millrace.MemoryLimit(48<<20))
	s.now(fmt.Sprintf("x=%d heard=%d", rules-1, rules))
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Fatal(err)
	}
}
