package runtime

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/topology"
)

// alignEvery is how often tasks whose sources are aligned are told how far they may run.
const alignEvery = 100 * time.Millisecond

// markEvery is how often a task without records tells those below how far its clock is.
const markEvery = time.Second

// limit is up to which event time the records of an input may be processed, for the sake of its topic's other partitions.
type limit struct {
	input int
	at    int64
}

// hold lists the inputs that may not run ahead of others. Until they are told how far, they wait.
func (t *taskRun) hold() {
	for i := range t.inputs {
		if t.task.Drift(i) >= 0 {
			t.aligned = append(t.aligned, alignedInput{input: i, limit: math.MinInt64})
			t.task.SetLimit(i, math.MinInt64)
			t.floors[i].Store(math.MinInt64)
		}
	}
}

// alignedInput is an input that is aligned, and the limit it was told.
type alignedInput struct {
	input int
	limit int64
}

// watched reports whether the task has to be told how far the logs of its inputs reach: it has a use for idleness.
func (t *taskRun) watched() bool {
	s := t.sub
	return s.Watermarks && (len(t.inputs) > 1 || s.aligned() || slices.ContainsFunc(s.Sinks, func(k topology.Sink) bool { return k.Topic.Through && !k.Topic.Global }))
}

// tellFloors says where the aligned inputs stand. The worker calls it after each Step.
func (t *taskRun) tellFloors() {
	for i := range t.aligned {
		t.floors[t.aligned[i].input].Store(t.task.Floor(t.aligned[i].input))
	}
}

// align keeps the partitions of a topic together that this instance reads: none is processed beyond where the slowest of the others stands
// and the drift its strategy allows. What is held back stays in its queue, and its partition is paused as any other is whose task
// holds too much; the slowest is never held back, so there is always one that goes on.
func (r *Runtime) align(ctx context.Context) {
	if !slices.ContainsFunc(r.plan.subs, (*subPlan).aligned) {
		return
	}
	every(ctx, alignEvery, nil, func(context.Context) {
		g := r.group()
		if g == nil {
			return
		}
		byTopic := map[string][]*taskRun{}
		for _, run := range g.all() {
			if run.sub.aligned() && run.currentState() == taskRunning {
				for _, in := range run.inputs {
					byTopic[in.Topic] = append(byTopic[in.Topic], run)
				}
			}
		}
		for topic, runs := range byTopic {
			alignTopic(topic, runs)
		}
	})
}

func alignTopic(topic string, runs []*taskRun) {
	type standing struct {
		run *taskRun
		in  *alignedInput
		at  int64
	}
	var all []standing
	for _, run := range runs {
		for i := range run.aligned {
			if in := &run.aligned[i]; run.inputs[in.input].Topic == topic {
				all = append(all, standing{run, in, run.floors[in.input].Load()})
			}
		}
	}
	for i := range all {
		least := int64(math.MaxInt64)
		for j := range all {
			if j != i {
				least = min(least, all[j].at)
			}
		}
		s := &all[i]
		if at := task.Ahead(least, s.run.drift(s.in.input)); at != s.in.limit {
			s.in.limit = at
			s.run.worker.mail.send(message{run: s.run, limit: &limit{s.in.input, at}})
		}
	}
}

// drift is how far an input may run ahead, in milliseconds.
func (t *taskRun) drift(input int) int64 {
	return t.sub.Sources[t.inputs[input].Source].Watermark.Drift
}

// aligned reports whether a source of the subtopology is.
func (s *subPlan) aligned() bool {
	for i := range s.Sources {
		if w := s.Sources[i].Watermark; w != nil && w.Drift >= 0 {
			return true
		}
	}
	return false
}

// writers is, by source, the number of tasks that write it, where they send watermarks.
func (p *plan) writers(s *subPlan) []int32 {
	n := make([]int32, len(s.Sources))
	for i := range s.Sources {
		if s.Sources[i].InBand {
			for _, up := range p.subs {
				if up.Subtopology.Name == s.Sources[i].Writer {
					n[i] = up.tasks
				}
			}
		}
	}
	return n
}
