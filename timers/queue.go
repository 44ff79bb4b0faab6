package timers

import (
	"bytes"
	"slices"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/store"
)

// Queue is one set's timers of one task, untyped, in the order in which they fire: time, then key, then namespace. All handles of
// the set share it. It is for the task's goroutine.
//
// The rows are the truth; the queue remembers the first of them, so that looking for what is due reads nothing:
//
//	head     [ t1 | t2 | t3 | ... ]     every timer up to the last one remembered is among them
//	            ^at                     those before were taken
//	from     where to read on when head is used up; no timer is before it
//
// One that is remembered may not be there any more, because what set it was undone; that is found out when it is taken. One that
// is not remembered is behind all that are. What was taken or deleted and is undone comes back by Rollback and Discard, which
// must follow those of the rows. So no timer is looked for in front of the first that is left, where an engine has to read
// over the marks of all that have fired.
type Queue struct {
	rows  *store.Rows
	event bool
	guard func() error // Guard

	head   [][]byte // row keys; their bytes never change
	at     int
	loaded bool     // head is what the rows begin with
	all    bool     // and there are no others
	from   []byte   // of a queue that is not loaded; nil is not known
	first  int64    // time of head[at], kept out of its bytes
	gone   [][]byte // what was taken or deleted since Savepoint
	chunk  []byte   // memory for row keys
}

// Due is a timer that was taken.
type Due struct {
	At  int64
	Row []byte // its row key; the receiver's to keep, not to be changed
}

const (
	loadMost   = 256 // timers read at once,
	loadBytes  = 64 << 10
	keepMost   = 512 // timers remembered
	chunkBytes = 1 << 10
)

// Of returns the queue over a set's rows.
func Of(rows *store.Rows) *Queue {
	return rows.Keep(func() any {
		return &Queue{rows: rows, event: rows.Spec().ValueID() == EventTime.String()}
	}).(*Queue)
}

// Guard has f asked whenever a handle is to set or delete a timer: its error is the handle's, and nothing is done.
func (q *Queue) Guard(f func() error) { q.guard = f }

func (q *Queue) guarded() error {
	if q.guard == nil {
		return nil
	}
	return q.guard()
}

// Name is the set's.
func (q *Queue) Name() string { return q.rows.Name() }

// EventTime reports whether the timers wait for the event-time clock.
func (q *Queue) EventTime() bool { return q.event }

// Pending estimates how many timers are waiting, as store.Rows.ApproximateLen does.
func (q *Queue) Pending() int64 { return q.rows.ApproximateLen() }

// set writes a timer.
func (q *Queue) set(row []byte) error {
	if _, _, ok, err := q.rows.Get(row); err != nil || ok {
		return err // it is set: no second row, and no record in the changelog
	}
	if err := q.rows.Put(row, nil, 0); err != nil {
		return err
	}
	q.remember(row)
	return nil
}

// remember takes note of a timer that is there, if it belongs to what is remembered.
func (q *Queue) remember(row []byte) {
	if !q.loaded {
		if q.from != nil && bytes.Compare(row, q.from) < 0 {
			q.from = q.keep(row)
		}
		return
	}
	i, found := q.search(row)
	switch {
	case found: // its first end was undone
		return
	case i == len(q.head) && (!q.all || len(q.head)-q.at >= keepMost):
		q.all = false
		return // somewhere behind
	case i == q.at && q.at > 0:
		q.at--
		q.head[q.at] = q.keep(row)
		q.note()
	default:
		if q.at > loadMost {
			q.head, i = slices.Delete(q.head, 0, q.at), i-q.at
			q.at = 0
		}
		q.head = slices.Insert(q.head, i, q.keep(row))
		if i == q.at {
			q.note()
		}
	}
	if len(q.head)-q.at > keepMost {
		q.head[len(q.head)-1] = nil
		q.head, q.all = q.head[:len(q.head)-1], false
	}
}

// keep copies a row key.
func (q *Queue) keep(row []byte) []byte {
	if cap(q.chunk)-len(q.chunk) < len(row) {
		q.chunk = make([]byte, 0, max(len(row), chunkBytes))
	}
	n := len(q.chunk)
	q.chunk = append(q.chunk, row...)
	return q.chunk[n:len(q.chunk):len(q.chunk)]
}

// search returns the place of a row in head, and whether it is there.
func (q *Queue) search(row []byte) (int, bool) {
	i, found := slices.BinarySearchFunc(q.head[q.at:], row, bytes.Compare)
	return q.at + i, found
}

// Remove deletes the timer with that row key. There need not be one.
func (q *Queue) Remove(row []byte) error {
	if err := q.rows.Delete(row); err != nil {
		return err
	}
	i, found := q.search(row)
	if !found {
		q.gone = append(q.gone, q.keep(row)) // by the time of a Rollback, more may be remembered
		return nil
	}
	kept := q.head[i]
	q.gone = append(q.gone, kept)
	if i == q.at {
		q.pop(kept)
	} else {
		q.head = slices.Delete(q.head, i, i+1)
	}
	return nil
}

// pop forgets the first timer, which is row. When it was the last that was remembered the queue goes on behind it: nothing can
// be before it that is not set from now on.
func (q *Queue) pop(row []byte) {
	q.head[q.at] = nil
	if q.at++; q.at < len(q.head) {
		q.note()
		return
	}
	if !q.all {
		next := append(append(make([]byte, 0, len(row)+1), row...), 0)
		q.from, q.loaded = next, false
	}
	q.head, q.at = q.head[:0], 0
}

// note reads the time of the first timer.
func (q *Queue) note() { q.first, _, _ = ordkey.Int64(q.head[q.at]) }

// Head returns the time of the earliest timer, and whether there is one. The time may be too early, never too late: that of a
// timer whose setting was undone.
func (q *Queue) Head() (at int64, ok bool, err error) {
	if q.at < len(q.head) {
		return q.first, true, nil
	}
	if q.loaded {
		return 0, false, nil
	}
	if err := q.load(); err != nil {
		return 0, false, err
	}
	return q.first, q.at < len(q.head), nil
}

// load reads the next timers.
func (q *Queue) load() error {
	all, size := true, 0
	scan := q.rows.Scan(q.from, nil, false)
	for scan.Next() {
		if len(q.head) == loadMost || size > loadBytes {
			all = false
			break
		}
		size += len(scan.Key())
		q.head = append(q.head, q.keep(scan.Key()))
	}
	err := scan.Close()
	if err == nil && len(q.head) > 0 {
		if _, _, bad := ordkey.Int64(q.head[0]); bad != nil {
			err = damaged(q.Name(), bad)
		}
	}
	if err != nil {
		clear(q.head)
		q.head = q.head[:0]
		return err
	}
	q.loaded, q.all = true, all
	if len(q.head) > 0 {
		q.note()
	}
	return nil
}

func damaged(set string, err error) error {
	return &fault.Error{
		Code: "timers/row-format", Kind: fault.State, Thing: "timers", Value: set, Err: err,
		Reason: "a row is not that of a timer",
		Remedy: "run the version of the program that wrote this state, or delete the state directory to restore from the changelog",
	}
}

// Take deletes the earliest timer if its time is at most clock, and returns it. ok is false when none is due.
func (q *Queue) Take(clock int64) (d Due, ok bool, err error) {
	for {
		at, ok, err := q.Head()
		if err != nil || !ok || at > clock {
			return Due{}, false, err
		}
		row := q.head[q.at]
		_, _, there, err := q.rows.Get(row)
		if err != nil {
			return Due{}, false, err
		}
		if there { // else what set it was undone
			if err := q.rows.Delete(row); err != nil {
				return Due{}, false, err
			}
			q.gone = append(q.gone, row)
		}
		if q.pop(row); there {
			return Due{At: at, Row: row}, true, nil
		}
	}
}

// Savepoint must be called with that of the rows: Rollback brings back what was taken or deleted from here on.
func (q *Queue) Savepoint() {
	clear(q.gone)
	q.gone = q.gone[:0]
}

// Rollback must be called after that of the rows.
func (q *Queue) Rollback() {
	for _, row := range q.gone {
		q.remember(row)
	}
	q.Savepoint()
}

// Front is a row key that no timer is before; nil is not known. It is not to be changed.
func (q *Queue) Front() []byte {
	switch {
	case q.at < len(q.head):
		return q.head[q.at]
	case q.loaded:
		return beyond // there is none
	default:
		return q.from
	}
}

// beyond is behind the times of all timers but those that are never due. The first one that is set corrects it.
var beyond = bytes.Repeat([]byte{0xff}, 9)

// Discard must be called after that of the rows. front is what Front returned when the rows were as they are now.
func (q *Queue) Discard(front []byte) {
	q.Savepoint()
	clear(q.head)
	q.head, q.at, q.loaded, q.all, q.from = q.head[:0], 0, false, false, front
}
