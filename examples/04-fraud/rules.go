package main

import "time"

// The rules, and how they are told to people.
const (
	velocity = "velocity"
	spike    = "spike"
	probe    = "probe"

	often = 10 * time.Minute // the sixth payment within
	many  = 6

	usual = 10 // times the card's average,
	least = 5  // once it has paid so often
	known = 90 * day

	tiny  = 1_00   // less than this, and
	large = 500_00 // more than this
	soon  = 15 * time.Minute
)

var meaning = map[string]string{
	velocity: "the sixth payment, or more, within ten minutes",
	spike:    "more than ten times what the card usually pays",
	probe:    "a tiny payment, and shortly after it a large one",
}

// Profile is what a card usually pays. It is forgotten when the card has not paid for 90 days.
type Profile struct {
	Payments int64
	Cents    int64
	Last     int64 // when the card paid last, milliseconds
}

// current is the profile as it counts for a payment at that time: nothing, if the card was not used for too long.
func (p Profile) current(at time.Time) Profile {
	if p.Payments > 0 && at.Sub(time.UnixMilli(p.Last)) >= known {
		return Profile{}
	}
	return p
}

func (p Profile) unusual(paid Payment, at time.Time) bool {
	p = p.current(at)
	return p.Payments >= least && paid.Cents*p.Payments > usual*p.Cents
}

func (p Profile) with(paid Payment, at time.Time) Profile {
	p = p.current(at)
	return Profile{p.Payments + 1, p.Cents + paid.Cents, max(p.Last, at.UnixMilli())}
}

// within reports whether a is at most that long before b, or at b.
func within(a, b time.Time, long time.Duration) bool {
	d := b.Sub(a)
	return d >= 0 && d < long
}
