package changelog_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

func text(v int64) (string, error) { return fmt.Sprint(v), nil }

// payments is the store of the tests, with the codec of its values.
func payments[V any](value serde.Serde[V]) store.Spec {
	return store.KeyValue("payments", serde.String(), value)
}

var (
	first       = payments(serde.Int64())
	second      = payments(serde.Evolve(2, serde.String(), serde.From(1, serde.Int64(), text)))
	third       = payments(serde.Evolve(3, serde.Bytes(), serde.From(2, serde.Evolve(2, serde.String(), serde.From(1, serde.Int64(), text)), func(s string) ([]byte, error) { return []byte(s), nil })))
	thirdOfTwo  = payments(serde.Evolve(3, serde.Bytes(), serde.From(2, serde.String(), func(s string) ([]byte, error) { return []byte(s), nil })))
	thirdOfOne  = payments(serde.Evolve(3, serde.Bytes(), serde.From(1, serde.Int64(), func(int64) ([]byte, error) { return nil, nil })))
	changed     = payments(serde.String())
	otherSecond = payments(serde.Evolve(2, serde.Float64(), serde.From(1, serde.Int64(), func(v int64) (float64, error) { return float64(v), nil })))
	otherFirst  = payments(serde.Evolve(2, serde.String(), serde.From(1, serde.Bytes(), func(b []byte) (string, error) { return string(b), nil })))
	otherKey    = store.KeyValue("payments", serde.Int64(), serde.Int64())
	otherKind   = store.Value("payments", serde.String(), serde.Int64())
	list        = store.List("payments", serde.String(), serde.Int64())
	otherList   = store.List("payments", serde.String(), serde.String())
	aMap        = store.Map("payments", serde.String(), serde.String(), serde.Int64())
	evolvedMap  = store.Map("payments", serde.String(), serde.String(), serde.Evolve(2, serde.String(), serde.From(1, serde.Int64(), text)))
	otherSub    = store.Map("payments", serde.String(), serde.Int64(), serde.Int64())
	reducing    = store.Reducing("payments", serde.String(), serde.Int64(), func(a, b int64) int64 { return a + b })
	otherRed    = store.Reducing("payments", serde.String(), serde.Float64(), func(a, b float64) float64 { return a + b })
	unnamed     = payments(serde.JSON[struct{ Card string }]())
)

// lives are programs that start one after the other; the last one is refused, or nobody is.
var lives = []struct {
	name   string
	starts []store.Spec
	code   string // without the room
	says   []string
}{
	{"the same", []store.Spec{first, first}, "", nil},
	{"evolved", []store.Spec{first, second, second}, "", nil},
	{"evolved twice", []store.Spec{first, second, third, third}, "", nil},
	{"evolved twice at once", []store.Spec{first, third}, "", nil},
	{"a version was never written", []store.Spec{first, thirdOfOne}, "", nil},
	{"begins evolved", []store.Spec{second, second, third}, "", nil},
	{"begins evolved, the first was never written", []store.Spec{second, thirdOfTwo}, "", nil},
	{"a map evolves", []store.Spec{aMap, evolvedMap}, "", nil},
	{"a type without a name", []store.Spec{unnamed, unnamed}, "", nil},
	{"another value codec", []store.Spec{first, changed}, "serde", []string{"value of store", `"int64"`, `"string"`, "serde.Evolve"}},
	{"another key codec", []store.Spec{first, otherKey}, "serde", []string{"key of store", `"string"`, `"int64"`}},
	{"another kind", []store.Spec{first, otherKind}, "store-kind", []string{"key-value", "value"}},
	{"another list codec", []store.Spec{list, otherList}, "serde", []string{`"int64"`, `"string"`}},
	{"another subkey codec", []store.Spec{aMap, otherSub}, "serde", []string{"{string: int64}", "{int64: int64}"}},
	{"another reducing codec", []store.Spec{reducing, otherRed}, "serde", []string{`"int64"`, `"float64"`}},
	{"no way from version 1", []store.Spec{first, second, thirdOfTwo}, "serde", []string{"version 1 (int64)", "version 2 (string), version 3 (bytes)", "serde.From"}},
	{"no way from version 2", []store.Spec{first, second, thirdOfOne}, "serde", []string{"version 2 (string)", "version 1 (int64), version 3 (bytes)"}},
	{"version 1 is called something else", []store.Spec{first, otherFirst}, "serde", []string{"version 1 (int64)", "version 1 (bytes)"}},
	{"version 2 is something else", []store.Spec{first, second, otherSecond}, "serde", []string{"version 2 (string)", "version 2 (float64)"}},
	{"back to version 1", []store.Spec{first, second, first}, "value-version", []string{"version 2 (string)", "version 1 (int64)", "newer"}},
	{"back to version 2", []store.Spec{third, second}, "value-version", []string{"version 3 (bytes)", "version 2 (string)"}},
	{"only version 2 was written, and now version 1", []store.Spec{second, changed}, "value-version", []string{"version 2 (string)", "version 1 (string)"}},
}

func checkLife(t *testing.T, room string, code string, says []string, last bool, err error) {
	t.Helper()
	if !last || code == "" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if fault.Code(err) != room+"/"+code || fault.ExitCode(err) != 3 {
		t.Fatalf("%v, want %s/%s", err, room, code)
	}
	for _, s := range append(says, "payments") {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v does not say %s", err, s)
		}
	}
}

// TestState has the acceptance cases of state that concern manifest and registry.
func TestState(t *testing.T) {
	// A state that is opened with an incompatible codec is refused at start: not by the first record that is read.
	t.Run("V-6", func(t *testing.T) {
		t.Run("manifest", func(t *testing.T) {
			for _, c := range lives {
				t.Run(c.name, func(t *testing.T) {
					dir := t.TempDir()
					path := filepath.Join(dir, changelog.ManifestFile)
					for i, s := range c.starts {
						before, _ := os.ReadFile(path)
						id := identity()
						id.Stores = []store.Spec{s}
						m, err := changelog.OpenManifest(dir, id, created)
						checkLife(t, "manifest", c.code, c.says, i == len(c.starts)-1, err)
						if err == nil && m.Bindings(id.Stores)[0].Prefix != 1 {
							t.Error("the store got a new prefix")
						}
						if after, _ := os.ReadFile(path); err != nil && !bytes.Equal(before, after) {
							t.Error("a refusal changed the manifest")
						}
					}
				})
			}
		})
		// The disk is another one at each start: nothing but the topic knows.
		t.Run("registry", func(t *testing.T) {
			eachCluster(t, func(t *testing.T, c cluster) {
				for _, life := range lives {
					t.Run(life.name, func(t *testing.T) {
						app := name("shop")
						made, err := changelog.EnsureTopics(t.Context(), c.client(t), appTopics(app))
						if err != nil {
							t.Fatal(err)
						}
						tasks := made[changelog.TasksTopicName(app)]
						r := c.restorer(t, changelog.RestorerConfig{})
						for i, s := range life.starts {
							end := c.ends(t, tasks, 0).End
							_, err = changelog.Register(t.Context(), r, tasks, slices.Collect(maps.Values(made)),
								[]changelog.Members{{Name: "payments", Stores: []string{"payments"}, Specs: []store.Spec{s}}})
							checkLife(t, "registry", life.code, life.says, i == len(life.starts)-1, err)
							if now := c.ends(t, tasks, 0).End; now != end && (err != nil || i > 0 && slices.Equal(store.Forms(s), store.Forms(life.starts[i-1]))) {
								t.Errorf("start %d wrote %d records", i, now-end)
							}
						}
					})
				}
			})
		})
	})
}

// A store that is retired and comes back is still in its changelog: no form of it is forgotten.
func TestManifestRemembersRetiredForms(t *testing.T) {
	dir := t.TempDir()
	for i, stores := range [][]store.Spec{{first}, {second}, nil, {third}, nil} {
		id := identity()
		id.Stores = stores
		if _, err := changelog.OpenManifest(dir, id, created); err != nil {
			t.Fatalf("start %d: %v", i, err)
		}
	}
	for _, c := range []struct {
		spec store.Spec
		code string
	}{{thirdOfTwo, "manifest/serde"}, {thirdOfOne, "manifest/serde"}, {first, "manifest/value-version"}, {second, "manifest/value-version"}, {third, ""}} {
		id := identity()
		id.Stores = []store.Spec{c.spec}
		if _, err := changelog.OpenManifest(dir, id, created); fault.Code(err) != c.code {
			t.Errorf("%v: %v, want %q", store.Forms(c.spec), err, c.code)
		}
	}
}

// The manifest of an evolved store, byte for byte, and what of it no program wrote.
func TestManifestVersions(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []store.Spec{first, third} {
		id := identity()
		id.Stores = []store.Spec{s}
		if _, err := changelog.OpenManifest(dir, id, created); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, changelog.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/manifest-evolved.json")
	if err != nil || string(want) != string(got) {
		t.Errorf("the manifest is\n%s\nmust stay readable as\n%s %v", got, want, err)
	}
	for _, c := range [][2]string{{`"version": 3`, `"version": 1`}, {`"version": 1`, `"version": 3`}, {`"version": 1`, `"version": 0`}} {
		if _, err := changelog.ParseManifestForTest(bytes.Replace(got, []byte(c[0]), []byte(c[1]), 1)); fault.Code(err) != "manifest/damaged" {
			t.Errorf("%s instead of %s: %v", c[1], c[0], err)
		}
	}
}

func TestRegistryLongIDs(t *testing.T) {
	long := "codec " + strings.Repeat("x", 5000)
	if a, b := changelog.ClipIDForTest(long), changelog.ClipIDForTest(long+"y"); len(a) != 1000 || len(b) != 1000 || a == b {
		t.Errorf("%d and %d bytes, the same: %v", len(a), len(b), a == b)
	}
	if id := changelog.ClipIDForTest("int64"); id != "int64" {
		t.Error(id)
	}
}

// A registry from before codecs were remembered takes what it is given.
func TestRegistryWithoutCodecs(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		app := name("shop")
		made, err := changelog.EnsureTopics(t.Context(), c.client(t), appTopics(app))
		if err != nil {
			t.Fatal(err)
		}
		tasks := made[changelog.TasksTopicName(app)]
		r := c.restorer(t, changelog.RestorerConfig{})
		topics := slices.Collect(maps.Values(made))
		register := func(specs ...store.Spec) error {
			_, err := changelog.Register(t.Context(), r, tasks, topics, []changelog.Members{{Name: "payments", Stores: []string{"payments"}, Specs: specs}})
			return err
		}
		for _, specs := range [][]store.Spec{nil, {second}} {
			if err := register(specs...); err != nil {
				t.Fatal(err)
			}
		}
		if err := register(first); fault.Code(err) != "registry/value-version" {
			t.Error(err)
		}
		// What cannot be understood is not passed over.
		c.writer(t).txn(kgo.TryCommit, kgo.Record{Topic: tasks.Name, Partition: 0, Key: []byte("registry/value/payments/x"), Value: []byte("y")})
		if err := register(second); fault.Code(err) != "changelog/damaged" {
			t.Error(err)
		}
	})
}
