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
	top, err := fraud()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, opts...)
}

// script sends payments of one card, in seconds and cents, and returns the rules that were broken, by payment. The
// application dies after each payment: a rule that remembers in a field forgets.
func script(t *testing.T, steps [][2]int64) map[int64][]string {
	t.Helper()
	d := start(t)
	in, out := streamtest.In(d, payments), streamtest.Out(d, alerts)
	began := d.Now()
	for i, s := range steps {
		in.SendAt(began.Add(time.Duration(s[0])*time.Second), "card", Payment{int64(i + 1), s[1]})
		d.Crash()
	}
	rules := map[int64][]string{}
	for _, r := range out.All() {
		rules[r.Value.Payment] = append(rules[r.Value.Payment], r.Value.Rule)
	}
	return rules
}

func TestRules(t *testing.T) {
	var usual [][2]int64 // ten payments of 20.00 in as many hours
	for i := range int64(10) {
		usual = append(usual, [2]int64{i * 3600, 20_00})
	}
	for _, c := range []struct {
		name  string
		steps [][2]int64
		rule  string // broken by the last payment
	}{
		{"tiny, then large", [][2]int64{{0, 50}, {59, 600_00}}, probe},
		{"too late", [][2]int64{{0, 50}, {60, 600_00}}, ""},
		{"something in between", [][2]int64{{0, 50}, {10, 30_00}, {59, 600_00}}, probe},
		{"the minute begins again", [][2]int64{{0, 50}, {50, 50}, {100, 600_00}}, probe},
		{"an alert ends it", [][2]int64{{0, 50}, {10, 600_00}, {20, 600_00}}, ""},
		{"1.00 is not tiny", [][2]int64{{0, 1_00}, {10, 600_00}}, ""},
		{"500.00 is not large", [][2]int64{{0, 50}, {10, 500_00}}, ""},

		{"six within a minute", [][2]int64{{0, 9_00}, {1, 9_00}, {2, 9_00}, {3, 9_00}, {4, 9_00}, {59, 9_00}}, velocity},
		{"six in a minute and more", [][2]int64{{0, 9_00}, {1, 9_00}, {2, 9_00}, {3, 9_00}, {4, 9_00}, {60, 9_00}}, ""},

		{"eleven times the average", append(usual[:10:10], [2]int64{40_000, 220_00}), amount},
		{"ten times the average", append(usual[:10:10], [2]int64{40_000, 200_00}), ""},
		{"not known long enough", append(usual[:9:9], [2]int64{40_000, 220_00}), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := script(t, c.steps)[int64(len(c.steps))]
			if c.rule == "" && len(got) > 0 || c.rule != "" && (len(got) != 1 || got[0] != c.rule) {
				t.Errorf("rules broken: %v, want %q", got, c.rule)
			}
		})
	}
}

// A generated day through the topology, with crashes, gives the alerts that the histories show.
func TestCrashesBetweenPayments(t *testing.T) {
	day := generate(2500, 20, time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC))
	want := recompute(day)
	kinds := map[string]bool{}
	for b := range want {
		kinds[b.rule] = true
	}
	if len(kinds) != 3 {
		t.Fatalf("the day breaks only the rules %v", kinds)
	}
	d := start(t, streamtest.Partitions(3), streamtest.CommitEvery(7))
	in := streamtest.In(d, payments)
	random := rand.New(rand.NewPCG(3, 4))
	for _, p := range day {
		in.SendAt(p.at, p.card, p.Payment)
		switch random.IntN(60) {
		case 0:
			d.Crash()
		case 1:
			d.CrashLosingDisk()
		case 2:
			d.Abort()
		}
	}
	d.Settle()
	if err := compare(streamtest.Out(d, alerts).All(), want); err != nil {
		t.Error(err)
	}
}

func TestCompareSeesADifference(t *testing.T) {
	alert := func(id int64) processor.Record[string, Alert] {
		return processor.Record[string, Alert]{Key: "card", Value: Alert{Payment: id, Rule: probe}}
	}
	want := map[broken]bool{{"card", 1, probe}: true, {"card", 2, probe}: true}
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

func TestTheDayIsTheSameEveryTime(t *testing.T) {
	at := time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC)
	a, b := generate(1000, 50, at), generate(1000, 50, at.Add(time.Hour))
	for i := range a {
		if a[i].Payment != b[i].Payment || a[i].card != b[i].card || b[i].at.Sub(a[i].at) != time.Hour {
			t.Fatalf("payment %d: %v and %v", i, a[i], b[i])
		}
	}
}
