package task

import (
	"context"
	"encoding/binary"
	"runtime"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// sums is an aggregate of 200 bytes: a count, a sum, and what somebody else keeps there.
type sums struct {
	n, total int64
	rest     [184]byte
}

type sumsSerde struct{}

func (sumsSerde) ID() string { return "sums" }

func (sumsSerde) Append(dst []byte, v sums) ([]byte, error) {
	dst = binary.BigEndian.AppendUint64(dst, uint64(v.n))
	dst = binary.BigEndian.AppendUint64(dst, uint64(v.total))
	return append(dst, v.rest[:]...), nil
}

func (sumsSerde) Decode(src []byte) (v sums, err error) {
	v.n, v.total = int64(binary.BigEndian.Uint64(src)), int64(binary.BigEndian.Uint64(src[8:]))
	copy(v.rest[:], src[16:])
	return v, nil
}

// recordPaths are the topologies whose cost per record is watched, by name, each from one topic to one topic.
var recordPaths = []struct {
	name   string
	build  func(b *stream.Builder)
	stores []store.Spec
	keep   int // one of how many records causes an output
	bytes  int // allocated per record at most: what the values of the types take
}{
	{
		name: "pass-through", keep: 1, bytes: 4,
		build: func(b *stream.Builder) {
			stream.From(b, stream.NewTopic("in", serde.SharedBytes(), serde.SharedBytes())).To(stream.NewTopic("out", serde.Bytes(), serde.Bytes()))
		},
	},
	{
		name: "pass-through of copies", keep: 1, bytes: 200,
		build: func(b *stream.Builder) {
			stream.From(b, stream.NewTopic("in", serde.Bytes(), serde.Bytes())).To(stream.NewTopic("out", serde.Bytes(), serde.Bytes()))
		},
	},
	{
		name: "map+filter", keep: 2, bytes: 200,
		build: func(b *stream.Builder) {
			s := stream.From(b, stream.NewTopic("in", serde.String(), serde.Bytes()))
			s = s.Filter(func(k string, _ []byte) bool { return (k[len(k)-1]-'0')%2 == 0 })
			stream.MapValues(s, func(v []byte) int64 { return int64(len(v)) }).To(stream.NewTopic("out", serde.String(), serde.Int64()))
		},
	},
	{
		name: "count", keep: 1, bytes: 200, stores: []store.Spec{countStore},
		build: func(b *stream.Builder) {
			stream.GroupByKey(stream.From(b, countIn)).Count(countStore).ToStream().To(countOut)
		},
	},
	{
		name: "aggregate", keep: 1, bytes: 200, stores: []store.Spec{store.KeyValue("sums", serde.String(), sumsSerde{})},
		build: func(b *stream.Builder) {
			g := stream.GroupByKey(stream.From(b, countIn))
			t := stream.Aggregate(g, func() sums { return sums{} }, func(a sums, v []byte) sums {
				a.n++
				a.total += int64(len(v))
				return a
			}, store.KeyValue("sums", serde.String(), sumsSerde{}))
			t.ToStream().To(stream.NewTopic("out", serde.String(), sumsSerde{}))
		},
	},
}

// openPath makes a task of a topology, over an engine in memory.
func openPath(t testing.TB, build func(b *stream.Builder), stores []store.Spec, release func(Batch)) *Task {
	t.Helper()
	b := stream.NewBuilder()
	build(b)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	var bindings []store.Binding
	for i, s := range stores {
		bindings = append(bindings, store.Binding{Spec: s, Prefix: uint16(i + 1)})
	}
	db, err := store.Open(store.NewMemory(), bindings, store.Options{CacheBytes: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	task, err := New(Config{
		Context: context.Background(), ID: processor.TaskID{Subtopology: "path"}, App: "app", Sub: top.Subtopologies()[0], DB: db,
		Inputs: []Input{{Topic: "in"}}, SinkPartitions: []int32{8}, Release: release,
	}, Start{StreamTime: -1})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// driver drives a task as the runtime does: batches as polls bring them, steps of a thousand, outputs after each, an
// epoch of ten thousand records. Lists of records go round.
type driver struct {
	task    *Task
	names   [][]byte
	value   []byte
	next    int64
	pick    uint64
	outputs int
	free    [][]topology.Raw
	seen    func(Out)
}

const driverBatch, driverEpoch = 1000, 10_000

func newDriver(t testing.TB, build func(b *stream.Builder), stores []store.Spec, keys int) *driver {
	d := &driver{value: make([]byte, 100), pick: 1}
	d.task = openPath(t, build, stores, func(b Batch) { d.free = append(d.free, b.Records[:0]) })
	d.names = newFeeder(nil, keys, 0).names
	return d
}

// epoch processes one epoch and commits it.
func (d *driver) epoch(t testing.TB) {
	for range driverEpoch / driverBatch {
		var list []topology.Raw
		if n := len(d.free); n > 0 {
			list, d.free = d.free[n-1], d.free[:n-1]
		}
		list = slices.Grow(list, driverBatch)
		for range driverBatch {
			d.pick = d.pick*6364136223846793005 + 1442695040888963407
			list = append(list, topology.Raw{Offset: d.next, Time: d.next, Key: d.names[(d.pick>>33)%uint64(len(d.names))], Value: d.value})
			d.next++
		}
		d.task.Enqueue(Batch{Records: list, Next: d.next, Bytes: driverBatch * 300})
		if r, err := d.task.Step(driverBatch, nil); err != nil || r.Records != driverBatch {
			t.Fatal(r, err)
		}
		outs := d.task.Outputs()
		d.outputs += len(outs)
		if d.seen != nil {
			for i := range outs {
				d.seen(outs[i])
			}
		}
	}
	e := d.task.Seal()
	if err := d.task.Committed(e, nil); err != nil {
		t.Fatal(err)
	}
}

// What a record costs from the fetch to the producer is what the values of its types take, and not one allocation more.
func TestRecordPathAllocates(t *testing.T) {
	for _, p := range recordPaths {
		t.Run(p.name, func(t *testing.T) {
			d := newDriver(t, p.build, p.stores, 1000)
			for range 3 { // keys, lists and slabs are there
				d.epoch(t)
			}
			d.outputs = 0
			const epochs = 10
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range epochs {
				d.epoch(t)
			}
			runtime.ReadMemStats(&after)
			const records = epochs * driverEpoch
			if d.outputs < records/p.keep*9/10 || d.outputs > records/p.keep*11/10 {
				t.Fatalf("%d outputs of %d records", d.outputs, records)
			}
			if n := float64(after.Mallocs-before.Mallocs) / records; n > 0.2 {
				t.Errorf("%.3f allocations per record, want at most 0.2", n)
			}
			if n := float64(after.TotalAlloc-before.TotalAlloc) / records; n > float64(p.bytes) {
				t.Errorf("%.0f bytes allocated per record, want at most %d", n, p.bytes)
			}
		})
	}
}

// BenchmarkRecord is the path of a record through the kernel and the language: warm keys, a committed epoch per 10,000.
func BenchmarkRecord(b *testing.B) {
	for _, p := range recordPaths {
		for _, keys := range []int{1000, 100_000} {
			if keys > 1000 && len(p.stores) == 0 {
				continue
			}
			name := p.name
			if keys > 1000 {
				name += "/100k keys"
			}
			b.Run(name, func(b *testing.B) {
				d := newDriver(b, p.build, p.stores, keys)
				for range keys/driverEpoch + 3 {
					d.epoch(b)
				}
				b.ReportAllocs()
				b.ResetTimer()
				n := 0
				for ; n < b.N; n += driverEpoch {
					d.epoch(b)
				}
				b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
