package stream

import (
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Dedup lets the first record of each key through and drops the others, counted as "duplicate". What was seen is kept in a store
// of keys alone:
//
//	seen = store.KeyValue("seen", serde.String(), serde.Empty(), store.WithTTL(ttl.AfterWrite(24*time.Hour)))
//
// With a time to live the key is forgotten that long after its first record (a duplicate is a read: it changes no row, and so writes
// nothing to the changelog); without one, never. A record with a null key cannot be told from others: it is dropped and
// counted as "null key". The key must be the one the topic is partitioned by.
func Dedup[K, V any](s Stream[K, V], seen store.KeyValueSpec[K, struct{}]) Stream[K, V] {
	needsKey("Dedup", s)
	s.node = topology.AddNode(dedupNode(seen, false), func(st *topology.Stage[K, V]) (func(*processor.Record[K, V]) error, error) {
		rows, err := seen.In(st)
		if err != nil {
			return nil, err
		}
		st.Reads(func(w *store.Wanted, key K, _ bool) { rows.Want(w, key) })
		first := firstOf(st, rows)
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			if r.NullKey {
				return st.Drop(nullKey)
			}
			return first(r, r.Key)
		}, nil
	}, s.node)
	return s
}

// DedupBy is Dedup by what id says of a record, such as a number that its sender gave it. Records with equal ids must have equal
// keys, or they are in different tasks and do not meet.
func DedupBy[K, V, ID any](s Stream[K, V], id func(K, V) ID, seen store.KeyValueSpec[ID, struct{}]) Stream[K, V] {
	needsKey("DedupBy", s)
	s.node = topology.AddNode(dedupNode(seen, id == nil), func(st *topology.Stage[K, V]) (func(*processor.Record[K, V]) error, error) {
		rows, err := seen.In(st)
		if err != nil {
			return nil, err
		}
		first := firstOf(st, rows)
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			return first(r, id(r.Key, r.Value))
		}, nil
	}, s.node)
	return s
}

func dedupNode(seen store.Spec, isNil bool) topology.NodeSpec {
	return topology.NodeSpec{Kind: "dedup", Stores: []store.Spec{seen}, Owns: true, Nil: isNil, KeepsKey: true}
}

const duplicate = "duplicate"

// firstOf passes a record on if its id was not seen.
func firstOf[K, V, ID any](st *topology.Stage[K, V], seen *store.KV[ID, struct{}]) func(*processor.Record[K, V], ID) error {
	next := st.Next()
	return func(r *processor.Record[K, V], id ID) error {
		_, present, err := seen.PutIfAbsent(id, struct{}{})
		if err != nil {
			return st.Fail("state", err)
		}
		if present {
			return st.Drop(duplicate)
		}
		return next(r)
	}
}
