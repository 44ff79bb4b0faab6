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
// The rows are the truth; the queue remembers the first of them so that looking for what is due reads nothing. A
// remembered timer may not be there any more, because the record that set it was undone (that is found out when it is taken);
// one that is not remembered is behind all that are.
type Queue struct {
	rows  *store.Rows
	event bool

	head   [][]byte // row keys in order; those before at were taken
	at     int
	loaded bool   // head is what the rows begin with
	all    bool   // and there are no others
	from   []byte // no row is before it; nil is not known
	first  int64  // time of head[at], kept out of its bytes
	gone   bool   // a timer was taken or deleted since the last Forget
}

// Due is a timer that was taken.
type Due struct {
	At  int64
	Row []byte // its row key; valid until the next call on the queue
}

// Key is the key part of a timer's row, as the key's codec wrote it; nil if the row is damaged.
func (q *Queue) Key(d Due) []byte {
	key, _, err := splitRow([]byte{}, d.Row)
	if err != nil {
		return nil
	}
	return key
}

const (
	loadMost = 256 // timers read at once
	keepMost = 512 // timers remembered
)

// Of returns the queue over a set's rows.
func Of(rows *store.Rows) *Queue {
	return rows.Keep(func() any {
		return &Queue{rows: rows, event: rows.Spec().ValueID() == EventTime.String()}
	}).(*Queue)
}

// Name is the set's.
func (q *Queue) Name() string { return q.rows.Name() }

// EventTime reports whether the timers wait for the event-time clock.
func (q *Queue) EventTime() bool { return q.event }

// Pending estimates how many timers are waiting.
func (q *Queue) Pending() int64 { return q.rows.ApproximateLen() }

// set writes a timer.
func (q *Queue) set(row []byte) error {
	if _, _, ok, err := q.rows.Get(row); err != nil || ok {
		return err // it is set: no second row, and no record in the changelog
	}
	if err := q.rows.Put(row, nil, 0); err != nil {
		return err
	}
	if !q.loaded {
		if q.from != nil && bytes.Compare(row, q.from) < 0 {
			q.from = append(q.from[:0], row...)
		}
		return nil
	}
	i, found := slices.BinarySearchFunc(q.head[q.at:], row, bytes.Compare)
	i += q.at
	switch {
	case found: // deleted, and set again
		return nil
	case i == len(q.head) && !q.all:
		return nil // somewhere behind what is remembered
	case i == len(q.head) && len(q.head)-q.at >= keepMost:
		q.all = false
		return nil
	}
	if q.at > loadMost {
		q.head, i = slices.Delete(q.head, 0, q.at), i-q.at
		q.at = 0
	}
	q.head = slices.Insert(q.head, i, bytes.Clone(row))
	if len(q.head)-q.at > keepMost {
		q.head[len(q.head)-1] = nil
		q.head, q.all = q.head[:len(q.head)-1], false
	}
	if i == q.at {
		q.note()
	}
	return nil
}

// Remove deletes the timer with that row key. There need not be one.
func (q *Queue) Remove(row []byte) error {
	if err := q.rows.Delete(row); err != nil {
		return err
	}
	if i, found := slices.BinarySearchFunc(q.head[q.at:], row, bytes.Compare); found {
		q.head = slices.Delete(q.head, q.at+i, q.at+i+1)
		q.gone = true
		if len(q.head) == q.at {
			q.spent(row)
		}
		q.note()
	}
	return nil
}

// spent begins anew behind the last timer that was remembered. Nothing can be before it that is not set from now on.
func (q *Queue) spent(last []byte) {
	if !q.all {
		q.from = append(append(q.from[:0], last...), 0)
		q.loaded = false
	}
	clear(q.head)
	q.head, q.at = q.head[:0], 0
}

// note reads the time of the first timer.
func (q *Queue) note() {
	if q.at < len(q.head) {
		q.first, _, _ = ordkey.Int64(q.head[q.at])
	}
}

// Head returns the time of the earliest timer, and whether there is one.
func (q *Queue) Head() (at int64, ok bool, err error) {
	if q.at < len(q.head) {
		return q.first, true, nil
	}
	if q.loaded && q.all {
		return 0, false, nil
	}
	if err := q.load(); err != nil {
		return 0, false, err
	}
	return q.first, q.at < len(q.head), nil
}

// load reads the next timers.
func (q *Queue) load() error {
	q.all = true
	scan := q.rows.Scan(q.from, nil, false)
	for scan.Next() {
		if len(q.head) == loadMost {
			q.all = false
			break
		}
		q.head = append(q.head, bytes.Clone(scan.Key()))
	}
	if err := scan.Close(); err != nil {
		q.Forget()
		return err
	}
	q.loaded = true
	if len(q.head) > 0 {
		if _, _, err := ordkey.Int64(q.head[0]); err != nil {
			q.Forget()
			return &fault.Error{
				Code: "timers/row-format", Kind: fault.State, Thing: "timers", Value: q.Name(), Err: err,
				Reason: "a row does not begin with a time",
				Remedy: "run the version of the program that wrote this state, or delete the state directory to restore from the changelog",
			}
		}
		q.note()
	}
	return nil
}

// Take deletes the earliest timer if its time is at most clock, and returns it. ok is false when none is due.
func (q *Queue) Take(clock int64) (d Due, ok bool, err error) {
	for {
		at, ok, err := q.Head()
		if err != nil || !ok || at > clock {
			return Due{}, false, err
		}
		row := q.head[q.at]
		q.at++
		q.gone = true
		if q.at == len(q.head) {
			q.spent(row)
		}
		q.note()
		_, _, there, err := q.rows.Get(row)
		if err != nil {
			return Due{}, false, err
		}
		if !there {
			continue // what set it was undone
		}
		if err := q.rows.Delete(row); err != nil {
			return Due{}, false, err
		}
		return Due{At: at, Row: row}, true, nil
	}
}

// Undone must be called when writes were undone, by a Rollback or Discard: timers that were taken or deleted are there again.
func (q *Queue) Undone() {
	if q.gone {
		q.Forget()
	}
}

// Forget makes the queue look at the rows anew.
func (q *Queue) Forget() {
	clear(q.head)
	q.head, q.at, q.loaded, q.all, q.from, q.gone = q.head[:0], 0, false, false, nil, false
}
