package stream

import (
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/topology"
)

// The nouns and the finished graph, so that a program needs to import only this package.
type (
	// Topic is a Kafka topic with its types.
	Topic[K, V any] = topology.Topic[K, V]
	// ThroughTopic is a repartition topic.
	ThroughTopic[K, V any] = topology.ThroughTopic[K, V]
	// Builder collects a topology.
	Builder = topology.Builder
	// Topology is what Build returns.
	Topology = topology.Topology
	// Sink is a topic being written.
	Sink = topology.SinkNode
)

// NewTopic declares a topic by its literal name in Kafka.
func NewTopic[K, V any](name string, key serde.Serde[K], value serde.Serde[V]) Topic[K, V] {
	return topology.NewTopic(name, key, value)
}

// Through declares a repartition topic: internal, named "<app>-<name>-repartition" in Kafka.
func Through[K, V any](name string, key serde.Serde[K], value serde.Serde[V]) ThroughTopic[K, V] {
	return topology.Through(name, key, value)
}

// NewBuilder returns an empty builder.
func NewBuilder() *Builder { return topology.NewBuilder() }

// Stream is a stream of records on their way through a topology. It is a handle: verbs return new ones, and a stream may
// be used by any number of verbs. The zero Stream belongs to no builder; its verbs panic.
type Stream[K, V any] struct {
	node    topology.Node[K, V]
	rekeyed string // the verb, with its line, that may have changed the key since the last repartition
}

// Pair is a key and a value, as FlatMap makes them.
type Pair[K, V any] struct {
	Key   K
	Value V
}

// From reads topics of one type. Reading a topic a second time gives the same source.
func From[K, V any](b *Builder, t Topic[K, V], more ...Topic[K, V]) Stream[K, V] {
	mark := b.Mark()
	first := topology.AddSource(b, "", t)
	if len(more) == 0 {
		return Stream[K, V]{node: first}
	}
	others := make([]topology.Node[K, V], len(more))
	for i, m := range more {
		others[i] = topology.AddSource(b, "", m)
	}
	return Stream[K, V]{node: merge(first, others).Since(mark)}
}

// Named names what the last verb made, as it shows in errors, metrics and pictures. Names are unique in a topology.
func (s Stream[K, V]) Named(name string) Stream[K, V] {
	s.node = s.node.Named(name)
	return s
}

// OnError says what happens to a record that fails in what the last verb made: behind From it is about decoding,
// behind Map about the function, behind Repartition about encoding and decoding. Without it the application's policy
// holds.
func (s Stream[K, V]) OnError(p processor.Policy) Stream[K, V] {
	s.node = s.node.OnError(p)
	return s
}

// Filter keeps the records for which keep is true.
func (s Stream[K, V]) Filter(keep func(K, V) bool) Stream[K, V] {
	return s.filter("filter", keep, true)
}

// FilterNot keeps the records for which drop is false.
func (s Stream[K, V]) FilterNot(drop func(K, V) bool) Stream[K, V] {
	return s.filter("filter-not", drop, false)
}

func (s Stream[K, V]) filter(kind string, f func(K, V) bool, want bool) Stream[K, V] {
	spec := topology.NodeSpec{Kind: kind, Nil: f == nil, KeepsKey: true}
	s.node = topology.AddNode(spec, func(st *topology.Stage[K, V]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			if f(r.Key, r.Value) != want {
				return nil
			}
			return next(r)
		}, nil
	}, s.node)
	return s
}

// Peek calls f with every record and passes the record on.
func (s Stream[K, V]) Peek(f func(K, V)) Stream[K, V] {
	spec := topology.NodeSpec{Kind: "peek", Nil: f == nil, KeepsKey: true}
	s.node = topology.AddNode(spec, func(st *topology.Stage[K, V]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			f(r.Key, r.Value)
			return next(r)
		}, nil
	}, s.node)
	return s
}

// Merge puts the records of other streams into this one, in the order in which the task processes them.
func (s Stream[K, V]) Merge(others ...Stream[K, V]) Stream[K, V] {
	nodes := make([]topology.Node[K, V], len(others))
	for i, o := range others {
		nodes[i] = o.node
		if s.rekeyed == "" {
			s.rekeyed = o.rekeyed
		}
	}
	s.node = merge(s.node, nodes)
	return s
}

func merge[K, V any](first topology.Node[K, V], others []topology.Node[K, V]) topology.Node[K, V] {
	return topology.AddNode(topology.NodeSpec{Kind: "merge", KeepsKey: true}, func(st *topology.Stage[K, V]) (func(*processor.Record[K, V]) error, error) {
		return st.Next(), nil // nothing to do: the parents share a child
	}, first, others...)
}

// Repartition sends the records through a topic of the application's own, partitioned by key: behind it, equal keys are in
// one task. Records with a null key go to any partition.
func (s Stream[K, V]) Repartition(t ThroughTopic[K, V]) Stream[K, V] {
	return Stream[K, V]{node: topology.AddThrough(t, s.node)}
}

// To writes the records to a topic, with their keys, event times and headers; a null value is written as a tombstone.
// The topic must exist. Its partition is chosen by the key as Kafka's own clients do.
func (s Stream[K, V]) To(t Topic[K, V]) Sink {
	return topology.AddSink("", t, s.node)
}
