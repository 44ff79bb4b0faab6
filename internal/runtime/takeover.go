package runtime

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/txn"
)

// assigned takes new tasks. kgo calls it before it fetches their offsets, so this is where dead owners are fenced and their
// open transactions waited out: kgo's own fetch then passes at once instead of sleeping a second per try.
func (g *group) assigned(ctx context.Context, cl *kgo.Client, added map[string][]int32) {
	if !g.checkMember() {
		return
	}
	g.rt.setState(stateRebalancing, nil)
	ids := g.rt.plan.tasksOf(added)
	for _, id := range ids {
		g.adopt(id)
	}
	// They are held until their task runs. One that runs already is given to us again when kgo has new cursors for it.
	hold := map[string][]int32{}
	for topic, ps := range added {
		for _, p := range ps {
			if run := g.runOf(topic, p); run == nil || run.held.Load() {
				hold[topic] = append(hold[topic], p)
			}
		}
	}
	cl.PauseFetchPartitions(hold)
	g.succeed(ctx)
	if len(ids) > 0 {
		g.takeOver(ctx, added)
	}
	g.finishRebalance(ids)
}

// adopt makes the run of a task that is now ours.
func (g *group) adopt(id processor.TaskID) {
	incarnation, fresh := g.own.assign(id)
	if !fresh {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	run := newTaskRun(g, id, g.rt.plan.sub(id.Subtopology), incarnation, g.previous[id])
	g.previous[id] = run.freed
	g.runs[id] = run
	for _, k := range run.keys {
		g.byInput[k] = run
	}
	g.rt.place(run)
	if chaos.Has(chaos.RestoreEndBeforeFetch) {
		run.listEndsEarly()
	}
}

// takeOver fences transactions that instances which are gone left open, then waits until the offsets of the new
// partitions are stable, for a bounded time.
func (g *group) takeOver(ctx context.Context, added map[string][]int32) {
	bound := min(5*time.Second, g.rt.cfg.SessionTimeout/2)
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	g.fence(ctx)
	fencedAgain := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := txn.StableOffsets(ctx, g.cl, g.rt.cfg.App, added)
		if !errors.Is(err, txn.ErrUnstable) {
			if err != nil && ctx.Err() == nil {
				g.rt.log.Warn("looking at the offsets of new tasks", "err", err)
			}
			return
		}
		if time.Since(fencedAgain) >= 500*time.Millisecond {
			g.fence(ctx) // a zombie may have begun a transaction after the first pass
			fencedAgain = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// fence runs the fencing pass, but only while this member is surely alive: kgo's own view is stale after a pause of the
// process, and a stale member must not fence the living.
func (g *group) fence(ctx context.Context) {
	live := g.liveInstances()
	if live == nil {
		return
	}
	if err := g.heartbeat(ctx); err != nil {
		g.rt.log.Info("no fencing: the membership could not be confirmed", "err", err)
		return
	}
	fenced, err := txn.FencePass(ctx, g.rt.admin, g.rt.cfg.App, func(instance string) bool { return live[instance] })
	if err != nil && ctx.Err() == nil {
		g.rt.log.Warn("fencing pass", "err", err)
	}
	for _, f := range fenced {
		g.rt.log.Info("fenced a transaction of an instance that is gone", "transactional_id", f.ID.String(), "took", f.Took)
		g.rt.hooks.fenced(observe.Fenced{TransactionalID: f.ID.String(), Took: f.Took})
	}
}

// liveInstances are the instances of the current generation as the leader published them, or nil if it did not.
func (g *group) liveInstances() map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.echo.Instances) == 0 {
		return nil
	}
	live := map[string]bool{g.rt.instance: true}
	for _, i := range g.echo.Instances {
		live[i.Name] = true
	}
	return live
}

func (g *group) heartbeat(ctx context.Context) error {
	member, generation := g.cl.GroupMetadata()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation, req.InstanceID = g.rt.cfg.App, member, generation, g.rt.groupInstance()
	resp, err := req.RequestWith(ctx, g.cl)
	if err != nil {
		return err
	}
	return heartbeatError(resp.ErrorCode)
}
