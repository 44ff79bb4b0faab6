package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/txn"
)

// stats gathers what a Snapshot shows (docs/design/0016-metrics.md). Workers tell it what they committed, once per epoch and all
// of it under mu; a Snapshot copies under mu, and asks databases for what is theirs without it. So neither waits for the other
// longer than a copy takes, nobody asks a worker anything, and a record costs nothing.
type stats struct {
	mu       sync.Mutex
	instance string
	cluster  string
	since    time.Time
	plan     *plan // nil until the application has started, as shared and workers
	shared   *store.Shared
	workers  []workerStats
	running  []*worker
	tasks    map[processor.TaskID]*totals // every task that was ever here: at most the topology's
	byName   map[string]*runStats         // by the name of the task: its newest incarnation
	clients  map[string]*clientStats      // by role

	rebalances, fenced, slow int64
	resolved                 map[string]int64
	last                     *observe.LastError

	asked atomic.Int64  // when a Snapshot was last taken, unix nanoseconds
	wake  chan struct{} // somebody asks after a long time
}

// workerStats are observe.Worker in the making.
type workerStats struct {
	records, outputs, rows int64
	commits, aborts        map[string]int64
	stood                  time.Duration
	epochs, took, size     histogram
}

// totals are the counters of one task over all its incarnations here. Guarded by stats.mu.
type totals struct {
	observe.Counters
	stores []observe.Store
}

// runStats are the figures of one incarnation.
type runStats struct {
	totals *totals

	// The worker's own: outputs since the last Seal.
	outputs int64

	// Anybody's.
	db      atomic.Pointer[store.DB]
	overlay atomic.Int64
	parked  atomic.Bool
	ends    []atomic.Int64 // by input: where its readable records end, one more; 0: not known

	// Under stats.mu.
	task      task.Stats        // as counted in totals
	engine    store.EngineStats // the same
	clock     int64
	positions []int64 // by input, -1: not known
	restores  []observe.RestoreProgress
	expired   []int64 // by store, as counted in totals
	err       string
}

func newStats() *stats {
	return &stats{
		tasks: map[processor.TaskID]*totals{}, byName: map[string]*runStats{}, clients: map[string]*clientStats{},
		resolved: map[string]int64{}, wake: make(chan struct{}, 1),
	}
}

// began tells who and where the application is, and what runs in it.
func (s *stats) began(r *Runtime) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instance, s.cluster, s.plan, s.shared, s.running = r.instance, r.clusterID, r.plan, r.shared, r.workers
	s.workers = make([]workerStats, len(r.workers))
	for i := range s.workers {
		s.workers[i] = workerStats{
			commits: map[string]int64{}, aborts: map[string]int64{},
			epochs: newHistogram(secondsBounds), took: newHistogram(secondsBounds), size: newHistogram(recordsBounds),
		}
	}
}

// run begins the figures of an incarnation.
func (s *stats) run(t *taskRun) *runStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.tasks[t.id]
	if sum == nil {
		sum = &totals{}
		for _, st := range t.sub.Stores {
			sum.stores = append(sum.stores, observe.Store{Name: st.Name()})
		}
		s.tasks[t.id] = sum
	}
	run := &runStats{
		totals: sum, clock: -1, ends: make([]atomic.Int64, len(t.inputs)), positions: make([]int64, len(t.inputs)),
		restores: make([]observe.RestoreProgress, len(sum.stores)), expired: make([]int64, len(sum.stores)),
	}
	for i := range run.positions {
		run.positions[i] = -1
	}
	s.byName[t.id.String()] = run
	return run
}

// wired tells where an incarnation goes on.
func (s *stats) wired(run *runStats, positions []int64, clock int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(run.positions, positions)
	run.clock = clock
}

// closing takes the last figures of a database that is about to be closed.
func (s *stats) closing(run *runStats) {
	db := run.db.Swap(nil)
	if db == nil {
		return
	}
	last := db.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	run.count(&last, db)
}

// look takes what is shown of the moment. The worker calls it ten times a second at most.
func (run *runStats) look(t *task.Task) {
	run.overlay.Store(t.Overlay())
	run.parked.Store(t.Parked())
}

// end notes that the readable records of an input reach to end.
func (run *runStats) end(input int, end int64) {
	for {
		was := run.ends[input].Load()
		if end+1 <= was || run.ends[input].CompareAndSwap(was, end+1) {
			return
		}
	}
}

// count adds what a database did since it was last looked at. Called with stats.mu held; figures that are older than the last
// ones, because two were looking at a time, add nothing.
func (run *runStats) count(e *store.EngineStats, db *store.DB) {
	c, seen := &run.totals.Counters, &run.engine
	up(&c.CacheHits, &seen.Hits, e.Hits)
	up(&c.CacheMisses, &seen.Misses, e.Misses)
	up(&c.WriteBacks, &seen.WriteBacks, e.WriteBacks)
	if db == nil {
		return
	}
	db.EachExpired(func(name string, rows int64) {
		if i := slices.IndexFunc(run.totals.stores, func(st observe.Store) bool { return st.Name == name }); i >= 0 {
			up(&run.totals.stores[i].Expired, &run.expired[i], rows)
		}
	})
}

// up adds to sum what now is more than seen.
func up(sum, seen *int64, now int64) {
	if now > *seen {
		*sum += now - *seen
		*seen = now
	}
}

// sealedStats are the figures of one task of a sealed epoch: they count when it is committed.
type sealedStats struct {
	task    task.Stats
	outputs int64
	stores  []changelogCount
}

type changelogCount struct {
	store          string
	records, bytes int64
}

// seal takes the figures as they are right after Seal: those of the epoch, and not yet of the one behind it.
func (run *runStats) seal(t *task.Task) sealedStats {
	f := sealedStats{task: t.Stats(), outputs: run.outputs, stores: make([]changelogCount, len(run.totals.stores))}
	for i := range f.stores {
		f.stores[i].store = run.totals.stores[i].Name
	}
	run.outputs = 0
	return f
}

// row counts a changelog record.
func (f *sealedStats) row(name string, bytes int64) {
	for i := range f.stores {
		if c := &f.stores[i]; c.store == name {
			c.records++
			c.bytes += bytes
			return
		}
	}
}

// committed counts an epoch, its worker's and its tasks' figures together.
func (s *stats) committed(w *worker, f *flight, c *observe.Commit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := f.epoch
	ws := &s.workers[w.id]
	ws.records += c.Records
	ws.outputs += c.Outputs
	ws.rows += c.ChangelogRows
	ws.commits[c.Reason]++
	ws.stood += c.Stood
	ws.epochs.add((c.Open + c.Took).Seconds())
	ws.took.add(c.Took.Seconds())
	ws.size.add(float64(c.Records))
	for i, t := range e.tasks {
		run, sealed, figures := t.stats, f.sealed[i], &f.figures[i]
		run.look(t.task)
		run.clock = sealed.StreamTime
		for j := range sealed.Offsets {
			run.positions[j] = sealed.Offsets[j].Offset
		}
		sum := run.totals
		sum.Outputs += figures.outputs
		addTask(&sum.Counters, &run.task, &figures.task)
		run.task = figures.task
		for j := range figures.stores {
			sum.stores[j].ChangelogRecords += figures.stores[j].records
			sum.stores[j].ChangelogBytes += figures.stores[j].bytes
		}
	}
}

// addTask adds what a task did between two looks at it.
func addTask(c *observe.Counters, was, is *task.Stats) {
	c.Records += is.Records - was.Records
	c.Skipped += is.Skipped - was.Skipped
	c.DeadLetters += is.DeadLetters - was.DeadLetters
	c.Retries += is.Retries - was.Retries
	c.Late += is.Late - was.Late
	c.TimersFired += is.Timers - was.Timers
	for _, d := range is.Drops {
		n := d.Count
		for _, before := range was.Drops {
			if before.Node == d.Node && before.Reason == d.Reason {
				n -= before.Count
			}
		}
		addDrop(c, observe.Drop{Node: d.Node, Reason: d.Reason, Count: n})
	}
}

func addDrop(c *observe.Counters, d observe.Drop) {
	if i := slices.IndexFunc(c.Drops, func(o observe.Drop) bool { return o.Node == d.Node && o.Reason == d.Reason }); i >= 0 {
		c.Drops[i].Count += d.Count
		return
	}
	if d.Count > 0 {
		c.Drops = append(c.Drops, d)
	}
}

// hooks are how the rest is heard of: by the same hooks that users have.
func (s *stats) hooks(now func() time.Time) observe.Hooks {
	locked := func(f func()) {
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	}
	failed := func(what, task string, err error) {
		s.last = &observe.LastError{At: now(), What: what, Task: task, Error: err.Error()}
	}
	return observe.Hooks{
		State: func(c observe.StateChange) {
			locked(func() {
				if c.To == string(stateStarting) {
					s.since = now()
				}
				if c.Err != nil {
					failed("application", "", c.Err)
				}
			})
		},
		Task: func(c observe.TaskChange) {
			locked(func() {
				run := s.byName[c.Task]
				switch {
				case c.Err != nil:
					failed("task", c.Task, c.Err)
					if run != nil {
						run.err = c.Err.Error()
					}
				case run != nil && c.To == string(taskRunning):
					run.err = ""
				}
			})
		},
		Record:    func(e observe.RecordError) { locked(func() { failed("record", e.Task, e.Err) }) },
		Restore:   func(p observe.RestoreProgress) { locked(func() { s.restored(p) }) },
		Rebalance: func(observe.Rebalance) { locked(func() { s.rebalances++ }) },
		Fenced:    func(observe.Fenced) { locked(func() { s.fenced++ }) },
		Slow:      func(observe.SlowHandler) { locked(func() { s.slow++ }) },
		Resolved: func(r observe.Resolved) {
			locked(func() {
				if r.Committed {
					s.resolved["committed"]++
				} else {
					s.resolved["aborted"]++
				}
			})
		},
		Abort: func(a observe.Abort) {
			locked(func() {
				s.workers[a.Worker].aborts[a.Kind]++
				if a.Kind != abortReleased && a.Kind != abortClosing && a.Kind != abortNotOwned {
					failed("epoch", "", a.Reason)
				}
			})
		},
	}
}

// restored notes how far a restore is. Called with s.mu held.
func (s *stats) restored(p observe.RestoreProgress) {
	run := s.byName[p.Task]
	if run == nil {
		return
	}
	i := slices.IndexFunc(run.totals.stores, func(st observe.Store) bool { return st.Name == p.Store })
	if i < 0 {
		return
	}
	was := run.restores[i]
	if p.Records < was.Records || p.Bytes < was.Bytes { // it began again
		was = observe.RestoreProgress{}
	}
	st := &run.totals.stores[i]
	st.RestoredRecords += p.Records - was.Records
	st.RestoredBytes += p.Bytes - was.Bytes
	run.restores[i] = p
}

// The kinds of aborts.
const (
	abortRefused  = "refused record"
	abortRow      = "failed row"
	abortNotOwned = "not owned"
	abortReleased = "released"
	abortFenced   = "fenced"
	abortForeign  = "foreign commit"
	abortFatal    = "fatal"
	abortLost     = "lost"
	abortDatabase = "database"
	abortClosing  = "closing"
	abortTimeout  = "timeout"
	abortBroker   = "broker"
	abortOther    = "other"
)

// releasedError is why an epoch is aborted with a task that has to go.
type releasedError struct {
	task   processor.TaskID
	reason string
}

func (e *releasedError) Error() string { return fmt.Sprintf("task %s was %s", e.task, e.reason) }

// errLost is why an epoch is given up whose outcome nobody can find out.
var errLost = errors.New("epoch lost")

// abortKind is the reason of an abort as one of a few words.
func abortKind(reason error) string {
	var released *releasedError
	var said *txn.Error
	switch {
	case errors.Is(reason, errLost):
		return abortLost
	case txn.IsFenced(reason):
		return abortFenced
	case errors.Is(reason, errRefused), errors.Is(reason, txn.ErrProduced):
		return abortRefused
	case errors.Is(reason, errNotOwned), errors.Is(reason, txn.ErrNoneOwned):
		return abortNotOwned
	case errors.Is(reason, txn.ErrForeignCommit):
		return abortForeign
	case errors.As(reason, &released):
		return abortReleased
	case diskFailed(reason):
		return abortDatabase
	case fault.Code(reason) == "state/row-too-large":
		return abortRow
	case txn.IsFatal(reason):
		return abortFatal
	case errors.Is(reason, context.Canceled):
		return abortClosing
	case errors.Is(reason, context.DeadlineExceeded):
		return abortTimeout
	case errors.As(reason, &said):
		return abortBroker
	}
	return abortOther
}

// Snapshot is App.Snapshot.
func (r *Runtime) Snapshot() observe.Snapshot {
	s := r.stats
	s.ask()
	now := r.cfg.Clock.Now()
	r.mu.Lock()
	state, g := r.state, r.grp
	r.mu.Unlock()
	snap := observe.Snapshot{
		At: now, App: r.cfg.App, State: string(state), Guarantee: r.cfg.Guarantee.String(), Generation: -1,
		Memory: observe.Memory{Limit: r.cfg.MemoryLimit},
	}
	var runs []*taskRun
	if g != nil {
		if state != stateClosed && state != stateFailed {
			_, snap.Generation = g.cl.GroupMetadata()
		}
		runs = g.all()
		slices.SortFunc(runs, func(a, b *taskRun) int { return compareTasks(a.id, b.id) })
	}
	type look struct {
		run    *taskRun
		engine store.EngineStats
		stores []store.StoreStats
		state  taskState
		worker int
		db     *store.DB
	}
	looks := make([]look, 0, len(runs))
	for _, run := range runs {
		l := look{run: run, state: run.currentState(), worker: r.placed(run)}
		if l.state == taskClosed {
			continue
		}
		if l.db = run.stats.db.Load(); l.db != nil {
			l.engine, l.stores = l.db.Stats(), l.db.StoreStats()
		}
		looks = append(looks, l)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range looks {
		looks[i].run.stats.count(&looks[i].engine, looks[i].db)
	}
	snap.Instance, snap.Cluster, snap.Since = s.instance, s.cluster, s.since
	snap.Rebalances, snap.Fenced, snap.SlowHandlers, snap.Resolved = s.rebalances, s.fenced, s.slow, counts(s.resolved)
	if s.last != nil {
		last := *s.last
		snap.LastError = &last
	}
	snap.Workers = s.workersShown(&snap.Memory)
	snap.Clients = s.clientsShown()
	snap.Subtopologies = s.subtopologiesShown()
	for i := range looks {
		l := &looks[i]
		t := l.run.shown(l.state, &l.engine, l.stores, now)
		t.Worker = l.worker
		snap.Memory.Tables += t.TableBytes
		snap.Memory.Overlay += t.OverlayBytes
		if at := slices.IndexFunc(snap.Subtopologies, func(sub observe.Subtopology) bool { return sub.Name == t.Subtopology }); at >= 0 {
			addStores(snap.Subtopologies[at].Stores, t.Stores)
		}
		snap.Tasks = append(snap.Tasks, t)
	}
	if s.shared != nil && !r.cfg.Memory && state != stateClosed && state != stateFailed {
		snap.Memory.Blocks = s.shared.Memory().BlockCache
	}
	return snap
}

// placed is the number of the worker that has the task, -1 if none has it yet.
func (r *Runtime) placed(run *taskRun) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if run.worker == nil {
		return -1
	}
	return run.worker.id
}

// workersShown are the workers' figures; what their tasks hold of records is added to m. Called with s.mu held.
func (s *stats) workersShown(m *observe.Memory) []observe.Worker {
	out := make([]observe.Worker, len(s.workers))
	for i := range s.workers {
		w, running := &s.workers[i], s.running[i]
		m.Records += running.holding.Load()
		out[i] = observe.Worker{
			ID: i, Tasks: int(running.placed.Load()), Records: w.records, Outputs: w.outputs, ChangelogRows: w.rows,
			Commits: counts(w.commits), Aborts: counts(w.aborts), Stood: w.stood,
			Epochs: w.epochs.shown(), CommitTime: w.took.shown(), EpochRecords: w.size.shown(),
		}
	}
	return out
}

// subtopologiesShown are the sums over all tasks that were ever here, rows and bytes still to be added. Called with s.mu held.
func (s *stats) subtopologiesShown() []observe.Subtopology {
	if s.plan == nil {
		return nil
	}
	var out []observe.Subtopology
	for _, sub := range s.plan.subs {
		o := observe.Subtopology{Name: sub.name, Tasks: int(sub.tasks)}
		for _, st := range sub.Stores {
			o.Stores = append(o.Stores, observe.Store{Name: st.Name(), Rows: -1})
		}
		for p := range sub.tasks {
			sum := s.tasks[processor.TaskID{Subtopology: sub.name, Partition: p}]
			if sum == nil {
				continue
			}
			addCounters(&o.Counters, &sum.Counters)
			for i := range sum.stores {
				to, from := &o.Stores[i], &sum.stores[i]
				to.ChangelogRecords += from.ChangelogRecords
				to.ChangelogBytes += from.ChangelogBytes
				to.Expired += from.Expired
				to.RestoredRecords += from.RestoredRecords
				to.RestoredBytes += from.RestoredBytes
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b observe.Subtopology) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// addStores adds what the stores of a task hold to those of its subtopology, which are in the same order.
func addStores(to, from []observe.Store) {
	for i := range from {
		if from[i].Rows >= 0 {
			to[i].Rows = max(0, to[i].Rows) + from[i].Rows
		}
		to[i].DiskBytes += from[i].DiskBytes
		to[i].RestoreRemaining += from[i].RestoreRemaining
	}
}

func addCounters(to, from *observe.Counters) {
	to.Records += from.Records
	to.Outputs += from.Outputs
	to.Skipped += from.Skipped
	to.DeadLetters += from.DeadLetters
	to.Retries += from.Retries
	to.Late += from.Late
	to.TimersFired += from.TimersFired
	to.CacheHits += from.CacheHits
	to.CacheMisses += from.CacheMisses
	to.WriteBacks += from.WriteBacks
	for _, d := range from.Drops {
		addDrop(to, d)
	}
}

// shown is the task as a Snapshot shows it. Called with stats.mu held.
func (t *taskRun) shown(state taskState, e *store.EngineStats, sizes []store.StoreStats, now time.Time) observe.Task {
	run := t.stats
	o := observe.Task{
		Task: t.id.String(), Subtopology: t.id.Subtopology, Partition: t.id.Partition, State: string(state), Error: run.err,
		Counters: run.totals.Counters, Clock: run.clock,
		TableRows: e.TableRows, TableBytes: e.TableBytes, DirtyBytes: e.DirtyBytes, DiskBytes: e.DiskBytes, Tail: e.Tail,
		Parked: run.parked.Load() && state == taskRunning, OverlayBytes: run.overlay.Load(), RecordBytes: t.bytes(),
	}
	o.Drops = slices.Clone(o.Drops)
	if o.Clock >= 0 {
		o.ClockLag = now.UnixMilli() - o.Clock
	}
	for i, k := range t.keys {
		o.Inputs = append(o.Inputs, observe.Input{
			Topic: k.topic, Partition: k.partition, Position: run.positions[i], End: run.ends[i].Load() - 1, Paused: t.paused[i].Load(),
		})
	}
	for i, sum := range run.totals.stores {
		sum.Rows = -1
		if at := slices.IndexFunc(sizes, func(s store.StoreStats) bool { return s.Store == sum.Name }); at >= 0 {
			sum.Rows, sum.DiskBytes = sizes[at].Rows, sizes[at].DiskBytes
		}
		if t.sub.Stores[i].Kind() == store.KindTimers && sum.Rows > 0 {
			o.TimersPending += sum.Rows
		}
		if p := run.restores[i]; p.Store != "" {
			sum.Restore = &p
			if !p.Done {
				sum.RestoreRemaining = p.Remaining()
			}
		}
		o.Stores = append(o.Stores, sum)
	}
	return o
}

// counts are the numbers of a map, by name.
func counts(m map[string]int64) []observe.Count {
	out := make([]observe.Count, 0, len(m))
	for name, n := range m {
		out = append(out, observe.Count{Name: name, Count: n})
	}
	slices.SortFunc(out, func(a, b observe.Count) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Topology is the picture of the topology, in text.
func (r *Runtime) Topology() string { return r.cfg.Topology.String() }

const (
	lagEvery = 5 * time.Second // how often the ends of inputs are looked at
	lagFor   = time.Minute     // after somebody asked
)

// ask notes that somebody takes Snapshots.
func (s *stats) ask() {
	now := time.Now().UnixNano()
	if last := s.asked.Swap(now); time.Duration(now-last) > lagFor {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// watchLag lists the ends of all inputs of running tasks, as long as somebody takes Snapshots. What is fetched says it too;
// but of a partition that is paused, or that had nothing new since the start, nothing is fetched.
func (r *Runtime) watchLag(ctx context.Context) {
	every(ctx, lagEvery, r.stats.wake, func(ctx context.Context) {
		g := r.group()
		if g == nil || time.Duration(time.Now().UnixNano()-r.stats.asked.Load()) > lagFor {
			return
		}
		partitions := map[string]map[int32]bool{}
		runs := g.all()
		for _, run := range runs {
			for _, k := range run.keys {
				if partitions[k.topic] == nil {
					partitions[k.topic] = map[int32]bool{}
				}
				partitions[k.topic][k.partition] = true
			}
		}
		if len(partitions) == 0 {
			return
		}
		ends, err := r.stableEnds(ctx, partitions)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Debug("listing ends", "err", err)
			}
			return
		}
		for _, run := range runs {
			for i, k := range run.keys {
				if end, ok := ends[k]; ok {
					run.stats.end(i, end)
				}
			}
		}
	})
}

// tellStats calls the hooks that want all figures, now and then.
func (r *Runtime) tellStats(ctx context.Context) {
	if r.wantsStats() {
		every(ctx, r.cfg.StatsInterval, nil, func(context.Context) { r.hooks.stats(r.Snapshot()) })
	}
}

func (r *Runtime) wantsStats() bool {
	return slices.ContainsFunc(r.hooks, func(h observe.Hooks) bool { return h.Stats != nil })
}
