package runtime

import "github.com/millrace-io/millrace/observe"

// hooks calls every set of hooks the user gave.
type hooks []observe.Hooks

func (hs hooks) state(e observe.StateChange) {
	each(hs, e, func(h observe.Hooks) func(observe.StateChange) { return h.State })
}
func (hs hooks) task(e observe.TaskChange) {
	each(hs, e, func(h observe.Hooks) func(observe.TaskChange) { return h.Task })
}
func (hs hooks) restore(e observe.RestoreProgress) {
	each(hs, e, func(h observe.Hooks) func(observe.RestoreProgress) { return h.Restore })
}
func (hs hooks) rebalance(e observe.Rebalance) {
	each(hs, e, func(h observe.Hooks) func(observe.Rebalance) { return h.Rebalance })
}
func (hs hooks) commit(e observe.Commit) {
	each(hs, e, func(h observe.Hooks) func(observe.Commit) { return h.Commit })
}
func (hs hooks) abort(e observe.Abort) {
	each(hs, e, func(h observe.Hooks) func(observe.Abort) { return h.Abort })
}
func (hs hooks) record(e observe.RecordError) {
	each(hs, e, func(h observe.Hooks) func(observe.RecordError) { return h.Record })
}
func (hs hooks) slow(e observe.SlowHandler) {
	each(hs, e, func(h observe.Hooks) func(observe.SlowHandler) { return h.Slow })
}
func (hs hooks) resolved(e observe.Resolved) {
	each(hs, e, func(h observe.Hooks) func(observe.Resolved) { return h.Resolved })
}
func (hs hooks) fenced(e observe.Fenced) {
	each(hs, e, func(h observe.Hooks) func(observe.Fenced) { return h.Fenced })
}
func (hs hooks) stats(e observe.Snapshot) {
	each(hs, e, func(h observe.Hooks) func(observe.Snapshot) { return h.Stats })
}

func each[E any](hs hooks, e E, pick func(observe.Hooks) func(E)) {
	for _, h := range hs {
		if f := pick(h); f != nil {
			f(e)
		}
	}
}
