package runtime

import (
	goruntime "runtime"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
)

// TestFlowAgrees pauses and resumes one input from two goroutines, as the poll loop and a worker do: what the task believes
// and what the client does must not come apart, or the partition stands still for ever.
func TestFlowAgrees(t *testing.T) {
	cl, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	rt := &Runtime{budget: budget{retained: 1 << 20}}
	g := &group{rt: rt, cl: cl, own: newOwnership(func() (string, int32) { return "m", 1 })}
	id := processor.TaskID{Subtopology: "s"}
	incarnation, _ := g.own.assign(id)
	run := &taskRun{id: id, incarnation: incarnation, inputs: []task.Input{{Topic: "in"}}, worker: &worker{}}
	run.paused = make([]atomic.Bool, 1)

	// Both wait for the same moment without sleeping, so that they really meet.
	var turn, done atomic.Int64
	go func() { // the worker gets rid of everything
		for n := int64(1); n <= rounds; n++ {
			for turn.Load() < n {
				goruntime.Gosched()
			}
			run.pending.Store(0)
			g.relax(run)
			done.Store(n)
		}
	}()
	for n := int64(1); n <= rounds; n++ {
		run.pending.Store(10 << 20)
		turn.Store(n)
		g.tighten(run, 0) // the poll loop has brought too much
		for done.Load() < n {
			goruntime.Gosched()
		}
		if believed, really := run.paused[0].Load(), len(cl.PauseFetchPartitions(nil)) > 0; believed || really {
			t.Fatalf("round %d: the task holds nothing, and is paused: believed %t, by the client %t", n, believed, really)
		}
	}
}

const rounds = 300_000
