package streamtest

import (
	"strconv"
	"time"

	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
)

// View looks into a store, over all its partitions, at the state as the application sees it: uncommitted writes included.
type View[K, V any] struct {
	d    *Driver
	spec store.KeyValueSpec[K, V]
}

// Entry is one row of a store.
type Entry[K, V any] struct {
	Key   K
	Value V
}

// Store is the store spec, to look into. A store that the topology does not have ends the test.
func Store[K, V any](d *Driver, spec store.KeyValueSpec[K, V]) View[K, V] {
	d.t.Helper()
	if d.broker.changelogs[spec.Name()] == nil {
		d.fatalf("the topology has no store %q", spec.Name())
	}
	return View[K, V]{d, spec}
}

// Get returns the value for key, and whether there is one, in the first partition that has it.
func (v View[K, V]) Get(key K) (value V, ok bool) {
	v.d.t.Helper()
	v.each(func(kv *store.KV[K, V]) bool {
		var err error
		if value, ok, err = kv.Get(key); err != nil {
			v.d.fatalf("store %s: %v", v.spec.Name(), err)
		}
		return !ok
	})
	return value, ok
}

// All returns every row, by partition and then by key.
func (v View[K, V]) All() []Entry[K, V] {
	v.d.t.Helper()
	var all []Entry[K, V]
	v.each(func(kv *store.KV[K, V]) bool {
		scan := kv.All()
		for key, value := range scan.Rows() {
			all = append(all, Entry[K, V]{key, value})
		}
		if err := scan.Err(); err != nil {
			v.d.fatalf("store %s: %v", v.spec.Name(), err)
		}
		return true
	})
	return all
}

// Len is the number of rows.
func (v View[K, V]) Len() int {
	v.d.t.Helper()
	return len(v.All())
}

// each visits the store of every task that has it, while f wants more.
func (v View[K, V]) each(f func(*store.KV[K, V]) bool) {
	v.d.t.Helper()
	for _, r := range v.d.tasks {
		for _, spec := range r.sub.Stores {
			if spec.Name() != v.spec.Name() {
				continue
			}
			kv, err := v.spec.In(r.db)
			if err != nil {
				v.d.fatalf("store %s: %v", v.spec.Name(), err)
			}
			if !f(kv) {
				return
			}
		}
	}
}

// DeadLetter is a record of a dead-letter topic, taken apart (docs/format/deadletter.md).
type DeadLetter struct {
	Key     []byte // as it came; nil for null
	Value   []byte
	Headers []processor.Header // those it came with

	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time // its event time, as its topic had it
	App       string
	Task      string
	Node      string
	Op        string
	Code      string
	Error     string
}

// DeadLetters returns the committed records of a dead-letter topic, from its start; none if nothing was written to it.
func DeadLetters(d *Driver, topicName string) []DeadLetter {
	d.t.Helper()
	t := d.broker.topics[topicName]
	if t == nil {
		return nil
	}
	var letters []DeadLetter
	for _, a := range t.arrived {
		raw := &t.parts[a.partition].records[a.index]
		l := DeadLetter{Key: raw.Key, Value: raw.Value}
		last := map[string]string{}
		headers := cloneHeaders(raw)
		if n := len(headers) - task.DeadLetterHeaders; n >= 0 {
			// Its own come last: a record that was a dead letter before keeps those of that time.
			l.Headers = headers[:n:n]
		}
		for _, h := range headers {
			last[h.Key] = string(h.Value)
		}
		number := func(key string) int64 {
			n, err := strconv.ParseInt(last[key], 10, 64)
			if err != nil {
				d.fatalf("topic %s, partition %d, offset %d is not a dead letter: header %s: %v", t.name, a.partition, raw.Offset, key, err)
			}
			return n
		}
		l.Topic, l.Partition, l.Offset = last[task.DeadLetterTopic], int32(number(task.DeadLetterPartition)), number(task.DeadLetterOffset)
		l.Time = time.UnixMilli(number(task.DeadLetterTimestamp)).UTC()
		l.App, l.Task, l.Node = last[task.DeadLetterApp], last[task.DeadLetterTask], last[task.DeadLetterNode]
		l.Op, l.Code, l.Error = last[task.DeadLetterOp], last[task.DeadLetterCode], last[task.DeadLetterError]
		letters = append(letters, l)
	}
	return letters
}
