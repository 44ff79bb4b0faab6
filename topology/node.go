package topology

import (
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// Kinds of nodes this package makes. Others are named by the verbs that make them.
const (
	kindSource  = "source"
	kindProcess = "process"
	kindSink    = "sink"
)

// Node is a handle to a node whose records have these types. The zero Node belongs to no builder: it may not be a node's
// only parent (the call panics, since there is no Build that could report it).
type Node[K, V any] struct {
	b     *Builder
	first int // the call that made the node made first..id
	id    int
}

// Builder is the builder the node was added to. It panics for the zero Node.
func (n Node[K, V]) Builder() *Builder { return builderOf(n, nil) }

// At is the line of the program that made the node, as "dir/file.go:12", for errors.
func (n Node[K, V]) At() string {
	if n.b == nil {
		return "an unknown line"
	}
	return n.b.nodes[n.id].at.String()
}

// OnError sets what happens to a record that fails in the nodes the last call made: a source's decoding, a
// processor's code, a repartition's encoding and decoding.
func (n Node[K, V]) OnError(p processor.Policy) Node[K, V] {
	if n.b != nil {
		n.b.setPolicy(n.first, n.id, p)
	}
	return n
}

// Named names the node. Names are unique in a topology; they show in errors, metrics, dead letters and pictures.
func (n Node[K, V]) Named(name string) Node[K, V] {
	if n.b != nil {
		n.b.setName(n.id, name)
	}
	return n
}

// Since widens the handle, for OnError, to all nodes added since mark: a verb that makes several nodes is one thing to
// its user.
func (n Node[K, V]) Since(mark int) Node[K, V] {
	n.first = mark
	return n
}

// SinkNode is a handle to a sink.
type SinkNode struct {
	b  *Builder
	id int
}

// OnError sets what happens to a record that the sink cannot encode, or the broker refuses.
func (s SinkNode) OnError(p processor.Policy) SinkNode {
	if s.b != nil {
		s.b.setPolicy(s.id, s.id, p)
	}
	return s
}

// Named names the sink.
func (s SinkNode) Named(name string) SinkNode {
	if s.b != nil {
		s.b.setName(s.id, name)
	}
	return s
}

// AddSource adds a node that reads t. An empty name takes the topic's. A topic is read once: adding it again, declared
// the same way, returns the node that is there.
func AddSource[K, V any](b *Builder, name string, t Topic[K, V]) Node[K, V] {
	use := useOf(t)
	for _, n := range b.nodes {
		if n.kind != kindSource || n.broadcast != "" || n.topic.ref.Name != t.ref.Name || n.topic.ref.Through != t.ref.Through {
			continue
		}
		if !n.topic.sameTypes(use) {
			break // reported by Build, with both lines
		}
		if n.topic.extractor != use.extractor {
			b.Refuse(&fault.Error{Code: "topic/extractor-conflict", Thing: "topic", Value: t.ref.Name,
				Reason: "is read twice with different timestamp functions; first at " + n.at.String(),
				Remedy: "declare the topic once and use the same value in both places"})
		}
		if !n.topic.clock.same(&use.clock) || n.topic.promises != use.promises {
			b.Refuse(&fault.Error{Code: "topic/clock-conflict", Thing: "topic", Value: t.ref.Name,
				Reason: "is read twice with different clocks: " + use.clock.String() + " here, " + n.topic.clock.String() + " at " + n.at.String(),
				Remedy: "declare the topic once and use the same value in both places"})
		}
		if name != "" && name != n.display() {
			b.Refuse(&fault.Error{Code: "topic/read-twice", Thing: "topic", Value: t.ref.Name,
				Reason: "is read by source " + quote(n.display()) + " already, added at " + n.at.String(),
				Remedy: "use the handle of that source"})
		}
		return Node[K, V]{b, n.id, n.id}
	}
	n := b.add(&node{name: name, auto: t.ref.Name, kind: kindSource, at: caller(), topic: use, feeder: -1})
	if t.ref.Through {
		b.refuseAt(n.at, &fault.Error{Code: "topic/internal", Thing: "topic", Value: t.ref.Name,
			Reason: "is a repartition topic and cannot be read by itself", Remedy: "use Repartition, GroupBy or AddThrough"})
	}
	checkCodecs(b, n.at, t)
	n.wire = wireSource(t)
	return Node[K, V]{b, n.id, n.id}
}

// AddProcessor adds a node that runs user code: newP makes one processor per task. The processor may open the stores
// given here and no others. An empty name is made up.
func AddProcessor[KI, VI, KO, VO any](name string, newP func() processor.Processor[KI, VI, KO, VO], stores []store.Spec, parent Node[KI, VI], more ...Node[KI, VI]) Node[KO, VO] {
	s := NodeSpec{Name: name, Kind: kindProcess, Stores: stores, Nil: newP == nil}
	return AddNode(s, wireProcessor(newP, nil), parent, more...)
}

// AddValuesProcessor is AddProcessor for a processor that cannot change the key: whatever key it forwards, the record
// goes on with the key it came with.
func AddValuesProcessor[K, VI, VO any](name string, newP func() processor.Processor[K, VI, K, VO], stores []store.Spec, parent Node[K, VI], more ...Node[K, VI]) Node[K, VO] {
	s := NodeSpec{Name: name, Kind: "process-values", Stores: stores, Nil: newP == nil, KeepsKey: true}
	return AddNode(s, wireProcessor(newP, pinKey[K, VI, VO]), parent, more...)
}

// AddSink adds a node that writes t. An empty name is made up.
func AddSink[K, V any](name string, t Topic[K, V], parent Node[K, V], more ...Node[K, V]) SinkNode {
	b := builderOf(parent, more)
	n := addSink(b, name, t, parent, more)
	if t.ref.Through {
		b.refuseAt(n.at, &fault.Error{Code: "topic/internal", Thing: "topic", Value: t.ref.Name,
			Reason: "is a repartition topic and cannot be written by itself", Remedy: "use Repartition, GroupBy or AddThrough"})
	}
	return SinkNode{b, n.id}
}

// AddThrough sends records through a repartition topic: behind it equal keys are in one task. Two nodes are made, a
// sink and a source; the topology is cut between them.
func AddThrough[K, V any](t ThroughTopic[K, V], parent Node[K, V], more ...Node[K, V]) Node[K, V] {
	b := builderOf(parent, more)
	sink := addSink(b, "", t.topic, parent, more)
	src := b.add(&node{auto: t.topic.ref.Name, kind: kindSource, at: sink.at, topic: useOf(t.topic), feeder: sink.id})
	src.wire = wireSource(t.topic)
	return Node[K, V]{b, sink.id, src.id}
}

func addSink[K, V any](b *Builder, name string, t Topic[K, V], parent Node[K, V], more []Node[K, V]) *node {
	n := b.add(&node{name: name, auto: "to-" + t.ref.Name, kind: kindSink, at: caller(), topic: useOf(t), feeder: -1})
	connect(b, n, parent, more)
	checkCodecs(b, n.at, t)
	n.wire = wireSink(t)
	return n
}

// NodeSpec describes a node of AddNode.
type NodeSpec struct {
	Name   string       // the user's; empty = made up from Kind
	Kind   string       // "filter", "count", ...
	Stores []store.Spec // what the node may open
	Owns   bool         // the node alone writes Stores[0]
	Nil    bool         // a function of the user's is nil: Build reports it
	// KeepsKey: records go on with the key they came with. Rows that nodes below read by it can be read ahead.
	KeepsKey bool
	// NoValue: the node does not look at values, nor pass them on.
	NoValue bool
}

// AddNode adds a node of any kind: what the verbs of package stream are made of. wire is called once per task, after
// the node's children are wired, and returns the node's input. The record it is given belongs to the caller and is
// valid during the call; it must not be changed.
func AddNode[KI, VI, KO, VO any](s NodeSpec, wire func(*Stage[KO, VO]) (func(*processor.Record[KI, VI]) error, error), parent Node[KI, VI], more ...Node[KI, VI]) Node[KO, VO] {
	b := builderOf(parent, more)
	n := b.add(&node{name: s.Name, auto: s.Kind, kind: s.Kind, at: caller(), stores: s.Stores, owns: s.Owns, noValue: s.NoValue, feeder: -1})
	if s.Owns && len(s.Stores) > 0 && s.Stores[0] != nil {
		n.auto = s.Kind + "-" + s.Stores[0].Name()
	}
	if s.Nil {
		b.refuseAt(n.at, &fault.Error{Code: "topology/nil-function", Thing: "node", Value: n.display(),
			Reason: "its function is nil", Remedy: "give it a function"})
	}
	connect(b, n, parent, more)
	n.wire = func(w *wiring, local int, children []any) (any, error) {
		stage, err := newStage[KO, VO](w, local, children)
		if err != nil {
			return nil, err
		}
		in, err := wire(stage)
		if err != nil {
			return nil, err
		}
		if err := w.unheard(local); err != nil {
			return nil, err
		}
		if f := aheadOf[KI](w, local, s.KeepsKey); f != nil {
			w.ahead[local] = f
		}
		return in, nil
	}
	return Node[KO, VO]{b, n.id, n.id}
}

// builderOf is the builder of the first parent that has one. Where none has, there is nobody to tell the mistake to.
func builderOf[K, V any](parent Node[K, V], more []Node[K, V]) *Builder {
	if parent.b != nil {
		return parent.b
	}
	for _, p := range more {
		if p.b != nil {
			return p.b
		}
	}
	panic(&fault.Error{Code: "topology/zero-node", Kind: fault.Config, Thing: "parent", Reason: "is a zero Node or Stream, which belongs to no builder",
		Remedy: "begin with stream.From or topology.AddSource"})
}

func connect[K, V any](b *Builder, n *node, parent Node[K, V], more []Node[K, V]) {
	for i := -1; i < len(more); i++ {
		p := parent
		if i >= 0 {
			p = more[i]
		}
		if p.b != b {
			b.refuseAt(n.at, &fault.Error{Code: "topology/foreign-node", Thing: "node", Value: n.display(),
				Reason: "has a parent that was not made by this builder", Remedy: "make all nodes of a topology with one builder"})
			continue
		}
		n.parents = append(n.parents, p.id)
	}
}

func checkCodecs[K, V any](b *Builder, at place, t Topic[K, V]) {
	for _, c := range []struct {
		what    string
		missing bool
	}{{"key", missing(t.key)}, {"value", missing(t.value)}} {
		if c.missing {
			b.refuseAt(at, &fault.Error{Code: "topic/no-serde", Thing: "topic " + quote(t.ref.Name) + ", " + c.what,
				Reason: "has no serde", Remedy: "declare the topic with a serde for its " + c.what})
		}
	}
	if missing(t.key) || missing(t.value) {
		return
	}
	for _, err := range []error{serde.Usable(t.key, serde.TopicKey), serde.Usable(t.value, serde.TopicValue)} {
		if err != nil {
			b.refuseAt(at, unusable("topic", t.ref.Name, err))
		}
	}
}

func missing[T any](s serde.Serde[T]) bool { return nilPointer(s) }
