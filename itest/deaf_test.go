package itest

import (
	"os"
	"slices"
	"testing"
)

// TestDeafHandler: a handler that does not come back and listens to nobody keeps its worker, and with it the databases of tasks
// that are taken away from the instance and given back to it, twice. None of them may be opened before the worker has let go of
// them; the member stays in the group all the time; and what the handler did in the end is discarded.
func TestDeafHandler(t *testing.T) {
	s := newScene(t, "")
	gate := s.path("gate")
	a := s.start("a", "-hold", gate)
	s.feed.feed(200)
	s.reach("in", s.feed.total())
	s.feed.put("hold", asked(1))
	a.after(0, "the handler holds", func(e Event) bool { return e.Event == "holding" })
	open := s.path("open")
	s.must(os.WriteFile(open, nil, 0o600))
	for range 2 {
		b := s.start("b", "-hold", open)
		b.until("b has a task", func([]Event) bool { return len(b.tasks()) == 1 })
		moved := b.tasks()
		heard := len(a.history())
		b.stop()
		a.after(heard, "a is given the task back", func(e Event) bool {
			return e.Event == "rebalance" && slices.Equal(e.Assigned, moved)
		})
	}
	if !a.alive() {
		t.Fatalf("a ended while its handler was busy\n%s", a.tail())
	}
	s.must(os.WriteFile(gate, nil, 0o600))
	s.reach("in", s.feed.total())
	s.live = []*instance{a}
	s.finish()
	s.require(s.verdict(10))
}
