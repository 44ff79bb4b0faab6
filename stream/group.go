package stream

import (
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Grouped is a stream whose equal keys are in one task: ready to be aggregated.
type Grouped[K, V any] struct {
	node topology.Node[K, V]
}

// GroupByKey groups a stream by the key it has. The key must be the one the topic is partitioned by: a stream whose
// key may have changed is refused by Build, and GroupBy or Repartition is the cure.
func GroupByKey[K, V any](s Stream[K, V]) Grouped[K, V] {
	needsKey("GroupByKey", s)
	return Grouped[K, V]{node: s.node.Since(s.node.Builder().Mark())}
}

// GroupBy gives each record the key f names and sends it through a repartition topic, so that equal keys meet.
func GroupBy[K, V, K2 any](s Stream[K, V], f func(K, V) K2, through ThroughTopic[K2, V]) Grouped[K2, V] {
	mark := s.node.Builder().Mark()
	return Grouped[K2, V]{node: topology.AddThrough(through, selectKey("group-by", s.node, f)).Since(mark)}
}

// OnError says what happens to a record that fails in what GroupBy made: the function, encoding and decoding.
func (g Grouped[K, V]) OnError(p processor.Policy) Grouped[K, V] {
	g.node = g.node.OnError(p)
	return g
}

// Count counts the records of each key and keeps the counts in a store. The table has one update per record, with the
// greatest event time of the records counted. Records with a null key or value are dropped and counted as such.
func (g Grouped[K, V]) Count(in store.KeyValueSpec[K, int64]) Table[K, int64] {
	return aggregate(g, "count", in, false, func(n int64, _ bool, _ V) int64 { return n + 1 })
}

// Reduce combines the values of each key: the first is kept as it is, each further one is combined with what is there
// by f(kept, value). The table has one update per record, with the greatest event time of the records combined. Records
// with a null key or value are dropped and counted as such.
func (g Grouped[K, V]) Reduce(f func(kept, value V) V, in store.KeyValueSpec[K, V]) Table[K, V] {
	return aggregate(g, "reduce", in, f == nil, func(kept V, ok bool, v V) V {
		if !ok {
			return v
		}
		return f(kept, v)
	})
}

// Aggregate folds the values of each key: zero makes the first aggregate, add the next one of the last and a value. add
// may change what it is given and return it. The table has one update per record, with the greatest event time of the
// records in it. Records with a null key or value are dropped and counted as such.
func Aggregate[K, V, A any](g Grouped[K, V], zero func() A, add func(A, V) A, in store.KeyValueSpec[K, A]) Table[K, A] {
	return aggregate(g, "aggregate", in, zero == nil || add == nil, func(a A, ok bool, v V) A {
		if !ok {
			a = zero()
		}
		return add(a, v)
	})
}

const (
	nullKey   = "null key"
	nullValue = "null value"
)

func aggregate[K, V, A any](g Grouped[K, V], kind string, in store.KeyValueSpec[K, A], isNil bool, step func(a A, ok bool, v V) A) Table[K, A] {
	spec := topology.NodeSpec{Kind: kind, Stores: []store.Spec{in}, Owns: true, Nil: isNil, KeepsKey: true, NoValue: kind == "count"}
	node := topology.AddNode(spec, func(st *topology.Stage[K, A]) (func(*processor.Record[K, V]) error, error) {
		rows, err := in.In(st)
		if err != nil {
			return nil, err
		}
		st.Reads(func(w *store.Wanted, key K, null bool) {
			if !null {
				rows.Want(w, key)
			}
		})
		next := st.Next()
		var out processor.Record[K, A]
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			if r.NullKey {
				return st.Drop(nullKey)
			}
			if r.NullValue {
				return st.Drop(nullValue)
			}
			a, last, ok, err := rows.GetWithTime(r.Key)
			if err != nil {
				return st.Fail("state", err)
			}
			at := r.Time.UnixMilli()
			out.Time = r.Time
			if ok && last > at {
				at, out.Time = last, time.UnixMilli(last).UTC()
			}
			out.Key, out.Value = r.Key, step(a, ok, r.Value)
			out.NullValue = rows.IsNull(out.Value) // the row goes, and so does the result
			if err := rows.PutWithTime(r.Key, out.Value, at); err != nil {
				return st.Fail("state", err)
			}
			return next(&out)
		}, nil
	}, g.node)
	return Table[K, A]{node: node, in: in}
}

// needsKey refuses a stream whose key may have changed since it was partitioned.
func needsKey[K, V any](verb string, s Stream[K, V]) {
	if s.rekeyed == "" {
		return
	}
	s.node.Builder().Refuse(&fault.Error{Code: "stream/needs-repartition", Thing: verb,
		Reason: "meets records by key, and the key may have been changed by " + s.rekeyed + ": equal keys would be in different tasks",
		Remedy: "put Repartition with a Through topic before it, or use GroupBy"})
}
