package stream

import (
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Join looks up each record of the stream in the table, by key, and passes on what f makes of the two values. Records
// without a row in the table are let go. Only the stream's records cause output; the result has their event time and no
// headers. Records with a null key or value are dropped and counted. Stream and table must have equally many partitions,
// and the stream's key must be the one it is partitioned by.
func Join[K, V, W, O any](s Stream[K, V], t Table[K, W], f func(V, W) O) Stream[K, O] {
	needsKey("Join", s)
	return join(s, t, "join", f == nil, func(v V, w W, ok bool) (O, bool) {
		if !ok {
			var none O
			return none, false
		}
		return f(v, w), true
	}, false)
}

// LeftJoin is Join that keeps records without a row in the table: f is then called with the zero value and ok false.
// Records with a null key have no row and are kept too, with their null key.
func LeftJoin[K, V, W, O any](s Stream[K, V], t Table[K, W], f func(v V, w W, ok bool) O) Stream[K, O] {
	needsKey("LeftJoin", s)
	return join(s, t, "left-join", f == nil, func(v V, w W, ok bool) (O, bool) { return f(v, w, ok), true }, true)
}

func join[K, V, W, O any](s Stream[K, V], t Table[K, W], kind string, isNil bool, f func(V, W, bool) (O, bool), keepNullKey bool) Stream[K, O] {
	if t.node.Builder() != s.node.Builder() {
		s.node.Builder().Refuse(&fault.Error{Code: "topology/foreign-node", Thing: "node", Value: kind,
			Reason: "has a table that was not made by the stream's builder", Remedy: "make all nodes of a topology with one builder"})
	}
	spec := topology.NodeSpec{Kind: kind, Stores: []store.Spec{t.in}, Nil: isNil, KeepsKey: true}
	node := topology.AddNode(spec, func(st *topology.Stage[K, O]) (func(*processor.Record[K, V]) error, error) {
		rows, err := t.in.In(st)
		if err != nil {
			return nil, err
		}
		st.Reads(func(w *store.Wanted, key K, null bool) {
			if !null {
				rows.Want(w, key)
			}
		})
		next := st.Next()
		var out processor.Record[K, O]
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			if r.NullValue {
				return st.Drop(nullValue)
			}
			var w W
			ok := false
			if !r.NullKey {
				var err error
				if w, ok, err = rows.Get(r.Key); err != nil {
					return st.Fail("state", err)
				}
			} else if !keepNullKey {
				return st.Drop(nullKey)
			}
			o, keep := f(r.Value, w, ok)
			if !keep {
				return nil
			}
			out.Key, out.NullKey, out.Value, out.Time = r.Key, r.NullKey, o, r.Time
			return next(&out)
		}, nil
	}, s.node)
	return Stream[K, O]{node: node} // the key is in place, or the mistake has been told
}
