package store

import (
	"bytes"
	"iter"
	"slices"

	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/serde"
)

// Map declares a store with one map per key, and per key and namespace. Each entry is a row. Entries are in the order of their
// subkeys' ordered form (serde.Ordered), which for the codecs of package serde is the order of the values.
func Map[K, S, V any](name string, key serde.Serde[K], subkey serde.Serde[S], value serde.Serde[V], opts ...Option) MapSpec[K, S, V] {
	o := keyedOptions(key, value, opts)
	o.codecs = mapCodecs[K, S, V]{codecsOf[K, V]{key, value}, subkey}
	return MapSpec[K, S, V]{name, key, subkey, value, o}
}

// MapSpec declares a Map store.
type MapSpec[K, S, V any] struct {
	name   string
	key    serde.Serde[K]
	subkey serde.Serde[S]
	value  serde.Serde[V]
	options
}

// Name is the store's name.
func (s MapSpec[K, S, V]) Name() string { return s.name }

// Kind is KindMap.
func (s MapSpec[K, S, V]) Kind() Kind { return KindMap }

// KeyID is the id of the key's codec.
func (s MapSpec[K, S, V]) KeyID() string { return serde.ID(s.key) }

// ValueID names the codecs of subkey and value: "{string: int64}".
func (s MapSpec[K, S, V]) ValueID() string {
	if s.subkey == nil || s.value == nil {
		return serde.ID[V](nil)
	}
	return mapValueID(serde.ID(s.subkey), serde.ID(s.value))
}

// In opens the store as a node sees it.
func (s MapSpec[K, S, V]) In(src Source) (MapState[K, S, V], error) {
	rows, err := openRows(src, s)
	if err != nil {
		return MapState[K, S, V]{}, err
	}
	return MapState[K, S, V]{s: &mapStore[K, S, V]{keyed: newKeyed(rows, s.key), valued: newValued(s.value), subs: newKeyCodec(s.subkey)}}, nil
}

type mapStore[K, S, V any] struct {
	keyed[K]
	valued[V]
	subs   keyCodec[S]
	part   []byte
	gather []entry
	bytes  []byte // of the entries in gather
}

// entry is where an entry's subkey and value are in bytes.
type entry struct{ key, value, end int }

// The first byte of an entry's value.
const (
	entryNull  = 0 // and nothing follows
	entryValue = 1
)

// MapState is a Map store of one task, in one namespace. It sees the task's own uncommitted writes. Copies are the same
// store. Not for concurrent use.
//
// A key or subkey that stands for null (serde.Nullable) is an error. A value that stands for null is a value like any other: its entry
// is there.
type MapState[K, S, V any] struct {
	s  *mapStore[K, S, V]
	ns []byte
}

// NS is the store in a namespace: the same keys, and other maps. The empty namespace is that of In. ns must not change while the
// result is used.
func (m MapState[K, S, V]) NS(ns []byte) MapState[K, S, V] { return MapState[K, S, V]{m.s, ns} }

// parts makes part the beginning of the keys of all entries of the map, and returns its length and the map's generation.
func (s *mapStore[K, S, V]) parts(key K, ns []byte) (n int, err error) {
	head, err := s.collection(key, ns)
	if err != nil {
		return 0, err
	}
	gen, _, err := s.rows.mapGen(head)
	if err != nil {
		return 0, err
	}
	s.part = appendCompact(append(s.part[:0], head...), gen)
	s.part[classAt] = classPart
	return len(s.part), nil
}

// entry makes part the full key of an entry.
func (s *mapStore[K, S, V]) entry(key K, ns []byte, sub S) (full []byte, err error) {
	n, err := s.parts(key, ns)
	if err != nil {
		return nil, err
	}
	if s.part, err = s.subs.appendLast(s.part[:n], sub); err != nil {
		return nil, s.failed("encode a subkey", err)
	}
	return s.part, nil
}

func (s *mapStore[K, S, V]) decodeEntry(raw []byte, version uint16) (v V, err error) {
	switch {
	case len(raw) > 0 && raw[0] == entryValue:
		return s.decode(s.rows, raw[1:], version)
	case len(raw) == 1 && raw[0] == entryNull && s.null != nil:
		return v, nil
	}
	return v, badHead(s.rows, "entry")
}

func (s *mapStore[K, S, V]) appendEntry(dst []byte, value V) ([]byte, error) {
	if s.isNull(value) {
		return append(dst, entryNull), nil
	}
	dst, err := s.valued.serde.Append(append(dst, entryValue), value)
	if err != nil {
		return dst, s.failed("encode a value", err)
	}
	return dst, nil
}

// Get returns the value of an entry, and whether there is one. The value is the caller's to keep; for an entry with a null it is
// the zero value, which with serde.Optional is the null.
func (m MapState[K, S, V]) Get(key K, sub S) (value V, ok bool, err error) {
	full, err := m.s.entry(key, m.ns, sub)
	if err != nil {
		return value, false, err
	}
	raw, h, ok, err := m.s.rows.getRow(full)
	if err != nil || !ok {
		return value, false, err
	}
	value, err = m.s.decodeEntry(raw, h.Version)
	return value, err == nil, err
}

// Contains reports whether the map has an entry for sub.
func (m MapState[K, S, V]) Contains(key K, sub S) (bool, error) {
	full, err := m.s.entry(key, m.ns, sub)
	if err != nil {
		return false, err
	}
	_, _, ok, err := m.s.rows.get(full)
	return ok, err
}

// Put sets the value of an entry.
func (m MapState[K, S, V]) Put(key K, sub S, value V) error {
	s := m.s
	full, err := s.entry(key, m.ns, sub)
	if err != nil {
		return err
	}
	raw, err := s.appendEntry(s.valued.buf[:0], value)
	if err != nil {
		return err
	}
	s.keep(raw)
	return s.rows.put(full, raw, s.rows.db.time)
}

// PutAll sets the values of all entries of a sequence (for a Go map, maps.All), in the order of their subkeys; of several with one
// subkey the last counts. If one of them cannot be put, none is. A nil sequence is an error.
func (m MapState[K, S, V]) PutAll(key K, entries iter.Seq2[S, V]) error {
	s := m.s
	if entries == nil {
		return errNilSlice(s.rows)
	}
	all, b := s.gather[:0], s.bytes[:0]
	s.gather, s.bytes = nil, nil // the sequence may be one that uses this store
	var err error
	for sub, v := range entries {
		e := entry{key: len(b)}
		if b, err = s.subs.appendLast(b, sub); err != nil {
			return s.failed("encode a subkey", err)
		}
		e.value = len(b)
		if b, err = s.appendEntry(b, v); err != nil {
			return err
		}
		e.end = len(b)
		if n := e.value - e.key; n > KeyBytesMax-keySpare {
			return tooLong("store/key-too-long", "subkey of store "+s.rows.name, n, KeyBytesMax-keySpare)
		}
		if n := e.end - e.value; n > ValueBytesMax {
			return tooLong("store/value-too-long", "value of store "+s.rows.name, n, ValueBytesMax)
		}
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(x, y entry) int { return bytes.Compare(b[x.key:x.value], b[y.key:y.value]) })
	n, err := s.parts(key, m.ns)
	if err != nil {
		return err
	}
	longest := 0
	for _, e := range all {
		longest = max(longest, e.value-e.key)
	}
	if err := s.rows.check(n-classAt+longest, 0); err != nil {
		return err
	}
	for _, e := range all {
		s.part = append(s.part[:n], b[e.key:e.value]...)
		if err := s.rows.put(s.part, b[e.value:e.end], s.rows.db.time); err != nil {
			return err
		}
	}
	if s.gather = all; cap(b) <= 1<<20 {
		s.bytes = b
	}
	return nil
}

// Delete removes an entry. Deleting where there is none is no error.
func (m MapState[K, S, V]) Delete(key K, sub S) error {
	full, err := m.s.entry(key, m.ns, sub)
	if err != nil {
		return err
	}
	if err := m.s.rows.drop(full); err != nil {
		return err
	}
	return m.s.rows.tidyMap(m.s.keyed.buf) // where parts has left the collection
}

// IsEmpty reports whether the map has no entries. It looks for the first one, which must not have expired.
func (m MapState[K, S, V]) IsEmpty(key K) (bool, error) {
	scan := m.All(key)
	for range scan.keys(false) {
		return false, scan.err
	}
	return scan.err == nil, scan.err
}

// Clear removes all entries. It takes about the same time for every map that is not small: what is left behind of a larger one is
// worked off by DB.SweepGarbage.
func (m MapState[K, S, V]) Clear(key K) error {
	s := m.s
	head, err := s.collection(key, m.ns)
	if err != nil {
		return err
	}
	gen, _, err := s.rows.mapGen(head)
	if err != nil {
		return err
	}
	n, err := s.parts(key, m.ns)
	if err != nil {
		return err
	}
	keys, ends, err := s.rows.few(s.bytes[:0], s.part[:n])
	if s.bytes = keys; err != nil {
		return err
	}
	if len(ends) < clearFew {
		from := 0
		for _, end := range ends {
			s.rows.erase(keys[from:end])
			from = end
		}
		return s.rows.tidyMap(head)
	}
	if err := s.rows.discardGen(head, gen); err != nil {
		return err
	}
	if gen, err = s.rows.newGen(); err != nil {
		return err
	}
	return s.rows.putMapHead(head, gen)
}

// First returns the entry with the least subkey, and whether there is one.
func (m MapState[K, S, V]) First(key K) (sub S, value V, ok bool, err error) {
	return m.All(key).first()
}

// Last returns the entry with the greatest subkey, and whether there is one.
func (m MapState[K, S, V]) Last(key K) (sub S, value V, ok bool, err error) {
	return m.All(key).Reverse().first()
}

func (c *MapScan[K, S, V]) first() (sub S, value V, ok bool, err error) {
	for sub, value = range c.Rows() {
		ok = true
		break
	}
	return sub, value, ok, c.err
}

// All selects all entries in the order of their subkeys.
func (m MapState[K, S, V]) All(key K) *MapScan[K, S, V] {
	c := &MapScan[K, S, V]{of: m.s}
	head, err := m.s.collection(key, m.ns)
	c.head, c.invalid = append(c.space[:0], head...), err
	return c
}

// Range selects the entries with the subkeys from..to, both included.
func (m MapState[K, S, V]) Range(key K, from, to S) *MapScan[K, S, V] {
	c := m.All(key)
	var err error
	if c.lower, err = m.s.subs.appendLast(nil, from); err == nil {
		c.upper, err = m.s.subs.appendLast(nil, to)
	}
	if c.upper = append(c.upper, 0); err != nil && c.invalid == nil { // the least subkey after to
		c.invalid = m.s.failed("encode a subkey", err)
	}
	return c
}

// Keys selects the keys that have a map with entries in this namespace, in key order. It passes over all entries.
func (m MapState[K, S, V]) Keys() *KeyScan[K] { return &KeyScan[K]{store: &m.s.keyed, ns: m.ns} }

// Merge puts the entries of the maps of key in the namespaces sources, in that order, into its map in the namespace target, and
// clears those. Of entries with one subkey the last put counts. A source that is the target stays as it is.
func (m MapState[K, S, V]) Merge(key K, target []byte, sources ...[]byte) error {
	to := m.NS(target)
	for _, ns := range sources {
		if string(ns) == string(target) {
			continue
		}
		from := m.NS(ns)
		all := from.All(key)
		if err := to.PutAll(key, all.Rows()); err != nil {
			return err
		}
		if err := all.Err(); err != nil {
			return err
		}
		if err := from.Clear(key); err != nil {
			return err
		}
	}
	return nil
}

// MapScan is a selection of entries: for sub, v := range scan.Rows() { ... }; then scan.Err(). The iterator lives only inside
// the loop. It shows the map as it was when the loop began, whatever is done to it meanwhile. Delete and Set change the
// entry with the subkey that was shown last.
type MapScan[K, S, V any] struct {
	of      *mapStore[K, S, V]
	head    []byte
	space   [48]byte
	lower   []byte // subkeys; nil is all
	upper   []byte
	reverse bool
	at      []byte // full key of the entry; nil outside of the loop
	deleted bool
	invalid error
	err     error
}

// Reverse turns the order round and returns the scan.
func (c *MapScan[K, S, V]) Reverse() *MapScan[K, S, V] {
	c.reverse = !c.reverse
	return c
}

// Rows iterates over subkeys and values. They are the caller's to keep. It may be called again; each loop sees the map as
// it is then.
func (c *MapScan[K, S, V]) Rows() iter.Seq2[S, V] {
	return func(yield func(S, V) bool) {
		for raw, version := range c.rows() {
			sub, err := c.sub()
			if err == nil {
				var v V
				if v, err = c.of.decodeEntry(raw, version); err == nil {
					if !yield(sub, v) {
						return
					}
					continue
				}
			}
			c.err = err
			return
		}
	}
}

// Keys iterates over subkeys alone.
func (c *MapScan[K, S, V]) Keys() iter.Seq[S] { return c.keys(true) }

func (c *MapScan[K, S, V]) keys(decode bool) iter.Seq[S] {
	return func(yield func(S) bool) {
		for range c.rows() {
			var sub S
			if decode {
				if sub, c.err = c.sub(); c.err != nil {
					return
				}
			}
			if !yield(sub) {
				return
			}
		}
	}
}

// Values iterates over values alone.
func (c *MapScan[K, S, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		for raw, version := range c.rows() {
			var v V
			if v, c.err = c.of.decodeEntry(raw, version); c.err != nil || !yield(v) {
				return
			}
		}
	}
}

// sub is the subkey of the entry at.
func (c *MapScan[K, S, V]) sub() (sub S, err error) {
	_, rest, err := compact(c.at[len(c.head):])
	if err == nil {
		sub, err = c.of.subs.decodeLast(rest)
	}
	if err != nil {
		err = c.of.failed("decode a subkey", err)
	}
	return sub, err
}

// rows goes through the rows of the selection and shows their values, undecoded, and those's versions.
func (c *MapScan[K, S, V]) rows() iter.Seq2[[]byte, uint16] {
	return func(yield func([]byte, uint16) bool) {
		if c.err = c.invalid; c.err != nil {
			return
		}
		r := c.of.rows
		gen, _, err := r.mapGen(c.head)
		if c.err = err; err != nil {
			return
		}
		part := appendCompact(slices.Clone(c.head), gen)
		part[classAt] = classPart
		n := len(part)
		lower := append(part, c.lower...)[classAt:]
		var upper []byte
		if c.upper == nil {
			upper, _ = ordkey.PrefixEnd(nil, part[:n])
		} else {
			upper = slices.Concat(part[:n], c.upper)
		}
		rows := r.Scan(lower, upper[classAt:], c.reverse)
		defer func() {
			c.at = nil
			if err := rows.Close(); c.err == nil {
				c.err = err
			}
			if c.deleted {
				c.deleted = false
				if err := r.tidyMap(c.head); c.err == nil {
					c.err = err
				}
			}
		}()
		for rows.Next() {
			c.at = append(append(c.at[:0], r.prefix[0], r.prefix[1]), rows.Key()...)
			if !yield(rows.Value(), rows.Version()) {
				return
			}
		}
	}
}

// current makes at the full key of the entry with the subkey shown last, as the map is now, and reports whether there is one.
func (c *MapScan[K, S, V]) current() (ok bool, err error) {
	r := c.of.rows
	if c.at == nil {
		return false, errNoElement(r)
	}
	now, _, err := r.mapGen(c.head)
	if err != nil {
		return false, err
	}
	gen, sub, err := compact(c.at[len(c.head):])
	if err != nil {
		return false, err
	}
	if gen != now { // it was cleared since
		c.at = append(appendCompact(slices.Clone(c.at[:len(c.head)]), now), sub...)
	}
	_, _, ok, err = r.get(c.at)
	return ok, err
}

// Delete removes the entry with the subkey shown last. If there is none any more nothing happens. Outside of the loop it is
// an error.
func (c *MapScan[K, S, V]) Delete() error {
	ok, err := c.current()
	if err != nil || !ok {
		return err
	}
	c.of.rows.erase(c.at)
	c.deleted = true
	return nil
}

// Set puts another value into the entry with the subkey shown last. If there is none any more nothing happens. Outside of the
// loop it is an error.
func (c *MapScan[K, S, V]) Set(value V) error {
	ok, err := c.current()
	if err != nil || !ok {
		return err
	}
	raw, err := c.of.appendEntry(c.of.valued.buf[:0], value)
	if err != nil {
		return err
	}
	c.of.keep(raw)
	return c.of.rows.put(c.at, raw, c.of.rows.db.time)
}

// Err returns the error that ended the last iteration early, if any.
func (c *MapScan[K, S, V]) Err() error { return c.err }
