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
	top, err := topology()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, opts...)
}

// clock is a time of the day.
func clock(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse("15:04", text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Date(2026, 1, 1, at.Hour(), at.Minute(), 0, 0, time.UTC)
}

// TestTimer: three clicks, in order and out of order, are one session, with one timer pending at any time; it ends half an hour
// after the latest of them, once. On both engines, and with a crash behind every step.
func TestTimer(t *testing.T) {
	for name, times := range map[string][]string{
		"in order":     {"10:00", "10:15", "10:20"},
		"out of order": {"10:00", "10:20", "10:15"},
		"before all":   {"10:15", "10:20", "10:00"},
	} {
		for _, engine := range []string{"memory", "pebble"} {
			for _, mode := range []string{"straight", "crash", "lost disk"} {
				t.Run("TM-13/"+name+"/"+engine+"/"+mode, func(t *testing.T) {
					var opts []streamtest.Option
					if engine == "pebble" {
						opts = append(opts, streamtest.Pebble())
					}
					d := start(t, opts...)
					in, out := streamtest.In(d, clicks), streamtest.Out(d, sessions)
					step := map[string]func(){"straight": func() {}, "crash": d.Crash, "lost disk": d.CrashLosingDisk}[mode]
					latest := ""
					for _, at := range times {
						in.SendAt(clock(t, at), "ann", "/")
						step()
						latest = max(latest, at)
						pending := streamtest.Timers(d, over).All()
						if len(pending) != 1 || !pending[0].At.Equal(clock(t, latest).Add(gap)) {
							t.Fatalf("after %s the timers are %v", at, pending)
						}
					}
					in.SendAt(clock(t, "10:49"), "bob", "/")
					step()
					out.Want()
					in.SendAt(clock(t, "10:50"), "bob", "/")
					step()
					out.Want(out.RecordAt(clock(t, "10:50"), "ann", Summary{clock(t, "10:00"), clock(t, "10:50"), 3, 1, "/"}))
					in.SendAt(clock(t, "10:55"), "bob", "/")
					step()
					out.Want()
					if pending := streamtest.Timers(d, over).All(); len(pending) != 1 || pending[0].Key != "bob" {
						t.Errorf("the timers are %v", pending)
					}
				})
			}
		}
	}
}

// A click beyond the end of its own session moves the clock past it: it belongs to the next one.
func TestAClickBeyondTheEnd(t *testing.T) {
	d := start(t)
	in, out := streamtest.In(d, clicks), streamtest.Out(d, sessions)
	in.SendAt(clock(t, "10:00"), "ann", "/a")
	in.SendAt(clock(t, "10:30"), "ann", "/b")
	out.Want(out.RecordAt(clock(t, "10:30"), "ann", Summary{clock(t, "10:00"), clock(t, "10:30"), 1, 1, "/a"}))
	d.Drain()
	out.Want(out.RecordAt(clock(t, "11:00"), "ann", Summary{clock(t, "10:30"), clock(t, "11:00"), 1, 1, "/b"}))
	if n := streamtest.Timers(d, over).Len(); n != 0 {
		t.Errorf("%d timers are left", n)
	}
}

// The generated day, with crashes, gives the sessions that sorting shows.
func TestCrashesBetweenClicks(t *testing.T) {
	day := generate(12, clock(t, "08:00"))
	d := start(t, streamtest.Partitions(3), streamtest.CommitEvery(5))
	in := streamtest.In(d, clicks)
	random := rand.New(rand.NewPCG(5, 6))
	for _, c := range day {
		in.SendAt(c.at, c.user, c.page)
		switch random.IntN(15) {
		case 0:
			d.Crash()
		case 1:
			d.CrashLosingDisk()
		case 2:
			d.Abort()
		}
	}
	d.Settle()
	if err := compare(streamtest.Out(d, sessions).All(), cut(day)); err != nil {
		t.Error(err)
	}
	if n := streamtest.Timers(d, over).Len(); n != 12 {
		t.Errorf("%d timers are pending for 12 users", n)
	}
}

func TestCompareSeesADifference(t *testing.T) {
	day := generate(2, clock(t, "08:00"))
	want := cut(day)
	var all []processor.Record[string, Summary]
	for user, of := range want {
		for _, s := range of {
			all = append(all, processor.Record[string, Summary]{Key: user, Value: s})
		}
	}
	if err := compare(all, want); err != nil {
		t.Error(err)
	}
	if compare(all[1:], want) == nil || compare(append(all, all[0]), want) == nil {
		t.Error("one missing, or one too many, is not seen")
	}
}
