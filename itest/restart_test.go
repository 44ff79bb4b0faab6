package itest

import (
	"os"
	"slices"
	"testing"
)

// TestStateComesBackFromTheChangelog deletes the state directory between two runs: the store is restored from the
// changelog alone, and counting goes on where it was.
func TestStateComesBackFromTheChangelog(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "restore", 4, "in", "audit", "out")
		feed := newFeeder(t, addrs, f.topic("in"), 300, 1)
		f.start("a")
		feed.feed(20_000)
		f.reach("in", feed.total())
		f.stopAll()
		f.require(f.verdict(100))

		if err := os.RemoveAll(f.state("a")); err != nil {
			t.Fatal(err)
		}
		f.forgetDumps()
		a := f.start("a")
		rows := int64(0)
		a.until("all 4 stores are restored", func(events []Event) bool {
			n := 0
			rows = 0
			for _, e := range events {
				if e.Event == "restored" && e.Store == "counts" {
					n++
					rows += e.Records
				}
			}
			return n >= f.parts
		})
		a.running()
		if rows < 300 {
			t.Errorf("%d changelog records were read, there are at least 300 rows", rows)
		}
		// Nothing was fed: what the store holds now is what was restored.
		f.stopAll()
		f.require(f.verdict(100))

		f.start("a")
		feed.feed(5_000)
		f.reach("in", feed.total())
		f.finish()
		f.require(f.verdict(100))
	})
}

// TestKillCostsNoState kills an instance and starts it again on its state directory: nothing is wiped, and only the tail of the
// changelog is read again, whatever the size of the state: what was committed since the database was last durable, which is at
// most half a minute and about a million rows of a task ago.
func TestKillCostsNoState(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "tail", 2, "in", "audit", "out")
		feed := newFeeder(t, addrs, f.topic("in"), 20_000, 2)
		f.start("a")
		feed.feed(60_000)
		f.reach("in", feed.total())
		f.stopAll()

		a := f.start("a")
		feed.feed(2_000)
		f.reach("in", feed.total())
		feed.feed(1_000) // something is in flight when it dies
		a.kill()
		a.exit()
		f.live = nil
		a = f.start("a")
		f.reach("in", feed.total())
		var read int64
		for _, e := range a.history() {
			if e.Event == "restored" {
				read += e.Records
				if e.Rebuild {
					t.Errorf("%s was rebuilt from the start", e.Task)
				}
			}
		}
		t.Logf("%d changelog records were read again after kill -9, of a state of some 19,000 rows", read)
		if read > 3_000 {
			t.Errorf("%d changelog records were read again; at most 3,000 were written since it was last durable", read)
		}
		f.finish()
		f.require(f.verdict(100))
	})
}

// TestScaling goes from 1 to 3, 2 and 1 instances under load: nothing is lost or doubled, work really spreads, and a
// task returns to where its state is.
func TestScaling(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "scale", 6, "in", "audit", "out")
		feed := newFeeder(t, addrs, f.topic("in"), 400, 3)
		a := f.start("a")
		a.running()
		stop := feed.flow(2_000)
		f.reach("in", 2_000)

		b, c := f.start("b"), f.start("c")
		spread := func(want int, instances ...*instance) {
			t.Helper()
			for _, i := range instances {
				i.until("its share of the tasks and a commit", func(events []Event) bool {
					return len(i.tasks()) >= want && slices.ContainsFunc(events, func(e Event) bool { return e.Event == "commit" && e.Records > 0 })
				})
			}
			t.Logf("a %v, b %v, c %v", a.tasks(), b.tasks(), c.tasks())
		}
		spread(2, a, b, c)
		f.reach("in", f.done("in")+2_000)
		had := c.tasks()

		c.stop()
		spread(3, a, b)
		f.reach("in", f.done("in")+2_000)

		// c comes back to its state directory: it is given tasks whose state it has.
		c = f.start("c")
		spread(2, a, b, c)
		for _, task := range c.tasks() {
			if !slices.Contains(had, task) {
				t.Errorf("c has state of %v and was given %v", had, c.tasks())
				break
			}
		}
		f.reach("in", f.done("in")+2_000)

		c.stop()
		spread(3, a, b)
		b.stop()
		spread(6, a)
		stop()
		f.reach("in", feed.total())
		f.finish()
		f.require(f.verdict(100))
	})
}

// TestGracefulStopLeavesNothingToRestore stops and starts an instance: the second one reads nothing of the changelog.
func TestGracefulStopLeavesNothingToRestore(t *testing.T) {
	f := newFleet(t, embedded(t), "graceful", 2, "in", "audit", "out")
	feed := newFeeder(t, f.addrs, f.topic("in"), 20, 4)
	f.start("a")
	feed.feed(5_000)
	f.reach("in", feed.total())
	f.stopAll()
	a := f.start("a")
	feed.feed(100)
	f.reach("in", feed.total())
	for _, e := range a.history() {
		if e.Event == "restored" && e.Records > 0 {
			t.Errorf("%s %s: %d records were restored after a graceful stop", e.Task, e.Store, e.Records)
		}
	}
	f.finish()
	f.require(f.verdict(100))
}
