// Package timers holds keys that want to be woken: a durable queue per task, in event time or in processing time.
//
//	var gap = timers.New("session-gap", serde.String(), timers.EventTime)
//
//	p.gap, err = gap.In(ctx)       // in Init
//	p.gap.Set(key, at)             // in Process or OnTimer
//	OnTimer(ctx, timers.Fired[K])  // when the clock has reached it
//
// A set of timers is a noun like a store: it is attached to one node, has a changelog of its own, and its timers are set, deleted
// and fired in the epoch of the record or timer that did it. One timer costs one row; setting, deleting and firing one costs the
// same whether ten or ten million are pending. Rows are drawn in docs/format/timers.md.
package timers

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// Domain is the clock that timers wait for.
type Domain uint8

// The domains. A timer in event time fires when the task's event-time clock advances to its time or beyond, and one in
// processing time when the wall clock, as the task sees it, has reached it.
const (
	EventTime Domain = iota + 1
	ProcessingTime
)

func (d Domain) String() string {
	switch d {
	case EventTime:
		return "event-time"
	case ProcessingTime:
		return "processing-time"
	}
	return fmt.Sprintf("domain %d", uint8(d))
}

// Spec declares a set of timers with keys of type K. It is a store.Spec, attached to the node whose processor has OnTimer.
type Spec[K any] struct {
	store.RowsSpec

	key      serde.Serde[K]
	domain   Domain
	coalesce int64 // milliseconds
}

// New declares a set of timers. Its name is one among the topology's stores and names the changelog.
func New[K any](name string, key serde.Serde[K], domain Domain) Spec[K] {
	return Spec[K]{RowsSpec: store.NewRows(name, store.KindTimers, keyID(key), domain.String()), key: key, domain: domain}
}

// keyID names a codec. One that is missing, or a nil pointer, is found by Build.
func keyID[K any](key serde.Serde[K]) (id string) {
	defer func() {
		if recover() != nil {
			id = serde.ID[K](nil)
		}
	}()
	return serde.ID(key)
}

// CoalesceTo rounds times up to a multiple of d: many timers of a key that are close together become one. What waits for an exact
// time must not use it. d below a millisecond changes nothing.
func (s Spec[K]) CoalesceTo(d time.Duration) Spec[K] {
	s.coalesce = d.Milliseconds()
	return s
}

// Domain is the clock the timers wait for.
func (s Spec[K]) Domain() Domain { return s.domain }

// Validate says what is wrong with the declaration.
func (s Spec[K]) Validate() error {
	switch {
	case s.domain != EventTime && s.domain != ProcessingTime:
		return s.wrong("timers/domain", s.domain.String(), "there is no such clock", "use timers.EventTime or timers.ProcessingTime")
	case s.coalesce < 0:
		return s.wrong("timers/coalesce", (time.Duration(s.coalesce) * time.Millisecond).String(), "times cannot be rounded to less than nothing",
			"give CoalesceTo a duration above zero, or leave it out")
	}
	return nil
}

func (s Spec[K]) wrong(code, value, reason, remedy string) error {
	return &fault.Error{Code: code, Kind: fault.Config, Thing: "timers " + s.Name(), Value: value, Reason: reason, Remedy: remedy}
}

// In opens the set as a node sees it.
func (s Spec[K]) In(src store.Source) (*Set[K], error) {
	rows, err := src.Rows(s.Name())
	if err != nil {
		return nil, err
	}
	if d := rows.Spec(); d.Kind() != s.Kind() || d.KeyID() != s.KeyID() || d.ValueID() != s.ValueID() {
		return nil, &fault.Error{
			Code: "store/other-type", Kind: fault.Config, Thing: "timers", Value: s.Name(),
			Reason: fmt.Sprintf("attached with key %s in %s, and opened with key %s in %s", d.KeyID(), d.ValueID(), s.KeyID(), s.ValueID()),
			Remedy: "declare the timers once and use that value everywhere",
		}
	}
	h := &Set[K]{queue: Of(rows), spec: s}
	h.ordered, _ = s.key.(serde.Ordered[K])
	h.null, _ = s.key.(serde.Nullable[K])
	return h, nil
}

// Set is the timers of one task. It is for the task's goroutine only. Times are in milliseconds; fractions are dropped.
type Set[K any] struct {
	queue   *Queue
	spec    Spec[K]
	ordered serde.Ordered[K]
	null    serde.Nullable[K]
	key     []byte
	row     []byte
}

// Set makes key wake at a time. Setting the same timer again changes nothing; another time is another timer.
//
// In event time a timer never fires for being set: one for a time that the clock has reached already waits for the clock's next
// advance. An advance takes place behind the record that brings it, so timers of that record belong to it, and so do those set by
// OnTimer during it. In processing time such a timer fires as soon as possible. A time before 1970 is an error.
func (s *Set[K]) Set(key K, at time.Time) error { return s.SetIn("", key, at) }

// SetIn is Set in a namespace: timers of one key and time in two namespaces are two timers.
func (s *Set[K]) SetIn(namespace string, key K, at time.Time) error {
	if err := s.queue.guarded(); err != nil {
		return err
	}
	row, err := s.encode(namespace, key, at)
	if err != nil {
		return err
	}
	return s.queue.set(row)
}

// Delete removes the timer of key at exactly that time. There need not be one.
func (s *Set[K]) Delete(key K, at time.Time) error { return s.DeleteIn("", key, at) }

// DeleteIn is Delete in a namespace.
func (s *Set[K]) DeleteIn(namespace string, key K, at time.Time) error {
	if err := s.queue.guarded(); err != nil {
		return err
	}
	row, err := s.encode(namespace, key, at)
	if err != nil {
		return err
	}
	return s.queue.Remove(row)
}

// IsSet reports whether the timer is pending.
func (s *Set[K]) IsSet(key K, at time.Time) (bool, error) { return s.IsSetIn("", key, at) }

// IsSetIn is IsSet in a namespace.
func (s *Set[K]) IsSetIn(namespace string, key K, at time.Time) (bool, error) {
	row, err := s.encode(namespace, key, at)
	if err != nil {
		return false, err
	}
	_, _, ok, err := s.queue.rows.Get(row)
	return ok, err
}

// Pending estimates how many timers are waiting, as store.Rows.ApproximateLen does.
func (s *Set[K]) Pending() int64 { return s.queue.Pending() }

// Each calls f with every pending timer, in the order in which they fire, until f returns false. It reads them all: not for every
// record. f must not change the set.
func (s *Set[K]) Each(f func(Fired[K]) bool) error {
	scan := s.queue.rows.Scan(nil, nil, false)
	for scan.Next() {
		d := Due{Row: bytes.Clone(scan.Key())}
		var err error
		if d.At, _, err = ordkey.Int64(d.Row); err != nil {
			return errors.Join(damaged(s.spec.Name(), err), scan.Close())
		}
		fired, err := s.Fired(d)
		if err != nil {
			return errors.Join(err, scan.Close())
		}
		if !f(fired) {
			break
		}
	}
	return scan.Close()
}

// Queue is what the set is to the task.
func (s *Set[K]) Queue() *Queue { return s.queue }

// encode returns a timer's row key, in memory that the next call overwrites.
func (s *Set[K]) encode(namespace string, key K, at time.Time) ([]byte, error) {
	ms := at.UnixMilli()
	if ms < 0 {
		return nil, &fault.Error{
			Code: "timers/negative-time", Kind: fault.Record, Thing: "timer of " + s.spec.Name(), Value: at.UTC().Format(time.RFC3339Nano),
			Reason: "event and processing time begin with 1970", Remedy: "set timers at times of records, or later",
		}
	}
	if c := s.spec.coalesce; c > 1 {
		if rest := ms % c; rest > 0 {
			if ms > math.MaxInt64-(c-rest) {
				ms = math.MaxInt64
			} else {
				ms += c - rest
			}
		}
	}
	if s.null != nil && s.null.IsNull(key) {
		return nil, &fault.Error{Code: "store/null-key", Kind: fault.Record, Thing: "key of timers", Value: s.spec.Name(), Reason: "a timer cannot have a null key"}
	}
	var err error
	if s.ordered != nil {
		s.key, err = s.ordered.AppendOrdered(s.key[:0], key)
	} else {
		s.key, err = s.spec.key.Append(s.key[:0], key)
	}
	if err != nil {
		return nil, fmt.Errorf("encode a key of timers %s: %w", s.spec.Name(), err)
	}
	s.row = appendRow(s.row[:0], ms, s.key, namespace)
	return s.row, nil
}

// appendRow writes a timer's row key: time, key with an end mark, namespace.
func appendRow(dst []byte, at int64, key []byte, namespace string) []byte {
	dst = ordkey.AppendBytes(ordkey.AppendInt64(dst, at), key)
	return append(dst, namespace...)
}

// Fired is a timer whose time has come. Its row is gone already: what OnTimer sets anew is a new timer.
type Fired[K any] struct {
	Set       string // name of the set
	Namespace string // "" for timers of Set
	Key       K
	At        time.Time // the time it was set for, which may be long past
}

// Fired makes a Fired of a due timer.
func (s *Set[K]) Fired(d Due) (Fired[K], error) {
	f := Fired[K]{Set: s.spec.Name(), At: time.UnixMilli(d.At).UTC()}
	key, namespace, err := splitRow(d.Row)
	if err != nil {
		return f, damaged(s.spec.Name(), err)
	}
	f.Namespace = string(namespace)
	if s.ordered != nil {
		f.Key, err = s.ordered.DecodeOrdered(key)
	} else {
		f.Key, err = s.spec.key.Decode(key)
	}
	if err != nil {
		return f, fmt.Errorf("decode a key of timers %s: %w", s.spec.Name(), err)
	}
	return f, nil
}

// Letter returns what a dead letter says of a timer: the key as its topic form would be, or as it stands in the row if its codec
// refuses it, and the namespace, nil where there is none.
func (s *Set[K]) Letter(d Due) (key, namespace []byte) {
	key, namespace, err := splitRow(d.Row)
	if err != nil {
		return d.Row, nil
	}
	if len(namespace) == 0 {
		namespace = nil
	}
	if f, err := s.Fired(d); err == nil {
		if b, err := s.spec.key.Append([]byte{}, f.Key); err == nil {
			key = b
		}
	}
	return key, namespace
}

// splitRow takes a row key apart behind its time. The parts are part of the row where that is possible.
func splitRow(row []byte) (key, namespace []byte, err error) {
	_, rest, err := ordkey.Int64(row)
	if err != nil {
		return nil, nil, err
	}
	if i := bytes.IndexByte(rest, 0); i >= 0 && i+1 < len(rest) && rest[i+1] == 1 { // the end mark, and nothing escaped before it
		return rest[:i:i], rest[i+2:], nil
	}
	return ordkey.Bytes([]byte{}, rest)
}
