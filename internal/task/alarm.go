package task

import (
	"math"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// alarmed is a graph that has timers.
type alarmed interface{ Alarms() []topology.Alarm }

// ring fires the earliest timer that is due, if any. Between two records all timers up to the clock come first, those in event time
// before those in processing time; of one domain the earliest, of equal ones that of the set with the lesser name.
//
// A timer in event time waits for the clock to advance: one that is set when its time has passed already fires with the next
// advance, or, set by a timer, with this one.
func (t *Task) ring() (rang bool, err error) {
	if t.draining && !t.advancing {
		if err := t.drain(); err != nil {
			return false, err
		}
	}
	if t.advancing {
		if rang, err = t.ringDue(true, t.streamTime); rang || err != nil {
			return rang, err
		}
		t.advancing = false
	}
	if t.events < len(t.alarms) {
		return t.ringDue(false, t.now)
	}
	return false, nil
}

// ringDue fires the earliest timer of a domain that is due at clock.
func (t *Task) ringDue(event bool, clock int64) (rang bool, err error) {
	for {
		first, least := -1, clock
		for i := range t.alarms {
			q := t.alarms[i].Queue
			if q.EventTime() != event {
				continue
			}
			at, ok, err := q.Head()
			if err != nil {
				return false, err
			}
			if ok && (at < least || first < 0 && at == least) {
				first, least = i, at
			}
		}
		if first < 0 {
			return false, nil
		}
		if rang, err := t.fire(first, clock); rang || err != nil {
			return rang, err
		}
	}
}

// fire takes the first timer of a set and runs its node's OnTimer. What it does and the end of the timer are one.
func (t *Task) fire(alarm int, clock int64) (rang bool, err error) {
	a := &t.alarms[alarm]
	t.origin, t.node = Origin{Input: -1 - alarm}, a.Node
	t.open()
	d, ok, err := a.Queue.Take(clock)
	if !ok || err != nil {
		return false, err
	}
	t.due = d
	t.origin.Offset = timerHash(d.Row)
	if len(t.condemned) > 0 {
		if c := t.condemnation(t.origin); c != nil {
			return true, c
		}
	}
	at := d.At
	if !a.Queue.EventTime() {
		at = t.now
	}
	t.db.SetTime(at)
	t.emitErr = nil
	t.user = true
	err = a.Fire(d, at)
	t.user = false
	if err == nil {
		err = t.emitErr
	}
	return true, err
}

// ringing reports whether another timer may be due.
func (t *Task) ringing() bool {
	if t.Starting() {
		return false
	}
	if t.advancing {
		return true
	}
	for i := range t.alarms {
		if q := t.alarms[i].Queue; !q.EventTime() || t.draining {
			if at, ok, err := q.Head(); err != nil || ok && (at <= t.now || q.EventTime()) {
				return true
			}
		}
	}
	return false
}

// timerHash tells the timers of a set apart.
func timerHash(row []byte) int64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range row {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return int64(h >> 1)
}

// pass goes on behind the record or timer at t.origin, which failed and was rolled back.
func (t *Task) pass() error {
	i := t.origin.alarm()
	if i < 0 {
		t.inputs[t.origin.Input].advance()
		t.records++
		t.count.Records++
		return nil
	}
	t.savepoint()
	t.touched = true
	t.count.Timers++
	return t.alarms[i].Queue.Remove(t.due.Row)
}

// retry is a record or timer that failed and will be tried again. Its task waits for that.
type retry struct {
	origin Origin
	tries  int
	until  int64 // processing time, milliseconds; 0 when it need not be waited for any more
}

func (r *retry) of(o Origin) bool {
	return r.tries > 0 && r.origin.Input == o.Input && r.origin.Offset == o.Offset
}

// again parks the task if the policy lets what is at t.origin be tried once more.
func (t *Task) again(p processor.Policy) bool {
	tries := 0
	if t.retry.of(t.origin) {
		tries = t.retry.tries
	}
	if tries >= p.Attempts {
		return false
	}
	tries++
	t.retry = retry{origin: t.origin, tries: tries, until: later(t.now, p.Pause(tries).Milliseconds())}
	if i := t.origin.Input; i >= 0 {
		t.inputs[i].timed, t.inputs[i].timeErr = false, nil // the extractor is asked again
	}
	t.touched = true
	t.count.Retries++
	return true
}

// resumed returns the input whose head is what is tried again, -1 if there is none: nothing of the task overtakes it, neither timers
// that have become due meanwhile nor records of other inputs that have come with an earlier time. (A timer is tried again because it
// is still the first of those that are due.) held says that it has not come yet, after a restart; it is waited for.
func (t *Task) resumed() (input int, held bool) {
	if t.retry.tries == 0 || t.retry.origin.Input < 0 {
		return -1, false
	}
	in := &t.inputs[t.retry.origin.Input]
	switch {
	case in.head == nil:
		return -1, in.waits()
	case in.head.Offset == t.retry.origin.Offset:
		return t.retry.origin.Input, false
	case in.head.Offset > t.retry.origin.Offset: // its log has lost it
		t.retry, t.touched = retry{}, true
	}
	return -1, false
}

// later is at+d, or the end of time.
func later(at, d int64) int64 {
	if at > math.MaxInt64-d {
		return math.MaxInt64
	}
	return max(at+d, at+1)
}
