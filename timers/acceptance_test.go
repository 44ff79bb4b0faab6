package timers_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
)

// The stage of the acceptance cases: records tell a processor which timers to set and delete, and what it is woken for it says.
// Times are in milliseconds since 1970, and so is the clock.
var (
	orders = topology.NewTopic("orders", serde.String(), serde.String())
	rings  = topology.NewTopic("rings", serde.String(), serde.String())
	events = timers.New("events", serde.String(), timers.EventTime)
	walls  = timers.New("walls", serde.String(), timers.ProcessingTime)
	notes  = store.KeyValue("notes", serde.String(), serde.Int64())
)

// bell is that processor. An order is "set E hello 10" or "delete P ciao 20", several of them separated by semicolons: E is the event
// time, P the processing time. "clock" says the event time. Every order adds one to the key's note.
type bell struct {
	react         func(b *bell, ctx processor.Context[string, string], f timers.Fired[string]) error
	events, walls *timers.Set[string]
	notes         *store.KV[string, int64]
}

func (b *bell) Init(ctx processor.InitContext) (err error) {
	if b.events, err = events.In(ctx); err != nil {
		return err
	}
	if b.walls, err = walls.In(ctx); err != nil {
		return err
	}
	b.notes, err = notes.In(ctx)
	return err
}

func (b *bell) set(domain string) *timers.Set[string] {
	return map[string]*timers.Set[string]{"E": b.events, "P": b.walls}[domain]
}

func (b *bell) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	for order := range strings.SplitSeq(r.Value, ";") {
		if order == "" {
			continue
		}
		n, _, err := b.notes.Get(r.Key)
		if err != nil {
			return err
		}
		if err := b.notes.Put(r.Key, n+1); err != nil {
			return err
		}
		f := strings.Fields(order)
		if f[0] == "clock" {
			if err := ctx.Forward(processor.With(r, r.Key, fmt.Sprintf("clock %d", ctx.StreamTime().UnixMilli()))); err != nil {
				return err
			}
			continue
		}
		ms, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil {
			return err
		}
		do := b.set(f[1]).SetIn
		if f[0] == "delete" {
			do = b.set(f[1]).DeleteIn
		}
		if err := do(f[2], r.Key, at(ms)); err != nil {
			return err
		}
	}
	return nil
}

// OnTimer says "k1 E/hello/10@12": the timer, and what its clock shows.
func (b *bell) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	domain, clock := "E", ctx.StreamTime()
	if f.Set == "walls" {
		domain, clock = "P", ctx.Now()
	}
	text := fmt.Sprintf("%s/%s/%d@%d", domain, f.Namespace, f.At.UnixMilli(), clock.UnixMilli())
	if err := ctx.Forward(processor.Record[string, string]{Key: f.Key, Value: text}); err != nil {
		return err
	}
	if b.react != nil {
		return b.react(b, ctx, f)
	}
	return nil
}

func at(ms int64) time.Time { return time.UnixMilli(ms) }

type reaction = func(b *bell, ctx processor.Context[string, string], f timers.Fired[string]) error

func bells(t *testing.T, react reaction) *topology.Topology {
	t.Helper()
	b := topology.NewBuilder()
	node := topology.AddProcessor("bell", func() processor.Processor[string, string, string, string] { return &bell{react: react} },
		[]store.Spec{events, walls, notes}, topology.AddSource(b, "", orders))
	topology.AddSink("", rings, node)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// stage is one run of a case: on an engine, and with or without a commit, a crash and a restore behind every step.
type stage struct {
	t     *testing.T
	d     *streamtest.Driver
	in    *streamtest.Input[string, string]
	out   *streamtest.Output[string, string]
	crash func()
}

// everyWay runs a case on both engines, straight, with crashes, and with crashes that lose the disk.
func everyWay(t *testing.T, id string, react reaction, f func(s *stage), opts ...streamtest.Option) {
	t.Run(id, func(t *testing.T) {
		for _, engine := range []string{"memory", "pebble"} {
			for _, mode := range []string{"straight", "crash", "lost disk"} {
				t.Run(engine+"/"+mode, func(t *testing.T) {
					opts := append([]streamtest.Option{streamtest.StartAt(at(0))}, opts...)
					if engine == "pebble" {
						opts = append(opts, streamtest.Pebble())
					}
					d := streamtest.New(t, bells(t, react), opts...)
					s := &stage{t, d, streamtest.In(d, orders), streamtest.Out(d, rings), func() {}}
					switch mode {
					case "crash":
						s.crash = func() { d.Settle(); d.Crash() }
					case "lost disk":
						s.crash = func() { d.Settle(); d.CrashLosingDisk() }
					}
					f(s)
				})
			}
		}
	})
}

// order sends orders for a key in a record of that event time.
func (s *stage) order(ms int64, key, orders string) {
	s.t.Helper()
	s.in.SendAt(at(ms), key, orders)
	s.crash()
}

// watermark sends a record that does nothing but show its time.
func (s *stage) watermark(ms int64) {
	s.t.Helper()
	s.order(ms, "nobody", "")
}

// clock puts the wall clock on a time.
func (s *stage) clock(ms int64) {
	s.t.Helper()
	s.d.Advance(at(ms).Sub(s.d.Now()))
	s.crash()
}

// rang compares what was said since the last call.
func (s *stage) rang(want ...string) {
	s.t.Helper()
	s.d.Settle()
	var got []string
	for _, r := range s.out.All() {
		got = append(got, r.Key+" "+r.Value)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("rang %q, want %q", got, want)
	}
}

func (s *stage) pending(want int) {
	s.t.Helper()
	e, w := streamtest.Timers(s.d, events).All(), streamtest.Timers(s.d, walls).All()
	if len(e)+len(w) != want {
		s.t.Errorf("pending are %v and %v, want %d", e, w, want)
	}
}

func TestTimer(t *testing.T) {
	four := func(domain string) func(s *stage) {
		return func(s *stage) {
			s.order(0, "k1", "set "+domain+" ciao 10;set "+domain+" hello 10")
			s.order(0, "k2", "set "+domain+" ciao 10;set "+domain+" hello 10")
		}
	}
	// The two domains differ only in what moves their clock.
	domains := func(f func(domain string, move func(s *stage, ms int64))) {
		f("E", (*stage).watermark)
		f("P", (*stage).clock)
	}

	everyWay(t, "TM-1", nil, func(s *stage) {
		four("E")(s)
		s.watermark(9)
		s.rang()
		s.pending(4)
		s.watermark(10)
		s.rang("k1 E/ciao/10@10", "k1 E/hello/10@10", "k2 E/ciao/10@10", "k2 E/hello/10@10")
		s.pending(0)
		s.watermark(11)
		s.rang()
	})
	everyWay(t, "TM-2", nil, func(s *stage) {
		four("P")(s)
		s.clock(9)
		s.rang()
		s.pending(4)
		s.clock(10)
		s.rang("k1 P/ciao/10@10", "k1 P/hello/10@10", "k2 P/ciao/10@10", "k2 P/hello/10@10")
		s.pending(0)
		s.clock(11)
		s.rang()
	})
	domains(func(domain string, move func(*stage, int64)) {
		everyWay(t, "TM-3/"+domain, nil, func(s *stage) {
			four(domain)(s)
			s.order(0, "k1", "delete "+domain+" hello 10")
			s.order(0, "k2", "delete "+domain+" ciao 10;delete "+domain+" ciao 77")
			s.pending(2)
			move(s, 10)
			s.rang("k1 "+domain+"/ciao/10@10", "k2 "+domain+"/hello/10@10")
			s.pending(0)
		})
	})
	everyWay(t, "TM-4", nil, func(s *stage) {
		s.order(0, "k1", "set E x 10;set E x 10")
		s.order(0, "k1", "set E x 10;set P x 10")
		s.pending(2)
		s.watermark(10)
		s.rang("k1 E/x/10@10")
		s.clock(10)
		s.rang("k1 P/x/10@10")
		s.pending(0)
	})
	everyWay(t, "TM-8", nil, func(s *stage) {
		s.watermark(10)
		s.order(10, "k1", "set E x 10;set E x 7") // the clock stands at 10 already
		s.order(5, "k1", "set E x 5")
		s.watermark(10)
		s.rang()
		s.pending(3)
		s.watermark(11)
		s.rang("k1 E/x/5@11", "k1 E/x/7@11", "k1 E/x/10@11")
		s.order(12, "k1", "set E x 12") // it advances the clock by itself, and what it sets belongs to that advance
		s.rang("k1 E/x/12@12")
	})
	everyWay(t, "TM-8/in OnTimer", func(b *bell, _ processor.Context[string, string], f timers.Fired[string]) error {
		if f.At.UnixMilli() == 10 {
			return b.events.SetIn("again", f.Key, at(3))
		}
		return nil
	}, func(s *stage) {
		s.order(0, "k1", "set E x 10")
		s.watermark(20)
		s.rang("k1 E/x/10@20", "k1 E/again/3@20")
		s.pending(0)
	})
	everyWay(t, "TM-9", nil, func(s *stage) {
		s.order(0, "k1", "set E x 30;set E x 10;set E x 20")
		s.watermark(100)
		s.rang("k1 E/x/10@100", "k1 E/x/20@100", "k1 E/x/30@100")
	})
	everyWay(t, "TM-10", nil, func(s *stage) {
		s.order(0, "k1", "set P ciao 10;set E hello 10")
		s.order(0, "k2", "set E ciao 10;set P hello 10")
		s.d.Crash()
		s.clock(10)
		s.rang("k1 P/ciao/10@10", "k2 P/hello/10@10")
		s.watermark(10)
		s.rang("k1 E/hello/10@10", "k2 E/ciao/10@10")
		s.pending(0)
	})
	// Two tasks: each fires what is in its partition.
	everyWay(t, "TM-10/two tasks", func(_ *bell, ctx processor.Context[string, string], f timers.Fired[string]) error {
		if want := int32(f.Key[1] - '1'); ctx.TaskID().Partition != want {
			return fmt.Errorf("%s fired in %s", f.Key, ctx.TaskID())
		}
		return nil
	}, func(s *stage) {
		both := s.in
		s.in = both.On(0)
		s.order(0, "k1", "set P ciao 10;set E hello 10")
		s.in = both.On(1)
		s.order(0, "k2", "set E ciao 10;set P hello 10")
		s.d.Crash()
		s.clock(10)
		s.rang("k1 P/ciao/10@10", "k2 P/hello/10@10")
		s.in = both.On(0)
		s.watermark(10)
		s.rang("k1 E/hello/10@10")
		s.in = both.On(1)
		s.watermark(10)
		s.rang("k2 E/ciao/10@10")
		s.pending(0)
	}, streamtest.Partitions(2))
	everyWay(t, "TM-11", nil, func(s *stage) {
		s.order(100, "k1", "set P x 5000")
		s.d.Settle()
		s.d.CrashFor(10 * time.Second)
		s.rang("k1 P/x/5000@10000")
		s.d.Crash()
		s.clock(20_000)
		s.rang()
		s.order(50, "k1", "clock") // late before the crash, and after it
		s.rang("k1 clock 100")
	})
	domains(func(domain string, move func(*stage, int64)) {
		everyWay(t, "TM-12/"+domain, func(b *bell, ctx processor.Context[string, string], f timers.Fired[string]) error {
			n, _, err := b.notes.Get(f.Key)
			if err != nil {
				return err
			}
			if _, _, err := b.notes.Delete(f.Key); err != nil {
				return err
			}
			return ctx.Forward(processor.Record[string, string]{Key: f.Key, Value: fmt.Sprint("note ", n)})
		}, func(s *stage) {
			s.order(0, "k1", "set "+domain+" x 10")
			s.d.Commit()
			crash := s.crash
			s.crash = func() {}
			move(s, 10)
			s.pending(0) // it has fired
			for _, undo := range []func(){s.d.Abort, s.d.Crash, s.d.CrashLosingDisk} {
				undo()
				if !s.out.Empty() {
					s.t.Error("something is visible that was not committed")
				}
			}
			s.crash = crash
			s.rang("k1 "+domain+"/x/10@10", "k1 note 1")
			s.crash()
			s.pending(0)
			if _, ok := streamtest.Store(s.d, notes).Get("k1"); ok {
				s.t.Error("the note is there again")
			}
			move(s, 20)
			s.rang()
		}, streamtest.ManualCommit())
	})
}

// pair has two sets of one clock.
type pair struct {
	sets  [2]timers.Spec[string]
	opens [2]*timers.Set[string]
}

func (p *pair) Init(ctx processor.InitContext) (err error) {
	for i := range p.sets {
		if p.opens[i], err = p.sets[i].In(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) Process(_ processor.Context[string, string], r processor.Record[string, string]) error {
	if r.Key != "k" {
		return nil
	}
	for _, s := range p.opens {
		for _, ms := range []int64{10, 20} {
			if err := s.Set(r.Key, at(ms)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pair) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	return ctx.Forward(processor.Record[string, string]{Key: f.Key, Value: f.Set})
}

// Of two sets of one clock the earlier timer comes first, and of equal times that of the set with the lesser name, however they are
// attached. What is forwarded without a time has the timer's, or the wall's.
func TestSetsTakeTurns(t *testing.T) {
	for domain, when := range map[timers.Domain][2]int64{timers.EventTime: {10, 20}, timers.ProcessingTime: {30, 30}} {
		b, a := timers.New("b-set", serde.String(), domain), timers.New("a-set", serde.String(), domain)
		builder := topology.NewBuilder()
		node := topology.AddProcessor("pair", func() processor.Processor[string, string, string, string] {
			return &pair{sets: [2]timers.Spec[string]{b, a}}
		}, []store.Spec{b, a}, topology.AddSource(builder, "", orders))
		topology.AddSink("", rings, node)
		top, err := builder.Build()
		if err != nil {
			t.Fatal(err)
		}
		d := streamtest.New(t, top, streamtest.StartAt(at(0)))
		in, out := streamtest.In(d, orders), streamtest.Out(d, rings)
		in.SendAt(at(0), "k", "")
		in.SendAt(at(30), "other", "")
		d.Advance(30 * time.Millisecond)
		early, late := at(when[0]).UTC(), at(when[1]).UTC()
		out.Want(out.RecordAt(early, "k", "a-set"), out.RecordAt(early, "k", "b-set"), out.RecordAt(late, "k", "a-set"), out.RecordAt(late, "k", "b-set"))
	}
}

// CoalesceTo rounds up: many timers of a key become one, which a Delete at any of their times removes.
func TestCoalesce(t *testing.T) {
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: gaps, Prefix: 7}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	set, err := gaps.CoalesceTo(time.Second).In(db)
	if err != nil {
		t.Fatal(err)
	}
	for _, ms := range []int64{1, 999, 1000, 1001} {
		if err := set.Set("k", at(ms)); err != nil {
			t.Fatal(err)
		}
	}
	var all []int64
	if err := set.Each(func(f timers.Fired[string]) bool { all = append(all, f.At.UnixMilli()); return true }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(all, []int64{1000, 2000}) {
		t.Errorf("timers at %v", all)
	}
	if err := set.Delete("k", at(500)); err != nil {
		t.Fatal(err)
	}
	if ok, err := set.IsSet("k", at(1)); ok || err != nil {
		t.Errorf("IsSet: %v, %v", ok, err)
	}
	if set.Pending() != 1 {
		t.Errorf("%d pending", set.Pending())
	}
	if err := set.Set("k", time.UnixMilli(-1)); fault.Code(err) != "timers/negative-time" {
		t.Errorf("before 1970: %v", err)
	}
	last := time.UnixMilli(1<<63 - 1)
	if err := set.Set("k", last); err != nil {
		t.Fatal(err)
	}
	if ok, err := set.IsSet("k", last); !ok || err != nil {
		t.Errorf("the last time of all: %v, %v", ok, err)
	}
}
