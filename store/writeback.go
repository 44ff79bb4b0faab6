package store

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/millrace-io/millrace/internal/chaos"
)

// Write-back: committed rows stay in the table, which is what the task reads, and reach the engine in large sorted batches,
// each with the checkpoint of the last committed epoch in it. The changelog has every row before the table calls it
// committed, so what a crash takes away is the tail of rows since the last durable batch, which a restore reads again.
//
//	changed   rows committed since the last cut       -> cut: they become the frozen ones, the marks change places
//	frozen    rows that are being written, pinned      -> written: each is clean, unless it was committed again meanwhile
//	late      rows whose committed state is not in the row: because it was pinned, or too small
//
// The cut is taken between two calls of the task, so it holds whole epochs. After it another goroutine reads the frozen rows
// while the task goes on: it writes nothing to a pinned row but its newest version and its marks. Only the task's
// goroutine makes rows clean, drops them, and uses their memory again, a bounded number per call.
type writeback struct {
	changed      []uint32
	changedBytes int64
	late         []uint32
	gen          uint8 // 0 or 1: rows of changed have markDirty0 or markDirty1

	frozen      []uint32 // from the cut until they are clean
	frozenBytes int64
	reaped      int // of frozen
	running     *writing

	checkpoint      []byte // of the last committed epoch
	checkpointKnown bool
	checkpointDirty bool

	now    int64 // of the last Tick, ms
	since  int64 // of the first commit that is not durable
	tail   int64 // rows committed that are not durable
	failed error

	cuts int64 // write-backs begun
	done int64 // and done
}

const (
	// writeBackShare is the part of the table that may wait to be written; three times as much, and Apply waits.
	writeBackShare    = 4
	writeBackBytesMax = 256 << 20
	writeBackRowsMax  = 1 << 20 // changelog rows a crash makes a restore read again, about
	writeBackAfter    = 30_000  // ms that a committed row may be not durable
	reapRows          = 16 << 10
)

// backgroundEngine is an engine that one goroutine may write to while the task's reads. Writing back to it pays.
type backgroundEngine interface {
	Engine
	// writeRows is Apply of n sorted rows and the checkpoint (nil: none); size is about what they need. flush makes them, and all
	// before, durable; durable says whether they are, flush or not.
	writeRows(checkpoint []byte, n, size int, row func(i int) (key, value []byte, gone bool), flush bool) (durable bool, err error)
	// turns limits how many databases of the process write back at once: send to begin, receive to end.
	turns() chan struct{}
}

// writing is one write-back under way. All but its results belongs to its goroutine; the rows it reads are pinned.
type writing struct {
	engine     backgroundEngine
	view       slabView
	rows       []uint32
	late       []lateRow
	checkpoint []byte
	flush      bool
	tail       int64 // rows not durable before it
	turn       bool  // it has one to give back
	end        chan struct{}

	err     error
	durable bool
}

// lateRow is a copy of a row whose committed state is not in the row.
type lateRow struct {
	key, value []byte
	gone       bool
}

func (db *DB) frozenMark() uint8  { return markDirty0 << (1 - db.wb.gen) }
func (db *DB) changedMark() uint8 { return markDirty0 << db.wb.gen }

func (db *DB) rowSize(ref uint32) int64 { return int64(db.table.slab.size(ref)) + rowOverhead }

// markDirtyRow notes that the committed state in a row is to be written.
func (db *DB) markDirtyRow(ref uint32, row []byte) {
	marks, m := rowMarks(row), db.changedMark()
	if marks&m != 0 {
		return
	}
	setRowMarks(row, marks|m)
	db.wb.changed = append(db.wb.changed, ref)
	db.wb.changedBytes += db.rowSize(ref)
}

// markLateRow notes that the committed version of a row is to be written.
func (db *DB) markLateRow(ref uint32, row []byte) {
	marks := rowMarks(row)
	if marks&markLate != 0 {
		return
	}
	setRowMarks(row, marks|markLate)
	db.wb.late = append(db.wb.late, ref)
	db.wb.changedBytes += db.rowSize(ref)
}

// unwritten reports whether the engine lacks anything that is committed.
func (db *DB) unwritten() bool {
	w := &db.wb
	return len(w.changed) > 0 || len(w.late) > 0 || w.checkpointDirty
}

func (db *DB) writeShare() int64 { return min(db.limit/writeBackShare, writeBackBytesMax) }

// Tick tells the time, in milliseconds, and begins a write-back when committed rows have waited for one for half a
// minute. It returns the error of an earlier one, after which the DB must be closed and the task restored again; Apply and
// Flush return it too. Call it now and then, between records.
func (db *DB) Tick(now int64) error {
	if db.closed || !db.behind || len(db.scans) > 0 {
		return nil
	}
	defer db.publish()
	w := &db.wb
	w.now = now
	if w.since > now {
		w.since = now // the clock went back
	}
	if err := db.reap(reapRows); err != nil {
		return err
	}
	return db.writeIfDue()
}

// committed books what an epoch of rows and a checkpoint adds to what is to be written.
func (db *DB) noteCommitted(rows int64, checkpoint []byte) {
	w := &db.wb
	if w.tail == 0 && !w.checkpointDirty {
		w.since = w.now
	}
	w.tail += rows
	if checkpoint != nil {
		w.checkpoint = append(w.checkpoint[:0], checkpoint...)
		w.checkpointKnown, w.checkpointDirty = true, true
	}
}

// writeIfDue begins a write-back when there is a reason for one and its turn has come. It waits only when so much of the
// table is to be written that nothing else has room in it.
func (db *DB) writeIfDue() error {
	w := &db.wb
	full := w.changedBytes+w.frozenBytes >= db.writeShare()*3
	share, old := w.changedBytes >= db.writeShare() && len(w.changed)+len(w.late) > 0, w.now-w.since >= writeBackAfter
	flush := w.tail >= writeBackRowsMax/2 || old
	switch {
	case w.tail == 0 && !w.checkpointDirty:
		return nil
	case !full && !share && w.tail < writeBackRowsMax && !old:
		return nil
	case len(w.frozen) == 0 && w.running == nil:
	case !full:
		return nil
	default:
		if err := db.finish(); err != nil {
			return err
		}
		if w.changedBytes < db.writeShare() {
			return nil
		}
	}
	turns := db.engine.(backgroundEngine).turns()
	if full {
		turns <- struct{}{}
	} else {
		select {
		case turns <- struct{}{}:
		default:
			return nil // another database's turn; the next Apply or Tick tries again
		}
	}
	db.cut(flush, true)
	return nil
}

// cut freezes what is to be written and begins to write it. No write-back may be under way.
func (db *DB) cut(flush, turn bool) {
	w := &db.wb
	run := &writing{
		engine: db.engine.(backgroundEngine), flush: flush, tail: w.tail, turn: turn, end: make(chan struct{}),
	}
	spare := w.frozen[:0]
	w.frozen, w.frozenBytes, w.reaped = w.changed, w.changedBytes, 0
	w.changed, w.changedBytes = spare, 0
	w.gen = 1 - w.gen
	run.rows = w.frozen
	db.freezeLate(run)
	run.view = db.table.slab.view()
	if w.checkpointDirty {
		run.checkpoint = slices.Clone(w.checkpoint)
		w.checkpointDirty = false
	}
	w.running = run
	w.cuts++
	go run.run()
}

// freezeLate copies the rows whose committed state is a version, which the task goes on to change.
func (db *DB) freezeLate(run *writing) {
	w, t := &db.wb, db.table
	for _, ref := range w.late {
		row := t.slab.at(ref)
		marks := rowMarks(row)
		if marks&markLate == 0 {
			continue // it has got its place since
		}
		marks &^= markLate
		setRowMarks(row, marks)
		if marks&markHusk != 0 {
			if marks&(markDirty0|markDirty1) == 0 {
				t.slab.release(ref)
			}
			continue
		}
		ver := t.slab.at(db.committedVersion(row))
		run.late = append(run.late, lateRow{
			key: slices.Clone(rowKey(row)), value: slices.Clone(verValue(ver)), gone: deleted(verWord(ver)),
		})
		if marks&db.frozenMark() == 0 {
			setRowMarks(row, marks|db.frozenMark())
			w.frozen = append(w.frozen, ref) // the writer's list ends before it
		}
	}
	w.late = w.late[:0]
}

// committedVersion is the version of a row that is its committed state.
func (db *DB) committedVersion(row []byte) uint32 {
	ref := rowHead(row)
	for {
		ver := db.table.slab.at(ref)
		if verEpoch(ver) == 0 {
			return ref
		}
		ref = verOlder(ver)
	}
}

// run writes. It is the only code here that is not on the task's goroutine.
func (r *writing) run() {
	defer close(r.end)
	if r.turn {
		defer func() { <-r.engine.turns() }()
	}
	rows, size := r.sort()
	r.durable, r.err = r.engine.writeRows(r.checkpoint, len(rows), size, func(i int) (key, value []byte, gone bool) {
		if n := rows[i].late; n > 0 {
			l := &r.late[n-1]
			return l.key, l.value, l.gone
		}
		row := r.view.at(rows[i].row)
		return rowKey(row), rowValue(row), rowFacts(row)&factDeleted != 0
	}, r.flush)
	chaos.Pass(chaos.MidApply)
}

// sortable is a row to be sorted: the eight bytes after the part all keys share compare as one number.
type sortable struct {
	lead uint64
	row  uint32
	late uint32 // the number of a late row, from 1
}

// sort returns the rows by key, and about what they need in a batch.
func (r *writing) sort() (rows []sortable, size int) {
	key := func(s sortable) []byte {
		if s.late > 0 {
			return r.late[s.late-1].key
		}
		return rowKey(r.view.at(s.row))
	}
	rows = make([]sortable, 0, len(r.rows)+len(r.late))
	for _, ref := range r.rows {
		if row := r.view.at(ref); rowFacts(row)&factKnown != 0 {
			rows = append(rows, sortable{row: ref})
			size += len(rowKey(row)) + len(rowValue(row))
		}
	}
	for i := range r.late {
		rows = append(rows, sortable{late: uint32(i + 1)})
		size += len(r.late[i].key) + len(r.late[i].value)
	}
	sortByKey(rows, key)
	return rows, size
}

// sortByKey sorts rows whose keys key returns.
func sortByKey(rows []sortable, key func(sortable) []byte) {
	if len(rows) == 0 {
		return
	}
	first := key(rows[0])
	shared := len(first)
	for i := range rows[1:] {
		k := key(rows[1+i])
		shared = min(shared, len(k))
		for i := 0; i < shared; i++ {
			if k[i] != first[i] {
				shared = i
			}
		}
	}
	for i := range rows {
		rows[i].lead = lead(key(rows[i])[shared:])
	}
	slices.SortFunc(rows, func(a, b sortable) int {
		if a.lead != b.lead {
			return cmp.Compare(a.lead, b.lead)
		}
		return bytes.Compare(key(a), key(b))
	})
}

// reap takes up to n rows of a write-back that has ended out of the list of frozen ones. A scan that is open sees none of it:
// the rows it has to show itself stay in the overlay's order.
func (db *DB) reap(n int) error {
	w := &db.wb
	if w.running != nil {
		select {
		case <-w.running.end:
		default:
			return w.failed
		}
		db.written()
	}
	if w.failed != nil {
		return w.failed
	}
	if len(db.scans) > 0 {
		return nil
	}
	end := min(len(w.frozen), w.reaped+n)
	for _, ref := range w.frozen[w.reaped:end] {
		db.thaw(ref)
	}
	w.reaped = end
	if end == len(w.frozen) {
		w.frozen, w.frozenBytes, w.reaped = w.frozen[:0], 0, 0
	}
	return nil
}

// written takes the result of a write-back that has ended.
func (db *DB) written() {
	w := &db.wb
	run := w.running
	w.running = nil
	if run.err != nil {
		w.failed = run.err
		return
	}
	w.done++
	if run.durable {
		w.tail -= run.tail
		w.since = w.now
	}
}

// thaw makes a row that was written clean, or, if it was committed again since, one that is to be written.
func (db *DB) thaw(ref uint32) {
	t := db.table
	row := t.slab.at(ref)
	marks := rowMarks(row)
	if marks&markHusk != 0 {
		if marks &^= db.frozenMark(); marks&markLate != 0 {
			setRowMarks(row, marks) // the list of late rows has it too
			return
		}
		t.slab.release(ref)
		return
	}
	marks &^= db.frozenMark()
	setRowMarks(row, marks)
	if marks&markLate != 0 {
		at := db.committedVersion(row)
		ver := t.slab.at(at)
		n, room := len(verValue(ver)), t.room(ref, row)
		switch {
		case n <= room && room-n <= inlineMax:
			db.fold(ref, row, at, ver)
		case rowHead(row) == at:
			db.moveRow(ref, at, ver)
		default:
			setRowUnknown(row)
		}
		return
	}
	if marks&markPinned != 0 || t.uncommitted(row) {
		return
	}
	if db.order != nil {
		if p, ok := db.order.seek(rowKey(row)); ok {
			db.order.remove(p)
		}
	}
	db.dispose(ref, row)
}

// finish waits for the write-back that is under way, if any, and thaws all its rows.
func (db *DB) finish() error {
	w := &db.wb
	if w.running != nil {
		<-w.running.end
	}
	return db.reap(len(w.frozen))
}

// writeAll writes everything that is committed and waits for it; flush makes it durable.
func (db *DB) writeAll(flush bool) error {
	if err := db.finish(); err != nil || !db.behind {
		return err
	}
	w := &db.wb
	if !db.unwritten() && (!flush || w.tail == 0) {
		return nil
	}
	db.cut(flush, false)
	return db.finish()
}

// forgetAll drops what is to be written, once nothing is being written any more.
func (db *DB) forgetAll() {
	w := &db.wb
	if w.running != nil {
		<-w.running.end
		db.written()
	}
	*w = writeback{changed: w.changed[:0], late: w.late[:0], frozen: w.frozen[:0], now: w.now, failed: w.failed, cuts: w.cuts, done: w.done}
}
