package main

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/millrace-io/millrace/processor"
)

// sent is an event on its way: what was sent, and when.
type sent struct {
	id string
	at time.Time
	Event
}

// generate makes n events within a week. A third of them come again: most within minutes, some after a day and more. The same
// every time.
func generate(n int, began time.Time) []sent {
	random := rand.New(rand.NewPCG(6, 6))
	step := 7 * day / time.Duration(n)
	var all []sent
	for i := range n {
		e := sent{at: began.Add(time.Duration(i) * step), Event: Event{Number: int64(i), What: "order"}}
		back := 0
		switch random.IntN(9) {
		case 0, 1:
			back = 1 + random.IntN(20)
		case 2:
			back = 1 + random.IntN(n/3)
		}
		if back > 0 && back <= i {
			e.id = all[i-back].id
		} else {
			e.id = fmt.Sprintf("event-%06d", i)
		}
		all = append(all, e)
	}
	return all
}

func records(all []sent) iter.Seq2[processor.Record[string, Event], error] {
	return func(yield func(processor.Record[string, Event], error) bool) {
		for _, e := range all {
			if !yield(processor.Record[string, Event]{Key: e.id, Value: e.Event, Time: e.at}, nil) {
				return
			}
		}
	}
}

// firsts are the numbers of the events that are the first of their id for a day, found with a map of everything.
func firsts(all []sent) map[int64]bool {
	first := map[int64]bool{}
	since := map[string]time.Time{}
	for _, e := range all {
		at := e.at.Truncate(time.Millisecond)
		if was, ok := since[e.id]; ok && at.Before(was.Add(day)) {
			continue
		}
		since[e.id], first[e.Number] = at, true
	}
	return first
}

// compare says how what came out differs from the firsts.
func compare(got []processor.Record[string, Event], want map[int64]bool) error {
	have := map[int64]bool{}
	for _, r := range got {
		n := r.Value.Number
		switch {
		case have[n]:
			return fmt.Errorf("event %d came through twice", n)
		case !want[n]:
			return fmt.Errorf("event %d (%s) came through and is a duplicate", n, r.Key)
		}
		have[n] = true
	}
	for n := range want {
		if !have[n] {
			return fmt.Errorf("event %d did not come through", n)
		}
	}
	return nil
}
