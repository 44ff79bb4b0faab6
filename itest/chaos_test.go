package itest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/itest/oracle"
)

// storm is a run in which instances are killed.
type storm struct {
	name    string
	args    []string
	records int64 // at least
	rate    int   // records per second while there are kills
	keys    int
	parts   int
	kills   int // at random instants
	points  int // at named points
	verdict func(f *fleet) oracle.Verdicts
}

// TestKillsAtAnyInstant is the promise under kill -9: three instances count 200,000 records and are killed at random
// instants and at every named point of an epoch's life, and frozen and woken in between, while a witness reads what is
// committed. At the end the outputs,
// the store and its changelog are what a plain map makes of the input, and every input record is in the audit once.
func TestKillsAtAnyInstant(t *testing.T) {
	storm{
		name: "chaos", records: 200_000, rate: 2_000, keys: 500, parts: 6, kills: 30, points: 2 * len(chaos.Points),
		verdict: func(f *fleet) oracle.Verdicts { return f.verdict(100) },
	}.rage(t)
}

// TestKillsAcrossARepartition is the same, shorter, for an application in two parts with a repartition topic between them:
// what is input to the second part are the transactions of the first.
func TestKillsAcrossARepartition(t *testing.T) {
	storm{
		name: "regroup", args: []string{"-workload", "regroup"}, records: 40_000, rate: 1_500, keys: 1_000, parts: 4, kills: 8, points: len(chaos.Points),
		verdict: (*fleet).regrouped,
	}.rage(t)
}

func (s storm) rage(t *testing.T) {
	addrs := realKafka(t)
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("MILLRACE_ITEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("MILLRACE_ITEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))

	f := newFleet(t, addrs, s.name, s.parts, "in", "audit", "out")
	f.args = append(f.args, s.args...)
	witness, err := oracle.Watch(addrs, f.topic("out"), f.topic("audit"))
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	feed := newFeeder(t, addrs, f.topic("in"), s.keys, seed)
	names := []string{"a", "b", "c"}
	live := map[string]*instance{}
	for _, name := range names {
		live[name] = f.start(name)
	}
	for _, i := range live {
		i.running()
	}
	stop := feed.flow(s.rate)

	began := time.Now()
	killed, pointed, froze, done := 0, 0, 0, int64(0)
	var frozen *instance
	thaw := func() {
		if frozen != nil {
			frozen.thaw()
			frozen = nil
		}
	}
	for round := 0; killed < s.kills || pointed < s.points; round++ {
		// Half of the rounds let the survivors go on first; the others strike while they still sort themselves out.
		if round%2 == 0 {
			f.reach("in", done+1)
		}
		done = f.done("in")
		name := names[random.IntN(len(names))]
		victim := live[name]
		f.instant(random, victim)
		if frozen == nil && random.IntN(4) == 0 {
			frozen = live[names[random.IntN(len(names))]]
			frozen.freeze()
			froze++
		} else if random.IntN(2) == 0 {
			thaw()
		}
		if victim == frozen {
			frozen = nil // the dead need not be woken
		}
		victim.kill()
		killed++
		if code := victim.exit(); code != -int(syscall.SIGKILL) {
			t.Fatalf("%s ended by itself with %d\n%s", name, code, victim.tail())
		}
		if pointed < s.points && (random.IntN(2) == 0 || s.kills-killed <= s.points-pointed) {
			point := chaos.Points[pointed%len(chaos.Points)]
			passing := 1 + random.IntN(4)
			if point == chaos.MidProcess || point == chaos.AfterPoll {
				passing = 1 + random.IntN(400)
			}
			armed := f.start(name, fmt.Sprintf("MILLRACE_CRASH_AT=%s:%d", point, passing))
			if code := armed.exit(); code != -int(syscall.SIGKILL) {
				t.Fatalf("%s, which should have died at %s:%d, ended with %d\n%s", name, point, passing, code, armed.tail())
			}
			pointed++
		}
		live[name] = f.start(name)
		t.Logf("%4.0fs %2d killed at random instants, %2d at named points, %2d frozen, %6d of %6d records committed, witness saw %d",
			time.Since(began).Seconds(), killed, pointed, froze, done, feed.total(), len(witness.Seen()))
	}
	thaw()
	stop()
	if rest := s.records - feed.total(); rest > 0 {
		feed.feed(int(rest))
	}
	t.Logf("the storm took %v; %d records were written", time.Since(began).Round(time.Second), feed.total())
	f.live = []*instance{live["a"], live["b"], live["c"]}
	f.reach("in", feed.total())
	audited := func(seen []oracle.Sighting) bool {
		n := int64(0)
		for _, s := range seen {
			if s.Topic == f.topic("audit") {
				n++
			}
		}
		return n >= feed.total()
	}
	if err := witness.Await(f.ctx(), audited); err != nil {
		t.Errorf("the witness did not see every record come out: %v", err)
	}
	f.finish()

	verdicts := s.verdict(f)
	logs := f.read(f.topic("audit"), f.topic("out"))
	if err := witness.Await(f.ctx(), func(seen []oracle.Sighting) bool { return len(seen) >= logs[0].Len()+logs[1].Len() }); err != nil {
		t.Errorf("the witness did not see the end: %v", err)
	}
	for _, l := range logs {
		verdicts = append(verdicts, oracle.Witnessed(l, witness.Seen()))
	}
	f.require(verdicts)
	t.Logf("%d kills at random instants, %d at named points, %d freezes, %d records, seed %d", killed, pointed, froze, feed.total(), seed)
}

// regrouped checks everything the regroup workload left behind.
func (f *fleet) regrouped() oracle.Verdicts {
	f.t.Helper()
	through := f.app + "-by-group-repartition"
	topics := []string{f.topic("in"), f.topic("audit"), f.topic("out"), f.changelog("counts"), f.app + "-tasks", through}
	if err := f.cluster.AwaitSettled(f.ctx(), topics...); err != nil {
		f.t.Fatal(err)
	}
	logs := f.read(topics...)
	in, audit, out, changes, tasks, between := logs[0], logs[1], logs[2], logs[3], logs[4], logs[5]
	groupIn := f.committed("in")
	groupBetween, err := f.cluster.Committed(f.ctx(), f.app, through, len(between.Partitions))
	if err != nil {
		f.t.Fatal(err)
	}
	cut := in.Upto(oracle.Offsets(groupIn))
	counted := cut.Rekey(func(r oracle.Record) []byte { return fmt.Appendf(nil, "g%d", binary.BigEndian.Uint32(r.Value)%300) })
	fold := oracle.Fold(counted, func(n int64, _ []byte) int64 { return n + 1 })
	restored, decodes := oracle.Changelog(changes, rowKey, int64Value)
	recorded, records := oracle.TaskCommits(tasks, through, len(between.Partitions))
	return oracle.Verdicts{
		oracle.Settled(logs[1:]...),
		oracle.Drained(in, oracle.Offsets(groupIn)),
		oracle.Drained(between, oracle.Offsets(groupBetween)),
		oracle.Provenance(cut, audit),
		oracle.Milestones(counted, audit, 1),
		oracle.Milestones(counted, out, 100),
		decodes,
		oracle.Same("the changelog's fold equals the fold of the input", fold, restored),
		oracle.Same("the store equals the fold of the input", fold, f.dumped()),
		records,
		oracle.Commits(between, groupBetween, recorded),
	}
}

// instant waits for a random instant in the life of i: some commits from now, or some time, whichever comes first.
func (f *fleet) instant(random *rand.Rand, i *instance) {
	commits, now := random.IntN(6), len(i.history())
	wait := time.NewTimer(time.Duration(random.Int64N(int64(900 * time.Millisecond))))
	defer wait.Stop()
	for {
		i.mu.Lock()
		events, changed, ended := i.events, i.changed, i.ended
		i.mu.Unlock()
		n := 0
		for _, e := range events[now:] {
			if e.Event == "commit" {
				n++
			}
		}
		if ended || n > commits {
			return
		}
		select {
		case <-changed:
		case <-wait.C:
			return
		}
	}
}
