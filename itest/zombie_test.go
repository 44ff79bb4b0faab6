package itest

import (
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/itest/oracle"
)

// TestFrozenInstanceIsFenced stops an instance for longer than its session while another takes over and goes on. When it
// wakes up it still believes it owns its tasks and has a transaction in hand: it must be fenced, discard, rejoin, and the
// result is exact.
func TestFrozenInstanceIsFenced(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "frozen", 4, "in", "audit", "out")
		feed := newFeeder(t, addrs, f.topic("in"), 200, 5)
		a, b := f.start("a"), f.start("b")
		stop := feed.flow(2_000)
		for _, i := range []*instance{a, b} {
			i.until("two tasks and a commit", func(events []Event) bool {
				return len(i.tasks()) == 2 && slices.ContainsFunc(events, func(e Event) bool { return e.Event == "commit" && e.Records > 0 })
			})
		}
		a.freeze()
		asleep := len(a.history())
		b.until("b has all 4 tasks", func([]Event) bool { return len(b.tasks()) == 4 })
		f.reach("in", f.done("in")+4_000)
		a.thaw()
		a.after(asleep, "a runs tasks again", func(e Event) bool { return e.Event == "task" && e.To == "running" })
		f.reach("in", f.done("in")+2_000)
		stop()
		f.reach("in", feed.total())
		f.finish()
		f.require(f.verdict(100))
	})
}

// TestOpenTransactionOfTheDead kills instances that hold an open transaction, whose timeout is a minute away. Those who
// take over abort it: committed output of the dead one's tasks flows again within a second of the rebalance's end.
func TestOpenTransactionOfTheDead(t *testing.T) {
	const bound = time.Second
	addrs := realKafka(t)
	f := newFleet(t, addrs, "dead", 4, "in", "audit", "out")
	feed := newFeeder(t, addrs, f.topic("in"), 200, 6)
	b := f.start("b")
	b.running()
	stop := feed.flow(1_000)
	witness, err := oracle.Watch(addrs, f.topic("audit"))
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	var took []time.Duration
	for range 3 {
		// a commits only every 20 s: it is always in the middle of a transaction.
		a := f.start("a", "-commit", "20s")
		var tasks []string
		a.until("two tasks", func([]Event) bool { tasks = a.tasks(); return len(tasks) == 2 })
		f.awaitOpen("a")
		heard := len(b.history())
		a.kill()
		died := time.Now()
		a.exit()
		end := b.after(heard, "b is given the tasks of the dead", func(e Event) bool {
			return e.Event == "rebalance" && len(e.Assigned) > 0
		})
		owed := map[int32]bool{}
		for _, task := range tasks {
			owed[partitionOf(t, task)] = true
		}
		var flows time.Time
		if err := witness.Await(f.ctx(), func(seen []oracle.Sighting) bool {
			left := len(owed)
			again := map[int32]bool{}
			for _, s := range seen {
				if s.At.After(died) && owed[s.Partition] && !again[s.Partition] {
					again[s.Partition] = true
					flows = s.At
					left--
				}
			}
			return left == 0
		}); err != nil {
			t.Fatalf("no output of %v after the rebalance: %v\n%s", tasks, err, b.tail())
		}
		took = append(took, flows.Sub(end.At))
		t.Logf("a died with an open transaction on %v: rebalance ended after %v, committed output of both flowed %v later",
			tasks, end.At.Sub(died).Round(time.Millisecond), flows.Sub(end.At).Round(time.Millisecond))
	}
	slices.Sort(took)
	t.Logf("committed output flows again after the rebalance's end: %v", took)
	if took[1] > bound {
		t.Errorf("the median is %v, want at most %v", took[1], bound)
	}
	stop()
	f.live = []*instance{b}
	f.reach("in", feed.total())
	f.finish()
	f.require(f.verdict(100))
}
