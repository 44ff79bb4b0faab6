package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/txn"
)

// State is where an application is in its life.
//
//	created --> starting --> rebalancing <--> running
//	   |            |             |              |
//	   |            +------+------+--------------+
//	   |                   v
//	   +--------------> closing --> closed, or failed when there was an error
type State string

// The states.
const (
	stateCreated     State = "created"
	stateStarting    State = "starting"
	stateRebalancing State = "rebalancing"
	stateRunning     State = "running"
	stateClosing     State = "closing"
	stateClosed      State = "closed"
	stateFailed      State = "failed"
)

// next is the diagram as a table: what may follow a state.
var next = map[State][]State{
	stateCreated:     {stateStarting, stateClosing, stateClosed},
	stateStarting:    {stateRebalancing, stateClosing, stateFailed},
	stateRebalancing: {stateRunning, stateClosing, stateFailed},
	stateRunning:     {stateRebalancing, stateClosing, stateFailed},
	stateClosing:     {stateClosed, stateFailed},
}

// ErrRunning is returned by a second Run.
var ErrRunning = errors.New("runtime: the application was run already; make a new one")

// Runtime is one instance of an application.
type Runtime struct {
	cfg       Config
	log       *slog.Logger
	hooks     hooks
	instance  string
	clusterID string

	mu    sync.Mutex
	state State
	grp   *group
	cause error // why it stops, if not because it was asked to

	started atomic.Bool
	stop    context.CancelCauseFunc // of Run's context: begin to close
	hard    context.Context         // ends when most of the shutdown budget is used up: user code and requests are cancelled
	hardEnd context.CancelFunc
	gone    context.Context // ends when all of it is: nothing is waited for any longer
	goneEnd context.CancelFunc
	done    chan struct{}

	admin           *kgo.Client
	restorer        *changelog.Restorer
	broadcasts      *broadcasts
	plan            *plan
	specs           []changelog.TopicSpec
	found           map[string]changelog.Topic // as they were at start
	deleteRetention map[string]time.Duration
	budget          budget
	shared          *store.Shared
	dir             *stateDir
	workers         []*worker
	released        map[processor.TaskID]<-chan struct{} // over all memberships
	recheck         chan struct{}
	snapping        atomic.Bool   // a snapshot is being taken
	newRuns         chan struct{} // a task with several inputs began to run
	noPurge         atomic.Bool   // deleting records is not allowed
	fencing         atomic.Bool   // a fencing pass asked for by a restore is running
	succeeded       atomic.Bool   // static membership: our predecessor is out of the group, and fenced
	limitsHeap      bool          // nobody else has told Go's collector about a limit
	since           time.Time     // when this process started the topology
	stats           *stats
}

// New checks the configuration and prepares an instance. It talks to nobody.
func New(c Config) (*Runtime, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := errors.Join(c.Topology.CheckApp(c.App), c.Topology.DryRun()); err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Workers == 0 {
		c.Workers = goruntime.GOMAXPROCS(0)
	}
	r := &Runtime{
		cfg: c, log: c.Log.With("app", c.App), state: stateCreated, done: make(chan struct{}),
		deleteRetention: map[string]time.Duration{}, released: map[processor.TaskID]<-chan struct{}{},
		recheck: make(chan struct{}, 1), newRuns: make(chan struct{}, 1), stats: newStats(),
	}
	r.hooks = append(hooks{r.stats.hooks(c.Clock.Now)}, c.Hooks...)
	r.gone, r.goneEnd = context.WithCancel(context.Background())
	r.hard, r.hardEnd = context.WithCancel(r.gone)
	if _, err := store.ShareOut(c.MemoryLimit, 1); err != nil {
		return nil, err
	}
	return r, nil
}

// Run is App.Run.
func (r *Runtime) Run(parent context.Context) (err error) {
	if !r.started.CompareAndSwap(false, true) {
		return ErrRunning
	}
	ctx, stop := context.WithCancelCause(parent)
	r.mu.Lock()
	r.stop = stop
	if r.state == stateClosing {
		stop(nil)
	}
	r.mu.Unlock()
	defer close(r.done)
	defer r.goneEnd()
	defer func() {
		if err != nil {
			r.setState(stateFailed, err)
		} else {
			r.setState(stateClosed, nil)
		}
		if r.wantsStats() {
			r.hooks.stats(r.Snapshot())
		}
	}()

	r.setState(stateStarting, nil)
	if r.cfg.Alongside != nil {
		end, err := r.cfg.Alongside()
		if err != nil {
			return err
		}
		defer end()
	}
	defer r.release()
	if err := r.start(ctx); err != nil {
		return r.stoppedAtStart(ctx, err)
	}
	return r.serve(ctx)
}

// Close is App.Close.
func (r *Runtime) Close() error {
	r.mu.Lock()
	stop := r.stop
	if stop == nil {
		r.state = stateClosing
	}
	r.mu.Unlock()
	if stop == nil {
		return nil
	}
	stop(nil)
	<-r.done
	return nil
}

// stoppedAtStart is what Run returns for an error of start: none, if the error only came of being asked to stop.
func (r *Runtime) stoppedAtStart(ctx context.Context, err error) error {
	var refused *fault.Error
	typed := errors.As(err, &refused)
	switch {
	case typed && refused.Kind != fault.Cluster:
		return err
	case ctx.Err() != nil:
		return nil
	case typed || !passes(err):
		return err
	}
	return &fault.Error{
		Code: "cluster/unreachable", Kind: fault.Cluster, Thing: "brokers", Value: strings.Join(r.cfg.Brokers, ","),
		Reason: "they stopped answering while the application started", Remedy: "look at the brokers, and start again", Err: err,
	}
}

// start does everything that comes before the group is joined.
func (r *Runtime) start(ctx context.Context) error {
	if r.limitsHeap = os.Getenv("GOMEMLIMIT") == "" && (heapLimited.Load() || debug.SetMemoryLimit(-1) == math.MaxInt64); r.limitsHeap {
		heapLimited.Store(true)
		r.limitHeap()
	}
	r.since = r.cfg.Clock.Now()
	if err := r.openStateDir(); err != nil {
		return err
	}
	r.log = r.log.With("instance", r.instance)
	if err := r.connect(ctx); err != nil {
		return err
	}
	if err := r.survey(ctx); err != nil {
		return err
	}
	tasks := r.plan.taskCount()
	shared, err := store.NewShared(r.cfg.MemoryLimit, tasks)
	if err != nil {
		return err
	}
	r.shared = shared
	r.budget = newBudget(r.cfg.MemoryLimit, shared, r.cfg.Workers, tasks, r.cfg.Pipelining)
	if err := r.newRestorer(); err != nil {
		return err
	}
	r.broadcasts = newBroadcasts(r)
	if err := r.register(ctx); err != nil {
		return err
	}
	if err := r.fenceMyself(ctx); err != nil {
		return err
	}
	for i := range r.cfg.Workers {
		r.workers = append(r.workers, newWorker(i, r))
	}
	r.stats.began(r)
	return nil
}

// fenceMyself ends transactions that an earlier life of this instance left open.
func (r *Runtime) fenceMyself(ctx context.Context) error {
	fenced, err := txn.FencePass(ctx, r.admin, r.cfg.App, func(instance string) bool { return instance != r.instance })
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.log.Warn("looking for open transactions of an earlier life", "err", err)
	}
	for _, f := range fenced {
		r.log.Info("fenced a transaction of this instance's earlier life", "transactional_id", f.ID.String(), "took", f.Took)
		r.hooks.fenced(observe.Fenced{TransactionalID: f.ID.String(), Took: f.Took})
	}
	return nil
}

// serve runs the workers and one membership after another until ctx ends or something fails, then closes in order.
func (r *Runtime) serve(ctx context.Context) error {
	// The shutdown budget counts from the moment the application is asked to stop, wherever it is.
	over := make(chan struct{})
	defer close(over)
	defer context.AfterFunc(ctx, func() {
		for _, step := range []struct {
			after time.Duration
			end   func()
		}{{r.handOverTime(), r.hardEnd}, {r.cfg.ShutdownTimeout - r.handOverTime(), r.goneEnd}} {
			timer := time.NewTimer(step.after)
			select {
			case <-timer.C:
				step.end()
			case <-over:
				timer.Stop()
				return
			}
		}
	})()

	stopWorkers := make(chan struct{})
	for _, w := range r.workers {
		go w.run(stopWorkers)
	}
	background, endBackground := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, f := range []func(context.Context){r.watchdog, r.watchEnds, r.align, r.verifyTopics, r.purge, r.refreshCheckpoints, r.limitHeapAsTablesGrow, r.watchLag, r.tellStats} {
		wg.Add(1)
		go func() { defer wg.Done(); f(background) }()
	}
	defer func() {
		endBackground()
		wg.Wait()
		close(stopWorkers)
		for _, w := range r.workers {
			w.mail.poke()
			r.await(w)
		}
		for _, closed := range r.released { // and tasks that were being opened
			select {
			case <-closed:
			case <-r.gone.Done():
			}
		}
	}()

	for broken := 0; ; broken++ {
		if broken > 0 {
			pause := time.NewTimer(min(backoffMin<<min(broken-1, 10), backoffMax))
			select {
			case <-pause.C:
			case <-ctx.Done(): // the new member will leave at once: that ends everything in order
			}
			pause.Stop()
		}
		joined := time.Now()
		g, err := newGroup(r)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.grp = g
		r.mu.Unlock()
		r.setState(stateRebalancing, nil)
		err = r.member(ctx, g)
		if !errors.Is(err, errBroken) {
			return err
		}
		r.log.Warn("the membership is over; joining again", "reason", g.reason)
		if time.Since(joined) > backoffMax {
			broken = 0
		}
	}
}

// handOverTime is the part of the shutdown budget in which tasks may still commit. The rest is for whoever has to be told to
// stop, and for leaving.
func (r *Runtime) handOverTime() time.Duration { return r.cfg.ShutdownTimeout * 8 / 10 }

// await waits for a worker to end. User code that does not come back, even after its context was cancelled, cannot be
// stopped; but it can be left behind.
func (r *Runtime) await(w *worker) {
	select {
	case <-w.done:
	case <-r.gone.Done():
		r.log.Error("a worker did not stop within the shutdown timeout: its handler is left behind", "worker", w.id,
			"stack", stackOf(w.beat.goroutine.Load()))
	}
}

// errBroken says that a membership ended and another one is to be begun.
var errBroken = errors.New("runtime: the membership broke")

// member is one membership from join to leave.
func (r *Runtime) member(ctx context.Context, g *group) error {
	pollCtx, endPoll := context.WithCancel(ctx)
	defer endPoll()
	polled := make(chan error, 1)
	go func() { polled <- g.poll(pollCtx) }()

	var pollErr error
	select {
	case <-ctx.Done():
	case pollErr = <-polled:
		polled <- nil
	case <-g.broken:
	}

	broken := false
	select {
	case <-g.broken:
		broken = ctx.Err() == nil && pollErr == nil
	default:
	}
	if broken {
		endPoll()
		<-polled
		g.giveUp(ids(g.all()), false, r.cfg.ShutdownTimeout, "membership broken")
		leave, cancel := context.WithTimeout(r.hard, r.cfg.SessionTimeout)
		defer cancel()
		g.close(leave)
		return errBroken
	}

	// The order of a clean stop: commit and hand over while still a heartbeating member, stop polling, only then leave.
	if pollErr != nil {
		r.fail(pollErr)
	}
	r.setState(stateClosing, nil)
	g.cl.PauseFetchTopics(r.plan.consumed()...)
	endPoll()
	<-polled
	g.handOver(r.handOverTime())
	leave, cancel := context.WithTimeout(r.gone, max(time.Second, r.cfg.ShutdownTimeout/5))
	defer cancel()
	g.close(leave)

	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cause
}

func ids(runs []*taskRun) []processor.TaskID {
	out := make([]processor.TaskID, len(runs))
	for i, run := range runs {
		out[i] = run.id
	}
	return out
}

// release gives back what start took.
func (r *Runtime) release() {
	r.broadcasts.close()
	if r.restorer != nil {
		r.restorer.Close()
	}
	if r.admin != nil {
		r.admin.Close()
	}
	if r.shared != nil {
		r.shared.Close()
	}
	r.closeStateDir()
}

// fail makes the application stop because of err. The first error wins.
func (r *Runtime) fail(err error) {
	r.mu.Lock()
	first := r.cause == nil
	if first {
		r.cause = err
	}
	stop := r.stop
	r.mu.Unlock()
	if first {
		r.log.Error("stopping", "err", err)
		stop(err)
	}
}

func (r *Runtime) group() *group {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.grp
}

// place gives a task to the worker with the fewest.
func (r *Runtime) place(run *taskRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	best := r.workers[0]
	for _, w := range r.workers {
		if w.placed.Load() < best.placed.Load() {
			best = w
		}
	}
	best.placed.Add(1)
	run.worker = best
}

// State is where the application is.
func (r *Runtime) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *Runtime) setState(to State, err error) {
	r.mu.Lock()
	from := r.state
	allowed := from == to
	for _, s := range next[from] {
		allowed = allowed || s == to
	}
	if !allowed || from == to {
		r.mu.Unlock()
		return
	}
	r.state = to
	r.mu.Unlock()
	r.log.Info("state", "from", string(from), "to", string(to))
	r.hooks.state(observe.StateChange{App: r.cfg.App, Instance: r.instance, From: string(from), To: string(to), Err: err, At: time.Now()})
}

// settled moves to running once every task of the membership runs.
func (r *Runtime) settled(g *group) {
	for _, run := range g.all() {
		if run.currentState() != taskRunning {
			return
		}
	}
	r.setState(stateRunning, nil)
}

// newProducer makes a transactional producer of a worker; sequence may be nil.
func (r *Runtime) newProducer(worker, slot int, sequence *txn.Sequence) (*txn.Producer, error) {
	id, err := txn.NewTransactionalID(r.cfg.App, r.instance, worker, slot)
	if err != nil {
		return nil, err
	}
	return txn.NewProducer(txn.Config{
		TransactionalID: id.String(), Group: r.cfg.App,
		Client:   append(r.clientOpts(fmt.Sprintf("worker-%d", worker)), kgo.ProducerBatchMaxBytesFn(r.plan.batchBytes)),
		Sequence: sequence, Timeout: r.cfg.TransactionTimeout, Guarantee: r.cfg.Guarantee, LastTopic: r.plan.tasksTopic, BufferBytes: int(r.budget.produce), Log: r.log,
		Observer: txn.Observer{Resolved: func(id txn.CommitID, result txn.Result, took time.Duration) {
			r.hooks.resolved(observe.Resolved{CommitID: fmt.Sprint(id), Committed: result == txn.Committed, Took: took})
		}},
	})
}
