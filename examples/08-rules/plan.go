package main

import (
	"fmt"
	"iter"
	"time"

	"github.com/millrace-io/millrace/processor"
)

const (
	cardsInUse = 40
	roundSize  = 200
)

var merchants = []string{"bakery", "jeweller", "garage"}

// plan is how the limits change.
var plan = []struct {
	what     string
	merchant string
	cents    int64 // less than 0: no limit any more
}{
	{"the jeweller gets a limit of 500.00", "jeweller", 500_00},
	{"the bakery gets one of 20.00", "bakery", 20_00},
	{"the jeweller's is lowered to 100.00", "jeweller", 100_00},
	{"the bakery's is taken back", "bakery", -1},
	{"the garage gets one of 80.00", "garage", 80_00},
}

// at is the limit of a merchant after so many changes.
func at(merchant string, changes int) (limit Limit) {
	for i, step := range plan[:changes] {
		if step.merchant == merchant {
			if limit = (Limit{step.cents, i + 1}); step.cents < 0 {
				limit = Limit{}
			}
		}
	}
	return limit
}

// held reports whether a verdict is one of after a change, as far as its merchant is concerned.
func held(v Verdict, change int) bool { return v.Limit == at(v.Merchant, change) }

// payment is the payment with that number: the same one every time.
func payment(n int) (card string, p Payment) {
	mixed := uint32(n) * 2654435761
	cents := int64(mixed%60_000) + 1
	merchant := merchants[n%len(merchants)]
	if merchant == "bakery" {
		cents = cents%4_000 + 1
	}
	return fmt.Sprintf("card %02d", (mixed>>8)%cardsInUse), Payment{n, merchant, cents}
}

// round is the next payments.
func round(from int) iter.Seq2[processor.Record[string, Payment], error] {
	return func(yield func(processor.Record[string, Payment], error) bool) {
		for n := from; n < from+roundSize; n++ {
			card, p := payment(n)
			if !yield(processor.Record[string, Payment]{Key: card, Value: p, Time: time.Now()}, nil) {
				return
			}
		}
	}
}

// check looks at every verdict: there is one for each payment, it is what its limit says, limits of a card's merchants never go back
// to older ones, and totals are sums of what was let through.
func check(all []processor.Record[string, Verdict], sent int) error {
	type pair struct{ card, merchant string }
	seen := map[int]bool{}
	last := map[pair]int{} // the step of the plan that the card has met last
	total := map[string]int64{}
	for _, r := range all {
		v := r.Value
		card, p := payment(v.Number)
		if r.Key != card || v.Payment != p {
			return fmt.Errorf("a verdict of %s on %+v, which nobody has sent", r.Key, v.Payment)
		}
		if seen[v.Number] {
			return fmt.Errorf("two verdicts on payment %d", v.Number)
		}
		seen[v.Number] = true
		if v.Refused != (v.Limit != Limit{} && v.Cents > v.Limit.Cents) {
			return fmt.Errorf("payment %d of %d cents: refused is %v by a limit of %d", v.Number, v.Cents, v.Refused, v.Limit.Cents)
		}
		step := last[pair{card, v.Merchant}]
		for step <= len(plan) && !held(v, step) {
			step++
		}
		if step > len(plan) {
			return fmt.Errorf("payment %d of %s met limit %+v of %s, which is not one of then", v.Number, card, v.Limit, v.Merchant)
		}
		last[pair{card, v.Merchant}] = step
		if !v.Refused {
			total[card] += v.Cents
		}
		if v.Total != total[card] {
			return fmt.Errorf("%s has spent %d after payment %d, and its total says %d", card, total[card], v.Number, v.Total)
		}
	}
	if len(all) != sent {
		return fmt.Errorf("%d verdicts on %d payments", len(all), sent)
	}
	return nil
}
