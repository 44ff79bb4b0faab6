package main

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/millrace-io/millrace/processor"
)

// plan is what has to come: when, by id.
type plan map[string]time.Time

// asks are records for the application, in order.
type asks []processor.Record[string, Reminder]

// reminded is how many reminders there are before any is cancelled.
const reminded = 24

// ask makes reminders within five seconds, the same ones every time. Every fifth is moved by a second and every sixth cancelled.
func (p plan) ask(began time.Time) (all asks) {
	random := rand.New(rand.NewPCG(2026, 9))
	ask := func(id string, at time.Time) {
		p[id] = at
		all = append(all, processor.Record[string, Reminder]{Key: id, Value: Reminder{"reminder " + id, at}})
	}
	for i := range reminded {
		id := fmt.Sprintf("%02d", i)
		ask(id, began.Add(time.Second+time.Duration(random.IntN(3000))*time.Millisecond))
		switch {
		case i%5 == 4:
			ask(id, p[id].Add(time.Second))
		case i%6 == 5:
			delete(p, id)
			all = append(all, processor.Record[string, Reminder]{Key: id, NullValue: true})
		}
	}
	return all
}

func (a asks) records() iter.Seq2[processor.Record[string, Reminder], error] {
	return func(yield func(processor.Record[string, Reminder], error) bool) {
		for _, r := range a {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// compare says how what came differs from the plan.
func (p plan) compare(all []processor.Record[string, Reminder]) error {
	missing := maps.Clone(p)
	for _, r := range all {
		at, ok := p[r.Key]
		if _, first := missing[r.Key]; ok && !first {
			return fmt.Errorf("reminder %s came twice", r.Key)
		}
		switch {
		case !ok:
			return fmt.Errorf("reminder %s was cancelled, and came", r.Key)
		case !r.Value.At.Equal(at):
			return fmt.Errorf("reminder %s came for %v, and was moved to %v", r.Key, r.Value.At, at)
		case r.Time.Before(at):
			return fmt.Errorf("reminder %s came %v too early", r.Key, at.Sub(r.Time))
		}
		delete(missing, r.Key)
	}
	for id := range missing {
		return fmt.Errorf("%d reminders did not come, one of them %s", len(missing), id)
	}
	return nil
}
