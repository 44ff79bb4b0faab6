package store

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
)

// Aggregator says how values of type In gather in an accumulator of type Acc, and what of type Out that comes to. The functions
// must depend on their arguments alone.
type Aggregator[In, Acc, Out any] struct {
	New    func() Acc         // an accumulator of nothing
	Add    func(Acc, In) Acc  // may change the accumulator and return it, or return another
	Result func(Acc) Out      // must not change the accumulator
	Merge  func(a, b Acc) Acc // nil where namespaces are never merged; may change a and return it
}

// Aggregating declares a store with one accumulator per key, and per key and namespace.
func Aggregating[K, In, Acc, Out any](name string, key serde.Serde[K], acc serde.Serde[Acc], a Aggregator[In, Acc, Out], opts ...Option) AggregatingSpec[K, In, Acc, Out] {
	o := keyedOptions(key, acc, opts)
	switch {
	case a.New == nil:
		o.lacks = "Aggregator.New"
	case a.Add == nil:
		o.lacks = "Aggregator.Add"
	case a.Result == nil:
		o.lacks = "Aggregator.Result"
	}
	return AggregatingSpec[K, In, Acc, Out]{name, key, acc, a, o}
}

// AggregatingSpec declares an Aggregating store.
type AggregatingSpec[K, In, Acc, Out any] struct {
	name string
	key  serde.Serde[K]
	acc  serde.Serde[Acc]
	a    Aggregator[In, Acc, Out]
	options
}

// Name is the store's name.
func (s AggregatingSpec[K, In, Acc, Out]) Name() string { return s.name }

// Kind is KindAggregating.
func (s AggregatingSpec[K, In, Acc, Out]) Kind() Kind { return KindAggregating }

// KeyID is the id of the key's codec.
func (s AggregatingSpec[K, In, Acc, Out]) KeyID() string { return serde.ID(s.key) }

// ValueID is the id of the accumulator's codec.
func (s AggregatingSpec[K, In, Acc, Out]) ValueID() string { return serde.ID(s.acc) }

// In opens the store as a node sees it.
func (s AggregatingSpec[K, In, Acc, Out]) In(src Source) (AggregatingState[K, In, Acc, Out], error) {
	none := AggregatingState[K, In, Acc, Out]{}
	if err := Usable(s); err != nil {
		return none, fmt.Errorf("store %s: %w", s.name, err)
	}
	rows, err := openRows(src, s)
	if err != nil {
		return none, err
	}
	return AggregatingState[K, In, Acc, Out]{s: &aggregatingStore[K, In, Acc, Out]{newKeyed(rows, s.key), newValued(s.acc), s.a}}, nil
}

type aggregatingStore[K, In, Acc, Out any] struct {
	keyed[K]
	valued[Acc]
	a Aggregator[In, Acc, Out]
}

// AggregatingState is an Aggregating store of one task, in one namespace. It sees the task's own uncommitted writes. Copies
// are the same store. Not for concurrent use.
//
// A key that stands for null (serde.Nullable) is an error everywhere. If the functions return an accumulator that does, the key
// is cleared.
type AggregatingState[K, In, Acc, Out any] struct {
	s  *aggregatingStore[K, In, Acc, Out]
	ns []byte
}

// NS is the store in a namespace: the same keys, and other accumulators. The empty namespace is that of In. ns must not change
// while the result is used.
func (a AggregatingState[K, In, Acc, Out]) NS(ns []byte) AggregatingState[K, In, Acc, Out] {
	return AggregatingState[K, In, Acc, Out]{a.s, ns}
}

// Get returns the result of what was added to key, and whether anything was: of nothing there is no result.
func (a AggregatingState[K, In, Acc, Out]) Get(key K) (out Out, ok bool, err error) {
	acc, ok, err := a.acc(key)
	if err != nil || !ok {
		return out, false, err
	}
	return a.s.a.Result(acc), true, nil
}

func (a AggregatingState[K, In, Acc, Out]) acc(key K) (acc Acc, ok bool, err error) {
	full, err := a.s.single(key, a.ns)
	if err != nil {
		return acc, false, err
	}
	a.s.ahead.asked++
	acc, _, ok, err = a.s.load(a.s.rows, full)
	return acc, ok, err
}

// Add adds a value to the accumulator of key, which is a new one where there is none.
func (a AggregatingState[K, In, Acc, Out]) Add(key K, in In) error {
	s := a.s
	full, err := s.single(key, a.ns)
	if err != nil {
		return err
	}
	s.ahead.asked++
	acc, _, ok, err := s.load(s.rows, full)
	if err != nil {
		return err
	}
	s.keyed.buf = nil // the functions may use this store too
	if !ok {
		acc = s.a.New()
	}
	acc = s.a.Add(acc, in)
	s.keyed.buf = full
	return s.store(s.rows, full, acc)
}

// Clear removes the accumulator of key. Clearing where there is none is no error.
func (a AggregatingState[K, In, Acc, Out]) Clear(key K) error {
	full, err := a.s.single(key, a.ns)
	if err != nil {
		return err
	}
	return a.s.rows.drop(full)
}

// Merge merges the accumulators that key has in the namespaces sources, in this order, into that in the namespace target, and
// clears the sources. Where no source has one nothing is written. A source that is the target, or is named twice, counts once.
// Without Aggregator.Merge two accumulators cannot be merged: that is an error, and nothing is changed.
func (a AggregatingState[K, In, Acc, Out]) Merge(key K, target []byte, sources ...[]byte) error {
	acc, ok, err := a.NS(target).acc(key)
	if err != nil {
		return err
	}
	changed := false
	for i, ns := range sources {
		if string(ns) == string(target) || slices.ContainsFunc(sources[:i], func(s []byte) bool { return bytes.Equal(s, ns) }) {
			continue
		}
		more, there, err := a.NS(ns).acc(key)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if !ok {
			acc, ok, changed = more, true, true
			continue
		}
		if a.s.a.Merge == nil {
			return &fault.Error{
				Code: "store/no-merge", Kind: fault.Config, Thing: "store", Value: a.s.rows.name,
				Reason: "its Aggregator has no Merge", Remedy: "declare the store with one; nothing was changed",
			}
		}
		acc, changed = a.s.a.Merge(acc, more), true
	}
	if !changed {
		return nil
	}
	for _, ns := range sources {
		if string(ns) != string(target) {
			if err := a.NS(ns).Clear(key); err != nil {
				return err
			}
		}
	}
	full, err := a.s.single(key, target)
	if err != nil {
		return err
	}
	return a.s.store(a.s.rows, full, acc)
}

// Want says that the accumulator of key is going to be read, as KV.Want does.
func (a AggregatingState[K, In, Acc, Out]) Want(w *Wanted, key K) { a.s.want(w, key, a.ns, false) }

// Keys selects the keys that have an accumulator in this namespace, in key order.
func (a AggregatingState[K, In, Acc, Out]) Keys() *KeyScan[K] {
	return &KeyScan[K]{store: &a.s.keyed, ns: a.ns}
}
