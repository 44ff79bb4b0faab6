package store

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/serde"
)

// The tables of a bulk restore are compacted when it has ended, all at once, and not before.
func TestIngestHoldsCompactions(t *testing.T) {
	engine, err := openAlone("db", vfs.NewMem(), PebbleOptions{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.(*pebbleEngine)
	db, err := Open(e, []Binding{{Spec: KeyValue("rows", serde.Bytes(), serde.Bytes()), Prefix: 1}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b, err := db.Bulk()
	if err != nil || b == nil {
		t.Fatal(b, err)
	}
	const runs = l0SublevelHold - 2
	for run := range runs {
		rows := make([]Mutation, 200)
		for i := range rows {
			rows[i] = Mutation{Key: fmt.Appendf(nil, "%04d", i), Value: AppendRow(nil, fmt.Append(nil, run), 0)}
		}
		if err := b.Add("rows", rows); err != nil {
			t.Fatal(err)
		}
		if err := b.Ingest(fmt.Append(nil, run)); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.db.Metrics().Levels[0].Sublevels; n < runs-1 {
		t.Errorf("%d sublevels after %d runs: they were compacted one after the other", n, runs)
	}
	b.Close()
	deadline := time.After(30 * time.Second)
	for e.db.Metrics().Levels[0].Sublevels > 1 {
		select {
		case <-e.progress:
		case <-deadline:
			t.Fatalf("still %d sublevels", e.db.Metrics().Levels[0].Sublevels)
		}
	}
	row, ok, err := e.Get(nil, append([]byte{0, 1}, "0007"...))
	if want := AppendRow(nil, fmt.Append(nil, runs-1), 0); !ok || err != nil || string(row) != string(want) {
		t.Errorf("row %q, %v, %v; want %q of the last run", row, ok, err, want)
	}
}
