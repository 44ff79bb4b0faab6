package store

import (
	"math"
	"sync/atomic"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/ttl"
)

// life is the time to live of one store's rows. A row's time is its access time or, by event time, its event time; rows from before
// the time to live was switched on count from that moment. Rows marked permanent have none.
//
// Everything that a task reads goes through read and RowScan.showLive, which hide what is dead and remove it; everything it writes
// goes through write, which knows when the row will be dead. The rest is sweep.go.
type life struct {
	db      *DB
	rows    *Rows
	policy  ttl.Policy
	ms      int64 // to live
	refresh int64
	width   int64 // of buckets; 0 is no index
	event   bool
	reads   bool
	once    bool

	enabledAt int64 // rows without a time count from here, older ones too; never is math.MinInt64
	pending   bool  // it is the first moment the clock has a value

	held    []byte       // the value of a row that was removed
	expired atomic.Int64 // rows removed because they were dead, committed or not
	sweep   sweep
}

const never = math.MinInt64

func newLife(r *Rows, p ttl.Policy) *life {
	l := &life{
		db: r.db, rows: r, policy: p, ms: p.Life(), refresh: p.Refresh(), event: p.ByEventTime(), reads: p.OnRead(), once: p.Once(), enabledAt: never,
	}
	if !p.Enabled() {
		l.ms, l.event = math.MaxInt64, true
	}
	if p.Cleanup() == ttl.Buckets {
		l.width = p.Width()
	}
	l.sweep = sweep{fresh: math.MaxInt64, parted: math.MaxInt64}
	l.restart()
	if !l.event {
		r.flags |= rowFlagAccessed
	}
	return l
}

// now is the time by the store's clock; below 0 there is none yet, and nothing is dead.
func (l *life) now() int64 {
	if l.event {
		return l.db.eventNow
	}
	return l.db.now
}

// ts is what a row's time to live counts from. Without anything known about it that is the end of time.
func (l *life) ts(h *RowHeader) int64 {
	ts := h.Time
	switch {
	case !l.event && h.flags&rowFlagAccessed != 0:
		ts = h.Accessed
	case !l.event && l.enabledAt == never:
		return math.MaxInt64
	case !l.event:
		return l.enabledAt
	case l.reads && h.flags&rowFlagAccessed != 0:
		ts = max(ts, h.Accessed)
	}
	return max(ts, l.enabledAt)
}

// deadline is when a row is dead.
func (l *life) deadline(h *RowHeader) int64 {
	if h.flags&(rowFlagPermanent|rowFlagDead) != 0 {
		if h.flags&rowFlagDead != 0 {
			return never
		}
		return math.MaxInt64
	}
	return ttl.Deadline(l.ts(h), l.ms)
}

// dead reports whether a row is.
func (l *life) dead(h *RowHeader) bool {
	if h.flags&(rowFlagPermanent|rowFlagDead) != 0 {
		return h.flags&rowFlagDead != 0
	}
	now := l.now()
	return now >= 0 && ttl.Expired(l.ts(h), l.ms, now)
}

// stale reports whether a read of a row that is alive has to be written.
func (l *life) stale(h *RowHeader) bool {
	return l.reads && h.flags&rowFlagPermanent == 0 && l.now() >= 0 && l.ts(h) < l.now()-l.refresh
}

// read is what a task sees of a row that is there. A dead one is removed. The value is valid until the next call on the DB.
func (l *life) read(full, row []byte) (value []byte, h RowHeader, ok bool, err error) {
	value, h, err = ParseRowHeader(row)
	switch {
	case err != nil:
		return nil, h, false, err
	case l.dead(&h):
		if l.once {
			l.held = append(l.held[:0], value...)
		}
		if err := l.remove(full); err != nil || !l.once {
			return nil, h, false, err
		}
		return l.held, h, true, nil
	case l.stale(&h):
		h.Accessed = l.now()
		h.flags |= rowFlagAccessed
		l.write(full, value, &h)
		if row, ok, err = l.db.read(full); err != nil || !ok {
			return nil, h, false, err
		}
		value, h, err = ParseRowHeader(row)
	}
	return value, h, err == nil, err
}

// touch is a read for what it does to the row.
func (l *life) touch(full []byte) error {
	row, ok, err := l.db.read(full)
	if err != nil || !ok {
		return err
	}
	_, _, _, err = l.read(full, row)
	return err
}

// remove deletes a dead row.
func (l *life) remove(full []byte) error {
	if err := l.rows.ended(full); err != nil {
		return err
	}
	l.db.write(l.rows, full, nil, nil)
	l.expired.Add(1)
	return nil
}

// put is write with the time.
func (l *life) put(full, value []byte, h *RowHeader) error {
	if !l.event {
		if l.db.now < 0 {
			return &fault.Error{
				Code: "store/no-clock", Kind: fault.Internal, Thing: "store", Value: l.rows.name,
				Reason: "it has a time to live, and a row was written before the task knew the time",
			}
		}
		h.Accessed = l.db.now
	}
	l.write(full, value, h)
	return nil
}

// write writes a row that has a time, and sees to it that it is found when it is dead.
func (l *life) write(full, value []byte, h *RowHeader) {
	due := l.due(l.deadline(h))
	index := l.width > 0 && due != math.MaxInt64 && !l.isDue(full, due)
	l.db.write(l.rows, full, value, h) // before the index: value may be of a row in the table
	l.sweep.expect(due)
	if index {
		l.db.write(l.db.local, l.db.localKey(localDue, l.rows, due, full[2:]), nil, &RowHeader{})
	}
}

// due is when the clean-up has to look at a row with this deadline.
func (l *life) due(deadline int64) int64 {
	if l.width > 0 {
		return ttl.Bucket(deadline, l.width)
	}
	return deadline
}

// isDue reports whether the row is known to be in the bucket already.
func (l *life) isDue(full []byte, due int64) bool {
	t := l.db.table
	ref := t.find(t.hash(full), full)
	if ref == 0 {
		return false // to find out would cost more than to write it once more
	}
	row, ok := t.visible(t.slab.at(ref))
	if !ok {
		return false
	}
	_, h, err := ParseRowHeader(row)
	return err == nil && l.due(l.deadline(&h)) == due
}

// SetClocks sets the clocks that times to live are counted by, in milliseconds: processing time and the task's event-time clock. A
// clock below 0 has no value yet. Call it before a restore, and whenever a clock has moved.
func (db *DB) SetClocks(now, eventClock int64) {
	db.now, db.eventNow = now, eventClock
	if db.pending {
		db.enablePending()
	}
}

// eventTimeMark is behind the name of a store whose time to live counts by event time: its moment is one of another clock.
const eventTimeMark = "@event-time"

func (l *life) enabledKey() string {
	if l.event {
		return l.rows.name + eventTimeMark
	}
	return l.rows.name
}

// TTLEnabledAt returns, for every store with a time to live, the moment it was switched on, as SetTTLEnabledAt takes it on the next
// start; 0 is from the store's beginning on. The keys begin with the store's name. A moment that is not known yet is
// missing. The map is the caller's.
func (db *DB) TTLEnabledAt() map[string]int64 {
	m := make(map[string]int64, len(db.lives))
	for _, l := range db.lives {
		switch {
		case l.pending:
		case l.enabledAt == never:
			m[l.enabledKey()] = 0
		default:
			m[l.enabledKey()] = l.enabledAt
		}
	}
	return m
}

// SetTTLEnabledAt takes what TTLEnabledAt returned in the earlier life of the task, or nil. A store with a time to live that is not in it
// has it from now on: rows from before live for as long as it says, counted from now. Call it after the restore
// and SetClocks, and before the first record.
//
// A restore drops rows without knowing that; those that turn out to be alive come back here.
func (db *DB) SetTTLEnabledAt(at map[string]int64) error {
	if db.closed {
		return errClosed()
	}
	for _, l := range db.lives {
		moment, ok := at[l.enabledKey()]
		switch {
		case ok && moment == 0:
			l.enabledAt = never
		case ok:
			l.enabledAt = moment
		default:
			fresh, err := db.storeEmpty(l.rows)
			if err != nil {
				return err
			}
			l.enabledAt, l.pending = never, !fresh && l.now() < 0
			if !fresh && !l.pending {
				l.enabledAt = l.now()
			}
			db.pending = db.pending || l.pending
		}
		if err := db.revive(l); err != nil {
			return err
		}
		l.restart()
	}
	return nil
}

// enablePending gives stores their moment as soon as their clock has a value.
func (db *DB) enablePending() {
	db.pending = false
	for _, l := range db.lives {
		if !l.pending {
			continue
		}
		if l.now() < 0 {
			db.pending = true
			continue
		}
		l.enabledAt, l.pending = l.now(), false
		l.restart()
	}
}

// EachExpired calls f for every store with a time to live: rows is how many were removed so far because they were dead, by reads, by the
// clean-up and by restores, also in epochs that were discarded later. Any goroutine may call it.
func (db *DB) EachExpired(f func(store string, rows int64)) {
	for _, l := range db.lives {
		f(l.rows.name, l.expired.Load())
	}
}
