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

// paid is a payment with its card and its moment. late says that it comes too late for the rules.
type paid struct {
	Payment
	card int
	at   time.Time
	late bool
}

const span = 120 * day

// cards is how many cards make n payments.
func cards(n int) int { return max(20, n/50) }

func cardName(card int) string { return fmt.Sprintf("card-%06d", card) }

// generate makes n payments, the same ones every time, in the order in which they arrive. Most are ordinary; cards are stolen from time to
// time, and behave like it; some payments are up to 50 minutes behind the others, a few days. A quarter of the cards are left in a
// drawer from the tenth day to the hundred and fifth.
func generate(n int, began time.Time) iter.Seq[paid] {
	return func(yield func(paid) bool) {
		random := rand.New(rand.NewPCG(2026, 4))
		began := began.Truncate(time.Millisecond)
		step := span / time.Duration(n)
		now, made := began, 0
		pay := func(card int, cents int64) bool {
			if made == n {
				return false
			}
			p := paid{card: card, at: now, Payment: Payment{ID: int64(made + 1), Cents: cents}}
			now = now.Add(min(step, time.Minute))
			switch random.IntN(1000) {
			case 0:
				p.late = made > n/10
			case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10:
				p.at = p.at.Add(-time.Duration(random.Int64N(int64(50 * time.Minute))))
			}
			if p.late {
				p.at = p.at.Add(-2*tolerated - time.Duration(random.Int64N(int64(3*day))))
			}
			if p.at.Before(began) {
				p.at = began
			}
			p.at = p.at.Truncate(time.Millisecond)
			made++
			return yield(p)
		}
		ordinary := func() int64 { return 5_00 + random.Int64N(80_00) }
		for made < n {
			card := random.IntN(cards(n))
			if since := now.Sub(began); card%4 == 0 && since > 10*day && since < 105*day {
				continue
			}
			now = now.Add(max(0, step-time.Minute))
			ok := true
			switch random.IntN(1000) {
			case 0: // probed and emptied
				ok = pay(card, 1+random.Int64N(tiny-1)) && pay(card, large+1+random.Int64N(900_00))
			case 1: // used as often as possible
				for range 5 + random.IntN(4) {
					ok = ok && pay(card, ordinary())
				}
			case 2: // one large purchase, honest or not
				ok = pay(card, 300_00+random.Int64N(900_00))
			case 3: // somebody tries a card and leaves it at that
				ok = pay(card, 1+random.Int64N(tiny-1))
			default:
				ok = pay(card, ordinary())
			}
			if !ok && made < n {
				return
			}
		}
	}
}

func records(all iter.Seq[paid]) iter.Seq2[processor.Record[string, Payment], error] {
	return func(yield func(processor.Record[string, Payment], error) bool) {
		for p := range all {
			if !yield(processor.Record[string, Payment]{Key: cardName(p.card), Value: p.Payment, Time: p.at}, nil) {
				return
			}
		}
	}
}

// broken is a rule broken by a payment.
type broken struct {
	payment int64
	rule    string
}

// expected is what must come out.
type expected struct {
	alerts map[broken]bool
	late   int
}

// recompute finds the alerts the slow way: no running state, but each payment against its card's whole history, in the order
// in which it came.
func recompute(all iter.Seq[paid]) expected {
	want := expected{alerts: map[broken]bool{}}
	history := map[int][]paid{}
	for p := range all {
		if p.late {
			want.late++
			continue
		}
		before := history[p.card]
		history[p.card] = append(before, p)

		n := 0
		for _, q := range history[p.card] {
			if d := p.at.Sub(q.at); d >= 0 && d < often {
				n++
			}
		}
		if n >= many {
			want.alerts[broken{p.ID, velocity}] = true
		}
		if sum, n := usually(before, p.at); n >= least && p.Cents*n > usual*sum {
			want.alerts[broken{p.ID, spike}] = true
		}
		if p.Cents > large && afterProbe(before, p.at) {
			want.alerts[broken{p.ID, probe}] = true
		}
	}
	return want
}

// usually adds up what the card has paid since it was last unknown.
func usually(before []paid, at time.Time) (sum, n int64) {
	var last time.Time
	for _, q := range append(slices.Clip(before), paid{at: at}) {
		if n > 0 && q.at.Sub(last) >= known {
			sum, n, last = 0, 0, time.Time{}
		}
		if q.ID > 0 {
			sum, n = sum+q.Cents, n+1
		}
		if q.at.After(last) {
			last = q.at
		}
	}
	return sum, n
}

// afterProbe reports whether the last tiny payment that no alert has ended was shortly before.
func afterProbe(before []paid, at time.Time) bool {
	var last *time.Time
	for _, q := range before {
		switch {
		case q.Cents < tiny:
			last = &q.at
		case q.Cents > large && last != nil && within(*last, q.at, soon):
			last = nil
		}
	}
	return last != nil && within(*last, at, soon)
}

// compare says how the alerts differ from those that must come.
func compare(got []processor.Record[string, Alert], want map[broken]bool) error {
	have := map[broken]bool{}
	for _, r := range got {
		b := broken{r.Value.Payment, r.Value.Rule}
		switch {
		case have[b]:
			return fmt.Errorf("payment %d (%s) raised the alert %q twice", b.payment, r.Key, b.rule)
		case !want[b]:
			return fmt.Errorf("payment %d (%s) raised the alert %q, and did not break that rule", b.payment, r.Key, b.rule)
		}
		have[b] = true
	}
	for b := range want {
		if !have[b] {
			return fmt.Errorf("payment %d broke the rule %q, and there was no alert", b.payment, b.rule)
		}
	}
	return nil
}

// perRule counts the alerts by rule.
func perRule(all []processor.Record[string, Alert]) string {
	n := map[string]int{}
	for _, r := range all {
		n[r.Value.Rule]++
	}
	text := ""
	for _, rule := range slices.Sorted(maps.Keys(n)) {
		text += fmt.Sprintf(", %d %s", n[rule], rule)
	}
	return text[min(2, len(text)):]
}
