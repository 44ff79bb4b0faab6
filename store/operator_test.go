package store_test

import (
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// publisher is a task's stores, with a list in the place of a global store's topic.
type publisher struct {
	*store.DB
	sent [][2][]byte
}

func (p *publisher) Global(string) (func(key, value []byte, time int64) error, int32, error) {
	return func(key, value []byte, _ int64) error {
		p.sent = append(p.sent, [2][]byte{append([]byte{}, key...), append([]byte{}, value...)})
		return nil
	}, 7, nil
}

// TestGlobalOwnRecords: what a task has written comes back to it when it has written something newer, and changes nothing.
func TestGlobalOwnRecords(t *testing.T) {
	spec := store.Global("marks", serde.String())
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: spec, Prefix: 1}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{DB: db}
	db.Savepoint()
	g, err := spec.In(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"old", "new"} {
		if err := g.Put("a", v); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Delete("b"); err != nil || len(p.sent) != 2 {
		t.Errorf("deleting what is not there: %v, %d records", err, len(p.sent))
	}
	rows, err := db.Rows("marks")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.ApplyGlobal(rows, 7, p.sent[0][0], p.sent[0][1], 0); err != nil {
		t.Fatal(err)
	}
	if v, _, err := g.Get(7, "a"); v != "new" || err != nil {
		t.Errorf("the task's own entry is %q, %v", v, err)
	}
	for i, want := range []string{"old", "new"} {
		if err := store.ApplyGlobal(rows, 8, p.sent[i][0], p.sent[i][1], 0); err != nil {
			t.Fatal(err)
		}
		if v, _, err := g.Get(7, "a"); v != want || err != nil {
			t.Errorf("another task's entry is %q, want %q, %v", v, want, err)
		}
	}
	for _, bad := range [][2]string{{"abc", "\x01\x01x"}, {"abcde", ""}, {"abcde", "\x01"}, {"abcde", "\x02\x01x"}, {"abcde", "\x01\x02x"}} {
		if err := store.ApplyGlobal(rows, 8, []byte(bad[0]), []byte(bad[1]), 0); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}

	only, err := spec.In(db)
	if err != nil {
		t.Fatal(err)
	}
	if err := only.Put("a", "x"); fault.Code(err) != "store/global-read-only" {
		t.Errorf("writing without a task: %v", err)
	}
	if err := g.Put(string(make([]byte, store.GlobalNameBytesMax+1)), "x"); fault.Code(err) != "store/key-too-long" {
		t.Errorf("a long name: %v", err)
	}
}
