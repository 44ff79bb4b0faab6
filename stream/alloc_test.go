package stream_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// sinkhole is a task that lets outputs go.
type sinkhole struct {
	context.Context
	db *store.DB
}

func (h *sinkhole) Rows(name string) (*store.Rows, error)                     { return h.db.Rows(name) }
func (h *sinkhole) TaskID() processor.TaskID                                  { return processor.TaskID{} }
func (h *sinkhole) StreamTime() time.Time                                     { return time.Time{} }
func (h *sinkhole) Now() time.Time                                            { return time.Time{} }
func (h *sinkhole) Origin() processor.Origin                                  { return processor.Origin{} }
func (h *sinkhole) SetNode(int)                                               {}
func (h *sinkhole) Dropped(int, string)                                       {}
func (h *sinkhole) Emit(int, []byte, []byte, int64, []processor.Header) error { return nil }

// wired makes one task of a topology over a store in memory.
func wired(t testing.TB, b *stream.Builder) (*topology.Graph, *sinkhole) {
	t.Helper()
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	sub := top.Subtopologies()[0]
	var bindings []store.Binding
	for i, s := range sub.Stores {
		bindings = append(bindings, store.Binding{Spec: s, Prefix: uint16(i + 1)})
	}
	h := &sinkhole{Context: context.Background()}
	if h.db, err = store.Open(store.NewMemory(), bindings, store.Options{}); err != nil {
		t.Fatal(err)
	}
	g, err := sub.Wire(h)
	if err != nil {
		t.Fatal(err)
	}
	return g, h
}

var (
	ints    = stream.NewTopic("ints", serde.Int64(), serde.Int64())
	intsOut = stream.NewTopic("ints-out", serde.Int64(), serde.Int64())
)

func positive(_, n int64) bool { return n > 0 }
func next(n int64) int64       { return n + 1 }
func swap(k, n int64) (int64, int64) {
	return n, k
}

// chains are topologies whose codecs allocate nothing, so that nothing may be allocated per record.
var chains = map[string]func(b *stream.Builder){
	"stateless": func(b *stream.Builder) {
		stream.MapValues(stream.From(b, ints).Filter(positive), next).To(intsOut)
	},
	"every stateless verb": func(b *stream.Builder) {
		s := stream.From(b, ints).Filter(positive).FilterNot(func(_, n int64) bool { return n < 0 }).Peek(func(_, _ int64) {})
		s = stream.MapValues(stream.Map(s.Merge(s), swap), next)
		pair := make([]stream.Pair[int64, int64], 1)
		one := make([]int64, 1)
		s = stream.FlatMap(stream.SelectKey(s, func(_, n int64) int64 { return n }), func(k, n int64) []stream.Pair[int64, int64] {
			pair[0] = stream.Pair[int64, int64]{Key: k, Value: n}
			return pair
		})
		s = stream.FlatMapValues(s, func(n int64) []int64 { one[0] = n; return one })
		s.To(intsOut)
	},
	"processor": func(b *stream.Builder) {
		stream.ProcessValues(stream.From(b, ints), func() processor.Processor[int64, int64, int64, int64] {
			return processor.Func[int64, int64, int64, int64](func(ctx processor.Context[int64, int64], r processor.Record[int64, int64]) error {
				return ctx.Forward(r)
			})
		}).To(intsOut)
	},
	"count": func(b *stream.Builder) {
		stream.GroupByKey(stream.From(b, ints)).Count(store.KeyValue("counts", serde.Int64(), serde.Int64())).ToStream().To(intsOut)
	},
	"join": func(b *stream.Builder) {
		table := stream.TableFrom(b, stream.NewTopic("table", serde.Int64(), serde.Int64()), store.KeyValue("t", serde.Int64(), serde.Int64()))
		stream.LeftJoin(stream.From(b, ints), table, func(n, _ int64, _ bool) int64 { return n }).To(intsOut)
	},
	"first input": twoInputs, "second input": twoInputs, "beside a broadcast": broadcastAndStream, "broadcast": broadcastAndStream,
}

// both is a processor of two inputs, and of a stream and a broadcast topic.
type both struct{}

func (both) Process1(ctx processor.Context[int64, int64], r processor.Record[int64, int64]) error {
	return ctx.Forward(r)
}

func (both) Process2(ctx processor.Context[int64, int64], r processor.Record[int64, int64]) error {
	return ctx.Forward(r)
}

func (both) Process(ctx processor.Context[int64, int64], r processor.Record[int64, int64]) error {
	return ctx.Forward(r)
}

func (both) ProcessBroadcast(ctx processor.BroadcastContext[int64, int64], r processor.Record[int64, int64]) error {
	return ctx.Forward(r)
}

func twoInputs(b *stream.Builder) {
	stream.Process2(stream.From(b, ints), stream.From(b, stream.NewTopic("others", serde.Int64(), serde.Int64())),
		func() processor.Processor2[int64, int64, int64, int64, int64] { return both{} }).To(intsOut)
}

func broadcastAndStream(b *stream.Builder) {
	stream.ProcessBroadcast(stream.From(b, ints), stream.NewTopic("rules", serde.Int64(), serde.Int64()),
		func() processor.BroadcastProcessor[int64, int64, int64, int64, int64, int64] { return both{} },
		store.Broadcast("rules", serde.Int64(), serde.Int64())).To(intsOut)
}

// source is the number of the source of ints.
func source(name string) int {
	switch name {
	case "join", "second input", "broadcast":
		return 1
	}
	return 0
}

func intRecord() *topology.Raw {
	return &topology.Raw{Key: binary.BigEndian.AppendUint64(nil, 7), Value: binary.BigEndian.AppendUint64(nil, 9)}
}

func TestNoAllocationPerRecord(t *testing.T) {
	for name, f := range chains {
		t.Run(name, func(t *testing.T) {
			b := stream.NewBuilder()
			f(b)
			g, h := wired(t, b)
			r := intRecord()
			if n := testing.AllocsPerRun(1000, func() {
				h.db.Savepoint()
				if err := g.Process(source(name), r, 1); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%v allocations per record", n)
			}
		})
	}
}

func BenchmarkVerbs(b *testing.B) {
	for name, f := range chains {
		b.Run(name, func(b *testing.B) {
			builder := stream.NewBuilder()
			f(builder)
			g, h := wired(b, builder)
			r := intRecord()
			b.ReportAllocs()
			for b.Loop() {
				h.db.Savepoint()
				if err := g.Process(source(name), r, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
