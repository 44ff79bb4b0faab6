package topology

import (
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
)

// Kinds of nodes with two inputs, and of those that stand before them.
const (
	kindProcess2  = "process2"
	kindBroadcast = "process-broadcast"
	kindPort      = "input"
)

// either is a record of the first or of the second input of a node. It is on its way from a port to the node, and points to what
// the port was given.
type either[K1, V1, K2, V2 any] struct {
	one *processor.Record[K1, V1]
	two *processor.Record[K2, V2]
}

// addPort adds the node in front of an input. put says which of the two it is.
func addPort[K, V, KI, VI any](keepsKey bool, parent Node[K, V], put func(to *processor.Record[KI, VI], r *processor.Record[K, V])) Node[KI, VI] {
	return AddNode(NodeSpec{Kind: kindPort, KeepsKey: keepsKey}, func(s *Stage[KI, VI]) (func(*processor.Record[K, V]) error, error) {
		next := s.Next()
		var out processor.Record[KI, VI]
		return func(r *processor.Record[K, V]) error {
			put(&out, r)
			return next(&out)
		}, nil
	}, parent)
}

// AddProcessor2 adds a node that runs user code on the records of two parents, in one task. The topics that lead to it must have
// equally many partitions. Beside the node there are two that bring the records to it.
func AddProcessor2[K, V1, V2, KO, VO any](name string, newP func() processor.Processor2[K, V1, V2, KO, VO], stores []store.Spec, first Node[K, V1], second Node[K, V2]) Node[KO, VO] {
	type pair = either[K, V1, K, V2]
	b := first.b
	if b == nil {
		b = second.Builder()
	}
	mark := b.Mark()
	one := addPort(true, first, func(to *processor.Record[K, pair], r *processor.Record[K, V1]) { to.Value.one = r })
	two := addPort(true, second, func(to *processor.Record[K, pair], r *processor.Record[K, V2]) { to.Value.two, to.Value.one = r, nil })
	n := AddNode(NodeSpec{Name: name, Kind: kindProcess2, Stores: stores, Nil: newP == nil}, wireProcessor2(newP), one, two)
	return n.Since(mark)
}

func wireProcessor2[K, V1, V2, KO, VO any](newP func() processor.Processor2[K, V1, V2, KO, VO]) func(*Stage[KO, VO]) (func(*processor.Record[K, either[K, V1, K, V2]]) error, error) {
	return func(s *Stage[KO, VO]) (func(*processor.Record[K, either[K, V1, K, V2]]) error, error) {
		p := newP()
		c := &procContext[KO, VO]{Stage: s}
		if err := adopt[K](s, c, p, func() any { return newP() }); err != nil {
			return nil, err
		}
		if err := wireTimers[K](s, c, p, nil); err != nil {
			return nil, err
		}
		var ctx processor.Context[KO, VO] = c
		return func(r *processor.Record[K, either[K, V1, K, V2]]) error {
			s.Enter()
			if one := r.Value.one; one != nil {
				c.begin(one.Time)
				return s.called(c, p.Process1(ctx, clipped(one)))
			}
			two := r.Value.two
			c.begin(two.Time)
			return s.called(c, p.Process2(ctx, clipped(two)))
		}, nil
	}
}

// AddBroadcast adds a node that runs user code on the records of a parent and on those of a broadcast topic, all of which come to
// every task. rules is what the node writes of the latter, and remembers how far it has read it by. Beside the node there are the
// source of the topic and two that bring the records to it.
func AddBroadcast[K, V, BK, BV, KO, VO any](name string, newP func() processor.BroadcastProcessor[K, V, BK, BV, KO, VO], rules store.Spec, stores []store.Spec, parent Node[K, V], t Topic[BK, BV]) Node[KO, VO] {
	type pair = either[K, V, BK, BV]
	b := parent.Builder()
	mark := b.Mark()
	src := b.add(&node{auto: t.ref.Name, kind: kindSource, at: caller(), topic: useOf(t), feeder: -1})
	src.wire = wireSource(t)
	if t.ref.Through {
		b.refuseAt(src.at, &fault.Error{Code: "topic/internal", Thing: "topic", Value: t.ref.Name,
			Reason: "is a repartition topic and cannot be broadcast", Remedy: "write the rules to a topic of their own, with one partition"})
	}
	checkCodecs(b, src.at, t)
	if !nilPointer(rules) {
		src.broadcast = rules.Name()
		if rules.Kind() != store.KindBroadcast {
			b.refuseAt(src.at, &fault.Error{Code: "store/not-broadcast", Thing: "store", Value: rules.Name(),
				Reason: "is to hold what comes of the broadcast topic " + quote(t.ref.Name) + ", and is a " + rules.Kind().String() + " store",
				Remedy: "declare it with store.Broadcast"})
		}
	} else {
		src.broadcast = t.ref.Name // Build has a mistake to report
	}
	one := addPort(true, parent, func(to *processor.Record[K, pair], r *processor.Record[K, V]) { to.Value.one = r })
	two := addPort(false, Node[BK, BV]{b, src.id, src.id}, func(to *processor.Record[K, pair], r *processor.Record[BK, BV]) { to.Value.two, to.Value.one = r, nil })
	spec := NodeSpec{Name: name, Kind: kindBroadcast, Stores: append([]store.Spec{rules}, stores...), Owns: true, Nil: newP == nil}
	return AddNode(spec, wireBroadcast(newP), one, two).Since(mark)
}

func wireBroadcast[K, V, BK, BV, KO, VO any](newP func() processor.BroadcastProcessor[K, V, BK, BV, KO, VO]) func(*Stage[KO, VO]) (func(*processor.Record[K, either[K, V, BK, BV]]) error, error) {
	return func(s *Stage[KO, VO]) (func(*processor.Record[K, either[K, V, BK, BV]]) error, error) {
		p := newP()
		c := &procContext[KO, VO]{Stage: s}
		if err := adopt[K](s, c, p, func() any { return newP() }); err != nil {
			return nil, err
		}
		if err := wireTimers[K](s, c, p, nil); err != nil {
			return nil, err
		}
		for _, spec := range s.w.sub.nodes[s.local].stores {
			if spec.Kind() == store.KindTimers {
				rows, err := s.Rows(spec.Name())
				if err != nil {
					return nil, err
				}
				timers.Of(rows).Guard(c.mayTime)
			}
		}
		var ctx processor.Context[KO, VO] = c
		var broadcast processor.BroadcastContext[KO, VO] = &broadcastContext[KO, VO]{c}
		return func(r *processor.Record[K, either[K, V, BK, BV]]) error {
			s.Enter()
			if one := r.Value.one; one != nil {
				c.begin(one.Time)
				return s.called(c, p.Process(ctx, clipped(one)))
			}
			two := r.Value.two
			c.begin(two.Time)
			c.broadcasting = true
			return s.called(c, p.ProcessBroadcast(broadcast, clipped(two)))
		}, nil
	}
}

// broadcastContext is the context of a record of a broadcast topic.
type broadcastContext[K, V any] struct {
	*procContext[K, V]
}

// MayWrite is store.BroadcastSide's.
func (c *broadcastContext[K, V]) MayWrite(name string) error {
	if !c.broadcasting || !c.live {
		return c.Fail("process", errNotInCall)
	}
	if _, err := c.Rows(name); err != nil {
		return err
	}
	if !c.w.sub.owns(c.local, name) {
		return &fault.Error{Code: "store/not-broadcast", Kind: fault.Config, Thing: "store", Value: name,
			Reason: "is not written by node " + quote(c.w.sub.Nodes[c.local].Name), Remedy: "give it to the ProcessBroadcast that is to write it"}
	}
	return nil
}

// mayTime refuses timers while a record of a broadcast topic is processed: it has no key of this task.
func (c *procContext[K, V]) mayTime() error {
	if !c.broadcasting {
		return nil
	}
	return &fault.Error{Code: "timers/broadcast", Kind: fault.Record, Thing: "node", Value: c.w.sub.Nodes[c.local].Name,
		Reason: "ProcessBroadcast sets or deletes a timer, and its record has no key", Remedy: "set timers in Process or OnTimer"}
}

// owns reports whether a node writes a store of its own.
func (s *Subtopology) owns(local int, name string) bool {
	n := s.nodes[local]
	for i, st := range n.stores {
		if st.Name() == name {
			return n.ownsStore(i)
		}
	}
	return false
}

// ownsStore reports whether the store with that index is written by this node alone.
func (n *node) ownsStore(i int) bool {
	return i == 0 && n.owns || n.kind == kindBroadcast && n.stores[i].Kind() == store.KindBroadcast
}
