package topology

import (
	"errors"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/store"
)

// timers looks at the sets of timers attached to nodes: each wakes one node.
func (c *check) timers() {
	seen := map[string]*node{}
	for _, n := range c.nodes {
		for _, s := range n.stores {
			if s.Kind() != store.KindTimers {
				continue
			}
			if v, ok := s.(interface{ Validate() error }); ok {
				if f := new(fault.Error); errors.As(v.Validate(), &f) {
					c.wrong.add(n.at, f)
				}
			}
			switch first := seen[s.Name()]; first {
			case nil:
				seen[s.Name()] = n
			case n:
				c.wrong.add(n.at, &fault.Error{Code: "timers/attached-twice", Thing: "timers", Value: s.Name(),
					Reason: "are attached to this node twice", Remedy: "attach them once"})
			default:
				c.wrong.add(n.at, &fault.Error{Code: "timers/attached-twice", Thing: "timers", Value: s.Name(),
					Reason: "are attached to " + quote(first.display()) + " at " + first.at.String() + " already, and a timer wakes one node",
					Remedy: "declare a set of timers for each node that is to be woken"})
			}
		}
	}
}

// unheard refuses a node that has timers and nothing that they could wake: a verb that was given some among its stores.
func (w *wiring) unheard(local int) error {
	for _, s := range w.sub.nodes[local].stores {
		if s.Kind() != store.KindTimers {
			continue
		}
		heard := false
		for i := range w.alarms {
			heard = heard || w.alarms[i].Node == local
		}
		if !heard {
			return &fault.Error{Code: "timers/no-handler", Kind: fault.Config, Thing: "timers", Value: s.Name(),
				Reason: "are attached to node " + quote(w.sub.Nodes[local].Name) + ", which runs no processor that they could wake",
				Remedy: "attach them to a node with a processor that has OnTimer"}
		}
	}
	return nil
}
