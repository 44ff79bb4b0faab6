package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace-io/millrace/serde"
)

// counted is an engine that counts how it is read, and can be told to fail.
type counted struct {
	Engine
	gets, sorted int
	fail         error
}

func (c *counted) Get(dst, key []byte) ([]byte, bool, error) {
	c.gets++
	return c.Engine.Get(dst, key)
}

func (c *counted) ReadSorted(keys [][]byte, each func(i int, value []byte, ok bool) bool) error {
	if c.fail != nil {
		return c.fail
	}
	c.sorted += len(keys)
	return c.Engine.(SortedReader).ReadSorted(keys, each)
}

// openCounted is a Pebble database with n committed rows, opened anew with a cache of so many bytes.
func openCounted(t testing.TB, n int, cache int64) (*DB, *KV[string, int64], *counted) {
	t.Helper()
	dir := t.TempDir()
	open := func() (*DB, *KV[string, int64], *counted) {
		e, err := OpenPebble(dir, PebbleOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := &counted{Engine: e}
		db, err := Open(c, []Binding{{tally, 1}}, Options{CacheBytes: cache})
		if err != nil {
			t.Fatal(err)
		}
		kv, err := tally.In(db)
		if err != nil {
			t.Fatal(err)
		}
		return db, kv, c
	}
	db, _, _ := open()
	rows := make([]Mutation, n)
	for i := range rows {
		value, _ := serde.Int64().Append(nil, int64(i))
		rows[i] = Mutation{Key: wantedKey(i), Value: AppendRow(nil, value, 1)}
	}
	if err := db.Restore("tally", rows, []byte("checkpoint")); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, kv, c := open()
	t.Cleanup(func() { _ = db.Close() })
	return db, kv, c
}

func wantedKey(i int) []byte { return fmt.Appendf(nil, "key-%06d", i) }

// Rows that were prefetched are read without the engine, absent ones too, and twice wanted is once read.
func TestPrefetch(t *testing.T) {
	const rows = 20_000
	db, kv, c := openCounted(t, rows, 256<<10)
	if db.Resident() {
		t.Fatal("20,000 rows in 256 KiB are not resident")
	}
	var w Wanted
	rnd := rand.New(rand.NewPCG(1, 2))
	const batches, batch = 100, 300
	c.gets = 0
	for range batches {
		var picks []int
		for range batch {
			picks = append(picks, rnd.IntN(rows+rows/10))
		}
		for _, i := range picks {
			kv.Want(&w, string(wantedKey(i)))
		}
		wanted := w.Len()
		if err := db.Prefetch(&w); err != nil {
			t.Fatal(err)
		}
		if w.Len() != 0 {
			t.Fatal("the list was not emptied")
		}
		if wanted == 0 || wanted > len(picks) {
			t.Fatalf("%d rows wanted of %d", wanted, len(picks))
		}
		for _, i := range picks {
			got, ok, err := kv.Get(string(wantedKey(i)))
			if err != nil || ok != (i < rows) || ok && got != int64(i) {
				t.Fatal(i, got, ok, err)
			}
		}
	}
	if c.gets > batches*batch/500 {
		t.Errorf("%d rows of %d were read from the engine one by one, want next to none", c.gets, batches*batch)
	}
	if c.sorted == 0 {
		t.Error("nothing was read in order")
	}
}

// A list that does not fit is read as far as it fits.
func TestPrefetchBounded(t *testing.T) {
	db, kv, c := openCounted(t, 20_000, 64<<10)
	var w Wanted
	for i := range 5000 {
		kv.Want(&w, string(wantedKey(i)))
	}
	before := db.table.bytes()
	if room := db.Room(&w); room != 0 {
		t.Fatalf("there is room for %d rows beside 5,000 in a quarter of 64 KiB", room)
	}
	if err := db.Prefetch(&w); err != nil {
		t.Fatal(err)
	}
	if room := db.Room(&w); room < 50 || room > 500 {
		t.Errorf("there is room for %d rows in 16 KiB", room)
	}
	if grown := db.table.bytes() - before; grown == 0 || grown > 64<<10*3/8 {
		t.Errorf("the table grew by %d bytes, want about a quarter of its limit", grown)
	}
	for i := range 5000 {
		if got, ok, err := kv.Get(string(wantedKey(i))); err != nil || !ok || got != int64(i) {
			t.Fatal(i, got, ok, err)
		}
	}
	if c.gets == 0 || c.gets == 5000 {
		t.Errorf("%d rows of 5,000 were read one by one", c.gets)
	}
}

// A row that was written after it was wanted, which should not happen, stays as it was written.
func TestPrefetchAfterWrite(t *testing.T) {
	db, kv, _ := openCounted(t, 100, 1<<20)
	var w Wanted
	for i := range 20 {
		kv.Want(&w, string(wantedKey(i)))
	}
	if err := kv.Put(string(wantedKey(7)), 99); err != nil {
		t.Fatal(err)
	}
	if err := db.Prefetch(&w); err != nil {
		t.Fatal(err)
	}
	if db.table.rows != 20 {
		t.Errorf("the table has %d rows of 20 keys", db.table.rows)
	}
	if got, ok, err := kv.Get(string(wantedKey(7))); err != nil || !ok || got != 99 {
		t.Fatal(got, ok, err)
	}
}

// An engine that cannot be read fails the prefetch and leaves the table alone.
func TestPrefetchFails(t *testing.T) {
	db, kv, c := openCounted(t, 100, 64<<10)
	var w Wanted
	for i := range 20 {
		kv.Want(&w, string(wantedKey(i)))
	}
	if w.Len() == 0 {
		t.Fatal("a row of a database that was just opened is in memory already")
	}
	c.fail = errors.New("told to fail")
	if err := db.Prefetch(&w); !errors.Is(err, c.fail) {
		t.Fatal(err)
	}
	if w.Len() != 0 || db.table.rows != 0 {
		t.Error("a failed prefetch left something behind")
	}
	if got, ok, err := kv.Get(string(wantedKey(7))); err != nil || !ok || got != 7 {
		t.Fatal(got, ok, err)
	}
}

// Where most of what is wanted is not read, wanting stops for a while and then is tried again.
func TestPrefetchPays(t *testing.T) {
	var a ahead
	wanted := func(n, of int) (yes int) {
		for i := range n {
			if a.pays() {
				yes++
			}
			if i%of == 0 {
				a.asked++
			}
		}
		return yes
	}
	if got := wanted(3*aheadWindow, 1); got != 3*aheadWindow {
		t.Errorf("every row is read, and %d of %d were wanted", got, 3*aheadWindow)
	}
	if got := wanted(aheadWindow+aheadPause, 10); got != aheadWindow {
		t.Errorf("a tenth of the rows is read, and %d of %d were wanted", got, aheadWindow+aheadPause)
	}
	if got := wanted(2*aheadWindow, 1); got != 2*aheadWindow {
		t.Errorf("all rows are read again, and %d of %d were wanted", got, 2*aheadWindow)
	}
}

// Whatever happens between prefetches (writes, deletes, rollbacks, epochs sealed, applied and discarded, rows evicted), a
// reader sees its own task's newest rows: never the engine's in place of one not yet committed, never a deleted one.
func TestPrefetchShowsNothingStale(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			const rows = 400
			db, kv, c := openCounted(t, rows, 16<<10) // room for about a third
			rnd := rand.New(rand.NewPCG(seed, 3))
			type state map[int]int64
			committed := state{}
			for i := range rows {
				committed[i] = int64(i)
			}
			var sealed []*Epoch
			var after []state // of each sealed epoch
			clone := func(s state) state {
				n := state{}
				for k, v := range s {
					n[k] = v
				}
				return n
			}
			now := clone(committed) // what the task sees
			check := func(i int) {
				t.Helper()
				got, ok, err := kv.Get(string(wantedKey(i)))
				want, there := now[i]
				if err != nil || ok != there || got != want {
					t.Fatalf("row %d is %d, %v (%v), want %d, %v", i, got, ok, err, want, there)
				}
			}
			var w Wanted
			for step := range 6000 {
				switch op := rnd.IntN(20); {
				case op < 8: // a batch: prefetch, then a few records, some of which fail
					picks := make([]int, 1+rnd.IntN(30))
					for j := range picks {
						picks[j] = rnd.IntN(rows + 50)
						kv.Want(&w, string(wantedKey(picks[j])))
					}
					if err := db.Prefetch(&w); err != nil {
						t.Fatal(err)
					}
					for _, i := range picks {
						db.Savepoint()
						check(i)
						before, was := now[i]
						if rnd.IntN(3) == 0 {
							if _, _, err := kv.Delete(string(wantedKey(i))); err != nil {
								t.Fatal(err)
							}
							delete(now, i)
						} else {
							v := rnd.Int64()
							if err := kv.Put(string(wantedKey(i)), v); err != nil {
								t.Fatal(err)
							}
							now[i] = v
						}
						check(i)
						if rnd.IntN(4) == 0 {
							db.Rollback()
							if delete(now, i); was {
								now[i] = before
							}
							check(i)
						}
					}
				case op < 14:
					check(rnd.IntN(rows + 50))
				case op < 17 && len(sealed) < 3:
					db.Savepoint()
					sealed, after = append(sealed, db.Seal()), append(after, clone(now))
				case op < 19 && len(sealed) > 0:
					if err := db.Apply(sealed[0], []byte("checkpoint")); err != nil {
						t.Fatal(err)
					}
					committed, sealed, after = after[0], sealed[1:], after[1:]
				case op == 19 && step%3 == 0:
					db.Discard()
					sealed, after = nil, nil
					now = clone(committed)
				}
			}
			for i := range rows + 50 {
				check(i)
			}
			if c.sorted == 0 {
				t.Error("nothing was prefetched")
			}
		})
	}
}

// BenchmarkPrefetch counts random keys of a state that is much larger than the table, in batches of 1,000: one Get each, or one pass of the engine per batch.
func BenchmarkPrefetch(b *testing.B) {
	const rows = 1_000_000
	db, kv, c := openCounted(b, rows, 4<<20)
	for _, ahead := range []bool{false, true} {
		b.Run(map[bool]string{false: "get", true: "prefetch"}[ahead], func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(1, 1))
			var w Wanted
			picks := make([]string, 1000)
			c.gets = 0
			b.ResetTimer()
			n := 0
			for batch := 0; n < b.N; batch++ {
				for i := range picks {
					picks[i] = string(wantedKey(rnd.IntN(rows)))
				}
				if ahead {
					for _, k := range picks {
						kv.Want(&w, k)
					}
					if err := db.Prefetch(&w); err != nil {
						b.Fatal(err)
					}
				}
				for _, k := range picks {
					db.Savepoint()
					v, _, err := kv.Get(k)
					if err != nil {
						b.Fatal(err)
					}
					if err := kv.Put(k, v+1); err != nil {
						b.Fatal(err)
					}
				}
				n += len(picks)
				if batch%5 == 4 {
					db.Discard() // writing the rows back is another matter, and another benchmark
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(c.gets)/float64(n), "gets/record")
		})
	}
}
