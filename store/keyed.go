package store

import (
	"bytes"
	"fmt"
	"iter"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/serde"
)

// The rows of Value, List, Map, Reducing and Aggregating begin with their class (docs/format/rows.md, Keyed state):
//
//	01                                   counter: the generations given out
//	02 key namespace generation          garbage: a generation of a collection that is cleared and not yet swept
//	03 key namespace                     the value or accumulator; the head of a list or map
//	04 key namespace generation element  an element of a list, an entry of a map
const (
	classCounter = 1
	classGarbage = 2
	classHead    = 3
	classPart    = 4

	classAt = 2 // where it is in a full key, after the store's prefix
)

// keySpare is what a composite key may take beyond the user's key and namespace: class, generation, place in a list.
const keySpare = 32

// openRows opens the rows of a declared store and makes sure that it is the one which was attached.
func openRows(src Source, s Spec) (*Rows, error) {
	rows, err := src.Rows(s.Name())
	if err != nil {
		return nil, err
	}
	if d := rows.spec; !sameStore(d, s) {
		return nil, &fault.Error{
			Code: "store/other-type", Kind: fault.Config, Thing: "store", Value: s.Name(),
			Reason: fmt.Sprintf("it is attached as %s store with key %s and value %s, and opened as %s store with key %s and value %s",
				d.Kind(), d.KeyID(), formsOf(d), s.Kind(), s.KeyID(), formsOf(s)),
			Remedy: "declare the store once and use that value everywhere",
		}
	}
	return rows, nil
}

// keyed is what the handles of one store share: how a key becomes the beginning of a row's key.
type keyed[K any] struct {
	rows  *Rows
	codec keyCodec[K]
	buf   []byte // the key asked for; nil while user code runs that may ask for another
	ahead ahead
}

// keyedOptions are the options of a keyed store's declaration.
func keyedOptions[K, V any](key serde.Serde[K], value serde.Serde[V], opts []Option) options {
	o := makeOptions(opts)
	o.width, o.codecs = serde.Width(key), codecsOf[K, V]{key, value}
	return o
}

func newKeyed[K any](rows *Rows, key serde.Serde[K]) keyed[K] {
	return keyed[K]{rows: rows, codec: newKeyCodec(key)}
}

// begin returns prefix, class and key of a row, in buf; what follows may be appended, and kept with end.
func (s *keyed[K]) begin(class byte, key K) ([]byte, error) {
	full, err := s.codec.appendPart(append(s.buf[:0], s.rows.prefix[0], s.rows.prefix[1], class), key)
	if err != nil {
		return nil, s.failed("encode a key", err)
	}
	s.buf = full
	return full, nil
}

// single returns the full key of the one row of a key and namespace.
func (s *keyed[K]) single(key K, ns []byte) ([]byte, error) {
	full, err := s.begin(classHead, key)
	if err != nil || len(ns) == 0 {
		return full, err
	}
	s.buf = append(full, ns...)
	return s.buf, nil
}

// collection returns what the keys of all rows of a collection begin with, but for their class, which is that of the head.
func (s *keyed[K]) collection(key K, ns []byte) ([]byte, error) {
	full, err := s.begin(classHead, key)
	if err != nil {
		return nil, err
	}
	s.buf = ordkey.AppendBytes(full, ns)
	if n := len(s.buf) - len(s.rows.prefix); n > KeyBytesMax-keySpare {
		return nil, tooLong("store/key-too-long", "key of store "+s.rows.name, n, KeyBytesMax-keySpare)
	}
	return s.buf, nil
}

func (s *keyed[K]) failed(what string, err error) error {
	return fmt.Errorf("%s of store %s: %w", what, s.rows.name, err)
}

// decodeKey reads the key of a row of class head.
func (s *keyed[K]) decodeKey(full []byte) (key K, rest []byte, err error) {
	key, rest, err = s.codec.decodePart(full[classAt+1:])
	if err != nil {
		err = s.failed("decode a key", err)
	}
	return key, rest, err
}

// want puts the row of class head on the list, as KV.Want does.
func (s *keyed[K]) want(w *Wanted, key K, ns []byte, collection bool) {
	db := s.rows.db
	if db.complete || db.closed || !s.ahead.pays() {
		return
	}
	from := len(w.arena)
	full, err := s.codec.appendPart(append(w.arena, s.rows.prefix[0], s.rows.prefix[1], classHead), key)
	if err != nil {
		return
	}
	if collection {
		full = ordkey.AppendBytes(full, ns)
	} else {
		full = append(full, ns...)
	}
	w.add(db, full, from)
}

// KeyScan is a selection of keys: for key := range scan.Keys() { ... }; then scan.Err(). The store may be written while
// iterating: the scan shows the keys as they were when the loop began.
type KeyScan[K any] struct {
	store *keyed[K]
	ns    []byte
	err   error
}

// Keys iterates. Keys are the caller's to keep. It may be called again; each loop sees the store as it is then. It passes
// over the rows of other namespaces, and in a map over every entry.
func (c *KeyScan[K]) Keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		c.err = nil
		r := c.store.rows
		kind, class := r.spec.Kind(), byte(classHead)
		if kind == KindMap {
			class = classPart // most maps have no head
		}
		rows := r.Scan([]byte{class}, []byte{class + 1}, false)
		defer func() {
			if err := rows.Close(); c.err == nil {
				c.err = err
			}
		}()
		full := r.prefix[:]
		var shown, ns []byte
		for rows.Next() {
			if shown != nil && bytes.HasPrefix(rows.Key(), shown) {
				continue
			}
			full = append(full[:classAt:classAt], rows.Key()...)
			var key K
			var rest []byte
			if key, rest, c.err = c.store.decodeKey(full); c.err != nil {
				return
			}
			switch kind {
			case KindList, KindMap:
				if ns, rest, c.err = ordkey.Bytes(ns[:0], rest); c.err != nil {
					return
				}
			default:
				ns = rest
			}
			if kind == KindMap {
				end := len(full) - len(rest)
				var gen, now uint64
				if gen, rest, c.err = compact(rest); c.err != nil {
					return
				}
				shown = append(shown[:0], full[classAt:len(full)-len(rest)]...)
				full[classAt] = classHead
				if now, _, c.err = r.mapGen(full[:end]); c.err != nil {
					return
				}
				if gen != now {
					continue // cleared, and not yet swept
				}
			}
			if bytes.Equal(ns, c.ns) && !yield(key) {
				return
			}
		}
	}
}

// Err returns the error that ended the last iteration early, if any.
func (c *KeyScan[K]) Err() error { return c.err }

// keyCodec encodes one part of a composite key: the ordered form, which nothing else begins with.
type keyCodec[K any] struct {
	serde   serde.Serde[K]
	ordered serde.Ordered[K]  // nil when the topic form sorts by itself
	null    serde.Nullable[K] // nil when no key is null
	decoder *serde.Decoder[K]
	width   int    // of every key, or 0
	buf     []byte // for keys with zero bytes
}

func newKeyCodec[K any](s serde.Serde[K]) keyCodec[K] {
	c := keyCodec[K]{serde: s, decoder: serde.NewDecoder(s), width: serde.Width(s)}
	c.ordered, _ = s.(serde.Ordered[K])
	c.null, _ = s.(serde.Nullable[K])
	return c
}

// appendLast appends the key as the last part of a row's key: without an end mark.
func (c *keyCodec[K]) appendLast(dst []byte, key K) ([]byte, error) {
	if c.null != nil && c.null.IsNull(key) {
		return dst, errNullKey()
	}
	if c.ordered != nil {
		return c.ordered.AppendOrdered(dst, key)
	}
	return c.serde.Append(dst, key)
}

func errNullKey() error {
	return &fault.Error{Code: "store/null-key", Kind: fault.Record, Thing: "key", Reason: "a row cannot have a null key"}
}

// appendPart appends the key with an end mark, unless all keys have the same length.
func (c *keyCodec[K]) appendPart(dst []byte, key K) ([]byte, error) {
	n := len(dst)
	dst, err := c.appendLast(dst, key)
	if err != nil {
		return dst, err
	}
	if c.width > 0 {
		if len(dst)-n != c.width {
			return dst, &fault.Error{
				Code: "store/key-width", Kind: fault.Config, Thing: "codec", Value: serde.ID(c.serde),
				Reason: fmt.Sprintf("it wrote a key of %d bytes, and says that all have %d", len(dst)-n, c.width),
			}
		}
		return dst, nil
	}
	if bytes.IndexByte(dst[n:], 0) >= 0 {
		c.buf = append(c.buf[:0], dst[n:]...)
		return ordkey.AppendBytes(dst[:n], c.buf), nil
	}
	return ordkey.AppendBytes(dst, nil), nil // the mark alone
}

func (c *keyCodec[K]) decodeLast(src []byte) (K, error) {
	if c.ordered != nil {
		return c.ordered.DecodeOrdered(src)
	}
	return c.decoder.Decode(src)
}

func (c *keyCodec[K]) decodePart(src []byte) (key K, rest []byte, err error) {
	if c.width > 0 {
		if len(src) < c.width {
			return key, nil, fmt.Errorf("%w: a key needs %d bytes, %d are left", ordkey.ErrMalformed, c.width, len(src))
		}
		key, err = c.decodeLast(src[:c.width])
		return key, src[c.width:], err
	}
	c.buf, rest, err = ordkey.Bytes(c.buf[:0], src)
	if err != nil {
		return key, nil, err
	}
	key, err = c.decodeLast(c.buf)
	return key, rest, err
}

// valued is how a value becomes the bytes of a row.
type valued[V any] struct {
	serde   serde.Serde[V]
	null    serde.Nullable[V] // nil when no value is null
	decoder *serde.Decoder[V]
	buf     []byte
}

func newValued[V any](s serde.Serde[V]) valued[V] {
	v := valued[V]{serde: s, decoder: serde.NewDecoder(s)}
	v.null, _ = s.(serde.Nullable[V])
	return v
}

func (v *valued[V]) isNull(value V) bool { return v.null != nil && v.null.IsNull(value) }

// encode returns the bytes of a value, in memory that the next call overwrites.
func (v *valued[V]) encode(rows *Rows, value V) ([]byte, error) {
	raw, err := v.serde.Append(v.buf[:0], value)
	if err != nil {
		return nil, fmt.Errorf("encode a value of store %s: %w", rows.name, err)
	}
	v.keep(raw)
	return raw, nil
}

// keep keeps the memory for the next time, unless it is huge: one huge value must not be paid for by every store for ever.
func (v *valued[V]) keep(buf []byte) {
	if v.buf = buf; cap(buf) > 1<<20 {
		v.buf = nil
	}
}

func (v *valued[V]) decode(rows *Rows, raw []byte, version uint16) (V, error) {
	value, err := v.decoder.DecodeVersion(raw, version)
	if err != nil {
		return value, fmt.Errorf("decode a value of store %s: %w", rows.name, err)
	}
	return value, nil
}

// load reads and decodes the value of a row.
func (v *valued[V]) load(rows *Rows, full []byte) (value V, h RowHeader, ok bool, err error) {
	raw, h, ok, err := rows.getRow(full)
	if err != nil || !ok {
		return value, h, false, err
	}
	value, err = v.decode(rows, raw, h.Version)
	return value, h, err == nil, err
}

// store writes the value of a row, or drops the row if the value stands for null.
func (v *valued[V]) store(rows *Rows, full []byte, value V) error {
	if v.isNull(value) {
		return rows.drop(full)
	}
	raw, err := v.encode(rows, value)
	if err != nil {
		return err
	}
	return rows.put(full, raw, rows.db.time)
}

func errNullElement(rows *Rows, what string, at int) error {
	return &fault.Error{
		Code: "store/null-element", Kind: fault.Record, Thing: what + " of store", Value: rows.name,
		Reason: fmt.Sprintf("number %d is null", at), Remedy: "leave nulls out; nothing was changed",
	}
}

func errNoElement(rows *Rows) error {
	return &fault.Error{
		Code: "store/no-element", Kind: fault.Record, Thing: "scan of store", Value: rows.name,
		Reason: "it shows no element to be changed", Remedy: "call Delete and Set inside of the loop",
	}
}

func errNilSlice(rows *Rows) error {
	return &fault.Error{
		Code: "store/nil-slice", Kind: fault.Record, Thing: "elements for store", Value: rows.name,
		Reason: "there is no slice, not even an empty one", Remedy: "pass an empty slice for no elements; nothing was changed",
	}
}

func errNoFunction(what string) error {
	return &fault.Error{
		Code: "store/no-function", Kind: fault.Config, Thing: "function", Value: what, Reason: "it is nil",
		Remedy: "declare the store with it",
	}
}
