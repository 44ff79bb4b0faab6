package timers_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
)

var gaps = timers.New("gaps", serde.String(), timers.EventTime)

// engines are the two that state lives in, by name.
var engines = []struct {
	name string
	open func(t testing.TB) func() store.Engine // opens it again where it was left
}{
	{"memory", func(testing.TB) func() store.Engine {
		kept := &keptEngine{store.NewMemory()}
		return func() store.Engine { return kept }
	}},
	{"pebble", func(t testing.TB) func() store.Engine {
		dir := t.TempDir()
		return func() store.Engine {
			e, err := store.OpenPebble(dir, store.PebbleOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
	}},
}

// keptEngine is a memory engine that outlives its database.
type keptEngine struct{ store.Engine }

func (*keptEngine) Close() error { return nil }

func openQueue(t testing.TB, engine store.Engine) (*store.DB, *timers.Set[string]) {
	t.Helper()
	db, err := store.Open(engine, []store.Binding{{Spec: gaps, Prefix: 7}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := gaps.In(db)
	if err != nil {
		t.Fatal(err)
	}
	return db, set
}

// timer is one of the model.
type timer struct {
	at  int64
	key string
	ns  string
}

func (a timer) compare(b timer) int {
	switch {
	case a.at != b.at:
		return int(a.at - b.at)
	case a.key != b.key:
		return bytes.Compare([]byte(a.key), []byte(b.key))
	}
	return bytes.Compare([]byte(a.ns), []byte(b.ns))
}

// model is a set of timers as anybody would write it.
type model map[timer]bool

func (m model) sorted() []timer {
	var all []timer
	for x := range m {
		all = append(all, x)
	}
	slices.SortFunc(all, timer.compare)
	return all
}

func (m model) clone() model {
	c := model{}
	for x := range m {
		c[x] = true
	}
	return c
}

// queueTest drives a queue and its model.
type queueTest struct {
	t      *testing.T
	rnd    *rand.Rand
	reopen func() store.Engine
	db     *store.DB
	set    *timers.Set[string]
	q      *timers.Queue

	now, saved model
	sealed     []sealedEpoch
	committed  sealedEpoch
	times      int64 // the widest time
	log        []string
	order      []timer // now, sorted; nil if that has changed
}

type sealedEpoch struct {
	e     *store.Epoch
	rows  model
	front []byte
}

func (q *queueTest) do(format string, args ...any) {
	q.log = append(q.log, fmt.Sprintf(format, args...))
	if len(q.log) > 40 {
		q.log = q.log[1:]
	}
}

func (q *queueTest) must(err error) {
	q.t.Helper()
	if err != nil {
		q.t.Fatalf("%v\n%v", err, q.log)
	}
}

func (q *queueTest) any() timer {
	return timer{q.rnd.Int64N(q.times), fmt.Sprintf("k\x00%d", q.rnd.IntN(5)), []string{"", "a", "b"}[q.rnd.IntN(3)]}
}

// savepoint, as the kernel does before everything that is undone as one.
func (q *queueTest) savepoint() {
	q.db.Savepoint()
	q.q.Savepoint()
	q.saved = q.now.clone()
}

func (q *queueTest) sorted() []timer {
	if q.order == nil {
		q.order = q.now.sorted()
	}
	return q.order
}

func (q *queueTest) step() {
	defer func() { q.order = nil }()
	switch n := q.rnd.IntN(100); {
	case n < 35:
		for range 1 + q.rnd.IntN(40) {
			x := q.any()
			q.do("set %v", x)
			q.must(q.set.SetIn(x.ns, x.key, time.UnixMilli(x.at)))
			q.now[x] = true
		}
	case n < 50:
		x := q.any()
		if all := q.sorted(); len(all) > 0 && q.rnd.IntN(3) > 0 {
			x = all[q.rnd.IntN(min(len(all), 1+q.rnd.IntN(300)))]
		}
		q.do("delete %v", x)
		q.must(q.set.DeleteIn(x.ns, x.key, time.UnixMilli(x.at)))
		delete(q.now, x)
	case n < 75:
		clock := q.rnd.Int64N(q.times)
		q.order = nil
		for range q.rnd.IntN(100) {
			if !q.take(clock) {
				break
			}
		}
	case n < 80:
		x := q.any()
		got, err := q.set.IsSetIn(x.ns, x.key, time.UnixMilli(x.at))
		q.must(err)
		if got != q.now[x] {
			q.t.Fatalf("IsSet %v: %v\n%v", x, got, q.log)
		}
	case n < 85:
		q.do("savepoint")
		q.savepoint()
	case n < 90:
		q.do("rollback")
		q.db.Rollback()
		q.q.Rollback()
		q.now = q.saved.clone()
		q.savepoint()
	case n < 93:
		q.do("seal")
		q.sealed = append(q.sealed, sealedEpoch{q.db.Seal(), q.now.clone(), q.q.Front()})
		q.savepoint()
	case n < 97:
		if len(q.sealed) > 0 {
			q.do("apply")
			q.must(q.db.Apply(q.sealed[0].e, nil))
			q.committed, q.sealed = q.sealed[0], q.sealed[1:]
		}
	case n < 99:
		q.do("discard")
		q.db.Discard()
		q.q.Discard(q.committed.front)
		q.now, q.sealed = q.committed.rows.clone(), nil
		q.savepoint()
	default:
		q.do("restart")
		q.must(q.db.Close())
		q.start()
	}
}

func (q *queueTest) start() {
	q.db, q.set = openQueue(q.t, q.reopen())
	q.q = q.set.Queue()
	q.now, q.sealed = q.committed.rows.clone(), nil
	q.committed.front = nil
	q.savepoint()
}

// take fires the earliest timer if it is due at clock.
func (q *queueTest) take(clock int64) bool {
	q.t.Helper()
	all := q.sorted()
	if at, ok, err := q.q.Head(); err != nil || len(all) > 0 && (!ok || at > all[0].at) {
		q.t.Fatalf("head %d, %v, %v; the first is %v\n%v", at, ok, err, all[0], q.log)
	}
	d, ok, err := q.q.Take(clock)
	q.must(err)
	due := len(all) > 0 && all[0].at <= clock
	if ok != due {
		q.t.Fatalf("take at %d: %v, want %v; %d pending\n%v", clock, ok, due, len(all), q.log)
	}
	if !due {
		return false
	}
	f, err := q.set.Fired(d)
	q.must(err)
	got := timer{f.At.UnixMilli(), f.Key, f.Namespace}
	q.do("took %v", got)
	if got != all[0] || f.Set != "gaps" || d.At != got.at {
		q.t.Fatalf("took %v of %s, want %v\n%v", got, f.Set, all[0], q.log)
	}
	delete(q.now, got)
	q.order = all[1:]
	return true
}

// A queue gives what a sorted map would, whatever is undone, in whichever epoch, and wherever it is started again.
func TestQueueAgainstMap(t *testing.T) {
	for _, e := range engines {
		for _, times := range []int64{40, 5_000} { // everything remembered, and a small part of it
			t.Run(fmt.Sprintf("%s/%d", e.name, times), func(t *testing.T) {
				q := &queueTest{t: t, rnd: rand.New(rand.NewPCG(uint64(times), 1)), reopen: e.open(t), times: times}
				q.start()
				for range 3000 {
					q.step()
				}
				for q.take(times) {
				}
				if len(q.now) > 0 {
					t.Errorf("%d timers are left", len(q.now))
				}
				if err := q.db.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
