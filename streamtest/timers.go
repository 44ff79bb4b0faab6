package streamtest

import (
	"slices"

	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
)

// TimersView looks into a set of timers, over all its partitions, as View looks into a store.
type TimersView[K any] struct {
	d    *Driver
	spec timers.Spec[K]
}

// Timers is the set spec, to look into. A set that the topology does not have ends the test.
func Timers[K any](d *Driver, spec timers.Spec[K]) TimersView[K] {
	d.t.Helper()
	if d.broker.changelogs[spec.Name()] == nil {
		d.fatalf("the topology has no timers %q", spec.Name())
	}
	return TimersView[K]{d, spec}
}

// All returns every pending timer, by partition and then in the order in which they fire.
func (v TimersView[K]) All() (all []timers.Fired[K]) {
	v.d.t.Helper()
	for _, r := range v.d.tasks {
		if !slices.ContainsFunc(r.sub.Stores, func(s store.Spec) bool { return s.Name() == v.spec.Name() }) {
			continue
		}
		set, err := v.spec.In(r.db)
		if err == nil {
			err = set.Each(func(f timers.Fired[K]) bool {
				all = append(all, f)
				return true
			})
		}
		if err != nil {
			v.d.fatalf("timers %s: %v", v.spec.Name(), err)
		}
	}
	return all
}

// Len is the number of pending timers.
func (v TimersView[K]) Len() int {
	v.d.t.Helper()
	return len(v.All())
}

// Drain ends the input: timers in event time fire as if records had come that are just late enough, one after another, until
// none is left, and what follows from them is processed and committed; first those of the subtopologies that others read
// from. A processor whose timers set others for ever never gets there. Timers in processing time are not touched. The event-time
// clock stays where it was moved to.
func (d *Driver) Drain() {
	d.t.Helper()
	for _, sub := range d.upstreamFirst() {
		d.Settle()
		for _, r := range d.tasks {
			if r.sub == sub && d.err == nil {
				r.task.Drain()
			}
		}
		d.run()
	}
	if d.err == nil {
		d.Settle()
	}
}

// upstreamFirst returns the subtopologies, those that write a topic before those that read it.
func (d *Driver) upstreamFirst() (order []*topology.Subtopology) {
	subs := d.top.Subtopologies()
	var visit func(s *topology.Subtopology)
	visit = func(s *topology.Subtopology) {
		if slices.Contains(order, s) {
			return
		}
		for _, up := range subs {
			if up != s && slices.ContainsFunc(up.Sinks, func(sink topology.Sink) bool {
				return slices.ContainsFunc(s.Sources, func(src topology.Source) bool {
					return src.Topic.Name == sink.Topic.Name && src.Topic.Through == sink.Topic.Through
				})
			}) {
				visit(up)
			}
		}
		order = append(order, s)
	}
	for _, s := range subs {
		visit(s)
	}
	return order
}
