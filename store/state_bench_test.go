package store_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// These have the names and parameters of Flink's state benchmarks: preset keys in random order, values of eight bytes, ten entries
// in each map, a hundred elements in each list that is added at once. "Update" is of a key that is there, "Add" of a new one.
const (
	benchMapKeys  = 10
	benchListSize = 100
	benchEpoch    = 10_000 // operations between commits
)

func benchKeys() int64 {
	if testing.Short() {
		return 20_000
	}
	return 500_000
}

// stateBench is a task's database under a benchmark.
type stateBench struct {
	b    *testing.B
	db   *store.DB
	keys []int64 // there, in random order
	n    int
}

// on runs f with both engines; f returns the operation.
func on(b *testing.B, spec store.Spec, f func(s *stateBench) func(key int64) error) {
	for _, engine := range []string{"memory", "pebble"} {
		b.Run(engine, func(b *testing.B) {
			var e store.Engine = store.NewMemory()
			if engine == "pebble" {
				var err error
				if e, err = store.OpenPebbleOn(vfs.NewMem(), "db", store.PebbleOptions{Log: quiet}); err != nil {
					b.Fatal(err)
				}
			}
			db, err := store.Open(e, []store.Binding{{Spec: spec, Prefix: 1}}, store.Options{CacheBytes: 256 << 20})
			if err != nil {
				b.Fatal(err)
			}
			s := &stateBench{b: b, db: db, keys: make([]int64, benchKeys())}
			for i := range s.keys {
				s.keys[i] = int64(i)
			}
			rnd := rand.New(rand.NewPCG(6, 6))
			rnd.Shuffle(len(s.keys), func(i, j int) { s.keys[i], s.keys[j] = s.keys[j], s.keys[i] })
			op := f(s)
			s.commit()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if err := op(s.keys[i%len(s.keys)]); err != nil {
					b.Fatal(err)
				}
				s.next()
			}
			b.StopTimer()
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// next is the end of an operation: a record, and now and then an epoch.
func (s *stateBench) next() {
	s.db.Savepoint()
	if s.n++; s.n%benchEpoch == 0 {
		s.commit()
	}
}

func (s *stateBench) commit() {
	if err := s.db.Apply(s.db.Seal(), []byte("checkpoint")); err != nil {
		s.b.Fatal(err)
	}
}

// fill does op for every key that has to be there before.
func (s *stateBench) fill(op func(key int64) error) {
	for _, key := range s.keys {
		if err := op(key); err != nil {
			s.b.Fatal(err)
		}
		s.next()
	}
}

func (s *stateBench) must(err error) {
	if err != nil {
		s.b.Fatal(err)
	}
}

var (
	benchValue = store.Value("v", serde.Int64(), serde.Int64())
	benchList  = store.List("l", serde.Int64(), serde.Int64())
	benchMap   = store.Map("m", serde.Int64(), serde.Int64(), serde.Float64())
)

func BenchmarkValueState(b *testing.B) {
	with := func(name string, preset bool, op func(s *stateBench, v store.ValueState[int64, int64]) func(int64) error) {
		b.Run(name, func(b *testing.B) {
			on(b, benchValue, func(s *stateBench) func(int64) error {
				v, err := benchValue.In(s.db)
				s.must(err)
				if preset {
					s.fill(func(key int64) error { return v.Put(key, key) })
				}
				return op(s, v)
			})
		})
	}
	with("valueUpdate", true, func(_ *stateBench, v store.ValueState[int64, int64]) func(int64) error {
		return func(key int64) error { return v.Put(key, key+1) }
	})
	with("valueAdd", false, func(_ *stateBench, v store.ValueState[int64, int64]) func(int64) error {
		fresh := int64(0)
		return func(int64) error {
			fresh++
			return v.Put(fresh, fresh)
		}
	})
	with("valueGet", true, func(_ *stateBench, v store.ValueState[int64, int64]) func(int64) error {
		return func(key int64) error {
			_, _, err := v.Get(key)
			return err
		}
	})
}

func BenchmarkListState(b *testing.B) {
	with := func(name string, preset bool, op func(l store.ListState[int64, int64]) func(int64) error) {
		b.Run(name, func(b *testing.B) {
			on(b, benchList, func(s *stateBench) func(int64) error {
				l, err := benchList.In(s.db)
				s.must(err)
				if preset {
					s.fill(func(key int64) error { return l.Append(key, key) })
				}
				return op(l)
			})
		})
	}
	hundred := make([]int64, benchListSize)
	with("listUpdate", true, func(l store.ListState[int64, int64]) func(int64) error {
		one := []int64{0}
		return func(key int64) error {
			one[0] = key
			return l.Replace(key, one)
		}
	})
	with("listAdd", false, func(l store.ListState[int64, int64]) func(int64) error {
		fresh := int64(0)
		return func(int64) error {
			fresh++
			return l.Append(fresh, fresh)
		}
	})
	with("listAppend", true, func(l store.ListState[int64, int64]) func(int64) error {
		return func(key int64) error { return l.Append(key, key) }
	})
	with("listGet", true, func(l store.ListState[int64, int64]) func(int64) error {
		return func(key int64) error {
			_, err := l.Slice(key)
			return err
		}
	})
	with("listGetAndIterate", true, func(l store.ListState[int64, int64]) func(int64) error {
		return func(key int64) error {
			all := l.All(key)
			for range all.Values() {
			}
			return all.Err()
		}
	})
	with("listAddAll", true, func(l store.ListState[int64, int64]) func(int64) error {
		return func(key int64) error { return l.AppendAll(key, hundred) }
	})
}

func BenchmarkMapState(b *testing.B) {
	// A tenth of the keys, each with ten entries, as there.
	with := func(name string, preset bool, op func(m store.MapState[int64, int64, float64]) func(key, sub int64) error) {
		b.Run(name, func(b *testing.B) {
			on(b, benchMap, func(s *stateBench) func(int64) error {
				m, err := benchMap.In(s.db)
				s.must(err)
				if preset {
					s.fill(func(key int64) error { return m.Put(key/benchMapKeys, key%benchMapKeys, 1) })
				}
				do := op(m)
				return func(key int64) error { return do(key/benchMapKeys, key%benchMapKeys) }
			})
		})
	}
	type maps = store.MapState[int64, int64, float64]
	with("mapUpdate", true, func(m maps) func(key, sub int64) error {
		return func(key, sub int64) error { return m.Put(key, sub, 2) }
	})
	with("mapAdd", false, func(m maps) func(key, sub int64) error {
		fresh := int64(0)
		return func(key, _ int64) error {
			fresh++
			return m.Put(key, fresh, 2)
		}
	})
	with("mapGet", true, func(m maps) func(key, sub int64) error {
		return func(key, sub int64) error {
			_, _, err := m.Get(key, sub)
			return err
		}
	})
	with("mapContains", true, func(m maps) func(key, sub int64) error {
		return func(key, sub int64) error {
			_, err := m.Contains(key, sub+1)
			return err
		}
	})
	with("mapIsEmpty", true, func(m maps) func(key, sub int64) error {
		return func(key, _ int64) error {
			_, err := m.IsEmpty(key)
			return err
		}
	})
	scans := func(name string, loop func(scan *store.MapScan[int64, int64, float64])) {
		with(name, true, func(m maps) func(key, sub int64) error {
			return func(key, _ int64) error {
				scan := m.All(key)
				loop(scan)
				return scan.Err()
			}
		})
	}
	scans("mapKeys", func(scan *store.MapScan[int64, int64, float64]) {
		for range scan.Keys() {
		}
	})
	scans("mapValues", func(scan *store.MapScan[int64, int64, float64]) {
		for range scan.Values() {
		}
	})
	entries := func(scan *store.MapScan[int64, int64, float64]) {
		for range scan.Rows() {
		}
	}
	scans("mapEntries", entries)
	scans("mapIterator", entries)
	with("mapRemove", true, func(m maps) func(key, sub int64) error {
		return func(key, sub int64) error { return m.Delete(key, sub) }
	})
	with("mapPutAll", true, func(m maps) func(key, sub int64) error {
		return func(key, _ int64) error {
			return m.PutAll(key, func(yield func(int64, float64) bool) {
				for sub := range int64(benchMapKeys) {
					if !yield(sub, 3) {
						return
					}
				}
			})
		}
	})
}

// TestStateAllocations: reading and writing rows that are in memory allocates nothing but what a value needs.
func TestStateAllocations(t *testing.T) {
	names := store.Value("names", serde.String(), serde.Int64())
	long := store.List("long", serde.String(), serde.Int64())
	table := store.Map("table", serde.String(), serde.Int64(), serde.Int64())
	total := store.Reducing("total", serde.String(), serde.Int64(), func(old, added int64) int64 { return old + added })
	count := store.Aggregating("count", serde.String(), serde.Int64(), store.Aggregator[string, int64, int64]{
		New: func() int64 { return 0 }, Add: func(n int64, _ string) int64 { return n + 1 }, Result: func(n int64) int64 { return n },
	})
	var bindings []store.Binding
	for i, s := range []store.Spec{names, long, table, total, count} {
		bindings = append(bindings, store.Binding{Spec: s, Prefix: uint16(i + 1)})
	}
	e, err := store.OpenPebbleOn(vfs.NewMem(), "db", store.PebbleOptions{Log: quiet})
	must(t, err)
	db, err := store.Open(e, bindings, store.Options{})
	must(t, err)
	defer db.Close()
	v, err := names.In(db)
	must(t, err)
	l, err := long.In(db)
	must(t, err)
	m, err := table.In(db)
	must(t, err)
	r, err := total.In(db)
	must(t, err)
	a, err := count.In(db)
	must(t, err)
	window := []byte("2026-11-23\x00")
	var keys [64]string
	for i := range keys {
		keys[i] = fmt.Sprintf("key %d\x00%d", i, i)
		must(t, l.Append(keys[i], 0))
	}
	// A map that has a generation costs one look-up more.
	for n := range int64(40) {
		must(t, m.Put("cleared", n, n))
	}
	must(t, m.Clear("cleared"))
	n, failed := 0, error(nil)
	for _, c := range []struct {
		name string
		op   func(key string) error
	}{
		{"value put", func(key string) error { return v.Put(key, int64(n)) }},
		{"value get", func(key string) error { _, _, err := v.Get(key); return err }},
		{"value in a namespace", func(key string) error { return v.NS(window).Put(key, int64(n)) }},
		{"value clear", func(key string) error { return v.Clear(key) }},
		{"list length", func(key string) error { _, err := l.Len(key); return err }},
		{"list replace", func(key string) error { return l.Replace(key, []int64{1, 2, 3}) }},
		{"map put", func(key string) error { return m.Put(key, int64(n%8), 1) }},
		{"map get", func(key string) error { _, _, err := m.Get(key, 1); return err }},
		{"map contains", func(key string) error { _, err := m.Contains(key, 1); return err }},
		{"map delete", func(key string) error { return m.Delete(key, 1) }},
		{"reducing add", func(key string) error { _, err := r.Add(key, 1); return err }},
		{"reducing get", func(key string) error { _, _, err := r.Get(key); return err }},
		{"aggregating add", func(key string) error { return a.Add(key, "x") }},
		{"aggregating get", func(key string) error { _, _, err := a.Get(key); return err }},
	} {
		op := func() {
			n++
			if err := c.op(keys[n%len(keys)]); err != nil {
				failed = err
			}
			db.Savepoint()
		}
		for range 4 * len(keys) {
			op()
		}
		if allocs := testing.AllocsPerRun(2000, op); allocs > 0 {
			t.Errorf("%s: %v allocations", c.name, allocs)
		}
		must(t, failed)
	}
	// Appending makes rows, for which the table gets memory now and then.
	if allocs := testing.AllocsPerRun(2000, func() { failed = l.Append(keys[0], 1) }); allocs > 0.5 || failed != nil {
		t.Errorf("append: %v allocations, %v", allocs, failed)
	}
}
