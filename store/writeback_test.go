package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/store"
)

func lateDB(t *testing.T, e store.Engine, cache int64) (*store.DB, *store.KV[int64, int64]) {
	t.Helper()
	db, err := store.Open(e, []store.Binding{{Spec: sums, Prefix: 1}}, store.Options{CacheBytes: cache})
	must(t, err)
	kv, err := sums.In(db)
	must(t, err)
	return db, kv
}

// ticks calls Tick until n write-backs are over.
func ticks(t *testing.T, db *store.DB, now, n int64) {
	t.Helper()
	watched(t, fmt.Sprintf("%d write-backs", n), func() {
		for db.Stats().WriteBacks < n {
			if err := db.Tick(now); err != nil {
				t.Error(err)
				return
			}
			runtime.Gosched()
		}
	})
}

// TestWriteBackByTime commits a row and lets time pass: it is durable after half a minute, without any other commit.
func TestWriteBackByTime(t *testing.T) {
	late := store.NewLate(rand.New(rand.NewPCG(1, 1)))
	db, kv := lateDB(t, late, 0)
	must(t, db.Tick(1_000_000))
	must(t, kv.Put(1, 1))
	must(t, db.Apply(db.Seal(), []byte("one")))
	must(t, db.Tick(1_029_000))
	if _, ok, err := late.Get(nil, []byte{0, 0, 1}); ok || err != nil {
		t.Fatalf("written before its time: %v", err)
	}
	if s := db.Stats(); s.WriteBacks != 0 || s.Tail != 1 || s.DirtyBytes == 0 {
		t.Errorf("%+v", s)
	}
	ticks(t, db, 1_030_000, 1)
	must(t, db.SetCheckpoint([]byte("one, later"))) // the same again, for a checkpoint alone
	ticks(t, db, 1_060_000, 2)
	if s := db.Stats(); s.Tail != 0 || s.DirtyBytes != 0 {
		t.Errorf("%+v", s)
	}
	again, kv := lateDB(t, late.Crash(), 0)
	if row, ok, err := again.Checkpoint(); string(row) != "one, later" || !ok || err != nil {
		t.Errorf("after a crash: %q %v %v", row, ok, err)
	}
	if v, ok, err := kv.Get(1); v != 1 || !ok || err != nil {
		t.Errorf("after a crash: %d %v %v", v, ok, err)
	}
	must(t, again.Close())
	_ = db.Close() // of a process that is dead
}

// TestWriteBackByShare commits epochs in a small table: it never holds more than its limit and what it may owe.
func TestWriteBackByShare(t *testing.T) {
	const limit = 64 << 10
	db, kv := lateDB(t, store.NewLate(rand.New(rand.NewPCG(2, 2))), limit)
	for n := range int64(20_000) {
		must(t, kv.Put(n, n))
		if n%50 == 49 {
			must(t, db.Apply(db.Seal(), []byte(fmt.Sprint(n))))
			if s := db.Stats(); s.TableBytes > 2*limit {
				t.Fatalf("%d bytes in a table of %d", s.TableBytes, limit)
			}
		}
	}
	s := db.Stats()
	if s.WriteBacks < 20 || s.WriteBacks > 400 || s.Resident {
		t.Errorf("%+v", s)
	}
	for n := range int64(20_000) {
		if v, ok, err := kv.Get(n); v != n || !ok || err != nil {
			t.Fatalf("row %d: %d %v %v", n, v, ok, err)
		}
	}
	must(t, db.Close())
}

// TestWriteBackErrorIsTold lets a write-back fail: each of the calls that may come next says so, and goes on saying it.
func TestWriteBackErrorIsTold(t *testing.T) {
	for name, call := range map[string]func(*store.DB) error{
		"tick":       func(db *store.DB) error { return db.Tick(2_000_000) },
		"flush":      (*store.DB).Flush,
		"apply":      func(db *store.DB) error { return db.Apply(db.Seal(), nil) },
		"checkpoint": func(db *store.DB) error { return db.SetCheckpoint([]byte("two")) },
		"close":      (*store.DB).Close,
	} {
		t.Run(name, func(t *testing.T) {
			late := store.NewLate(rand.New(rand.NewPCG(3, 3)))
			db, kv := lateDB(t, late, 0)
			must(t, db.Tick(1_000_000))
			must(t, kv.Put(1, 1))
			must(t, db.Apply(db.Seal(), []byte("one")))
			late.Crash() // it takes nothing any more
			var err error
			watched(t, "the error", func() {
				for err = db.Tick(1_030_000); err == nil; err = db.Tick(1_030_000) {
					runtime.Gosched()
				}
			})
			if got := call(db); !errors.Is(got, err) {
				t.Errorf("%v, want %v", got, err)
			}
			if v, ok, err := kv.Get(1); name != "close" && (v != 1 || !ok || err != nil) {
				t.Errorf("the committed row: %d %v %v", v, ok, err)
			}
			_ = db.Close() // told already
		})
	}
}

// TestWarm opens a database that has rows: once they are read the engine is not asked for what does not exist, unless
// there is no room for them.
func TestWarm(t *testing.T) {
	fs := vfs.NewMem()
	const rows = 2000
	for round, cache := range []int64{1 << 20, 1 << 20, 16 << 10} {
		e, err := store.OpenPebbleOn(fs, "db", small)
		must(t, err)
		db, kv := lateDB(t, e, cache)
		if round == 0 {
			for n := range int64(rows) {
				must(t, kv.Put(n, n))
			}
			must(t, db.Apply(db.Seal(), []byte("filled")))
			must(t, db.Close())
			continue
		}
		must(t, db.Warm())
		fits := cache > 1<<19
		if s := db.Stats(); s.Resident != fits || s.TableBytes > cache {
			t.Errorf("table of %d bytes: %+v", cache, s)
		}
		for n := range int64(2 * rows) {
			if v, ok, err := kv.Get(n); ok != (n < rows) || ok && v != n || err != nil {
				t.Fatalf("row %d: %d %v %v", n, v, ok, err)
			}
		}
		if n := kv.ApproximateLen(); fits && n != rows {
			t.Errorf("%d rows, want %d", n, rows)
		}
		must(t, db.Apply(db.Seal(), nil))
		if s := db.Stats(); fits && s.Misses != 0 || !fits && s.Misses == 0 {
			t.Errorf("table of %d bytes: %+v", cache, s)
		}
		must(t, db.Close())
	}
}
