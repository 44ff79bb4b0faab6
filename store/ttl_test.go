package store_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/store/storetest"
	"github.com/millrace-io/millrace/ttl"
)

var ttlEngines = storetest.Engines{
	"memory": func() storetest.Machine { return &memoryMachine{store.NewMemory()} },
	"pebble": func() storetest.Machine {
		return &crashMachine{fs: vfs.NewCrashableMem(), rnd: rand.New(rand.NewPCG(1, 9))}
	},
}

const ms = time.Millisecond

// ttlTask is a task with clocks, and with what the kernel keeps of times to live.
type ttlTask struct {
	*storetest.Task
	t       *testing.T
	now     int64
	event   int64
	enabled map[string]int64
}

func newTTLTask(t *testing.T, k *storetest.Task) *ttlTask {
	w := &ttlTask{Task: k, t: t, event: -1}
	w.Restoring = func(db *store.DB) { db.SetClocks(w.now, w.event) }
	w.Restored = func(db *store.DB) { must(t, db.SetTTLEnabledAt(w.enabled)) }
	k.DB.SetClocks(0, -1)
	must(t, k.DB.SetTTLEnabledAt(nil))
	w.enabled = k.DB.TTLEnabledAt()
	return w
}

// at sets the clock of processing time.
func (w *ttlTask) at(now int64) {
	w.now = now
	w.DB.SetClocks(w.now, w.event)
	w.DB.Savepoint()
}

// step ends a step of a case.
func (w *ttlTask) step() {
	w.t.Helper()
	w.enabled = w.DB.TTLEnabledAt()
	w.Step()
}

// sweep cleans up until there is nothing left to do, in calls of n rows.
func (w *ttlTask) sweep(n int) {
	w.t.Helper()
	for i := 0; ; i++ {
		done, more, err := w.DB.Sweep(n)
		must(w.t, err)
		if done > n {
			w.t.Fatalf("%d rows were looked at, %d allowed", done, n)
		}
		if !more {
			return
		}
		if i > 100_000 {
			w.t.Fatal("the clean-up does not come to an end")
		}
	}
}

// gone fails unless the store has no row of which the key contains part, neither in the database nor in the changelog.
func (w *ttlTask) gone(part string) {
	w.t.Helper()
	w.Commit()
	for key := range w.Physical("s") {
		if strings.Contains(key, part) {
			w.t.Errorf("the database still has row %q", key)
		}
	}
	for key := range w.Live("s") {
		if strings.Contains(key, part) {
			w.t.Errorf("the changelog still has row %q", key)
		}
	}
}

// cell is any kind of state seen as one value per id.
type cell struct {
	write func(id, v string) error
	read  func(id string) (v string, ok bool, err error)
	clear func(id string) error
}

func (w *ttlTask) open(k ttlKind) cell {
	w.t.Helper()
	c, err := k.open(w.DB)
	must(w.t, err)
	return c
}

type ttlKind struct {
	name string
	spec func(p ttl.Policy) store.Spec
	open func(src store.Source) (cell, error)
}

func kindOf[S interface {
	store.Spec
	In(store.Source) (H, error)
}, H any](name string, declare func(...store.Option) S, wrap func(H) cell) ttlKind {
	return ttlKind{
		name: name,
		spec: func(p ttl.Policy) store.Spec { return declare(store.WithTTL(p)) },
		open: func(src store.Source) (cell, error) {
			h, err := declare().In(src)
			if err != nil {
				return cell{}, err
			}
			return wrap(h), nil
		},
	}
}

var str = serde.String()

func kvSpec(o ...store.Option) store.KeyValueSpec[string, string] {
	return store.KeyValue("s", str, str, o...)
}

func valueSpec(o ...store.Option) store.ValueSpec[string, string] {
	return store.Value("s", str, str, o...)
}

func listSpec(o ...store.Option) store.ListSpec[string, string] {
	return store.List("s", str, str, o...)
}

// fixedSpec has elements of fixed length: numbers of written texts.
func fixedSpec(o ...store.Option) store.ListSpec[string, int64] {
	return store.List("s", str, serde.Int64(), o...)
}

var fixedTexts []string

func mapSpec(o ...store.Option) store.MapSpec[string, string, string] {
	return store.Map("s", str, str, str, o...)
}

func nullMapSpec(o ...store.Option) store.MapSpec[string, string, *string] {
	return store.Map("s", str, str, serde.Optional(str), o...)
}

func reducingSpec(o ...store.Option) store.ReducingSpec[string, string] {
	return store.Reducing("s", str, str, func(_, added string) string { return added }, o...)
}

func joinSpec(o ...store.Option) store.AggregatingSpec[string, string, string, string] {
	return store.Aggregating("s", str, str, store.Aggregator[string, string, string]{
		New:    func() string { return "" },
		Add:    func(acc, v string) string { return acc + v },
		Result: func(acc string) string { return acc },
		Merge:  func(a, b string) string { return a + b },
	}, o...)
}

func sumSpec(o ...store.Option) store.ReducingSpec[string, int64] {
	return store.Reducing("s", str, serde.Int64(), func(old, added int64) int64 { return old + added }, o...)
}

// ttlKinds are the kinds of state, each as one value per id: in a namespace of its own where the kind has them, else by key.
var ttlKinds = []ttlKind{
	kindOf("key-value", kvSpec, func(h *store.KV[string, string]) cell {
		return cell{
			write: h.Put, read: h.Get,
			clear: func(id string) error { _, _, err := h.Delete(id); return err },
		}
	}),
	kindOf("value", valueSpec, func(h store.ValueState[string, string]) cell {
		return cell{write: h.Put, read: h.Get, clear: h.Clear}
	}),
	kindOf("value, namespaces", valueSpec, func(h store.ValueState[string, string]) cell {
		return cell{
			write: func(id, v string) error { return h.NS([]byte(id)).Put("k", v) },
			read:  func(id string) (string, bool, error) { return h.NS([]byte(id)).Get("k") },
			clear: func(id string) error { return h.NS([]byte(id)).Clear("k") },
		}
	}),
	kindOf("list", listSpec, func(h store.ListState[string, string]) cell {
		return cell{
			write: func(id, v string) error { return h.Replace(id, []string{v}) },
			read:  func(id string) (string, bool, error) { return only(h.Slice(id)) },
			clear: h.Clear,
		}
	}),
	kindOf("list, fixed length", fixedSpec, func(h store.ListState[string, int64]) cell {
		return cell{
			write: func(id, v string) error {
				fixedTexts = append(fixedTexts, v)
				return h.Replace(id, []int64{int64(len(fixedTexts) - 1)})
			},
			read: func(id string) (string, bool, error) {
				all, err := h.Slice(id)
				if err != nil || len(all) == 0 {
					return "", false, err
				}
				return fixedTexts[all[0]], true, nil
			},
			clear: h.Clear,
		}
	}),
	kindOf("list, namespaces", listSpec, func(h store.ListState[string, string]) cell {
		return cell{
			write: func(id, v string) error { return h.NS([]byte(id)).Replace("k", []string{v, v + v}) },
			read:  func(id string) (string, bool, error) { return only(h.NS([]byte(id)).Slice("k")) },
			clear: func(id string) error { return h.NS([]byte(id)).Clear("k") },
		}
	}),
	kindOf("map", mapSpec, func(h store.MapState[string, string, string]) cell {
		return cell{
			write: func(id, v string) error { return h.Put(id, "sub", v) },
			read:  func(id string) (string, bool, error) { return h.Get(id, "sub") },
			clear: h.Clear,
		}
	}),
	kindOf("map, entries", mapSpec, func(h store.MapState[string, string, string]) cell {
		return cell{
			write: func(id, v string) error { return h.Put("k", id, v) },
			read:  func(id string) (string, bool, error) { return h.Get("k", id) },
			clear: func(id string) error { return h.Delete("k", id) },
		}
	}),
	kindOf("map, null elements", nullMapSpec, func(h store.MapState[string, string, *string]) cell {
		return cell{
			write: func(id, v string) error { return h.Put("k", id, nil) },
			read: func(id string) (string, bool, error) {
				v, ok, err := h.Get("k", id)
				if ok && v != nil {
					return *v, true, err
				}
				return "null", ok, err
			},
			clear: func(id string) error { return h.Delete("k", id) },
		}
	}),
	kindOf("reducing", reducingSpec, func(h store.ReducingState[string, string]) cell {
		return cell{
			write: func(id, v string) error { _, err := h.Add(id, v); return err },
			read:  h.Get, clear: h.Clear,
		}
	}),
	kindOf("aggregating, namespaces", joinSpec, func(h store.AggregatingState[string, string, string, string]) cell {
		return cell{
			write: func(id, v string) error {
				if err := h.NS([]byte(id)).Clear("k"); err != nil {
					return err
				}
				return h.NS([]byte(id)).Add("k", v)
			},
			read:  func(id string) (string, bool, error) { return h.NS([]byte(id)).Get("k") },
			clear: func(id string) error { return h.NS([]byte(id)).Clear("k") },
		}
	}),
}

func only(all []string, err error) (string, bool, error) {
	if err != nil || len(all) == 0 {
		return "", false, err
	}
	return all[0], true, nil
}

// script runs the steps of a case on every kind, engine and mode. A step is KEY:op@t, where op is w (write a new value), ok (a
// read returns what was written last), no (it returns nothing), x (clear) and gone (no row is left).
func script(t *testing.T, p ttl.Policy, steps string) {
	t.Helper()
	for _, kind := range ttlKinds {
		t.Run(kind.name, func(t *testing.T) {
			ttlEngines.Cases(t, []store.Spec{kind.spec(p)}, func(t *testing.T, k *storetest.Task) {
				w := newTTLTask(t, k)
				written := map[string]string{}
				for i, step := range strings.Fields(steps) {
					var id, op string
					id, step, _ = strings.Cut(step, ":")
					op, step, _ = strings.Cut(step, "@")
					var now int64
					if _, err := fmt.Sscan(step, &now); err != nil {
						t.Fatal(err)
					}
					w.at(now)
					c := w.open(kind)
					switch op {
					case "w":
						written[id] = fmt.Sprintf("%s-%d", id, i)
						must(t, c.write(id, written[id]))
						if kind.name == "map, null elements" {
							written[id] = "null"
						}
					case "x":
						must(t, c.clear(id))
					case "ok", "no":
						v, ok, err := c.read(id)
						must(t, err)
						if ok != (op == "ok") || ok && v != written[id] {
							t.Fatalf("step %d, %s:%s@%d: read %q %v, written %q", i+1, id, op, now, v, ok, written[id])
						}
					case "gone":
						w.gone(id)
					}
					w.step()
				}
			})
		})
	}
}

func TestTTL(t *testing.T) {
	write, access := ttl.AfterWrite(100*ms), ttl.AfterAccess(100*ms)
	for _, c := range []struct {
		id     string
		policy ttl.Policy
		steps  string
	}{
		{"T-1", write, "a:no@0 a:w@0 a:ok@20 a:w@50 a:ok@120 a:w@170 a:ok@220 a:no@300 a:gone@300"},
		{"T-2", write.ReturnExpiredIfNotCleanedUp(), "a:w@0 a:ok@120 a:gone@120 a:no@120"},
		{"T-3", access, "a:w@0 a:ok@50 a:ok@120 a:no@250 a:gone@250"},
		{"T-4", access.ReturnExpiredIfNotCleanedUp(), "a:w@0 a:ok@50 a:ok@170 a:no@170 a:gone@170"},
		{"T-5", ttl.AfterWrite(math.MaxInt64), "a:w@10 a:ok@50 a:ok@9000000000000"},
		{"T-6", write, "a:w@0 a:ok@99 a:no@100"},
		{"T-7", write.ReturnExpiredIfNotCleanedUp(), "a:w@0 a:ok@10 a:x@20 a:no@20 a:gone@20"},
		{"T-8", write, "id2:w@0 id1:w@50 id2:w@50 id1:ok@120 id2:ok@120 id2:w@170 id1:no@230 id2:ok@230 id1:no@300 id2:no@300"},
	} {
		t.Run(c.id, func(t *testing.T) { script(t, c.policy, c.steps) })
	}
	t.Run("T-9", ttlCleanedOnRestore)
	t.Run("T-10", ttlSnapshot)
	t.Run("T-11", ttlList)
	t.Run("T-12", ttlMap)
	t.Run("T-13", ttlReducing)
	t.Run("T-14", ttlMerge)
	t.Run("T-15", ttlSweep)
	t.Run("T-16", ttlSweepAndCommit)
	t.Run("T-17", ttlToggled)
	t.Run("T-18", ttlWhileDown)
}

// eachKind runs f for every kind, engine and mode.
func eachKind(t *testing.T, p ttl.Policy, f func(t *testing.T, w *ttlTask, k ttlKind)) {
	t.Helper()
	for _, kind := range ttlKinds {
		t.Run(kind.name, func(t *testing.T) {
			ttlEngines.Cases(t, []store.Spec{kind.spec(p)}, func(t *testing.T, k *storetest.Task) { f(t, newTTLTask(t, k), kind) })
		})
	}
}

// read fails unless ids have a value, or none.
func (w *ttlTask) read(k ttlKind, there bool, ids ...string) {
	w.t.Helper()
	c := w.open(k)
	for _, id := range ids {
		if v, ok, err := c.read(id); err != nil || ok != there {
			w.t.Errorf("%s@%d: read %q %v %v, want one: %v", id, w.now, v, ok, err, there)
		}
	}
}

func (w *ttlTask) write(k ttlKind, now int64, ids ...string) {
	w.t.Helper()
	w.at(now)
	c := w.open(k)
	for _, id := range ids {
		must(w.t, c.write(id, fmt.Sprintf("%s@%d", id, now)))
	}
}

func ttlCleanedOnRestore(t *testing.T) {
	eachKind(t, ttl.AfterWrite(100*ms), func(t *testing.T, w *ttlTask, k ttlKind) {
		w.write(k, 0, "id2")
		w.step()
		w.write(k, 50, "id1", "id2")
		w.step()
		w.write(k, 170, "id2")
		w.Commit()
		w.at(230)
		w.Crash(false)
		w.at(170)
		w.read(k, false, "id1")
		w.read(k, true, "id2")
		w.step()
		w.at(300)
		w.Commit()
		w.Crash(false)
		w.at(230)
		w.read(k, false, "id1", "id2")
	})
}

func ttlSnapshot(t *testing.T) {
	eachKind(t, ttl.AfterWrite(100*ms), func(t *testing.T, w *ttlTask, k ttlKind) {
		w.write(k, 0, "k1")
		w.step()
		w.write(k, 50, "k1")
		w.step()
		w.write(k, 100, "k2")
		snapshot := w.Commit()
		w.write(k, 170, "k1", "k2")
		w.step()
		w.at(180)
		w.Recover(snapshot)
		w.read(k, false, "k1")
		w.read(k, true, "k2")
	})
}

func ttlList(t *testing.T) {
	for name, p := range map[string]ttl.Policy{"write": ttl.AfterWrite(100 * ms), "access": ttl.AfterAccess(100 * ms)} {
		t.Run(name, func(t *testing.T) {
			ttlEngines.Cases(t, []store.Spec{listSpec(store.WithTTL(p))}, func(t *testing.T, k *storetest.Task) {
				w := newTTLTask(t, k)
				is := func(want ...string) {
					t.Helper()
					l, err := listSpec().In(w.DB)
					must(t, err)
					got, err := l.Slice("k")
					must(t, err)
					if !slices.Equal(got, want) {
						t.Fatalf("@%d: %v, want %v", w.now, got, want)
					}
					n, err := l.Len("k")
					must(t, err)
					if n != int64(len(want)) {
						t.Fatalf("@%d: %d elements, after a read of %v", w.now, n, want)
					}
					w.step()
				}
				add := func(now int64, v string) {
					t.Helper()
					w.at(now)
					l, err := listSpec().In(w.DB)
					must(t, err)
					must(t, l.Append("k", v))
					w.step()
				}
				add(0, "a")
				add(60, "b")
				w.at(110)
				is("b")
				w.at(160)
				if name == "access" {
					is("b")
					w.at(259)
					is("b")
					w.at(359)
				}
				is()
				w.gone("")
				add(400, "c")
				is("c")
			})
		})
	}
}

func ttlMap(t *testing.T) {
	for name, p := range map[string]ttl.Policy{"write": ttl.AfterWrite(100 * ms), "access": ttl.AfterAccess(100 * ms)} {
		t.Run(name, func(t *testing.T) {
			ttlEngines.Cases(t, []store.Spec{mapSpec(store.WithTTL(p))}, func(t *testing.T, k *storetest.Task) {
				w := newTTLTask(t, k)
				open := func() store.MapState[string, string, string] {
					m, err := mapSpec().In(w.DB)
					must(t, err)
					return m
				}
				has := func(sub string, want bool) {
					t.Helper()
					ok, err := open().Contains("m", sub)
					must(t, err)
					if ok != want {
						t.Fatalf("@%d: contains %s: %v", w.now, sub, ok)
					}
					w.step()
				}
				put := func(now int64, sub string) {
					t.Helper()
					w.at(now)
					must(t, open().Put("m", sub, sub))
					w.step()
				}
				put(0, "k1")
				put(60, "k2")
				w.at(110)
				has("k1", false)
				v, ok, err := open().Get("m", "k2")
				must(t, err)
				if !ok || v != "k2" {
					t.Fatalf("k2: %q %v", v, ok)
				}
				w.step()
				all := open().All("m")
				var subs []string
				for sub := range all.Rows() {
					subs = append(subs, sub)
				}
				must(t, all.Err())
				if !slices.Equal(subs, []string{"k2"}) {
					t.Fatalf("entries %v", subs)
				}
				w.step()
				w.at(159)
				has("k2", true)
				w.at(160)
				has("k2", name == "access")
				if name == "access" {
					w.at(259) // contains counted at 160
					has("k2", true)
					w.at(359)
				}
				empty, err := open().IsEmpty("m")
				must(t, err)
				if !empty {
					t.Fatal("not empty")
				}
				w.step()
				w.gone("")
			})
		})
	}
}

func ttlReducing(t *testing.T) {
	ttlEngines.Cases(t, []store.Spec{sumSpec(store.WithTTL(ttl.AfterWrite(100 * ms)))}, func(t *testing.T, k *storetest.Task) {
		w := newTTLTask(t, k)
		add := func(now, n, want int64) {
			t.Helper()
			w.at(now)
			s, err := sumSpec().In(w.DB)
			must(t, err)
			got, err := s.Add("k", n)
			must(t, err)
			if got != want {
				t.Fatalf("@%d: %d, want %d", now, got, want)
			}
			w.step()
		}
		add(0, 5, 5)
		add(120, 7, 7)
		add(219, 1, 8)
	})
	ttlEngines.Cases(t, []store.Spec{joinSpec(store.WithTTL(ttl.AfterWrite(100 * ms)))}, func(t *testing.T, k *storetest.Task) {
		w := newTTLTask(t, k)
		add := func(now int64, v, want string) {
			t.Helper()
			w.at(now)
			s, err := joinSpec().In(w.DB)
			must(t, err)
			must(t, s.Add("k", v))
			if got, ok, err := s.Get("k"); got != want || !ok || err != nil {
				t.Fatalf("@%d: %q %v %v, want %q", now, got, ok, err, want)
			}
			w.step()
		}
		add(0, "5", "5")
		add(120, "7", "7")
		add(219, "1", "71")
	})
}

func ttlMerge(t *testing.T) {
	type steps = []struct {
		now int64
		ns  string
		n   int64
	}
	do := steps{
		{0, "expired", 1}, {0, "expiredAndUpdated", 2}, {120, "expiredAndUpdated", 10}, {150, "expiredAndUpdated", 20},
		{120, "unexpired", 100}, {150, "unexpired", 200}, {150, "final", 1000},
	}
	slices.SortStableFunc(do, func(a, b struct {
		now int64
		ns  string
		n   int64
	}) int {
		return int(a.now - b.now)
	})
	sources := func() (all [][]byte) {
		for _, ns := range []string{"expired", "expiredAndUpdated", "unexpired", "unset1", "unset2"} {
			all = append(all, []byte(ns))
		}
		return all
	}
	t.Run("reducing", func(t *testing.T) {
		ttlEngines.Cases(t, []store.Spec{sumSpec(store.WithTTL(ttl.AfterWrite(100 * ms)))}, func(t *testing.T, k *storetest.Task) {
			w := newTTLTask(t, k)
			open := func(now int64, ns string) store.ReducingState[string, int64] {
				w.at(now)
				s, err := sumSpec().In(w.DB)
				must(t, err)
				return s.NS([]byte(ns))
			}
			for _, d := range do {
				_, err := open(d.now, d.ns).Add("k", d.n)
				must(t, err)
				w.step()
			}
			must(t, open(230, "").Merge("k", []byte("final"), sources()...))
			w.step()
			if sum, ok, err := open(230, "final").Get("k"); sum != 1330 || !ok || err != nil {
				t.Fatalf("%d %v %v", sum, ok, err)
			}
			if sum, ok, err := open(329, "final").Get("k"); sum != 1330 || !ok || err != nil {
				t.Fatalf("the merge was a write at 230: %d %v %v", sum, ok, err)
			}
			w.Commit()
			if n := len(w.Physical("s")); n != 1 {
				t.Errorf("%d rows", n)
			}
		})
	})
	t.Run("aggregating", func(t *testing.T) {
		ttlEngines.Cases(t, []store.Spec{joinSpec(store.WithTTL(ttl.AfterWrite(100 * ms)))}, func(t *testing.T, k *storetest.Task) {
			w := newTTLTask(t, k)
			open := func(now int64, ns string) store.AggregatingState[string, string, string, string] {
				w.at(now)
				s, err := joinSpec().In(w.DB)
				must(t, err)
				return s.NS([]byte(ns))
			}
			for _, d := range do {
				must(t, open(d.now, d.ns).Add("k", fmt.Sprintf("%d,", d.n)))
				w.step()
			}
			must(t, open(230, "").Merge("k", []byte("final"), sources()...))
			w.step()
			if all, ok, err := open(230, "final").Get("k"); all != "1000,10,20,100,200," || !ok || err != nil {
				t.Fatalf("%s %v %v", all, ok, err)
			}
		})
	})
}

// sweeps are the ways to clean up without a read.
var sweeps = map[string]ttl.Policy{
	"walk":    ttl.AfterWrite(100 * ms),
	"buckets": ttl.AfterWrite(100 * ms).Buckets(10 * ms),
}

func ids(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%04d", prefix, i)
	}
	return all
}

func ttlSweep(t *testing.T) {
	for name, p := range sweeps {
		t.Run(name, func(t *testing.T) {
			eachKind(t, p, func(t *testing.T, w *ttlTask, k ttlKind) {
				n := 200
				if testing.Short() {
					n = 60
				}
				w.write(k, 0, ids("dead", n)...)
				w.Commit()
				live := ids("live", len(w.Physical("s"))/5) // a list has a row of ours as well
				w.step()
				for i, id := range live {
					w.write(k, 120, id)
					_, _, err := w.DB.Sweep(100)
					must(t, err)
					if i == len(live)/2 { // the walk begins anew
						w.step()
					}
				}
				w.gone("dead")
				w.read(k, true, live...)
				w.read(k, false, ids("dead", n)...)
			})
		})
	}
}

func ttlSweepAndCommit(t *testing.T) {
	for name, p := range sweeps {
		t.Run(name, func(t *testing.T) {
			eachKind(t, p, func(t *testing.T, w *ttlTask, k ttlKind) {
				rest, u1, u2 := ids("rest", 40), ids("u1-", 20), ids("u2-", 20)
				all := slices.Concat(rest, u1, u2)
				w.write(k, 0, all...)
				w.Commit()
				must(t, w.DB.Flush()) // what only the table has is cleaned up a round later
				w.write(k, 50, u1...)
				w.Seal() // the commit is under way
				w.write(k, 50, u2...)
				w.at(120)
				_, _, err := w.DB.Sweep(7)
				must(t, err)
				w.Apply()
				const cut = 1 // the second commit
				w.sweep(7)
				w.Commit()
				must(t, w.DB.Flush())
				w.sweep(7)
				w.gone("rest")
				w.read(k, true, slices.Concat(u1, u2)...)

				w.at(50)
				w.Recover(cut)
				for _, id := range slices.Concat(u2, rest) {
					v, ok, err := w.open(k).read(id)
					if want := id + "@0"; err != nil || !ok || v != want && v != "null" {
						t.Fatalf("%s after the recovery: %q %v %v", id, v, ok, err)
					}
				}
				w.at(120)
				w.Recover(cut)
				w.read(k, true, u1...)
				w.read(k, false, u2...)
				w.sweep(5)
				w.gone("u2")
				w.gone("rest")
				w.at(170)
				w.sweep(100)
				w.read(k, false, all...)
				w.gone("u1")
			})
		})
	}
}

func ttlToggled(t *testing.T) {
	again := func(w *ttlTask, disk bool, now int64, s store.Spec) {
		w.t.Helper()
		w.Commit()
		w.enabled = w.DB.TTLEnabledAt()
		w.now = now
		w.With(s)
		w.Crash(disk)
		w.enabled = w.DB.TTLEnabledAt()
	}
	for name, p := range sweeps {
		for _, disk := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, disk kept %v", name, disk), func(t *testing.T) {
				eachKind(t, ttl.Disabled(), func(t *testing.T, w *ttlTask, k ttlKind) {
					// Off to on.
					w.write(k, 0, "a")
					again(w, disk, 1000, k.spec(p))
					w.at(1099)
					w.read(k, true, "a")
					w.sweep(10)
					again(w, disk, 1099, k.spec(p)) // not switched on a second time
					w.read(k, true, "a")
					w.write(k, 1099, "b")
					w.at(1100)
					w.read(k, false, "a")
					w.read(k, true, "b")
					// On to off.
					again(w, disk, 1150, k.spec(ttl.Disabled()))
					w.at(1_000_000)
					w.read(k, true, "b")
					// Off to on again: b has a time, of before.
					again(w, disk, 2_000_000, k.spec(p))
					w.at(2_000_099)
					w.read(k, true, "b")
					w.at(2_000_100)
					w.sweep(10)
					w.Commit()
					must(t, w.DB.Flush())
					w.sweep(10)
					w.gone("b")
					// Shorter, and longer.
					w.write(k, 3_000_000, "c")
					w.write(k, 3_000_050, "d")
					again(w, disk, 3_000_060, k.spec(ttl.AfterWrite(50*ms)))
					w.read(k, false, "c")
					w.read(k, true, "d")
					again(w, disk, 3_000_060, k.spec(ttl.AfterWrite(1000*ms)))
					w.at(3_000_000 + 1049)
					w.read(k, false, "c")
					w.read(k, true, "d")
					w.at(3_000_000 + 1050)
					w.read(k, false, "d")
				})
			})
		}
	}
	t.Run("schema change", func(t *testing.T) {
		ttlEngines.Cases(t, []store.Spec{kvSpec(store.WithTTL(ttl.AfterWrite(100 * ms)))}, func(t *testing.T, k *storetest.Task) {
			w := newTTLTask(t, k)
			kv, err := kvSpec().In(w.DB)
			must(t, err)
			must(t, kv.Put("a", "7"))
			v2 := store.KeyValue("s", str, serde.Evolve(2, str, serde.From(1, str, func(old string) (string, error) {
				return "v1:" + old, nil
			})), store.WithTTL(ttl.AfterWrite(100*ms)))
			again(w, true, 60, v2)
			kv, err = v2.In(w.DB)
			must(t, err)
			if v, ok, err := kv.Get("a"); v != "v1:7" || !ok || err != nil {
				t.Fatalf("%q %v %v", v, ok, err)
			}
			w.at(100)
			if v, ok, err := kv.Get("a"); ok || err != nil {
				t.Fatalf("%q %v %v", v, ok, err)
			}
		})
	})
}

func ttlWhileDown(t *testing.T) {
	for name, p := range map[string]ttl.Policy{
		"walk": sweeps["walk"], "buckets": sweeps["buckets"], "no clean-up": ttl.AfterWrite(100 * ms).NoCleanup(),
		"returned once": ttl.AfterAccess(100 * ms).Buckets(ms),
	} {
		t.Run(name, func(t *testing.T) {
			for _, disk := range []bool{true, false} {
				eachKind(t, p, func(t *testing.T, w *ttlTask, k ttlKind) {
					w.write(k, 0, "a", "b", "c")
					w.Commit()
					w.at(150)
					w.Crash(disk)
					w.write(k, 150, "b")
					w.read(k, false, "a")
					w.sweep(2)
					w.step()
					if !disk || name != "no clean-up" {
						w.Commit()
						must(t, w.DB.Flush())
						w.sweep(2)
						w.gone("c")
					}
					w.gone("a")
					w.read(k, true, "b")
				})
			}
		})
	}
}

func TestTTLRefused(t *testing.T) {
	spec := kvSpec(store.WithTTL(ttl.AfterWrite(0)))
	code(t, store.Usable(spec), "store/ttl")
	_, err := store.Open(store.NewMemory(), []store.Binding{{Spec: spec, Prefix: 1}}, store.Options{})
	code(t, err, "store/ttl")
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: kvSpec(store.WithTTL(ttl.AfterWrite(1))), Prefix: 1}}, store.Options{})
	must(t, err)
	kv, err := kvSpec().In(db)
	must(t, err)
	code(t, kv.Put("a", "b"), "store/no-clock")
	if fault.Code(db.Close()) != "" {
		t.Error("close")
	}
}
