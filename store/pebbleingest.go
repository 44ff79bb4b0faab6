package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	ingestTableBytes = 64 << 20 // where one table ends and the next begins
	ingestSyncBytes  = 1 << 20  // the disk is kept busy, so that the end does not wait for all of it
	ingestPrefix     = "restore-"
	l0SublevelHold   = 12 // of level 0: compactions wait for the end of a bulk restore while there are fewer
)

// pool is the memory of bulk restores.
func (e *pebbleEngine) pool() *bulkPool { return &e.shared.bulk }

// Ingest implements bulkEngine. The tables are written beside those of the database and become part of it in one entry of
// its manifest. Where a memtable has rows of the same keys that entry is written when the memtable is flushed: Pebble would
// otherwise wait for the flush inside Ingest, and for ever if the disk has failed. What a crash leaves of unfinished tables is
// removed at the next open.
func (e *pebbleEngine) Ingest(rows func(put func(key, value []byte, tombstone bool) error) error) (err error) {
	if err := e.ready(); err != nil {
		return err
	}
	defer e.recovered("ingest", &err)
	if err := e.l0Room(); err != nil {
		return err
	}
	e.compactions.hold(e.db.Metrics().Levels[0].Sublevels < l0SublevelHold)
	run := ingestRun{e: e, options: e.tableOptions()}
	err = rows(run.put)
	if err == nil {
		err = run.end()
	}
	if err == nil && len(run.paths) > 0 {
		err = e.db.Ingest(context.Background(), run.paths)
	}
	if err != nil {
		return e.wrap("ingest", errors.Join(err, run.abandon()))
	}
	return e.ready() // the manifest could not be written: guardFS has said so to the engine and not to Pebble
}

// ingestEnd lets what was ingested be compacted.
func (e *pebbleEngine) ingestEnd() { e.compactions.hold(false) }

// l0Room waits until level 0 is shallow enough to take another table.
func (e *pebbleEngine) l0Room() error {
	for e.db.Metrics().Levels[0].Sublevels > l0SublevelWait {
		e.compactions.hold(false)
		select {
		case <-e.progress:
		case <-e.failed:
			return e.failure.Load()
		}
	}
	return nil
}

// tableOptions are those of the tables that Pebble itself writes.
func (e *pebbleEngine) tableOptions() sstable.WriterOptions {
	o := &pebble.Options{FormatMajorVersion: pebbleFormat, Logger: pebbleLog{e}}
	setLevels(o)
	o.EnsureDefaults() // MakeWriterOptions panics without
	return o.MakeWriterOptions(0, e.db.TableFormat())
}

// ingestRun writes sorted rows into one table after another.
type ingestRun struct {
	e       *pebbleEngine
	options sstable.WriterOptions
	w       *sstable.Writer
	paths   []string
}

func (r *ingestRun) put(key, value []byte, tombstone bool) error {
	if r.w == nil {
		if err := r.begin(); err != nil {
			return err
		}
	}
	var err error
	if tombstone {
		err = r.w.Delete(key)
	} else {
		err = r.w.Set(key, value)
	}
	if err == nil && r.w.Raw().EstimatedSize() >= ingestTableBytes {
		err = r.end()
	}
	return err
}

func (r *ingestRun) begin() error {
	fs := r.e.guard
	path := fs.PathJoin(r.e.dir, fmt.Sprintf("%s%d.tmp", ingestPrefix, len(r.paths)))
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	r.paths = append(r.paths, path)
	f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: ingestSyncBytes})
	r.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), r.options)
	return nil
}

// end completes the table being written; its file is durable then.
func (r *ingestRun) end() error {
	if r.w == nil {
		return nil
	}
	w := r.w
	r.w = nil
	return w.Close()
}

// abandon removes the files of a run that failed.
func (r *ingestRun) abandon() error {
	if r.w != nil {
		_ = r.w.Close() // the error that is known already explains it
		r.w = nil
	}
	var err error
	for _, path := range r.paths {
		err = errors.Join(err, removeIfThere(r.e.guard, path))
	}
	return err
}

// removeLeftovers removes tables that a crash kept from becoming part of the database.
func (e *pebbleEngine) removeLeftovers() error {
	names, err := e.guard.List(e.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, ingestPrefix) {
			if err := removeIfThere(e.guard, e.guard.PathJoin(e.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeIfThere(fs vfs.FS, path string) error {
	if _, err := fs.Stat(path); err != nil {
		return nil // it is gone, or cannot be found out: nobody reads it
	}
	return fs.Remove(path)
}
