package store

import (
	"iter"
	"slices"

	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/serde"
)

// List declares a store with one list per key, and per key and namespace. Each element is a row: adding one reads and writes
// none of the others.
func List[K, V any](name string, key serde.Serde[K], element serde.Serde[V], opts ...Option) ListSpec[K, V] {
	return ListSpec[K, V]{name, key, element, keyedOptions(key, element, opts)}
}

// ListSpec declares a List store.
type ListSpec[K, V any] struct {
	name    string
	key     serde.Serde[K]
	element serde.Serde[V]
	options
}

// Name is the store's name.
func (s ListSpec[K, V]) Name() string { return s.name }

// Kind is KindList.
func (s ListSpec[K, V]) Kind() Kind { return KindList }

// KeyID is the id of the key's codec.
func (s ListSpec[K, V]) KeyID() string { return serde.ID(s.key) }

// ValueID is the id of the elements' codec.
func (s ListSpec[K, V]) ValueID() string { return serde.ID(s.element) }

// In opens the store as a node sees it.
func (s ListSpec[K, V]) In(src Source) (ListState[K, V], error) {
	rows, err := openRows(src, s)
	if err != nil {
		return ListState[K, V]{}, err
	}
	return ListState[K, V]{s: &listStore[K, V]{keyed: newKeyed(rows, s.key), valued: newValued(s.element)}}, nil
}

type listStore[K, V any] struct {
	keyed[K]
	valued[V]
	part []byte // full key of an element
	ends []int  // of encoded elements in valued.buf
}

// ListState is a List store of one task, in one namespace. It sees the task's own uncommitted writes. Copies are the same
// store. Not for concurrent use.
//
// A key or an element that stands for null (serde.Nullable) is an error, and nothing is changed then.
type ListState[K, V any] struct {
	s  *listStore[K, V]
	ns []byte
}

// NS is the store in a namespace: the same keys, and other lists. The empty namespace is that of In. ns must not change while the
// result is used.
func (l ListState[K, V]) NS(ns []byte) ListState[K, V] { return ListState[K, V]{l.s, ns} }

// Append adds elements at the end of the list. None is none.
func (l ListState[K, V]) Append(key K, elements ...V) error {
	if len(elements) == 0 {
		return nil
	}
	return l.append(key, elements)
}

// AppendAll adds the elements of a slice at the end of the list: of an empty one none; a nil slice is an error.
func (l ListState[K, V]) AppendAll(key K, elements []V) error {
	if elements == nil {
		return errNilSlice(l.s.rows)
	}
	return l.Append(key, elements...)
}

func (l ListState[K, V]) append(key K, elements []V) error {
	s := l.s
	if err := s.encodeAll(elements); err != nil {
		return err
	}
	head, err := s.collection(key, l.ns)
	if err != nil {
		return err
	}
	h, err := s.open(head)
	if err != nil {
		return err
	}
	return s.appendEncoded(head, h)
}

// encodeAll leaves the bytes of elements in valued.buf and their ends in ends.
func (s *listStore[K, V]) encodeAll(elements []V) error {
	buf := s.valued.buf[:0]
	s.ends = s.ends[:0]
	for i, e := range elements {
		if s.isNull(e) {
			return errNullElement(s.rows, "element", i)
		}
		var err error
		from := len(buf)
		if buf, err = s.valued.serde.Append(buf, e); err != nil {
			return s.failed("encode an element", err)
		}
		if n := len(buf) - from; n > ValueBytesMax {
			return tooLong("store/value-too-long", "element of store "+s.rows.name, n, ValueBytesMax)
		}
		s.ends = append(s.ends, len(buf))
	}
	s.valued.buf = buf
	return nil
}

// appendEncoded adds the encoded elements to the list and writes its head.
func (s *listStore[K, V]) appendEncoded(head []byte, h listHead) error {
	at := s.parts(head, h.gen)
	raw, from := s.valued.buf, 0
	for _, end := range s.ends {
		s.part = appendCompact(s.part[:at], h.next)
		if err := s.rows.put(s.part, raw[from:end], s.rows.db.time); err != nil {
			return err
		}
		h.next++
		h.len++
		from = end
	}
	s.keep(raw)
	return h.put(s.rows, head)
}

// open returns the head of the list, or that of a list to be made.
func (s *listStore[K, V]) open(head []byte) (listHead, error) {
	s.ahead.asked++
	h, ok, err := s.rows.listHead(head)
	if err != nil || ok {
		return h, err
	}
	// A generation that was never cleared for this key: clearing gives out a new one.
	h.gen, err = s.rows.lastGen()
	return h, err
}

// parts makes part the beginning of the keys of all elements of a generation, and returns its length.
func (s *listStore[K, V]) parts(head []byte, gen uint64) int {
	s.part = appendCompact(append(s.part[:0], head...), gen)
	s.part[classAt] = classPart
	return len(s.part)
}

// Replace makes the elements of a slice the list's: of an empty one it is Clear; a nil slice is an error.
func (l ListState[K, V]) Replace(key K, elements []V) error {
	if elements == nil {
		return errNilSlice(l.s.rows)
	}
	s := l.s
	if err := s.encodeAll(elements); err != nil {
		return err
	}
	head, err := s.collection(key, l.ns)
	if err != nil {
		return err
	}
	h, err := s.open(head)
	if err != nil {
		return err
	}
	if h.next-h.from >= clearFew+uint64(len(elements)) { // too many to be taken away one by one
		if err := s.clear(head, h); err != nil {
			return err
		}
		if len(elements) == 0 {
			return nil
		}
		if h, err = s.open(head); err != nil {
			return err
		}
		return s.appendEncoded(head, h)
	}
	s.rows.renumbered(head)
	old := h.next
	h.next, h.len = h.from, 0
	at := s.parts(head, h.gen)
	for seq := h.from + uint64(len(elements)); seq < old; seq++ {
		s.part = appendCompact(s.part[:at], seq)
		if err := s.rows.drop(s.part); err != nil {
			return err
		}
	}
	return s.appendEncoded(head, h)
}

// Clear removes the list. It takes about the same time for every list that is not short: what is left behind of a longer one is
// worked off by DB.SweepGarbage.
func (l ListState[K, V]) Clear(key K) error {
	head, err := l.s.collection(key, l.ns)
	if err != nil {
		return err
	}
	h, ok, err := l.s.rows.listHead(head)
	if err != nil || !ok {
		return err
	}
	return l.s.clear(head, h)
}

func (s *listStore[K, V]) clear(head []byte, h listHead) error {
	if h.len == 0 {
		return nil // there is none
	}
	if h.len >= clearFew || h.next-h.from >= 2*clearFew {
		if err := s.rows.discardGen(head, h.gen); err != nil {
			return err
		}
		if _, err := s.rows.newGen(); err != nil {
			return err
		}
	} else {
		at := s.parts(head, h.gen)
		for seq := h.from; seq < h.next; seq++ {
			s.part = appendCompact(s.part[:at], seq)
			if err := s.rows.drop(s.part); err != nil {
				return err
			}
		}
	}
	h.len = 0
	return h.put(s.rows, head)
}

// Len is the number of elements; with a time to live also of those that have expired and were not yet removed.
func (l ListState[K, V]) Len(key K) (int64, error) {
	head, err := l.s.collection(key, l.ns)
	if err != nil {
		return 0, err
	}
	l.s.ahead.asked++
	h, _, err := l.s.rows.listHead(head)
	return int64(h.len), err
}

// Want says that the list of key is going to be used: its head is what is read ahead, not its elements. See KV.Want.
func (l ListState[K, V]) Want(w *Wanted, key K) { l.s.want(w, key, l.ns, true) }

// Keys selects the keys that have a list in this namespace, in key order; with a time to live also those of which all elements
// have expired and were not yet removed.
func (l ListState[K, V]) Keys() *KeyScan[K] { return &KeyScan[K]{store: &l.s.keyed, ns: l.ns} }

// Slice returns all elements in the order they were added. The slice is the caller's and never nil.
func (l ListState[K, V]) Slice(key K) ([]V, error) {
	all := []V{}
	scan := l.All(key)
	for v := range scan.Values() {
		all = append(all, v)
	}
	return all, scan.Err()
}

// Merge adds the elements of the lists of key in the namespaces sources, one after the other, at the end of its list in the
// namespace target, and clears those. A source that is the target stays as it is.
func (l ListState[K, V]) Merge(key K, target []byte, sources ...[]byte) error {
	to := l.NS(target)
	for _, ns := range sources {
		if string(ns) == string(target) {
			continue
		}
		from := l.NS(ns)
		elements, err := from.Slice(key)
		if err != nil {
			return err
		}
		if err := to.Append(key, elements...); err != nil {
			return err
		}
		if err := from.Clear(key); err != nil {
			return err
		}
	}
	return nil
}

// All selects the elements of the list in the order they were added.
func (l ListState[K, V]) All(key K) *ListScan[K, V] {
	c := &ListScan[K, V]{list: l.s}
	head, err := l.s.collection(key, l.ns)
	c.head, c.invalid = append(c.space[:0], head...), err
	return c
}

// ListScan is a selection of elements: for v := range scan.Values() { ... }; then scan.Err(). The iterator lives only inside
// the loop. It shows the list as it was when the loop began, whatever is done to it meanwhile. Delete and Set change
// the element that was shown last.
type ListScan[K, V any] struct {
	cursor
	list    *listStore[K, V]
	space   [48]byte
	reverse bool
	gen     uint64
	invalid error
	err     error
}

// Reverse turns the order round and returns the scan.
func (c *ListScan[K, V]) Reverse() *ListScan[K, V] {
	c.reverse = !c.reverse
	return c
}

// Values iterates. Elements are the caller's to keep. It may be called again; each loop sees the list as it is then.
func (c *ListScan[K, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		if c.err = c.invalid; c.err != nil {
			return
		}
		s := c.list
		r := s.rows
		s.ahead.asked++
		h, ok, err := r.listHead(c.head)
		if c.err = err; err != nil || !ok {
			return
		}
		c.gen = h.gen
		at := s.parts(c.head, h.gen)
		lower := appendCompact(s.part, h.from)[classAt:]
		upper, _ := ordkey.PrefixEnd(nil, s.part[:at])
		rows := r.Scan(lower, upper[classAt:], c.reverse)
		c.stale = false
		r.gens.cursors = append(r.gens.cursors, &c.cursor)
		defer func() {
			c.at = nil
			r.gens.cursors = slices.DeleteFunc(r.gens.cursors, func(o *cursor) bool { return o == &c.cursor })
			if err := rows.Close(); c.err == nil {
				c.err = err
			}
		}()
		for rows.Next() {
			var v V
			if v, c.err = s.decode(r, rows.Value(), rows.Version()); c.err != nil {
				return
			}
			c.at = append(append(c.at[:0], r.prefix[0], r.prefix[1]), rows.Key()...)
			if !yield(v) {
				return
			}
		}
	}
}

// current reports whether the element shown last is still there, and returns the head of its list and its place.
func (c *ListScan[K, V]) current() (h listHead, seq uint64, ok bool, err error) {
	if c.at == nil {
		return h, 0, false, errNoElement(c.list.rows)
	}
	if c.stale {
		return h, 0, false, nil
	}
	if _, _, ok, err = c.list.rows.get(c.at); err != nil || !ok {
		return h, 0, false, err
	}
	if h, ok, err = c.list.rows.listHead(c.head); err != nil || !ok || h.gen != c.gen {
		return h, 0, false, err
	}
	_, rest, err := compact(c.at[len(c.head):])
	if err == nil {
		seq, _, err = compact(rest)
	}
	return h, seq, err == nil, err
}

// Delete removes the element that was shown last. If it is gone already, also by Clear or Replace inside of the loop, nothing
// happens. Outside of the loop it is an error.
func (c *ListScan[K, V]) Delete() error {
	h, seq, ok, err := c.current()
	if err != nil || !ok {
		return err
	}
	c.list.rows.erase(c.at)
	return h.without(c.list.rows, c.head, seq)
}

// Set puts another element in the place of the one that was shown last. If that is gone already, also by Clear or Replace inside
// of the loop, nothing happens. Outside of the loop it is an error.
func (c *ListScan[K, V]) Set(element V) error {
	if c.list.isNull(element) {
		return errNullElement(c.list.rows, "element", 0)
	}
	_, _, ok, err := c.current()
	if err != nil || !ok {
		return err
	}
	return c.list.store(c.list.rows, c.at, element)
}

// Err returns the error that ended the last iteration early, if any.
func (c *ListScan[K, V]) Err() error { return c.err }
