package store

import "github.com/millrace-io/millrace/serde"

// Value declares a store with one value per key, and per key and namespace. It differs from KeyValue in what it does not
// offer, ranges over keys, and in namespaces.
func Value[K, V any](name string, key serde.Serde[K], value serde.Serde[V], opts ...Option) ValueSpec[K, V] {
	return ValueSpec[K, V]{name, key, value, keyedOptions(key, value, opts)}
}

// ValueSpec declares a Value store.
type ValueSpec[K, V any] struct {
	name  string
	key   serde.Serde[K]
	value serde.Serde[V]
	options
}

// Name is the store's name.
func (s ValueSpec[K, V]) Name() string { return s.name }

// Kind is KindValue.
func (s ValueSpec[K, V]) Kind() Kind { return KindValue }

// KeyID is the id of the key's codec.
func (s ValueSpec[K, V]) KeyID() string { return serde.ID(s.key) }

// ValueID is the id of the value's codec.
func (s ValueSpec[K, V]) ValueID() string { return serde.ID(s.value) }

// In opens the store as a node sees it.
func (s ValueSpec[K, V]) In(src Source) (ValueState[K, V], error) {
	rows, err := openRows(src, s)
	if err != nil {
		return ValueState[K, V]{}, err
	}
	return ValueState[K, V]{s: &valueStore[K, V]{newKeyed(rows, s.key), newValued(s.value)}}, nil
}

type valueStore[K, V any] struct {
	keyed[K]
	valued[V]
}

// ValueState is a Value store of one task, in one namespace. It sees the task's own uncommitted writes. Copies are the same
// store. Not for concurrent use.
//
// A key that stands for null (serde.Nullable) is an error everywhere; putting a value that stands for null clears the key.
type ValueState[K, V any] struct {
	s  *valueStore[K, V]
	ns []byte
}

// NS is the store in a namespace: the same keys, and other values. The empty namespace is that of In. ns must not change while the
// result is used.
func (v ValueState[K, V]) NS(ns []byte) ValueState[K, V] { return ValueState[K, V]{v.s, ns} }

// Get returns the value of key, and whether there is one. The value is the caller's to keep.
func (v ValueState[K, V]) Get(key K) (value V, ok bool, err error) {
	value, _, ok, err = v.GetWithTime(key)
	return value, ok, err
}

// GetOr is Get that returns def where there is no value.
func (v ValueState[K, V]) GetOr(key K, def V) (V, error) {
	value, _, ok, err := v.GetWithTime(key)
	if err == nil && !ok {
		return def, nil
	}
	return value, err
}

// GetWithTime is Get and the event time of the record that put the value, in milliseconds.
func (v ValueState[K, V]) GetWithTime(key K) (value V, time int64, ok bool, err error) {
	full, err := v.s.single(key, v.ns)
	if err != nil {
		return value, 0, false, err
	}
	v.s.ahead.asked++
	value, h, ok, err := v.s.load(v.s.rows, full)
	return value, h.Time, ok, err
}

// Put sets the value of key.
func (v ValueState[K, V]) Put(key K, value V) error {
	full, err := v.s.single(key, v.ns)
	if err != nil {
		return err
	}
	return v.s.store(v.s.rows, full, value)
}

// Clear removes the value of key. Clearing where there is none is no error.
func (v ValueState[K, V]) Clear(key K) error {
	full, err := v.s.single(key, v.ns)
	if err != nil {
		return err
	}
	return v.s.rows.drop(full)
}

// Want says that the value of key is going to be read, as KV.Want does.
func (v ValueState[K, V]) Want(w *Wanted, key K) { v.s.want(w, key, v.ns, false) }

// Keys selects the keys that have a value in this namespace, in key order.
func (v ValueState[K, V]) Keys() *KeyScan[K] { return &KeyScan[K]{store: &v.s.keyed, ns: v.ns} }
