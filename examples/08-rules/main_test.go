package main

import (
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/streamtest"
)

func start(t *testing.T, opts ...streamtest.Option) *streamtest.Driver {
	t.Helper()
	top, err := rules()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, append(opts, streamtest.Partitions(4))...)
}

// The whole plan, the application dying after each payment and each change: a limit that is kept in a field is forgotten, a change
// that is applied twice or not at all is seen by check.
func TestRestartBetweenAllSteps(t *testing.T) {
	for name, die := range map[string]func(*streamtest.Driver){
		"crash": (*streamtest.Driver).Crash, "crash without disk": (*streamtest.Driver).CrashLosingDisk, "abort": (*streamtest.Driver).Abort,
	} {
		t.Run(name, func(t *testing.T) {
			opts := []streamtest.Option{streamtest.CommitEvery(3)}
			if name == "crash" {
				opts = append(opts, streamtest.Pebble())
			}
			d := start(t, opts...)
			in, limit, out := streamtest.In(d, payments), streamtest.In(d, changes), streamtest.Out(d, verdicts)
			sent := 0
			for change := 0; change <= len(plan); change++ {
				if change > 0 {
					for r := range limitsOf(change) {
						limit.SendRecord(processor.Record[string, Limit]{Key: r.Key, Value: r.Value, NullValue: r.NullValue})
					}
					die(d)
				}
				for range 12 {
					card, p := payment(sent)
					in.Send(card, p)
					sent++
					die(d)
				}
			}
			d.Settle()
			all := out.All()
			if err := check(all, sent); err != nil {
				t.Fatal(err)
			}
			for _, r := range all { // the driver hands everything to all tasks at once
				if change := r.Value.Number / 12; !held(r.Value, change) {
					t.Errorf("payment %d met %+v after change %d", r.Value.Number, r.Value.Limit, change)
				}
			}
		})
	}
}

func TestCheckSees(t *testing.T) {
	verdict := func(n int, limit Limit, total int64) processor.Record[string, Verdict] {
		card, p := payment(n)
		return processor.Record[string, Verdict]{Key: card, Value: Verdict{Payment: p, Refused: limit != Limit{} && p.Cents > limit.Cents, Limit: limit, Total: total}}
	}
	_, first := payment(0)
	good := verdict(0, Limit{}, first.Cents)
	wrong := good
	wrong.Value.Refused = true
	for name, all := range map[string][]processor.Record[string, Verdict]{
		"missing":      {},
		"twice":        {good, good},
		"not its own":  {verdict(0, Limit{77, 1}, first.Cents)},
		"wrong":        {wrong},
		"wrong total":  {verdict(0, Limit{}, first.Cents+1)},
		"foreign card": {{Key: "nobody", Value: good.Value}},
	} {
		if check(all, 1) == nil {
			t.Errorf("%s: not seen", name)
		}
	}
	if err := check([]processor.Record[string, Verdict]{good}, 1); err != nil {
		t.Error(err)
	}
	// The bakery's limit, and then none as before it.
	var bakery []int
	card, _ := payment(0)
	for n := 0; len(bakery) < 2; n++ {
		if c, p := payment(n); c == card && p.Merchant == "bakery" {
			bakery = append(bakery, n)
		}
	}
	_, p := payment(bakery[0])
	total := p.Cents
	if p.Cents > 20_00 {
		total = 0
	}
	back := verdict(bakery[1], Limit{}, total)
	_, q := payment(bakery[1])
	back.Value.Total += q.Cents
	if err := check([]processor.Record[string, Verdict]{verdict(bakery[0], Limit{20_00, 2}, total), back}, 2); err != nil {
		t.Errorf("taken back: %v", err)
	}
	older := verdict(bakery[1], Limit{20_00, 2}, 0)
	if check([]processor.Record[string, Verdict]{verdict(bakery[0], Limit{5, 3}, 0), older}, 2) == nil {
		t.Error("a limit of nobody's: not seen")
	}
}
