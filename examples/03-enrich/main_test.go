package main

import (
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/streamtest"
)

func start(t *testing.T, opts ...streamtest.Option) *streamtest.Driver {
	t.Helper()
	top, err := enrich()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, opts...)
}

// The application dies between any two steps.
func TestAnOrderGetsThePriceOfItsMoment(t *testing.T) {
	d := start(t)
	ordered, priced := streamtest.In(d, orders), streamtest.In(d, prices)
	out, aside := streamtest.Out(d, bills), streamtest.Out(d, unpriced)

	ordered.Send("p-1", Order{1, 2})
	d.Crash()
	out.Want()
	aside.Want(aside.Record("p-1", Order{1, 2}))

	priced.Send("p-1", Price{"thing", 5_00})
	d.CrashLosingDisk()
	out.Want() // a price alone causes nothing
	ordered.Send("p-1", Order{2, 3})
	d.Crash()
	priced.Send("p-1", Price{"thing", 7_00})
	d.Crash()
	ordered.Send("p-1", Order{3, 1})
	out.Want(out.Record("p-1", Bill{2, "thing", 15_00}), out.Record("p-1", Bill{3, "thing", 7_00}))
	aside.Want()

	priced.SendTombstone("p-1")
	d.CrashLosingDisk()
	ordered.Send("p-1", Order{4, 1})
	out.Want()
	aside.Want(aside.Record("p-1", Order{4, 1}))
}

// Records that were there before the application are taken in the order of their times.
func TestOrderOfTimesAcrossTopics(t *testing.T) {
	d := start(t)
	ordered, priced := streamtest.In(d, orders), streamtest.In(d, prices)
	at := func(s int) time.Time { return d.Now().Add(time.Duration(s) * time.Second) }
	d.Together(func() {
		ordered.SendAt(at(2), "p-1", Order{1, 1})
		ordered.SendAt(at(4), "p-1", Order{2, 1})
		priced.SendAt(at(1), "p-1", Price{"thing", 5_00})
		priced.SendAt(at(3), "p-1", Price{"thing", 7_00})
	})
	out := streamtest.Out(d, bills)
	out.Want(out.RecordAt(at(2), "p-1", Bill{1, "thing", 5_00}), out.RecordAt(at(4), "p-1", Bill{2, "thing", 7_00}))
}

func TestCrashesDuringADay(t *testing.T) {
	made := generate(800, 12, time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC))
	want := made.recompute()
	if len(want.bills) == 0 || len(want.unpriced) == 0 {
		t.Fatalf("a day with %d bills and %d orders without a price shows nothing", len(want.bills), len(want.unpriced))
	}
	d := start(t, streamtest.Partitions(3), streamtest.CommitEvery(5))
	ordered, priced := streamtest.In(d, orders), streamtest.In(d, prices)
	random := rand.New(rand.NewPCG(5, 6))
	next := 0
	for _, o := range made.orders {
		for ; next < len(made.prices) && made.prices[next].Time.Before(o.Time); next++ {
			priced.SendRecord(made.prices[next])
		}
		ordered.SendRecord(o)
		switch random.IntN(40) {
		case 0:
			d.Crash()
		case 1:
			d.CrashLosingDisk()
		case 2:
			d.Abort()
		}
	}
	d.Settle()
	if err := want.compare(streamtest.Out(d, bills).All(), streamtest.Out(d, unpriced).All()); err != nil {
		t.Error(err)
	}
}

func TestCompareSeesADifference(t *testing.T) {
	billed := func(b ...Bill) (all []processor.Record[string, Bill]) {
		for _, b := range b {
			all = append(all, processor.Record[string, Bill]{Value: b})
		}
		return all
	}
	aside := func(ids ...int64) (all []processor.Record[string, Order]) {
		for _, id := range ids {
			all = append(all, processor.Record[string, Order]{Value: Order{ID: id}})
		}
		return all
	}
	want := outcome{map[int64]Bill{1: {1, "a", 100}}, map[int64]bool{2: true}}
	before := outcome{maps.Clone(want.bills), maps.Clone(want.unpriced)}
	for name, err := range map[string]error{
		"another price":  want.compare(billed(Bill{1, "a", 200}), aside(2)),
		"billed twice":   want.compare(billed(Bill{1, "a", 100}, Bill{1, "a", 100}), aside(2)),
		"no price":       want.compare(billed(Bill{1, "a", 100}, Bill{2, "a", 100}), aside()),
		"aside twice":    want.compare(billed(Bill{1, "a", 100}), aside(2, 2)),
		"bill missing":   want.compare(nil, aside(2)),
		"aside missing":  want.compare(billed(Bill{1, "a", 100}), nil),
		"wrongly aside":  want.compare(nil, aside(1, 2)),
		"changes itself": want.compare(nil, nil),
	} {
		if err == nil {
			t.Errorf("%s: not seen", name)
		}
	}
	if err := want.compare(billed(Bill{1, "a", 100}), aside(2)); err != nil {
		t.Error(err)
	}
	if !maps.Equal(want.bills, before.bills) || !maps.Equal(want.unpriced, before.unpriced) {
		t.Error("compare changes what it compares with")
	}
}
