package changelog_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// TestStateKinds is acceptance case V-6: a store that is opened again with another kind or codec is refused at start, not when its first row
// is read, and the message names both.
func TestStateKinds(t *testing.T) {
	add := func(a, b int64) int64 { return a + b }
	count := store.Aggregator[string, int64, int64]{
		New: func() int64 { return 0 }, Add: func(n int64, _ string) int64 { return n + 1 }, Result: func(n int64) int64 { return n },
	}
	was := map[string]store.Spec{
		"value":       store.Value("s", serde.String(), serde.Int64()),
		"list":        store.List("s", serde.String(), serde.Int64()),
		"map":         store.Map("s", serde.String(), serde.String(), serde.Int64()),
		"reducing":    store.Reducing("s", serde.String(), serde.Int64(), add),
		"aggregating": store.Aggregating("s", serde.String(), serde.Int64(), count),
	}
	for _, c := range []struct {
		name, was, code string
		now             store.Spec
		says            []string
	}{
		{"value", "value", "manifest/serde", store.Value("s", serde.String(), serde.Float64()), []string{"value of store", `"int64"`, `"float64"`}},
		{"key of value", "value", "manifest/serde", store.Value("s", serde.Int64(), serde.Int64()), []string{"key of store", `"string"`, `"int64"`}},
		{"list", "list", "manifest/serde", store.List("s", serde.String(), serde.Int32()), []string{"value of store", `"int64"`, `"int32"`}},
		{"key of list", "list", "manifest/serde", store.List("s", serde.Bytes(), serde.Int64()), []string{"key of store", `"string"`, `"bytes"`}},
		{"map", "map", "manifest/serde", store.Map("s", serde.String(), serde.String(), serde.String()), []string{"value of store", "{string: int64}", "{string: string}"}},
		{"subkey of map", "map", "manifest/serde", store.Map("s", serde.String(), serde.Int64(), serde.Int64()), []string{"value of store", "{string: int64}", "{int64: int64}"}},
		{"key of map", "map", "manifest/serde", store.Map("s", serde.Int32(), serde.String(), serde.Int64()), []string{"key of store", `"string"`, `"int32"`}},
		{"reducing", "reducing", "manifest/serde", store.Reducing("s", serde.String(), serde.Bool(), func(a, b bool) bool { return a || b }), []string{`"int64"`, `"bool"`}},
		{"aggregating", "aggregating", "manifest/serde", store.Aggregating("s", serde.Int64(), serde.Int64(), count), []string{"key of store", `"string"`, `"int64"`}},
		{"list as value", "list", "manifest/store-kind", was["value"], []string{`"list"`, "value"}},
		{"reducing as aggregating", "reducing", "manifest/store-kind", was["aggregating"], []string{`"reducing"`, "aggregating"}},
		{"value as key-value", "value", "manifest/store-kind", store.KeyValue("s", serde.String(), serde.Int64()), []string{`"value"`, "key-value"}},
	} {
		t.Run("V-6/"+c.name, func(t *testing.T) {
			dir := t.TempDir()
			id := identity()
			for range 2 { // as it was, it is taken again
				id.Stores = []store.Spec{was[c.was]}
				if _, err := changelog.OpenManifest(dir, id, created); err != nil {
					t.Fatal(err)
				}
			}
			id.Stores = []store.Spec{c.now}
			_, err := changelog.OpenManifest(dir, id, created)
			var e *fault.Error
			if !errors.As(err, &e) || e.Code != c.code || e.Remedy == "" {
				t.Fatalf("%v, want %s", err, c.code)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}
