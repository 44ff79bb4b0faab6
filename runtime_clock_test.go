package millrace_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// clockwork sends sensors through a repartition topic, and tells of each record the clock behind it.
type clockwork struct {
	t     *testing.T
	addrs []string
	in    *kgo.Client
	told  *kgo.Client
	log   *kgo.Client // the repartition topic
	marks []task.ControlRecord
	data  int
}

const (
	clockHops  = 2 // partitions of the repartition topic
	clockTopic = "counter-hop-repartition"
)

func newClockwork(t *testing.T) *clockwork {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "sensors"), kfake.SeedTopics(1, "told"),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "1000000000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := &clockwork{t: t, addrs: c.ListenAddrs()}
	w.in = client(t, w.addrs, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	start := kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())
	w.told = client(t, w.addrs, kgo.ConsumeTopics("told"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), start)
	w.log = client(t, w.addrs, kgo.ConsumeTopics(clockTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), start, kgo.UnknownTopicRetries(-1))
	return w
}

func (w *clockwork) topology(c stream.Clock) *topology.Topology {
	w.t.Helper()
	b := stream.NewBuilder()
	through := stream.Through("hop", serde.String(), serde.String()).Partitions(clockHops)
	hop := stream.From(b, stream.NewTopic("sensors", serde.String(), serde.String()).WithClock(c)).Repartition(through)
	tell := processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
		return ctx.Forward(processor.With(r, r.Key, fmt.Sprint(r.Value, " at ", ctx.StreamTime().Unix())))
	})
	stream.ProcessValues(hop, func() processor.Processor[string, string, string, string] { return tell }).To(stream.NewTopic("told", serde.String(), serde.String()))
	top, err := b.Build()
	if err != nil {
		w.t.Fatal(err)
	}
	return top
}

// send writes one record and wants what is told of it.
func (w *clockwork) send(partition int32, second int64, want string) {
	w.t.Helper()
	r := &kgo.Record{Topic: "sensors", Partition: partition, Key: []byte("k"), Value: fmt.Append(nil, second), Timestamp: time.Unix(second, 0)}
	if err := w.in.ProduceSync(context.Background(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	var got []string
	for len(got) == 0 {
		fetches := w.told.PollFetches(ctx)
		if ctx.Err() != nil {
			w.t.Fatalf("nothing was told of second %d", second)
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if len(got) != 1 || want != "" && got[0] != want {
		w.t.Errorf("told %q, want %q", got, want)
	}
}

// until reads the repartition topic until every partition has such a control record.
func (w *clockwork) until(what string, ok func(task.ControlRecord) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	found := map[int32]bool{}
	for len(found) < clockHops {
		fetches := w.log.PollFetches(ctx)
		if ctx.Err() != nil {
			w.t.Fatalf("%s: only partitions %v were told, of %v", what, found, w.marks)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			raw := topology.Raw{Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				raw.Headers = append(raw.Headers, processor.Header(h))
			}
			if !task.IsControl(&raw) {
				w.data++
				return
			}
			m, err := task.ParseControl(&raw)
			if err != nil {
				w.t.Fatal(err)
			}
			w.marks = append(w.marks, m)
			if ok(m) {
				found[r.Partition] = true
			}
		})
	}
}

func (w *clockwork) launch(c stream.Clock, dir string) *running {
	w.t.Helper()
	return launch(w.t, w.addrs, w.topology(c), millrace.StateDir(dir))
}

// Watermarks travel through the repartition topic, and what was heard of them outlives a restart, although the topic is purged in
// between and nobody repeats them.
func TestWatermarksTravel(t *testing.T) {
	w := newClockwork(t)
	dir := filepath.Join(t.TempDir(), "state")
	mark := func(partition int32, second int64) func(task.ControlRecord) bool {
		return func(m task.ControlRecord) bool {
			return m.Partition == partition && m.Watermark == second*1000-1 && !m.Idle
		}
	}
	patient := stream.Monotonic().Idle(0)
	r := w.launch(patient, dir)
	w.send(0, 10, "")
	w.until("task 0", mark(0, 10))
	w.send(1, 20, "")
	w.until("task 1", mark(1, 20))
	w.send(0, 30, "30 at 9")
	w.until("task 0", mark(0, 30))
	w.send(1, 40, "40 at 19")
	w.until("task 1", mark(1, 40))
	if err := r.stop(t, 30*time.Second); err != nil {
		t.Fatal(err)
	}

	admin := kadm.NewClient(w.in)
	ends, err := admin.ListEndOffsets(context.Background(), clockTopic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteRecords(context.Background(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}

	r = w.launch(patient, dir)
	w.send(0, 50, "50 at 29")
	w.until("task 0", mark(0, 50))
	w.send(0, 51, "51 at 39")
	if err := r.stop(t, 30*time.Second); err != nil {
		t.Fatal(err)
	}

	// Another disk, and less patience: the second task is idle, and the clock goes on without it.
	idle := func(partition int32) func(task.ControlRecord) bool {
		return func(m task.ControlRecord) bool { return m.Partition == partition && m.Idle }
	}
	r = w.launch(stream.Monotonic().Idle(500*time.Millisecond), filepath.Join(t.TempDir(), "another"))
	w.until("task 1 is idle", idle(1))
	w.send(0, 60, "")
	w.until("task 0", mark(0, 60))
	w.send(0, 70, "70 at 59")
	if err := r.stop(t, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.marks {
		if m.Partition > 1 || m.Watermark > 60_000 && m.Watermark != 69_999 {
			t.Errorf("control record %+v", m)
		}
	}
}

// On stream time nothing but records is in a repartition topic.
func TestStreamTimeWritesNoControlRecords(t *testing.T) {
	w := newClockwork(t)
	r := w.launch(stream.StreamTime(), filepath.Join(t.TempDir(), "state"))
	const records = 20
	for i := range int64(records) {
		w.send(int32(i%2), 10+i, fmt.Sprintf("%d at %d", 10+i, 10+i))
	}
	if err := r.stop(t, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	for n := 0; n < records; {
		fetches := w.log.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d records in the repartition topic", n)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			if r.Key == nil || len(r.Headers) > 0 {
				t.Errorf("a record with key %q and headers %v", r.Key, r.Headers)
			}
		})
	}
}

// Two partitions with a thousand records each, a second apart, aligned to a minute: neither is ever further ahead of the other,
// whoever is fetched first and however many records a Step may take.
func TestAlignmentBoundsTheDrift(t *testing.T) {
	const records, drift = 600, 60
	w := newClockwork(t)
	var batch []*kgo.Record
	for p := range int32(2) {
		for i := range records {
			batch = append(batch, &kgo.Record{Topic: "sensors", Partition: p, Key: []byte("k"), Value: fmt.Append(nil, p), Timestamp: time.Unix(int64(1000+i), 0)})
		}
	}
	if err := w.in.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	last := [2]int64{999, 999}
	furthest, done := int64(0), make(chan struct{})
	b := stream.NewBuilder()
	source := stream.From(b, stream.NewTopic("sensors", serde.String(), serde.String()).WithClock(stream.Monotonic().Align(drift*time.Second)))
	stream.ProcessValues(source, func() processor.Processor[string, string, string, string] {
		return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
			mu.Lock()
			defer mu.Unlock()
			p := ctx.TaskID().Partition
			last[p] = r.Time.Unix()
			furthest = max(furthest, last[p]-last[1-p])
			if last == [2]int64{999 + records, 999 + records} {
				close(done)
			}
			return nil
		})
	})
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	r := launch(t, w.addrs, top, millrace.StateDir(filepath.Join(t.TempDir(), "state")))
	select {
	case <-done:
	case <-r.done:
	case <-time.After(60 * time.Second):
		t.Error("the tasks wait for each other")
	}
	if err := r.stop(t, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	// The other's next record is a second above its last.
	if furthest < 2 || furthest > drift+1 {
		t.Errorf("one partition was %d s ahead of the other, aligned to %d s", furthest, drift)
	}
}
