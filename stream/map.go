package stream

import (
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// Map makes one record of each: f names its key and value. A null value stays null and f names only the key. Event time
// and headers are kept.
func Map[K, V, K2, V2 any](s Stream[K, V], f func(K, V) (K2, V2)) Stream[K2, V2] {
	spec := topology.NodeSpec{Kind: "map", Nil: f == nil}
	return rekeyed("Map", topology.AddNode(spec, func(st *topology.Stage[K2, V2]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		var out processor.Record[K2, V2]
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			out.Key, out.Value = f(r.Key, r.Value)
			if out.NullValue = r.NullValue; r.NullValue {
				var zero V2
				out.Value = zero
			}
			out.Time, out.Headers = r.Time, r.Headers
			return next(&out)
		}, nil
	}, s.node))
}

// MapValues makes one record of each, with the same key and the value f names. A null value stays null and f is not
// called. Event time and headers are kept.
func MapValues[K, V, V2 any](s Stream[K, V], f func(V) V2) Stream[K, V2] {
	spec := topology.NodeSpec{Kind: "map-values", Nil: f == nil, KeepsKey: true}
	node := topology.AddNode(spec, func(st *topology.Stage[K, V2]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		var out processor.Record[K, V2]
		return func(r *processor.Record[K, V]) error {
			if out.NullValue = r.NullValue; r.NullValue {
				var zero V2
				out.Value = zero
			} else {
				st.Enter()
				out.Value = f(r.Value)
			}
			out.Key, out.NullKey = r.Key, r.NullKey
			out.Time, out.Headers = r.Time, r.Headers
			return next(&out)
		}, nil
	}, s.node)
	return Stream[K, V2]{node: node, rekeyed: s.rekeyed}
}

// SelectKey gives each record another key. Value, event time and headers are kept.
func SelectKey[K, V, K2 any](s Stream[K, V], f func(K, V) K2) Stream[K2, V] {
	return rekeyed("SelectKey", selectKey("select-key", s.node, f))
}

func selectKey[K, V, K2 any](kind string, parent topology.Node[K, V], f func(K, V) K2) topology.Node[K2, V] {
	spec := topology.NodeSpec{Kind: kind, Nil: f == nil}
	return topology.AddNode(spec, func(st *topology.Stage[K2, V]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		var out processor.Record[K2, V]
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			out.Key = f(r.Key, r.Value)
			out.Value, out.NullValue = r.Value, r.NullValue
			out.Time, out.Headers = r.Time, r.Headers
			return next(&out)
		}, nil
	}, parent)
}

// FlatMap makes any number of records of each, in the order f returns them. A null value stays null: f names only the
// keys. Event time and headers are kept. The slice is not kept: f may return the same one again.
func FlatMap[K, V, K2, V2 any](s Stream[K, V], f func(K, V) []Pair[K2, V2]) Stream[K2, V2] {
	spec := topology.NodeSpec{Kind: "flat-map", Nil: f == nil}
	return rekeyed("FlatMap", topology.AddNode(spec, func(st *topology.Stage[K2, V2]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		var out processor.Record[K2, V2]
		return func(r *processor.Record[K, V]) error {
			st.Enter()
			out.NullValue = r.NullValue
			out.Time, out.Headers = r.Time, r.Headers
			for _, p := range f(r.Key, r.Value) {
				out.Key = p.Key
				if !r.NullValue {
					out.Value = p.Value
				} else {
					var zero V2
					out.Value = zero
				}
				if err := next(&out); err != nil {
					return err
				}
			}
			return nil
		}, nil
	}, s.node))
}

// FlatMapValues makes any number of records of each, with the same key, in the order f returns their values. A null
// value is passed on and f is not called. Event time and headers are kept. The slice is not kept.
func FlatMapValues[K, V, V2 any](s Stream[K, V], f func(V) []V2) Stream[K, V2] {
	spec := topology.NodeSpec{Kind: "flat-map-values", Nil: f == nil, KeepsKey: true}
	node := topology.AddNode(spec, func(st *topology.Stage[K, V2]) (func(*processor.Record[K, V]) error, error) {
		next := st.Next()
		var out processor.Record[K, V2]
		return func(r *processor.Record[K, V]) error {
			out.Key, out.NullKey, out.NullValue = r.Key, r.NullKey, r.NullValue
			out.Time, out.Headers = r.Time, r.Headers
			if r.NullValue {
				var zero V2
				out.Value = zero
				return next(&out)
			}
			st.Enter()
			for _, v := range f(r.Value) {
				out.Value = v
				if err := next(&out); err != nil {
					return err
				}
			}
			return nil
		}, nil
	}, s.node)
	return Stream[K, V2]{node: node, rekeyed: s.rekeyed}
}

// rekeyed makes a stream of a node whose keys are not those the topic was partitioned by.
func rekeyed[K, V any](verb string, n topology.Node[K, V]) Stream[K, V] {
	return Stream[K, V]{node: n, rekeyed: verb + " at " + n.At()}
}
