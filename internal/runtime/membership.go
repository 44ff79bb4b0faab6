package runtime

import (
	"encoding/binary"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/runtime/assign"
)

// balancer tells the group about this instance and hears what its leader decided.
func (r *Runtime) balancer(g *group) kgo.GroupBalancer {
	return &assign.Balancer{
		Local: func() assign.Member {
			return assign.Member{
				Instance: r.instance, Workers: r.cfg.Workers, Guarantee: uint8(r.cfg.Guarantee),
				Fingerprint: r.fingerprint(), Since: r.since.UnixMilli(), Positions: r.dir.positions(r.plan),
			}
		},
		Catalog: r.catalog,
		Observed: func(e assign.Echo) {
			if e.Err != nil {
				r.log.Warn("the group's assignment came with words that cannot be read", "err", e.Err)
			}
			g.mu.Lock()
			g.echo, g.since = e, time.Now()
			known := g.accepted
			g.accepted = known || e.Refused == nil && e.Err == nil
			g.mu.Unlock()
			switch {
			case e.Refused == nil:
			case known:
				r.log.Error("the group stands still: nobody is given anything until it is of one mind; what runs here goes on", "err", e.Refused)
			case r.cfg.Static && !g.declared.Load():
				g.declare("the plan it was given is one of a group that was not of one mind") // it may be an old one
			default:
				r.fail(e.Refused)
			}
		},
	}
}

func (r *Runtime) fingerprint() uint64 {
	f := r.cfg.Topology.Fingerprint()
	return binary.BigEndian.Uint64(f[:])
}

// catalog is the topology as the assignment sees it.
func (r *Runtime) catalog() []assign.SubtopologySpec {
	specs := make([]assign.SubtopologySpec, 0, len(r.plan.subs))
	for _, s := range r.plan.subs {
		specs = append(specs, assign.SubtopologySpec{
			Name: s.name, Hash: s.hash(), Sources: s.sources, Stateful: s.stateful, Tasks: s.tasks,
		})
	}
	return specs
}

// heartbeatError says what a heartbeat's answer means for whoever wants to act as a living member. A rebalance in
// progress is no objection: the member is known.
func heartbeatError(code int16) error {
	if err := kerr.ErrorForCode(code); err != nil && code != kerr.RebalanceInProgress.Code {
		return err
	}
	return nil
}
