package main

import "time"

// The rules. Money is in cents.
const (
	probe    = "probe"    // a tiny payment to see whether a stolen card works, and within a minute a large one
	velocity = "velocity" // the sixth payment within a minute
	amount   = "amount"   // ten times what the card pays on average

	tiny, large = 1_00, 500_00
	soon        = time.Minute
	often       = 6  // payments within soon
	factor      = 10 // times the average
	acquainted  = 10 // payments after which there is an average to speak of
)

var meaning = map[string]string{
	probe:    "a tiny payment, then a large one within a minute",
	velocity: "more than five payments within a minute",
	amount:   "more than ten times the card's average",
}

// Card is the state machine of a card, as it is kept in its store.
//
//	quiet --tiny--> probed --large within a minute--> quiet, and an alert
//	                  |  ^
//	                  +--+ tiny: the minute begins again; anything in between changes nothing
type Card struct {
	Probed time.Time // zero: quiet
}

// step moves the machine by one payment and returns the rule that it breaks, or "".
func (c *Card) step(p Payment, at time.Time) string {
	switch {
	case p.Cents < tiny:
		c.Probed = at
	case p.Cents > large && !c.Probed.IsZero():
		inTime := at.Sub(c.Probed) < soon
		c.Probed = time.Time{}
		if inTime {
			return probe
		}
	}
	return ""
}

// Profile is what is usual for a card.
type Profile struct {
	Payments int64
	Cents    int64
	Recent   []time.Time // of the last payments, at most often-1
}

// frequent is the rule velocity, for a payment that has not been added yet.
func (p *Profile) frequent(at time.Time) string {
	if len(p.Recent) == often-1 && at.Sub(p.Recent[0]) < soon {
		return velocity
	}
	return ""
}

// unusual is the rule amount, for a payment that has not been added yet.
func (p *Profile) unusual(pay Payment) string {
	if p.Payments >= acquainted && pay.Cents*p.Payments > factor*p.Cents {
		return amount
	}
	return ""
}

func (p *Profile) add(pay Payment, at time.Time) {
	p.Payments++
	p.Cents += pay.Cents
	if len(p.Recent) == often-1 {
		p.Recent = append(p.Recent[:0], p.Recent[1:]...)
	}
	p.Recent = append(p.Recent, at)
}
