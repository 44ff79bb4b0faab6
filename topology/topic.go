// Package topology is the graph: typed nouns and node handles, the checks that find every mistake at once, the pictures,
// and the wiring that turns one subtopology into one task's chain of functions.
package topology

import (
	"time"

	"github.com/millrace-io/millrace/serde"
)

// TopicRef names a topic. A Through topic is internal: its Kafka name is "<app>-<name>-repartition", or "<app>-<name>-global" for that
// of a global store.
type TopicRef struct {
	Name       string
	Through    bool
	Global     bool  // Through, and the topic of a global store
	Partitions int32 // of a Through topic: asked for by the user; 0 = as many as the widest source upstream
}

// Resolve returns the topic's name in Kafka.
func (r TopicRef) Resolve(app string) string {
	switch {
	case r.Global:
		return app + "-" + r.Name + "-global"
	case r.Through:
		return app + "-" + r.Name + "-repartition"
	}
	return r.Name
}

// String is "lines", or "repartition by-word" for a Through topic.
func (r TopicRef) String() string {
	switch {
	case r.Global:
		return "global " + r.Name
	case r.Through:
		return "repartition " + r.Name
	}
	return r.Name
}

// Topic is a Kafka topic with its types: declared once, used by sources, sinks, tests and queries alike. It is a value;
// copies are the same topic.
type Topic[K, V any] struct {
	ref     TopicRef
	key     serde.Serde[K]
	value   serde.Serde[V]
	extract func(K, V, time.Time) time.Time
	clock   Clock
	mark    func(K, V, time.Time) time.Time
}

// NewTopic declares a topic with its literal name in Kafka.
func NewTopic[K, V any](name string, key serde.Serde[K], value serde.Serde[V]) Topic[K, V] {
	return Topic[K, V]{ref: TopicRef{Name: name}, key: key, value: value}
}

// TimestampBy returns the topic with another source of event time: f is given the key and value of each record (the zero
// value for a null) and the timestamp Kafka has for it, and returns the event time. A time before 1970 is an error of
// the record and goes to the source's policy. f must depend on nothing but its arguments: it may be asked again for the
// same record.
func (t Topic[K, V]) TimestampBy(f func(key K, value V, at time.Time) time.Time) Topic[K, V] {
	t.extract = f
	return t
}

// WithClock returns the topic with a strategy: how its records move the event-time clock of the tasks that read it. Without one
// it is StreamTime.
func (t Topic[K, V]) WithClock(c Clock) Topic[K, V] {
	t.clock = c
	return t
}

// WatermarkBy returns the topic with watermarks that its records bring: f is given the key and value of each record (the zero
// value for a null) and its event time, and returns a watermark, after which no record at or before it is expected from the record's
// partition, or the zero time for none. It takes effect when the record was processed. f must depend on nothing but its
// arguments. It is strategy Punctuated, and excludes others.
func (t Topic[K, V]) WatermarkBy(f func(key K, value V, at time.Time) (watermark time.Time)) Topic[K, V] {
	t.mark = f
	if t.clock.kind == clockUnset {
		t.clock = Punctuated()
	}
	return t
}

// Ref is the topic's name without its types.
func (t Topic[K, V]) Ref() TopicRef { return t.ref }

// Key is the codec of the key.
func (t Topic[K, V]) Key() serde.Serde[K] { return t.key }

// Value is the codec of the value.
func (t Topic[K, V]) Value() serde.Serde[V] { return t.value }

// ThroughTopic is a repartition topic: an internal topic that records pass through so that equal keys meet in one
// task. It is owned by the application, named "<app>-<name>-repartition" in Kafka, created and purged by it.
type ThroughTopic[K, V any] struct {
	topic Topic[K, V]
}

// Through declares a repartition topic. The name is the user's, like a store's: it names bytes in Kafka, and renaming it
// leaves the records in flight behind.
func Through[K, V any](name string, key serde.Serde[K], value serde.Serde[V]) ThroughTopic[K, V] {
	return ThroughTopic[K, V]{Topic[K, V]{ref: TopicRef{Name: name, Through: true}, key: key, value: value}}
}

// Partitions returns the topic with a fixed number of partitions, which is the number of tasks behind it. Without it
// there are as many as the widest source in front of it has, or as its co-partitioned topics have.
func (t ThroughTopic[K, V]) Partitions(n int32) ThroughTopic[K, V] {
	t.topic.ref.Partitions = n
	if n <= 0 {
		t.topic.ref.Partitions = -1 // so that an explicit 0 is found by Build instead of meaning "derived"
	}
	return t
}

// Topic is the repartition topic as a Topic, for tests that want to look into it. It cannot be read or written by a
// topology.
func (t ThroughTopic[K, V]) Topic() Topic[K, V] { return t.topic }

// Ref is the topic's name without its types.
func (t ThroughTopic[K, V]) Ref() TopicRef { return t.topic.ref }
