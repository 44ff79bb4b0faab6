package main

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace-io/millrace/processor"
)

// paid is a payment with its card and its moment.
type paid struct {
	Payment
	card string
	at   time.Time
}

// generate makes n payments of a number of cards, the same ones every time. Most are ordinary; a few cards are stolen
// from time to time, and then behave like it.
func generate(n, cards int, start time.Time) []paid {
	random := rand.New(rand.NewPCG(2026, 1))
	at := start.Truncate(time.Millisecond)
	var all []paid
	pay := func(card int, cents int64) {
		at = at.Add(time.Duration(1+random.IntN(200)) * time.Millisecond)
		all = append(all, paid{Payment{int64(len(all) + 1), cents}, fmt.Sprintf("card-%04d", card), at})
	}
	ordinary := func() int64 { return 5_00 + random.Int64N(80_00) }
	for len(all) < n {
		card := random.IntN(cards)
		switch random.IntN(1000) {
		case 0: // probed and emptied, perhaps with something in between
			pay(card, 1+random.Int64N(99))
			for range random.IntN(3) {
				pay(random.IntN(cards), ordinary())
			}
			pay(card, large+1+random.Int64N(900_00))
		case 1: // used as often as possible
			for range 6 + random.IntN(3) {
				pay(card, ordinary())
			}
		case 2: // one large purchase, honest or not
			pay(card, 300_00+random.Int64N(900_00))
		case 3: // somebody tries a card and leaves it at that
			pay(card, 1+random.Int64N(99))
		default:
			pay(card, ordinary())
		}
	}
	return all[:n]
}

func records(day []paid) iter.Seq2[processor.Record[string, Payment], error] {
	return func(yield func(processor.Record[string, Payment], error) bool) {
		for _, p := range day {
			if !yield(processor.Record[string, Payment]{Key: p.card, Value: p.Payment, Time: p.at}, nil) {
				return
			}
		}
	}
}

// broken is a rule broken by a payment of a card.
type broken struct {
	card    string
	payment int64
	rule    string
}

// recompute finds the alerts the slow way: no running state, but each payment against its card's whole history.
func recompute(day []paid) map[broken]bool {
	want := map[broken]bool{}
	history := map[string][]paid{}
	for _, p := range day {
		before := history[p.card]
		history[p.card] = append(before, p)
		within := func(q paid) bool { return p.at.Sub(q.at) < soon }

		// A tiny payment within the minute, and no large one since.
		if p.Cents > large {
			for _, q := range slices.Backward(before) {
				if q.Cents > large {
					break
				}
				if q.Cents < tiny {
					if within(q) {
						want[broken{p.card, p.ID, probe}] = true
					}
					break
				}
			}
		}
		lately, cents := 1, int64(0)
		for _, q := range before {
			cents += q.Cents
			if within(q) {
				lately++
			}
		}
		if lately >= often {
			want[broken{p.card, p.ID, velocity}] = true
		}
		if n := int64(len(before)); n >= acquainted && p.Cents*n > factor*cents {
			want[broken{p.card, p.ID, amount}] = true
		}
	}
	return want
}

// compare says how the alerts that came differ from those that had to come.
func compare(got []processor.Record[string, Alert], want map[broken]bool) error {
	missing := maps.Clone(want)
	for _, r := range got {
		b := broken{r.Key, r.Value.Payment, r.Value.Rule}
		switch {
		case !want[b]:
			return fmt.Errorf("an alert that should not be: %s, payment %d of %s", b.rule, b.payment, b.card)
		case !missing[b]:
			return fmt.Errorf("an alert that came twice: %s, payment %d of %s", b.rule, b.payment, b.card)
		}
		delete(missing, b)
	}
	for b := range missing {
		return fmt.Errorf("%d alerts did not come, one of them: %s, payment %d of %s", len(missing), b.rule, b.payment, b.card)
	}
	return nil
}

func perRule(all []processor.Record[string, Alert]) string {
	n := map[string]int{}
	for _, r := range all {
		n[r.Value.Rule]++
	}
	return fmt.Sprintf("%d probes, %d by velocity, %d by amount", n[probe], n[velocity], n[amount])
}
