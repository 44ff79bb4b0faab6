package store_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/store/storetest"
	"github.com/millrace-io/millrace/ttl"
)

// ttlStore is a task with one key-value store, on each engine.
func ttlStore(t *testing.T, p ttl.Policy, f func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string])) {
	t.Helper()
	for name, machine := range ttlEngines {
		t.Run(name, func(t *testing.T) {
			w := newTTLTask(t, storetest.NewTask(t, machine, store.Options{}, kvSpec(store.WithTTL(p))))
			f(t, w, func() *store.KV[string, string] {
				kv, err := kvSpec().In(w.DB)
				must(t, err)
				return kv
			})
		})
	}
}

func (w *ttlTask) fill(kv *store.KV[string, string], keys ...string) {
	w.t.Helper()
	for _, k := range keys {
		must(w.t, kv.Put(k, "v"))
	}
	w.Commit()
	must(w.t, w.DB.Flush())
}

// TestSweepCostsWhatIsDue counts what the index makes the clean-up look at: nothing that is alive.
func TestSweepCostsWhatIsDue(t *testing.T) {
	ttlStore(t, ttl.AfterWrite(1000*ms).Buckets(10*ms), func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string]) {
		w.fill(kv(), ids("old", 30)...)
		w.at(500)
		w.fill(kv(), ids("new", 1000)...)
		if done, more, err := w.DB.Sweep(5000); done != 0 || more || err != nil {
			t.Fatalf("nothing is due: %d %v %v", done, more, err)
		}
		if w.DB.Dirty() {
			t.Fatal("nothing was due, and there is something for the changelog")
		}
		w.at(1000)
		done, more, err := w.DB.Sweep(20)
		if done != 20 || !more || err != nil {
			t.Fatalf("%d %v %v", done, more, err)
		}
		if done, more, err = w.DB.Sweep(5000); done != 10 || more || err != nil {
			t.Fatalf("%d %v %v", done, more, err)
		}
		e := w.DB.Seal()
		n := 0
		must(t, e.Each(func(_ string, _, value []byte) error {
			if n++; value != nil {
				t.Error("a value")
			}
			return nil
		}))
		if n != 30 || e.Len() != 30 {
			t.Fatalf("%d tombstones, length %d: rows of ours do not belong into an epoch", n, e.Len())
		}
		total := int64(0)
		w.DB.EachExpired(func(name string, rows int64) {
			if name == "s" {
				total += rows
			}
		})
		if total != 30 {
			t.Errorf("%d expired", total)
		}
	})
}

// TestWalkIsPaced looks at how many rows a walk takes per record, and that it rests when nothing can have died.
func TestWalkIsPaced(t *testing.T) {
	ttlStore(t, ttl.AfterWrite(1000*ms).Sweep(5), func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string]) {
		w.fill(kv(), ids("row", 500)...)
		w.sweep(1000) // the first round
		if done, more, err := w.DB.Sweep(1000); done != 0 || more || err != nil {
			t.Fatalf("nothing can have died: %d %v %v", done, more, err)
		}
		for range 100 {
			w.DB.Savepoint()
		}
		if w.DB.SweepDue() {
			t.Fatal("nothing can have died, and a clean-up is due")
		}
		w.at(999)
		if w.DB.SweepDue() {
			t.Fatal("nothing can have died, and a clean-up is due")
		}
		w.at(1000)
		for i := range 20 {
			if due := w.DB.SweepDue(); due != (i == 0) {
				t.Fatalf("after %d records: due %v", i, due)
			} else if due {
				must(t, failed(w.DB.Sweep(0))) // a round has begun
			}
			w.DB.Savepoint()
		}
		done, more, err := w.DB.Sweep(1000)
		if done != 20*5 || !more || err != nil {
			t.Fatalf("%d rows for 20 records, %v %v", done, more, err)
		}
		for n := 0; !w.DB.SweepDue(); n++ {
			if n > 30 {
				t.Fatal("a round is under way, and no clean-up is due")
			}
			w.DB.Savepoint()
		}
		if done, _, err = w.DB.Sweep(30); done != 30 || err != nil {
			t.Fatalf("%d of 30 %v", done, err)
		}
		w.Commit() // an epoch is no record
		if done, more, err = w.DB.Sweep(1000); done != 370 || more || err != nil {
			t.Fatalf("idle: %d %v %v", done, more, err)
		}
		w.gone("row")
	})
}

func failed(_ int, _ bool, err error) error { return err }

// TestSweepDiscarded drops the epochs with what was swept, and with an index made, in them.
func TestSweepDiscarded(t *testing.T) {
	ttlStore(t, ttl.AfterWrite(1000*ms), func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string]) {
		w.fill(kv(), ids("row", 50)...)
		w.With(kvSpec(store.WithTTL(ttl.AfterWrite(1000 * ms).Buckets(10 * ms))))
		w.enabled = w.DB.TTLEnabledAt()
		w.Crash(true)
		indexed := func() int {
			n, err := w.DB.LocalRows(store.LocalDue)
			must(t, err)
			return n
		}
		w.sweep(20)
		w.Seal()
		w.Discard()
		w.Commit()
		must(t, w.DB.Flush())
		if indexed() != 0 {
			t.Fatal("the index was discarded, and is there")
		}
		w.sweep(20)
		if w.DB.Dirty() {
			t.Error("an index is nothing for a changelog")
		}
		w.Commit()
		must(t, w.DB.Flush())
		must(t, w.DB.CheckIndex())
		if n := indexed(); n != 50 {
			t.Fatalf("%d rows in the index", n)
		}
		w.Crash(true)
		if done, _, err := w.DB.Sweep(1000); done != 0 || err != nil {
			t.Fatalf("the index is complete, and %d rows were looked at (%v)", done, err)
		}
		w.at(1000)
		w.sweep(20)
		w.Discard()
		if _, ok, err := kv().Get("row0001"); ok || err != nil {
			t.Fatal("a dead row is seen")
		}
		w.sweep(20)
		w.gone("row")
		// Without an index its rows go.
		w.fill(kv(), "more")
		w.With(kvSpec(store.WithTTL(ttl.AfterWrite(1000 * ms))))
		w.enabled = w.DB.TTLEnabledAt()
		w.Crash(true)
		if n := indexed(); n != 0 {
			t.Fatalf("%d rows of an index that nobody looks after", n)
		}
	})
}

// TestTTLBulk restores the same changelog by batches and in bulk: what is visible, what is owed and what is in the index is the same.
func TestTTLBulk(t *testing.T) {
	for name, p := range map[string]ttl.Policy{
		"walk": ttl.AfterWrite(100 * ms), "buckets": ttl.AfterWrite(100 * ms).Buckets(10 * ms), "off": ttl.Disabled(),
	} {
		t.Run(name, func(t *testing.T) {
			w := newTTLTask(t, storetest.NewTask(t, ttlEngines["memory"], store.Options{}, kvSpec(store.WithTTL(ttl.AfterWrite(100*ms)))))
			kv, err := kvSpec().In(w.DB)
			must(t, err)
			for i, id := range ids("", 2000) {
				w.at(int64(i / 10))
				must(t, kv.Put(id, id))
				if i%7 == 3 {
					_, _, err := kv.Delete(fmt.Sprintf("%04d", i-i%5))
					must(t, err)
				}
				if i%100 == 0 {
					w.Commit()
				}
			}
			w.Commit()
			state := func(bulk bool) (rows []string, due, dead int) {
				e, err := store.OpenPebbleOn(vfs.NewMem(), "db", small)
				must(t, err)
				db, err := store.Open(e, []store.Binding{{Spec: kvSpec(store.WithTTL(p)), Prefix: 1}}, store.Options{})
				must(t, err)
				defer func() { must(t, db.Close()) }()
				db.SetClocks(200, -1)
				var b *store.Bulk
				if bulk {
					b, err = db.Bulk()
					must(t, err)
					defer b.Close()
				}
				for part := range slices.Chunk(w.Log("s"), 300) {
					var rows []store.Mutation
					for _, c := range part {
						rows = append(rows, store.Mutation{Key: c.Key, Value: c.Value, Delete: c.Value == nil})
					}
					if !bulk {
						must(t, db.Restore("s", rows, []byte("c")))
						continue
					}
					if !b.Room(rows) || len(part) == 300 && part[0].Key[0] == '1' {
						must(t, b.Ingest([]byte("c")))
					}
					must(t, b.Add("s", rows))
				}
				if bulk {
					must(t, b.Ingest([]byte("c")))
				}
				must(t, db.SetTTLEnabledAt(map[string]int64{"s": 0}))
				must(t, db.CheckIndex())
				due, err = db.LocalRows(store.LocalDue)
				must(t, err)
				dead, err = db.LocalRows(store.LocalDead)
				must(t, err)
				h, err := kvSpec().In(db)
				must(t, err)
				all := h.All()
				seen := map[string]string{}
				for k, v := range all.Rows() {
					seen[k] = v
				}
				must(t, all.Err())
				rows = slices.Sorted(maps.Keys(seen))
				for more := true; more; {
					_, more, err = db.Sweep(500)
					must(t, err)
				}
				e1 := db.Seal()
				must(t, e1.Each(func(_ string, key, value []byte) error {
					if value != nil {
						t.Error("a value")
					}
					rows = append(rows, "gone "+string(key))
					return nil
				}))
				slices.Sort(rows)
				return rows, due, dead
			}
			rows, due, dead := state(false)
			bulkRows, bulkDue, bulkDead := state(true)
			// In bulk a row that is dead and gone later on in the log may be noted too: nothing is owed for it then.
			if !slices.Equal(rows, bulkRows) || bulkDead < dead || len(rows) < 500 {
				t.Errorf("%d rows and %d debts by batches, %d and %d in bulk", len(rows), dead, len(bulkRows), bulkDead)
			}
			if (due == 0) != (p.Cleanup() != ttl.Buckets) || (bulkDue == 0) != (due == 0) {
				t.Errorf("%d rows in the index by batches, %d in bulk", due, bulkDue)
			}
			if p.Enabled() != (dead > 0) {
				t.Errorf("%d debts", dead)
			}
		})
	}
}

// TestTTLEventTime follows the task's event-time clock, and before that has a value nothing is dead.
func TestTTLEventTime(t *testing.T) {
	ttlStore(t, ttl.AfterAccess(100*ms).EventTime(), func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string]) {
		clock := func(event int64) {
			w.event = event
			w.at(1_000_000)
		}
		is := func(key string, want bool) {
			t.Helper()
			if _, ok, err := kv().Get(key); ok != want || err != nil {
				t.Fatalf("%s at %d: %v %v", key, w.event, ok, err)
			}
		}
		clock(-1)
		must(t, kv().PutWithTime("a", "v", 50))
		must(t, kv().PutWithTime("b", "v", 50))
		is("a", true)
		clock(149)
		is("a", true) // a read at 149
		clock(150)
		is("a", true)
		is("b", false)
		must(t, kv().PutWithTime("late", "v", 40))
		is("late", false)
		w.Commit()
		w.enabled = w.DB.TTLEnabledAt()
		if !maps.Equal(w.enabled, map[string]int64{"s@event-time": 0}) {
			t.Fatalf("enabled at %v", w.enabled)
		}
		w.Crash(false)
		clock(249)
		is("a", true)
		clock(349)
		is("a", false)
		w.gone("")
	})
}

// TestTTLPendingClock switches an event-time policy on before the clock has a value.
func TestTTLPendingClock(t *testing.T) {
	ttlStore(t, ttl.Disabled(), func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string]) {
		must(t, kv().PutWithTime("a", "v", 50))
		w.Commit()
		w.With(kvSpec(store.WithTTL(ttl.AfterWrite(100 * ms).EventTime())))
		for range 2 {
			w.enabled = w.DB.TTLEnabledAt()
			w.Crash(true)
			if at := w.DB.TTLEnabledAt(); len(at) != 0 {
				t.Fatalf("the moment is not known, and is %v", at)
			}
		}
		w.event = 1000
		w.at(5)
		if at := w.DB.TTLEnabledAt(); !maps.Equal(at, map[string]int64{"s@event-time": 1000}) {
			t.Fatalf("%v", at)
		}
		for _, c := range []struct {
			event int64
			want  bool
		}{{1099, true}, {1100, false}} {
			w.event = c.event
			w.at(5)
			if _, ok, err := kv().Get("a"); ok != c.want || err != nil {
				t.Fatalf("at %d: %v %v", c.event, ok, err)
			}
		}
	})
}

// TestTTLRefresh counts what reads write.
func TestTTLRefresh(t *testing.T) {
	ttlStore(t, ttl.AfterAccess(100*ms).RefreshEvery(40*ms), func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string]) {
		w.fill(kv(), "a")
		for _, c := range []struct {
			now   int64
			write bool
		}{{10, false}, {40, false}, {41, true}, {81, false}, {82, true}, {181, true}} {
			w.at(c.now)
			for range 2 {
				if _, ok, err := kv().Get("a"); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			if w.DB.Dirty() != c.write {
				t.Fatalf("@%d: written %v", c.now, !c.write)
			}
			w.Commit()
		}
		w.at(281)
		if _, ok, err := kv().Get("a"); ok || err != nil {
			t.Fatal(ok, err)
		}
	})
}

// TestTTLOffWithDebts switches a time to live off while tombstones are owed: what was dead stays dead, and is paid.
func TestTTLOffWithDebts(t *testing.T) {
	ttlStore(t, ttl.AfterWrite(100*ms), func(t *testing.T, w *ttlTask, kv func() *store.KV[string, string]) {
		w.fill(kv(), "a", "b")
		w.now = 100
		w.Crash(false)
		must(t, w.DB.Flush())
		w.With(kvSpec())
		w.enabled = w.DB.TTLEnabledAt()
		w.now = 0
		w.Crash(true)
		if _, ok, err := kv().Get("a"); ok || err != nil {
			t.Fatal("what was dead is back", ok, err)
		}
		must(t, kv().Put("b", "again"))
		w.sweep(10)
		w.gone("a")
		if v, ok, err := kv().Get("b"); v != "again" || !ok || err != nil {
			t.Fatal(v, ok, err)
		}
		if n, err := w.DB.LocalRows(store.LocalDead); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	})
}
