package itest

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/itest/oracle"
)

const (
	guarantee   = "-guarantee"
	atLeastOnce = "at_least_once"
	exactlyOnce = "exactly_once"
)

// TestAtLeastOnceKills kills instances under at-least-once, at random instants and at named points: every input record is in
// the audit, some of them several times; no key counts less than it came; and state and changelog agree.
func TestAtLeastOnceKills(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 1))
		f := newFleet(t, addrs, "alo", 4, "in", "audit", "out")
		// The embedded broker waits for a leader that died after a rebalance for as long as a rebalance may take, and here several
		// die in a row.
		f.args = append(f.args, guarantee, atLeastOnce, "-rebalance", "15s")
		feed := newFeeder(t, addrs, f.topic("in"), 300, seed)
		live := map[string]*instance{"a": f.start("a"), "b": f.start("b")}
		for _, i := range live {
			i.running()
		}
		stop := feed.flow(1_500)
		points := []chaos.Point{chaos.MidProcess, chaos.AfterFlush, chaos.AfterOffsets, chaos.BeforeApply, chaos.AfterFlush}
		for round, point := range points {
			name := []string{"a", "b"}[random.IntN(2)]
			f.reach("in", f.done("in")+1)
			f.instant(random, live[name])
			live[name].kill()
			live[name].exit()
			if round%2 == 0 {
				passing := 1 + random.IntN(3)
				if point == chaos.MidProcess {
					passing = 1 + random.IntN(300)
				}
				armed := f.start(name, fmt.Sprintf("MILLRACE_CRASH_AT=%s:%d", point, passing))
				if code := armed.exit(); code != -int(syscall.SIGKILL) {
					t.Fatalf("%s, which should have died at %s:%d, ended with %d\n%s", name, point, passing, code, armed.tail())
				}
			}
			live[name] = f.start(name)
		}
		stop()
		f.live = []*instance{live["a"], live["b"]}
		f.reach("in", feed.total())
		f.finish()
		if twice := f.requireAtLeastOnce(); twice == 0 {
			t.Error("nothing came twice: an instance died between writing and committing, so the test shows nothing")
		}
	})
}

// TestAtLeastOnceCleanStops stops and starts instances properly: then at-least-once is exact.
func TestAtLeastOnceCleanStops(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "aloclean", 4, "in", "audit", "out")
		f.args = append(f.args, guarantee, atLeastOnce)
		feed := newFeeder(t, addrs, f.topic("in"), 300, 5)
		a := f.start("a")
		a.running()
		stop := feed.flow(1_500)
		f.reach("in", 1_000)
		b := f.start("b")
		b.running()
		f.settle()
		f.reach("in", f.done("in")+1_000)
		a.stop()
		f.reach("in", f.done("in")+1_000)
		stop()
		f.reach("in", feed.total())
		f.finish()
		if n := len(f.openTransactions()); n != 0 {
			t.Errorf("%d transactions are open", n)
		}
		f.require(f.verdict(100))
	})
}

// TestSwitchOfGuarantee changes the guarantee at a full stop, there and back, with the last stop before each switch a kill: what
// was written under exactly-once is exact on the other side; what was written at least once and not committed is taken as
// that by a process that promises more, and not refused as offsets that somebody moved.
func TestSwitchOfGuarantee(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "switch", 2, "in", "audit", "out")
		feed := newFeeder(t, addrs, f.topic("in"), 100, 6)
		die := func(promise string, at chaos.Point) {
			t.Helper()
			i := f.start("a", guarantee, promise, "-static", fmt.Sprintf("MILLRACE_CRASH_AT=%s:3", at))
			i.running()
			for i.alive() {
				feed.feed(50)
			}
			if code := i.exit(); code != -int(syscall.SIGKILL) {
				t.Fatalf("ended with %d\n%s", code, i.tail())
			}
			f.live = nil
		}
		die(exactlyOnce, chaos.AfterFlush) // a transaction is left open
		f.start("a", guarantee, atLeastOnce, "-static")
		feed.feed(500)
		f.reach("in", feed.total())
		f.finish()
		f.require(f.verdict(100))
		f.forgetDumps()

		for _, at := range []chaos.Point{chaos.AfterFlush, chaos.AfterOffsets} {
			die(atLeastOnce, at)
			f.start("a", guarantee, exactlyOnce, "-static")
			feed.feed(500)
			f.reach("in", feed.total())
			f.finish()
			f.requireAtLeastOnce()
			f.forgetDumps()
		}
		f.start("a", guarantee, exactlyOnce)
		feed.feed(100)
		f.reach("in", feed.total())
		f.finish()
		f.requireAtLeastOnce()
	})
}

// TestMixedGuarantees starts an instance that promises something else than the group it joins: it is told so and ends, and
// the group goes on.
func TestMixedGuarantees(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "mixed", 2, "in", "audit", "out")
		feed := newFeeder(t, addrs, f.topic("in"), 50, 7)
		a := f.start("a")
		a.running()
		feed.feed(500)
		f.reach("in", feed.total())
		b := f.start("b", guarantee, atLeastOnce)
		if code := b.exit(); code != 2 {
			t.Errorf("exit code %d, want 2\n%s", code, b.tail())
		}
		if said := b.after(0, "why it ended", func(e Event) bool { return e.Event == "exit" }); said.Fault != "group/mixed-guarantees" {
			t.Errorf("ended with %q", said.Fault)
		}
		feed.feed(500)
		f.reach("in", feed.total())
		if !a.alive() {
			t.Errorf("the one that was there ended too\n%s", a.tail())
		}
		f.finish()
		f.require(f.verdict(100))
	})
}

// requireAtLeastOnce checks what the count workload promises under at-least-once, after clean stops at the end, and returns how
// many records of the audit are there again.
func (f *fleet) requireAtLeastOnce() (again int64) {
	f.t.Helper()
	if err := f.cluster.AwaitSettled(f.ctx(), f.topic("audit"), f.topic("out"), f.changelog("counts"), f.app+"-tasks"); err != nil {
		f.t.Fatal(err)
	}
	logs := f.read(f.topic("in"), f.topic("audit"), f.changelog("counts"), f.app+"-tasks")
	in, audit, changes, tasks := logs[0], logs[1], logs[2], logs[3]
	group := f.committed("in")
	fold := oracle.Fold(in, func(n int64, _ []byte) int64 { return n + 1 })
	restored, decodes := oracle.Changelog(changes, rowKey, int64Value)
	recorded, records := oracle.TaskCommits(tasks, in.Topic, len(in.Partitions))
	reflected, again := reflectedAtLeastOnce(in, audit)
	state := f.dumped()
	f.require(oracle.Verdicts{
		oracle.Settled(audit, changes, tasks),
		oracle.Drained(in, oracle.Offsets(group)),
		reflected,
		noneLess(fold, state),
		decodes,
		oracle.Same("the changelog's fold equals the store", state, restored),
		records,
		oracle.Commits(in, group, recorded),
	})
	f.t.Logf("%d of %d records came again", again, in.Len())
	return again
}

// reflectedAtLeastOnce checks that every input record is named by an output, and that no output names anything else.
func reflectedAtLeastOnce(input, output *oracle.Log) (v *oracle.Verdict, again int64) {
	v = &oracle.Verdict{Check: fmt.Sprintf("every record of %s is in %s at least once", input.Topic, output.Topic)}
	named := map[oracle.Origin]int64{}
	for p := range input.Partitions {
		for _, r := range input.Partitions[p].Records {
			named[oracle.Origin{Topic: input.Topic, Partition: int32(p), Offset: r.Offset}] = 0
		}
	}
	for p := range output.Partitions {
		for _, r := range output.Partitions[p].Records {
			o, err := oracle.ParseOrigin(r.Headers)
			if _, input := named[o]; err != nil || !input {
				v.Wrong++
				v.First = append(v.First, fmt.Sprintf("@%d comes from %+v, which is no input: %v", r.Offset, o, err))
				continue
			}
			named[o]++
		}
	}
	for o, n := range named {
		v.Seen++
		if n == 0 {
			v.Wrong++
			v.First = append(v.First, fmt.Sprintf("%s/%d@%d is lost", o.Topic, o.Partition, o.Offset))
		}
		again += max(0, n-1)
	}
	v.First = v.First[:min(len(v.First), 8)]
	return v, again
}

// noneLess checks that every key has at least its count.
func noneLess(fold, state map[string]int64) *oracle.Verdict {
	v := &oracle.Verdict{Check: "no key of the store counts less than it came"}
	for k, n := range fold {
		v.Seen++
		if state[k] < n {
			v.Wrong++
			v.First = append(v.First, fmt.Sprintf("key %q: %d, came %d times", k, state[k], n))
		}
	}
	v.First = v.First[:min(len(v.First), 8)]
	return v
}
