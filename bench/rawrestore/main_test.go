package main

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestBothWaysEndTheSame: the last value of each key, and no deleted one.
func TestBothWaysEndTheSame(t *testing.T) {
	t.Parallel()
	record := func(key, value string) *kgo.Record {
		r := &kgo.Record{Key: []byte(key)}
		if value != "" {
			r.Value = []byte(value)
		}
		return r
	}
	first := []*kgo.Record{record("b", "1"), record("a", "1"), record("gone", "1")}
	second := []*kgo.Record{record("b", "2"), record("gone", ""), record("c", "1"), record("b", "3")}
	want := map[string]string{"a": "1", "b": "3", "c": "1"}
	cache := pebble.NewCache(1 << 20)
	t.Cleanup(cache.Unref)
	dir := t.TempDir()
	slow, err := newBatches(filepath.Join(dir, "batches"), cache)
	if err != nil {
		t.Fatal(err)
	}
	for name, one := range map[string]partition{"batches": slow, "ingest": &ingest{}} {
		for _, records := range [][]*kgo.Record{first, second} {
			if n, err := one.take(records); err != nil || n != int64(len(records)) {
				t.Fatalf("%s: %d %v", name, n, err)
			}
		}
		path := filepath.Join(dir, name)
		if err := one.finish(path, cache); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := contents(t, path, cache); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func contents(t *testing.T, dir string, cache *pebble.Cache) map[string]string {
	t.Helper()
	db, err := open(dir, cache)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	got := map[string]string{}
	for it.First(); it.Valid(); it.Next() {
		got[string(it.Key())] = string(it.Value())
	}
	return got
}
