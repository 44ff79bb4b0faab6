package store

import "github.com/millrace-io/millrace/serde"

// Broadcast declares broadcast state: rows that every task has in full, written while records of a broadcast topic are processed and
// read while all others are (stream.ProcessBroadcast). Each task keeps a copy of its own, as of the position in the topic that
// it has committed, with a changelog (docs/design/0019-operator-state.md says why, and what it costs). There is no time to live: tasks have
// clocks of their own, and would forget at different times.
func Broadcast[K, V any](name string, key serde.Serde[K], value serde.Serde[V]) BroadcastSpec[K, V] {
	return BroadcastSpec[K, V]{KeyValue(name, key, value)}
}

// BroadcastSpec declares broadcast state.
type BroadcastSpec[K, V any] struct {
	rows KeyValueSpec[K, V]
}

// Name is the store's name.
func (s BroadcastSpec[K, V]) Name() string { return s.rows.name }

// Kind is KindBroadcast.
func (s BroadcastSpec[K, V]) Kind() Kind { return KindBroadcast }

// KeyID is the id of the key's codec.
func (s BroadcastSpec[K, V]) KeyID() string { return s.rows.KeyID() }

// ValueID is the id of the value's codec.
func (s BroadcastSpec[K, V]) ValueID() string { return s.rows.ValueID() }

func (s BroadcastSpec[K, V]) settings() options { return s.rows.settings() }

// In opens the state as a node sees it.
func (s BroadcastSpec[K, V]) In(src Source) (*BroadcastState[K, V], error) {
	rows, err := openRows(src, s)
	if err != nil {
		return nil, err
	}
	return &BroadcastState[K, V]{newKV(rows, s.rows.key, s.rows.value)}, nil
}

// BroadcastSide is the right to write broadcast state. Only the context of a record of a broadcast topic has it: code on the other
// side that writes does not compile.
type BroadcastSide interface {
	// MayWrite returns an error if the store is not written by the node whose context this is, or if the context is used
	// after its call has returned.
	MayWrite(store string) error
}

// BroadcastState is one task's copy of broadcast state. It sees the task's own uncommitted writes. Not for concurrent use.
type BroadcastState[K, V any] struct{ kv *KV[K, V] }

// Get returns the value for key, and whether there is one. The value is the caller's to keep.
func (s *BroadcastState[K, V]) Get(key K) (value V, ok bool, err error) { return s.kv.Get(key) }

// All selects every key, in key order.
func (s *BroadcastState[K, V]) All() *Scan[K, V] { return s.kv.All() }

// Range selects the keys from..to, both included, in key order.
func (s *BroadcastState[K, V]) Range(from, to K) *Scan[K, V] { return s.kv.Range(from, to) }

// ApproximateLen estimates the number of keys, as Rows.ApproximateLen does.
func (s *BroadcastState[K, V]) ApproximateLen() int64 { return s.kv.ApproximateLen() }

// Put sets the value for key; a value that stands for null deletes it.
func (s *BroadcastState[K, V]) Put(side BroadcastSide, key K, value V) error {
	if err := side.MayWrite(s.kv.rows.name); err != nil {
		return err
	}
	return s.kv.Put(key, value)
}

// Delete removes key and returns the value it had, if any.
func (s *BroadcastState[K, V]) Delete(side BroadcastSide, key K) (old V, present bool, err error) {
	if err := side.MayWrite(s.kv.rows.name); err != nil {
		return old, false, err
	}
	return s.kv.Delete(key)
}

// Clear removes every key.
func (s *BroadcastState[K, V]) Clear(side BroadcastSide) error {
	if err := side.MayWrite(s.kv.rows.name); err != nil {
		return err
	}
	return s.kv.rows.clear()
}

// clear deletes every row of a store.
func (r *Rows) clear() error {
	scan := r.Scan(nil, nil, false)
	for scan.Next() {
		if err := r.Delete(scan.Key()); err != nil {
			_ = scan.Close()
			return err
		}
	}
	return scan.Close()
}

// newKV is a handle over rows that were opened as another kind of store.
func newKV[K, V any](rows *Rows, key serde.Serde[K], value serde.Serde[V]) *KV[K, V] {
	kv := &KV[K, V]{rows: rows, key: key, value: value, keys: serde.NewDecoder(key), values: serde.NewDecoder(value)}
	kv.ordered, _ = key.(serde.Ordered[K])
	kv.nullKey, _ = key.(serde.Nullable[K])
	kv.nullValue, _ = value.(serde.Nullable[V])
	return kv
}

// ForEach calls f once for every row of a KeyValue store of this task, in key order, until it returns an error. It is how a record of
// a broadcast topic is applied to state that is there already. f may write and delete in the store, the key it is called for and
// others: it is called for the rows that there were when ForEach began. Memory does not grow with their number; but what f
// writes is held until the epoch is committed.
func ForEach[K, V any](s *KV[K, V], f func(key K, value V) error) error {
	scan := s.All()
	for k, v := range scan.Rows() {
		if err := f(k, v); err != nil {
			return err
		}
	}
	return scan.Err()
}

// Keyed is a store with state per key: ValueState, ListState, MapState, ReducingState and AggregatingState.
type Keyed[K any] interface {
	// Keys selects the keys that have something in the namespace, in key order.
	Keys() *KeyScan[K]
}

// ForEachKey is ForEach for the keys of the other kinds of keyed stores.
func ForEachKey[K any](s Keyed[K], f func(key K) error) error {
	scan := s.Keys()
	for k := range scan.Keys() {
		if err := f(k); err != nil {
			return err
		}
	}
	return scan.Err()
}
