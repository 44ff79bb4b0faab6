package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ingest keeps all records of a partition in memory, sorts them, and gives Pebble the last one of each key as one finished table.
// It is as fast as it can be done when memory does not matter.
type ingest struct {
	arena []byte
	rows  []row
}

// row is where a record is in the arena. A later record of the same key has a higher number.
type row struct{ at, key, value, number int }

func (g *ingest) take(records []*kgo.Record) (n int64, err error) {
	for _, r := range records {
		if r.Attrs.IsControl() {
			continue
		}
		size := len(r.Value)
		if r.Value == nil {
			size = -1
		}
		g.rows = append(g.rows, row{len(g.arena), len(r.Key), size, len(g.rows)})
		g.arena = append(append(g.arena, r.Key...), r.Value...)
		n++
	}
	return n, nil
}

func (g *ingest) keyOf(r row) []byte { return g.arena[r.at : r.at+r.key] }

func (g *ingest) finish(dir string, cache *pebble.Cache) (err error) {
	db, err := open(dir, cache)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	slices.SortFunc(g.rows, func(x, y row) int {
		if c := bytes.Compare(g.keyOf(x), g.keyOf(y)); c != 0 {
			return c
		}
		return cmp.Compare(y.number, x.number)
	})
	path := filepath.Join(dir, "restore.sst")
	f, err := vfs.Default.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	opts := options(cache)
	opts.EnsureDefaults()
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), opts.MakeWriterOptions(0, db.TableFormat()))
	var last []byte
	written := 0
	for i, r := range g.rows {
		key := g.keyOf(r)
		if i > 0 && bytes.Equal(key, last) {
			continue
		}
		if last = key; r.value < 0 {
			continue
		}
		if err := w.Set(key, g.arena[r.at+r.key:r.at+r.key+r.value]); err != nil {
			return errors.Join(fmt.Errorf("table: %w", err), w.Close())
		}
		written++
	}
	if err := w.Close(); err != nil || written == 0 {
		return err
	}
	return db.Ingest(context.Background(), []string{path})
}
