package task

import (
	"github.com/millrace-io/millrace/internal/chaos"
)

// Result of a Step.
type Result struct {
	Records int  // processed (skipped and dead-lettered ones included)
	Timers  int  // fired (those included that failed and were let go)
	Moves   int  // of the clock, that no record made: control records taken, and one for inputs that have fallen idle
	More    bool // another Step can make progress at once
	Waiting int  // input waited for (its broker has more, none is here), -1 if none
}

// undo is what a record started from, for when it fails.
type undo struct {
	open       bool // a savepoint of the state was made
	outs       int
	emitted    int64
	arena      arenaMark
	streamTime int64
	advancing  bool
}

// Step processes up to limit records, smallest head timestamp first (ties: order of Config.Inputs), and between them the timers that
// have become due, which count as records do: however many are due, a Step ends. An error means that
// policy Fail was met, or that the state is broken: the record was rolled back, everything before it is intact and may be
// sealed; the error is a *fault.Error naming topic, partition, offset and node. interrupt, if not nil, is asked between
// records: true ends the Step.
func (t *Task) Step(limit int, interrupt func() bool) (Result, error) {
	r, err := t.step(limit, interrupt)
	if err == nil && r.Waiting != waitParked {
		err = t.tidy(r.Records + r.Timers)
	}
	if err != nil || r.Waiting == waitParked {
		r.Waiting = -1
	}
	return r, err
}

// waitParked is Result.Waiting of a task that waits for the next try of what has failed.
const waitParked = -2

func (t *Task) step(limit int, interrupt func() bool) (Result, error) {
	var r Result
	if t.clock != nil {
		if moved, err := t.turn(); err != nil {
			return r, err
		} else if moved {
			r.Moves++
		}
	}
	for !t.parked() {
		failed := t.run(&r, limit, interrupt)
		if failed == nil {
			ok, waiting := t.ready()
			_, held := t.resumed()
			r.More, r.Waiting = ok || !held && t.ringing(), waiting
			return r, nil
		}
		t.rollback()
		parked, err := t.settle(failed)
		if err == nil && !parked {
			err = t.pass()
		}
		if err != nil {
			return r, err
		}
		if parked {
			break
		}
		if t.origin.alarm() < 0 {
			r.Records++
		} else {
			r.Timers++
		}
	}
	r.Waiting = waitParked
	return r, nil
}

// parked reports whether the task waits for the next try of what has failed.
func (t *Task) parked() bool {
	if t.retry.until > t.now {
		return true
	}
	t.retry.until = 0
	return false
}

// run processes records until one fails. There is one deferred call for all of them: user code that panics ends the run,
// and Step begins another behind the bad record.
func (t *Task) run(r *Result, limit int, interrupt func() bool) (failed error) {
	defer func() {
		if !t.user {
			return // a panic of ours is not the record's fault
		}
		if v := recover(); v != nil {
			t.user = false
			failed = t.atNode(t.node, "panic", caught(v))
		}
	}()
	for r.Records+r.Timers < limit {
		if interrupt != nil && interrupt() {
			return nil
		}
		first, starting := t.announced()
		again, held := t.resumed()
		switch {
		case first >= 0 && (starting || again < 0):
			again = first
		case held || starting:
			return nil
		}
		if len(t.alarms) > 0 && again < 0 {
			if rang, err := t.ring(); err != nil {
				return err
			} else if rang {
				chaos.Pass(chaos.MidProcess)
				t.done()
				t.touched = true
				t.count.Timers++
				r.Timers++
				continue
			}
		}
		if t.through > 0 && again < 0 {
			if taken, err := t.takeMark(); err != nil {
				return err
			} else if taken {
				r.Moves++
				continue
			}
		}
		i := again
		if i >= 0 {
			t.time(i)
		} else if ok, _ := t.ready(); !ok {
			return nil
		} else if i = t.choose(); i < 0 {
			return nil
		}
		if t.ahead.graph != nil && t.inputs[i].looked == 0 && i < t.ordinary {
			t.lookAhead()
		}
		if err := t.process(i); err != nil {
			return err
		}
		chaos.Pass(chaos.MidProcess)
		t.inputs[i].advance()
		t.done()
		t.records++
		t.count.Records++
		r.Records++
	}
	return nil
}

// done is behind a record or timer that has succeeded: what fails from here on does not undo it. What is kept of it, if it had failed
// before, is forgotten.
func (t *Task) done() {
	t.undo.open = false
	if t.retry.tries > 0 && t.retry.of(t.origin) {
		t.retry = retry{}
	}
}

// begin notes which record user code runs for, and that there is nothing to undo yet.
func (t *Task) begin(i int) {
	t.origin = Origin{Input: i, Offset: t.inputs[i].head.Offset}
	t.undo.open = false
}

// process runs the head of an input through the graph.
func (t *Task) process(i int) error {
	in := &t.inputs[i]
	t.begin(i)
	t.node = t.w.sources[in.Source].Node
	if in.timeErr != nil {
		return in.timeErr
	}
	if len(t.condemned) > 0 {
		if c := t.condemnation(t.origin); c != nil {
			return c
		}
	}
	t.open()
	t.db.SetTime(in.time)
	if t.clock == nil && in.time > t.streamTime && i < t.ordinary {
		t.streamTime, t.advancing = in.time, t.events > 0
		t.db.SetClocks(t.now, t.streamTime)
	}
	t.emitErr = nil
	t.user = true
	err := t.graph.Process(in.Source, in.head, in.time)
	t.user = false
	if err == nil {
		err = t.emitErr
	}
	if err == nil && t.clock != nil && i < t.ordinary {
		t.observe(i)
	}
	return err
}

// open begins what is done or undone together.
func (t *Task) open() {
	t.undo = undo{
		open: true, outs: len(t.outs), emitted: t.emitted, arena: t.arena.mark(),
		streamTime: t.streamTime, advancing: t.advancing,
	}
	t.count.journal = t.count.journal[:0]
	t.savepoint()
}

// savepoint is where rollback returns to.
func (t *Task) savepoint() {
	t.db.Savepoint()
	for i := range t.alarms {
		t.alarms[i].Queue.Savepoint()
	}
}

// rollback undoes what the record did, if it got as far as doing anything.
func (t *Task) rollback() {
	if !t.undo.open {
		return
	}
	t.db.Rollback()
	t.outs = t.outs[:t.undo.outs]
	t.emitted = t.undo.emitted
	t.arena.rollback(t.undo.arena)
	t.streamTime, t.advancing = t.undo.streamTime, t.undo.advancing
	t.db.SetClocks(t.now, t.streamTime)
	t.count.rollback()
	for i := range t.alarms {
		t.alarms[i].Queue.Rollback()
	}
	t.undo.open = false
}
