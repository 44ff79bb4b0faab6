package main

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/millrace-io/millrace/processor"
)

// day is a made-up day, the same one every time: what was ordered, what things cost, and when. No two things happen in the
// same millisecond.
type day struct {
	orders []processor.Record[string, Order]
	prices []processor.Record[string, Price]
}

// generate makes n orders for a number of products. Prices change and products come and go all the time.
func generate(n, products int, start time.Time) *day {
	random := rand.New(rand.NewPCG(2026, 3))
	at := start.Truncate(time.Millisecond)
	d := &day{}
	for len(d.orders) < n {
		at = at.Add(time.Duration(1+random.IntN(150)) * time.Millisecond)
		product := random.IntN(products)
		key := fmt.Sprintf("p-%03d", product)
		switch random.IntN(40) {
		case 0:
			d.prices = append(d.prices, processor.Record[string, Price]{Key: key, Time: at,
				Value: Price{fmt.Sprintf("thing %03d", product), 1_00 + random.Int64N(99_00)}})
		case 1:
			if random.IntN(4) == 0 {
				d.prices = append(d.prices, processor.Record[string, Price]{Key: key, Time: at, NullValue: true})
			}
		default:
			d.orders = append(d.orders, processor.Record[string, Order]{Key: key, Time: at,
				Value: Order{int64(len(d.orders) + 1), 1 + random.Int64N(9)}})
		}
	}
	return d
}

func (d *day) orderRecords() iter.Seq2[processor.Record[string, Order], error] { return each(d.orders) }
func (d *day) priceRecords() iter.Seq2[processor.Record[string, Price], error] { return each(d.prices) }

func each[V any](records []processor.Record[string, V]) iter.Seq2[processor.Record[string, V], error] {
	return func(yield func(processor.Record[string, V], error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// outcome is what has to come out: bills and orders put aside, by the order's number.
type outcome struct {
	bills    map[int64]Bill
	unpriced map[int64]bool
}

// recompute finds the price of each order by looking for the last change before it.
func (d *day) recompute() outcome {
	want := outcome{map[int64]Bill{}, map[int64]bool{}}
	for _, o := range d.orders {
		var last *processor.Record[string, Price]
		for i, p := range d.prices {
			if p.Time.After(o.Time) {
				break
			}
			if p.Key == o.Key {
				last = &d.prices[i]
			}
		}
		if last == nil || last.NullValue {
			want.unpriced[o.Value.ID] = true
			continue
		}
		want.bills[o.Value.ID] = Bill{o.Value.ID, last.Value.Name, o.Value.Quantity * last.Value.Cents}
	}
	return want
}

// compare says how what came out differs from what had to.
func (want outcome) compare(bills []processor.Record[string, Bill], unpriced []processor.Record[string, Order]) error {
	left := outcome{maps.Clone(want.bills), maps.Clone(want.unpriced)}
	for _, r := range bills {
		b := r.Value
		switch expected, ok := want.bills[b.Order]; {
		case !ok:
			return fmt.Errorf("order %d had no price and was billed", b.Order)
		case b != expected:
			return fmt.Errorf("order %d was billed as %+v, and should be %+v", b.Order, b, expected)
		}
		if _, ok := left.bills[b.Order]; !ok {
			return fmt.Errorf("order %d was billed twice", b.Order)
		}
		delete(left.bills, b.Order)
	}
	for _, r := range unpriced {
		if !left.unpriced[r.Value.ID] {
			return fmt.Errorf("order %d was put aside, but it had a price or was put aside before", r.Value.ID)
		}
		delete(left.unpriced, r.Value.ID)
	}
	if len(left.bills) > 0 || len(left.unpriced) > 0 {
		return fmt.Errorf("%d orders were not billed and %d not put aside", len(left.bills), len(left.unpriced))
	}
	return nil
}
