package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
)

var (
	ringIn  = topology.NewTopic("in", serde.String(), serde.String())
	ringOut = topology.NewTopic("out", serde.String(), serde.String())
	events  = timers.New("events", serde.String(), timers.EventTime)
	walls   = timers.New("walls", serde.String(), timers.ProcessingTime)
)

// bell is a processor made of two functions, and its timers.
type bell struct {
	c             *clockwork
	events, walls *timers.Set[string]
}

func (b *bell) Init(ctx processor.InitContext) (err error) {
	if b.events, err = events.In(ctx); err != nil {
		return err
	}
	b.walls, err = walls.In(ctx)
	return err
}

func (b *bell) Process(_ processor.Context[string, string], r processor.Record[string, string]) error {
	if b.c.process == nil {
		return nil
	}
	return b.c.process(b, r)
}

func (b *bell) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	if b.c.lean {
		b.c.rings++
		return nil
	}
	text := fmt.Sprintf("%s %s/%s@%d", f.Set, f.Key, f.Namespace, f.At.UnixMilli())
	b.c.fired = append(b.c.fired, text)
	if err := ctx.Forward(processor.Record[string, string]{Key: f.Key, Value: text}); err != nil {
		return err
	}
	if b.c.onTimer == nil {
		return nil
	}
	return b.c.onTimer(b, f)
}

// clockwork is a task whose clocks are in the test's hand, and what outlives it.
type clockwork struct {
	t       testing.TB
	process func(b *bell, r processor.Record[string, string]) error
	onTimer func(b *bell, f timers.Fired[string]) error
	policy  processor.Policy
	reopen  func() store.Engine
	lean    bool // for measuring: timers are counted and nothing else
	rings   int

	task   *Task
	db     *store.DB
	fired  []string
	next   int64
	group  *Epoch
	sealed []*Epoch
	failed []Failure
}

func (c *clockwork) start() *clockwork {
	c.t.Helper()
	if c.reopen == nil {
		kept := &keptEngine{store.NewMemory()}
		c.reopen = func() store.Engine { return kept }
	}
	b := topology.NewBuilder()
	n := topology.AddProcessor("bell", func() processor.Processor[string, string, string, string] { return &bell{c: c} },
		[]store.Spec{events, walls}, topology.AddSource(b, "", ringIn))
	topology.AddSink("", ringOut, n)
	top, err := b.Build()
	if err != nil {
		c.t.Fatal(err)
	}
	c.db, err = store.Open(c.reopen(), []store.Binding{{Spec: events, Prefix: 1}, {Spec: walls, Prefix: 2}}, store.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	start, in := Start{StreamTime: -1}, Input{Topic: "in"}
	if e := c.group; e != nil {
		start = Start{StreamTime: e.StreamTime, Now: e.Now, State: e.State}
		in.Start = e.Offsets[0].Offset
	}
	c.sealed = nil
	c.task, err = New(Config{
		Context: context.Background(), ID: processor.TaskID{Subtopology: "events"}, App: "app", Sub: top.Subtopologies()[0], DB: c.db,
		Inputs: []Input{in}, SinkPartitions: []int32{1}, OnError: c.policy, Observer: func(f Failure) { c.failed = append(c.failed, f) },
	}, start)
	if err != nil {
		c.t.Fatal(err)
	}
	return c
}

// keptEngine is a memory engine that outlives its database.
type keptEngine struct{ store.Engine }

func (*keptEngine) Close() error { return nil }

// crash loses what was not committed.
func (c *clockwork) crash() {
	c.t.Helper()
	if err := c.db.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.start()
}

// record sends one and runs what follows.
func (c *clockwork) record(at int64, key, value string) {
	c.t.Helper()
	c.enqueue(at, key, value)
	c.step()
}

func (c *clockwork) enqueue(at int64, key, value string) {
	put(c.task, 0, raw(c.next, at, key, value))
	c.next++
}

// step runs until there is nothing more to do.
func (c *clockwork) step() {
	c.t.Helper()
	for {
		r, err := c.task.Step(100, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		if !r.More {
			return
		}
	}
}

func (c *clockwork) tick(now int64) {
	c.t.Helper()
	if c.task.Tick(now) {
		c.step()
	}
}

func (c *clockwork) seal() {
	c.task.Outputs()
	c.sealed = append(c.sealed, c.task.Seal())
}

func (c *clockwork) committed() {
	c.t.Helper()
	e := c.sealed[0]
	c.sealed = c.sealed[1:]
	c.group = &Epoch{Offsets: slices.Clone(e.Offsets), StreamTime: e.StreamTime, Now: e.Now, State: bytes.Clone(e.State)}
	if err := c.task.Committed(e, nil); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clockwork) commit() {
	c.t.Helper()
	c.seal()
	for len(c.sealed) > 0 {
		c.committed()
	}
}

func (c *clockwork) rang(want ...string) {
	c.t.Helper()
	if !slices.Equal(c.fired, want) {
		c.t.Errorf("fired %q, want %q", c.fired, want)
	}
	c.fired = nil
}

// pending and armed: how many timers wait, and for when the task is to be woken, 0 for never.
func (c *clockwork) waits(pending int, armed int64) {
	c.t.Helper()
	n := 0
	for _, spec := range []timers.Spec[string]{events, walls} {
		set, err := spec.In(c.db)
		if err == nil {
			err = set.Each(func(timers.Fired[string]) bool { n++; return true })
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	wake := c.task.Wake()
	if wake == math.MaxInt64 {
		wake = 0
	}
	if n != pending || wake != armed {
		c.t.Errorf("%d pending, armed at %d; want %d, at %d", n, wake, pending, armed)
	}
}

func ms(n int64) time.Time { return time.UnixMilli(n) }

// setWalls sets timers in processing time that the record names, as in "10 hello".
func setWalls(b *bell, r processor.Record[string, string]) error {
	var n int64
	var ns string
	for order := range strings.SplitSeq(r.Value, ",") {
		if _, err := fmt.Sscan(order, &n, &ns); err != nil {
			return err
		}
		if err := b.walls.SetIn(ns, r.Key, ms(n)); err != nil {
			return err
		}
	}
	return nil
}

func setEvents(b *bell, r processor.Record[string, string]) error {
	if r.Value == "" {
		return nil
	}
	var n int64
	for order := range strings.SplitSeq(r.Value, ",") {
		if _, err := fmt.Sscan(order, &n); err != nil {
			return err
		}
		if err := b.events.Set(r.Key, ms(n)); err != nil {
			return err
		}
	}
	return nil
}

// TestTimer are the acceptance cases whose clocks are set by hand; the others are in package timers. What Wake returns is the one
// timer of the operating system that a task has.
func TestTimer(t *testing.T) {
	everyWay := func(id string, onTimer func(*bell, timers.Fired[string]) error, f func(c *clockwork, then func())) {
		t.Run(id, func(t *testing.T) {
			for _, engine := range []string{"memory", "pebble"} {
				for _, mode := range []string{"straight", "crash"} {
					t.Run(engine+"/"+mode, func(t *testing.T) {
						c := &clockwork{t: t, process: setWalls, onTimer: onTimer}
						if engine == "pebble" {
							dir := t.TempDir()
							c.reopen = func() store.Engine {
								e, err := store.OpenPebble(dir, store.PebbleOptions{})
								if err != nil {
									t.Fatal(err)
								}
								return e
							}
						}
						c.start()
						f(c, func() {
							if mode == "crash" {
								c.commit()
								c.crash()
							}
						})
						if err := c.db.Close(); err != nil {
							t.Error(err)
						}
					})
				}
			}
		})
	}
	everyWay("TM-5", nil, func(c *clockwork, then func()) {
		c.record(0, "k", "10 ciao,20 ciao,30 ciao,10 hello,20 hello")
		then()
		c.waits(5, 10)
		c.tick(10)
		then()
		c.waits(3, 20)
		c.tick(20)
		then()
		c.waits(1, 30)
		c.tick(30)
		then()
		c.waits(0, 0)
		c.record(0, "k", "40 ciao")
		then()
		c.waits(1, 40)
		c.rang("walls k/ciao@10", "walls k/hello@10", "walls k/ciao@20", "walls k/hello@20", "walls k/ciao@30")
	})
	everyWay("TM-6", nil, func(c *clockwork, then func()) {
		c.record(0, "k", "20 x")
		then()
		c.waits(1, 20)
		c.record(0, "k", "10 x")
		then()
		c.waits(2, 10)
	})
	everyWay("TM-7", func(b *bell, f timers.Fired[string]) error {
		if next := f.At.UnixMilli() + 10; next <= 30 {
			return b.walls.SetIn("x", f.Key, ms(next))
		}
		return nil
	}, func(c *clockwork, then func()) {
		c.record(0, "k", "10 x")
		for _, at := range []int64{10, 20, 30} {
			then()
			c.waits(1, at)
			c.tick(at)
		}
		then()
		c.waits(0, 0)
		c.rang("walls k/x@10", "walls k/x@20", "walls k/x@30")
	})
	everyWay("TM-14", nil, func(c *clockwork, then func()) {
		all, turn := int64(100_000), 1000
		if testing.Short() {
			all = 20_000
		}
		c.process = func(b *bell, r processor.Record[string, string]) error {
			if r.Value != "all" {
				return nil
			}
			for i := range all {
				if err := b.events.Set(r.Key, ms(1+i)); err != nil {
					return err
				}
			}
			return nil
		}
		c.record(0, "k", "all")
		c.commit()
		c.enqueue(all, "k", "")
		c.enqueue(all+1, "k", "")
		fired, commits := 0, 0
		for more := true; more; commits++ {
			r, err := c.task.Step(turn, nil)
			if err != nil {
				c.t.Fatal(err)
			}
			if fired += r.Timers; r.Records+r.Timers > turn {
				c.t.Fatalf("a Step of %d did %d", turn, r.Records+r.Timers)
			}
			if r.Timers > 0 && int64(fired) < all && c.task.Positions()[0] != 2 {
				c.t.Fatal("the next record came before all timers were done")
			}
			more = r.More
			c.commit()
			if commits == int(all)/turn/2 {
				then()
				if more && c.next > c.task.Positions()[0] { // what was not committed comes again
					put(c.task, 0, raw(2, all+1, "k", ""))
				}
			}
		}
		if int64(fired) != all || commits < int(all)/turn {
			c.t.Errorf("%d fired, in %d commits", fired, commits)
		}
		if got := c.fired[len(c.fired)-1]; int64(len(c.fired)) != all || got != fmt.Sprint("events k/@", all) {
			c.t.Errorf("%d fired, the last is %q", len(c.fired), got)
		}
	})
}

// Timers due at once fire in the order of domain, time, set and key; those of the processing time behind those of the event time.
func TestTimerOrder(t *testing.T) {
	c := (&clockwork{t: t, process: func(b *bell, r processor.Record[string, string]) error {
		return errors.Join(b.walls.Set("b", ms(1)), b.walls.Set("a", ms(2)), b.events.Set("b", ms(5)), b.events.Set("a", ms(5)), b.events.Set("c", ms(4)))
	}}).start()
	c.task.Tick(9)
	c.record(5, "k", "")
	c.rang("events c/@4", "events a/@5", "events b/@5", "walls b/@1", "walls a/@2")
}

// A record or timer that fails gives back what it took, set and deleted; what is in flight is undone as one.
func TestTimersUndone(t *testing.T) {
	fail := true
	c := &clockwork{t: t, policy: processor.Skip(), process: func(b *bell, r processor.Record[string, string]) error {
		switch r.Value {
		case "set":
			return errors.Join(b.events.Set("a", ms(10)), b.events.Set("b", ms(20)), b.events.Set("c", ms(30)))
		case "move and fail":
			return errors.Join(b.events.Delete("a", ms(10)), b.events.Delete("c", ms(30)), b.events.Set("a", ms(5)), errTold)
		case "move":
			return errors.Join(b.events.Delete("b", ms(20)), b.events.Set("b", ms(25)))
		}
		return nil
	}}
	c.onTimer = func(b *bell, f timers.Fired[string]) error {
		if f.Key == "a" && fail {
			return errors.Join(b.events.Set("z", ms(1)), errTold)
		}
		return nil
	}
	c.start()
	c.record(1, "k", "set")
	c.record(1, "k", "move and fail")
	c.waits(3, 0)
	c.commit()

	c.record(1, "k", "move")
	c.seal()
	c.record(25, "k", "")
	c.rang("events a/@10", "events b/@25")
	if s := c.task.Stats(); s.Skipped != 2 || s.Timers != 2 {
		t.Errorf("stats %+v", s)
	}
	c.waits(1, 0)
	c.task.Discard()
	c.sealed = nil
	fail = false
	c.waits(3, 0)
	c.step() // the same records again
	c.rang("events a/@10", "events b/@25")
	c.commit()
	c.crash()
	c.waits(1, 0)
}

// An epoch that ends while timers are being fired is gone on with by the next life, without a record.
func TestAdvancingSurvives(t *testing.T) {
	c := (&clockwork{t: t, process: setEvents}).start()
	c.record(0, "k", "10,20,30")
	c.enqueue(40, "k", "")
	if r, err := c.task.Step(2, nil); err != nil || r.Records != 1 || r.Timers != 1 || !r.More {
		t.Fatal(r, err)
	}
	c.commit()
	c.crash()
	if !c.task.Tick(0) {
		t.Error("nothing to do after the restart")
	}
	c.step()
	c.rang("events k/@10", "events k/@20", "events k/@30")
	c.commit()
	if c.group.State != nil {
		t.Errorf("kernel state %x is kept, and there is nothing to keep", c.group.State)
	}
	c.crash()
	if c.task.Tick(0) {
		t.Error("there is something to do, and nothing is due")
	}
}

// A timer that fails becomes what the policy says, with its name, its time and its key in the letter.
func TestTimerFails(t *testing.T) {
	told := func(*bell, timers.Fired[string]) error { return errTold }
	panics := func(*bell, timers.Fired[string]) error { panic("told to panic") }

	t.Run("fail", func(t *testing.T) {
		c := (&clockwork{t: t, process: setEvents, onTimer: told}).start()
		c.record(0, "k", "10")
		c.enqueue(10, "k", "")
		_, err := c.task.Step(100, nil)
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != "record/failed" || f.Thing != "timer" || f.Value != "timers events/0@1970-01-01T00:00:00.01Z" || !errors.Is(err, errTold) {
			t.Errorf("error %v", err)
		}
		c.commit() // what came before, with the clock
		c.waits(1, c.task.Now())
		c.onTimer = nil
		c.crash()
		c.fired = nil
		c.step()
		c.rang("events k/@10")
	})
	for name, f := range map[string]func(*bell, timers.Fired[string]) error{"error": told, "panic": panics} {
		t.Run("skip/"+name, func(t *testing.T) {
			c := (&clockwork{t: t, process: setEvents, onTimer: f, policy: processor.Skip()}).start()
			c.record(0, "k", "10,20")
			c.record(20, "k", "")
			c.rang("events k/@10", "events k/@20")
			c.waits(0, 0)
			if len(c.task.Outputs()) > 0 {
				t.Error("a timer that failed has left an output")
			}
			c.commit()
			c.crash()
			c.waits(0, 0)
		})
	}
	t.Run("dead letter", func(t *testing.T) {
		c := &clockwork{t: t, onTimer: told, policy: processor.DeadLetter("dead")}
		c.process = func(b *bell, r processor.Record[string, string]) error { return b.walls.SetIn("ns", r.Key, ms(10)) }
		c.start()
		c.record(0, "k\x00ey", "")
		c.tick(33)
		outs := c.task.Outputs()
		if len(outs) != 1 {
			t.Fatalf("%d outputs", len(outs))
		}
		o := outs[0]
		head := map[string]string{}
		for _, h := range o.Headers {
			head[h.Key] = string(h.Value)
		}
		if o.Topic != "dead" || string(o.Key) != "k\x00ey" || string(o.Value) != "ns" || o.Time != 33 || len(o.Headers) != DeadLetterHeaders ||
			head[DeadLetterTopic] != "timers walls" || head[DeadLetterTimestamp] != "10" || head[DeadLetterNode] != "bell" || head[DeadLetterCode] != "record/failed" {
			t.Errorf("letter %+v, %v", o, head)
		}
		c.commit()
		c.waits(0, 0)
	})
	t.Run("retry", func(t *testing.T) {
		c := (&clockwork{t: t, process: setEvents, onTimer: told, policy: processor.Retry(3, 100*time.Millisecond, processor.Skip())}).start()
		c.task.Tick(1000)
		c.record(0, "k", "10,20")
		c.record(20, "k", "")
		c.rang("events k/@10")
		if c.task.Wake() != 1100 {
			t.Errorf("wakes at %d", c.task.Wake())
		}
		c.commit()
		c.crash() // the tries are counted on
		if c.task.Tick(1099) {
			t.Error("woke up too early")
		}
		c.tick(1100)
		c.rang("events k/@10")
		c.tick(1300)
		c.rang("events k/@10") // the third retry comes after another pause
		c.onTimer = nil
		c.tick(1700)
		c.rang("events k/@10", "events k/@20")
		if s := c.task.Stats(); s.Skipped != 0 {
			t.Errorf("stats %+v", s)
		}
		c.waits(0, 0)
	})
}

// An output of a timer that the broker refuses afterwards makes that timer fail when it fires again, and no other.
func TestTimerCondemned(t *testing.T) {
	c := (&clockwork{t: t, process: setEvents, policy: processor.Skip()}).start()
	c.record(0, "k", "10,20,30")
	c.commit()
	c.record(30, "k", "")
	outs := slices.Clone(c.task.Outputs())
	if len(outs) != 3 {
		t.Fatalf("%d outputs", len(outs))
	}
	origin := outs[1].Origin
	c.fired = nil
	c.task.Discard()
	c.task.Condemn(origin, errTold)
	if r, err := c.task.Step(2, nil); err != nil || r.Timers != 1 { // the record, and one of them
		t.Fatal(r, err)
	}
	c.seal()
	c.step() // meets it, in the epoch behind
	c.committed()
	c.task.Discard() // which is undone: it holds on
	c.step()
	c.rang("events k/@10", "events k/@30", "events k/@30")
	if outs := c.task.Outputs(); len(outs) != 1 || string(outs[0].Value) != "events k/@30" {
		t.Errorf("outputs %v", outs)
	}
	if len(c.failed) != 2 || c.failed[0].Op != "refused" || c.failed[0].Origin.Topic != "timers events" || !errors.Is(c.failed[0].Err, errTold) {
		t.Errorf("failures %+v", c.failed)
	}
	c.commit()
	if len(c.task.condemned) != 0 {
		t.Error("still condemned")
	}
	c.waits(0, 0)
}

// Rows that are none of a timer's end the task: no policy can decide about them.
func TestTimerRowsDamaged(t *testing.T) {
	for name, row := range map[string]string{"short": "abc", "no end of the key": "\x80\x00\x00\x00\x00\x00\x00\x05abc"} {
		t.Run(name, func(t *testing.T) {
			c := (&clockwork{t: t, policy: processor.Skip()}).start()
			rows, err := c.db.Rows("events")
			if err == nil {
				err = rows.Put([]byte(row), nil, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			c.enqueue(10, "k", "")
			if _, err := c.task.Step(100, nil); fault.Code(err) != "timers/row-format" {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Drain fires what waits for the event time, in order, with the clock at each timer's time.
func TestDrain(t *testing.T) {
	c := &clockwork{t: t, process: setEvents}
	var clocks []int64
	c.onTimer = func(b *bell, f timers.Fired[string]) error {
		clocks = append(clocks, c.task.StreamTime())
		if f.At.UnixMilli() == 20 {
			return errors.Join(b.events.Set(f.Key, ms(15)), b.events.Set(f.Key, ms(25)), b.walls.Set(f.Key, ms(1000)))
		}
		return nil
	}
	c.start()
	c.record(0, "k", "10,20,30")
	c.task.Drain()
	c.step()
	c.rang("events k/@10", "events k/@20", "events k/@15", "events k/@25", "events k/@30")
	if !slices.Equal(clocks, []int64{10, 20, 20, 25, 30}) {
		t.Errorf("clocks %v", clocks)
	}
	c.waits(1, 1000)
	c.commit()
	c.crash()
	if c.task.StreamTime() != 30 {
		t.Errorf("the clock is at %d", c.task.StreamTime())
	}
}

// BenchmarkFireProcessingTimers is the ProcessingTimerBenchmark of flink-benchmarks: 150,000 timers are set, a thousand keys, and
// all of them fire.
func BenchmarkFireProcessingTimers(b *testing.B) {
	const keys, each, commit = 1000, 150, 10_000
	c := &clockwork{t: b, lean: true}
	now := int64(1)
	c.process = func(w *bell, r processor.Record[string, string]) error {
		for i := range int64(each) {
			if err := w.walls.Set(r.Key, ms(now+i)); err != nil {
				return err
			}
		}
		return nil
	}
	c.start()
	run := func() {
		for more := true; more; {
			r, err := c.task.Step(commit, nil)
			if err != nil {
				b.Fatal(err)
			}
			more = r.More
			c.task.Outputs()
			if err := c.task.Committed(c.task.Seal(), nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("key-%04d", i)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, k := range names {
			c.enqueue(1, k, "")
		}
		run()
		now += each
		c.task.Tick(now)
		run()
	}
	if want := b.N * keys * each; c.rings != want {
		b.Fatalf("%d timers fired, want %d", c.rings, want)
	}
	b.ReportMetric(float64(c.rings)/b.Elapsed().Seconds(), "timers/s")
}
