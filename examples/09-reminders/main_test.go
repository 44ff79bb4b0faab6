package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/streamtest"
)

func start(t *testing.T, opts ...streamtest.Option) *streamtest.Driver {
	t.Helper()
	top, err := reminders()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, opts...)
}

// Whatever dies between any two steps: once, at its time, or as soon as somebody is there again.
func TestReminders(t *testing.T) {
	for name, crash := range map[string]func(d *streamtest.Driver){
		"straight":  func(*streamtest.Driver) {},
		"crash":     (*streamtest.Driver).Crash,
		"lost disk": (*streamtest.Driver).CrashLosingDisk,
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t)
			in, out := streamtest.In(d, wanted), streamtest.Out(d, due)
			began := d.Now()
			after := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
			tea, cake, bus := Reminder{"tea", after(10)}, Reminder{"cake", after(20)}, Reminder{"bus", after(30)}

			in.Send("1", tea)
			crash(d)
			in.Send("2", cake)
			in.Send("3", bus)
			crash(d)
			in.SendTombstone("2")
			later := Reminder{"tea", after(15)}
			in.Send("1", later)
			crash(d)
			if got := streamtest.Timers(d, alarms).All(); len(got) != 2 || !got[0].At.Equal(after(15)) || !got[1].At.Equal(after(30)) {
				t.Errorf("timers %v", got)
			}

			d.Advance(14 * time.Second)
			crash(d)
			out.Want()
			d.Advance(time.Second)
			crash(d)
			out.Want(out.RecordAt(after(15), "1", later))

			d.CrashFor(time.Minute) // the bus is long gone
			out.Want(out.RecordAt(after(75), "3", bus))
			crash(d)
			d.Advance(time.Hour)
			out.Want()
			if n := streamtest.Store(d, open).Len() + streamtest.Timers(d, alarms).Len(); n != 0 {
				t.Errorf("%d rows are left", n)
			}
		})
	}
}

// The plan of the demonstration, with crashes while time passes.
func TestCrashesWhileTimePasses(t *testing.T) {
	d := start(t, streamtest.Partitions(3), streamtest.CommitEvery(4))
	in := streamtest.In(d, wanted)
	plan := make(plan)
	for _, r := range plan.ask(d.Now()) {
		r.Time = d.Now()
		in.SendRecord(r)
	}
	random := rand.New(rand.NewPCG(9, 1))
	for range 60 {
		d.Advance(100 * time.Millisecond)
		switch random.IntN(4) {
		case 0:
			d.Crash()
		case 1:
			d.CrashLosingDisk()
		case 2:
			d.Abort()
		}
	}
	d.Settle()
	if err := plan.compare(streamtest.Out(d, due).All()); err != nil {
		t.Error(err)
	}
}

func TestCompareSeesADifference(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := plan{"a": at, "b": at}
	told := func(id string, at, when time.Time) processor.Record[string, Reminder] {
		return processor.Record[string, Reminder]{Key: id, Value: Reminder{At: at}, Time: when}
	}
	a, b := told("a", at, at), told("b", at, at.Add(time.Hour))
	if err := p.compare([]processor.Record[string, Reminder]{b, a}); err != nil {
		t.Error(err)
	}
	for name, all := range map[string][]processor.Record[string, Reminder]{
		"missing":   {a},
		"twice":     {a, b, a},
		"cancelled": {a, b, told("c", at, at)},
		"early":     {a, told("b", at, at.Add(-time.Millisecond))},
		"moved":     {a, told("b", at.Add(time.Second), at.Add(time.Hour))},
	} {
		if p.compare(all) == nil {
			t.Errorf("%s: not seen", name)
		}
	}
}
