package stream_test

import (
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
)

// A result that stands for null is a tombstone for whoever comes after, not only for the sink.
func TestResultsThatStandForNull(t *testing.T) {
	optional := serde.Optional(serde.Int64())
	in := stream.NewTopic("in", serde.String(), serde.Int64())
	out := stream.NewTopic("out", serde.String(), serde.String())
	sums := store.KeyValue("sums", serde.String(), optional)
	kept := store.KeyValue("kept", serde.String(), optional)

	b := stream.NewBuilder()
	// A running sum that is nothing again when it comes back to zero.
	sum := stream.Aggregate(stream.GroupByKey(stream.From(b, in)), func() *int64 { return nil }, func(a *int64, v int64) *int64 {
		if a != nil {
			v += *a
		}
		if v == 0 {
			return nil
		}
		return &v
	}, sums)
	stream.ProcessValues(sum.ToStream().ToTable(kept).ToStream(), func() processor.Processor[string, *int64, string, string] {
		return processor.Func[string, *int64, string, string](func(ctx processor.Context[string, string], r processor.Record[string, *int64]) error {
			word := "a value"
			if r.NullValue {
				word = "a tombstone"
			}
			return ctx.Forward(processor.With(r, r.Key, word))
		})
	}).To(out)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}

	d := streamtest.New(t, top)
	source, sink := streamtest.In(d, in), streamtest.Out(d, out)
	source.Send("k", 5)
	sink.Want(sink.Record("k", "a value"))
	source.Send("k", -5)
	sink.Want(sink.Record("k", "a tombstone"))
	for _, s := range []store.KeyValueSpec[string, *int64]{sums, kept} {
		if _, ok := streamtest.Store(d, s).Get("k"); ok {
			t.Errorf("store %s still has the row", s.Name())
		}
	}
}
