package task

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// announcer is a graph that notes in which order records come to it.
type announcer struct {
	host topology.Host
	took []string
	fail string
}

func (g *announcer) Timestamp(int, *topology.Raw) (int64, error) { return 0, nil }

func (g *announcer) Process(_ int, r *topology.Raw, _ int64) error {
	if g.fail == string(r.Value) {
		return &topology.NodeError{Node: 0, Name: "n", Op: "process", Err: errTold}
	}
	g.took = append(g.took, string(r.Value))
	return nil
}

func (g *announcer) Close() error { return nil }

// listening is a task with one ordinary input and a broadcast topic.
func listening(t *testing.T, start Start, id byte, policy processor.Policy) (*Task, *announcer, error) {
	t.Helper()
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: counted, Prefix: 1}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := &announcer{}
	w := wiring{
		sources: []topology.Source{{Topic: topology.TopicRef{Name: "rules"}, Broadcast: "counts"}, {Topic: topology.TopicRef{Name: "lines"}}},
		nodes:   []topology.NodeInfo{{Name: "n", Policy: policy}},
		wire: func(h topology.Host) (graph, error) {
			g.host = h
			return g, nil
		},
	}
	task, err := newTask(Config{
		Context: context.Background(), ID: processor.TaskID{Subtopology: "counts"}, App: "app", DB: db,
		Inputs: []Input{{Source: 1, Topic: "lines"}, {Source: 0, Topic: "rules", Broadcast: "counts", TopicID: [16]byte{id}}},
	}, start, w)
	return task, g, err
}

func step(t *testing.T, task *Task) Result {
	t.Helper()
	r, err := task.Step(100, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBroadcastOrder(t *testing.T) {
	task, g, err := listening(t, Start{StreamTime: -1}, 1, processor.Fail())
	if err != nil {
		t.Fatal(err)
	}
	const lines, rules = 0, 1
	task.SetEnd(lines, 2)
	put(task, lines, raw(0, 10, "k", "line 0"), raw(1, 20, "k", "line 1"))
	wants := func(what string, r Result, want ...string) {
		t.Helper()
		if !slices.Equal(g.took, want) {
			t.Errorf("%s: it took %q, want %q", what, g.took, want)
		}
		if r.More {
			t.Errorf("%s: More", what)
		}
		g.took = nil
	}
	wants("the end is not known", step(t, task))
	if !task.Starting() {
		t.Error("it is not starting")
	}
	task.SetEnd(rules, 3)
	wants("nothing has come", step(t, task))
	put(task, rules, raw(0, 99, "r", "rule 0"))
	wants("not all has come", step(t, task), "rule 0")
	put(task, rules, raw(1, 5, "r", "rule 1"))
	task.SetEnd(rules, 1000) // the end of the start is what counts
	wants("a marker is missing", step(t, task), "rule 1")
	task.Enqueue(Batch{Input: rules, Next: 3})
	wants("all is there", step(t, task), "line 0", "line 1")
	if task.Starting() || task.StreamTime() != 20 {
		t.Errorf("starting %v, stream time %d", task.Starting(), task.StreamTime())
	}
	task.SetEnd(lines, 3)
	put(task, rules, raw(7, 1, "r", "rule 7"))
	wants("no line is waited for", step(t, task), "rule 7")
	put(task, lines, raw(2, 1, "k", "line 2"))
	put(task, rules, raw(8, 1000, "r", "rule 8"))
	wants("rules come first", step(t, task), "rule 8", "line 2")

	// Undone, all of it comes again, rules first; committed, the position is in the state.
	task.Discard()
	wants("again", step(t, task), "rule 0", "rule 1", "rule 7", "rule 8", "line 0", "line 1", "line 2")
	e := task.Seal()
	if len(e.Offsets) != 1 || e.Offsets[0].Topic != "lines" || e.Offsets[0].Offset != 3 {
		t.Errorf("offsets %+v", e.Offsets)
	}
	if err := task.Committed(e, nil); err != nil {
		t.Fatal(err)
	}

	next, _, err := listening(t, Start{StreamTime: e.StreamTime, State: e.State}, 1, processor.Fail())
	if err != nil {
		t.Fatal(err)
	}
	if at := next.Positions(); at[rules] != 9 {
		t.Errorf("it goes on from %d, want 9", at[rules])
	}
	if again := next.Seal().State; !bytes.Equal(again, e.State) {
		t.Errorf("it keeps %x, want %x", again, e.State)
	}
	if _, _, err := listening(t, Start{StreamTime: -1, State: e.State}, 2, processor.Fail()); fault.Code(err) != "topic/recreated" {
		t.Errorf("another topic of that name: %v", err)
	}
	for n := range len(e.State) {
		if n > 0 {
			_, _, _ = listening(t, Start{StreamTime: -1, State: e.State[:n]}, 1, processor.Fail()) // an error, or less of it; no panic
		}
	}
}

func TestBroadcastRetry(t *testing.T) {
	task, g, err := listening(t, Start{StreamTime: -1}, 0, processor.Retry(1, 1, processor.Skip()))
	if err != nil {
		t.Fatal(err)
	}
	task.SetEnd(0, 1)
	task.SetEnd(1, 2)
	g.fail = "rule 0"
	put(task, 0, raw(0, 1, "k", "line 0"))
	put(task, 1, raw(0, 1, "r", "rule 0"), raw(1, 1, "r", "rule 1"))
	step(t, task)
	if len(g.took) > 0 {
		t.Errorf("it took %q while a rule is tried again", g.took)
	}
	task.Tick(task.Now() + 1000)
	step(t, task)
	if want := []string{"rule 1", "line 0"}; !slices.Equal(g.took, want) {
		t.Errorf("it took %q, want %q", g.took, want)
	}
}

func TestBroadcastInputsAreLast(t *testing.T) {
	if _, err := ordinary([]Input{{Topic: "rules", Broadcast: "r"}, {Topic: "lines"}}); err == nil {
		t.Error("an ordinary input behind a broadcast one was accepted")
	}
}
