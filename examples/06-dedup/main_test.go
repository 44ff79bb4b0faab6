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
	top, err := dedup()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, opts...)
}

// The day counts from the first sight, whatever comes in between, and whatever dies in between.
func TestTheDayCountsFromTheFirstSight(t *testing.T) {
	for name, dies := range map[string]func(*streamtest.Driver){
		"straight":  func(d *streamtest.Driver) { d.Settle() },
		"crash":     func(d *streamtest.Driver) { d.Settle(); d.Crash() },
		"lost disk": func(d *streamtest.Driver) { d.Settle(); d.CrashLosingDisk() },
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, streamtest.Partitions(1))
			in, out := streamtest.In(d, events), streamtest.Out(d, once)
			began := d.Now()
			for i, s := range []struct {
				at      time.Duration
				id      string
				through bool
			}{
				{0, "a", true},
				{time.Hour, "a", false},
				{time.Hour, "b", true},
				{23 * time.Hour, "a", false},
				{day - time.Millisecond, "a", false},
				{day, "a", true},
				{day + time.Hour - time.Millisecond, "b", false},
				{day + time.Hour, "b", true},
				{2*day - time.Millisecond, "a", false},
				{2 * day, "a", true},
			} {
				in.SendAt(began.Add(s.at), s.id, Event{Number: int64(i)})
				dies(d)
				if got := len(out.All()) == 1; got != s.through {
					t.Errorf("event %d (%s after %s) came through: %v, want %v", i, s.id, s.at, got, s.through)
				}
			}
		})
	}
}

// A generated week through the topology, with crashes, lets the events through that a map lets through.
func TestCrashesBetweenEvents(t *testing.T) {
	for _, engine := range [][]streamtest.Option{nil, {streamtest.Pebble()}} {
		week := generate(3000, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		want := firsts(week)
		if len(want) < 2000 || len(want) > 2900 {
			t.Fatalf("%d of %d events are the first", len(want), len(week))
		}
		d := start(t, append(engine, streamtest.Partitions(3), streamtest.CommitEvery(9))...)
		in := streamtest.In(d, events)
		random := rand.New(rand.NewPCG(1, 6))
		for _, e := range week {
			in.SendAt(e.at, e.id, e.Event)
			switch random.IntN(80) {
			case 0:
				d.Crash()
			case 1:
				d.CrashLosingDisk()
			case 2:
				d.Abort()
			}
		}
		d.Settle()
		if err := compare(streamtest.Out(d, once).All(), want); err != nil {
			t.Error(err)
		}
		// What is over is forgotten, not only passed over: about a day's ids are left of a week's.
		d.Advance(time.Second)
		d.Settle()
		if n := len(streamtest.Store(d, seen).All()); n > len(want)/4 {
			t.Errorf("%d of %d ids are still remembered", n, len(want))
		}
	}
}

func TestCompareSeesADifference(t *testing.T) {
	event := func(n int64) processor.Record[string, Event] {
		return processor.Record[string, Event]{Value: Event{Number: n}}
	}
	want := map[int64]bool{1: true, 2: true}
	for name, got := range map[string][]processor.Record[string, Event]{
		"missing":   {event(1)},
		"twice":     {event(1), event(2), event(1)},
		"duplicate": {event(1), event(2), event(3)},
	} {
		if compare(got, want) == nil {
			t.Errorf("%s: not seen", name)
		}
	}
	if err := compare([]processor.Record[string, Event]{event(2), event(1)}, want); err != nil {
		t.Error(err)
	}
}
