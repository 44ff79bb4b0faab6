package topology

import (
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
)

// IdleDefault is how long a partition that has no more records holds the clock up, unless Clock.Idle says something else.
const IdleDefault = 30 * time.Second

// Clock is a strategy: how the records of a topic move the event-time clock of the tasks that read it. It is a value, given to a
// topic with WithClock. All topics that a task reads have one of a kind: the zero Clock and StreamTime are one kind, those that
// make watermarks are the other.
//
// A watermark w says: no record at or before w is expected any more. Each input partition has its own; the task's clock is the
// least of them, and never goes back. A record is processed before it moves the clock. Behind a repartition topic the clock is
// the least watermark of the tasks that write it, which travels with the records.
type Clock struct {
	kind  clockKind
	name  string
	bound time.Duration
	idle  time.Duration
	drift time.Duration
	align bool
	make  func() Generator
}

type clockKind uint8

const (
	clockUnset clockKind = iota
	clockStreamTime
	clockBounded
	clockCustom
	clockPunctuated
)

// StreamTime is the strategy of topics without another: the clock is the greatest event time of the records that the task has
// processed, the one being processed included. A record that is older is behind the clock.
func StreamTime() Clock { return Clock{kind: clockStreamTime} }

// Monotonic is for partitions whose event times never decrease: the watermark is a millisecond behind the latest record.
func Monotonic() Clock { return Clock{kind: clockBounded, name: "monotonic", idle: IdleDefault} }

// BoundedOutOfOrder is for partitions whose records come at most by as much too late: the watermark is d and a millisecond behind the
// latest record. d is not negative, and rounded up to whole milliseconds.
func BoundedOutOfOrder(d time.Duration) Clock {
	return Clock{kind: clockBounded, name: "bounded " + d.String(), bound: d, idle: IdleDefault}
}

// Generator makes the watermarks of one partition. It is used by one goroutine, and must depend on nothing but the times it was given:
// after a restart, or when work is undone, it is set back with Load and given the same times again.
type Generator interface {
	// OnRecord is told the event time of each record that was processed, in the order of the partition. It returns a watermark, or the
	// zero time for none; one that is not above the last has no effect. It must not wait, and a panic is the record's failure.
	OnRecord(at time.Time) (watermark time.Time)
	// Save appends what the generator must remember, at most 4 KiB. It is called once for each epoch.
	Save(dst []byte) []byte
	// Load puts the generator into the state that Save has written; empty: that of a new one. state is valid during the call.
	Load(state []byte) error
}

// Custom is a strategy of the program's own: newG makes a generator for each partition. The name stands in pictures.
func Custom(name string, newG func() Generator) Clock {
	return Clock{kind: clockCustom, name: "custom " + name, idle: IdleDefault, make: newG}
}

// Punctuated is the strategy of a topic whose records say themselves how far its event time is: Topic.WatermarkBy has the function.
// It need only be given, with WithClock, to change Idle or Align.
func Punctuated() Clock { return Clock{kind: clockPunctuated, name: "punctuated", idle: IdleDefault} }

// Idle says how long a partition without records holds the clock up: when it has been read to its end for as long, it is left out until
// its next record, whose time may then be behind the clock. 0 is never: an empty partition holds the clock up for ever. The
// default is 30 s. Time in which a task was held up, and records were waiting, does not count.
func (c Clock) Idle(d time.Duration) Clock {
	c.idle = d
	return c
}

// Align holds back partitions that run ahead: a record is not processed while its event time is more than maxDrift above where the
// slowest partition is, of those that the same task reads, and of those of this topic that the same instance reads. So a join
// that catches up with days of records keeps no more than maxDrift of them. Idle partitions hold nobody back.
func (c Clock) Align(maxDrift time.Duration) Clock {
	c.drift, c.align = maxDrift, true
	return c
}

// watermark reports whether the strategy makes watermarks.
func (c *Clock) watermark() bool { return c.kind > clockStreamTime }

func (c *Clock) String() string {
	if !c.watermark() {
		return "stream time"
	}
	s := c.name
	if c.idle != IdleDefault {
		if c.idle == 0 {
			s += ", never idle"
		} else {
			s += ", idle after " + c.idle.String()
		}
	}
	if c.align {
		s += ", aligned to " + c.drift.String()
	}
	return s
}

// same reports whether two declarations of one topic say the same.
func (c *Clock) same(o *Clock) bool {
	a, b := *c, *o
	pointer := reflect.ValueOf(a.make).Pointer() == reflect.ValueOf(b.make).Pointer()
	if !a.watermark() && !b.watermark() {
		return true
	}
	return pointer && a.kind == b.kind && a.name == b.name && a.bound == b.bound && a.idle == b.idle && a.drift == b.drift && a.align == b.align
}

// Watermark is a strategy as the kernel needs it. Times are in milliseconds.
type Watermark struct {
	Bound int64 // behind the greatest event time, and one more
	Idle  int64 // 0: never
	Drift int64 // -1: not aligned
	// New makes a generator, which says what the watermark is; nil where Bound does.
	New func() Generator
	// Promised: the records say themselves what it is. Ask Graph.Promise.
	Promised bool
}

func (c *Clock) lower() *Watermark {
	if !c.watermark() {
		return nil
	}
	w := &Watermark{Bound: millisUp(c.bound), Idle: millisUp(c.idle), Drift: -1, New: c.make, Promised: c.kind == clockPunctuated}
	if c.align {
		w.Drift = millisUp(c.drift)
	}
	return w
}

// millisUp is d in milliseconds, rounded up.
func millisUp(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}

// Late is the one rule for what comes too late: whether something whose last event time is at, in milliseconds, is behind the clock of the
// task by more than allowed. A watermark says that what is at it is over; stream time, that what is below it is. Before the clock has
// begun nothing is late.
func (s *Stage[K, V]) Late(at, allowed int64) bool {
	clock := s.StreamTime()
	if clock.IsZero() {
		return false
	}
	return late(at, allowed, clock.UnixMilli(), s.w.sub.Watermarks)
}

func late(at, allowed, clock int64, watermark bool) bool {
	if clock < at { // also where the difference would overflow
		return false
	}
	if watermark {
		return clock-at >= allowed
	}
	return clock-at > allowed
}

// ReasonLate is the reason with which operators drop what is late.
const ReasonLate = "late"

// clocks looks at the strategies of all sources, and which subtopologies have which.
func (c *check) clocks() {
	for _, n := range c.nodes {
		if n.kind == kindSource && n.topic != nil {
			c.clock(n)
		}
	}
}

func (c *check) clock(n *node) {
	k := &n.topic.clock
	refuse := func(value, reason, remedy string) {
		c.wrong.add(n.at, &fault.Error{Code: "clock/illegal", Thing: "clock of topic " + quote(n.topic.ref.Name), Value: value, Reason: reason, Remedy: remedy})
	}
	switch {
	case k.bound < 0:
		refuse(k.bound.String(), "the bound of BoundedOutOfOrder is negative", "give how much later than others a record may come: 0 or more")
	case k.idle < 0:
		refuse(k.idle.String(), "Idle is negative", "give Idle a time, or 0 for never")
	case k.align && k.drift <= 0:
		refuse(k.drift.String(), "Align needs a drift above zero", "give how far one partition may run ahead of another")
	case k.align && !k.watermark():
		refuse("stream time", "there is nothing to align by", "use a strategy that makes watermarks")
	case k.idle > 0 && k.kind <= clockStreamTime:
		refuse("stream time", "an idle partition does not hold stream time up", "leave Idle out, or use a strategy that makes watermarks")
	case k.kind == clockCustom && k.make == nil:
		refuse(k.name, "the function that makes generators is nil", "give it one")
	case k.kind == clockPunctuated && !n.topic.promises:
		refuse(k.name, "no function says which watermark a record brings", "give the topic one with WatermarkBy")
	case k.kind != clockPunctuated && n.topic.promises:
		refuse(k.String(), "the topic has WatermarkBy and another strategy", "use one of them")
	}
}

// mixedClocks refuses subtopologies some of whose sources make watermarks and some do not: there would be no clock to speak of.
func (c *check) mixedClocks() {
	subs := split(c.nodes)
	spread(subs)
	for _, s := range subs {
		if !s.Watermarks {
			continue
		}
		var marked *node
		for _, src := range s.Sources {
			if n := s.nodes[src.Node]; src.makesWatermarks() && marked == nil {
				marked = n
			}
		}
		for _, src := range s.Sources {
			n := s.nodes[src.Node]
			switch {
			case src.makesWatermarks(), src.Broadcast != "": // a broadcast topic has no part in the clock
			case marked.topic.ref.Through:
				c.wrong.add(n.at, &fault.Error{Code: "clock/downstream", Thing: n.topic.ref.String(), Value: n.topic.clock.String(),
					Reason: fmt.Sprintf("is read together with %s, added at %s, which brings watermarks", marked.topic.ref, marked.at),
					Remedy: "give the topic a strategy that makes watermarks: Monotonic or BoundedOutOfOrder"})
			default:
				c.wrong.add(n.at, &fault.Error{Code: "clock/mixed", Thing: n.topic.ref.String(), Value: n.topic.clock.String(),
					Reason: fmt.Sprintf("is read together with %s, added at %s, whose clock is %s: a task has one clock", marked.topic.ref, marked.at, &marked.topic.clock),
					Remedy: "give all topics that meet strategies that make watermarks, or none of them"})
			}
		}
	}
	for _, n := range c.nodes {
		if n.kind == kindSource && n.broadcast == "" && !n.topic.ref.Through && n.topic.clock.watermark() {
			c.below(n)
		}
	}
}

// below refuses stream time on topics that are written behind a source with watermarks.
func (c *check) below(src *node) {
	for id, ok := range c.reaches(src) {
		n := c.nodes[id]
		if ok && n.kind == kindSource && n != src && n.broadcast == "" && !n.topic.ref.Through && !n.topic.clock.watermark() {
			c.wrong.add(n.at, &fault.Error{Code: "clock/downstream", Thing: n.topic.ref.String(), Value: n.topic.clock.String(),
				Reason: fmt.Sprintf("is written behind %s, read at %s, whose clock is %s: watermarks do not travel over topics that are not internal", src.topic.ref, src.at, &src.topic.clock),
				Remedy: "use Repartition, which brings them, or give the topic a strategy that makes watermarks"})
		}
	}
}

func (s *Source) makesWatermarks() bool { return s.Watermark != nil || s.InBand }

// spread finds out which subtopologies have watermarks: those whose sources make them, and those behind them.
func spread(subs []*Subtopology) {
	writer := map[string]*Subtopology{} // by Through topic
	for _, s := range subs {
		for _, sink := range s.Sinks {
			if sink.Topic.Through && !sink.Topic.Global {
				writer[sink.Topic.Name] = s
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for _, s := range subs {
			for i := range s.Sources {
				src := &s.Sources[i]
				if src.Broadcast != "" { // it has no part in the clock
					src.Watermark = nil
					continue
				}
				if up := writer[src.Topic.Name]; src.Topic.Through && up != nil {
					src.Writer = up.Name
					src.InBand = src.InBand || up.Watermarks
				}
				if src.makesWatermarks() && !s.Watermarks {
					s.Watermarks, changed = true, true
				}
			}
		}
	}
}

// promise is what a function of the user's says about the watermark, in milliseconds; math.MinInt64 for nothing.
func promise(w time.Time) int64 {
	if w.IsZero() {
		return math.MinInt64
	}
	return w.UnixMilli()
}
