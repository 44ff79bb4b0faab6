package itest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestTermAtAnyInstant ends an instance gracefully at random instants of its life, its first moments included, and hurries it with
// a second signal: the exit code is 0 every time, and the result is exact.
func TestTermAtAnyInstant(t *testing.T) {
	f := newFleet(t, embedded(t), "term", 3, "in", "audit", "out")
	feed := newFeeder(t, f.addrs, f.topic("in"), 50, 12)
	random := rand.New(rand.NewPCG(12, 1))
	stop := feed.flow(3_000)
	steady := f.start("steady")
	steady.running()
	for range 25 {
		i := f.start("a")
		// Its first words: before them the process has not even asked for the signal.
		i.after(0, "it starts", func(e Event) bool { return e.Event == "start" })
		f.instant(random, i)
		i.terminate()
		if random.IntN(3) == 0 {
			i.terminate()
		}
		if code := i.exit(); code != 0 {
			t.Fatalf("exit code %d after SIGTERM\n%s", code, i.tail())
		}
	}
	stop()
	f.live = []*instance{steady}
	f.reach("in", feed.total())
	f.finish()
	f.require(f.verdict(100))
}

// TestTwoOfOneName starts two processes under one instance name, each with a state directory of its own, as a copied machine
// would: they fence each other. One of them stops and says so; the other one goes on, and the result is exact.
func TestTwoOfOneName(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "twins", 4, "in", "audit", "out")
		feed := newFeeder(t, addrs, f.topic("in"), 50, 13)
		stop := feed.flow(1_000)
		one := f.start("a")
		one.running()
		two := f.start("a", "-state", f.state("copy"))
		ended := func() *instance {
			for _, i := range []*instance{one, two} {
				if !i.alive() {
					return i
				}
			}
			return nil
		}
		bound, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for ended() == nil {
			select {
			case <-bound.Done():
				t.Fatalf("both go on\n%s%s", one.tail(), two.tail())
			case <-time.After(50 * time.Millisecond):
			}
		}
		gone := ended()
		last := gone.history()[len(gone.history())-1]
		if code := gone.exit(); code != 4 || last.Fault != "group/duplicate-instance" || !strings.Contains(last.Err, "process") {
			t.Errorf("exit code %d, %+v", code, last)
		}
		other := one
		if gone == one {
			other = two
		}
		stop()
		f.live = []*instance{other}
		f.reach("in", feed.total())
		f.finish()
		f.require(f.verdict(100))
	})
}

// TestSettingsDoNotShow runs the same kind of input through other settings: workers, commit intervals, memory, epochs that
// overlap or not, stores in memory that are restored at each start; each with an instance that is killed at random instants and
// another one that is asked to end. What comes out does not depend on any of them.
func TestSettingsDoNotShow(t *testing.T) {
	for _, settings := range [][]string{
		{"-workers", "1", "-commit", "10ms"},
		{"-workers", "1", "-commit", "10ms", "-pipelining=false"},
		{"-workers", "5", "-commit", "1s"},
		{"-workers", "5", "-commit", "1s", "-pipelining=false"},
		{"-workers", "2", "-memory-limit", "100000000"},
		{"-workers", "2", "-memory-limit", "100000000", "-commit", "25ms", "-pipelining=false"},
		{"-memory", "-state", ""},
	} {
		t.Run(strings.Join(settings, " "), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, embedded(t), "settings", 5, "in", "audit", "out")
			feed := newFeeder(t, f.addrs, f.topic("in"), 100, 14)
			random := rand.New(rand.NewPCG(14, 1)) // restart points
			for round := range 3 {
				a, b := f.start("a", settings...), f.start("b", settings...)
				feed.feed(5_000)
				if round > 0 { // the first time it dies while it starts
					f.instant(random, a)
				}
				if round == 1 {
					a.stop()
				} else {
					a.kill()
					a.exit()
				}
				f.reach("in", feed.total())
				f.live = []*instance{b}
				f.finish()
			}
			f.require(f.verdict(100))
		})
	}
}

// TestInputWithAbortedTransactions: the input is written in transactions of which every other one is aborted. What was aborted is
// no input; the offsets have holes and markers.
func TestInputWithAbortedTransactions(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		f := newFleet(t, addrs, "aborted", 2, "in", "audit", "out")
		cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.TransactionalID(f.app+"-writer"), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		a := f.start("a")
		for n := range 20 {
			f.must(cl.BeginTransaction())
			for i := range 200 {
				cl.Produce(f.ctx(), &kgo.Record{Topic: f.topic("in"), Key: fmt.Appendf(nil, "k%d", i%15), Value: asked(int32(n))}, nil)
			}
			f.must(cl.Flush(f.ctx()))
			// kgo may not know yet that a new topic's records are written, and would abort (docs/design/0004).
			f.must(cl.AbortBufferedRecords(f.ctx()))
			f.must(cl.EndTransaction(f.ctx(), kgo.TransactionEndTry(n%2 == 0)))
			if n == 11 {
				a.kill()
				a.exit()
				a = f.start("a")
			}
		}
		f.live = []*instance{a}
		_, high, err := f.cluster.Ends(f.ctx(), f.topic("in"))
		f.must(err)
		// The last transaction was aborted: its records and its marker are behind the last record that counts.
		var end int64
		for p := range high {
			end += high[p]
		}
		last := int64(0)
		log := f.read(f.topic("in"))[0]
		for p := range log.Partitions {
			if n := len(log.Partitions[p].Records); n > 0 {
				last += log.Partitions[p].Records[n-1].Offset + 1
			}
		}
		if log.Len() != 2_000 || last >= end {
			t.Fatalf("%d records up to %d of %d: the test is about 2000 with others behind", log.Len(), last, end)
		}
		f.reach("in", last)
		f.finish()
		f.require(f.verdict(100))
	})
}
