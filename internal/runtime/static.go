package runtime

import (
	"context"
	"time"

	"github.com/millrace-io/millrace/changelog"
)

// groupInstance is the group.instance.id of a static member, nil for a dynamic one.
func (r *Runtime) groupInstance() *string {
	if !r.cfg.Static {
		return nil
	}
	return &r.instance
}

// succeed is what a static member does first with what the group gives it: its place may be that of a process that is not
// dead but slow. From the join on the group takes no offsets of that one any more; what it had open before is ended here, before a
// task starts and before the offsets are fetched. And the assignment may be one that was made for it: no leader has seen
// what this process declares.
func (g *group) succeed(ctx context.Context) {
	if !g.rt.cfg.Static {
		return
	}
	if g.rt.succeeded.CompareAndSwap(false, true) {
		bound, cancel := context.WithTimeout(ctx, min(5*time.Second, g.rt.cfg.SessionTimeout/2))
		defer cancel()
		if err := g.rt.fenceMyself(bound); err != nil {
			g.rt.log.Warn("looking for open transactions of the process before this one", "err", err)
		}
	}
	g.mu.Lock()
	echo := g.echo
	g.mu.Unlock()
	if echo.Err != nil || echo.Refused != nil {
		return
	}
	for _, v := range echo.Versions {
		if v.Fingerprint == g.rt.fingerprint() {
			return
		}
	}
	g.declare("the topology is not the one it was given tasks for")
}

// switched notices that the offsets were committed under another guarantee. After a full stop that is all there is to it; but a
// static member takes its place again without anybody having looked at it, and the others may not have changed their minds.
func (g *group) switched(metas map[inputKey]changelog.FoundInput) {
	if !g.rt.cfg.Static {
		return
	}
	for _, in := range metas {
		if in.Ours && in.MetaErr == nil && in.Meta.Guarantee != g.rt.cfg.Guarantee {
			g.mu.Lock()
			g.accepted = g.accepted && g.declared.Load()
			g.mu.Unlock()
			g.declare("the guarantee is not the one it had before")
			return
		}
	}
}

// declare asks the group for a new plan, once in a membership.
func (g *group) declare(why string) {
	if !g.declared.CompareAndSwap(false, true) {
		return
	}
	g.rt.log.Info("asking the group for a rebalance: a static member has come back changed", "why", why)
	go func() { // it takes a lock of the client's that whoever called us may hold
		<-g.ready
		g.cl.ForceRebalance()
	}()
}
