package itest

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStaticRestartInPlace kills static members with state, one after the other so that the leader is among them, and starts
// them again: they have their tasks back long before their session ends, and the survivor's tasks see nothing of it. On Kafka
// the survivor as a whole sees nothing; the embedded broker makes a rebalance of it, since it compares all that members say.
func TestStaticRestartInPlace(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		quiet := strings.HasSuffix(t.Name(), "/kafka")
		f := newFleet(t, addrs, "static", 4, "in", "audit", "out")
		const session = 12 * time.Second
		f.args = append(f.args, "-static", "-session", session.String())
		feed := newFeeder(t, addrs, f.topic("in"), 5_000, 1)
		live := map[string]*instance{"a": f.start("a"), "b": f.start("b")}
		for _, i := range live {
			i.until("half of the tasks", func([]Event) bool { return len(live["a"].tasks()) == 2 && len(live["b"].tasks()) == 2 })
		}
		stop := feed.flow(1_500)
		for _, name := range []string{"a", "b", "a"} {
			other := map[string]string{"a": "b", "b": "a"}[name]
			had := live[name].tasks()
			live[name].after(len(live[name].history()), "a commit", progress)
			heard := len(live[other].history())
			killed := time.Now()
			live[name].kill()
			live[name].exit()
			live[name] = f.start(name)
			live[name].until("its tasks run", func([]Event) bool { return slices.Equal(live[name].tasks(), had) })
			first := live[name].after(0, "a commit", progress)
			took := first.At.Sub(killed)
			t.Logf("%s: kill -9 to the next committed output of its tasks: %v", name, took.Round(time.Millisecond))
			if took > session/2 {
				t.Errorf("%s took %v: half of the session timeout", name, took)
			}
			live[other].after(heard, "a commit of the survivor's", progress)
			for _, e := range live[other].history()[heard:] {
				if e.Event == "task" || quiet && (e.Event == "rebalance" || e.Event == "state") {
					t.Errorf("%s saw %s was restarted: %+v", other, name, e)
				}
			}
		}
		stop()
		f.live = []*instance{live["a"], live["b"]}
		f.reach("in", feed.total())

		// A member that stops does not leave: its tasks run nowhere until its session is over.
		tasks := live["a"].tasks()
		heard := len(live["b"].history())
		live["a"].stop()
		stopped := time.Now()
		feed.feed(500)
		got := live["b"].after(heard, "the tasks of the member that stopped", func(e Event) bool {
			return e.Event == "task" && e.To == "running" && slices.Contains(tasks, e.Task)
		})
		if waited := got.At.Sub(stopped); waited < session/2 {
			t.Errorf("%s ran at its new owner after %v, the session timeout is %v", got.Task, waited, session)
		}
		f.reach("in", feed.total())
		live["b"].stop()
		f.live = nil
		f.require(f.verdict(100))
	})
}

// TestStaticTwins starts a second process under the name of one that is frozen with an open transaction: it takes over tasks and
// group membership at once, the transaction is ended, and the first one ends when it wakes, naming itself.
func TestStaticTwins(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "twins", 2, "in", "audit", "out")
		f.args = append(f.args, "-static", "-session", "12s")
		feed := newFeeder(t, addrs, f.topic("in"), 100, 2)
		first := f.start("a", "-commit", "2s")
		first.running()
		stop := feed.flow(500)
		f.awaitOpen("a")
		first.freeze()
		frozen := time.Now()
		second := f.start("a", "-state", f.state("elsewhere"))
		e := second.after(0, "a commit", progress)
		if took := e.At.Sub(frozen); took > 6*time.Second {
			t.Errorf("the second one committed after %v: half of the first one's session", took)
		}
		first.thaw()
		if code := first.exit(); code != 4 {
			t.Errorf("exit code %d, want 4\n%s", code, first.tail())
		}
		said := first.after(0, "why it ended", func(e Event) bool { return e.Event == "exit" })
		if said.Fault != "group/duplicate-instance" {
			t.Errorf("ended with %q: %s", said.Fault, said.Err)
		}
		stop()
		f.live = []*instance{second}
		f.reach("in", feed.total())
		f.forgetDumps() // of the first one, which had to let go
		f.finish()
		f.require(f.verdict(100))
	})
}

// TestStaticComesBackChanged restarts a static member with more to say than before: another guarantee than the group has. It is
// given its tasks back unseen, asks for a plan, and is refused; the other goes on.
func TestStaticComesBackChanged(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "changed", 2, "in", "audit", "out")
		f.args = append(f.args, "-static")
		feed := newFeeder(t, addrs, f.topic("in"), 100, 3)
		a, b := f.start("a"), f.start("b")
		f.settle()
		feed.feed(1_000)
		f.reach("in", feed.total())
		a.kill()
		if code := a.exit(); code != -int(syscall.SIGKILL) {
			t.Fatalf("ended with %d", code)
		}
		a = f.start("a", guarantee, atLeastOnce)
		if code := a.exit(); code != 2 {
			t.Errorf("exit code %d, want 2\n%s", code, a.tail())
		}
		if said := a.after(0, "why it ended", func(e Event) bool { return e.Event == "exit" }); said.Fault != "group/mixed-guarantees" {
			t.Errorf("ended with %q: %s", said.Fault, said.Err)
		}
		f.live = []*instance{b}
		feed.feed(1_000)
		f.reach("in", feed.total())
		f.finish()
		f.requireAtLeastOnce()
	})
}

// progress is an epoch with records that was committed.
func progress(e Event) bool { return e.Event == "commit" && e.Records > 0 }
