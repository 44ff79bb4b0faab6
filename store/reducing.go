package store

import (
	"fmt"

	"github.com/millrace-io/millrace/serde"
)

// Reducing declares a store with one value per key, and per key and namespace, which is all that was added, combined by reduce.
// reduce must depend on its arguments alone; it may change and return old.
func Reducing[K, V any](name string, key serde.Serde[K], value serde.Serde[V], reduce func(old, added V) V, opts ...Option) ReducingSpec[K, V] {
	o := keyedOptions(key, value, opts)
	if reduce == nil {
		o.lacks = "reduce"
	}
	return ReducingSpec[K, V]{name, key, value, reduce, o}
}

// ReducingSpec declares a Reducing store.
type ReducingSpec[K, V any] struct {
	name   string
	key    serde.Serde[K]
	value  serde.Serde[V]
	reduce func(old, added V) V
	options
}

// Name is the store's name.
func (s ReducingSpec[K, V]) Name() string { return s.name }

// Kind is KindReducing.
func (s ReducingSpec[K, V]) Kind() Kind { return KindReducing }

// KeyID is the id of the key's codec.
func (s ReducingSpec[K, V]) KeyID() string { return serde.ID(s.key) }

// ValueID is the id of the value's codec.
func (s ReducingSpec[K, V]) ValueID() string { return serde.ID(s.value) }

// In opens the store as a node sees it.
func (s ReducingSpec[K, V]) In(src Source) (ReducingState[K, V], error) {
	if err := Usable(s); err != nil {
		return ReducingState[K, V]{}, fmt.Errorf("store %s: %w", s.name, err)
	}
	rows, err := openRows(src, s)
	if err != nil {
		return ReducingState[K, V]{}, err
	}
	return ReducingState[K, V]{s: &reducingStore[K, V]{newKeyed(rows, s.key), newValued(s.value), s.reduce}}, nil
}

type reducingStore[K, V any] struct {
	keyed[K]
	valued[V]
	reduce func(old, added V) V
}

// ReducingState is a Reducing store of one task, in one namespace. It sees the task's own uncommitted writes. Copies are the
// same store. Not for concurrent use.
//
// A key that stands for null (serde.Nullable) is an error everywhere, and so is adding a value that does. If reduce returns such a
// value the key is cleared.
type ReducingState[K, V any] struct {
	s  *reducingStore[K, V]
	ns []byte
}

// NS is the store in a namespace: the same keys, and other values. The empty namespace is that of In. ns must not change while the
// result is used.
func (r ReducingState[K, V]) NS(ns []byte) ReducingState[K, V] { return ReducingState[K, V]{r.s, ns} }

// Get returns the value of key, and whether there is one: whether anything was added. The value is the caller's to keep.
func (r ReducingState[K, V]) Get(key K) (value V, ok bool, err error) {
	full, err := r.s.single(key, r.ns)
	if err != nil {
		return value, false, err
	}
	r.s.ahead.asked++
	value, _, ok, err = r.s.load(r.s.rows, full)
	return value, ok, err
}

// Add makes the value of key reduce(value, added), or added where there is none, and returns it.
func (r ReducingState[K, V]) Add(key K, added V) (V, error) {
	s := r.s
	if s.isNull(added) {
		return added, errNullElement(s.rows, "value", 0)
	}
	full, err := s.single(key, r.ns)
	if err != nil {
		return added, err
	}
	s.ahead.asked++
	value, _, ok, err := s.load(s.rows, full)
	if err != nil {
		return added, err
	}
	if ok {
		s.keyed.buf = nil // reduce may use this store too
		value = s.reduce(value, added)
		s.keyed.buf = full
	} else {
		value = added
	}
	return value, s.store(s.rows, full, value)
}

// Clear removes the value of key. Clearing where there is none is no error.
func (r ReducingState[K, V]) Clear(key K) error {
	full, err := r.s.single(key, r.ns)
	if err != nil {
		return err
	}
	return r.s.rows.drop(full)
}

// Merge makes the value of key in the namespace target what reduce makes of those that there are in target and in sources, in
// this order, and clears the sources. Where no source has a value nothing is written. A source that is the target, or is named
// twice, counts once.
func (r ReducingState[K, V]) Merge(key K, target []byte, sources ...[]byte) error {
	to := r.NS(target)
	value, ok, err := to.Get(key)
	if err != nil {
		return err
	}
	changed := false
	for _, ns := range sources {
		if string(ns) == string(target) {
			continue
		}
		from := r.NS(ns)
		v, there, err := from.Get(key)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if err := from.Clear(key); err != nil {
			return err
		}
		if ok {
			v = r.s.reduce(value, v)
		}
		value, ok, changed = v, true, true
	}
	if !changed {
		return nil
	}
	full, err := r.s.single(key, target)
	if err != nil {
		return err
	}
	return r.s.store(r.s.rows, full, value)
}

// Want says that the value of key is going to be read, as KV.Want does.
func (r ReducingState[K, V]) Want(w *Wanted, key K) { r.s.want(w, key, r.ns, false) }

// Keys selects the keys that have a value in this namespace, in key order.
func (r ReducingState[K, V]) Keys() *KeyScan[K] { return &KeyScan[K]{store: &r.s.keyed, ns: r.ns} }
