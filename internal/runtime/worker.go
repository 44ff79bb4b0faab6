package runtime

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/txn"
)

const (
	stepRecords = 1000 // records of one task before the worker looks up again
	backoffMin  = 100 * time.Millisecond
	backoffMax  = 10 * time.Second
)

// worker is one goroutine that runs some of the instance's tasks and owns the transactional producers they share. All
// its fields but mail, hurry and beat belong to that goroutine.
//
//	mail -> step the tasks -> outputs to the producer -> seal when due -> mail ...
//	                                                       |               ^
//	                                                       v               | outcome
//	                                                   committer: flush, offsets, end of the transaction
//
// While the committer is busy with one epoch the worker fills the next one, through the other producer
// (docs/design/0010-pipelining.md).
type worker struct {
	id   int
	rt   *Runtime
	mail *mailbox

	placed  atomic.Int64 // tasks that were given to this worker
	holding atomic.Int64 // bytes of records that they hold
	ticked  time.Time    // when tickStores last did

	// hurry asks the running Step to return at the next record boundary: the epoch is getting old, a task was doomed,
	// somebody waits for a commit, or the committer has news.
	hurry atomic.Bool
	beat  beat

	tasks    []*taskRun
	turn     int // task to begin the next round with
	epoch    *epoch
	flight   *flight // the epoch before it, on its way
	launched chan *flight
	standing bool // there may be something to step, and the flight forbids it

	slots    [2]slot
	next     int           // slot of the next epoch
	sequence *txn.Sequence // of both slots' epochs
	looseAt  time.Time     // when to try again to end what an abort left open

	aborts    int       // consecutive
	failures  int       // of them, those that count for MaxConsecutiveAborts
	ended     time.Time // the last commit
	notBefore time.Time // of the next step, after aborts
	outbox    int32     // where null-key outputs go next
	narrow    int64     // records an epoch may have while a refused one is looked for; 0: any number

	done chan struct{}
}

func newWorker(id int, rt *Runtime) *worker {
	return &worker{
		id: id, rt: rt, mail: newMailbox(), launched: make(chan *flight, 1), sequence: txn.NewSequence(), done: make(chan struct{}),
	}
}

// run works until stop is closed and every task was released.
func (w *worker) run(stop <-chan struct{}) {
	defer close(w.done)
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		w.committer()
	}()
	defer func() { <-committed }()
	defer close(w.launched)
	w.beat.register()
	var buf []message
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.hurry.Store(false) // before looking at what it may have been set for
		buf = w.mail.take(buf)
		for i := range buf {
			w.handle(&buf[i])
		}
		w.progress()

		worked := w.step()

		if w.flight == nil {
			if reason := w.due(); reason != "" {
				w.launch(reason)
			}
			w.settleLoose()
		}
		if w.flight != nil && !w.rt.cfg.Pipelining {
			w.settle()
		}
		w.tickStores()
		if worked {
			continue
		}

		waiting := time.Now()
		timer.Reset(w.patience(waiting))
		select {
		case <-w.mail.wake:
		case <-timer.C:
		case <-stop:
			if len(w.tasks) == 0 {
				w.closeProducers()
				return
			}
			stop = nil // the tasks are released by messages; the last one is followed by a poke
		}
		if w.standing && w.flight != nil {
			w.flight.stood += time.Since(waiting)
		}
		if stop == nil && len(w.tasks) == 0 {
			w.closeProducers()
			return
		}
	}
}

func (w *worker) handle(m *message) {
	switch {
	case m.batch != nil:
		m.run.queued(-int64(m.batch.Bytes))
		if m.run.task != nil && !m.run.gone {
			m.run.task.Enqueue(*m.batch)
			m.run.ready = true
			m.run.keeps(m.run.task.Retained())
			m.run.group.relax(m.run) // all of it may have been there already
		}
	case m.end != nil:
		if m.run.task != nil && !m.run.gone {
			if m.end.end >= 0 {
				m.run.task.SetEnd(m.end.input, m.end.end)
			}
			if m.end.high >= 0 {
				m.run.task.SetHigh(m.end.input, m.end.high)
			}
			m.run.ready = true
		}
	case m.limit != nil:
		if m.run.task != nil && !m.run.gone {
			m.run.task.SetLimit(m.limit.input, m.limit.at)
			m.run.ready = true
		}
	case m.take:
		w.take(m.run)
	case m.release != nil:
		w.release(m.run, *m.release)
	case m.hold != nil:
		w.stand(m.hold)
	case m.refresh:
		if !m.run.gone && m.run.task != nil && !w.holds(m.run) { // else its next commit does it
			m.run.refresh(w.rt.cfg.Clock.Now())
		}
	}
}

// take begins to run a restored task.
func (w *worker) take(run *taskRun) {
	if run.gone {
		return
	}
	w.tasks = append(w.tasks, run)
	slices.SortFunc(w.tasks, func(a, b *taskRun) int { return compareTasks(a.id, b.id) })
	run.setState(taskRunning, nil)
	run.group.resume(run)
}

// release gives a task up: its work is committed if there is time for it, else discarded; then its database is closed
// and whoever waits for that is told.
func (w *worker) release(run *taskRun, r release) {
	if run.gone {
		return
	}
	if f := w.flight; f != nil && f.epoch.has(run) {
		w.settle()
	}
	if e := w.epoch; e.has(run) && r.commit && !e.claim.doomed() {
		w.commit(r.reason)
	}
	if w.epoch.has(run) {
		w.abort(&releasedError{run.id, r.reason})
	}
	if !run.gone { // a commit whose outcome is lost, or whose database failed, has dropped it already
		w.drop(run)
	}
}

// drop lets a task go that is in no epoch.
func (w *worker) drop(run *taskRun) {
	run.gone = true
	w.placed.Add(-1)
	if i := slices.Index(w.tasks, run); i >= 0 {
		w.tasks = slices.Delete(w.tasks, i, i+1)
	}
	run.close()
	w.mail.poke()
}

// step gives every task a turn. It reports whether it got anything done.
func (w *worker) step() bool {
	w.standing = false
	if len(w.tasks) == 0 || time.Now().Before(w.notBefore) {
		return false
	}
	if w.epoch != nil && w.epoch.claim.doomed() {
		w.abort(errNotOwned)
		return true
	}
	now := w.rt.cfg.Clock.Now().UnixMilli()
	worked := false
	w.turn %= len(w.tasks) // tasks may have come and gone
	for i := range w.tasks {
		if w.standing = !w.mayOvertake(); w.standing {
			w.turn += i
			return worked
		}
		run := w.tasks[(w.turn+i)%len(w.tasks)]
		if run.task.Tick(now) {
			run.ready = true
		}
		if !run.ready || run.failed {
			continue
		}
		if run.barred = !w.join(run); run.barred {
			continue
		}
		n, ok := w.stepTask(run)
		worked = worked || n > 0
		if !ok || (w.flight == nil && w.due() != "") {
			w.turn += i + 1
			return true
		}
	}
	w.turn++
	return worked
}

// join puts a task into the running epoch, beginning one if there is none.
func (w *worker) join(run *taskRun) bool {
	if w.epoch.has(run) {
		return run.group.own.mayStep(run.id, run.incarnation)
	}
	if w.epoch == nil {
		if f := w.flight; f != nil && f.epoch != nil && f.epoch.claim.o != run.group.own {
			return false
		}
		w.epoch = &epoch{slot: &w.slots[w.next], claim: run.group.own.claim(), began: time.Now()}
		w.beat.epochBegan(w.epoch.began)
	}
	if w.epoch.claim.o != run.group.own { // of another membership, which numbers its incarnations by itself
		return false
	}
	if !w.epoch.claim.add(run.id, run.incarnation, run.keys) {
		if len(w.epoch.tasks) == 0 {
			w.endEpoch(w.epoch)
		}
		return false
	}
	w.epoch.tasks = append(w.epoch.tasks, run)
	return true
}

// stepTask processes some records of one task and hands their outputs to the producer. done is how much it got done. ok is false when the epoch is
// over: a record met policy Fail, or the producer failed.
func (w *worker) stepTask(run *taskRun) (done int, ok bool) {
	limit := int64(stepRecords)
	if w.narrow > 0 {
		limit = min(limit, w.narrow-w.epoch.records)
	}
	if most := w.rt.cfg.CommitRecords; most > 0 {
		limit = min(limit, most-w.epoch.records)
	}
	w.beat.enter(run)
	res, err := run.task.Step(int(limit), w.interrupted)
	w.beat.leave()
	w.epoch.records += int64(res.Records + res.Timers)
	done = res.Records + res.Timers + res.Moves
	run.ready = res.More
	if res.Waiting >= 0 {
		run.group.flow(run, res.Waiting)
	}

	w.collect(run)
	run.tellFloors()
	if w.mayWrite() && !w.handOver() {
		return done, false
	}
	run.keeps(run.task.Retained())
	switch {
	case err == nil:
	case !w.commit("failed record"):
		// What came before it was undone: all of it comes again, and the record fails again.
	case diskFailed(err):
		w.broken([]failedApply{{run, err}})
		return done, false
	default:
		run.failed = true
		w.rt.fail(err)
	}
	if err != nil {
		return done, false
	}
	return done, true
}

func (w *worker) interrupted() bool { return w.hurry.Load() }

// due says why the epoch should be committed now, or "".
func (w *worker) due() string {
	e := w.epoch
	if e == nil {
		return ""
	}
	age := time.Since(e.began)
	switch {
	case age >= w.rt.cfg.TransactionTimeout/2:
		return "half-timeout"
	case age >= w.rt.cfg.CommitInterval && time.Since(w.ended) >= w.rt.cfg.MinCommitPause:
		return "interval"
	case w.bound(e):
		return "records"
	case w.narrow > 0 && e.records >= w.narrow:
		return "refused record"
	}
	overlay, replay := w.uncommitted()
	switch {
	case overlay >= w.rt.budget.early(w.rt.budget.overlay), w.rt.cfg.CommitBytes > 0 && overlay >= w.rt.cfg.CommitBytes:
		return "bytes"
	case replay >= w.rt.budget.early(w.rt.budget.retained/2):
		return "retained"
	}
	return ""
}

// bound reports whether an epoch has as many records as one may have.
func (w *worker) bound(e *epoch) bool {
	return w.rt.cfg.CommitRecords > 0 && e.records >= w.rt.cfg.CommitRecords
}

// uncommitted is the state and outputs, and the records kept for replay, of everything that is not committed.
func (w *worker) uncommitted() (overlay, replay int64) {
	for _, run := range w.tasks {
		overlay += run.task.Overlay()
		replay += run.task.Replay()
	}
	for i := range w.slots {
		overlay += w.slots[i].slab.bytes()
	}
	return overlay, replay
}

// patience is how long the worker may sleep with nothing to do.
func (w *worker) patience(now time.Time) time.Duration {
	d := time.Second
	if w.epoch != nil && w.flight == nil {
		d = min(d, max(w.rt.cfg.CommitInterval-now.Sub(w.epoch.began), w.rt.cfg.MinCommitPause-now.Sub(w.ended)))
	}
	if !w.standing {
		wall := w.rt.cfg.Clock.Now().UnixMilli()
		for _, run := range w.tasks {
			if !run.failed && !run.barred { // one that is leaving is not waited for: its timers are another's
				d = min(d, time.Duration(max(0, min(run.task.Wake()-wall, 1000)))*time.Millisecond)
			}
		}
	}
	if w.notBefore.After(now) {
		d = max(d, w.notBefore.Sub(now))
	}
	return max(d, 0)
}

// holds reports whether an epoch that is not committed has work of the task.
func (w *worker) holds(run *taskRun) bool {
	return w.epoch.has(run) || w.flight != nil && w.flight.epoch.has(run)
}
