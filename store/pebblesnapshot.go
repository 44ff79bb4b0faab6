package store

import (
	"io"
	"log/slog"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// snapshot links or copies the files of the database, as they are after a flush. What goes wrong in dir is no failure of the engine.
func (e *pebbleEngine) snapshot(dir string) (err error) {
	if err := e.ready(); err != nil {
		return err
	}
	defer e.recovered("snapshot", &err)
	e.guard.aside.Store(&dir)
	defer e.guard.aside.Store(nil)
	if err := e.db.Checkpoint(dir); err != nil {
		if failed := e.ready(); failed != nil {
			return failed
		}
		return snapshotWriteError(dir, err)
	}
	return e.ready()
}

// outside reports whether a file belongs to a snapshot that is being written. What happens to it is not the database's business.
func (g *guardFS) outside(name string) bool {
	dir := g.aside.Load()
	return dir != nil && (name == *dir || strings.HasPrefix(name, *dir+"/"))
}

// openPebbleToRead opens a database that nobody changes, and changes nothing.
func openPebbleToRead(dir string) (_ Engine, err error) {
	shared := newShared(Memory{MemTable: 256 << 10, BlockCache: 8 << 20, Bulk: bulkLeast})
	e := &pebbleEngine{
		dir: dir, log: slog.New(slog.DiscardHandler), failed: make(chan struct{}), progress: make(chan struct{}, 1), shared: shared, own: true, readOnly: true,
	}
	defer e.recovered("open", &err)
	e.guard = &guardFS{FS: unlockedFS{vfs.Default}, engine: e}
	opts := &pebble.Options{
		Cache: shared.cache, FileCache: shared.files, FS: e.guard, ReadOnly: true, DisableWAL: true, FormatMajorVersion: pebbleFormat,
		ErrorIfNotExists: true, Logger: pebbleLog{e}, EventListener: e.listener(),
	}
	setLevels(opts)
	if e.db, err = pebble.Open(dir, opts); err != nil {
		shared.Close()
		return nil, snapshotError("store/snapshot-damaged", dir, "it is no database that can be read",
			"take another copy of the snapshot, or another snapshot", err)
	}
	return e, nil
}

// unlockedFS takes no lock: a snapshot may be read by many, and from a disk that cannot be written.
type unlockedFS struct{ vfs.FS }

func (unlockedFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
