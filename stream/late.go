package stream

import (
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// The strategies of event-time clocks, so that a program needs to import only this package.
type (
	// Clock says how the records of a topic move the event-time clock: Topic.WithClock.
	Clock = topology.Clock
	// Generator makes the watermarks of one partition for Custom.
	Generator = topology.Generator
)

// StreamTime is the strategy of topics without another: the clock is the greatest event time that was processed.
func StreamTime() Clock { return topology.StreamTime() }

// Monotonic is the strategy of partitions whose event times never decrease.
func Monotonic() Clock { return topology.Monotonic() }

// BoundedOutOfOrder is the strategy of partitions whose records come at most by d too late.
func BoundedOutOfOrder(d time.Duration) Clock { return topology.BoundedOutOfOrder(d) }

// Custom is a strategy of the program's own: newG makes a generator for each partition.
func Custom(name string, newG func() Generator) Clock { return topology.Custom(name, newG) }

// Punctuated is the strategy of a topic whose records bring watermarks: Topic.WatermarkBy.
func Punctuated() Clock { return topology.Punctuated() }

// SplitLate parts the records that come too late from the others: those whose event time is behind the task's clock by more than
// allowed. On stream time the clock is the greatest event time processed; with a clock strategy it is the watermark, and a
// record at the watermark is behind it already. Late records are counted by the name of the node that makes onTime, as "late". Which
// are late does not depend on restarts: the clock is committed with the records.
//
// Both streams keep keys, event times and headers. A late stream that is not used further is dropped.
func SplitLate[K, V any](s Stream[K, V], allowed time.Duration) (onTime, late Stream[K, V]) {
	return s.byLateness("on-time", allowed, false), s.byLateness("late", allowed, true)
}

// LateTo writes the records that come too late (SplitLate) to a topic, as To does, and goes on with the others.
func (s Stream[K, V]) LateTo(t Topic[K, V], allowed time.Duration) Stream[K, V] {
	onTime, late := SplitLate(s, allowed)
	late.To(t)
	return onTime
}

func (s Stream[K, V]) byLateness(kind string, allowed time.Duration, want bool) Stream[K, V] {
	if allowed < 0 {
		s.node.Builder().Refuse(&fault.Error{Code: "stream/lateness", Thing: "allowed lateness", Value: allowed.String(), Reason: "is negative",
			Remedy: "give how far behind the clock a record may be: 0 or more"})
	}
	most := allowed.Milliseconds()
	s.node = topology.AddNode(topology.NodeSpec{Kind: kind, KeepsKey: true}, func(st *topology.Stage[K, V]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		return func(r *processor.Record[K, V]) error {
			switch late := st.Late(r.Time.UnixMilli(), most); {
			case late == want:
				return next(r)
			case late:
				return st.Drop(topology.ReasonLate)
			}
			return nil
		}, nil
	}, s.node)
	return s
}
