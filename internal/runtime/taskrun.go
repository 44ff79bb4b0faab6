package runtime

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/txn"
)

// taskState is where a task is in its life on this instance.
//
//	waiting ---> restoring ---> running ---> closed
//	   |             |  ^          |           ^
//	   |             |  +----------+ database  |
//	   |             v               failed    |
//	   +---------> failed -------------------- +     (revoked or lost: from anywhere to closed)
type taskState string

// The states. A task waits until the offsets of all its inputs have arrived and its earlier incarnation here is closed.
const (
	taskWaiting   taskState = "waiting"
	taskRestoring taskState = "restoring"
	taskRunning   taskState = "running"
	taskFailed    taskState = "failed"
	taskClosed    taskState = "closed"
)

// taskRun is one incarnation of a task on this instance, from its assignment to its release.
type taskRun struct {
	rt          *Runtime
	group       *group
	id          processor.TaskID
	sub         *subPlan
	incarnation uint64
	inputs      []task.Input
	keys        []inputKey // the inputs again, as map keys
	changelogs  map[string]string

	ctx    context.Context // ends when the task has to go
	cancel context.CancelFunc
	worker *worker
	prev   <-chan struct{} // closed when all earlier incarnations have released the database; nil if there was none
	closed chan struct{}   // closed when this one holds nothing any more
	freed  chan struct{}   // closed when that is true of this one and of all before it

	mu    sync.Mutex
	state taskState
	found map[inputKey]changelog.FoundInput // committed offsets as they arrive; under mu
	start map[inputKey]int64                // where each input starts; under mu
	began txn.CommitID                      // of the commit that gave inputs their first offsets; under mu
	begun bool                              // opening has begun; under mu
	taken bool                              // the worker has it; under mu

	// Back-pressure: bytes on the way to the worker, and bytes its kernel holds.
	pending  atomic.Int64
	retained atomic.Int64
	flow     sync.Mutex     // held while a partition is paused or resumed because of it: paused says what the client does
	paused   []atomic.Bool  // by input
	aligned  []alignedInput // set before the task runs; limits are the aligner's
	floors   []atomic.Int64 // by input, where the aligned ones stand
	held     atomic.Bool    // everything is paused because the task is not running yet

	announced  []task.Input // broadcast inputs, each from where the task has read it
	announcers []*broadcastReader
	announcing atomic.Int64 // bytes of their records, wherever they are

	stats *runStats

	// What follows belongs to the opening goroutine, and from the take message on to the worker.
	task     *task.Task
	db       *store.DB
	dir      *taskDir
	ends     map[string]int64 // store -> next changelog offset
	tasksEnd int64            // next offset of the tasks topic
	gone     bool             // released
	ready    bool             // a Step may get something done
	barred   bool             // and is not allowed for now: the task is leaving, or of another membership than the epoch
	previous []txn.CommitID   // by input, the commit id the group holds
	kept     []byte           // the kernel state of the task record that was written last; one written and lost may be here
	failures int              // to open it or of its database, in a row
	again    bool             // not the first incarnation since the task was assigned: its inputs are sought

	earlyEnds map[changelog.TopicPartition]changelog.Ends // of a seeded bug
	failed    bool                                        // met policy Fail: not stepped again
}

func newTaskRun(g *group, id processor.TaskID, sub *subPlan, incarnation uint64, prev <-chan struct{}) *taskRun {
	rt := g.rt
	run := &taskRun{
		rt: rt, group: g, id: id, sub: sub, incarnation: incarnation, prev: prev,
		inputs: rt.plan.inputs(sub, id.Partition), changelogs: sub.changelogs,
		closed: make(chan struct{}), freed: make(chan struct{}), state: taskWaiting, found: map[inputKey]changelog.FoundInput{}, start: map[inputKey]int64{},
		ends: map[string]int64{},
	}
	for _, in := range run.inputs {
		run.keys = append(run.keys, inputKey{in.Topic, in.Partition})
	}
	run.paused = make([]atomic.Bool, len(run.inputs))
	run.floors = make([]atomic.Int64, len(run.inputs))
	run.stats = rt.stats.run(run)
	run.ctx, run.cancel = context.WithCancel(rt.hard)
	run.held.Store(true)
	return run
}

func (t *taskRun) setState(s taskState, err error) {
	t.mu.Lock()
	from := t.state
	t.state = s
	t.mu.Unlock()
	if from == s {
		return
	}
	level := t.rt.log.Debug
	if s == taskFailed {
		level = t.rt.log.Error
	}
	level("task", "task", t.id.String(), "from", string(from), "to", string(s), "err", err)
	t.rt.hooks.task(observe.TaskChange{Task: t.id.String(), From: string(from), To: string(s), Err: err, At: time.Now()})
}

func (t *taskRun) currentState() taskState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// begin notes the commit that gave the task's inputs their first offsets.
func (t *taskRun) begin(id txn.CommitID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began = id
}

// arrived notes the committed offset of one input (-1: there was none) and where it starts, and reports whether all are
// known now, once.
func (t *taskRun) arrived(in changelog.FoundInput, start int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start[inputKey{in.Topic, in.Partition}] = start
	t.found[inputKey{in.Topic, in.Partition}] = in
	if t.begun || len(t.found) < len(t.inputs) {
		return false
	}
	t.begun = true
	return true
}

// awaits reports whether the task cannot start because the offset of this input has not arrived.
func (t *taskRun) awaits(topic string, partition int32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, known := t.found[inputKey{topic, partition}]
	return !t.begun && !known
}

// partitions are the task's inputs in kgo's form.
func (t *taskRun) partitions() map[string][]int32 {
	m := make(map[string][]int32, len(t.inputs))
	for _, in := range t.inputs {
		m[in.Topic] = append(m[in.Topic], in.Partition)
	}
	return m
}

// partition is one input in kgo's form.
func (t *taskRun) partition(input int) map[string][]int32 {
	in := t.inputs[input]
	return map[string][]int32{in.Topic: {in.Partition}}
}

// bytes of records the task holds, wherever they are.
func (t *taskRun) bytes() int64 { return t.pending.Load() + t.retained.Load() }

// queued books n bytes of records that are on their way to the worker; less than zero, that have arrived.
func (t *taskRun) queued(n int64) {
	t.pending.Add(n)
	t.worker.holding.Add(n)
}

// keeps books the bytes of records that the kernel holds now.
func (t *taskRun) keeps(n int64) { t.worker.holding.Add(n - t.retained.Swap(n)) }

// noteEnd remembers how far a changelog of ours or the tasks topic goes with what was just committed.
func (t *taskRun) noteEnd(topic string, partition int32, next int64) {
	if partition != t.id.Partition {
		return
	}
	if topic == t.rt.plan.tasksTopic {
		t.tasksEnd = max(t.tasksEnd, next)
		return
	}
	for store, name := range t.changelogs {
		if name == topic {
			t.ends[store] = max(t.ends[store], next)
		}
	}
}

// checkpoint encodes the row that goes with a committed epoch.
func (t *taskRun) checkpoint(id txn.CommitID, sealed *task.Epoch, wall time.Time) []byte {
	c := changelog.Checkpoint{
		Commit: id, WallTime: wall.UnixMilli(), StreamTime: sealed.StreamTime, Now: sealed.Now,
		Inputs: sealed.Offsets, Tasks: t.tasksEnd, State: sealed.State,
	}
	for _, s := range t.sub.Stores {
		c.Stores = append(c.Stores, changelog.StoreOffset{Store: s.Name(), Offset: t.ends[s.Name()]})
	}
	return c.Append(nil)
}

// refresh writes the last checkpoint again, with a new wall time.
func (t *taskRun) refresh(now time.Time) {
	row, ok, err := t.db.Checkpoint()
	if err != nil || !ok {
		return
	}
	c, err := changelog.ParseCheckpoint(row)
	if err != nil {
		return
	}
	c.WallTime = now.UnixMilli()
	if err := t.db.SetCheckpoint(c.Append(nil)); err != nil {
		t.rt.log.Warn("refreshing a checkpoint", "task", t.id.String(), "err", err)
	}
}

const tickStoresEvery = 100 * time.Millisecond

// tickStores tells the tasks' databases the time: what is committed is written back when it has waited long enough, also
// where nothing happens any more.
func (w *worker) tickStores() {
	now := w.rt.cfg.Clock.Now()
	if d := now.Sub(w.ticked); d >= 0 && d < tickStoresEvery {
		return
	}
	w.ticked = now
	var failed []failedApply
	for _, run := range w.tasks {
		run.stats.look(run.task)
		err := run.db.Tick(now.UnixMilli())
		if err != nil && w.flight == nil && !w.epoch.has(run) { // else its commit meets the error
			failed = append(failed, failedApply{run, err})
		}
	}
	w.broken(failed)
}

// release asks for the task to be given up, by whoever has it: nobody yet, the goroutine that opens it, or its worker.
func (t *taskRun) release(r release) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.begun:
		t.begun = true
		go t.close()
	case !t.taken:
		t.cancel()
	default:
		t.worker.mail.send(message{run: t, release: &r})
	}
}

// hand gives the opened task to its worker; false means it has to go instead.
func (t *taskRun) hand() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	t.taken = true
	t.worker.mail.send(message{run: t, take: true})
	return true
}

// close gives everything back: processors, database, directory. Called by whoever owns the fields at that time.
func (t *taskRun) close() {
	t.cancel()
	t.rt.broadcasts.unsubscribe(t)
	if t.worker != nil {
		t.keeps(0)
	}
	if t.task != nil {
		if err := t.task.Close(); err != nil {
			t.rt.log.Warn("closing a task", "task", t.id.String(), "err", err)
		}
		t.task = nil
	}
	if t.db != nil {
		t.rt.stats.closing(t.stats)
		if err := t.db.Close(); err != nil {
			t.rt.log.Warn("closing a database", "task", t.id.String(), "err", err)
		}
		t.db = nil
	}
	if t.dir != nil {
		t.dir.notePosition(t.ends)
		t.dir = nil
	}
	t.setState(taskClosed, nil)
	close(t.closed)
	// 1. A handler does not come back, and its worker keeps the database of incarnation 1. 2. The task is revoked, returns as
	// incarnation 2, which waits, and is revoked again: 2 has nothing to give back and is closed at once. 3. The task returns
	// once more: if 3 waited for 2 alone it would open a database that 1 still has.
	if t.prev == nil {
		close(t.freed)
		return
	}
	go func() {
		<-t.prev
		close(t.freed)
	}()
}
