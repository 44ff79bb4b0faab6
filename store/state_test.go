package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/store/storetest"
)

// engines are those every case of state runs on. Pebble loses at a crash any part of what was not synced.
var engines = storetest.Engines{
	"memory": func() storetest.Machine { return &memoryMachine{store.NewMemory()} },
	"pebble": func() storetest.Machine {
		return &crashMachine{fs: vfs.NewCrashableMem(), rnd: rand.New(rand.NewPCG(4, 4))}
	},
}

var (
	stringValue = store.Value("value", serde.String(), serde.Optional(serde.String()))
	aString     = store.Value("a-string", serde.String(), serde.String())
	anInteger   = store.Value("an-integer", serde.String(), serde.Int64())
	longs       = store.List("longs", serde.String(), serde.Int64())
	texts       = store.List("texts", serde.String(), serde.String())
	pointers    = store.List("pointers", serde.String(), serde.Optional(serde.Int64()))
	intMap      = store.Map("int-map", serde.String(), serde.Int64(), serde.String())
	nullMap     = store.Map("null-map", serde.String(), serde.String(), serde.Optional(serde.Int64()))
	maximum     = store.Reducing("maximum", serde.String(), serde.Int64(), func(old, added int64) int64 { return max(old, added) })
	sum         = store.Reducing("sum", serde.String(), serde.Int64(), func(old, added int64) int64 { return old + added })
	average     = store.Aggregating("average", serde.String(), serde.JSON[*mean](), means)
)

type mean struct{ Sum, N float64 }

// means changes its accumulator in place.
var means = store.Aggregator[float64, *mean, float64]{
	New: func() *mean { return &mean{} },
	Add: func(m *mean, v float64) *mean {
		m.Sum, m.N = m.Sum+v, m.N+1
		return m
	},
	Result: func(m *mean) float64 { return m.Sum / m.N },
	Merge:  func(a, b *mean) *mean { return &mean{a.Sum + b.Sum, a.N + b.N} },
}

// in opens a store.
func in[S any](t *testing.T, k *storetest.Task, spec interface {
	In(store.Source) (S, error)
}) S {
	t.Helper()
	s, err := spec.In(k.DB)
	must(t, err)
	return s
}

// get and absent look at what a Get returned.
func get[V comparable](t *testing.T, want V) func(V, bool, error) {
	return func(v V, ok bool, err error) {
		t.Helper()
		if v != want || !ok || err != nil {
			t.Errorf("got %v %v %v, want %v", v, ok, err, want)
		}
	}
}

func absent[V any](t *testing.T) func(V, bool, error) {
	return func(v V, ok bool, err error) {
		t.Helper()
		if ok || err != nil {
			t.Errorf("got %v %v %v, want nothing", v, ok, err)
		}
	}
}

func elements[V comparable](t *testing.T, l store.ListState[string, V], key string, want ...V) {
	t.Helper()
	got, err := l.Slice(key)
	if err != nil || got == nil || !slices.Equal(got, want) {
		t.Errorf("list of %q: %v %v, want %v", key, got, err, want)
	}
	n, err := l.Len(key)
	if err != nil || n != int64(len(want)) {
		t.Errorf("length of list of %q: %d %v, want %d", key, n, err, len(want))
	}
	reversed := []V{}
	for v := range l.All(key).Reverse().Values() {
		reversed = append(reversed, v)
	}
	if slices.Reverse(reversed); !slices.Equal(reversed, want) {
		t.Errorf("list of %q backwards: %v, want %v", key, reversed, want)
	}
}

func entries[S, V comparable](t *testing.T, m store.MapState[string, S, V], key string, want ...any) {
	t.Helper()
	var got []any
	scan := m.All(key)
	for s, v := range scan.Rows() {
		got = append(got, s, v)
	}
	must(t, scan.Err())
	if !slices.Equal(got, want) {
		t.Errorf("map of %q: %v, want %v", key, got, want)
	}
	var keys, values []any
	for s := range scan.Keys() {
		keys = append(keys, s)
	}
	must(t, scan.Err())
	for v := range scan.Values() {
		values = append(values, v)
	}
	must(t, scan.Err())
	for i := range keys {
		if i >= len(values) || 2*i+1 >= len(want) || keys[i] != want[2*i] || values[i] != want[2*i+1] {
			t.Errorf("map of %q: keys %v and values %v, want %v", key, keys, values, want)
			break
		}
	}
	empty, err := m.IsEmpty(key)
	if err != nil || empty != (len(want) == 0) || 2*len(keys) != len(want) {
		t.Errorf("map of %q: empty %v %v, %d keys", key, empty, err, len(keys))
	}
}

// isClean checks that a store has no rows any more, but for its counter, in the database and in what compaction leaves.
func isClean(t *testing.T, k *storetest.Task, name string) {
	t.Helper()
	for i, rows := range []map[string]string{k.Live(name), k.Physical(name)} {
		delete(rows, "\x01")
		if len(rows) != 0 {
			t.Errorf("store %s has %d rows left in its %s: %q", name, len(rows), [...]string{"changelog", "database"}[i], rows)
		}
	}
}

// sweep sweeps until nothing is left.
func sweep(t *testing.T, k *storetest.Task) (rows int) {
	t.Helper()
	for {
		n, more, err := k.DB.SweepGarbage(1000)
		must(t, err)
		if n > 1000 {
			t.Fatalf("%d rows swept", n)
		}
		if rows += n; !more {
			return rows
		}
	}
}

func TestState(t *testing.T) {
	for _, c := range []struct {
		id    string
		specs []store.Spec
		run   func(t *testing.T, k *storetest.Task)
	}{
		{"V-1", []store.Spec{stringValue}, func(t *testing.T, k *storetest.Task) {
			absent[*string](t)(in(t, k, stringValue).Get("k1"))
			k.Step()
			must(t, in(t, k, stringValue).Put("k1", new("1")))
			k.Step()
			v := in(t, k, stringValue)
			absent[*string](t)(v.Get("k2"))
			if s, ok, err := v.Get("k1"); !ok || *s != "1" || err != nil {
				t.Errorf("%v %v %v", s, ok, err)
			}
			if s, err := v.GetOr("k2", new("default")); *s != "default" || err != nil {
				t.Errorf("%v %v", s, err)
			}
			if s, err := v.GetOr("k1", new("default")); *s != "1" || err != nil {
				t.Errorf("%v %v", s, err)
			}
		}},
		{"V-2", []store.Spec{aString}, func(t *testing.T, k *storetest.Task) {
			v := in(t, k, aString)
			must(t, v.Put("k1", "1"))
			must(t, v.Put("k2", "2"))
			c1 := k.Commit()
			k.Step()
			v = in(t, k, aString)
			must(t, v.Put("k1", "u1"))
			must(t, v.Put("k2", "u2"))
			must(t, v.Put("k3", "u3"))
			k.Recover(k.Commit())
			v = in(t, k, aString)
			get(t, "u1")(v.Get("k1"))
			get(t, "u2")(v.Get("k2"))
			get(t, "u3")(v.Get("k3"))
			k.Recover(c1)
			v = in(t, k, aString)
			get(t, "1")(v.Get("k1"))
			get(t, "2")(v.Get("k2"))
			absent[string](t)(v.Get("k3"))
		}},
		{"V-3", []store.Spec{stringValue}, func(t *testing.T, k *storetest.Task) {
			for i, clear := range []func(v store.ValueState[string, *string]) error{
				func(v store.ValueState[string, *string]) error { return v.Clear("k") },
				func(v store.ValueState[string, *string]) error { return v.Put("k", nil) },
			} {
				must(t, in(t, k, stringValue).Put("k", new("v")))
				k.Step()
				must(t, clear(in(t, k, stringValue)))
				k.Step()
				absent[*string](t)(in(t, k, stringValue).Get("k"))
				k.Commit()
				log := k.Log("value")
				if last := log[len(log)-1]; last.Value != nil {
					t.Errorf("way %d: the changelog ends with %q, not a tombstone", i, last)
				}
				isClean(t, k, "value")
			}
		}},
		{"V-4", []store.Spec{aString, anInteger}, func(t *testing.T, k *storetest.Task) {
			must(t, in(t, k, aString).Put("k", "text"))
			must(t, in(t, k, anInteger).Put("k", 42))
			k.Step()
			get(t, "text")(in(t, k, aString).Get("k"))
			must(t, in(t, k, aString).Clear("k"))
			k.Step()
			absent[string](t)(in(t, k, aString).Get("k"))
			get(t, int64(42))(in(t, k, anInteger).Get("k"))
		}},
		{"V-5", []store.Spec{intMap, aString}, func(t *testing.T, k *storetest.Task) {
			m := in(t, k, intMap)
			must(t, m.Put("k1", 11, "foo"))
			must(t, m.Put("k2", 8, "bar"))
			must(t, m.Put("k3", 91, "hello world"))
			for range 3 {
				k.Commit()
				k.Crash(false)
				must(t, in(t, k, aString).Put("other", "store"))
				k.Step()
			}
			m = in(t, k, intMap)
			entries(t, m, "k1", int64(11), "foo")
			entries(t, m, "k2", int64(8), "bar")
			entries(t, m, "k3", int64(91), "hello world")
		}},
		{"L-1", []store.Spec{longs}, func(t *testing.T, k *storetest.Task) {
			elements(t, in(t, k, longs), "k")
			k.Step()
			must(t, in(t, k, longs).Append("k", 17))
			k.Step()
			must(t, in(t, k, longs).Append("k", 11))
			k.Step()
			elements(t, in(t, k, longs), "k", 17, 11)
			must(t, in(t, k, longs).Replace("k", []int64{}))
			k.Step()
			elements(t, in(t, k, longs), "k")
			must(t, in(t, k, longs).Replace("k", []int64{10, 16}))
			k.Step()
			elements(t, in(t, k, longs), "k", 10, 16)
			k.Step()
			elements(t, in(t, k, longs), "k", 10, 16)
			must(t, in(t, k, longs).Clear("k"))
			k.Commit()
			isClean(t, k, "longs")
		}},
		{"L-2", []store.Spec{longs}, func(t *testing.T, k *storetest.Task) {
			all := func(add []int64, want ...int64) {
				t.Helper()
				must(t, in(t, k, longs).AppendAll("k", add))
				k.Step()
				elements(t, in(t, k, longs), "k", want...)
			}
			all([]int64{})
			all([]int64{3, 4}, 3, 4)
			all([]int64{}, 3, 4)
			all([]int64{5, 6}, 3, 4, 5, 6)
			must(t, in(t, k, longs).Replace("k", []int64{1, 2}))
			k.Step()
			elements(t, in(t, k, longs), "k", 1, 2)
			k.Commit()
			if n := len(k.Live("longs")); n != 3 {
				t.Errorf("%d rows for two elements and a head", n)
			}
		}},
		{"L-3", []store.Spec{longs}, func(t *testing.T, k *storetest.Task) {
			must(t, in(t, k, longs).Append("def", 10, 16))
			must(t, in(t, k, longs).Append("g", 1, 2))
			k.Step()
			must(t, in(t, k, longs).Append("g", 3))
			k.Step()
			elements(t, in(t, k, longs), "def", 10, 16)
			must(t, in(t, k, longs).Clear("def"))
			k.Step()
			elements(t, in(t, k, longs), "def")
			elements(t, in(t, k, longs), "g", 1, 2, 3)
		}},
		{"L-4", []store.Spec{pointers}, func(t *testing.T, k *storetest.Task) {
			l := in(t, k, pointers)
			must(t, l.Append("k", new(int64(1))))
			k.Step()
			l = in(t, k, pointers)
			code(t, l.Append("k", nil), "store/null-element")
			code(t, l.Append("k", new(int64(2)), nil), "store/null-element")
			code(t, l.AppendAll("k", []*int64{new(int64(2)), nil}), "store/null-element")
			code(t, l.Replace("k", []*int64{new(int64(2)), nil}), "store/null-element")
			code(t, l.AppendAll("k", nil), "store/nil-slice")
			code(t, l.Replace("k", nil), "store/nil-slice")
			if k.DB.Dirty() != (len(k.Log("pointers")) == 0) {
				t.Error("something was written")
			}
			k.Step()
			got, err := in(t, k, pointers).Slice("k")
			if err != nil || len(got) != 1 || *got[0] != 1 {
				t.Errorf("%v %v", got, err)
			}
		}},
		{"L-5", []store.Spec{texts}, func(t *testing.T, k *storetest.Task) {
			l := in(t, k, texts)
			must(t, l.Append("k1", "1"))
			must(t, l.Append("k2", "2"))
			first := k.Commit()
			k.Step()
			l = in(t, k, texts)
			must(t, l.Append("k1", "u1"))
			must(t, l.Replace("k2", []string{"2"}))
			must(t, l.Append("k2", "u2"))
			must(t, l.Append("k3", "u3"))
			k.Recover(k.Commit())
			l = in(t, k, texts)
			elements(t, l, "k1", "1", "u1")
			elements(t, l, "k2", "2", "u2")
			elements(t, l, "k3", "u3")
			k.Recover(first)
			l = in(t, k, texts)
			elements(t, l, "k1", "1")
			elements(t, l, "k2", "2")
			elements(t, l, "k3")
		}},
		{"L-6", []store.Spec{longs}, func(t *testing.T, k *storetest.Task) {
			appends := int64(100_000)
			if k.Mode() != storetest.Straight {
				appends = 30_000
			}
			if testing.Short() {
				appends = 10_000
			}
			l := in(t, k, longs)
			for n := range appends {
				must(t, l.Append("k", n))
				if n == appends/2 {
					k.Step()
					l = in(t, k, longs)
				}
			}
			k.Step()
			must(t, in(t, k, longs).Clear("k"))
			elements(t, in(t, k, longs), "k")
			must(t, in(t, k, longs).Append("k", 7))
			elements(t, in(t, k, longs), "k", 7)
			k.Step()
			elements(t, in(t, k, longs), "k", 7)
			swept := 0
			for more := true; more; {
				n, left, err := k.DB.SweepGarbage(12_000)
				must(t, err)
				more = left
				if swept += n; n > 12_000 {
					t.Fatalf("%d rows at once", n)
				}
				k.Step()
			}
			if swept != int(appends) {
				t.Errorf("%d rows swept, of %d", swept, appends)
			}
			elements(t, in(t, k, longs), "k", 7)
			k.Commit()
			if n := len(k.Live("longs")); n != 3 {
				t.Errorf("%d rows are left in the changelog, want an element, a head and the counter", n)
			}
			k.Crash(false)
			elements(t, in(t, k, longs), "k", 7)
			must(t, in(t, k, longs).Clear("k"))
			k.Commit()
			isClean(t, k, "longs")
		}},
		{"M-1", []store.Spec{intMap}, func(t *testing.T, k *storetest.Task) {
			absent[string](t)(in(t, k, intMap).Get("1", 1))
			keys := []string{"1", "2", "11", "1\x00", "1\x00\x01", "", "\x00", "1\x01", "1\xff"}
			for n, key := range keys {
				must(t, in(t, k, intMap).Put(key, int64(n), key))
				must(t, in(t, k, intMap).NS([]byte("1")).Put(key, -5, "in a namespace"))
				k.Step()
			}
			m := in(t, k, intMap)
			for n, key := range keys {
				entries(t, m, key, int64(n), key)
				entries(t, m.NS([]byte("1")), key, int64(-5), "in a namespace")
				entries(t, m.NS([]byte("1\x00")), key)
			}
			absent[string](t)(m.Get("1", 2))
			var got []string
			scan := m.Keys()
			for key := range scan.Keys() {
				got = append(got, key)
			}
			must(t, scan.Err())
			if slices.Sort(keys); !slices.Equal(got, keys) {
				t.Errorf("keys %q, want %q", got, keys)
			}
		}},
		{"M-2", []store.Spec{intMap}, func(t *testing.T, k *storetest.Task) {
			must(t, in(t, k, intMap).PutAll("k", maps.All(map[int64]string{103: "103", 1032: "1032", 1031: "1031"})))
			must(t, in(t, k, intMap).Put("k", -1, "-1"))
			k.Step()
			entries(t, in(t, k, intMap), "k", int64(-1), "-1", int64(103), "103", int64(1031), "1031", int64(1032), "1032")
			scan := in(t, k, intMap).All("k")
			for _, v := range scan.Rows() {
				if len(v) != 4 {
					must(t, scan.Delete())
					must(t, scan.Delete()) // again: nothing
					must(t, scan.Set("gone already"))
				} else {
					must(t, scan.Set(v+"_updated"))
				}
			}
			must(t, scan.Err())
			code(t, scan.Delete(), "store/no-element")
			code(t, scan.Set("x"), "store/no-element")
			k.Step()
			m := in(t, k, intMap)
			entries(t, m, "k", int64(1031), "1031_updated", int64(1032), "1032_updated")
			s, v, ok, err := m.First("k")
			if s != 1031 || v != "1031_updated" || !ok || err != nil {
				t.Errorf("first: %v %v %v %v", s, v, ok, err)
			}
			if s, _, ok, err = m.Last("k"); s != 1032 || !ok || err != nil {
				t.Errorf("last: %v %v %v", s, ok, err)
			}
			if _, _, ok, err = m.Last("other"); ok || err != nil {
				t.Errorf("last of nothing: %v %v", ok, err)
			}
			for n := range int64(10) {
				must(t, m.Put("range", n-5, ""))
			}
			k.Step()
			m = in(t, k, intMap)
			if got := slices.Collect(m.Range("range", -2, 2).Keys()); !slices.Equal(got, []int64{-2, -1, 0, 1, 2}) {
				t.Errorf("range: %v", got)
			}
			if got := slices.Collect(m.Range("range", 3, 100).Reverse().Keys()); !slices.Equal(got, []int64{4, 3}) {
				t.Errorf("range backwards: %v", got)
			}
			if got := slices.Collect(m.Range("range", 3, 2).Keys()); len(got) != 0 {
				t.Errorf("range of nothing: %v", got)
			}
			code(t, m.PutAll("k", nil), "store/nil-slice")
		}},
		{"M-3", []store.Spec{intMap}, func(t *testing.T, k *storetest.Task) {
			for _, n := range []int64{3, 31, 32, 33, 200} {
				m := in(t, k, intMap)
				for s := range n {
					must(t, m.Put("k", s, "old"))
				}
				must(t, m.Put("other", 1, "kept"))
				k.Step()
				must(t, in(t, k, intMap).Clear("k"))
				entries(t, in(t, k, intMap), "k")
				k.Step()
				m = in(t, k, intMap)
				entries(t, m, "k")
				entries(t, m, "other", int64(1), "kept")
				if ok, err := m.Contains("k", 1); ok || err != nil {
					t.Errorf("contains: %v %v", ok, err)
				}
				must(t, m.Put("k", 1, "new"))
				must(t, m.Put("k", 2, "new"))
				k.Step()
				entries(t, in(t, k, intMap), "k", int64(1), "new", int64(2), "new")
				k.Step()
				if n := sweep(t, k); n > 200 {
					t.Errorf("%d rows swept", n)
				}
				entries(t, in(t, k, intMap), "k", int64(1), "new", int64(2), "new")
				k.Step()
				m = in(t, k, intMap)
				must(t, m.Delete("k", 1))
				entries(t, m, "k", int64(2), "new")
				must(t, m.Delete("k", 2))
				entries(t, m, "k")
				must(t, m.Delete("other", 1))
				k.Commit()
				isClean(t, k, "int-map")
			}
		}},
		{"M-4", []store.Spec{nullMap, intMap}, func(t *testing.T, k *storetest.Task) {
			must(t, in(t, k, nullMap).Put("k", "null", nil))
			must(t, in(t, k, nullMap).Put("k", "zero", new(int64(0))))
			must(t, in(t, k, intMap).Put("k", 0, ""))
			k.Step()
			m := in(t, k, nullMap)
			for _, sub := range []string{"null", "zero"} {
				if ok, err := m.Contains("k", sub); !ok || err != nil {
					t.Errorf("contains %s: %v %v", sub, ok, err)
				}
				v, ok, err := m.Get("k", sub)
				if !ok || err != nil || (v == nil) != (sub == "null") {
					t.Errorf("get %s: %v %v %v", sub, v, ok, err)
				}
			}
			absent[*int64](t)(m.Get("k", "other"))
			get(t, "")(in(t, k, intMap).Get("k", 0))
			n := 0
			for _, v := range m.All("k").Rows() {
				if n++; (v == nil) != (n == 1) {
					t.Errorf("entry %d: %v", n, v)
				}
			}
			must(t, m.Put("k", "zero", nil))
			k.Step()
			v, ok, err := in(t, k, nullMap).Get("k", "zero")
			if v != nil || !ok || err != nil {
				t.Errorf("%v %v %v", v, ok, err)
			}
		}},
		{"RA-1", []store.Spec{maximum}, func(t *testing.T, k *storetest.Task) {
			absent[int64](t)(in(t, k, maximum).Get("k"))
			for _, step := range [][2]int64{{10, 10}, {25, 25}, {15, 25}} {
				if v, err := in(t, k, maximum).Add("k", step[0]); v != step[1] || err != nil {
					t.Errorf("added %d: %d %v", step[0], v, err)
				}
				k.Step()
				get(t, step[1])(in(t, k, maximum).Get("k"))
			}
			must(t, in(t, k, maximum).Clear("k"))
			k.Step()
			absent[int64](t)(in(t, k, maximum).Get("k"))
			k.Commit()
			isClean(t, k, "maximum")
		}},
		{"RA-2", []store.Spec{average}, func(t *testing.T, k *storetest.Task) {
			absent[float64](t)(in(t, k, average).Get("k"))
			for _, v := range []float64{1, 2, 3} {
				must(t, in(t, k, average).Add("k", v))
				k.Step()
			}
			get(t, 2.0)(in(t, k, average).Get("k"))
			absent[float64](t)(in(t, k, average).Get("other"))
			must(t, in(t, k, average).Clear("k"))
			k.Step()
			absent[float64](t)(in(t, k, average).Get("k"))
			k.Commit()
			isClean(t, k, "average")
		}},
		{"RA-3", []store.Spec{sum, average}, func(t *testing.T, k *storetest.Task) {
			names := [][]byte{[]byte("ns1"), []byte("ns2"), []byte("ns3")}
			for _, c := range []struct {
				name   string
				values [3][]int64
			}{
				{"two first", [3][]int64{{33, 55}, {22, 11}, {44}}},
				{"third most", [3][]int64{{11, 44}, nil, {22, 55, 33}}},
				{"all empty", [3][]int64{}},
				{"all in target", [3][]int64{{11, 22, 33, 44, 55}}},
				{"all in one source", [3][]int64{nil, nil, {11, 22, 33, 44, 55}}},
			} {
				t.Run(c.name, func(t *testing.T) {
					n := 0
					for i, values := range c.values {
						for _, v := range values {
							n++
							_, err := in(t, k, sum).NS(names[i]).Add("k", v)
							must(t, err)
							must(t, in(t, k, average).NS(names[i]).Add("k", float64(v)))
							k.Step()
						}
					}
					must(t, in(t, k, sum).Merge("k", names[0], names[1], names[2], names[2], names[0]))
					must(t, in(t, k, average).Merge("k", names[0], names[1], names[2], names[2], names[0]))
					k.Step()
					for i, ns := range names {
						s, a := in(t, k, sum).NS(ns), in(t, k, average).NS(ns)
						if i == 0 && n > 0 {
							get(t, int64(165))(s.Get("k"))
							get(t, 165.0/float64(n))(a.Get("k"))
						} else {
							absent[int64](t)(s.Get("k"))
							absent[float64](t)(a.Get("k"))
						}
					}
					absent[int64](t)(in(t, k, sum).Get("k"))
					must(t, in(t, k, sum).NS(names[0]).Clear("k"))
					must(t, in(t, k, average).NS(names[0]).Clear("k"))
					k.Commit()
					isClean(t, k, "sum")
					isClean(t, k, "average")
				})
			}
		}},
		{"namespaces merge", []store.Spec{texts, intMap}, func(t *testing.T, k *storetest.Task) {
			a, b, c := []byte("a"), []byte{}, []byte("a\x00\x01c")
			l, m := in(t, k, texts), in(t, k, intMap)
			must(t, l.NS(a).Append("k", "1"))
			must(t, l.NS(b).Append("k", "2", "3"))
			must(t, l.NS(c).Append("k", "4"))
			must(t, m.NS(a).Put("k", 1, "a"))
			must(t, m.NS(b).Put("k", 1, "b"))
			must(t, m.NS(b).Put("k", 2, "b"))
			must(t, m.NS(c).Put("k", 2, "c"))
			k.Step()
			must(t, in(t, k, texts).Merge("k", a, b, a, c, []byte("none")))
			must(t, in(t, k, intMap).Merge("k", a, b, a, c, []byte("none")))
			k.Step()
			elements(t, in(t, k, texts).NS(a), "k", "1", "2", "3", "4")
			elements(t, in(t, k, texts).NS(c), "k")
			elements(t, in(t, k, texts), "k")
			entries(t, in(t, k, intMap).NS(a), "k", int64(1), "b", int64(2), "c")
			entries(t, in(t, k, intMap), "k")
			must(t, in(t, k, texts).NS(a).Clear("k"))
			must(t, in(t, k, intMap).NS(a).Clear("k"))
			k.Commit()
			isClean(t, k, "texts")
			isClean(t, k, "int-map")
		}},
	} {
		t.Run(c.id, func(t *testing.T) { engines.Cases(t, c.specs, c.run) })
	}
	t.Run("V-7", testOtherReader)
}

// testOtherReader is V-7. Handles have no current key, so there is nothing for two users of a store to disturb; what a query will
// read is the engine, which has committed rows only. (There is no query yet, and no reader beside the task.)
func testOtherReader(t *testing.T) {
	for name, machine := range engines {
		t.Run(name, func(t *testing.T) {
			k := storetest.NewTask(t, machine, store.Options{}, aString, longs, intMap)
			one, two := in(t, k, aString), in(t, k, aString)
			must(t, one.Put("A", "committed"))
			k.Commit()
			must(t, k.DB.Flush())
			full := append([]byte{0, 1}, k.Log("a-string")[0].Key...)
			for n := range 300 {
				must(t, one.Put("B", fmt.Sprint(n)))
				get(t, "committed")(two.Get("A"))
				get(t, fmt.Sprint(n))(two.Get("B"))
				row, ok, err := k.Engine().Get(nil, full)
				must(t, err)
				if value, _, err := store.ParseRow(row); !ok || err != nil || string(value) != "committed" {
					t.Fatalf("the engine has %q %v %v", value, ok, err)
				}
				if n == 200 {
					must(t, two.Put("A", "not committed"))
					get(t, "not committed")(one.Get("A"))
					k.Discard()
				}
				if n%3 == 0 {
					k.Commit()
				}
			}
			// Two iterations and a write, one inside the other.
			l, m := in(t, k, longs), in(t, k, intMap)
			must(t, l.Append("A", 1, 2))
			must(t, l.Append("B", 3, 4))
			got := []int64{}
			for a := range l.All("A").Values() {
				for b := range l.All("B").Values() {
					got = append(got, a*10+b)
					must(t, l.Append("A", 9))
					must(t, m.Put("A", a, "x"))
				}
			}
			if !slices.Equal(got, []int64{13, 14, 23, 24}) {
				t.Errorf("%v", got)
			}
			elements(t, l, "A", 1, 2, 9, 9, 9, 9)
		})
	}
}

// TestGarbageComesBack discards an epoch in which garbage was swept, in whole and in part: it is garbage again.
func TestGarbageComesBack(t *testing.T) {
	for name, machine := range engines {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{40, 1000} {
				k := storetest.NewTask(t, machine, store.Options{}, longs)
				l := in(t, k, longs)
				must(t, l.AppendAll("k", make([]int64, 100)))
				must(t, l.Clear("k"))
				k.Commit()
				n, more, err := k.DB.SweepGarbage(limit)
				must(t, err)
				if n != min(limit, 100) || more != (limit < 100) {
					t.Errorf("%d rows swept of at most %d, more %v", n, limit, more)
				}
				k.Seal()
				if n, more, err = k.DB.SweepGarbage(30); n != max(0, min(30, 100-limit)) || more != (limit < 100) || err != nil {
					t.Errorf("then %d rows, more %v, %v", n, more, err)
				}
				k.Discard()
				if n := sweep(t, k); n != 100 {
					t.Errorf("%d rows swept after the epoch was discarded", n)
				}
				k.Commit()
				isClean(t, k, "longs")
				if n := sweep(t, k); n != 0 {
					t.Errorf("%d rows swept when all was done", n)
				}
				// And what is left behind later is swept too.
				must(t, l.AppendAll("k", make([]int64, 50)))
				must(t, l.Clear("k"))
				k.Commit()
				if n := sweep(t, k); n != 50 {
					t.Errorf("%d rows swept, of the next list", n)
				}
			}
		})
	}
}

// TestGarbageIsRestored restores garbage, and a map with a generation, into a database that had neither when it was looked at.
func TestGarbageIsRestored(t *testing.T) {
	k := storetest.NewTask(t, engines["memory"], store.Options{}, intMap)
	m := in(t, k, intMap)
	for n := range int64(100) {
		must(t, m.Put("k", n, "old"))
	}
	must(t, m.Clear("k"))
	must(t, m.Put("k", 1, "new"))
	k.Commit()

	other := storetest.NewTask(t, engines["memory"], store.Options{}, intMap)
	m = in(t, other, intMap)
	absent[string](t)(m.Get("k", 1))
	if n := sweep(t, other); n != 0 {
		t.Errorf("%d rows swept of nothing", n)
	}
	other.Commit()
	var rows []store.Mutation
	for _, c := range k.Log("int-map") {
		rows = append(rows, store.Mutation{Key: c.Key, Value: c.Value, Delete: c.Value == nil})
	}
	must(t, other.DB.Restore("int-map", rows, nil))
	entries(t, m, "k", int64(1), "new")
	if n := sweep(t, other); n != 100 {
		t.Errorf("%d rows swept", n)
	}
}

// TestStateInsideFunctions lets the functions of Reducing and Aggregating use the store they belong to.
func TestStateInsideFunctions(t *testing.T) {
	var r store.ReducingState[string, int64]
	var a store.AggregatingState[string, int64, int64, int64]
	reducing := store.Reducing("r", serde.String(), serde.Int64(), func(old, added int64) int64 {
		if added == 2 {
			_, err := r.Add("j", 10)
			must(t, err)
		}
		return old + added
	})
	aggregating := store.Aggregating("a", serde.String(), serde.Int64(), store.Aggregator[int64, int64, int64]{
		New: func() int64 { return 0 },
		Add: func(acc, added int64) int64 {
			if added == 2 {
				must(t, a.Add("j", 10))
			}
			return acc + added
		},
		Result: func(acc int64) int64 { return acc },
	})
	k := storetest.NewTask(t, engines["memory"], store.Options{}, reducing, aggregating)
	r, a = in(t, k, reducing), in(t, k, aggregating)
	for n := range int64(3) {
		_, err := r.Add("k", n)
		must(t, err)
		must(t, a.Add("k", n))
	}
	for _, c := range []struct {
		key  string
		want int64
	}{{"k", 3}, {"j", 10}} {
		get(t, c.want)(r.Get(c.key))
		get(t, c.want)(a.Get(c.key))
	}
	must(t, a.NS([]byte("x")).Add("k", 1))
	code(t, a.Merge("k", nil, []byte("x")), "store/no-merge")
	get(t, int64(3))(a.Get("k"))
	must(t, a.Merge("other", nil, []byte("x")))
	must(t, a.Merge("k", []byte("y"), []byte("x"))) // one alone needs no Merge
	get(t, int64(1))(a.NS([]byte("y")).Get("k"))
}

// TestStateMistakes opens stores as what they are not, and gives them what they do not take.
func TestStateMistakes(t *testing.T) {
	k := storetest.NewTask(t, engines["memory"], store.Options{}, aString, longs, pointers, intMap, sum)
	for _, err := range []error{
		second(store.List("a-string", serde.String(), serde.String()).In(k.DB)),
		second(store.KeyValue("a-string", serde.String(), serde.String()).In(k.DB)),
		second(store.List("longs", serde.String(), serde.Float64()).In(k.DB)),
		second(store.Map("int-map", serde.String(), serde.Int32(), serde.String()).In(k.DB)),
		second(store.Map("int-map", serde.Int64(), serde.Int64(), serde.String()).In(k.DB)),
		second(store.Reducing("sum", serde.String(), serde.Float64(), func(a, b float64) float64 { return a + b }).In(k.DB)),
	} {
		code(t, err, "store/other-type")
	}
	_, err := store.Reducing("sum", serde.String(), serde.Int64(), nil).In(k.DB)
	code(t, err, "store/no-function")
	_, err = store.Aggregating("average", serde.String(), serde.Int64(), store.Aggregator[int, int64, int]{}).In(k.DB)
	code(t, err, "store/no-function")
	_, err = aString.In(storeless{})
	code(t, err, "store/unknown")

	long := strings.Repeat("x", store.KeyBytesMax)
	l, m := in(t, k, longs), in(t, k, intMap)
	code(t, l.Append(long, 1), "store/key-too-long")
	code(t, l.NS([]byte(long)).Append("k", 1), "store/key-too-long")
	code(t, m.Put(long, 1, "x"), "store/key-too-long")
	code(t, m.PutAll("k", maps.All(map[int64]string{1: "x", 2: strings.Repeat("x", store.ValueBytesMax+1)})), "store/value-too-long")
	code(t, in(t, k, aString).Put(long, "x"), "store/key-too-long")
	if k.DB.Dirty() {
		t.Error("something was written")
	}
	wide := store.Value("wide", wideKeys{}, serde.String())
	w := in(t, storetest.NewTask(t, engines["memory"], store.Options{}, wide), wide)
	must(t, w.Put("four", "x"))
	code(t, w.Put("other", "x"), "store/key-width")

	null := store.Value("null", serde.Optional(serde.String()), serde.String())
	n := in(t, storetest.NewTask(t, engines["memory"], store.Options{}, null), null)
	code(t, n.Put(nil, "x"), "store/null-key")
}

func second[S any](_ S, err error) error { return err }

type storeless struct{}

func (storeless) Rows(string) (*store.Rows, error) {
	return nil, &fault.Error{Code: "store/unknown"}
}

// wideKeys says that all keys have four bytes.
type wideKeys struct{}

func (wideKeys) Width() int                                  { return 4 }
func (wideKeys) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }
func (wideKeys) Decode(src []byte) (string, error)           { return string(src), nil }
