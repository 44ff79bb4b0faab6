package timers_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
)

// fill puts n timers into an engine, one millisecond after another from 1 on, for keys of 16 bytes.
func fill(t testing.TB, e store.Engine, n int) {
	t.Helper()
	const batch = 10_000
	var b store.Batch
	value := store.AppendRow(nil, nil, 0)
	for i := range n {
		key := ordkey.AppendInt64([]byte{0, 7}, int64(i+1))
		b.Set(ordkey.AppendString(key, keyOf(i)), value)
		if len(b.Mutations) == batch || i == n-1 {
			if err := e.Apply(&b); err != nil {
				t.Fatal(err)
			}
			b.Reset()
		}
	}
}

func keyOf(i int) string { return fmt.Sprintf("key-%012d", i) }

// counting counts what is asked of an engine.
type counting struct {
	store.Engine
	reads counts
}

type counts struct{ gets, scans, rows int }

func (c *counting) Get(dst, key []byte) ([]byte, bool, error) {
	c.reads.gets++
	return c.Engine.Get(dst, key)
}

func (c *counting) Iter(lower, upper []byte, reverse bool) (store.EngineIter, error) {
	c.reads.scans++
	it, err := c.Engine.Iter(lower, upper, reverse)
	return &countingIter{it, c}, err
}

type countingIter struct {
	store.EngineIter
	c *counting
}

func (i *countingIter) Next() bool {
	i.c.reads.rows++
	return i.EngineIter.Next()
}

// What an operation reads does not depend on how many timers are pending.
func TestCostIsOfTheDue(t *testing.T) {
	const due, commit = 5000, 1000
	measure := func(pending int) map[string]counts {
		e := &counting{Engine: store.NewMemory()}
		fill(t, e.Engine, pending)
		db, set := openQueue(t, e)
		q := set.Queue()
		read := map[string]counts{}
		var front []byte
		during := func(what string, n int, f func(i int)) {
			e.reads = counts{}
			for i := range n {
				db.Savepoint()
				q.Savepoint()
				f(i)
				if (i+1)%commit == 0 {
					front = q.Front()
					if err := db.Apply(db.Seal(), nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			read[what] = e.reads
		}
		take := func(clock int64, want bool) {
			if _, ok, err := q.Take(clock); ok != want || err != nil {
				t.Fatalf("took at %d: %v, %v", clock, ok, err)
			}
		}
		during("look", 1, func(int) { take(0, false) })
		during("advance, nothing due", due, func(int) { take(0, false) })
		during("set", due, func(i int) {
			if err := set.Set(keyOf(i), time.UnixMilli(int64(pending+i))); err != nil {
				t.Fatal(err)
			}
		})
		during("delete", due, func(i int) {
			if err := set.Delete(keyOf(i), time.UnixMilli(int64(pending+i))); err != nil {
				t.Fatal(err)
			}
		})
		during("fire", due/2, func(i int) { take(int64(pending), true) })
		during("undone", due/2, func(i int) {
			take(int64(pending), true)
			db.Rollback()
			q.Rollback()
		})
		take(int64(pending), true)
		db.Discard()
		q.Discard(front)
		during("look again after a discard", 1, func(int) { take(int64(pending), true) })
		return read
	}
	few, many := measure(10_000), measure(1_000_000)
	for what, n := range many {
		if n != few[what] {
			t.Errorf("%s: reads %+v with 1,000,000 pending, %+v with 10,000", what, n, few[what])
		}
	}
	for what, most := range map[string]counts{
		"look":                       {scans: 1, rows: 257},
		"advance, nothing due":       {},
		"set":                        {gets: due},
		"delete":                     {gets: due},
		"fire":                       {gets: due / 2, scans: due/2/256 + 1, rows: due/2 + 2*257},
		"undone":                     {gets: due / 2, scans: 2, rows: 2 * 257},
		"look again after a discard": {gets: 1, scans: 1, rows: 257},
	} {
		if got := many[what]; got.gets > most.gets || got.scans > most.scans || got.rows > most.rows {
			t.Errorf("%s: reads %+v, want at most %+v", what, got, most)
		}
	}
	t.Log(many)
}

// pendingQueue is an engine with a million timers, and a queue over it.
func pendingQueue(b *testing.B, engine string, n int) (*store.DB, *timers.Set[string]) {
	b.Helper()
	e := store.NewMemory()
	if engine == "pebble" {
		var err error
		if e, err = store.OpenPebble(b.TempDir(), store.PebbleOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	fill(b, e, n)
	if err := e.Flush(); err != nil {
		b.Fatal(err)
	}
	db, set := openQueue(b, e)
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return db, set
}

// epochs runs f b.N times, with a savepoint before each and a commit after every ten thousand.
func epochs(b *testing.B, db *store.DB, q *timers.Queue, f func(i int) error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		db.Savepoint()
		q.Savepoint()
		if err := f(i); err != nil {
			b.Fatal(err)
		}
		if i%10_000 == 9_999 {
			if err := db.Apply(db.Seal(), nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkTimers: what one operation costs with a million pending.
func BenchmarkTimers(b *testing.B) {
	const pending = 1_000_000
	names := make([]string, 4096)
	for i := range names {
		names[i] = keyOf(i)
	}
	for _, engine := range []string{"memory", "pebble"} {
		b.Run("register/"+engine, func(b *testing.B) {
			db, set := pendingQueue(b, engine, pending)
			epochs(b, db, set.Queue(), func(i int) error {
				return set.Set(names[i%len(names)], time.UnixMilli(int64(pending/2+i*7)))
			})
		})
		b.Run("fire/"+engine, func(b *testing.B) {
			db, set := pendingQueue(b, engine, max(pending, b.N))
			epochs(b, db, set.Queue(), func(i int) error {
				d, ok, err := set.Queue().Take(1 << 40)
				if ok && err == nil {
					_, err = set.Fired(d)
				}
				return err
			})
		})
		b.Run("advance/"+engine, func(b *testing.B) {
			db, set := pendingQueue(b, engine, pending)
			epochs(b, db, set.Queue(), func(i int) error {
				_, _, err := set.Queue().Take(0)
				return err
			})
		})
	}
	// A restart after nine of ten timers have fired: where the first of the rest is found.
	b.Run("restart/pebble", func(b *testing.B) {
		e, err := store.OpenPebble(b.TempDir(), store.PebbleOptions{})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, e, pending)
		db, set := openQueue(b, &closeless{e})
		for i := range pending * 9 / 10 {
			if _, ok, err := set.Queue().Take(1 << 40); !ok || err != nil {
				b.Fatal(ok, err)
			}
			if i%10_000 == 9_999 {
				if err := db.Apply(db.Seal(), nil); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for range b.N {
			db, set := openQueue(b, &closeless{e})
			if at, ok, err := set.Queue().Head(); !ok || at != pending*9/10+1 || err != nil {
				b.Fatal(at, ok, err)
			}
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
	})
}

type closeless struct{ store.Engine }

func (*closeless) Close() error { return nil }
