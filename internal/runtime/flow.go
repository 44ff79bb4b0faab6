package runtime

import "github.com/twmb/franz-go/pkg/kgo"

// resume lets a running task's partitions flow.
func (g *group) resume(run *taskRun) {
	if !g.own.mayStep(run.id, run.incarnation) {
		return // it has to go, and may be somebody's again already, held until it is restored
	}
	run.held.Store(false) // before the first record can come
	g.cl.ResumeFetchPartitions(run.partitions())
	if len(run.inputs) > 1 {
		select {
		case g.rt.newRuns <- struct{}{}:
		default:
		}
	}
	g.rt.settled(g)
}

// tighten pauses the input that has just brought records, if the task holds too much. Only inputs that have something
// queued are ever paused: a task that waits for one of its inputs would wait for ever.
func (g *group) tighten(run *taskRun, input int) {
	if !g.rt.budget.full(run.bytes(), run.worker.holding.Load(), int(run.worker.placed.Load())) || run.paused[input].Load() {
		return
	}
	run.flow.Lock()
	if !run.paused[input].Swap(true) {
		g.cl.PauseFetchPartitions(run.partition(input))
	}
	run.flow.Unlock()
	g.relax(run) // the worker may have got rid of everything since, and would not look again
}

// relax resumes the inputs of a task that holds little enough again.
func (g *group) relax(run *taskRun) {
	if !g.rt.budget.room(run.bytes(), run.worker.holding.Load(), int(run.worker.placed.Load())) {
		return
	}
	for input := range run.paused {
		g.flow(run, input)
	}
}

// flow resumes one input, because there is room again or because the task waits for just that one.
func (g *group) flow(run *taskRun, input int) {
	if !run.paused[input].Load() {
		return
	}
	run.flow.Lock()
	defer run.flow.Unlock()
	// A task that has to go may be somebody's again already, held until it is restored.
	if g.own.mayStep(run.id, run.incarnation) && run.paused[input].Swap(false) {
		g.cl.ResumeFetchPartitions(run.partition(input))
	}
}

// seek points the consumer at the offsets a task was found to go on from.
func (g *group) seek(run *taskRun) {
	to := map[string]map[int32]kgo.EpochOffset{}
	for k, at := range run.start {
		if to[k.topic] == nil {
			to[k.topic] = map[int32]kgo.EpochOffset{}
		}
		to[k.topic][k.partition] = kgo.EpochOffset{Epoch: -1, Offset: at}
	}
	g.cl.SetOffsets(to)
}
