package streamtest

import "github.com/millrace-io/millrace/store"

// opener is a declaration whose handles are of type S.
type opener[S any] interface {
	store.Spec
	In(src store.Source) (S, error)
}

// EachState calls f with the state that each task has of a store, in the order of their partitions, for tests that look at more
// than one key: keys, namespaces, ranges. What f changes is part of the epoch being filled. A store that the topology
// does not have ends the test, and so does an error of f.
func EachState[S any](d *Driver, spec opener[S], f func(partition int32, state S) error) {
	d.t.Helper()
	if d.broker.changelogs[spec.Name()] == nil {
		d.fatalf("the topology has no store %q", spec.Name())
	}
	for _, r := range d.tasks {
		for _, s := range r.sub.Stores {
			if s.Name() != spec.Name() {
				continue
			}
			state, err := spec.In(r.db)
			if err == nil {
				err = f(r.id.Partition, state)
			}
			if err != nil {
				d.fatalf("store %s: %v", spec.Name(), err)
			}
		}
	}
}

// Get returns what a Value, Reducing or Aggregating store has for key, and whether it has anything, in the first partition
// that does.
func Get[K, V any, S interface {
	Get(key K) (V, bool, error)
}](d *Driver, spec opener[S], key K) (value V, ok bool) {
	d.t.Helper()
	EachState(d, spec, func(_ int32, state S) (err error) {
		if !ok {
			value, ok, err = state.Get(key)
		}
		return err
	})
	return value, ok
}

// List returns the elements that a List store has for key, by partition and then in the order they were added.
func List[K, V any](d *Driver, spec store.ListSpec[K, V], key K) []V {
	d.t.Helper()
	var all []V
	EachState(d, spec, func(_ int32, state store.ListState[K, V]) error {
		elements, err := state.Slice(key)
		all = append(all, elements...)
		return err
	})
	return all
}

// Map returns the entries that a Map store has for key, by partition and then by subkey.
func Map[K, S, V any](d *Driver, spec store.MapSpec[K, S, V], key K) []Entry[S, V] {
	d.t.Helper()
	var all []Entry[S, V]
	EachState(d, spec, func(_ int32, state store.MapState[K, S, V]) error {
		scan := state.All(key)
		for sub, v := range scan.Rows() {
			all = append(all, Entry[S, V]{sub, v})
		}
		return scan.Err()
	})
	return all
}
