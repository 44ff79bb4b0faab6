package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/streamtest"
)

func start(t *testing.T, opts ...streamtest.Option) *streamtest.Driver {
	t.Helper()
	top, err := fraud()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, opts...)
}

// modes are what may happen between two payments.
var modes = map[string]func(*streamtest.Driver){
	"straight":  func(d *streamtest.Driver) { d.Settle() },
	"crash":     func(d *streamtest.Driver) { d.Settle(); d.Crash() },
	"lost disk": func(d *streamtest.Driver) { d.Settle(); d.CrashLosingDisk() },
}

// step is a payment some time after the first.
type step struct {
	after time.Duration
	cents int64
}

func every(gap time.Duration, n int, cents int64) (steps []step) {
	for i := range n {
		steps = append(steps, step{time.Duration(i) * gap, cents})
	}
	return steps
}

func then(before []step, after time.Duration, cents int64) []step {
	return append(slices.Clip(before), step{after, cents})
}

func TestRules(t *testing.T) {
	known20 := every(time.Hour, 5, 20_00) // five payments of 20.00
	for _, c := range []struct {
		name  string
		steps []step
		rule  string // broken by the last payment
	}{
		{"five in ten minutes", every(time.Minute, 5, 9_00), ""},
		{"the sixth is the one", every(time.Minute, 6, 9_00), velocity},
		{"the seventh is one too", every(time.Minute, 7, 9_00), velocity},
		{"the first has just left", then(every(time.Minute, 5, 9_00), 10*time.Minute, 9_00), ""},
		{"the first is just in", then(every(time.Minute, 5, 9_00), 10*time.Minute-time.Millisecond, 9_00), velocity},
		{"a late one counts where it belongs", then(then(every(time.Minute, 5, 9_00), 40*time.Minute, 9_00), 5*time.Minute, 9_00), velocity},

		{"the first payment of a card is no spike", []step{{0, 900_00}}, ""},
		{"not known well enough", then(every(time.Hour, 4, 20_00), 5*time.Hour, 201_00), ""},
		{"ten times the usual", then(known20, 5*time.Hour, 200_00), ""},
		{"more than that", then(known20, 5*time.Hour, 200_01), spike},
		{"forgotten after 90 days", then(known20, 4*time.Hour+90*day, 201_00), ""},
		{"a moment before", then(known20, 4*time.Hour+90*day-time.Millisecond, 201_00), spike},

		{"tiny, then large", []step{{0, 99}, {time.Minute, 500_01}}, probe},
		{"something in between", []step{{0, 99}, {time.Minute, 30_00}, {2 * time.Minute, 500_01}}, probe},
		{"too long after", []step{{0, 99}, {15 * time.Minute, 500_01}}, ""},
		{"an alert ends it", []step{{0, 99}, {time.Minute, 500_01}, {2 * time.Minute, 500_01}}, ""},
		{"1.00 is not tiny", []step{{0, 1_00}, {time.Minute, 500_01}}, ""},
		{"500.00 is not large", []step{{0, 99}, {time.Minute, 500_00}}, ""},
	} {
		for mode, between := range modes {
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				d := start(t, streamtest.Partitions(1))
				in, out := streamtest.In(d, payments), streamtest.Out(d, alerts)
				began := d.Now()
				for i, s := range c.steps {
					in.SendAt(began.Add(s.after), "card", Payment{int64(i + 1), s.cents})
					between(d)
				}
				var got []string
				for _, r := range out.All() {
					if r.Value.Payment == int64(len(c.steps)) {
						got = append(got, r.Value.Rule)
					}
				}
				if c.rule == "" && len(got) > 0 || c.rule != "" && (len(got) != 1 || got[0] != c.rule) {
					t.Errorf("rules broken: %v, want %q", got, c.rule)
				}
			})
		}
	}
}

// What was late before a crash is late after it, and goes where late payments go.
func TestLatePaymentsArePutAside(t *testing.T) {
	for mode, between := range modes {
		t.Run(mode, func(t *testing.T) {
			d := start(t, streamtest.Partitions(1))
			in, out := streamtest.In(d, payments), streamtest.Out(d, tooLate)
			began := d.Now()
			for i, at := range []time.Duration{10 * time.Hour, 9 * time.Hour, 9*time.Hour - time.Millisecond, 10*time.Hour + time.Second, 9 * time.Hour} {
				in.SendAt(began.Add(at), "card", Payment{int64(i + 1), 9_00})
				between(d)
			}
			var got []int64
			for _, r := range out.All() {
				got = append(got, r.Value.ID)
			}
			if fmt.Sprint(got) != "[3 5]" {
				t.Errorf("late: %v, want the third and the fifth", got)
			}
		})
	}
}

// Generated months through the topology, with crashes, give the alerts that the histories show.
func TestCrashesBetweenPayments(t *testing.T) {
	const n = 4000
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	want := recompute(generate(n, began))
	kinds := map[string]int{}
	for b := range want.alerts {
		kinds[b.rule]++
	}
	if len(kinds) != 3 || want.late == 0 {
		t.Fatalf("the months have the alerts %v and %d late payments", kinds, want.late)
	}
	for engine, opts := range map[string][]streamtest.Option{"memory": nil, "pebble": {streamtest.Pebble()}} {
		t.Run(engine, func(t *testing.T) {
			d := start(t, append(opts, streamtest.Partitions(2), streamtest.CommitEvery(7))...)
			in := streamtest.In(d, payments)
			random := rand.New(rand.NewPCG(3, 4))
			for p := range generate(n, began) {
				in.SendAt(p.at, cardName(p.card), p.Payment)
				switch random.IntN(120) {
				case 0:
					d.Crash()
				case 1:
					d.CrashLosingDisk()
				case 2:
					d.Abort()
				}
			}
			d.Settle()
			if err := compare(streamtest.Out(d, alerts).All(), want.alerts); err != nil {
				t.Error(err)
			}
			if late := streamtest.Out(d, tooLate).All(); len(late) != want.late {
				t.Errorf("%d late payments, want %d", len(late), want.late)
			}
		})
	}
}

func TestCompareSeesADifference(t *testing.T) {
	alert := func(id int64) processor.Record[string, Alert] {
		return processor.Record[string, Alert]{Key: "card", Value: Alert{Payment: id, Rule: probe}}
	}
	want := map[broken]bool{{1, probe}: true, {2, probe}: true}
	for name, got := range map[string][]processor.Record[string, Alert]{
		"missing": {alert(1)},
		"twice":   {alert(1), alert(2), alert(1)},
		"foreign": {alert(1), alert(2), alert(3)},
	} {
		if compare(got, want) == nil {
			t.Errorf("%s: not seen", name)
		}
	}
	if err := compare([]processor.Record[string, Alert]{alert(2), alert(1)}, want); err != nil {
		t.Error(err)
	}
}
