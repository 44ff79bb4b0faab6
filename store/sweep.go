package store

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/millrace-io/millrace/ttl"
)

// sweep is how far the clean-up of one store is. It goes in rounds: a walk over the engine's rows, or over those index rows whose time has
// come, some rows at each call. Between rounds it rests until something can have died. What it finds dead it deletes in
// the epoch being filled, like any other write; where it stands is not part of any epoch. If an epoch is discarded, a new
// round begins.
//
// Rows that only the table has, because they are not committed or not written back, are not seen by a round. When they are due is
// kept until they are in the engine for certain:
//
//	expect -> fresh --(a round begins)--> parted --(its epochs are applied)--> (a write-back begun after that is done)--> forgotten
type sweep struct {
	running bool
	at      []byte // where the round goes on
	seen    int64  // when the first of the rows it has passed is due
	started int64
	next    int64 // when a round may find something
	low     int64 // what was due before is gone from the index, rows that the table has aside
	ended   bool

	fresh  int64 // when the first of the rows written since the parting is due
	parted int64 // and before it
	stage  uint8 // of the parted ones
	epoch  uint32
	cut    int64

	indexed  bool   // all rows are in the index
	checked  bool   // whether the database says so was looked up
	building bool   // this round makes the index
	builtIn  uint32 // epoch that was finished in; 0 is none of this life
	marked   bool   // the database says so, or will
	markedIn uint32 // with this epoch
}

const (
	partedNone    = iota // there are none
	partedFilling        // an epoch that may have some is not applied
	partedLate           // a write-back that has all of them is not done
)

// expect notes that a row is due then.
func (s *sweep) expect(due int64) {
	s.fresh = min(s.fresh, due)
	s.next = min(s.next, due)
}

// restart forgets how far the clean-up is: rows have come and gone without it.
func (l *life) restart() {
	s := &l.sweep
	s.running, s.building = false, false
	s.next, s.started, s.low = never, never, never
}

// emptied begins anew with a store without rows, and without local ones.
func (l *life) emptied() {
	l.sweep = sweep{fresh: math.MaxInt64, parted: math.MaxInt64, indexed: true, checked: true}
	l.restart()
}

// pace is the least time between two rounds. A walk once in an eighth of the time to live leaves at most about an eighth more
// rows than are alive.
func (l *life) pace() int64 {
	if l.width > 0 && l.sweep.indexed {
		return min(l.width, 10_000)
	}
	return min(max(l.ms/8, 1), 3_600_000)
}

// isTime reports whether a round should begin.
func (l *life) isTime(now int64) bool {
	s := &l.sweep
	if s.next > now {
		return false
	}
	return s.started == never || s.started > now || now-s.started >= l.pace()
}

const (
	sweepSteps = 16  // records between two looks, at least
	sweepRows  = 128 // rows that a walk looks at together, about
)

// SweepDue reports whether it is worth while to call Sweep after this record.
func (db *DB) SweepDue() bool {
	if db.steps < sweepSteps || len(db.lives) == 0 && !db.debt {
		return false
	}
	if db.debt {
		return true
	}
	for _, l := range db.lives {
		now := l.now()
		switch {
		case l.policy.Cleanup() == ttl.Off || now < 0:
		case l.sweep.running && !l.walks():
			return true
		case l.sweep.running && db.steps*l.policy.SweepRows() >= sweepRows:
			return true
		case !l.sweep.running && l.isTime(now):
			return true
		}
	}
	return false
}

// walks reports whether the round looks at all rows.
func (l *life) walks() bool { return l.width == 0 || l.sweep.building }

// Sweep removes dead rows in the epoch being filled: it looks at no more than the given number of rows, and returns at how many it has
// looked and whether there are more to look at now. Each walk over a store looks at no more for each record since the last call
// than its policy says; without a record since then, at all that are allowed. Call it between records, when SweepDue says so, and
// on every tick: tasks without records are cleaned up as well. It is a Savepoint.
func (db *DB) Sweep(rows int) (done int, more bool, err error) {
	if db.closed {
		return 0, false, errClosed()
	}
	if len(db.lives) == 0 && !db.debt {
		return 0, false, nil
	}
	db.save()
	steps := db.steps
	if done, err = db.payDebt(rows); err != nil {
		return done, false, err
	}
	more = db.debt
	for range db.lives {
		db.turn = (db.turn + 1) % len(db.lives)
		l := db.lives[db.turn]
		now := l.now()
		if l.policy.Cleanup() == ttl.Off || now < 0 {
			continue
		}
		n, err := l.clean(now, rows-done, steps)
		if done += n; err != nil {
			return done, false, err
		}
		more = more || l.sweep.running || l.isTime(now)
	}
	db.save()
	db.steps = 0
	return done, more, nil
}

// clean goes on with a round, or begins one.
func (l *life) clean(now int64, rows, steps int) (done int, err error) {
	s := &l.sweep
	if !s.running {
		if !l.isTime(now) {
			return 0, nil
		}
		if err := l.begin(now); err != nil {
			return 0, err
		}
	}
	if l.walks() {
		if steps > 0 {
			rows = min(rows, steps*l.policy.SweepRows())
		}
		done, err = l.walk(now, rows)
	} else {
		done, err = l.pop(now, rows)
	}
	if err != nil || !s.ended {
		return done, err
	}
	s.running = false
	s.next = min(s.seen, s.fresh, s.parted)
	if s.building {
		s.building, s.indexed, s.builtIn = false, true, l.db.lastEpoch
		l.markIndex()
		s.started, s.next = never, never // what was in the index before is in it still
	}
	return done, nil
}

// begin begins a round.
func (l *life) begin(now int64) error {
	s := &l.sweep
	from := min(s.low, s.fresh, s.parted)
	if l.width > 0 {
		if err := l.checkIndex(); err != nil {
			return err
		}
		s.building = !s.indexed
		if s.indexed && !s.marked {
			l.markIndex()
		}
	}
	l.part()
	if l.walks() {
		s.at = append(s.at[:0], l.rows.prefix[:]...)
	} else {
		s.at = appendLocalKey(s.at[:0], localDue, l.rows, from, nil)
	}
	s.running, s.ended = true, false
	s.seen, s.started = math.MaxInt64, now
	return nil
}

// part moves on what is known of rows that are not in the engine. What is forgotten here is seen by the round that begins.
func (l *life) part() {
	s, db := &l.sweep, l.db
	if s.stage == partedFilling && int32(db.epochs[0].number-s.epoch) > 0 {
		s.stage, s.cut = partedLate, db.wb.cuts+1
	}
	if s.stage == partedLate && (!db.behind || db.wb.done >= s.cut || !db.unwritten() && len(db.wb.frozen) == 0 && db.wb.running == nil) {
		s.stage, s.parted = partedNone, math.MaxInt64
	}
	if s.stage == partedNone {
		s.parted, s.fresh = s.fresh, math.MaxInt64
		s.stage, s.epoch = partedFilling, db.lastEpoch
	}
}

// walk looks at rows of the engine, and deletes those that are dead.
func (l *life) walk(now int64, rows int) (done int, err error) {
	s, db := &l.sweep, l.db
	if rows <= 0 {
		return 0, nil
	}
	it, err := db.engine.Iter(s.at, l.rows.end(), false)
	if err != nil {
		return 0, err
	}
	for done < rows {
		if !it.Next() {
			s.ended = true
			break
		}
		done++
		if err = l.look(now, it.Key(), it.Value()); err != nil {
			break
		}
		s.at = append(append(s.at[:0], it.Key()...), 0)
	}
	if closeErr := it.Close(); err == nil {
		err = closeErr
	}
	return done, err
}

// look deletes a row of the engine if it is dead, and the table does not know better.
func (l *life) look(now int64, key, value []byte) error {
	s, db := &l.sweep, l.db
	_, h, err := ParseRowHeader(value)
	if err != nil {
		return err
	}
	deadline := l.deadline(&h)
	if deadline > now {
		due := l.due(deadline)
		s.seen = min(s.seen, due)
		if s.building && due != math.MaxInt64 {
			db.write(db.local, db.localKey(localDue, l.rows, due, key[2:]), nil, &RowHeader{})
		}
		return nil
	}
	t := db.table
	hash := t.hash(key)
	if ref := t.find(hash, key); ref == 0 {
		db.insertClean(hash, key, value, true)
	} else {
		row, ok := t.visible(t.slab.at(ref))
		if !ok {
			return nil
		}
		if _, h, err = ParseRowHeader(row); err != nil {
			return err
		}
		if deadline := l.deadline(&h); deadline > now {
			s.seen = min(s.seen, l.due(deadline))
			return nil
		}
	}
	return l.remove(key)
}

// pop takes index rows whose time has come, and deletes those rows of the store that are dead. One that is alive has been
// written since and is in another bucket; it is put there once more, since nobody knows by which policy it was put there first.
func (l *life) pop(now int64, rows int) (done int, err error) {
	s, db := &l.sweep, l.db
	if rows <= 0 {
		return 0, nil
	}
	it, err := db.engine.Iter(s.at, localEnd(localDue, l.rows), false)
	if err != nil {
		return 0, err
	}
	for done < rows {
		if !it.Next() {
			s.ended = true
			break
		}
		due, rowKey := dueOf(it.Key())
		if due > now {
			s.seen, s.ended = due, true
			break
		}
		done++
		if err = l.popRow(now, due, it.Key(), rowKey); err != nil {
			break
		}
		s.at = append(append(s.at[:0], it.Key()...), 0)
	}
	if closeErr := it.Close(); err == nil {
		err = closeErr
	}
	if s.ended {
		s.low = now
	}
	return done, err
}

func (l *life) popRow(now, due int64, index, rowKey []byte) error {
	db := l.db
	if db.isDropped(index) {
		return nil
	}
	full := l.rows.full(rowKey)
	row, ok, err := db.read(full)
	if err != nil {
		return err
	}
	if ok {
		_, h, err := ParseRowHeader(row)
		if err != nil {
			return err
		}
		switch again := l.due(l.deadline(&h)); {
		case l.dead(&h):
			if err := l.remove(full); err != nil {
				return err
			}
		case again != due && again != math.MaxInt64:
			l.sweep.expect(again)
			db.write(db.local, db.localKey(localDue, l.rows, again, rowKey), nil, &RowHeader{})
		}
	}
	db.write(db.local, index, nil, nil)
	return nil
}

// isDropped reports whether the table knows that a row of the engine is gone.
func (db *DB) isDropped(key []byte) bool {
	ref := db.table.find(db.table.hash(key), key)
	if ref == 0 {
		return false
	}
	_, ok := db.table.visible(db.table.slab.at(ref))
	return !ok
}

// payDebt writes the tombstones of rows that were dead when they were restored.
func (db *DB) payDebt(rows int) (done int, err error) {
	if !db.debt || rows <= 0 {
		return 0, nil
	}
	lower := []byte{0, 0, localDead}
	if db.debtAt != nil {
		lower = db.debtAt
	}
	it, err := db.engine.Iter(lower, []byte{0, 0, localDead + 1}, false)
	if err != nil {
		return 0, err
	}
	for done < rows {
		if !it.Next() {
			db.debt = false
			break
		}
		done++
		if err = db.payRow(it.Key()); err != nil {
			break
		}
		db.debtAt = append(append(db.debtAt[:0], it.Key()...), 0)
	}
	if closeErr := it.Close(); err == nil {
		err = closeErr
	}
	if !db.debt {
		db.debtAt = nil
	}
	return done, err
}

func (db *DB) payRow(owed []byte) error {
	full := owed[localKeyBytes-2:]
	i := db.storeAt(full)
	if i < 0 || db.isDropped(owed) {
		return nil // a store that the topology has no more keeps its debt
	}
	row, ok, err := db.read(full)
	if err != nil {
		return err
	}
	if l := db.stores[i].life; ok && l != nil {
		_, h, err := ParseRowHeader(row)
		if err != nil {
			return err
		}
		if h.flags&rowFlagDead != 0 { // else it was written again
			if err := l.remove(full); err != nil {
				return err
			}
		}
	}
	db.write(db.local, owed, nil, nil)
	return nil
}

// indexMark is what the database says of a complete index: version, clock, time to live, width, moment it was switched on. An
// index that was made by another policy is made anew.
func (l *life) indexMark() []byte {
	clock := byte(0)
	if l.event {
		clock = 1
	}
	b := []byte{1, clock}
	for _, n := range []int64{l.ms, l.width, l.enabledAt} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

func (l *life) markIndex() {
	l.sweep.marked, l.sweep.markedIn = true, l.db.lastEpoch
	l.db.write(l.db.local, l.db.localKey(localIndex, l.rows, 0, nil), l.indexMark(), &RowHeader{})
}

// checkIndex finds out whether all rows are in the index: when the database says so, or when there were none to begin with.
func (l *life) checkIndex() error {
	s, db := &l.sweep, l.db
	if s.checked {
		return nil
	}
	row, ok, err := db.engine.Get(nil, db.localKey(localIndex, l.rows, 0, nil))
	if err != nil {
		return err
	}
	if ok {
		value, _, err := ParseRowHeader(row)
		if err != nil {
			return err
		}
		s.indexed = bytes.Equal(value, l.indexMark())
		s.marked = s.indexed
	}
	s.checked = true
	return nil
}

// sweepDiscarded is called when epochs are dropped, and with them what the clean-up did in them.
func (db *DB) sweepDiscarded() {
	db.debt, db.debtAt = db.owes, nil
	for _, l := range db.lives {
		s := &l.sweep
		if s.builtIn != 0 && int32(db.epochs[0].number-s.builtIn) <= 0 {
			s.indexed, s.builtIn = false, 0
		}
		if s.markedIn != 0 && int32(db.epochs[0].number-s.markedIn) <= 0 {
			s.marked, s.markedIn = false, 0
		}
		l.restart()
	}
}
