package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/store/storetest"
)

// Values have three versions: a number, its text, and the text with the version it came by.
func number(v int64) (string, error) {
	if v == 666 {
		return "", errors.New("no text for it")
	}
	return strconv.FormatInt(v, 10), nil
}

func through(s string) (string, error) { return s + "!", nil }

var (
	codec1 = serde.Int64()
	codec2 = serde.Evolve(2, serde.String(), serde.From(1, codec1, number))
	codec3 = serde.Evolve(3, serde.JSON[string](), serde.From(2, codec2, through))
)

// evolving is each kind of store with values of the three versions, and what it shows of them.
type evolving struct {
	spec func(version int) store.Spec
	// write puts the number under key, as version 1, or as the text of another version.
	write func(t *testing.T, k *storetest.Task, version int, key string, n int64)
	read  func(t *testing.T, k *storetest.Task, version int, key string) string
}

func text3(v string, _ bool, err error) string { return fmt.Sprint(v, err) }

var evolvingKinds = map[string]evolving{
	"key-value": evolvingOf(
		func(c serde.Serde[int64]) store.KeyValueSpec[string, int64] {
			return store.KeyValue("s", serde.String(), c)
		},
		func(c serde.Serde[string]) store.KeyValueSpec[string, string] {
			return store.KeyValue("s", serde.String(), c)
		},
		func(s *store.KV[string, int64], key string, v int64) error { return s.Put(key, v) },
		func(s *store.KV[string, string], key string, v string) error { return s.Put(key, v) },
		func(s *store.KV[string, string], key string) (string, error) {
			v, _, err := s.Get(key)
			scan := s.Range(key, key)
			for _, shown := range scan.Rows() {
				if shown != v {
					return "", fmt.Errorf("Get says %q, Range %q", v, shown)
				}
			}
			return v, errors.Join(err, scan.Err())
		}),
	"value": evolvingOf(
		func(c serde.Serde[int64]) store.ValueSpec[string, int64] { return store.Value("s", serde.String(), c) },
		func(c serde.Serde[string]) store.ValueSpec[string, string] {
			return store.Value("s", serde.String(), c)
		},
		func(s store.ValueState[string, int64], key string, v int64) error { return s.Put(key, v) },
		func(s store.ValueState[string, string], key string, v string) error { return s.Put(key, v) },
		func(s store.ValueState[string, string], key string) (string, error) {
			v, _, err := s.Get(key)
			return v, err
		}),
	"list": evolvingOf(
		func(c serde.Serde[int64]) store.ListSpec[string, int64] { return store.List("s", serde.String(), c) },
		func(c serde.Serde[string]) store.ListSpec[string, string] { return store.List("s", serde.String(), c) },
		func(s store.ListState[string, int64], key string, v int64) error { return s.Replace(key, []int64{v}) },
		func(s store.ListState[string, string], key string, v string) error {
			return s.Replace(key, []string{v})
		},
		func(s store.ListState[string, string], key string) (string, error) {
			all, err := s.Slice(key)
			return strings.Join(all, ","), err
		}),
	"map": evolvingOf(
		func(c serde.Serde[int64]) store.MapSpec[string, string, int64] {
			return store.Map("s", serde.String(), serde.String(), c)
		},
		func(c serde.Serde[string]) store.MapSpec[string, string, string] {
			return store.Map("s", serde.String(), serde.String(), c)
		},
		func(s store.MapState[string, string, int64], key string, v int64) error { return s.Put(key, "sub", v) },
		func(s store.MapState[string, string, string], key string, v string) error {
			return s.Put(key, "sub", v)
		},
		func(s store.MapState[string, string, string], key string) (string, error) {
			v, _, err := s.Get(key, "sub")
			return v, err
		}),
	"reducing": evolvingOf(
		func(c serde.Serde[int64]) store.ReducingSpec[string, int64] {
			return store.Reducing("s", serde.String(), c, func(a, b int64) int64 { return b })
		},
		func(c serde.Serde[string]) store.ReducingSpec[string, string] {
			return store.Reducing("s", serde.String(), c, func(a, b string) string { return b })
		},
		func(s store.ReducingState[string, int64], key string, v int64) error {
			_, err := s.Add(key, v)
			return err
		},
		func(s store.ReducingState[string, string], key string, v string) error {
			_, err := s.Add(key, v)
			return err
		},
		func(s store.ReducingState[string, string], key string) (string, error) {
			v, _, err := s.Get(key)
			return v, err
		}),
	"aggregating": evolvingOf(
		func(c serde.Serde[int64]) store.AggregatingSpec[string, int64, int64, int64] {
			return store.Aggregating("s", serde.String(), c, store.Aggregator[int64, int64, int64]{
				New: func() int64 { return 0 }, Add: func(_, v int64) int64 { return v }, Result: func(v int64) int64 { return v },
			})
		},
		func(c serde.Serde[string]) store.AggregatingSpec[string, string, string, string] {
			return store.Aggregating("s", serde.String(), c, store.Aggregator[string, string, string]{
				New: func() string { return "" }, Add: func(_, v string) string { return v }, Result: func(v string) string { return v },
			})
		},
		func(s store.AggregatingState[string, int64, int64, int64], key string, v int64) error {
			return s.Add(key, v)
		},
		func(s store.AggregatingState[string, string, string, string], key string, v string) error {
			return s.Add(key, v)
		},
		func(s store.AggregatingState[string, string, string, string], key string) (string, error) {
			v, _, err := s.Get(key)
			return v, err
		}),
	"partition list": evolvingOf(
		func(c serde.Serde[int64]) store.PartitionListSpec[int64] { return store.PartitionList("s", c) },
		func(c serde.Serde[string]) store.PartitionListSpec[string] { return store.PartitionList("s", c) },
		func(s *store.PartitionListState[int64], _ string, v int64) error { return s.Put(v) },
		func(s *store.PartitionListState[string], _ string, v string) error { return s.Put(v) },
		func(s *store.PartitionListState[string], _ string) (string, error) {
			all, err := s.All()
			return strings.Join(all, ","), err
		}),
}

// evolvingOf makes one of them of a declaration and handles for numbers, and of those for texts.
func evolvingOf[A, B any, SA interface {
	store.Spec
	In(store.Source) (A, error)
}, SB interface {
	store.Spec
	In(store.Source) (B, error)
}](numbers func(serde.Serde[int64]) SA, texts func(serde.Serde[string]) SB,
	put func(A, string, int64) error, write func(B, string, string) error, read func(B, string) (string, error),
) evolving {
	codecs := map[int]serde.Serde[string]{2: codec2, 3: codec3}
	return evolving{
		spec: func(version int) store.Spec {
			if version == 1 {
				return numbers(codec1)
			}
			return texts(codecs[version])
		},
		write: func(t *testing.T, k *storetest.Task, version int, key string, n int64) {
			t.Helper()
			if version == 1 {
				must(t, put(in[A](t, k, numbers(codec1)), key, n))
				return
			}
			must(t, write(in[B](t, k, texts(codecs[version])), key, strconv.FormatInt(n, 10)))
		},
		read: func(t *testing.T, k *storetest.Task, version int, key string) string {
			t.Helper()
			v, err := read(in[B](t, k, texts(codecs[version])), key)
			return text3(v, true, err)
		},
	}
}

// versionsOf counts the rows of a changelog as they were written, by version, without rows of ours.
func versionsOf(t *testing.T, k *storetest.Task, from int) map[uint16]int {
	t.Helper()
	n := map[uint16]int{}
	for _, c := range k.Log("s")[from:] {
		if c.Value == nil {
			continue
		}
		_, h, err := store.ParseRowHeader(c.Value)
		must(t, err)
		if !h.Permanent() {
			n[h.Version]++
		}
	}
	return n
}

// Rows are read by their own version, upgraded on the way, and written in today's form when they are next put: after a crash with
// the disk and without.
func TestEvolve(t *testing.T) {
	for _, kind := range sortedNames(evolvingKinds) {
		e := evolvingKinds[kind]
		for _, kept := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, disk kept %v", kind, kept), func(t *testing.T) {
				for _, engine := range sortedNames(engines) {
					t.Run(engine, func(t *testing.T) {
						k := storetest.NewTask(t, engines[engine], store.Options{}, e.spec(1))
						upgrade := func(version int) int {
							k.Commit()
							k.With(e.spec(version))
							k.Crash(kept)
							return len(k.Log("s"))
						}
						want := func(version int, key, want string) {
							t.Helper()
							if got := e.read(t, k, version, key); got != want+"<nil>" {
								t.Errorf("version %d reads %q, want %q", version, got, want)
							}
						}
						e.write(t, k, 1, "a", 7)
						end := upgrade(2)
						want(2, "a", "7")
						want(2, "a", "7")
						k.Commit()
						if n := versionsOf(t, k, end); len(n) != 0 {
							t.Errorf("reading wrote rows: %v", n)
						}
						end = upgrade(3) // the row is still of version 1: two steps
						want(3, "a", "7!")
						e.write(t, k, 3, "a", 8)
						want(3, "a", "8")
						k.Commit()
						if n := versionsOf(t, k, end); n[3] != 1 || len(n) != 1 {
							t.Errorf("rows written by version: %v", n)
						}
						upgrade(3)
						want(3, "a", "8")
						// A program that is older than its rows says so, and touches nothing.
						upgrade(2)
						if got := e.read(t, k, 2, "a"); !strings.Contains(got, "serde/version") || !strings.Contains(got, "newer program") {
							t.Errorf("%q", got)
						}
						upgrade(3)
						want(3, "a", "8")
					})
				}
			})
		}
	}
}

// Many rows of all versions, mixed, across upgrades and crashes: each is what its own version makes of it.
func TestEvolveMixed(t *testing.T) {
	e := evolvingKinds["key-value"]
	for _, engine := range sortedNames(engines) {
		for _, seed := range []uint64{1, 2, 3} {
			t.Run(fmt.Sprintf("%s, seed %d", engine, seed), func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 15))
				k := storetest.NewTask(t, engines[engine], store.Options{}, e.spec(1))
				type row struct {
					version int
					n       int64
				}
				model := map[string]row{}
				for version := 1; version <= 3; version++ {
					for range 5 {
						for range 40 {
							key, n := fmt.Sprint(rnd.IntN(60)), rnd.Int64N(600)
							e.write(t, k, version, key, n)
							model[key] = row{version, n}
						}
						if version > 1 {
							for key, r := range model {
								want := strconv.FormatInt(r.n, 10)
								if version == 3 && r.version < 3 {
									want += "!"
								}
								if got := e.read(t, k, version, key); got != want+"<nil>" {
									t.Fatalf("%q of version %d is %q, want %q", key, r.version, got, want)
								}
							}
						}
						k.Commit()
						k.Crash(rnd.IntN(2) == 0)
					}
					k.With(e.spec(min(version+1, 3)))
					k.Crash(rnd.IntN(2) == 0)
				}
			})
		}
	}
}

// An upgrade function that refuses is an error of the record that reads the row; the row stays.
func TestEvolveUpgradeFails(t *testing.T) {
	e := evolvingKinds["key-value"]
	k := storetest.NewTask(t, engines["memory"], store.Options{}, e.spec(1))
	e.write(t, k, 1, "a", 666)
	k.Commit()
	k.With(e.spec(2))
	k.Crash(true)
	kv := in[*store.KV[string, string]](t, k, store.KeyValue("s", serde.String(), codec2))
	if _, ok, err := kv.Get("a"); fault.Code(err) != "serde/upgrade" || ok || !strings.Contains(err.Error(), "store s") {
		t.Errorf("%v %v", ok, err)
	}
	scan := kv.All()
	for range scan.Rows() {
		t.Error("shown")
	}
	if fault.Code(scan.Err()) != "serde/upgrade" {
		t.Error(scan.Err())
	}
	must(t, kv.Put("a", "mended"))
	if v, ok, err := kv.Get("a"); v != "mended" || !ok || err != nil {
		t.Error(v, ok, err)
	}
}

// A store is opened with the versions it was attached with: rows would be read as another version else.
func TestEvolveOpenedOtherwise(t *testing.T) {
	plain, versions := store.KeyValue("s", serde.String(), serde.String()), store.KeyValue("s", serde.String(), codec2)
	k := storetest.NewTask(t, engines["memory"], store.Options{}, plain)
	if _, err := versions.In(k.DB); fault.Code(err) != "store/other-type" || !strings.Contains(err.Error(), "version 2 (string)") {
		t.Error(err)
	}
	must(t, second(plain.In(k.DB)))
	k = storetest.NewTask(t, engines["memory"], store.Options{}, store.List("s", serde.String(), codec2))
	if _, err := store.List("s", serde.String(), serde.String()).In(k.DB); fault.Code(err) != "store/other-type" {
		t.Error(err)
	}
}

func TestForms(t *testing.T) {
	str := serde.String()
	for _, c := range []struct {
		spec store.Spec
		want []serde.Form
	}{
		{store.KeyValue("s", str, codec1), []serde.Form{{Version: 1, ID: "int64"}}},
		{store.KeyValue("s", str, codec3), []serde.Form{{Version: 1, ID: "int64"}, {Version: 2, ID: "string"}, {Version: 3, ID: "json:string"}}},
		{store.Map("s", str, serde.Int64(), codec2), []serde.Form{{Version: 1, ID: "{int64: int64}"}, {Version: 2, ID: "{int64: string}"}}},
		{store.Broadcast("s", str, codec2), []serde.Form{{Version: 1, ID: "int64"}, {Version: 2, ID: "string"}}},
		{store.Partition("s", codec2), []serde.Form{{Version: 1, ID: "int64"}, {Version: 2, ID: "string"}}},
		{store.NewRows("s", store.KindTimers, "k", "v"), []serde.Form{{Version: 1, ID: "v"}}},
	} {
		if got := store.Forms(c.spec); !slices.Equal(got, c.want) || got[len(got)-1].ID != c.spec.ValueID() {
			t.Errorf("%T: %v, id %s, want %v", c.spec, got, c.spec.ValueID(), c.want)
		}
	}
	for _, c := range []struct {
		spec store.Spec
		code string
	}{
		{store.KeyValue("s", str, codec3), ""},
		{store.KeyValue("s", codec3, str), "serde/place"},
		{store.List("s", codec2, str), "serde/place"},
		{store.Map("s", str, codec2, str), "serde/place"},
		{store.Partition("s", codec2), ""},
		{store.Global("s", codec2), "serde/place"},
		{store.Global("s", str), ""},
		{store.KeyValue("s", str, serde.Evolve(0, str)), "serde/evolution"},
	} {
		if err := store.Usable(c.spec); fault.Code(err) != c.code {
			t.Errorf("%T with key %s and value %s: %v, want %q", c.spec, c.spec.KeyID(), c.spec.ValueID(), err, c.code)
		}
	}
}

func sortedNames[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
