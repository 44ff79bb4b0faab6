package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/store/storetest"
)

var (
	modelValues = store.Value("values", serde.String(), serde.String())
	modelLists  = store.List("lists", serde.String(), serde.String())
	modelMaps   = store.Map("maps", serde.String(), serde.Int32(), serde.Optional(serde.String()))
	modelSums   = store.Reducing("sums", serde.String(), serde.Int64(), func(old, added int64) int64 { return old*3 + added })
	modelChains = store.Aggregating("chains", serde.String(), serde.String(), store.Aggregator[int, string, int]{
		New:    func() string { return ">" },
		Add:    func(acc string, n int) string { return acc + strconv.Itoa(n) },
		Result: func(acc string) int { return len(acc) },
		Merge:  func(a, b string) string { return a + b },
	})
)

// place is a key in a namespace.
type place struct{ key, ns string }

// kinds is what plain Go says the five stores hold. What the maps of maps hold is not changed but replaced.
type kinds struct {
	values map[place]string
	lists  map[place][]string
	maps   map[place]map[int32]string // "" is null
	sums   map[place]int64
	chains map[place]string
}

func (k kinds) clone() kinds {
	return kinds{maps.Clone(k.values), maps.Clone(k.lists), maps.Clone(k.maps), maps.Clone(k.sums), maps.Clone(k.chains)}
}

// stateModel does at random what an application may do to state of every kind, and what a task does around it.
type stateModel struct {
	*testing.T
	k    *storetest.Task
	rnd  *rand.Rand
	n    int
	done map[string]int

	now, saved, committed kinds
	sealed                []kinds

	values store.ValueState[string, string]
	lists  store.ListState[string, string]
	maps   store.MapState[string, int32, *string]
	sums   store.ReducingState[string, int64]
	chains store.AggregatingState[string, int, string, int]
}

// TestModelState runs random operations on all kinds of state, against plain Go, through commits, rollbacks, discarded epochs and
// crashes. MILLRACE_STATE_OPS is how many; MILLRACE_STATE_SEED is where the seeds begin.
func TestModelState(t *testing.T) {
	number := func(name string, n int) int {
		if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return v
		}
		return n
	}
	ops := number("MILLRACE_STATE_OPS", 50_000)
	if testing.Short() {
		ops /= 5
	}
	const each = 5000
	done := map[string]int{}
	for seed := number("MILLRACE_STATE_SEED", 0); ops > 0; seed++ {
		for _, engine := range []string{"memory", "pebble"} {
			t.Run(fmt.Sprintf("%s,seed=%d", engine, seed), func(t *testing.T) {
				runStateModel(t, engines[engine], uint64(seed), min(ops, each), done)
			})
			if t.Failed() {
				return
			}
			ops -= each
		}
	}
	t.Log(done)
	for _, what := range []string{"generation", "rollback", "discard", "crash, disk kept", "crash, disk lost", "sweep in parts", "merge", "replace in place"} {
		if done[what] < 5 {
			t.Errorf("%s happened %d times: the test does not try it", what, done[what])
		}
	}
}

func runStateModel(t *testing.T, machine func() storetest.Machine, seed uint64, ops int, done map[string]int) {
	rnd := rand.New(rand.NewPCG(seed, 5))
	cache := []int64{1, 32 << 10, 16 << 20}[rnd.IntN(3)]
	m := &stateModel{T: t, rnd: rnd, done: done, k: storetest.NewTask(t, machine, store.Options{CacheBytes: cache}, modelValues, modelLists, modelMaps, modelSums, modelChains)}
	empty := kinds{map[place]string{}, map[place][]string{}, map[place]map[int32]string{}, map[place]int64{}, map[place]string{}}
	m.now, m.saved, m.committed = empty, empty.clone(), empty.clone()
	m.open()
	for range ops {
		m.step()
		if t.Failed() {
			t.Fatalf("at operation %d", m.n)
		}
	}
	m.compare()
	m.end()
}

func (m *stateModel) open() {
	m.values, m.lists, m.maps = in(m.T, m.k, modelValues), in(m.T, m.k, modelLists), in(m.T, m.k, modelMaps)
	m.sums, m.chains = in(m.T, m.k, modelSums), in(m.T, m.k, modelChains)
}

func (m *stateModel) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatalf("operation %d: %v", m.n, err)
	}
}

func (m *stateModel) same(what string, got, want any) {
	m.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		m.Fatalf("operation %d: %s is %s, want %s", m.n, what, g, w)
	}
}

var modelKeys = []string{"1", "11", "1\x00", "", "key of more letters"}

func (m *stateModel) place() place {
	return place{modelKeys[m.rnd.IntN(len(modelKeys))], []string{"", "1", "\x00w"}[m.rnd.IntN(3)]}
}

func (m *stateModel) word() string {
	m.n++
	s := "v" + strconv.Itoa(m.n)
	if m.rnd.IntN(20) == 0 {
		s += strings.Repeat("x", m.rnd.IntN(300))
	}
	return s
}

func (m *stateModel) words(n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = m.word()
	}
	return s
}

// many is mostly a small number, and at times one around that from which collections are cleared by generation.
func (m *stateModel) many() int {
	switch m.rnd.IntN(8) {
	case 0:
		return 28 + m.rnd.IntN(8)
	case 1:
		return m.rnd.IntN(90)
	}
	return m.rnd.IntN(4)
}

func (m *stateModel) step() {
	m.n++
	switch op := m.rnd.IntN(1000); {
	case op < 80:
		m.value()
	case op < 130:
		m.sum()
	case op < 180:
		m.chain()
	case op < 420:
		m.list()
	case op < 680:
		m.aMap()
	case op < 700:
		m.merge()
	case op < 880:
		m.k.DB.Savepoint()
		m.saved = m.now.clone()
	case op < 910:
		m.done["rollback"]++
		m.k.DB.Rollback()
		m.now = m.saved.clone()
	case op < 940:
		m.sweep(1 + m.rnd.IntN(40))
	case op < 965:
		m.k.Seal()
		m.sealed = append(m.sealed, m.now.clone())
		m.saved = m.now.clone()
	case op < 985:
		m.k.Apply()
		if len(m.sealed) > 0 {
			m.committed, m.sealed = m.sealed[0], m.sealed[1:]
		}
	case op < 989:
		m.done["discard"]++
		m.k.Discard()
		m.dropped()
	case op < 991:
		m.ok(m.k.DB.Flush())
	case op < 993:
		m.done["crash, disk kept"]++
		m.k.Crash(true)
		m.dropped()
		m.open()
	case op < 994:
		m.done["crash, disk lost"]++
		m.k.Crash(false)
		m.dropped()
		m.open()
	default:
		m.compare()
	}
}

func (m *stateModel) dropped() {
	m.sealed = nil
	m.now, m.saved = m.committed.clone(), m.committed.clone()
}

func (m *stateModel) sweep(limit int) {
	m.k.DB.Savepoint()
	n, more, err := m.k.DB.SweepGarbage(limit)
	m.ok(err)
	if n > limit || more && n < limit {
		m.Fatalf("operation %d: swept %d of at most %d, more %v", m.n, n, limit, more)
	}
	if more {
		m.done["sweep in parts"]++
	}
	m.k.DB.Savepoint()
	m.saved = m.now.clone()
}

func (m *stateModel) value() {
	p := m.place()
	s := m.values.NS([]byte(p.ns))
	switch m.rnd.IntN(4) {
	case 0:
		m.ok(s.Clear(p.key))
		delete(m.now.values, p)
	case 1:
		v := m.word()
		m.ok(s.Put(p.key, v))
		m.now.values[p] = v
	default:
		v, ok, err := s.Get(p.key)
		m.ok(err)
		want, there := m.now.values[p]
		m.same("value", []any{v, ok}, []any{want, there})
	}
}

func (m *stateModel) sum() {
	p := m.place()
	s := m.sums.NS([]byte(p.ns))
	if m.rnd.IntN(8) == 0 {
		m.ok(s.Clear(p.key))
		delete(m.now.sums, p)
		return
	}
	add := int64(m.n)
	v, err := s.Add(p.key, add)
	m.ok(err)
	if old, ok := m.now.sums[p]; ok {
		add += old * 3
	}
	m.now.sums[p] = add
	m.same("sum", v, add)
	got, ok, err := s.Get(p.key)
	m.ok(err)
	m.same("sum", []any{got, ok}, []any{add, true})
}

func (m *stateModel) chain() {
	p := m.place()
	s := m.chains.NS([]byte(p.ns))
	if m.rnd.IntN(8) == 0 {
		m.ok(s.Clear(p.key))
		delete(m.now.chains, p)
		return
	}
	m.ok(s.Add(p.key, m.n))
	old, ok := m.now.chains[p]
	if !ok {
		old = ">"
	}
	m.now.chains[p] = old + strconv.Itoa(m.n)
	n, ok, err := s.Get(p.key)
	m.ok(err)
	m.same("chain", []any{n, ok}, []any{len(m.now.chains[p]), true})
}

func (m *stateModel) setList(p place, list []string) {
	if len(list) == 0 {
		delete(m.now.lists, p)
	} else {
		m.now.lists[p] = slices.Clip(list)
	}
}

func (m *stateModel) list() {
	p := m.place()
	l := m.lists.NS([]byte(p.ns))
	list := slices.Clone(m.now.lists[p])
	switch m.rnd.IntN(10) {
	case 0, 1, 2:
		add := m.words(m.many())
		m.ok(l.Append(p.key, add...))
		list = append(list, add...)
	case 3:
		if len(list) >= 32 {
			m.done["generation"]++
		}
		m.ok(l.Clear(p.key))
		list = nil
	case 4, 5:
		if len(list) > 0 && len(list) < 32 {
			m.done["replace in place"]++
		}
		put := m.words(m.many())
		m.ok(l.Replace(p.key, put))
		list = put
	case 6, 7:
		// Go through it, change some, and do something else in between.
		all := l.All(p.key)
		var kept []string
		i, mod := 0, 1+m.rnd.IntN(6)
		cleared, stop := false, -1
		if m.rnd.IntN(3) == 0 && len(list) > 0 {
			stop = m.rnd.IntN(len(list))
		}
		was := list
		var added []string
		for v := range all.Values() {
			if i >= len(was) {
				m.Fatalf("operation %d: element %d is %q, want the end", m.n, i, v)
			}
			m.same("element", v, was[i])
			switch r := m.rnd.IntN(4 * mod); {
			case r == 0:
				m.ok(all.Delete())
			case r == 1:
				w := m.word()
				m.ok(all.Set(w))
				kept = append(kept, w)
			case r == 2 && len(added) < 5:
				added = append(added, m.word())
				m.ok(l.Append(p.key, added[len(added)-1]))
				kept = append(kept, v)
			case r == 3 && m.rnd.IntN(20) == 0:
				// The rest is shown and cannot be changed.
				if cleared, added = true, nil; m.rnd.IntN(2) == 0 {
					m.ok(l.Clear(p.key))
				} else {
					added = m.words(m.many())
					m.ok(l.Replace(p.key, added))
				}
			default:
				kept = append(kept, v)
			}
			if cleared {
				kept = nil
			}
			if i++; i-1 == stop {
				break
			}
		}
		m.ok(all.Err())
		if stop < 0 && i != len(was) {
			m.Fatalf("operation %d: %d elements, want %d", m.n, i, len(was))
		}
		if cleared {
			list = added
		} else {
			list = append(append(kept, was[i:]...), added...)
		}
	case 8:
		n, err := l.Len(p.key)
		m.ok(err)
		m.same("length", n, len(list))
	default:
		got := []string{}
		all := l.All(p.key).Reverse()
		for v := range all.Values() {
			got = append(got, v)
		}
		m.ok(all.Err())
		slices.Reverse(got)
		m.same("list", got, list)
	}
	m.setList(p, list)
}

func (m *stateModel) nullable() (*string, string) {
	if m.rnd.IntN(5) == 0 {
		return nil, ""
	}
	w := m.word()
	return &w, w
}

func shown(v *string) string {
	if v == nil {
		return ""
	}
	return *v
}

func (m *stateModel) setMap(p place, entries map[int32]string) {
	if len(entries) == 0 {
		delete(m.now.maps, p)
	} else {
		m.now.maps[p] = entries
	}
}

func (m *stateModel) aMap() {
	p := m.place()
	h := m.maps.NS([]byte(p.ns))
	entries := maps.Clone(m.now.maps[p])
	if entries == nil {
		entries = map[int32]string{}
	}
	sub := int32(m.rnd.IntN(60) - 30)
	switch m.rnd.IntN(12) {
	case 0, 1:
		v, w := m.nullable()
		m.ok(h.Put(p.key, sub, v))
		entries[sub] = w
	case 2:
		m.ok(h.PutAll(p.key, func(yield func(int32, *string) bool) {
			for range m.many() {
				s := int32(m.rnd.IntN(60) - 30)
				v, w := m.nullable()
				entries[s] = w
				if !yield(s, v) {
					return
				}
			}
		}))
	case 3:
		m.ok(h.Delete(p.key, sub))
		delete(entries, sub)
	case 4:
		if len(entries) >= 32 {
			m.done["generation"]++
		}
		m.ok(h.Clear(p.key))
		clear(entries)
	case 5:
		v, ok, err := h.Get(p.key, sub)
		m.ok(err)
		w, there := entries[sub]
		m.same("entry", []any{shown(v), ok}, []any{w, there})
		ok, err = h.Contains(p.key, sub)
		m.ok(err)
		m.same("contains", ok, there)
	case 6:
		empty, err := h.IsEmpty(p.key)
		m.ok(err)
		m.same("empty", empty, len(entries) == 0)
		s, _, ok, err := h.Last(p.key)
		m.ok(err)
		if m.same("has a last", ok, len(entries) > 0); ok {
			m.same("last", s, slices.Max(slices.Collect(maps.Keys(entries))))
		}
	case 7, 8:
		lo, hi := sub, sub+int32(m.rnd.IntN(40))
		scan := h.Range(p.key, lo, hi)
		back := m.rnd.IntN(2) == 0
		if back {
			scan.Reverse()
		}
		var want []int32
		for _, s := range slices.Sorted(maps.Keys(entries)) {
			if s >= lo && s <= hi {
				want = append(want, s)
			}
		}
		if back {
			slices.Reverse(want)
		}
		got := slices.Collect(scan.Keys())
		m.ok(scan.Err())
		m.same("range", got, want)
	default:
		scan := h.All(p.key)
		want := slices.Sorted(maps.Keys(entries))
		was := maps.Clone(entries)
		i, mod := 0, 1+m.rnd.IntN(6)
		for s, v := range scan.Rows() {
			if i >= len(want) || s != want[i] || shown(v) != was[s] {
				m.Fatalf("operation %d: entry %d is %d %q, want %v", m.n, i, s, shown(v), want)
			}
			i++
			switch r := m.rnd.IntN(4 * mod); {
			case r == 0:
				m.ok(scan.Delete())
				delete(entries, s)
			case r == 1:
				v, w := m.nullable()
				m.ok(scan.Set(v))
				if _, there := entries[s]; there {
					entries[s] = w
				}
			case r == 2:
				other := int32(m.rnd.IntN(60) - 30)
				v, w := m.nullable()
				m.ok(h.Put(p.key, other, v))
				entries[other] = w
			case r == 3 && m.rnd.IntN(20) == 0:
				m.ok(h.Clear(p.key))
				clear(entries)
			}
			if m.rnd.IntN(60) == 0 {
				i = len(want)
				break
			}
		}
		m.ok(scan.Err())
		m.same("entries shown", i, len(want))
	}
	m.setMap(p, entries)
}

func (m *stateModel) merge() {
	m.done["merge"]++
	key := m.place().key
	spaces := []string{"", "1", "\x00w"}
	m.rnd.Shuffle(3, func(i, j int) { spaces[i], spaces[j] = spaces[j], spaces[i] })
	target, sources := []byte(spaces[0]), [][]byte{[]byte(spaces[1]), []byte(spaces[2])}
	to := place{key, spaces[0]}
	m.ok(m.lists.Merge(key, target, sources...))
	m.ok(m.maps.Merge(key, target, sources...))
	m.ok(m.sums.Merge(key, target, sources...))
	m.ok(m.chains.Merge(key, target, sources...))
	list, entries := slices.Clone(m.now.lists[to]), maps.Clone(m.now.maps[to])
	if entries == nil {
		entries = map[int32]string{}
	}
	for _, ns := range spaces[1:] {
		from := place{key, ns}
		list = append(list, m.now.lists[from]...)
		maps.Copy(entries, m.now.maps[from])
		if v, ok := m.now.sums[from]; ok {
			if old, ok := m.now.sums[to]; ok {
				v += old * 3
			}
			m.now.sums[to] = v
		}
		if v, ok := m.now.chains[from]; ok {
			m.now.chains[to] += v
		}
		delete(m.now.lists, from)
		delete(m.now.maps, from)
		delete(m.now.sums, from)
		delete(m.now.chains, from)
	}
	m.setList(to, list)
	m.setMap(to, entries)
}

// compare looks at everything.
func (m *stateModel) compare() {
	for _, ns := range []string{"", "1", "\x00w"} {
		var keys [5][]string
		for i, scan := range []*store.KeyScan[string]{
			m.values.NS([]byte(ns)).Keys(), m.lists.NS([]byte(ns)).Keys(), m.maps.NS([]byte(ns)).Keys(), m.sums.NS([]byte(ns)).Keys(), m.chains.NS([]byte(ns)).Keys(),
		} {
			keys[i] = slices.Collect(scan.Keys())
			m.ok(scan.Err())
		}
		var want [5][]string
		for _, key := range slices.Sorted(slices.Values(modelKeys)) {
			p := place{key, ns}
			for i, there := range []bool{has(m.now.values, p), has(m.now.lists, p), has(m.now.maps, p), has(m.now.sums, p), has(m.now.chains, p)} {
				if there {
					want[i] = append(want[i], key)
				}
			}
			got, err := m.lists.NS([]byte(ns)).Slice(key)
			m.ok(err)
			m.same("list", got, m.now.lists[p])
			entries := map[int32]string{}
			all := m.maps.NS([]byte(ns)).All(key)
			for s, v := range all.Rows() {
				entries[s] = shown(v)
			}
			m.ok(all.Err())
			m.same("map", entries, m.now.maps[p])
			v, _, err := m.values.NS([]byte(ns)).Get(key)
			m.ok(err)
			m.same("value", v, m.now.values[p])
			n, _, err := m.sums.NS([]byte(ns)).Get(key)
			m.ok(err)
			m.same("sum", n, m.now.sums[p])
			c, _, err := m.chains.NS([]byte(ns)).Get(key)
			m.ok(err)
			m.same("chain", c, len(m.now.chains[p]))
		}
		m.same("keys", keys, want)
	}
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// end clears everything: when all is swept there is nothing left, neither in the engine nor in what compaction leaves.
func (m *stateModel) end() {
	for _, key := range modelKeys {
		for _, ns := range []string{"", "1", "\x00w"} {
			n := []byte(ns)
			m.ok(m.values.NS(n).Clear(key))
			m.ok(m.lists.NS(n).Clear(key))
			m.ok(m.maps.NS(n).Clear(key))
			m.ok(m.sums.NS(n).Clear(key))
			m.ok(m.chains.NS(n).Clear(key))
		}
	}
	for sealed := 0; ; sealed++ {
		n, more, err := m.k.DB.SweepGarbage(100)
		m.ok(err)
		m.k.Commit()
		if n == 0 && !more {
			break
		}
	}
	for _, s := range []string{"values", "lists", "maps", "sums", "chains"} {
		isClean(m.T, m.k, s)
	}
}
