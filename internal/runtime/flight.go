package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/txn"
)

// flight is a sealed epoch on its way to being durable. The worker makes it, the committer does its work, and the worker
// finishes it: nothing but written and unknown is touched by both at a time. At most one is under way.
//
//	worker     step n | seal n | step n+1 ......................... | apply n | step n+1
//	                       |   (outputs wait)  | (outputs go out)        ^
//	committer              +-> flush n --------+                         |
//	                       +-> offsets n ------+--> end of transaction n +
type flight struct {
	epoch   *epoch // nil: only what an abort left open is ended
	sealed  []*task.Epoch
	figures []sealedStats
	id      txn.CommitID
	wall    time.Time
	reason  string
	sealing time.Time
	rows    int
	bytes   int64
	stood   time.Duration // how long no record was stepped because of it
	refused []failedApply // of a seeded bug, which applies first

	work    func() (txn.Result, error)
	written atomic.Bool // all its records are acknowledged
	unknown atomic.Bool // its outcome is being looked for
	done    chan struct{}
	result  txn.Result // valid once done is closed, as err
	err     error
}

// committer does the work of flights, one after another, until there are no more.
func (w *worker) committer() {
	for f := range w.launched {
		f.result, f.err = f.work()
		close(f.done)
		w.nudge()
	}
}

// hear is told what happens to a flight, on whatever goroutine.
func (w *worker) hear(f *flight, m txn.Moment) {
	switch m {
	case txn.Written:
		f.written.Store(true)
	case txn.Unknown:
		f.unknown.Store(true)
	}
	w.nudge()
}

// nudge makes the worker look up.
func (w *worker) nudge() {
	w.hurry.Store(true)
	w.mail.poke()
}

// send gives the epoch to the committer. The next one is filled through the other producer.
func (w *worker) send(f *flight) {
	w.flight, w.epoch = f, nil
	w.outbox++
	w.beat.epochEnded()
	if w.rt.cfg.Pipelining {
		w.next = 1 - w.number(f.epoch.slot)
	}
	f.stood += time.Since(f.sealing)
	w.launched <- f // there is room: no other is under way
}

const (
	stretch    = 5 // commit intervals that an epoch may last while the one before it is on its way
	stretchMax = time.Second
)

// longest is the age at which an epoch is filled no further before the one before it has ended. Epochs grow while commits
// take longer than the interval, which makes them cheaper; without an end each would grow by what the last one took.
func (w *worker) longest() time.Duration {
	c := &w.rt.cfg
	return min(c.TransactionTimeout/2, max(c.CommitInterval, min(stretch*c.CommitInterval, stretchMax)))
}

// mayOvertake reports whether records may be stepped although an epoch is on its way. Not while its outcome is unknown,
// not while the cause of an abort is looked for, and not if too much would be uncommitted or the epoch has lasted too long.
func (w *worker) mayOvertake() bool {
	f := w.flight
	switch {
	case f == nil:
		return true
	case !w.rt.cfg.Pipelining || f.unknown.Load() || w.aborts > 0 || w.narrow > 0:
		return false
	case w.epoch != nil && (w.epoch.waiting() >= waitingMax || w.bound(w.epoch) || time.Since(w.epoch.began) >= w.longest()):
		return false
	}
	overlay, replay := w.uncommitted()
	if most := w.rt.cfg.CommitBytes; most > 0 && overlay >= 2*most { // its own share, and that of the one on its way
		return false
	}
	return overlay < w.rt.budget.overlay && replay < w.rt.budget.retained/2
}

// progress does what has become possible: finish the flight, hand over what waited for its records to be written.
func (w *worker) progress() {
	if f := w.flight; f != nil {
		select {
		case <-f.done:
			w.finish(f)
		default:
		}
	}
	if w.epoch != nil && w.mayWrite() {
		w.handOver()
	}
}

// settle waits for the flight and finishes it.
func (w *worker) settle() {
	f := w.flight
	if f == nil {
		return
	}
	began := time.Now()
	<-f.done
	f.stood += time.Since(began)
	w.finish(f)
}

// finish acts on a flight's outcome.
func (w *worker) finish(f *flight) {
	w.flight = nil
	e := f.epoch
	switch {
	case e == nil:
		if f.err != nil {
			w.rt.log.Debug("ending what an abort left open", "worker", w.id, "err", f.err)
		}
	case f.result == txn.Committed:
		w.committed(f)
	case f.result == txn.Aborted:
		var failures []txn.Failure
		if e.txn != nil {
			failures = e.txn.Failures()
		}
		w.undo(e, f.err, failures)
	default:
		// Whether it committed is for the tasks' next owner to find out. Nothing of it may be replayed here.
		owned := e.claim.any()
		w.undo(e, fmt.Errorf("%w: %w", errLost, f.err), nil)
		for _, run := range e.tasks {
			run.group.own.doom(run.id)
			w.release(run, release{reason: "lost"})
		}
		if owned {
			// The group still counts them as ours: joining anew gives them to somebody who starts from what is committed.
			e.tasks[0].group.breakUp(fmt.Errorf("the outcome of an epoch could not be found out: %w", f.err))
		}
	}
}

// committed ends a successful epoch.
func (w *worker) committed(f *flight) {
	applying := time.Now()
	e := f.epoch
	e.durable = true
	e.remember(f.id)
	failed := f.refused
	chaos.Pass(chaos.BeforeApply)
	if !chaos.Has(chaos.ApplyBeforeCommit) || e.txn == nil {
		failed = w.apply(f)
	}
	w.aborts, w.failures, w.notBefore = 0, 0, time.Time{}
	w.ended = time.Now()
	if w.narrow *= 2; w.narrow > stepRecords {
		w.narrow = 0
	}
	for _, run := range e.tasks {
		run.keeps(run.task.Retained())
		run.group.relax(run)
	}
	event := observe.Commit{
		Worker: w.id, Tasks: len(e.tasks), Records: e.records, Outputs: e.outputs, ChangelogRows: int64(f.rows),
		Bytes: f.bytes, Open: f.sealing.Sub(e.began), Took: time.Since(f.sealing), Stood: f.stood + time.Since(applying),
		Reason: f.reason,
	}
	w.rt.stats.committed(w, f, &event)
	w.rt.hooks.commit(event)
	w.endEpoch(e)
	w.broken(failed)
}

// looseEvery is how often the worker tries to end what an abort could not, while it has nothing to commit.
const looseEvery = time.Second

// settleLoose ends, in the background, transactions that were given up while the brokers were away. The next epoch of the
// same producer would do it as well; but there may be none for long, and readers wait until then.
func (w *worker) settleLoose() {
	if w.epoch != nil || w.flight != nil || time.Now().Before(w.looseAt) {
		return
	}
	var loose []*txn.Producer
	for i := range w.slots {
		if p := w.slots[i].producer; p != nil && p.Loose() {
			loose = append(loose, p)
		}
	}
	if len(loose) == 0 {
		return
	}
	w.looseAt = time.Now().Add(looseEvery)
	f := &flight{done: make(chan struct{})}
	f.work = func() (txn.Result, error) {
		ctx, cancel := context.WithTimeout(w.rt.hard, 2*looseEvery)
		defer cancel()
		var errs []error
		for _, p := range loose {
			errs = append(errs, p.Settle(ctx))
		}
		return txn.Committed, errors.Join(errs...)
	}
	w.flight = f
	w.launched <- f
}

func (w *worker) closeProducers() {
	w.abort(context.Canceled)
	for i := range w.slots {
		s := &w.slots[i]
		if s.producer == nil {
			continue
		}
		if err := s.producer.Close(); err != nil {
			w.rt.log.Warn("closing a producer", "worker", w.id, "err", err)
		}
		s.producer = nil
	}
}
