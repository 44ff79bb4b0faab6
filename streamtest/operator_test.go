package streamtest_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/timers"
)

// The stage of the cases of partition state, global state and ends of epochs.
var (
	notes    = stream.NewTopic("notes", serde.String(), serde.String())
	echoes   = stream.NewTopic("echoes", serde.String(), serde.String())
	elements = store.PartitionList("elements", serde.String())
	latest   = store.Partition("latest", serde.String())
	common   = store.Global("common", serde.String())
	sums     = store.Partition("sums", serde.Int64())
)

// scribe does what it is told: "add v" to the list, "put v..." in its place, "set v", "clear"; "share name=v", "unshare name"; "tell"
// says all there is.
type scribe struct {
	elements *store.PartitionListState[string]
	latest   *store.PartitionState[string]
	common   *store.GlobalState[string]
}

func (s *scribe) Init(ctx processor.InitContext) (err error) {
	if s.elements, err = elements.In(ctx); err != nil {
		return err
	}
	if s.common, err = common.In(ctx); err != nil {
		return err
	}
	s.latest, err = latest.In(ctx)
	return err
}

func (s *scribe) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	f := strings.Fields(r.Value)
	switch f[0] {
	case "add":
		return s.elements.Append(f[1:]...)
	case "put":
		return s.elements.Put(f[1:]...)
	case "set":
		return s.latest.Put(f[1])
	case "clear":
		return errors.Join(s.elements.Clear(), s.latest.Clear())
	case "share":
		name, v, _ := strings.Cut(f[1], "=")
		return s.common.Put(name, v)
	case "unshare":
		return s.common.Delete(f[1])
	case "fail":
		if err := errors.Join(s.elements.Append("half"), s.latest.Put("half"), s.common.Put("half", "half")); err != nil {
			return err
		}
		return errors.New("told to fail")
	}
	list, err := s.elements.All()
	if err != nil {
		return err
	}
	v, ok, err := s.latest.Get()
	if err != nil {
		return err
	}
	said := fmt.Sprintf("%v %q %v", list, v, ok)
	if err := s.common.Each(func(e store.GlobalEntry, v string) error {
		said += fmt.Sprintf(" %d.%s=%s", e.Owner, e.Name, v)
		return nil
	}); err != nil {
		return err
	}
	return ctx.Forward(processor.With(r, r.Key, said))
}

func scribes() (*stream.Topology, error) {
	b := stream.NewBuilder()
	stream.Process(stream.From(b, notes), func() processor.Processor[string, string, string, string] { return &scribe{} }, elements, latest, common).
		OnError(processor.Skip()).To(echoes)
	return b.Build()
}

func TestState(t *testing.T) {
	stage := func(t *testing.T, opts []streamtest.Option) (*streamtest.Driver, func(p int, note string), func() []string) {
		t.Helper()
		top, err := scribes()
		if err != nil {
			t.Fatal(err)
		}
		d := streamtest.New(t, top, append(opts, streamtest.Partitions(2))...)
		out := streamtest.Out(d, echoes)
		in := streamtest.In(d, notes)
		say := func(p int, note string) { in.On(p).Send(fmt.Sprint(p), note) }
		return d, say, func() []string {
			say(0, "tell")
			say(1, "tell")
			var said []string
			for _, r := range out.All() {
				said = append(said, r.Key+": "+r.Value)
			}
			slices.Sort(said)
			return said
		}
	}
	want := func(t *testing.T, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}

	t.Run("RS-2", func(t *testing.T) {
		modes(t, func(t *testing.T, opts []streamtest.Option, step func(*streamtest.Driver)) {
			d, say, tell := stage(t, opts)
			say(0, "add e1")
			step(d)
			say(1, "add e2")
			step(d)
			want(t, tell(), `0: [e1] "" false`, `1: [e2] "" false`)
			say(0, "set s1")
			say(0, "fail")
			say(1, "add e3 e4")
			step(d)
			want(t, tell(), `0: [e1] "s1" true`, `1: [e2 e3 e4] "" false`)
			say(1, "put e5")
			say(0, "clear")
			step(d)
			want(t, tell(), `0: [] "" false`, `1: [e5] "" false`)
			say(0, "add e6")
			step(d)
			want(t, tell(), `0: [e6] "" false`, `1: [e5] "" false`)
		})
	})

	t.Run("global", func(t *testing.T) {
		modes(t, func(t *testing.T, opts []streamtest.Option, step func(*streamtest.Driver)) {
			d, say, tell := stage(t, opts)
			say(0, "share a=1")
			step(d)
			want(t, tell(), `0: [] "" false 0.a=1`, `1: [] "" false 0.a=1`)
			say(1, "share a=2")
			say(1, "fail")
			step(d)
			say(1, "share b=3")
			say(1, "share b=4")
			step(d)
			want(t, tell(), `0: [] "" false 0.a=1 1.a=2 1.b=4`, `1: [] "" false 0.a=1 1.a=2 1.b=4`)
			say(1, "unshare a")
			say(0, "unshare b") // not its own
			say(0, "share a=5")
			step(d)
			want(t, tell(), `0: [] "" false 0.a=5 1.b=4`, `1: [] "" false 0.a=5 1.b=4`)
		})
	})

	t.Run("global is seen when it is committed", func(t *testing.T) {
		d, say, tell := stage(t, []streamtest.Option{streamtest.ManualCommit()})
		say(0, "share a=1")
		d.Abort()
		d.Commit()
		say(0, "share a=2")
		tell()
		d.Crash() // before the commit: it comes again
		d.Settle()
		want(t, tell()[:0])
		d.Settle()
	})

	t.Run("global is full", func(t *testing.T) {
		d, say, _ := stage(t, nil)
		for i := range store.GlobalEntriesMax {
			say(0, fmt.Sprintf("share n%d=x", i))
		}
		say(0, "share n7=y")
		if f := d.Failures(); len(f) > 0 {
			t.Fatalf("failures: %v", f)
		}
		say(0, "share more=x")
		if f := d.Failures(); len(f) != 1 || fault.Code(errors.Unwrap(errors.Unwrap(f[0].Err))) != "store/global-full" && !strings.Contains(f[0].Err.Error(), "1000 entries") {
			t.Fatalf("failures: %v", f)
		}
		say(0, "unshare n7")
		say(0, "share more=x")
		say(1, "share more=x")
		if f := d.Failures(); len(f) != 1 {
			t.Fatalf("failures: %v", f)
		}
	})
}

// summer gathers in memory and writes down at the end of each epoch.
type summer struct {
	gathered int64
	sums     *store.PartitionState[int64]
	restored bool
}

func (s *summer) Init(ctx processor.InitContext) (err error) {
	s.restored = ctx.Restored()
	s.sums, err = sums.In(ctx)
	return err
}

func (s *summer) Process(_ processor.Context[string, string], r processor.Record[string, int64]) error {
	s.gathered += r.Value
	return nil
}

func (s *summer) OnEpoch(ctx processor.Context[string, string]) error {
	sum, _, err := s.sums.Get()
	if err != nil {
		return err
	}
	sum += s.gathered
	s.gathered = 0
	if sum == 13 {
		return errors.New("thirteen")
	}
	if sum < 0 {
		panic("a loss")
	}
	return errors.Join(s.sums.Put(sum), ctx.Forward(processor.Record[string, string]{Key: "sum", Value: fmt.Sprintf("%d %v", sum, s.restored)}))
}

func (s *summer) Forget() { s.gathered = 0 }

func TestEpochHandler(t *testing.T) {
	build := func(t *testing.T) *stream.Topology {
		b := stream.NewBuilder()
		stream.Process(stream.From(b, payments), func() processor.Processor[string, int64, string, string] { return &summer{} }, sums).To(echoes)
		top, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		return top
	}
	t.Run("once", func(t *testing.T) {
		d := streamtest.New(t, build(t), streamtest.ManualCommit())
		in, out := streamtest.In(d, payments), streamtest.Out(d, echoes)
		in.Send("a", 1)
		in.Send("a", 2)
		d.Abort()
		d.Commit()
		d.Commit() // nothing has happened
		in.Send("a", 11)
		d.Crash()
		d.Commit()
		in.Send("a", 20)
		d.Commit()
		out.Want(out.RecordAt(d.Now(), "sum", "3 false"), out.RecordAt(d.Now(), "sum", "14 true"), out.RecordAt(d.Now(), "sum", "34 true"))
	})
	for order, code := range map[int64]string{13: "thirteen", -1: "a loss"} {
		t.Run(code, func(t *testing.T) {
			d := streamtest.New(t, build(t), streamtest.ManualCommit(), streamtest.AllowFailure())
			in := streamtest.In(d, payments)
			in.Send("a", order)
			d.Commit()
			if err := d.Err(); fault.Code(err) != "processor/epoch-failed" || !strings.Contains(err.Error(), code) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// Two inputs: what both streams say of a key meets in one task.
var (
	lefts  = stream.NewTopic("lefts", serde.String(), serde.Int64())
	rights = stream.NewTopic("rights", serde.String(), serde.String())
	held   = store.KeyValue("held", serde.String(), serde.Int64())
	due    = timers.New("due", serde.String(), timers.EventTime)
)

type pairing struct {
	held *store.KV[string, int64]
	due  *timers.Set[string]
}

func (p *pairing) Init(ctx processor.InitContext) (err error) {
	if p.held, err = held.In(ctx); err != nil {
		return err
	}
	p.due, err = due.In(ctx)
	return err
}

func (p *pairing) Prefetch(w *store.Wanted, key string) { p.held.Want(w, key) }

func (p *pairing) Process1(ctx processor.Context[string, string], r processor.Record[string, int64]) error {
	if r.Value < 0 {
		return errors.New("negative")
	}
	return errors.Join(p.held.Put(r.Key, r.Value), p.due.Set(r.Key, r.Time.Add(time.Minute)))
}

func (p *pairing) Process2(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	if r.Value == "panic" {
		panic("told to")
	}
	n, ok, err := p.held.Get(r.Key)
	if err != nil {
		return err
	}
	return ctx.Forward(processor.With(r, r.Key, fmt.Sprintf("%s %d %v", r.Value, n, ok)))
}

func (p *pairing) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	_, _, err := p.held.Delete(f.Key)
	return err
}

func TestProcess2(t *testing.T) {
	build := func() (*stream.Topology, error) {
		b := stream.NewBuilder()
		stream.Process2(stream.From(b, lefts), stream.From(b, rights),
			func() processor.Processor2[string, int64, string, string, string] { return &pairing{} }, held, due).
			Named("pair").OnError(processor.Skip()).To(echoes)
		return b.Build()
	}
	modes(t, func(t *testing.T, opts []streamtest.Option, step func(*streamtest.Driver)) {
		top, err := build()
		if err != nil {
			t.Fatal(err)
		}
		d := streamtest.New(t, top, append(opts, streamtest.Partitions(3))...)
		l, r, out := streamtest.In(d, lefts), streamtest.In(d, rights), streamtest.Out(d, echoes)
		r.Send("k", "before")
		step(d)
		l.Send("k", 7)
		step(d)
		r.Send("k", "after")
		step(d)
		out.Want(out.Record("k", "before 0 false"), out.Record("k", "after 7 true"))
		l.Send("k", -1)
		r.Send("k", "panic")
		r.SendRaw([]byte("k"), nil)
		step(d)
		if f := d.Failures(); len(f) != 2 || f[0].Node != "pair" || f[0].Topic != "lefts" || f[1].Node != "pair" || f[1].Op != "panic" {
			t.Errorf("failures: %+v", f)
		}
		d.Advance(time.Hour)
		r.Send("k", "late") // its time passes the timer's
		step(d)
		r.Send("k", "later")
		step(d)
		got := out.All()
		if len(got) != 3 || got[2].Value != "later 0 false" {
			t.Errorf("got %v", got)
		}
	})

	t.Run("not co-partitioned", func(t *testing.T) {
		b := stream.NewBuilder()
		stream.Process2(stream.From(b, lefts), stream.From(b, rights),
			func() processor.Processor2[string, int64, string, string, string] { return &pairing{} }).Named("pair").To(echoes)
		top, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = top.PartitionCounts(func(topic string) (int32, bool) {
			return map[string]int32{"lefts": 2, "rights": 3, "echoes": 1}[topic], true
		})
		if fault.Code(err) != "topology/not-copartitioned" || !strings.Contains(err.Error(), `lead to node "pair"`) {
			t.Errorf("the error is %v", err)
		}
	})

	t.Run("mistakes", func(t *testing.T) {
		b := stream.NewBuilder()
		rekeyed := stream.SelectKey(stream.From(b, lefts), func(k string, _ int64) string { return k })
		stream.Process2[string, int64, string, string, string](rekeyed, stream.From(b, rights), nil).To(echoes)
		stream.Process(stream.From(b, notes), func() processor.Processor[string, string, string, string] { return &scribe{} }, limits)
		stream.ProcessBroadcast[string, string, string, int64, string, int64, string, string](stream.From(b, notes), limitsIn, nil, limits)
		stream.ProcessBroadcast[string, string, string, int64, string, int64, string, string](stream.From(b, notes), limitsIn, nil, limits)
		_, err := b.Build()
		for _, code := range []string{"stream/needs-repartition", "topology/nil-function", "store/duplicate"} {
			if err == nil || !strings.Contains(err.Error(), code) {
				t.Errorf("no %s in %v", code, err)
			}
		}
		b = stream.NewBuilder()
		stream.Process(stream.From(b, notes), func() processor.Processor[string, string, string, string] { return &scribe{} }, limits)
		if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), "store/not-broadcast") {
			t.Errorf("the error is %v", err)
		}
	})
}
