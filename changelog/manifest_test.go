package changelog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

var created = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func identity() changelog.Identity {
	return changelog.Identity{
		App: "shop", Cluster: "cluster-1", Task: "counts/3", Fingerprint: [16]byte{1},
		Stores: []store.Spec{store.KeyValue("counts", serde.String(), serde.Int64()), store.KeyValue("seen", serde.String(), serde.Int64())},
		Topics: []changelog.Topic{
			{Name: "lines", ID: [16]byte{1, 1}, Partitions: 4},
			{Name: "shop-counts-changelog", ID: [16]byte{2, 2}, Partitions: 4},
		},
	}
}

func TestManifestIsMadeAndFoundAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "counts", "3")
	m, err := changelog.OpenManifest(dir, identity(), created)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, changelog.ManifestFile)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	for i, b := range m.Bindings(identity().Stores) {
		if b.Prefix != uint16(i+1) {
			t.Errorf("store %s has prefix %d, want %d", b.Spec.Name(), b.Prefix, i+1)
		}
	}
	before, _ := os.ReadFile(path)
	again, err := changelog.OpenManifest(dir, identity(), created.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(path)
	if !bytes.Equal(before, after) || !again.Created.Equal(created) {
		t.Errorf("opening changed the manifest:\n%s", after)
	}
	want, err := os.ReadFile("testdata/manifest.json")
	if err != nil || string(want) != string(after) {
		t.Errorf("the manifest is\n%s\nmust stay readable as\n%s %v", after, want, err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*tmp*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Stores come, go and come back; a prefix is never given out twice.
func TestManifestStoresComeAndGo(t *testing.T) {
	dir := t.TempDir()
	steps := []struct {
		stores   []string
		prefixes []uint16
		retired  int
	}{
		{[]string{"a", "b"}, []uint16{1, 2}, 0},
		{[]string{"b"}, []uint16{2}, 1},
		{[]string{"c", "b"}, []uint16{3, 2}, 1},
		{[]string{"a", "c"}, []uint16{4, 3}, 2}, // a's old rows stay behind under 1
		{nil, nil, 4},
	}
	for n, s := range steps {
		id := identity()
		id.Fingerprint = [16]byte{byte(n)} // an edited topology is no mistake
		id.Stores = nil
		for _, name := range s.stores {
			id.Stores = append(id.Stores, store.KeyValue(name, serde.String(), serde.Int64()))
		}
		m, err := changelog.OpenManifest(dir, id, created)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range m.Bindings(id.Stores) {
			if b.Prefix != s.prefixes[i] {
				t.Errorf("step %d: store %s has prefix %d, want %d", n, b.Spec.Name(), b.Prefix, s.prefixes[i])
			}
		}
		retired := 0
		for _, st := range m.Stores {
			if st.Retired {
				retired++
			}
		}
		if retired != s.retired {
			t.Errorf("step %d: %d retired stores, want %d", n, retired, s.retired)
		}
	}
}

func TestManifestRefuses(t *testing.T) {
	remake := func(f func(m map[string]any)) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var env struct {
				Checksum string
				Manifest map[string]any
			}
			if err := json.Unmarshal(text, &env); err != nil {
				t.Fatal(err)
			}
			f(env.Manifest)
			m, _ := json.Marshal(env.Manifest)
			sum := fmt.Sprintf("crc32c:%08x", crc32.Checksum(m, crc32.MakeTable(crc32.Castagnoli)))
			write(t, path, fmt.Sprintf(`{"checksum":%q,"manifest":%s}`, sum, m))
		}
	}
	for _, k := range []struct {
		name   string
		code   string
		says   []string
		want   func(id *changelog.Identity)
		tamper func(t *testing.T, path string)
	}{
		{name: "other application", code: "manifest/other-app", says: []string{`"shop"`, `"store"`}, want: func(id *changelog.Identity) { id.App = "store" }},
		{name: "other cluster", code: "manifest/other-cluster", says: []string{`"cluster-1"`, `"cluster-2"`}, want: func(id *changelog.Identity) { id.Cluster = "cluster-2" }},
		{name: "other task", code: "manifest/other-task", says: []string{`"counts/3"`, `"counts/4"`}, want: func(id *changelog.Identity) { id.Task = "counts/4" }},
		{name: "changed value serde", code: "manifest/serde", says: []string{"value of store", `"int64"`, `"string"`}, want: func(id *changelog.Identity) {
			id.Stores[0] = store.KeyValue("counts", serde.String(), serde.String())
		}},
		{name: "changed key serde", code: "manifest/serde", says: []string{"key of store", `"string"`, `"int64"`}, want: func(id *changelog.Identity) {
			id.Stores[0] = store.KeyValue("counts", serde.Int64(), serde.Int64())
		}},
		{name: "changed serde of a store that was retired", code: "manifest/serde", want: func(id *changelog.Identity) {
			id.Stores[1] = store.KeyValue("old", serde.String(), serde.String())
		}},
		{name: "changed kind", code: "manifest/store-kind", says: []string{`"timers"`, "key-value"}, tamper: remake(func(m map[string]any) {
			m["stores"].([]any)[0].(map[string]any)["kind"] = 7
		})},
		{name: "recreated topic", code: "topic/recreated", says: []string{"lines", idText([16]byte{1, 1}), idText([16]byte{9})}, want: func(id *changelog.Identity) { id.Topics[0].ID = [16]byte{9} }},
		{name: "changed partition count", code: "manifest/partitions", says: []string{"lines", `"8"`, "there were 4"}, want: func(id *changelog.Identity) { id.Topics[0].Partitions = 8 }},
		{name: "newer format", code: "manifest/newer-format", says: []string{`"2"`}, tamper: remake(func(m map[string]any) { m["format"] = 2; m["stores"] = "something new" })},
		{name: "flipped letter", code: "manifest/damaged", tamper: func(t *testing.T, path string) {
			text, _ := os.ReadFile(path)
			write(t, path, strings.Replace(string(text), "counts", "mounts", 1))
		}},
		{name: "empty", code: "manifest/damaged", tamper: func(t *testing.T, path string) { write(t, path, "") }},
		{name: "cut", code: "manifest/damaged", tamper: func(t *testing.T, path string) {
			text, _ := os.ReadFile(path)
			write(t, path, string(text[:len(text)/2]))
		}},
		{name: "not an object", code: "manifest/damaged", tamper: func(t *testing.T, path string) { write(t, path, "[1]") }},
		{name: "prefix given twice", code: "manifest/damaged", tamper: remake(func(m map[string]any) {
			m["stores"].([]any)[1].(map[string]any)["prefix"] = 1
		})},
		{name: "prefix from the future", code: "manifest/damaged", tamper: remake(func(m map[string]any) { m["next_prefix"] = 1 })},
		{name: "a directory", code: "manifest/damaged", tamper: func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "gone, but the database is there", code: "manifest/missing", tamper: func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(filepath.Dir(path), changelog.DatabaseDir), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, changelog.ManifestFile)
			first := identity()
			first.Stores = append(first.Stores, store.KeyValue("old", serde.String(), serde.Int64()))
			for _, id := range []changelog.Identity{first, identity()} {
				if _, err := changelog.OpenManifest(dir, id, created); err != nil {
					t.Fatal(err)
				}
			}
			if k.tamper != nil {
				k.tamper(t, path)
			}
			before, _ := os.ReadFile(path)
			id := identity()
			if k.want != nil {
				k.want(&id)
			}
			_, err := changelog.OpenManifest(dir, id, created)
			if fault.Code(err) != k.code || fault.ExitCode(err) != 3 {
				t.Fatalf("got %v, want %s", err, k.code)
			}
			for _, s := range k.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not say %s", err, s)
				}
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("a refusal changed the manifest")
			}
		})
	}
}

// Every mistake is told at once.
func TestManifestTellsEverything(t *testing.T) {
	dir := t.TempDir()
	if _, err := changelog.OpenManifest(dir, identity(), created); err != nil {
		t.Fatal(err)
	}
	id := identity()
	id.Stores = []store.Spec{store.KeyValue("counts", serde.Int64(), serde.String())}
	id.Topics[0].ID = [16]byte{9}
	id.Topics[1].Partitions = 1
	_, err := changelog.OpenManifest(dir, id, created)
	if err == nil {
		t.Fatal("accepted")
	}
	if n := len(strings.Split(err.Error(), "\n")); n != 4 {
		t.Errorf("%d mistakes told, want 4:\n%v", n, err)
	}
}

// A cluster without topic ids is told apart from one whose ids changed.
func TestManifestWithoutTopicIDs(t *testing.T) {
	dir := t.TempDir()
	id := identity()
	id.Topics[0].ID = [16]byte{}
	for _, topicID := range [][16]byte{{}, {5}, {5}, {}} { // upgraded, then asked through an old broker
		id.Topics[0].ID = topicID
		if _, err := changelog.OpenManifest(dir, id, created); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	text, err := os.ReadFile("testdata/manifest.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"checksum":"","manifest":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := changelog.ParseManifestForTest(text)
		if err == nil && m.Format != 1 {
			t.Errorf("format %d was read", m.Format)
		}
		if err != nil && fault.ExitCode(err) != 3 {
			t.Errorf("%v is no refusal of state", err)
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
