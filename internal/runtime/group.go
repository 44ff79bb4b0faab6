package runtime

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/runtime/assign"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
)

// group is one membership of the consumer group: one client, from its first join until it leaves or is found to have
// lost its member id. Its callbacks run on kgo's goroutines; OnPartitionsRevoked and OnPartitionsLost block until the
// tasks they name are given up.
type group struct {
	rt   *Runtime
	cl   *kgo.Client
	kill context.CancelFunc // ends every request of the client, for when it does not close by itself
	own  *ownership

	ready chan struct{} // closed when cl and own are set: kgo joins, and calls back, while NewClient still runs

	mu       sync.Mutex
	runs     map[processor.TaskID]*taskRun // owned now
	byInput  map[inputKey]*taskRun
	previous map[processor.TaskID]<-chan struct{} // closed when the last incarnation released its database
	echo     assign.Echo                          // what the leader told everybody with the last assignment
	metas    map[inputKey]changelog.FoundInput    // of the OffsetFetch in progress

	fetched   *fetched
	round     atomic.Pointer[round] // the poll under way
	broken    chan struct{}         // closed when this membership is over: the runtime makes a new one
	breakOnce sync.Once
	reason    error

	accepted bool        // a plan of this membership's group took us as we are; under mu
	declared atomic.Bool // the group was asked for a plan that knows us as we are now

	rebalance observe.Rebalance // being gathered
	since     time.Time
}

// newGroup makes the client; it joins as soon as it is polled.
func newGroup(rt *Runtime) (*group, error) {
	g := &group{
		rt: rt, fetched: newFetched(rt.budget.spare), runs: map[processor.TaskID]*taskRun{}, byInput: map[inputKey]*taskRun{},
		previous: rt.released, broken: make(chan struct{}), ready: make(chan struct{}),
	}
	ctx, kill := context.WithCancel(context.Background())
	g.kill = kill
	opts := append(rt.clientOpts("group"),
		kgo.WithContext(ctx),
		kgo.ConsumerGroup(rt.cfg.App),
		kgo.ConsumeTopics(rt.plan.consumed()...),
		kgo.Balancers(rt.balancer(g)),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.SessionTimeout(rt.cfg.SessionTimeout),
		kgo.HeartbeatInterval(rt.cfg.HeartbeatInterval),
		kgo.RebalanceTimeout(rt.cfg.RebalanceTimeout),
		kgo.FetchMaxWait(100*time.Millisecond),
		kgo.FetchMaxBytes(int32(rt.budget.fetch)),
		kgo.FetchMaxPartitionBytes(int32(rt.budget.part)),
		kgo.MaxConcurrentFetches(4),
		kgo.WithPools(g.fetched),
		kgo.OnPartitionsAssigned(g.assigned),
		kgo.OnPartitionsRevoked(g.revoked),
		kgo.OnPartitionsLost(g.lost),
		kgo.OnOffsetsFetched(g.offsetsFetched),
		kgo.AdjustFetchOffsetsFn(g.adjustOffsets),
	)
	if rt.cfg.Static {
		opts = append(opts, kgo.InstanceID(rt.instance))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		kill()
		return nil, err
	}
	g.cl = cl
	g.own = newOwnership(cl.GroupMetadata)
	g.own.static = rt.groupInstance()
	close(g.ready)
	return g, nil
}

// breakUp ends this membership. The runtime notices and replaces the client; it cannot be done from a callback.
func (g *group) breakUp(reason error) {
	g.breakOnce.Do(func() {
		g.reason = reason
		g.own.doomAll()
		g.hurry()
		close(g.broken)
	})
}

// checkMember is the first thing every callback does.
func (g *group) checkMember() bool {
	<-g.ready
	if g.own.alive() {
		return true
	}
	g.breakUp(errors.New("the group gave this instance another member id: it was evicted and everything it had was given away"))
	return false
}

// hurry makes every worker look up at the next record boundary.
func (g *group) hurry() {
	for _, w := range g.rt.workers {
		w.hurry.Store(true)
		w.mail.poke()
	}
}

func (g *group) runOf(topic string, partition int32) *taskRun {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.byInput[inputKey{topic, partition}]
}

func (g *group) note(f func(*observe.Rebalance)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.since.IsZero() {
		g.since = time.Now()
	}
	f(&g.rebalance)
}

func (g *group) finishRebalance(ids []processor.TaskID) {
	_, generation := g.cl.GroupMetadata()
	g.note(func(r *observe.Rebalance) { r.Generation, r.Assigned = generation, names(ids) })
	g.mu.Lock()
	event := g.rebalance
	event.Took = time.Since(g.since)
	g.rebalance, g.since = observe.Rebalance{}, time.Time{}
	g.mu.Unlock()
	g.rt.log.Info("rebalanced", "generation", generation, "assigned", event.Assigned, "revoked", event.Revoked, "lost", event.Lost, "took", event.Took)
	g.rt.hooks.rebalance(event)
	g.rt.settled(g)
}

func names(ids []processor.TaskID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}

// failed marks a task that cannot run and stops the application: a refusal is for a person to look at.
func (g *group) failed(run *taskRun, err error) {
	if run.ctx.Err() != nil {
		return // it had to go meanwhile
	}
	run.setState(taskFailed, err)
	g.rt.fail(err)
}
