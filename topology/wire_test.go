package topology_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// host is a task that keeps what the graph does to it.
type host struct {
	context.Context
	node    int
	out     []string
	drops   []string
	refuse  error // what Emit answers
	discard bool  // outputs are only counted
	emitted int
	rows    func(string) (*store.Rows, error)
}

func newHost() *host { return &host{Context: context.Background()} }

func (h *host) Rows(name string) (*store.Rows, error) {
	if h.rows == nil {
		return nil, fmt.Errorf("no store %q", name)
	}
	return h.rows(name)
}
func (h *host) TaskID() processor.TaskID { return processor.TaskID{Subtopology: "test", Partition: 1} }
func (h *host) StreamTime() time.Time    { return time.UnixMilli(77) }
func (h *host) Now() time.Time           { return time.UnixMilli(99) }
func (h *host) Origin() processor.Origin {
	return processor.Origin{Topic: "in", Partition: 1, Offset: 5}
}
func (h *host) SetNode(n int) { h.node = n }
func (h *host) Dropped(node int, why string) {
	h.drops = append(h.drops, fmt.Sprintf("%d %s", node, why))
}
func (h *host) Emit(sink int, key, value []byte, at int64, headers []processor.Header) error {
	h.emitted++
	if h.refuse != nil {
		return h.refuse
	}
	if h.discard {
		return nil
	}
	show := func(b []byte) string {
		if b == nil {
			return "null"
		}
		return fmt.Sprintf("%q", b)
	}
	line := fmt.Sprintf("%d %s=%s@%d", sink, show(key), show(value), at)
	for _, x := range headers {
		line += fmt.Sprintf(" %s:%s", x.Key, x.Value)
	}
	h.out = append(h.out, line)
	return nil
}

func int64Bytes(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// wire makes one task of the only subtopology.
func wire(t testing.TB, b *topology.Builder, h *host) *topology.Graph {
	t.Helper()
	subs := build(t, b).Subtopologies()
	if len(subs) != 1 {
		t.Fatalf("%d subtopologies", len(subs))
	}
	g, err := subs[0].Wire(h)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func build(t testing.TB, b *topology.Builder) *topology.Topology {
	t.Helper()
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

var (
	numbers = topology.NewTopic("numbers", serde.String(), serde.Int64())
	results = topology.NewTopic("results", serde.String(), serde.Int64())
)

type (
	numberContext = processor.Context[string, int64]
	number        = processor.Record[string, int64]
	numberFunc    = processor.Func[string, int64, string, int64]
)

// apply is a supplier of a processor without state.
func apply(f numberFunc) func() processor.Processor[string, int64, string, int64] {
	return func() processor.Processor[string, int64, string, int64] { return f }
}

func forward(ctx numberContext, r number) error { return ctx.Forward(r) }

func raw(key string, n int64) *topology.Raw {
	return &topology.Raw{Key: []byte(key), Value: int64Bytes(n)}
}

func wantOut(t *testing.T, h *host, want ...string) {
	t.Helper()
	if !slices.Equal(h.out, want) {
		t.Errorf("outputs\n got %q\nwant %q", h.out, want)
	}
	h.out = nil
}

func emitted(sink int, key string, n, at int64) string {
	return fmt.Sprintf("%d %q=%q@%d", sink, key, int64Bytes(n), at)
}

func TestRecordRunsThroughTheGraph(t *testing.T) {
	b := topology.NewBuilder()
	src := topology.AddSource(b, "", numbers)
	double := topology.AddProcessor("double", apply(func(ctx numberContext, r number) error {
		r.Value *= 2
		return ctx.Forward(r)
	}), nil, src)
	topology.AddSink("", results, double)
	h := newHost()
	g := wire(t, b, h)
	r := raw("k", 21)
	r.Headers = []processor.Header{{Key: "a", Value: []byte("1")}}
	if err := g.Process(0, r, 5); err != nil {
		t.Fatal(err)
	}
	wantOut(t, h, emitted(0, "k", 42, 5)+" a:1")
}

// Every number of children has code of its own.
func TestFanOut(t *testing.T) {
	for n := range 5 {
		b := topology.NewBuilder()
		src := topology.AddSource(b, "", numbers)
		var want []string
		for i := range n {
			topology.AddSink(fmt.Sprintf("sink-%d", i), topology.NewTopic(fmt.Sprintf("t%d", i), serde.String(), serde.Int64()), src)
			want = append(want, emitted(i, "k", 1, 2))
		}
		h := newHost()
		g := wire(t, b, h)
		if err := g.Process(0, raw("k", 1), 2); err != nil {
			t.Fatal(err)
		}
		wantOut(t, h, want...)

		// The first child that fails ends it.
		h.emitted, h.refuse = 0, errors.New("full")
		err := g.Process(0, raw("k", 1), 2)
		if n > 0 && (err == nil || h.emitted != 1) {
			t.Errorf("%d children: error %v after %d outputs", n, err, h.emitted)
		}
	}
}

func TestNulls(t *testing.T) {
	opt := serde.Optional(serde.Int64())
	var seen []processor.Record[string, *int64]
	b := topology.NewBuilder()
	src := topology.AddSource(b, "", topology.NewTopic("in", serde.String(), opt))
	p := topology.AddProcessor("p", func() processor.Processor[string, *int64, string, *int64] {
		return processor.Func[string, *int64, string, *int64](func(ctx processor.Context[string, *int64], r processor.Record[string, *int64]) error {
			seen = append(seen, r)
			return ctx.Forward(r)
		})
	}, nil, src)
	erase := topology.AddProcessor("erase", func() processor.Processor[string, *int64, string, *int64] {
		return processor.Func[string, *int64, string, *int64](func(ctx processor.Context[string, *int64], r processor.Record[string, *int64]) error {
			return ctx.Forward(processor.With[string, *int64, string, *int64](r, r.Key, nil)) // not flagged, but stands for null
		})
	}, nil, src)
	topology.AddSink("", topology.NewTopic("out", serde.String(), opt), p)
	topology.AddSink("", topology.NewTopic("erased", serde.String(), opt), erase)
	h := newHost()
	g := wire(t, b, h)
	for _, r := range []*topology.Raw{
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: int64Bytes(3)},
	} {
		if err := g.Process(0, r, 9); err != nil {
			t.Fatal(err)
		}
	}
	wantOut(t, h, "0 null=null@9", "1 \"\"=null@9", fmt.Sprintf("0 \"\"=%q@9", int64Bytes(3)), "1 \"\"=null@9")
	if !seen[0].NullKey || !seen[0].NullValue || seen[0].Value != nil || seen[0].Key != "" {
		t.Errorf("null record is %+v", seen[0])
	}
	if seen[1].NullKey || seen[1].NullValue || seen[1].Value == nil || *seen[1].Value != 3 {
		t.Errorf("record with an empty key is %+v", seen[1])
	}
}

// stringOrMinus is a codec whose null value is not the zero value.
type stringOrMinus struct{ serde.Serde[string] }

func (stringOrMinus) IsNull(v string) bool { return v == "-" }
func (s stringOrMinus) Decode(b []byte) (string, error) {
	if b == nil {
		return "-", nil
	}
	return s.Serde.Decode(b)
}

func TestNullValueThatIsNotZero(t *testing.T) {
	codec := stringOrMinus{serde.String()}
	in := topology.NewTopic("in", serde.String(), serde.Serde[string](codec))
	b := topology.NewBuilder()
	var seen string
	p := topology.AddProcessor("p", func() processor.Processor[string, string, string, string] {
		return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
			seen = r.Value
			return ctx.Forward(processor.With(r, r.Key, r.Value))
		})
	}, nil, topology.AddSource(b, "", in))
	topology.AddSink("", topology.NewTopic("out", serde.String(), serde.Serde[string](codec)), p)
	h := newHost()
	g := wire(t, b, h)
	if err := g.Process(0, &topology.Raw{Key: []byte("k")}, 1); err != nil {
		t.Fatal(err)
	}
	if seen != "-" {
		t.Errorf("a null is read as %q", seen)
	}
	wantOut(t, h, `0 "k"=null@1`)
}

// nothing is a codec that returns nil for what it appends nothing to.
type nothing struct{}

func (nothing) Append([]byte, string) ([]byte, error) { return nil, nil }
func (nothing) Decode([]byte) (string, error)         { return "", nil }

func TestEmptyIsNotNull(t *testing.T) {
	b := topology.NewBuilder()
	in := topology.NewTopic("in", serde.Serde[string](nothing{}), serde.Serde[string](nothing{}))
	topology.AddSink("", topology.NewTopic("out", in.Key(), in.Value()), topology.AddSource(b, "", in))
	h := newHost()
	g := wire(t, b, h)
	if err := g.Process(0, &topology.Raw{Key: []byte("k"), Value: []byte{}}, 1); err != nil {
		t.Fatal(err)
	}
	wantOut(t, h, `0 ""=""@1`)
}

func TestForwardedTimes(t *testing.T) {
	b := topology.NewBuilder()
	var at time.Time
	p := topology.AddProcessor("p", apply(func(ctx numberContext, r number) error {
		r.Time = at
		return ctx.Forward(r)
	}), nil, topology.AddSource(b, "", numbers))
	topology.AddSink("", results, p)
	h := newHost()
	g := wire(t, b, h)

	at = time.Time{} // the time of the record being processed
	if err := g.Process(0, raw("k", 1), 5); err != nil {
		t.Fatal(err)
	}
	wantOut(t, h, emitted(0, "k", 1, 5))
	at = time.UnixMilli(8).Add(999 * time.Microsecond)
	if err := g.Process(0, raw("k", 1), 5); err != nil {
		t.Fatal(err)
	}
	wantOut(t, h, emitted(0, "k", 1, 8))
	at = time.UnixMilli(-1)
	wantNodeError(t, g.Process(0, raw("k", 1), 5), "p", "timestamp", "before 1970")
	wantOut(t, h)
	wantNodeError(t, g.Process(0, raw("k", 1), -1), "numbers", "timestamp", "before 1970")
}

func wantNodeError(t *testing.T, err error, node, op, text string) {
	t.Helper()
	e, ok := err.(*topology.NodeError)
	if !ok {
		t.Errorf("error is %T %v, want a *NodeError", err, err)
		return
	}
	if e.Name != node || e.Op != op || !strings.Contains(e.Error(), text) {
		t.Errorf("error is of node %s, %s: %v; want node %s, %s: ...%s...", e.Name, e.Op, err, node, op, text)
	}
}

var errCodec = errors.New("codec says no")

// fussy is a codec that refuses the value it is told to.
type fussy struct {
	serde.Serde[int64]
	append, decode bool
}

func (f fussy) Append(dst []byte, v int64) ([]byte, error) {
	if f.append {
		return nil, errCodec
	}
	return f.Serde.Append(dst, v)
}

func (f fussy) Decode(b []byte) (int64, error) {
	if f.decode {
		return 0, errCodec
	}
	return f.Serde.Decode(b)
}

func TestErrorsNameTheirNode(t *testing.T) {
	bad := errors.New("bad")
	ok := serde.Int64()
	for _, c := range []struct {
		name           string
		inKey, inValue serde.Serde[int64]
		outKey, outVal serde.Serde[int64]
		process        error
		emit           error
		node, op       string
		cause          error
	}{
		{name: "decode key", inKey: fussy{ok, false, true}, node: "in", op: "decode key", cause: errCodec},
		{name: "decode value", inValue: fussy{ok, false, true}, node: "in", op: "decode value", cause: errCodec},
		{name: "process", process: bad, node: "p", op: "process", cause: bad},
		{name: "encode key", outKey: fussy{ok, true, false}, node: "to-out", op: "encode key", cause: errCodec},
		{name: "encode value", outVal: fussy{ok, true, false}, node: "to-out", op: "encode value", cause: errCodec},
		{name: "emit", emit: bad, node: "to-out", op: "emit", cause: bad},
	} {
		t.Run(c.name, func(t *testing.T) {
			or := func(s serde.Serde[int64]) serde.Serde[int64] {
				if s == nil {
					return ok
				}
				return s
			}
			b := topology.NewBuilder()
			p := topology.AddProcessor("p", func() processor.Processor[int64, int64, int64, int64] {
				return processor.Func[int64, int64, int64, int64](func(ctx processor.Context[int64, int64], r processor.Record[int64, int64]) error {
					if c.process != nil {
						return c.process
					}
					return ctx.Forward(r)
				})
			}, nil, topology.AddSource(b, "", topology.NewTopic("in", or(c.inKey), or(c.inValue))))
			topology.AddSink("", topology.NewTopic("out", or(c.outKey), or(c.outVal)), p)
			h := newHost()
			h.refuse = c.emit
			g := wire(t, b, h)
			err := g.Process(0, &topology.Raw{Key: int64Bytes(1), Value: int64Bytes(2)}, 3)
			wantNodeError(t, err, c.node, c.op, c.cause.Error())
			if !errors.Is(err, c.cause) {
				t.Errorf("errors.Is does not find the cause in %v", err)
			}
		})
	}
}

// An error that comes out of Forward belongs to the node that made it, whatever the processor does with it.
func TestErrorOfAChild(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		f    func(ctx numberContext, r number) error
	}{
		{"returned", forward},
		{"wrapped", func(ctx numberContext, r number) error { return fmt.Errorf("while forwarding: %w", ctx.Forward(r)) }},
		{"kept", func(ctx numberContext, r number) error { _ = ctx.Forward(r); return nil }},
		{"replaced", func(ctx numberContext, r number) error { _ = ctx.Forward(r); return errors.New("something else") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := topology.NewBuilder()
			up := topology.AddProcessor("up", apply(c.f), nil, topology.AddSource(b, "", numbers))
			fail := true
			topology.AddProcessor("down", apply(func(numberContext, number) error {
				if fail {
					return boom
				}
				return nil
			}), nil, up)
			g := wire(t, b, newHost())
			err := g.Process(0, raw("k", 1), 1)
			wantNodeError(t, err, "down", "process", "boom")
			if !errors.Is(err, boom) {
				t.Errorf("cause is lost in %v", err)
			}
			fail = false
			if err := g.Process(0, raw("k", 1), 1); err != nil && c.name != "wrapped" && c.name != "replaced" {
				t.Errorf("the next record fails too: %v", err)
			}
		})
	}
}

// The host knows which node runs user code, also after a child has returned.
func TestSetNode(t *testing.T) {
	h := newHost()
	var at []int
	b := topology.NewBuilder()
	up := topology.AddProcessor("up", apply(func(ctx numberContext, r number) error {
		at = append(at, h.node)
		err := ctx.Forward(r)
		at = append(at, h.node)
		return err
	}), nil, topology.AddSource(b, "", numbers))
	topology.AddProcessor("down", apply(func(numberContext, number) error { at = append(at, h.node); return nil }), nil, up)
	g := wire(t, b, h)
	if err := g.Process(0, raw("k", 1), 1); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(at, []int{1, 2, 1}) {
		t.Errorf("nodes were %v", at)
	}
}

// A header that one child appends is not seen by another.
func TestHeadersAreNotShared(t *testing.T) {
	b := topology.NewBuilder()
	src := topology.AddSource(b, "", numbers)
	for _, name := range []string{"a", "b"} {
		p := topology.AddProcessor(name, apply(func(ctx numberContext, r number) error {
			r.Headers = append(r.Headers, processor.Header{Key: name})
			return ctx.Forward(r)
		}), nil, src)
		keep := topology.AddProcessor("then-"+name, apply(forward), nil, p)
		topology.AddSink("", topology.NewTopic("out-"+name, serde.String(), serde.Int64()), keep)
	}
	h := newHost()
	g := wire(t, b, h)
	r := raw("k", 1)
	r.Headers = append(make([]processor.Header, 0, 4), processor.Header{Key: "h"})
	if err := g.Process(0, r, 1); err != nil {
		t.Fatal(err)
	}
	wantOut(t, h, emitted(0, "k", 1, 1)+" h: a:", emitted(1, "k", 1, 1)+" h: b:")
	if extra := r.Headers[:2]; extra[1].Key != "" {
		t.Errorf("the fetch's headers were written to: %v", extra)
	}
}

func TestValuesProcessorKeepsTheKey(t *testing.T) {
	b := topology.NewBuilder()
	p := topology.AddValuesProcessor("p", apply(func(ctx numberContext, r number) error {
		r.Key, r.NullKey = "another", !r.NullKey
		return ctx.Forward(r)
	}), nil, topology.AddSource(b, "", numbers))
	topology.AddSink("", results, p)
	h := newHost()
	g := wire(t, b, h)
	if err := errors.Join(g.Process(0, raw("k", 1), 1), g.Process(0, &topology.Raw{Value: int64Bytes(2)}, 1)); err != nil {
		t.Fatal(err)
	}
	wantOut(t, h, emitted(0, "k", 1, 1), fmt.Sprintf("0 null=%q@1", int64Bytes(2)))
}

func TestContextOutsideItsCall(t *testing.T) {
	var kept numberContext
	b := topology.NewBuilder()
	p := topology.AddProcessor("p", apply(func(ctx numberContext, r number) error { kept = ctx; return nil }), nil, topology.AddSource(b, "", numbers))
	topology.AddSink("", results, p)
	h := newHost()
	g := wire(t, b, h)
	if err := g.Process(0, raw("k", 1), 1); err != nil {
		t.Fatal(err)
	}
	wantNodeError(t, kept.Forward(number{Key: "k"}), "p", "process", "outside the call")
	wantOut(t, h)
}

func TestTimestamps(t *testing.T) {
	in := numbers.TimestampBy(func(_ string, n int64, at time.Time) time.Time {
		if n == 0 {
			return at
		}
		return time.UnixMilli(n)
	})
	b := topology.NewBuilder()
	topology.AddSink("", results, topology.AddSource(b, "", in))
	top := build(t, b)
	if !top.Subtopologies()[0].Sources[0].Extractor {
		t.Error("the source does not say that it has an extractor")
	}
	g, err := top.Subtopologies()[0].Wire(newHost())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ n, kafka, want int64 }{{123, 7, 123}, {0, 7, 7}} {
		r := raw("k", c.n)
		r.Time = c.kafka
		if at, err := g.Timestamp(0, r); at != c.want || err != nil {
			t.Errorf("timestamp of %d is %d, %v; want %d", c.n, at, err, c.want)
		}
	}
	_, err = g.Timestamp(0, raw("k", -5))
	wantNodeError(t, err, "numbers", "timestamp", "before 1970")
	_, err = g.Timestamp(0, &topology.Raw{Key: []byte("k"), Value: []byte("short")})
	wantNodeError(t, err, "numbers", "decode value", "")
}

// opener is a processor with a life: it writes into a log.
type opener struct {
	name string
	log  *[]string
	init error
}

func (o *opener) Init(ctx processor.InitContext) error {
	*o.log = append(*o.log, "init "+o.name+" of "+ctx.TaskID().String())
	return o.init
}
func (o *opener) Process(ctx numberContext, r number) error { return ctx.Forward(r) }
func (o *opener) Close() error {
	*o.log = append(*o.log, "close "+o.name)
	return errors.New(o.name + " is stuck")
}

func TestInitAndClose(t *testing.T) {
	var log []string
	var initError error
	graph := func(h *host) (*topology.Graph, error) {
		b := topology.NewBuilder()
		n := topology.AddSource(b, "", numbers)
		for _, name := range []string{"a", "b", "c"} {
			n = topology.AddProcessor(name, func() processor.Processor[string, int64, string, int64] {
				o := &opener{name: name, log: &log}
				if name == "b" {
					o.init = initError
				}
				return o
			}, nil, n)
		}
		return build(t, b).Subtopologies()[0].Wire(h)
	}
	g, err := graph(newHost())
	if err != nil {
		t.Fatal(err)
	}
	err = g.Close()
	for _, name := range []string{"a", "b", "c"} {
		if err == nil || !strings.Contains(err.Error(), "node "+name+": close: "+name+" is stuck") {
			t.Errorf("Close does not report %s: %v", name, err)
		}
	}
	if err := g.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	want := []string{"init a of test/1", "init b of test/1", "init c of test/1", "close a", "close b", "close c"}
	if !slices.Equal(log, want) {
		t.Errorf("log is %q", log)
	}

	// What was opened before a failing Init is closed; what was not, is not.
	log, initError = nil, errors.New("no luck")
	_, err = graph(newHost())
	var ne *topology.NodeError
	if !errors.As(err, &ne) || ne.Name != "b" || ne.Op != "init" || !errors.Is(err, initError) {
		t.Errorf("error is %v", err)
	}
	if want := []string{"init a of test/1", "init b of test/1", "close a", "close b"}; !slices.Equal(log, want) {
		t.Errorf("log is %q", log)
	}
}

// The graph goes on after a panic in user code.
func TestPanicLeavesTheGraphUsable(t *testing.T) {
	b := topology.NewBuilder()
	p := topology.AddProcessor("p", apply(func(ctx numberContext, r number) error {
		if r.Value == 0 {
			panic("zero")
		}
		return ctx.Forward(r)
	}), nil, topology.AddSource(b, "", numbers))
	topology.AddSink("", results, p)
	h := newHost()
	g := wire(t, b, h)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
			if h.node != 1 {
				t.Errorf("host was told of node %d", h.node)
			}
		}()
		_ = g.Process(0, raw("k", 0), 1)
	}()
	if err := g.Process(0, raw("k", 1), 1); err != nil {
		t.Fatal(err)
	}
	wantOut(t, h, emitted(0, "k", 1, 1))
}

// chain is source -> two processors -> sink over codecs that do not allocate.
func chain(t testing.TB) (*topology.Graph, *topology.Raw) {
	in := topology.NewTopic("in", serde.Int64(), serde.Int64())
	pass := func() processor.Processor[int64, int64, int64, int64] {
		return processor.Func[int64, int64, int64, int64](func(ctx processor.Context[int64, int64], r processor.Record[int64, int64]) error {
			r.Value++
			return ctx.Forward(r)
		})
	}
	b := topology.NewBuilder()
	n := topology.AddProcessor("a", pass, nil, topology.AddSource(b, "", in))
	n = topology.AddProcessor("b", pass, nil, n)
	topology.AddSink("", topology.NewTopic("out", serde.Int64(), serde.Int64()), n)
	h := newHost()
	h.discard = true
	return wire(t, b, h), &topology.Raw{Key: int64Bytes(1), Value: int64Bytes(2)}
}

func TestNoAllocationPerRecord(t *testing.T) {
	g, r := chain(t)
	if n := testing.AllocsPerRun(1000, func() {
		if err := g.Process(0, r, 1); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func BenchmarkProcess(b *testing.B) {
	g, r := chain(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Process(0, r, 1); err != nil {
			b.Fatal(err)
		}
	}
}
