package streamtest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/topology"
)

// Output reads the committed records of a topic, each once.
type Output[K, V any] struct {
	d     *Driver
	topic *topic
	key   serde.Serde[K]
	value serde.Serde[V]
	read  int // arrivals that were read
}

// Out is the topic t, to read from, from its start. Several of one topic read independently. A topic that the topology
// does not have ends the test.
func Out[K, V any](d *Driver, t topology.Topic[K, V]) *Output[K, V] {
	d.t.Helper()
	return &Output[K, V]{d: d, topic: d.known(t.Ref().Resolve(d.o.app)), key: t.Key(), value: t.Value()}
}

// All returns the records committed since the last call, in the order in which they were committed.
func (out *Output[K, V]) All() []processor.Record[K, V] {
	out.d.t.Helper()
	all := out.since(out.read)
	out.read = len(out.topic.arrived)
	return all
}

// Last returns the last of the records committed since the last call, and whether there is one. The others count as read.
func (out *Output[K, V]) Last() (last processor.Record[K, V], ok bool) {
	out.d.t.Helper()
	if all := out.All(); len(all) > 0 {
		return all[len(all)-1], true
	}
	return last, false
}

// Empty reports whether nothing was committed since the last call of All, Last or Want.
func (out *Output[K, V]) Empty() bool { return out.read == len(out.topic.arrived) }

// Latest returns the records a compacted topic would keep, since its start: the last of each key, without those deleted,
// in the order in which they came. It does not count as reading.
func (out *Output[K, V]) Latest() []processor.Record[K, V] {
	out.d.t.Helper()
	place := map[string]int{}
	for i, a := range out.topic.arrived {
		place[string(out.topic.parts[a.partition].records[a.index].Key)] = i
	}
	var kept []int
	for _, i := range place {
		kept = append(kept, i)
	}
	slices.Sort(kept)
	var latest []processor.Record[K, V]
	for _, i := range kept {
		if r := out.decode(i); !r.NullValue {
			latest = append(latest, r)
		}
	}
	return latest
}

// Want compares the records committed since the last call with these, and reports a difference as an error of the test.
// A wanted record without a time or headers takes any.
func (out *Output[K, V]) Want(want ...processor.Record[K, V]) {
	out.d.t.Helper()
	if diff := Diff(out.All(), want); diff != "" {
		out.d.errorf("topic %s:\n%s", out.topic.name, diff)
	}
}

// Record is a record of this topic, for Want.
func (out *Output[K, V]) Record(key K, value V) processor.Record[K, V] {
	return processor.Record[K, V]{Key: key, Value: value}
}

// RecordAt is Record with an event time.
func (out *Output[K, V]) RecordAt(at time.Time, key K, value V) processor.Record[K, V] {
	return processor.Record[K, V]{Key: key, Value: value, Time: at}
}

// Tombstone is a record with a null value, for Want.
func (out *Output[K, V]) Tombstone(key K) processor.Record[K, V] {
	return processor.Record[K, V]{Key: key, NullValue: true}
}

func (out *Output[K, V]) since(from int) []processor.Record[K, V] {
	out.d.t.Helper()
	var all []processor.Record[K, V]
	for i := from; i < len(out.topic.arrived); i++ {
		all = append(all, out.decode(i))
	}
	return all
}

func (out *Output[K, V]) decode(i int) processor.Record[K, V] {
	out.d.t.Helper()
	a := out.topic.arrived[i]
	return decode(out.d, out.topic, a, out.key, out.value)
}

func decode[K, V any](d *Driver, t *topic, a arrival, key serde.Serde[K], value serde.Serde[V]) processor.Record[K, V] {
	d.t.Helper()
	raw := &t.parts[a.partition].records[a.index]
	r := processor.Record[K, V]{
		NullKey: raw.Key == nil, NullValue: raw.Value == nil, Time: time.UnixMilli(raw.Time).UTC(), Headers: cloneHeaders(raw),
	}
	var err error
	if !r.NullKey {
		if r.Key, err = key.Decode(raw.Key); err != nil {
			d.fatalf("topic %s, partition %d, offset %d: decoding key: %v", t.name, a.partition, raw.Offset, err)
		}
	}
	if !r.NullValue {
		if r.Value, err = value.Decode(raw.Value); err != nil {
			d.fatalf("topic %s, partition %d, offset %d: decoding value: %v", t.name, a.partition, raw.Offset, err)
		}
	}
	return r
}

func cloneHeaders(raw *topology.Raw) []processor.Header {
	hs := slices.Clone(raw.Headers)
	for i := range hs {
		hs[i].Value = slices.Clone(hs[i].Value)
	}
	return hs
}

// Equal reports whether got is the record that is wanted. A wanted record without a time or headers takes any.
func Equal[K, V any](got, want processor.Record[K, V]) bool {
	switch {
	case got.NullKey != want.NullKey, got.NullValue != want.NullValue:
		return false
	case !want.Time.IsZero() && !got.Time.Equal(want.Time):
		return false
	case want.Headers != nil && !reflect.DeepEqual(got.Headers, want.Headers):
		return false
	}
	return reflect.DeepEqual(got.Key, want.Key) && reflect.DeepEqual(got.Value, want.Value)
}

// Diff says how records differ from those wanted, one line per record: " " for equal ones, "-" for wanted ones that are
// missing, "+" for those that came instead. It is empty when all are equal.
func Diff[K, V any](got, want []processor.Record[K, V]) string {
	var b strings.Builder
	same := len(got) == len(want)
	for i := range max(len(got), len(want)) {
		if i < len(got) && i < len(want) && Equal(got[i], want[i]) {
			fmt.Fprintf(&b, "  %s\n", Format(got[i]))
			continue
		}
		same = false
		if i < len(want) {
			fmt.Fprintf(&b, "- %s\n", Format(want[i]))
		}
		if i < len(got) {
			fmt.Fprintf(&b, "+ %s\n", Format(got[i]))
		}
	}
	if same {
		return ""
	}
	return b.String()
}

// Format prints a record in a line: key, value, time and headers.
func Format[K, V any](r processor.Record[K, V]) string {
	var b strings.Builder
	if r.NullKey {
		b.WriteString("null = ")
	} else {
		fmt.Fprintf(&b, "%v = ", r.Key)
	}
	if r.NullValue {
		b.WriteString("null")
	} else {
		fmt.Fprintf(&b, "%v", r.Value)
	}
	if !r.Time.IsZero() {
		fmt.Fprintf(&b, " @ %s", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	for _, h := range r.Headers {
		fmt.Fprintf(&b, " %s=%q", h.Key, h.Value)
	}
	return b.String()
}
