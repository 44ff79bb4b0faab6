package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/store/storetest"
	"github.com/millrace-io/millrace/ttl"
)

// TestTTLModel runs random operations on a key-value store, a map and a list with a time to live against a model that knows nothing of
// clean-ups: whatever is swept, and when, whatever is discarded, crashes or is restored, nothing that is read may differ. In the end,
// when everything is dead, nothing may be left.
func TestTTLModel(t *testing.T) {
	seeds := uint64(10)
	if testing.Short() {
		seeds = 3
	}
	access := ttl.AfterAccess(100 * ms)
	for name, p := range map[string]ttl.Policy{
		"walk":                ttl.AfterWrite(100 * ms).Sweep(3),
		"buckets":             ttl.AfterWrite(100 * ms).Buckets(7 * ms),
		"reads":               access,
		"reads, rarely":       access.RefreshEvery(40 * ms).Buckets(20 * ms),
		"event time":          ttl.AfterWrite(100 * ms).EventTime(),
		"event time, reads":   access.EventTime().Buckets(time.Second),
		"event time, buckets": ttl.AfterWrite(100 * ms).EventTime().Buckets(ms),
		"kept on restore":     ttl.AfterWrite(100 * ms).KeepOnRestore().Buckets(30 * ms),
	} {
		for engine, machine := range ttlEngines {
			t.Run(name+", "+engine, func(t *testing.T) {
				for seed := range seeds {
					rnd := rand.New(rand.NewPCG(seed, 77))
					m := newTTLModel(t, p, func() storetest.Machine {
						m := machine()
						if c, ok := m.(*crashMachine); ok {
							c.rnd = rnd
						}
						return m
					}, rnd)
					for range 1500 {
						m.step()
						if t.Failed() {
							t.Fatalf("seed %d", seed)
						}
					}
					m.end()
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

type ttlEntry struct {
	v  string
	ts int64
}

// ttlState is what the model knows: entries by key, of all stores, dead ones too. Elements of lists have their number as key.
type ttlState struct {
	entries map[string]ttlEntry
	next    int // element
}

func (s ttlState) clone() ttlState { return ttlState{maps.Clone(s.entries), s.next} }

type ttlModel struct {
	*ttlTask
	p    ttl.Policy
	rnd  *rand.Rand
	n    int
	late int64 // the record behind the clock

	state, saved, committed ttlState
	sealed                  []ttlState

	kv   *store.KV[string, string]
	m    store.MapState[string, string, string]
	list store.ListState[string, string]
}

func ttlModelSpecs(p ttl.Policy) []store.Spec {
	o := store.WithTTL(p)
	return []store.Spec{store.KeyValue("kv", str, str, o), store.Map("map", str, str, str, o), store.List("list", str, str, o)}
}

func newTTLModel(t *testing.T, p ttl.Policy, machine func() storetest.Machine, rnd *rand.Rand) *ttlModel {
	cache := []int64{1, 16 << 10, 1 << 20}[rnd.IntN(3)]
	k := storetest.NewTask(t, machine, store.Options{CacheBytes: cache}, ttlModelSpecs(p)...)
	m := &ttlModel{ttlTask: newTTLTask(t, k), p: p, rnd: rnd}
	m.state = ttlState{entries: map[string]ttlEntry{}}
	m.saved, m.committed = m.state.clone(), m.state.clone()
	m.tick(0)
	m.open()
	return m
}

func (m *ttlModel) open() {
	var err error
	m.kv, err = store.KeyValue("kv", str, str).In(m.DB)
	must(m.t, err)
	m.m, err = store.Map("map", str, str, str).In(m.DB)
	must(m.t, err)
	m.list, err = store.List("list", str, str).In(m.DB)
	must(m.t, err)
}

func (m *ttlModel) tick(by int64) {
	m.now += by
	m.event = m.now
	m.DB.SetClocks(m.now, m.event)
}

func (m *ttlModel) alive(e ttlEntry) bool { return e.ts+100 > m.now }

// read is what a read of key shows, and does.
func (m *ttlModel) read(key string) (string, bool) {
	e, ok := m.state.entries[key]
	if !ok || !m.alive(e) {
		delete(m.state.entries, key)
		return "", false
	}
	if m.p.OnRead() && m.now-e.ts > m.p.Refresh() {
		e.ts = m.now
		m.state.entries[key] = e
	}
	return e.v, true
}

func (m *ttlModel) write(key, v string) {
	ts := m.now
	if m.p.ByEventTime() {
		ts = m.time()
	}
	m.state.entries[key] = ttlEntry{v, ts}
}

func (m *ttlModel) time() int64 { return m.now - m.late }

func (m *ttlModel) prefix(p string, reverse bool) []string {
	var keys []string
	for k := range m.state.entries {
		if len(k) > len(p) && k[:len(p)] == p {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if reverse {
		slices.Reverse(keys)
	}
	return keys
}

func (m *ttlModel) step() {
	t := m.t
	if m.rnd.IntN(3) == 0 {
		m.tick(m.rnd.Int64N(12))
	}
	m.late = m.rnd.Int64N(30)
	m.DB.SetTime(m.time())
	m.n++
	key, sub, v := fmt.Sprintf("%02d", m.rnd.IntN(40)), fmt.Sprintf("%d", m.rnd.IntN(6)), fmt.Sprintf("v%d", m.n)
	few := key[:1]
	switch op := m.rnd.IntN(1000); {
	case op < 150:
		must(t, m.kv.Put(key, v))
		m.write("kv/"+key, v)
	case op < 250:
		got, ok, err := m.kv.Get(key)
		must(t, err)
		if want, there := m.read("kv/" + key); got != want || ok != there {
			t.Fatalf("get %s at %d: %q %v, want %q %v", key, m.now, got, ok, want, there)
		}
	case op < 290:
		_, was, err := m.kv.Delete(key)
		must(t, err)
		if _, there := m.read("kv/" + key); was != there {
			t.Fatalf("delete %s at %d: %v, want %v", key, m.now, was, there)
		}
		delete(m.state.entries, "kv/"+key)
	case op < 320:
		m.scan(m.rnd.IntN(2) == 0)
	case op < 420:
		must(t, m.m.Put(few, sub, v))
		m.write("map/"+few+"/"+sub, v)
	case op < 480:
		got, ok, err := m.m.Get(few, sub)
		must(t, err)
		if want, there := m.read("map/" + few + "/" + sub); got != want || ok != there {
			t.Fatalf("map get %s %s at %d: %q %v, want %q %v", few, sub, m.now, got, ok, want, there)
		}
	case op < 500:
		var got, want []string
		all := m.m.All(few)
		for s, v := range all.Rows() {
			got = append(got, s+v)
		}
		must(t, all.Err())
		for _, k := range m.prefix("map/"+few+"/", false) {
			if v, ok := m.read(k); ok {
				want = append(want, k[len("map/"+few+"/"):]+v)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("map %s at %d: %v, want %v", few, m.now, got, want)
		}
	case op < 510:
		must(t, m.m.Clear(few))
		for _, k := range m.prefix("map/"+few+"/", false) {
			delete(m.state.entries, k)
		}
	case op < 620:
		var vs []string
		for i := range 1 + m.rnd.IntN(3) {
			vs = append(vs, fmt.Sprintf("%s.%d", v, i))
			m.state.next++
			m.write(fmt.Sprintf("list/%s/%09d", few, m.state.next), vs[i])
		}
		must(t, m.list.Append(few, vs...))
	case op < 680:
		m.slice(few)
	case op < 690:
		must(t, m.list.Clear(few))
		for _, k := range m.prefix("list/"+few+"/", false) {
			delete(m.state.entries, k)
		}
	case op < 780:
		m.DB.Savepoint()
		m.saved = m.state.clone()
	case op < 810:
		m.DB.Rollback()
		m.state = m.saved.clone()
	case op < 890:
		n := m.rnd.IntN(20)
		done, _, err := m.DB.Sweep(n)
		must(t, err)
		if done > n {
			t.Fatalf("%d rows looked at, %d allowed", done, n)
		}
		m.saved = m.state.clone()
	case op < 900:
		_, _, err := m.DB.SweepGarbage(10)
		must(t, err)
		m.DB.Savepoint()
		m.saved = m.state.clone()
	case op < 930:
		m.Seal()
		m.sealed = append(m.sealed, m.state.clone())
		m.saved = m.state.clone()
	case op < 960:
		if m.Apply(); len(m.sealed) > 0 {
			m.committed, m.sealed = m.sealed[0], m.sealed[1:]
		}
	case op < 970:
		m.Discard()
		m.reset()
	case op < 975:
		must(t, m.DB.Tick(m.now+int64(m.n)*10_000))
	case op < 985:
		m.enabled = m.DB.TTLEnabledAt()
		// The clean-up may be another one from here on: an index is made, or made anew, or thrown away.
		m.With(ttlModelSpecs([]ttl.Policy{m.p, m.p, m.p.Sweep(3), m.p.Buckets(13 * ms)}[m.rnd.IntN(4)])...)
		m.Crash(m.rnd.IntN(2) == 0)
		m.open()
		m.reset()
	case op < 990:
		m.Commit()
		m.sealed, m.committed, m.saved = nil, m.state.clone(), m.state.clone()
		must(t, m.DB.Flush())
		must(t, m.DB.CheckIndex())
	default:
		m.tick(m.rnd.Int64N(120))
	}
}

func (m *ttlModel) reset() {
	m.sealed = nil
	m.state, m.saved = m.committed.clone(), m.committed.clone()
}

// scan compares the key-value store, and writes meanwhile, which the scan must not show.
func (m *ttlModel) scan(reverse bool) {
	t := m.t
	var want []string
	was := m.state.clone()
	for _, k := range m.prefix("kv/", reverse) {
		if e := was.entries[k]; m.alive(e) {
			want = append(want, k[3:]+"="+e.v)
		}
	}
	all := m.kv.All()
	if reverse {
		all.Reverse()
	}
	// Not late: what a read does to a row depends on the row that is shown.
	m.late = 0
	m.DB.SetTime(m.time())
	var got []string
	for k, v := range all.Rows() {
		got = append(got, k+"="+v)
		m.read("kv/" + k)
		if m.rnd.IntN(4) == 0 {
			other := fmt.Sprintf("%02d", m.rnd.IntN(40))
			must(t, m.kv.Put(other, "meanwhile"))
			m.write("kv/"+other, "meanwhile")
		}
	}
	must(t, all.Err())
	if !slices.Equal(got, want) {
		t.Fatalf("scan at %d, reverse %v: %v, want %v", m.now, reverse, got, want)
	}
}

func (m *ttlModel) slice(key string) {
	got, err := m.list.Slice(key)
	must(m.t, err)
	want := []string{}
	for _, k := range m.prefix("list/"+key+"/", false) {
		if v, ok := m.read(k); ok {
			want = append(want, v)
		}
	}
	if !slices.Equal(got, want) {
		m.t.Fatalf("list %s at %d: %v, want %v", key, m.now, got, want)
	}
	n, err := m.list.Len(key)
	must(m.t, err)
	if n != int64(len(want)) {
		m.t.Fatalf("list %s at %d: %d elements, %d in its head", key, m.now, len(want), n)
	}
}

// end lets everything die.
func (m *ttlModel) end() {
	left := func() (n int) {
		for _, s := range []string{"kv", "map", "list"} {
			for key, row := range m.Physical(s) {
				if _, h, err := store.ParseRowHeader([]byte(row)); err != nil || !h.Permanent() || s == "list" && key[0] == 3 {
					n++
				}
			}
		}
		return n
	}
	for i := 0; ; i++ {
		m.tick(2000)
		m.sweep(50)
		m.Commit()
		n := left()
		due, err := m.DB.LocalRows(store.LocalDue)
		must(m.t, err)
		debt, err := m.DB.LocalRows(store.LocalDead)
		must(m.t, err)
		if n == 0 && due == 0 && debt == 0 {
			break
		}
		if i == 5 {
			m.t.Fatalf("%d dead rows, %d rows of the index and %d debts are left", n, due, debt)
		}
	}
	for _, s := range []string{"kv", "map", "list"} {
		for key, row := range m.Live(s) {
			if _, h, err := store.ParseRowHeader([]byte(row)); err != nil || !h.Permanent() {
				m.t.Fatalf("the changelog of %s still has %q", s, key)
			}
		}
	}
}
