package itest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/millrace-io/millrace/itest/oracle"
)

// TestEosRebalance and TestEosFailureAndRecovery are Kafka's EosTest, simple topology: a generator runs all the time,
// instances come and go, and at the end echo, running minimum and running sum are compared with a replay of the
// committed input, record for record. A commit interval of one second makes sure that a kill leaves a transaction open.
func TestEosRebalance(t *testing.T) {
	eos(t, func(e *eosRun) {
		e.start("p1")
		e.start("p2")
		e.start("p3")
		e.stop("p1")
		e.start("p1")
		e.stop("p2")
	})
}

// TestEosFailureAndRecovery is the scenario with kills; p1 keeps its state directory between its runs.
func TestEosFailureAndRecovery(t *testing.T) {
	eos(t, func(e *eosRun) {
		e.start("p1")
		e.start("p2")
		e.start("p3")
		e.kill("p1")
		e.start("p1")
		e.kill("p1")
		e.start("p1")
		e.kill("p2")
	})
}

type eosRun struct {
	*fleet
	byName map[string]*instance
}

// start runs an instance and waits until every live one has seen the rebalance through and processed records.
func (e *eosRun) start(name string) {
	e.t.Helper()
	e.t.Logf("start %s", name)
	e.byName[name] = e.fleet.start(name, "-workload", "eos", "-commit", "1s", "-workers", "1")
	e.byName[name].running()
	e.settle()
}

func (e *eosRun) stop(name string) {
	e.t.Helper()
	e.t.Logf("clean stop of %s", name)
	e.byName[name].stop()
	delete(e.byName, name)
	e.settle()
}

func (e *eosRun) kill(name string) {
	e.t.Helper()
	e.t.Logf("kill -9 of %s", name)
	e.byName[name].kill()
	e.byName[name].exit()
	delete(e.byName, name)
	e.settle()
}

// settle waits until all partitions are owned by the live instances and each of them has committed records since.
func (e *eosRun) settle() {
	e.t.Helper()
	for name, i := range e.byName {
		i.until("its share of the tasks", func([]Event) bool {
			owned := 0
			for _, other := range e.byName {
				owned += len(other.tasks())
			}
			return owned == e.parts && len(i.tasks()) >= e.parts/len(e.byName)
		})
		heard := len(i.history())
		i.after(heard, "records processed and committed by "+name, func(ev Event) bool { return ev.Event == "commit" && ev.Records > 0 })
	}
}

func eos(t *testing.T, scenario func(*eosRun)) {
	addrs := realKafka(t)
	f := newFleet(t, addrs, "eos", 5, "data", "echo", "min", "sum")
	feed := newFeeder(t, addrs, f.topic("data"), 20_000, 9)
	feed.value = func(r *rand.Rand, _ int64) int32 { return r.Int32N(10_000) }
	stop := feed.flow(1_000)
	e := &eosRun{f, map[string]*instance{}}
	scenario(e)
	f.live = nil
	for _, name := range []string{"p2", "p3", "p1"} { // in this order, while the generator goes on
		if i := e.byName[name]; i != nil {
			f.live = append(f.live, i)
		}
	}
	f.stopAll()
	stop()

	if err := f.cluster.AwaitSettled(f.ctx(), f.topic("echo"), f.topic("min"), f.topic("sum"), f.changelog("min"), f.changelog("sum"), f.app+"-tasks"); err != nil {
		t.Fatal(err)
	}
	logs := f.read(f.topic("data"), f.topic("echo"), f.topic("min"), f.topic("sum"), f.changelog("min"), f.changelog("sum"), f.app+"-tasks")
	data := logs[0]
	group := f.committed("data")
	cut := data.Upto(oracle.Offsets(group))
	t.Logf("%d of %d records were committed", cut.Len(), data.Len())
	if cut.Len() < data.Len()/2 || cut.Len() == data.Len() {
		t.Errorf("%d of %d records were committed: the generator should have been ahead, and not by half", cut.Len(), data.Len())
	}
	mins, ok1 := oracle.Changelog(logs[4], rowKey, int32Value)
	sums, ok2 := oracle.Changelog(logs[5], rowKey, int64Value)
	recorded, ok3 := oracle.TaskCommits(logs[6], data.Topic, len(data.Partitions))
	f.require(oracle.Verdicts{
		oracle.Settled(logs[1:]...),
		oracle.Replay(cut, logs[1], func(s struct{}, value []byte) (struct{}, []byte, bool) { return s, value, true }),
		oracle.Replay(cut, logs[2], func(s least, value []byte) (least, []byte, bool) {
			s = s.with(value)
			return s, binary.BigEndian.AppendUint32(nil, uint32(s.min)), true
		}),
		oracle.Replay(cut, logs[3], func(sum int64, value []byte) (int64, []byte, bool) {
			sum = add(sum, value)
			return sum, binary.BigEndian.AppendUint64(nil, uint64(sum)), true
		}),
		ok1, ok2, ok3,
		oracle.Same("the changelog of min equals the fold of the input", oracle.Fold(cut, func(s least, value []byte) least { return s.with(value) }), asLeast(mins)),
		oracle.Same("the changelog of sum equals the fold of the input", oracle.Fold(cut, add), sums),
		oracle.Commits(data, group, recorded),
	})
}

// least is a running minimum; the zero least has seen nothing.
type least struct {
	seen bool
	min  int32
}

func (l least) with(value []byte) least {
	if !l.seen {
		l = least{true, math.MaxInt32}
	}
	l.min = min(l.min, int32(binary.BigEndian.Uint32(value)))
	return l
}

func asLeast(m map[string]int32) map[string]least {
	all := make(map[string]least, len(m))
	for k, v := range m {
		all[k] = least{true, v}
	}
	return all
}

func add(sum int64, value []byte) int64 { return sum + int64(int32(binary.BigEndian.Uint32(value))) }
