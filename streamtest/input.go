package streamtest

import (
	"time"

	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/topology"
)

// Input writes records to a topic the topology reads.
type Input[K, V any] struct {
	d         *Driver
	topic     *topic
	key       serde.Serde[K]
	value     serde.Serde[V]
	nullKey   func(K) bool
	nullValue func(V) bool
	partition int32 // -1: as the key says
}

// In is the topic t, to write to. A topic that the topology does not read ends the test.
func In[K, V any](d *Driver, t topology.Topic[K, V]) *Input[K, V] {
	d.t.Helper()
	if !d.reads(t.Ref()) {
		d.fatalf("the topology does not read topic %q", t.Ref().Name)
	}
	return &Input[K, V]{
		d: d, topic: d.known(t.Ref().Resolve(d.o.app)), partition: -1,
		key: t.Key(), nullKey: nulls(t.Key()), value: t.Value(), nullValue: nulls(t.Value()),
	}
}

func (d *Driver) reads(ref topology.TopicRef) bool {
	for _, s := range d.top.Subtopologies() {
		for _, src := range s.Sources {
			if src.Topic.Name == ref.Name && src.Topic.Through == ref.Through {
				return true
			}
		}
	}
	return false
}

// nulls is what tells the values of a codec that stand for null.
func nulls[T any](s serde.Serde[T]) func(T) bool {
	if n, ok := s.(serde.Nullable[T]); ok {
		return n.IsNull
	}
	return func(T) bool { return false }
}

// On is the same input, writing to one partition whatever the key.
func (in *Input[K, V]) On(partition int) *Input[K, V] {
	in.d.t.Helper()
	if partition < 0 || partition >= len(in.topic.parts) {
		in.d.fatalf("topic %s has %d partitions, there is no partition %d", in.topic.name, len(in.topic.parts), partition)
	}
	on := *in
	on.partition = int32(partition)
	return &on
}

// Send writes a record with the clock's time as its event time, and runs what follows from it.
func (in *Input[K, V]) Send(key K, value V) {
	in.d.t.Helper()
	in.SendRecord(processor.Record[K, V]{Key: key, Value: value, Time: in.d.Now()})
}

// SendAt is Send with an event time.
func (in *Input[K, V]) SendAt(at time.Time, key K, value V) {
	in.d.t.Helper()
	in.SendRecord(processor.Record[K, V]{Key: key, Value: value, Time: at})
}

// SendTombstone writes a null for key.
func (in *Input[K, V]) SendTombstone(key K) {
	in.d.t.Helper()
	in.SendRecord(processor.Record[K, V]{Key: key, NullValue: true, Time: in.d.Now()})
}

// SendRecord writes r: null key and value, time and headers as it says. A zero time is the clock's.
func (in *Input[K, V]) SendRecord(r processor.Record[K, V]) {
	in.d.t.Helper()
	if r.Time.IsZero() {
		r.Time = in.d.Now()
	}
	var raw topology.Raw
	var err error
	if !r.NullKey && !in.nullKey(r.Key) {
		if raw.Key, err = in.key.Append([]byte{}, r.Key); err != nil {
			in.d.fatalf("topic %s: encoding key: %v", in.topic.name, err)
		}
	}
	if !r.NullValue && !in.nullValue(r.Value) {
		if raw.Value, err = in.value.Append([]byte{}, r.Value); err != nil {
			in.d.fatalf("topic %s: encoding value: %v", in.topic.name, err)
		}
	}
	raw.Headers, raw.Time = r.Headers, r.Time.UnixMilli()
	in.send(raw)
}

// SendRaw writes bytes as they are, nil for null: what another program may have put there.
func (in *Input[K, V]) SendRaw(key, value []byte) {
	in.d.t.Helper()
	in.send(topology.Raw{Key: key, Value: value, Time: in.d.now})
}

// TrySend is Send for a record that may meet policy Fail: it returns the error of the application, which has failed then.
func (in *Input[K, V]) TrySend(key K, value V) error {
	in.d.t.Helper()
	return in.d.Try(func() { in.Send(key, value) })
}

// Try runs f, which may send, commit or crash, and returns the error of the application if it fails in f.
func (d *Driver) Try(f func()) error {
	d.t.Helper()
	d.trying = true
	defer func() { d.trying = false }()
	f()
	return d.err
}

func (in *Input[K, V]) send(raw topology.Raw) {
	d := in.d
	d.t.Helper()
	d.alive()
	p := in.partition
	if p < 0 && raw.Key != nil {
		p = task.Partition(raw.Key, int32(len(in.topic.parts)))
	}
	in.topic.append(in.topic.partition(p), own(raw), false)
	d.run()
}
