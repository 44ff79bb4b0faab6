package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/internal/ordkey"
)

// A collection is cleared by forgetting its generation: the rows of a list or map carry a number, and rows of a number that
// is no longer the collection's do not exist for anybody. Kafka's compaction knows no range tombstones, so each of them gets
// one in the end: clearing leaves a garbage row, durable as any, and SweepGarbage works it off.
//
// A number is given out once per store, by a counter that is a row itself. So rows that are still waiting to be swept are
// never taken for new ones, whatever crashed or was undone in between.

// clearFew is the number of rows from which a collection is cleared by its generation.
const clearFew = 32

// What is known of a store's generations; a Rows keeps it. After a rollback it may say more than there is, never less.
const (
	gensUnknown uint8 = iota
	gensNone          // none was ever given out: there are no garbage rows, and maps have no heads
	gensSome
)

// gens is what the handles of a store and the sweeper remember.
type gens struct {
	state   uint8
	clean   bool   // there is no garbage row, and one that was dropped cannot come back
	looked  uint32 // epoch in which no garbage row was found
	dropped uint32 // epoch in which the last one was dropped
	at      []byte // garbage row being swept
	next    []byte // the first row of it that may be left
	key     []byte // scratch
	cursors []*cursor
}

// cursor is the place of a loop over a list.
type cursor struct {
	head  []byte // of the list
	at    []byte // full key of the element shown; nil outside of the loop
	stale bool   // the places of the list have been given to other elements since
}

// renumbered must be called when elements get places that other elements of the list had: loops over it cannot change it any more.
func (r *Rows) renumbered(collection []byte) {
	for _, c := range r.gens.cursors {
		c.stale = c.stale || bytes.Equal(c.head, collection)
	}
}

// appendCompact appends v in as many bytes as it needs, after their number: sorted as numbers are, and never the beginning of
// another.
func appendCompact(dst []byte, v uint64) []byte {
	n := 8
	for n > 0 && v>>(8*n-8) == 0 {
		n--
	}
	dst = append(dst, byte(n))
	for n--; n >= 0; n-- {
		dst = append(dst, byte(v>>(8*n)))
	}
	return dst
}

// compact reads what appendCompact wrote and returns the bytes after it.
func compact(src []byte) (v uint64, rest []byte, err error) {
	if len(src) == 0 || src[0] > 8 || len(src) <= int(src[0]) || src[0] > 0 && src[1] == 0 {
		return 0, src, fmt.Errorf("%w: a number was expected", ordkey.ErrMalformed)
	}
	n := int(src[0])
	for _, b := range src[1 : n+1] {
		v = v<<8 | uint64(b)
	}
	return v, src[n+1:], nil
}

// collectionEnd returns how many bytes of a full key are prefix, class, key and namespace. width is that of the keys.
func collectionEnd(full []byte, width int) (int, error) {
	n := classAt + 1 + width
	if width == 0 {
		m, err := markEnd(full, n)
		if err != nil {
			return 0, err
		}
		n = m
	}
	return markEnd(full, n)
}

// markEnd returns where the string that begins at from ends, with its end mark.
func markEnd(full []byte, from int) (int, error) {
	for at := from; at < len(full); {
		i := bytes.IndexByte(full[at:], 0)
		if i < 0 || at+i+1 == len(full) {
			break
		}
		if at += i + 2; full[at-1] == 1 {
			return at, nil
		}
	}
	return 0, fmt.Errorf("%w: a part without an end", ordkey.ErrMalformed)
}

const headFormat = 1

// badHead is the error of a head, counter or garbage row.
func badHead(r *Rows, what string) error {
	return badRow(fmt.Sprintf("the %s of a collection of store %s cannot be read", what, r.name))
}

// uvarints reads numbers behind a format byte.
func uvarints(raw []byte, to ...*uint64) bool {
	if len(raw) == 0 || raw[0] != headFormat {
		return false
	}
	raw = raw[1:]
	for _, v := range to {
		n := 0
		if *v, n = binary.Uvarint(raw); n <= 0 {
			return false
		}
		raw = raw[n:]
	}
	return len(raw) == 0
}

func (r *Rows) counterKey() []byte {
	return append(r.gens.key[:0], r.prefix[0], r.prefix[1], classCounter)
}

// lastGen is the last generation given out.
func (r *Rows) lastGen() (last uint64, err error) {
	if r.gens.state == gensNone {
		return 0, nil
	}
	r.gens.key = r.counterKey()
	raw, _, ok, err := r.get(r.gens.key)
	if err != nil {
		return 0, err
	}
	if !ok {
		r.gens.state = gensNone
		return 0, nil
	}
	if r.gens.state == gensUnknown {
		r.gens.state = gensSome
	}
	if !uvarints(raw, &last) {
		return 0, badHead(r, "counter")
	}
	return last, nil
}

// newGen gives out a generation.
func (r *Rows) newGen() (uint64, error) {
	last, err := r.lastGen()
	if err != nil {
		return 0, err
	}
	r.gens.state = gensSome
	var value [1 + binary.MaxVarintLen64]byte
	value[0] = headFormat
	n := binary.PutUvarint(value[1:], last+1)
	return last + 1, r.putPermanent(r.counterKey(), value[:1+n], r.db.time)
}

// discardGen leaves the rows of a generation to the sweeper. collection is the full key up to and with the namespace.
func (r *Rows) discardGen(collection []byte, gen uint64) error {
	r.gens.clean, r.gens.looked = false, 0
	r.gens.key = appendCompact(append(r.gens.key[:0], collection...), gen)
	r.gens.key[classAt] = classGarbage
	return r.putPermanent(r.gens.key, []byte{headFormat}, r.db.time)
}

// erase writes a tombstone for a row that is known to be there.
func (r *Rows) erase(full []byte) { r.db.write(r, full, nil, nil) }

// raw opens a scan of full keys that shows every row which is physically there.
func (r *Rows) raw(lower, upper []byte) *RowScan {
	s := r.Scan(lower[classAt:], upper[classAt:], false)
	s.raw = true
	return s
}

// anyUnder reports whether a row's key begins with full.
func (r *Rows) anyUnder(full []byte) (bool, error) {
	upper, _ := ordkey.PrefixEnd(nil, full)
	scan := r.raw(full, upper)
	found := scan.Next()
	return found, scan.Close()
}

// few collects the full keys of the rows that begin with full, one after the other in keys; n is clearFew when there are so many or
// more.
func (r *Rows) few(keys, full []byte) (found []byte, ends []int, err error) {
	upper, _ := ordkey.PrefixEnd(nil, full)
	scan := r.raw(full, upper)
	for len(ends) < clearFew && scan.Next() {
		keys = append(append(keys, r.prefix[0], r.prefix[1]), scan.Key()...)
		ends = append(ends, len(keys))
	}
	return keys, ends, scan.Close()
}

// SweepGarbage writes tombstones for up to limit rows that clearing has left behind, as part of the epoch being filled, and
// reports how many rows it was and whether there are more. It must not be called while a record is being processed: its writes
// are not of a record that may be rolled back. Where there is no garbage it costs next to nothing; else about two
// iterators of the engine, so more than a few rows at a time are worth while.
func (db *DB) SweepGarbage(limit int) (rows int, more bool, err error) {
	if db.closed {
		return 0, false, errClosed()
	}
	for _, r := range db.stores {
		if k := r.spec.Kind(); k != KindList && k != KindMap {
			continue
		}
		for {
			n, left, err := r.sweep(limit - rows)
			rows += n
			if err != nil {
				return rows, true, err
			}
			if !left {
				break
			}
			if rows >= limit {
				return rows, true, nil
			}
		}
	}
	return rows, false, nil
}

// sweep writes tombstones for up to limit rows of one garbage row, and for that when none is left; left says that the store
// may have more.
func (r *Rows) sweep(limit int) (n int, left bool, err error) {
	g, epoch := &r.gens, r.db.filling().number
	if g.state == gensUnknown {
		if _, err := r.lastGen(); err != nil {
			return 0, false, err
		}
	}
	if g.state == gensNone || g.clean || g.looked == epoch {
		return 0, false, nil
	}
	garbage := []byte{r.prefix[0], r.prefix[1], classGarbage}
	scan := r.raw(garbage, []byte{r.prefix[0], r.prefix[1], classGarbage + 1})
	found := scan.Next()
	if found {
		garbage = append(garbage[:classAt], scan.Key()...)
	}
	if err := scan.Close(); err != nil {
		return 0, false, err
	}
	if !found {
		// Dropped rows come back when an epoch is discarded, until it is applied.
		g.looked, g.clean = epoch, r.db.epochs[0].number > g.dropped
		return 0, false, nil
	}
	if limit <= 0 {
		return 0, true, nil
	}

	lower := slices.Clone(garbage)
	lower[classAt] = classPart
	upper, _ := ordkey.PrefixEnd(nil, lower)
	resumed := bytes.Equal(g.at, garbage) && bytes.HasPrefix(g.next, lower)
	if resumed {
		lower = slices.Clone(g.next)
	}
	g.at = append(g.at[:0], garbage...)
	scan = r.raw(lower, upper)
	full := []byte{r.prefix[0], r.prefix[1]}
	for n < limit && scan.Next() {
		full = append(full[:classAt], scan.Key()...)
		r.erase(full)
		n++
	}
	if err := scan.Close(); err != nil {
		return n, true, err
	}
	if n > 0 {
		g.next = append(g.next[:0], full...)
	}
	if n == limit {
		return n, true, nil
	}
	if resumed {
		g.at = g.at[:0] // what was swept before may have come back: once more from the beginning
		return n, true, nil
	}
	r.erase(garbage)
	g.at, g.dropped = g.at[:0], epoch
	end, err := collectionEnd(garbage, r.spec.settings().width)
	if err != nil {
		return n, true, err
	}
	if r.spec.Kind() == KindMap {
		garbage[classAt] = classHead
		err = r.tidyMap(garbage[:end])
	}
	return n, true, err
}

// mapGen is the generation of a map. Without a head it is 0: a map that was never cleared by generation has none.
func (r *Rows) mapGen(collection []byte) (gen uint64, head bool, err error) {
	if r.gens.state == gensNone {
		return 0, false, nil
	}
	if r.gens.state == gensUnknown {
		if last, err := r.lastGen(); err != nil || last == 0 {
			return 0, false, err
		}
	}
	raw, _, ok, err := r.get(collection)
	if err != nil || !ok {
		return 0, false, err
	}
	if !uvarints(raw, &gen) {
		return 0, false, badHead(r, "head")
	}
	return gen, true, nil
}

func (r *Rows) putMapHead(collection []byte, gen uint64) error {
	var buf [1 + binary.MaxVarintLen64]byte
	return r.putPermanent(collection, binary.AppendUvarint(append(buf[:0], headFormat), gen), r.db.time)
}

// tidyMap drops the head of a map without entries. Its generation is 0 again then, so rows of that must not be waiting to be
// swept.
func (r *Rows) tidyMap(collection []byte) error {
	gen, head, err := r.mapGen(collection)
	if err != nil || !head {
		return err
	}
	full := appendCompact(slices.Clone(collection), 0)
	full[classAt] = classGarbage
	if _, _, waiting, err := r.get(full); err != nil || waiting {
		return err
	}
	full = appendCompact(full[:len(collection)], gen)
	full[classAt] = classPart
	if found, err := r.anyUnder(full); err != nil || found {
		return err
	}
	r.erase(collection)
	return nil
}

// ended must be called when a time to live ends a row of this store, before the row is dropped: it keeps the heads of lists in
// step, and has the heads of maps looked at. full is not kept.
func (r *Rows) ended(full []byte) error {
	kind := r.spec.Kind()
	if kind != KindList && kind != KindMap || len(full) <= classAt || full[classAt] != classPart {
		return nil
	}
	end, err := collectionEnd(full, r.spec.settings().width)
	if err != nil {
		return err
	}
	collection := slices.Clone(full[:end])
	collection[classAt] = classHead
	gen, rest, err := compact(full[end:])
	if err != nil {
		return err
	}
	if kind == KindMap {
		if now, head, err := r.mapGen(collection); err != nil || !head || now != gen {
			return err
		}
		return r.discardGen(collection, 0) // rows of 0 there are none: when that is found the head is looked at
	}
	seq, _, err := compact(rest)
	if err != nil {
		return err
	}
	h, ok, err := r.listHead(collection)
	if err != nil || !ok || h.gen != gen {
		return err
	}
	return h.without(r, collection, seq)
}

// listHead is the value of a list's head row. A list without elements has none.
type listHead struct {
	gen  uint64
	from uint64 // no element is before
	next uint64 // the place of the next one
	len  uint64
}

// listHead reads the head of a list.
func (r *Rows) listHead(collection []byte) (h listHead, ok bool, err error) {
	raw, _, ok, err := r.get(collection)
	if err != nil || !ok {
		return h, false, err
	}
	if !uvarints(raw, &h.gen, &h.from, &h.next, &h.len) || h.from > h.next || h.len == 0 || h.len > h.next-h.from {
		return h, false, badHead(r, "head")
	}
	return h, true, nil
}

// put writes the head, or drops that of an empty list.
func (h listHead) put(r *Rows, collection []byte) error {
	if h.len == 0 {
		r.renumbered(collection)
		return r.drop(collection)
	}
	var buf [1 + 4*binary.MaxVarintLen64]byte
	b := append(buf[:0], headFormat)
	for _, v := range [...]uint64{h.gen, h.from, h.next, h.len} {
		b = binary.AppendUvarint(b, v)
	}
	return r.putPermanent(collection, b, r.db.time)
}

// without takes the element at seq out of the books.
func (h listHead) without(r *Rows, collection []byte, seq uint64) error {
	if h.len--; seq == h.from {
		h.from++
	}
	return h.put(r, collection)
}
