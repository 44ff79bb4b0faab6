package runtime

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
)

// revoked hands tasks over: commit what they have, close them, then return. What is not done within half of the
// rebalance timeout is doomed: no offset commit is sent for it any more. One that was sent already may still be ended,
// since the new owner's offset fetch waits for it.
func (g *group) revoked(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	if len(lost) == 0 || !g.checkMember() {
		return
	}
	g.rt.setState(stateRebalancing, nil)
	g.note(func(r *observe.Rebalance) { r.Revoked = append(r.Revoked, names(g.rt.plan.tasksOf(lost))...) })
	g.giveUp(g.rt.plan.tasksOf(lost), true, g.rt.cfg.RebalanceTimeout/2, "revoked")
}

// lost discards tasks that are somebody else's already.
func (g *group) lost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	<-g.ready
	ids := g.rt.plan.tasksOf(lost)
	g.note(func(r *observe.Rebalance) { r.Lost = append(r.Lost, names(ids)...) })
	for _, id := range ids {
		g.own.doom(id)
	}
	g.hurry()
	g.giveUp(ids, false, g.rt.cfg.RebalanceTimeout/2, "lost")
	g.checkMember()
}

// giveUp releases tasks and waits for it, at most bound, and no longer than an application that stops has for it.
func (g *group) giveUp(ids []processor.TaskID, commit bool, bound time.Duration, reason string) {
	var runs []*taskRun
	g.mu.Lock()
	for _, id := range ids {
		if run := g.runs[id]; run != nil {
			runs = append(runs, run)
		}
	}
	g.mu.Unlock()
	for _, run := range runs {
		g.own.leave(run.id)
		run.release(release{commit: commit, reason: reason})
	}
	g.hurry()
	over, cancel := context.WithTimeout(g.rt.hard, bound)
	defer cancel()
	for _, run := range runs {
		select {
		case <-run.closed:
			continue
		default:
		}
		select {
		case <-run.closed:
		case <-over.Done():
			g.own.doom(run.id)
			g.hurry()
			g.rt.log.Warn("a task was not handed over in time: its uncommitted work is discarded", "task", run.id.String(), "bound", bound)
		}
	}
	for _, run := range runs {
		g.forget(run)
	}
}

func (g *group) forget(run *taskRun) {
	g.own.remove(run.id)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.runs[run.id] == run {
		delete(g.runs, run.id)
	}
	for _, k := range run.keys {
		if g.byInput[k] == run {
			delete(g.byInput, k)
		}
	}
}

// all lists the runs of this membership.
func (g *group) all() []*taskRun {
	g.mu.Lock()
	defer g.mu.Unlock()
	runs := make([]*taskRun, 0, len(g.runs))
	for _, run := range g.runs {
		runs = append(runs, run)
	}
	return runs
}

// handOver commits and releases every task while the member still heartbeats: kgo does not during the revoke of a leave.
func (g *group) handOver(bound time.Duration) {
	var ids []processor.TaskID
	for _, run := range g.all() {
		ids = append(ids, run.id)
	}
	g.giveUp(ids, true, bound, "closing")
}

// close leaves the group and ends the client, within ctx. Tasks must be released before; what the group gave us
// meanwhile is released here.
func (g *group) close(ctx context.Context) {
	defer g.kill()
	g.cl.AllowRebalance()
	if err := g.cl.LeaveGroupContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		g.rt.log.Warn("leaving the group", "err", err)
	}
	// To leave, kgo waits for the join it may be in the middle of, and that for all other members or a broker that is gone.
	stop := context.AfterFunc(ctx, g.kill)
	defer stop()
	g.cl.CloseAllowingRebalance()
	g.cl.AllowRebalance() // frees a leave that came to wait for a poll after the last poll was over
	g.giveUp(ids(g.all()), false, g.rt.cfg.ShutdownTimeout, "membership over")
}
