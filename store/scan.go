package store

import (
	"bytes"

	"github.com/millrace-io/millrace/internal/fault"
)

// RowScan walks over rows in key order: for s.Next() { s.Key(), s.Value(), s.Time() }; then Close, which returns the first
// error. It shows the rows as they were when it was opened, whatever is put or deleted meanwhile. It ends early, with
// an error from Close, at the task's next Savepoint, Rollback, Seal, Apply, Flush, Discard, Restore, Clear or Close: a scan
// belongs to the record it was opened for.
type RowScan struct {
	rows    *Rows
	reverse bool
	raw     bool   // dead rows as well, and reading does nothing to rows
	lower   []byte // with prefix
	upper   []byte
	engine  EngineIter
	inner   bool // the engine's iterator stands on a row not yet returned
	spent   bool // the engine's iterator is at its end

	overlay bool   // there are changed rows to merge in
	begun   bool   // a row was passed
	last    []byte // that row's key
	placed  bool   // at is the place to go on from, unless rows have become dirty since
	at      place
	seen    uint64 // db.order.changes when at was looked up

	// before holds what rows ahead of the scan were like before the task changed them.
	before map[string]image

	key, value []byte
	time       int64
	ver        uint16
	held       []byte // a value that is not where it was
	err        error
	done       bool
}

// image is a row as the scan has to show it.
type image struct {
	engine bool   // the overlay had no version: the engine's row, if any, is the one
	row    []byte // else the row value; nil is a deleted row
}

// Scan returns the rows with lower <= key < upper, in key order or, with reverse, against it. Keys are row keys as Put takes
// them; a nil lower is the store's first row, a nil upper its end. The scan must be closed.
func (r *Rows) Scan(lower, upper []byte, reverse bool) *RowScan {
	db := r.db
	s := &RowScan{rows: r, reverse: reverse}
	s.lower = append(append(make([]byte, 0, 2+len(lower)), r.prefix[:]...), lower...)
	if upper != nil {
		s.upper = append(append(make([]byte, 0, 2+len(upper)), r.prefix[:]...), upper...)
	} else {
		s.upper = r.end()
	}
	if db.closed {
		s.fail(errClosed())
		return s
	}
	if bytes.Compare(s.lower, s.upper) >= 0 {
		s.done = true
		return s
	}
	it, err := db.engine.Iter(s.lower, s.upper, reverse)
	if err != nil {
		s.fail(err)
		return s
	}
	s.engine = it
	s.overlay = db.keepOrder()
	db.scans = append(db.scans, s)
	return s
}

// keepOrder makes sure that the rows which the engine does not have as they are, uncommitted and not yet written back ones, are
// in order, and reports whether there are any.
func (db *DB) keepOrder() bool {
	db.scanned = true
	if db.order == nil {
		db.order = &order{key: db.table.key}
		refs := db.pinnedRows()
		for _, e := range db.epochs {
			for _, ref := range e.rows {
				// A row changed by several epochs is in several lists; its newest epoch brings it in.
				row := db.table.slab.at(ref)
				if rowMarks(row)&markPinned == 0 && verEpoch(db.table.slab.at(rowHead(row))) == e.number {
					refs = append(refs, ref)
				}
			}
		}
		s := db.sortRows(refs)
		for i := range s {
			refs[i] = s[i].row
		}
		db.order.fill(refs)
	}
	return db.order.n > 0
}

// pinnedRows lists the rows the engine does not have as they are committed.
func (db *DB) pinnedRows() (refs []uint32) {
	w := &db.wb
	frozen, changed := db.frozenMark(), db.changedMark()
	for _, list := range []struct {
		rows []uint32
		mark uint8 // of rows in the list
		not  uint8 // of rows that an earlier list has brought in
	}{{w.frozen[w.reaped:], frozen, 0}, {w.changed, changed, frozen}, {w.late, markLate, frozen | changed}} {
		for _, ref := range list.rows {
			if m := rowMarks(db.table.slab.at(ref)); m&list.mark != 0 && m&(list.not|markHusk) == 0 {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// Next goes to the next row and reports whether there is one.
func (s *RowScan) Next() bool {
	if s.done {
		return false
	}
	for {
		if !s.inner && !s.spent {
			s.inner = s.engine.Next()
			s.spent = !s.inner
		}
		ref, key := s.peek()
		switch {
		case ref == 0 && s.spent:
			s.stop(nil)
			return false
		case ref == 0:
			s.inner = false
			if s.show(s.engine.Key(), s.engine.Value()) || s.done {
				return !s.done
			}
			continue
		}
		if s.inner {
			c := bytes.Compare(s.engine.Key(), key)
			if s.reverse {
				c = -c
			}
			if c < 0 {
				s.inner = false
				if s.show(s.engine.Key(), s.engine.Value()) || s.done {
					return !s.done
				}
				continue
			}
			if c == 0 {
				s.inner = false // the overlay's version hides it
			}
		}
		row, ok := s.changed(ref, key)
		if !ok {
			s.pass(key)
			continue
		}
		if s.show(key, row) || s.done {
			return !s.done
		}
	}
}

// Key is the row's key, without the store's prefix. It is valid until the next call of Next.
func (s *RowScan) Key() []byte { return s.key }

// Value is the row's value without header. It is valid until the next call of Next, or on the task's Rows.
func (s *RowScan) Value() []byte { return s.value }

// Time is the event time the row was written with, in milliseconds.
func (s *RowScan) Time() int64 { return s.time }

// Version is that of the row's value.
func (s *RowScan) Version() uint16 { return s.ver }

// Close ends the scan and returns the error that ended it early, if any.
func (s *RowScan) Close() error {
	s.stop(nil)
	return s.err
}

// peek returns the next changed row the scan has to look at, or 0.
func (s *RowScan) peek() (ref uint32, key []byte) {
	if !s.overlay {
		return 0, nil
	}
	o := s.rows.db.order
	if !s.placed || s.seen != o.changes {
		s.look(o)
	}
	for {
		if s.at.block < 0 || s.at.block >= len(o.blocks) {
			return 0, nil
		}
		ref = o.blocks[s.at.block].refs[s.at.at]
		key = o.key(ref)
		if s.reverse && bytes.Compare(key, s.lower) < 0 || !s.reverse && bytes.Compare(key, s.upper) >= 0 {
			return 0, nil
		}
		if s.before == nil || !s.before[string(key)].engine {
			return ref, key
		}
		s.step(o)
	}
}

// look finds the place after the last row shown.
func (s *RowScan) look(o *order) {
	switch {
	case s.begun && !s.reverse:
		p, same := o.seek(s.last)
		if s.at = p; same {
			s.at = after(o.blocks, p)
		}
	case s.begun:
		p, _ := o.seek(s.last)
		s.at = before(o.blocks, p)
	case s.reverse:
		p, _ := o.seek(s.upper)
		s.at = before(o.blocks, p)
	default:
		s.at, _ = o.seek(s.lower)
	}
	s.placed, s.seen = true, o.changes
}

func (s *RowScan) step(o *order) {
	if s.reverse {
		s.at = before(o.blocks, s.at)
	} else {
		s.at = after(o.blocks, s.at)
	}
}

// changed returns the row value of a changed row as the scan has to show it; ok is false for a deleted one.
func (s *RowScan) changed(ref uint32, key []byte) (row []byte, ok bool) {
	if s.before != nil {
		if was, noted := s.before[string(key)]; noted {
			return was.row, was.row != nil
		}
	}
	t := s.rows.db.table
	return t.visible(t.slab.at(ref))
}

// pass remembers that the scan is past key.
func (s *RowScan) pass(key []byte) {
	s.last = append(s.last[:0], key...)
	s.begun = true
	if !s.placed {
		return
	}
	o := s.rows.db.order
	if s.seen == o.changes && s.at.block >= 0 && s.at.block < len(o.blocks) &&
		bytes.Equal(o.key(o.blocks[s.at.block].refs[s.at.at]), s.last) {
		s.step(o)
	}
}

// show makes a row the one the scan stands on. It is false for one that is dead, and when the scan has ended with an error.
func (s *RowScan) show(key, row []byte) bool {
	if s.rows.life != nil && !s.raw {
		return s.showLive(key, row)
	}
	value, h, err := ParseRowHeader(row)
	if err != nil {
		s.stop(err)
		return false
	}
	s.pass(key)
	s.key, s.value, s.time, s.ver = s.last[2:], value, h.Time, h.Version
	return true
}

// showLive is show where rows have a time to live. What the scan shows is as it was when the scan was opened; what that read does
// to the row, it does to the row as it is now.
func (s *RowScan) showLive(key, row []byte) bool {
	value, h, err := ParseRowHeader(row)
	if err != nil {
		s.stop(err)
		return false
	}
	s.pass(key)
	l := s.rows.life
	dead := l.dead(&h)
	if !dead && !l.stale(&h) {
		s.key, s.value, s.time, s.ver = s.last[2:], value, h.Time, h.Version
		return true
	}
	s.held = append(s.held[:0], value...)
	if err := l.touch(s.last); err != nil {
		s.stop(err)
		return false
	}
	s.key, s.value, s.time, s.ver = s.last[2:], s.held, h.Time, h.Version
	return !dead || l.once
}

func (s *RowScan) fail(err error) {
	s.err = err
	s.done = true
}

// stop lets go of the engine's iterator and of the task.
func (s *RowScan) stop(err error) {
	s.done = true
	s.key, s.value = nil, nil
	if s.err == nil {
		s.err = err
	}
	if s.engine == nil {
		return
	}
	if err := s.engine.Close(); s.err == nil {
		s.err = err
	}
	s.engine = nil
	open := s.rows.db.scans
	for i := range open {
		if open[i] == s {
			open[i] = open[len(open)-1]
			open[len(open)-1] = nil
			s.rows.db.scans = open[:len(open)-1]
			break
		}
	}
}

// endScans ends every scan that was left open.
func (db *DB) endScans() {
	for len(db.scans) > 0 {
		s := db.scans[len(db.scans)-1]
		s.stop(&fault.Error{
			Code: "store/scan-ended", Kind: fault.Internal, Thing: "scan of store", Value: s.rows.name,
			Reason: "the record it was opened for is over",
			Remedy: "finish a scan before Process returns",
		})
	}
}

// tellScans is called before a row changes; row is nil when it is not in memory. Scans that have yet to come by keep what
// they have to show.
func (db *DB) tellScans(key, row []byte) {
	for _, s := range db.scans {
		if !s.overlay || bytes.Compare(key, s.lower) < 0 || bytes.Compare(key, s.upper) >= 0 {
			continue
		}
		if s.begun {
			if c := bytes.Compare(key, s.last); c == 0 || c < 0 != s.reverse {
				continue // already past
			}
		}
		if _, noted := s.before[string(key)]; noted {
			continue
		}
		was := image{engine: true}
		if row != nil && (rowMarks(row)&markPinned != 0 || db.table.uncommitted(row)) {
			was = image{}
			if value, ok := db.table.visible(row); ok {
				was.row = append([]byte(nil), value...)
			}
		}
		if s.before == nil {
			s.before = make(map[string]image)
		}
		s.before[string(key)] = was
	}
}
