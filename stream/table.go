package stream

import (
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Table is the latest value of each key, in a store, and the stream of its updates. It is a handle, like Stream.
type Table[K, V any] struct {
	node topology.Node[K, V]
	in   store.KeyValueSpec[K, V]
}

// TableFrom reads a topic as a table: each record sets its key's value, a null value deletes it. Updates are taken in the
// order of their offsets, whatever their times. Records with a null key are dropped and counted.
func TableFrom[K, V any](b *Builder, t Topic[K, V], in store.KeyValueSpec[K, V]) Table[K, V] {
	mark := b.Mark()
	return Table[K, V]{node: table(topology.AddSource(b, "", t), in).Since(mark), in: in}
}

// ToTable makes a table of a stream: each record sets its key's value, a null value deletes it. The stream's key must be
// the one it is partitioned by. Records with a null key are dropped and counted.
func (s Stream[K, V]) ToTable(in store.KeyValueSpec[K, V]) Table[K, V] {
	needsKey("ToTable", s)
	return Table[K, V]{node: table(s.node, in), in: in}
}

func table[K, V any](parent topology.Node[K, V], in store.KeyValueSpec[K, V]) topology.Node[K, V] {
	spec := topology.NodeSpec{Kind: "table", Stores: []store.Spec{in}, Owns: true, KeepsKey: true}
	return topology.AddNode(spec, func(st *topology.Stage[K, V]) (func(*processor.Record[K, V]) error, error) {
		rows, err := in.In(st)
		if err != nil {
			return nil, err
		}
		st.Reads(func(w *store.Wanted, key K, null bool) {
			if null { // only a delete looks at what is there
				rows.Want(w, key)
			}
		})
		next := st.Next()
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			var err error
			switch {
			case r.NullKey:
				return st.Drop(nullKey)
			case r.NullValue || rows.IsNull(r.Value):
				r.NullValue = true
				_, _, err = rows.Delete(r.Key)
			default:
				err = rows.PutWithTime(r.Key, r.Value, r.Time.UnixMilli())
			}
			if err != nil {
				return st.Fail("state", err)
			}
			return next(r)
		}, nil
	}, parent)
}

// ToStream is the stream of the table's updates: one record per update, with a null value where the key was deleted.
func (t Table[K, V]) ToStream() Stream[K, V] { return Stream[K, V]{node: t.node} }

// Named names the table's node. The store keeps its own name.
func (t Table[K, V]) Named(name string) Table[K, V] {
	t.node = t.node.Named(name)
	return t
}

// OnError says what happens to a record that fails in what the last verb made.
func (t Table[K, V]) OnError(p processor.Policy) Table[K, V] {
	t.node = t.node.OnError(p)
	return t
}
