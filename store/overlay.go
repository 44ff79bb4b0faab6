package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// Epoch is the frozen writes of one sealed epoch.
type Epoch struct {
	db     *DB
	number uint32
	rows   []uint32 // changed, in order of first change
	local  int      // of them that are ours
	sealed bool
}

// Len is the number of rows that changed, as Each shows them. It is 0 once the epoch is applied or discarded.
func (e *Epoch) Len() int { return len(e.rows) - e.local }

// Each calls f with the last state of every row changed in the epoch, in order of first change: the store's name, its
// row key (without prefix) and its row value (header and value); value is nil for a deleted row. The slices are valid
// until the epoch is applied or discarded. An error of f ends the walk and is returned.
//
// A row that was put and deleted again within the epoch is a deleted row here, also if it did not exist before: whether it
// did is not always known without reading, and a tombstone too many is harmless.
func (e *Epoch) Each(f func(store string, key, value []byte) error) error {
	for _, ref := range e.rows {
		row := e.db.table.slab.at(ref)
		key := rowKey(row)
		if isLocal(key) {
			continue
		}
		ver := e.db.table.slab.at(e.version(row))
		var value []byte
		if !deleted(verWord(ver)) {
			value = verValue(ver)
		}
		if err := f(e.db.storeOf(key).name, key[2:], value); err != nil {
			return err
		}
	}
	return nil
}

// version is the version the epoch gave the row.
func (e *Epoch) version(row []byte) uint32 {
	ref := rowHead(row)
	for {
		ver := e.db.table.slab.at(ref)
		if verEpoch(ver) == e.number {
			return ref
		}
		ref = verOlder(ver)
	}
}

func (db *DB) filling() *Epoch { return db.epochs[len(db.epochs)-1] }

// begin starts the next epoch.
func (db *DB) begin() {
	if db.lastEpoch++; db.lastEpoch == 0 {
		db.lastEpoch = 1 // 0 is "committed"; after four billion epochs none of the first is left
	}
	e := &Epoch{db: db, number: db.lastEpoch}
	if n := len(db.recycled); n > 0 {
		e.rows, db.recycled = db.recycled[n-1], db.recycled[:n-1]
	}
	db.epochs = append(db.epochs, e)
	db.savepoint = 1
}

func (db *DB) forget(e *Epoch) {
	if len(db.recycled) < 4 {
		db.recycled = append(db.recycled, e.rows[:0])
	}
	e.rows, e.local = nil, 0
}

func (db *DB) storeOf(key []byte) *Rows {
	for _, r := range db.stores {
		if r.prefix[0] == key[0] && r.prefix[1] == key[1] {
			return r
		}
	}
	if isLocal(key) {
		return db.local
	}
	panic("store: a row of no store") // rows only come in through a Rows
}

// recount adds n to the number of rows the overlay adds to the row's store.
func (db *DB) recount(row []byte, n int64) {
	if n != 0 {
		db.storeOf(rowKey(row)).added += n
	}
}

// read returns the row value of a full key. The slice is valid until the next call on this DB.
func (db *DB) read(key []byte) (value []byte, ok bool, err error) {
	hash := db.table.hash(key)
	if ref := db.table.find(hash, key); ref != 0 {
		row := db.table.slab.at(ref)
		if m := rowMarks(row); m&markUsed == 0 {
			setRowMarks(row, m|markUsed)
		}
		db.hits++
		if value, ok = db.table.visible(row); !ok {
			return nil, false, nil
		}
		return value, true, nil
	}
	if db.complete || db.closed {
		if db.closed {
			return nil, false, errClosed()
		}
		db.hits++
		return nil, false, nil
	}
	return db.load(hash, key)
}

// load asks the engine for a row the table does not know and keeps the answer.
func (db *DB) load(hash uint32, key []byte) (value []byte, ok bool, err error) {
	db.misses++
	db.value, ok, err = db.engine.Get(db.value[:0], key)
	if err != nil {
		return nil, false, err
	}
	ref := db.insertClean(hash, key, db.value, ok)
	if !ok {
		return nil, false, nil
	}
	return rowValue(db.table.slab.at(ref)), true, nil
}

// insertClean keeps a row as the engine has it, or, when there is not one, that there is not. The table must not know the
// key. It may evict other rows.
func (db *DB) insertClean(hash uint32, key, value []byte, ok bool) (ref uint32) {
	db.trim(evictPlaces) // before, so that what it evicts is not what is returned
	if !ok {
		value = nil
	}
	ref = db.table.insert(hash, key, len(value))
	row := db.table.slab.at(ref)
	copy(row[rowValueAt(row):], value)
	setRowState(row, !ok, len(value))
	setRowMarks(row, markUsed)
	return ref
}

// write sets a row in the epoch being filled, or, without a header, deletes it. value may be part of a slice that read
// returned.
func (db *DB) write(r *Rows, key, value []byte, h *RowHeader) {
	t := db.table
	hash := t.hash(key)
	n, mark, now := 0, uint32(wordDeleted), int64(0)
	if h != nil {
		n, mark, now = h.size()+len(value), 0, 1
	}
	cur := db.filling()
	ref := t.find(hash, key)
	var row []byte
	if ref != 0 {
		row = t.slab.at(ref)
	}
	if len(db.scans) > 0 {
		db.tellScans(key, row)
	}
	next := mark
	known := db.complete
	was := int64(0)
	if ref == 0 {
		room := n
		if room > inlineMax {
			room = 0 // it gets its place when it is committed
		}
		ref = t.insert(hash, key, room)
		row = t.slab.at(ref)
	} else {
		head := rowHead(row)
		if head != 0 {
			if ver := t.slab.at(head); verEpoch(ver) == cur.number {
				db.overwrite(r, ref, row, head, ver, value, h, n, mark, now)
				return
			}
		}
		known = true // whatever is in the table has a state
		if _, ok := t.visible(row); ok {
			was = 1
		}
	}

	// The row's first change in this epoch.
	if known {
		next |= changeWord(now - was)
		r.added += now - was
	}
	head := rowHead(row)
	ver, bytes := t.version(head, cur.number, db.savepoint, next, n)
	if h != nil {
		fillRow(bytes, value, h)
	}
	entered := head == 0 || verEpoch(t.slab.at(head)) == 0
	marks := rowMarks(row)
	setRowHead(row, ver)
	setRowMarks(row, marks|markUsed)
	cur.rows = append(cur.rows, ref)
	if r == db.local {
		cur.local++
	}
	db.journal = append(db.journal, undo{ref, undoPush})
	db.dirty += int64(t.slab.size(ver))
	if entered {
		db.dirty += int64(t.slab.size(ref)) + rowOverhead
		if db.order != nil && marks&markPinned == 0 {
			p, _ := db.order.seek(key)
			db.order.insert(p, ref)
		}
	}
	db.trim(evictPlaces)
}

// overwrite changes a row once more in the epoch being filled.
func (db *DB) overwrite(r *Rows, ref uint32, row []byte, head uint32, ver, value []byte, h *RowHeader, n int, mark uint32, now int64) {
	word := verWord(ver)
	if sp := verSavepoint(ver); sp != db.savepoint || sp == ^uint32(0) {
		db.journal = append(db.journal, undo{ref, word})
		db.undone = append(db.undone, verValue(ver)...)
		setVerSavepoint(ver, db.savepoint)
	}
	next := mark | uint32(n)
	if word&wordChange != 0 {
		was := int64(1)
		if deleted(word) {
			was = 0
		}
		was -= change(word) // whether there was a row before this epoch
		next |= changeWord(now - was)
		r.added += now - was - change(word)
	}
	if n <= db.table.slab.size(head)-versionBytes {
		if n > 0 {
			fillRow(ver, value, h)
		}
		setVerWord(ver, next)
		return
	}
	grown, bytes := db.table.version(verOlder(ver), verEpoch(ver), db.savepoint, next&^wordLength, n)
	fillRow(bytes, value, h)
	setRowHead(row, grown)
	db.dirty += int64(db.table.slab.size(grown)) - int64(db.table.slab.size(head))
	db.table.slab.release(head)
}

// fillRow writes a row value into a version. The value goes first: it may overlap with where the header goes.
func fillRow(ver, value []byte, h *RowHeader) {
	copy(ver[versionBytes+h.size():], value)
	h.put(ver[versionBytes:])
}

// pop drops the newest version of a row, which an epoch made.
func (db *DB) pop(ref uint32) {
	t := db.table
	row := t.slab.at(ref)
	head := rowHead(row)
	ver := t.slab.at(head)
	db.recount(row, -change(verWord(ver)))
	older := verOlder(ver)
	db.dirty -= int64(t.slab.size(head))
	t.slab.release(head)
	setRowHead(row, older)
	if older == 0 || verEpoch(t.slab.at(older)) == 0 {
		db.left(ref, row)
	}
}

// left books a row out of the overlay: no epoch has a version of it any more.
func (db *DB) left(ref uint32, row []byte) {
	db.dirty -= int64(db.table.slab.size(ref)) + rowOverhead
	if rowMarks(row)&markPinned != 0 {
		return // it stays until the engine has it
	}
	if db.order != nil {
		if p, ok := db.order.seek(rowKey(row)); ok {
			db.order.remove(p)
		}
	}
	db.dispose(ref, row)
}

// dispose takes a row out that says nothing: one without any state, one that is gone where what the table does not know
// does not exist, or a local one, which is not looked up here once the engine has it.
func (db *DB) dispose(ref uint32, row []byte) {
	if rowHead(row) != 0 {
		return
	}
	if facts := rowFacts(row); facts&factKnown == 0 || facts&factDeleted != 0 && db.complete || isLocal(rowKey(row)) {
		db.table.remove(ref)
	}
}

// settle makes the oldest epoch's versions the committed state.
func (db *DB) settle(e *Epoch) {
	t := db.table
	if !db.behind && len(db.epochs) == 2 && len(db.filling().rows) == 0 {
		db.order = nil // nothing stays dirty: cheaper than taking rows out one by one
	}
	for _, ref := range e.rows {
		row := t.slab.at(ref)
		at := e.version(row)
		ver := t.slab.at(at)
		r := db.storeOf(rowKey(row))
		if word := verWord(ver); word&wordChange != 0 {
			r.added -= change(word)
			r.moved += change(word)
		} else {
			r.blind++
		}
		if committed := verOlder(ver); committed != 0 {
			t.slab.release(committed)
			setVerOlder(ver, 0)
		}
		db.dirty -= int64(t.slab.size(at))
		db.commitRow(ref, row, at, ver)
	}
	db.epochs = append(db.epochs[:0], db.epochs[1:]...)
	db.forget(e)
}

// commitRow makes a version the committed state of its row. It is the last version.
func (db *DB) commitRow(ref uint32, row []byte, at uint32, ver []byte) {
	t := db.table
	newest := rowHead(row) == at
	if rowMarks(row)&db.frozenMark() != 0 {
		db.commitAside(ref, row, ver)
	} else {
		n, room := len(verValue(ver)), t.room(ref, row)
		switch {
		case n <= room && room-n <= inlineMax:
			db.fold(ref, row, at, ver)
		case newest:
			db.dirty -= int64(t.slab.size(ref)) + rowOverhead // the old place leaves the overlay, and so does the row
			db.moveRow(ref, at, ver)
			return
		default:
			setRowUnknown(row)
			db.commitAside(ref, row, ver)
		}
	}
	if newest {
		db.left(ref, row)
	}
}

// commitAside keeps the committed state as a version: it has no place in the row, or another goroutine reads what is there.
func (db *DB) commitAside(ref uint32, row, ver []byte) {
	setVerEpoch(ver, 0)
	setVerWord(ver, verWord(ver)&^wordChange|changeWord(0))
	if db.behind {
		db.markLateRow(ref, row)
	}
}

// fold puts a committed version into its row.
func (db *DB) fold(ref uint32, row []byte, at uint32, ver []byte) {
	value := verValue(ver)
	copy(row[rowValueAt(row):], value)
	setRowState(row, deleted(verWord(ver)), len(value))
	db.table.unlink(row, at)
	db.table.slab.release(at)
	if db.behind {
		setRowMarks(row, rowMarks(row)&^markLate)
		db.markDirtyRow(ref, row)
	}
}

// moveRow puts a row, whose only version is the committed state, where there is room for it.
func (db *DB) moveRow(ref, at uint32, ver []byte) {
	t := db.table
	moved := t.move(ref, len(verValue(ver)))
	old, row := t.slab.at(ref), t.slab.at(moved)
	setRowMarks(row, rowMarks(old)&markUsed)
	setRowHead(row, at)
	if db.order != nil {
		if p, ok := db.order.seek(rowKey(old)); ok {
			db.order.replace(p, moved)
		}
	}
	if rowMarks(old)&markPinned != 0 {
		setRowUnknown(old)
		setRowHead(old, 0)
		setRowMarks(old, rowMarks(old)|markHusk)
	} else {
		t.slab.release(ref)
	}
	db.fold(moved, row, at, ver)
	if !db.behind {
		if db.order != nil {
			if p, ok := db.order.seek(rowKey(row)); ok {
				db.order.remove(p)
			}
		}
		db.dispose(moved, row)
	}
}

const evictPlaces = 64

// trim evicts rows until the table is within its limit, looking at so many places at most.
func (db *DB) trim(places int) {
	if db.table.evict(db.limit, db.dirty, places) {
		db.complete = false
	}
}

// collect appends the epoch's rows to the batch, sorted by key: the engine takes sorted rows several times faster.
func (db *DB) collect(e *Epoch) {
	s := db.sortRows(e.rows)
	for i := range s {
		row := db.table.slab.at(s[i].row)
		ver := db.table.slab.at(e.version(row))
		if deleted(verWord(ver)) {
			db.batch.Delete(rowKey(row))
		} else {
			db.batch.Set(rowKey(row), verValue(ver))
		}
	}
}

func (db *DB) sortRows(rows []uint32) []sortable {
	s := db.sorted[:0]
	for _, ref := range rows {
		s = append(s, sortable{row: ref})
	}
	sortByKey(s, func(r sortable) []byte { return db.table.key(r.row) })
	db.sorted = s
	return s
}

func lead(key []byte) (v uint64) {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	for i, b := range key {
		v |= uint64(b) << (56 - 8*i)
	}
	return v
}

// gather makes a batch of restored rows, sorted, the last of equal keys only.
func (db *DB) gather(r *Rows, rows []Mutation, checkpoint []byte) error {
	db.batch.Reset()
	if checkpoint != nil {
		db.batch.Set(checkpointKey, checkpoint)
	}
	first := len(db.batch.Mutations)
	size := 0
	for i := range rows {
		size += 2 + len(rows[i].Key)
	}
	db.arena = slices.Grow(db.arena[:0], size)
	sorted := true
	for i := range rows {
		m := rows[i]
		if len(m.Key) > KeyBytesMax {
			return tooLong("store/key-too-long", "key of store "+r.name, len(m.Key), KeyBytesMax)
		}
		if !m.Delete {
			if _, _, err := ParseRow(m.Value); err != nil {
				return fmt.Errorf("restore store %s: %w", r.name, err)
			}
		}
		at := len(db.arena)
		db.arena = append(append(db.arena, r.prefix[0], r.prefix[1]), m.Key...)
		m.Key = db.arena[at:len(db.arena):len(db.arena)]
		if n := len(db.batch.Mutations); n > first && bytes.Compare(db.batch.Mutations[n-1].Key, m.Key) >= 0 {
			sorted = false
		}
		db.batch.Mutations = append(db.batch.Mutations, m)
	}
	if !sorted {
		db.sortRestored(first)
	}
	db.restoreLocal(r, first)
	return nil
}

// sortRestored sorts the batch from first on, and keeps the last of equal keys.
func (db *DB) sortRestored(first int) {
	rows := db.batch.Mutations[first:]
	s := db.sorted[:0]
	for i := range rows {
		s = append(s, sortable{lead: lead(rows[i].Key[2:]), row: uint32(i)})
	}
	slices.SortFunc(s, func(a, b sortable) int {
		if a.lead != b.lead {
			return cmp.Compare(a.lead, b.lead)
		}
		return cmp.Or(bytes.Compare(rows[a.row].Key, rows[b.row].Key), cmp.Compare(a.row, b.row))
	})
	db.sorted = s
	db.restored.Reset()
	db.restored.Mutations = append(db.restored.Mutations, db.batch.Mutations[:first]...)
	for i := range s {
		if i+1 < len(s) && bytes.Equal(rows[s[i].row].Key, rows[s[i+1].row].Key) {
			continue
		}
		db.restored.Mutations = append(db.restored.Mutations, rows[s[i].row])
	}
	clear(db.batch.Mutations)
	db.batch, db.restored = db.restored, db.batch
}

// check holds a row to be written to the limits.
func (r *Rows) check(key, value int) error {
	if key > KeyBytesMax {
		return tooLong("store/key-too-long", "key of store "+r.name, key, KeyBytesMax)
	}
	if value > ValueBytesMax {
		return tooLong("store/value-too-long", "value of store "+r.name, value, ValueBytesMax)
	}
	if r.db.closed {
		return errClosed()
	}
	return nil
}
