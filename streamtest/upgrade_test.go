package streamtest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/topology"
)

type (
	spentV1 struct{ Cents int64 }
	spentV2 struct {
		Cents    int64
		Currency string
	}
)

func euros(s spentV1) (spentV2, error) { return spentV2{s.Cents, "EUR"}, nil }

var (
	bills    = stream.NewTopic("bills", serde.String(), serde.Int64())
	balances = stream.NewTopic("balances", serde.String(), serde.String())

	spent1 = store.KeyValue("spent", serde.String(), serde.JSON[spentV1]())
	spent2 = store.KeyValue("spent", serde.String(), serde.Evolve(2, serde.JSON[spentV2](), serde.From(1, serde.JSON[spentV1](), euros)))
	spent3 = store.KeyValue("spent", serde.String(), serde.JSON[spentV2]()) // forgets how it was
)

// adder adds what is spent to a store of T.
func adder[T any](t testing.TB, spec store.KeyValueSpec[string, T], add func(T, int64) T) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	out := stream.Process(stream.From(b, bills), func() processor.Processor[string, int64, string, string] {
		return &adding[T]{spec: spec, add: add}
	}, spec)
	out.To(balances)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

type adding[T any] struct {
	spec store.KeyValueSpec[string, T]
	add  func(T, int64) T
	kv   *store.KV[string, T]
}

func (a *adding[T]) Init(ctx processor.InitContext) (err error) {
	a.kv, err = a.spec.In(ctx)
	return err
}

func (a *adding[T]) Process(ctx processor.Context[string, string], r processor.Record[string, int64]) error {
	was, _, err := a.kv.Get(r.Key)
	if err != nil {
		return err
	}
	now := a.add(was, r.Value)
	if err := a.kv.Put(r.Key, now); err != nil {
		return err
	}
	return ctx.Forward(processor.Record[string, string]{Key: r.Key, Value: fmt.Sprint(now), Time: r.Time})
}

func addV1(s spentV1, cents int64) spentV1 { return spentV1{s.Cents + cents} }
func addV2(s spentV2, cents int64) spentV2 { s.Cents += cents; return s }

// The type of a store's values changes between two starts: what was counted stays, on both engines, after a crash and with a new
// disk; a version that has forgotten how values were is refused at the start, and the old one too.
func TestUpgrade(t *testing.T) {
	for name, opts := range map[string][]streamtest.Option{"memory": nil, "pebble": {streamtest.Pebble()}} {
		for what, between := range map[string]func(d *streamtest.Driver){
			"nothing": func(*streamtest.Driver) {}, "crash": (*streamtest.Driver).Crash, "disk lost": (*streamtest.Driver).CrashLosingDisk,
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				v1, v2, v3 := adder(t, spent1, addV1), adder(t, spent2, addV2), adder(t, spent3, addV2)
				d := streamtest.New(t, v1, append(opts, streamtest.AllowFailure())...)
				in, out := streamtest.In(d, bills), streamtest.Out(d, balances)
				in.Send("a", 5)
				in.Send("b", 7)
				in.Send("a", 1)
				d.Upgrade(v2)
				between(d)
				in.Send("a", 10)
				between(d)
				if v, ok := streamtest.Store(d, spent2).Get("b"); !ok || v != (spentV2{7, "EUR"}) {
					t.Errorf("b is %v, %v: a row that nobody wrote since", v, ok)
				}
				in.Send("b", 1)
				between(d)
				in.Send("a", 100)
				out.Want(out.Record("a", "{5}"), out.Record("b", "{7}"), out.Record("a", "{6}"),
					out.Record("a", "{16 EUR}"), out.Record("b", "{8 EUR}"), out.Record("a", "{116 EUR}"))

				for _, c := range []struct {
					top  *topology.Topology
					code string
					says string
				}{{v1, "registry/value-version", "version 2 (json:spentV2)"}, {v3, "registry/serde", "version 1 (json:spentV1)"}} {
					d.Upgrade(c.top)
					if err := d.Err(); fault.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
						t.Errorf("%v, want %s", err, c.code)
					}
				}
				d.Upgrade(v2)
				in.Send("a", 1)
				out.Want(out.Record("a", "{117 EUR}"))
			})
		}
	}
}

func ExampleDriver_Upgrade() {
	top := func(spec store.Spec, newP func() processor.Processor[string, int64, string, string]) *topology.Topology {
		b := stream.NewBuilder()
		stream.Process(stream.From(b, bills), newP, spec).To(balances)
		top, err := b.Build()
		if err != nil {
			panic(err)
		}
		return top
	}
	d := streamtest.New(nil, top(spent1, func() processor.Processor[string, int64, string, string] {
		return &adding[spentV1]{spec: spent1, add: addV1}
	}))
	defer d.Close()
	in, out := streamtest.In(d, bills), streamtest.Out(d, balances)
	in.Send("a", 5)
	d.Upgrade(top(spent2, func() processor.Processor[string, int64, string, string] {
		return &adding[spentV2]{spec: spent2, add: addV2}
	}))
	in.Send("a", 1)
	for _, r := range out.All() {
		fmt.Println(r.Value)
	}
	// Output:
	// {5}
	// {6 EUR}
}
