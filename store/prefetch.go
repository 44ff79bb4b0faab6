package store

import (
	"bytes"
	"slices"
)

// SortedReader is what an Engine offers when reading many keys in their order costs less than one Get for each.
type SortedReader interface {
	// ReadSorted calls each for every one of keys, which are sorted and distinct, with the value the engine has for it now,
	// or ok false. The value is valid during the call. It ends early, without an error, when each returns false.
	ReadSorted(keys [][]byte, each func(i int, value []byte, ok bool) (more bool)) error
}

// Wanted is a list of rows that records still to be processed are going to read. Filling it (KV.Want) and DB.Prefetch are
// one step: the task must not write in between. The zero value is an empty list; its memory is used again.
type Wanted struct {
	arena []byte // full keys
	rows  []wantedRow
	keys  [][]byte // of rows, in order
	found []byte   // values, as read
	size  int64    // of a row in memory, on average, as far as was seen; 0 is not known
}

type wantedRow struct {
	hash     uint32
	from, to uint32 // of the key in the arena
	start    uint32 // of the value in found
	end      uint32
	ok       bool
}

// Len is the number of rows that have to be read.
func (w *Wanted) Len() int { return len(w.rows) }

// reset empties the list; one batch of huge rows must not be paid for for ever.
func (w *Wanted) reset() {
	w.arena, w.rows = w.arena[:0], w.rows[:0]
	clear(w.keys)
	w.keys = w.keys[:0]
	if w.found = w.found[:0]; cap(w.found) > 4<<20 {
		w.found = nil
	}
	if cap(w.arena) > 1<<20 {
		w.arena = nil
	}
}

func (w *Wanted) key(i int) []byte { return w.arena[w.rows[i].from:w.rows[i].to] }

// Want says that the row of a key is going to be read. Rows in memory only stay there; the others are put on the list.
// Nothing depends on it being called, or on the row being read then, except the time this takes. A key that cannot be
// encoded is passed over: the read will say so.
func (s *KV[K, V]) Want(w *Wanted, key K) {
	db := s.rows.db
	if db.complete || db.closed || !s.ahead.pays() {
		return
	}
	from := len(w.arena)
	full, err := s.appendKey(append(w.arena, s.rows.prefix[0], s.rows.prefix[1]), key)
	if err != nil {
		return
	}
	w.add(db, full, from)
}

// add puts the full key that begins at from in arena, which is the list's own, grown, on the list, unless its row is in
// memory.
func (w *Wanted) add(db *DB, arena []byte, from int) {
	w.arena = arena
	full := arena
	hash := db.table.hash(full[from:])
	if ref := db.table.find(hash, full[from:]); ref != 0 {
		row := db.table.slab.at(ref)
		setRowMarks(row, rowMarks(row)|markUsed)
		w.arena = full[:from]
		return
	}
	w.rows = append(w.rows, wantedRow{hash: hash, from: uint32(from), to: uint32(len(full))})
}

// ahead finds out whether wanting rows pays. A node says what a record will read before it is known whether the record gets
// that far: behind a filter that lets few of them through, most rows would be read for nothing.
type ahead struct {
	wanted int // and
	asked  int // for, since the last look at both
	pause  int // rows not to be wanted
}

const (
	aheadWindow = 4096      // rows wanted between two looks
	aheadPause  = 64 * 1024 // rows not wanted when less than half of a window was asked for
)

func (a *ahead) pays() bool {
	if a.pause > 0 {
		if a.pause--; a.pause == 0 {
			a.wanted, a.asked = 0, 0
		}
		return false
	}
	if a.wanted++; a.wanted >= aheadWindow {
		if a.asked < aheadWindow/2 {
			a.pause = aheadPause
		}
		a.wanted, a.asked = 0, 0
	}
	return true
}

// Resident reports whether every row of the task is in memory: nothing has to be read ahead then.
func (db *DB) Resident() bool { return db.complete }

// Room is about how many more rows fit on the list: all of them together may take a quarter of the memory for committed
// rows. They stay there for the records they were wanted for, since they are among the last to be evicted then.
func (db *DB) Room(w *Wanted) int {
	size := w.size
	if size == 0 {
		size = 256 // a guess, for the first list
	}
	return max(0, int(db.limit/4/size)-len(w.rows))
}

// Prefetch reads the rows on the list with one pass over the engine and keeps them in memory, as Get would one by one, and
// empties the list. What turns out not to fit is left out. Short lists are not worth a pass: they are dropped, and so are
// those of an engine that is not a SortedReader.
func (db *DB) Prefetch(w *Wanted) error {
	defer w.reset()
	engine, ok := db.engine.(SortedReader)
	if !ok || len(w.rows) < prefetchLeast || db.closed {
		return nil
	}
	slices.SortFunc(w.rows, func(a, b wantedRow) int {
		return bytes.Compare(w.arena[a.from:a.to], w.arena[b.from:b.to])
	})
	w.rows = slices.CompactFunc(w.rows, func(a, b wantedRow) bool {
		return bytes.Equal(w.arena[a.from:a.to], w.arena[b.from:b.to])
	})
	for i := range w.rows {
		w.keys = append(w.keys, w.key(i))
	}
	// First everything is read, then everything is kept. The other way round a row could be evicted to make room for
	// another while the engine is read as it was before the row was written back.
	room, size, n := db.limit/4+db.limit/16, int64(0), 0
	err := engine.ReadSorted(w.keys, func(i int, value []byte, ok bool) bool {
		r := &w.rows[i]
		if size += int64(len(w.keys[i]) + len(value) + wantedOverhead); size > room {
			return false
		}
		r.start, r.ok = uint32(len(w.found)), ok
		w.found = append(w.found, value...)
		r.end = uint32(len(w.found))
		n++
		return true
	})
	if err != nil {
		return err
	}
	w.size = size/int64(max(n, 1)) + 1
	for i := range n {
		r := &w.rows[i]
		if db.table.find(r.hash, w.keys[i]) == 0 {
			db.insertClean(r.hash, w.keys[i], w.found[r.start:r.end], r.ok)
		}
	}
	return nil
}

// prefetchLeast is the number of rows from which an iterator costs less than as many Gets.
const prefetchLeast = 8

// wantedOverhead is about what a row takes in the table beyond its key and value.
const wantedOverhead = 64
