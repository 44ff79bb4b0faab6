package store

import (
	"fmt"
	"iter"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/serde"
)

// KeyValue declares a store with one value per key.
func KeyValue[K, V any](name string, key serde.Serde[K], value serde.Serde[V], opts ...Option) KeyValueSpec[K, V] {
	o := makeOptions(opts)
	o.codecs = codecsOf[K, V]{key, value}
	return KeyValueSpec[K, V]{name, key, value, o}
}

// Name is the store's name.
func (s KeyValueSpec[K, V]) Name() string { return s.name }

// Kind is KindKeyValue.
func (s KeyValueSpec[K, V]) Kind() Kind { return KindKeyValue }

// KeyID is the id of the key's codec.
func (s KeyValueSpec[K, V]) KeyID() string { return serde.ID(s.key) }

// ValueID is the id of the value's codec.
func (s KeyValueSpec[K, V]) ValueID() string { return serde.ID(s.value) }

// In opens the store as a node sees it.
func (s KeyValueSpec[K, V]) In(src Source) (*KV[K, V], error) {
	rows, err := src.Rows(s.name)
	if err != nil {
		return nil, err
	}
	if d := rows.spec; !sameStore(d, s) {
		return nil, &fault.Error{
			Code: "store/other-type", Kind: fault.Config, Thing: "store", Value: s.name,
			Reason: fmt.Sprintf("it is attached with key %s and value %s, and opened with key %s and value %s",
				d.KeyID(), formsOf(d), s.KeyID(), formsOf(s)),
			Remedy: "declare the store once and use that value everywhere",
		}
	}
	kv := &KV[K, V]{rows: rows, key: s.key, value: s.value, keys: serde.NewDecoder(s.key), values: serde.NewDecoder(s.value)}
	kv.ordered, _ = s.key.(serde.Ordered[K])
	kv.nullKey, _ = s.key.(serde.Nullable[K])
	kv.nullValue, _ = s.value.(serde.Nullable[V])
	return kv, nil
}

// KV is a KeyValue store of one task. It sees the task's own uncommitted writes. Not for concurrent use.
//
// A key that stands for null (serde.Nullable) is an error everywhere; putting a value that stands for null deletes the row.
type KV[K, V any] struct {
	rows      *Rows
	key       serde.Serde[K]
	value     serde.Serde[V]
	keys      *serde.Decoder[K]
	values    *serde.Decoder[V]
	ordered   serde.Ordered[K]  // nil when the key's topic form sorts by itself
	nullKey   serde.Nullable[K] // nil when no key is null
	nullValue serde.Nullable[V]
	keyBuf    []byte
	valueBuf  []byte
	ahead     ahead
}

// encode returns the full key of the row, in memory that the next call overwrites.
func (s *KV[K, V]) encode(key K) ([]byte, error) {
	full, err := s.appendKey(append(s.keyBuf[:0], s.rows.prefix[0], s.rows.prefix[1]), key)
	if err != nil {
		return nil, err
	}
	s.keyBuf = full
	return full, nil
}

func (s *KV[K, V]) appendKey(dst []byte, key K) ([]byte, error) {
	var err error
	if s.nullKey != nil && s.nullKey.IsNull(key) {
		return nil, &fault.Error{
			Code: "store/null-key", Kind: fault.Record, Thing: "key of store", Value: s.rows.name, Reason: "a row cannot have a null key",
		}
	}
	if s.ordered != nil {
		dst, err = s.ordered.AppendOrdered(dst, key)
	} else {
		dst, err = s.key.Append(dst, key)
	}
	if err != nil {
		return nil, fmt.Errorf("encode a key of store %s: %w", s.rows.name, err)
	}
	return dst, nil
}

func (s *KV[K, V]) decodeKey(key []byte) (k K, err error) {
	if s.ordered != nil {
		k, err = s.ordered.DecodeOrdered(key)
	} else {
		k, err = s.keys.Decode(key)
	}
	if err != nil {
		return k, fmt.Errorf("decode a key of store %s: %w", s.rows.name, err)
	}
	return k, nil
}

func (s *KV[K, V]) decodeValue(value []byte, version uint16) (V, error) {
	v, err := s.values.DecodeVersion(value, version)
	if err != nil {
		return v, fmt.Errorf("decode a value of store %s: %w", s.rows.name, err)
	}
	return v, nil
}

// Get returns the value for key, and whether there is one. The value is the caller's to keep.
func (s *KV[K, V]) Get(key K) (value V, ok bool, err error) {
	value, _, ok, err = s.GetWithTime(key)
	return value, ok, err
}

// IsNull reports whether a value stands for null: putting it deletes the row.
func (s *KV[K, V]) IsNull(value V) bool {
	return s.nullValue != nil && s.nullValue.IsNull(value)
}

// GetWithTime is Get and the event time the value was written with.
func (s *KV[K, V]) GetWithTime(key K) (value V, time int64, ok bool, err error) {
	full, err := s.encode(key)
	if err != nil {
		return value, 0, false, err
	}
	return s.get(full)
}

func (s *KV[K, V]) get(full []byte) (value V, time int64, ok bool, err error) {
	s.ahead.asked++
	raw, h, ok, err := s.rows.getRow(full)
	if err != nil || !ok {
		return value, 0, false, err
	}
	value, err = s.decodeValue(raw, h.Version)
	return value, h.Time, err == nil, err
}

// Put sets the value for key. The row gets the event time of the record being processed.
func (s *KV[K, V]) Put(key K, value V) error { return s.PutWithTime(key, value, s.rows.db.time) }

// PutWithTime is Put with a given event time in milliseconds.
func (s *KV[K, V]) PutWithTime(key K, value V, time int64) error {
	full, err := s.encode(key)
	if err != nil {
		return err
	}
	return s.put(full, value, time)
}

func (s *KV[K, V]) put(full []byte, value V, time int64) error {
	if s.IsNull(value) {
		return s.rows.drop(full)
	}
	raw, err := s.value.Append(s.valueBuf[:0], value)
	if err != nil {
		return fmt.Errorf("encode a value of store %s: %w", s.rows.name, err)
	}
	if s.valueBuf = raw; cap(raw) > 1<<20 {
		s.valueBuf = nil // one huge value must not be paid for by every store for ever
	}
	return s.rows.put(full, raw, time)
}

// PutIfAbsent sets the value if the key has none and returns the value that was there.
func (s *KV[K, V]) PutIfAbsent(key K, value V) (old V, present bool, err error) {
	full, err := s.encode(key)
	if err != nil {
		return old, false, err
	}
	if old, _, present, err = s.get(full); err != nil || present {
		return old, present, err
	}
	return old, false, s.put(full, value, s.rows.db.time)
}

// Delete removes key and returns the value it had, if any.
func (s *KV[K, V]) Delete(key K) (old V, present bool, err error) {
	full, err := s.encode(key)
	if err != nil {
		return old, false, err
	}
	if old, _, present, err = s.get(full); err != nil || !present {
		return old, false, err
	}
	return old, true, s.rows.drop(full)
}

// Range selects the keys from..to, both included, in key order.
func (s *KV[K, V]) Range(from, to K) *Scan[K, V] {
	c := &Scan[K, V]{store: s}
	var err error
	if c.lower, err = s.appendKey(nil, from); err == nil {
		c.upper, err = s.appendKey([]byte{}, to)
	}
	if c.invalid = err; err == nil {
		c.upper = append(c.upper, 0) // the least key after to
	}
	return c
}

// Prefix selects the keys whose stored form starts with the stored form of prefix (for strings: that start with it).
func (s *KV[K, V]) Prefix(prefix K) *Scan[K, V] {
	c := &Scan[K, V]{store: s}
	if c.lower, c.invalid = s.appendKey(nil, prefix); c.invalid == nil {
		c.upper, _ = ordkey.PrefixEnd(nil, c.lower) // nil is the end of the store
	}
	return c
}

// All selects every key.
func (s *KV[K, V]) All() *Scan[K, V] { return &Scan[K, V]{store: s} }

// ApproximateLen estimates the number of keys, as Rows.ApproximateLen does.
func (s *KV[K, V]) ApproximateLen() int64 { return s.rows.ApproximateLen() }

// Scan is a selection of rows: for k, v := range scan.Rows() { ... }; then scan.Err(). The iterator lives only inside the
// loop. The store may be written while iterating: the scan shows the rows as they were when the loop began.
type Scan[K, V any] struct {
	store        *KV[K, V]
	lower, upper []byte
	reverse      bool
	invalid      error // the bounds could not be encoded
	err          error
}

// Reverse turns the order round and returns the scan.
func (c *Scan[K, V]) Reverse() *Scan[K, V] {
	c.reverse = !c.reverse
	return c
}

// Rows iterates. Keys and values are the caller's to keep. It may be called again; each loop sees the store as it is then.
func (c *Scan[K, V]) Rows() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if c.err = c.invalid; c.err != nil {
			return
		}
		rows := c.store.rows.Scan(c.lower, c.upper, c.reverse)
		defer func() {
			if err := rows.Close(); c.err == nil {
				c.err = err
			}
		}()
		for rows.Next() {
			var k K
			var v V
			if k, c.err = c.store.decodeKey(rows.Key()); c.err != nil {
				return
			}
			if v, c.err = c.store.decodeValue(rows.Value(), rows.Version()); c.err != nil {
				return
			}
			if !yield(k, v) {
				return
			}
		}
	}
}

// Err returns the error that ended the last iteration early, if any.
func (c *Scan[K, V]) Err() error { return c.err }
