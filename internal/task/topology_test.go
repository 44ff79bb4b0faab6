package task

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// keyedCount is the workload of bench/keyedcount, through package topology: one row and one output per record.
type keyedCount struct{ counts *store.KV[string, int64] }

var (
	countIn    = topology.NewTopic("in", serde.String(), serde.Bytes())
	countOut   = topology.NewTopic("out", serde.String(), serde.Int64())
	countStore = store.KeyValue("counts", serde.String(), serde.Int64())
)

func (p *keyedCount) Init(ctx processor.InitContext) (err error) {
	p.counts, err = countStore.In(ctx)
	return err
}

func (p *keyedCount) Process(ctx processor.Context[string, int64], r processor.Record[string, []byte]) error {
	n, _, err := p.counts.Get(r.Key)
	if err != nil {
		return err
	}
	if err := p.counts.Put(r.Key, n+1); err != nil {
		return err
	}
	return ctx.Forward(processor.With(r, r.Key, n+1))
}

func openKeyedCount(t testing.TB) *Task {
	t.Helper()
	b := topology.NewBuilder()
	n := topology.AddProcessor("count", func() processor.Processor[string, []byte, string, int64] { return &keyedCount{} },
		[]store.Spec{countStore}, topology.AddSource(b, "", countIn))
	topology.AddSink("", countOut, n)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: countStore, Prefix: 1}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	task, err := New(Config{
		Context: context.Background(), ID: processor.TaskID{Subtopology: "counts"}, App: "app", Sub: top.Subtopologies()[0], DB: db,
		Inputs: []Input{{Topic: "in"}}, SinkPartitions: []int32{8},
	}, Start{StreamTime: -1})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// feeder makes epochs of records for a task, in memory of its own.
type feeder struct {
	task    *Task
	names   [][]byte
	records []topology.Raw
	value   []byte
	next    int64
	pick    uint64
}

func newFeeder(task *Task, keys, perEpoch int) *feeder {
	f := &feeder{task: task, records: make([]topology.Raw, perEpoch), value: make([]byte, 100), pick: 1}
	for i := range keys {
		f.names = append(f.names, fmt.Appendf(nil, "key-%06d", i))
	}
	return f
}

// epoch runs n records, and commits them.
func (f *feeder) epoch(t testing.TB, n int) (last []byte) {
	for i := range n {
		f.pick = f.pick*6364136223846793005 + 1442695040888963407
		f.records[i] = topology.Raw{Offset: f.next, Time: f.next, Key: f.names[(f.pick>>33)%uint64(len(f.names))], Value: f.value}
		f.next++
	}
	f.task.Enqueue(Batch{Records: f.records[:n], Next: f.next})
	if r, err := f.task.Step(n, nil); err != nil || r.Records != n {
		t.Fatal(r, err)
	}
	outs := f.task.Outputs()
	if len(outs) != n {
		t.Fatalf("%d outputs of %d records", len(outs), n)
	}
	last = append(last, outs[n-1].Value...)
	if err := f.task.Committed(f.task.Seal(), nil); err != nil {
		t.Fatal(err)
	}
	return last
}

// The kernel with package topology on top: what a record costs is its part of a chunk that keys and values share.
func TestTopologyAllocatesOnlyForTypes(t *testing.T) {
	const records = 1000
	f := newFeeder(openKeyedCount(t), 1, records)
	f.epoch(t, records)
	if n := binary.BigEndian.Uint64(f.epoch(t, records)); n != 2*records {
		t.Fatalf("counted %d, want %d", n, 2*records)
	}
	if perRecord := testing.AllocsPerRun(20, func() { f.epoch(t, records) }) / records; perRecord > 0.3 {
		t.Errorf("%.2f allocations per record, want at most 0.3: keys and values share chunks", perRecord)
	}
}

// BenchmarkKeyedCount goes through the memory engine, an epoch per 10,000 records: "kernel" with a graph made by hand,
// "topology" with types, codecs and a user's processor.
func BenchmarkKeyedCount(b *testing.B) {
	for _, keys := range []int{500, 100_000} {
		for _, c := range []struct {
			name string
			open func(testing.TB) *Task
		}{
			{"kernel", func(t testing.TB) *Task { task, _ := bench{lean: true}.open(t); return task }},
			{"topology", openKeyedCount},
		} {
			b.Run(fmt.Sprintf("%s/keys=%d", c.name, keys), func(b *testing.B) {
				const perEpoch = 10_000
				f := newFeeder(c.open(b), keys, perEpoch)
				for range keys/perEpoch + 1 { // every key has its row
					f.epoch(b, perEpoch)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for done := 0; done < b.N; {
					n := min(perEpoch, b.N-done)
					f.epoch(b, n)
					done += n
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
