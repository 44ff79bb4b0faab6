package store

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/internal/fault"
)

// guardFS stands between a Pebble database and its directory. It keeps the files to their owner, sees a full disk at once,
// and lets nothing change once the engine has failed, as if the process had ended at that moment.
//
// The files that say which tables make up the database (MANIFEST and markers, and the directory itself) are special.
// When writing one of them fails Pebble ends the process, because what it has in memory is half changed then; going on
// from there would end it too, a little later, on a goroutine of its own. So Pebble is never told: the engine is marked
// failed first, from then on nothing reaches the disk, and Pebble goes on over a directory that no longer changes.
type guardFS struct {
	vfs.FS
	engine  *pebbleEngine
	private bool // the real file system: set permissions

	mu   sync.Mutex
	lock io.Closer

	aside atomic.Pointer[string] // the directory of a snapshot that is being written
}

const (
	dirMode  = 0o700
	fileMode = 0o600
)

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// prepare makes dir, or takes away what others may do with it.
func (g *guardFS) prepare(dir string) error {
	if err := g.FS.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	if g.private {
		return os.Chmod(dir, dirMode)
	}
	return nil
}

// check is asked before every change.
func (g *guardFS) check() error {
	if f := g.engine.failure.Load(); f != nil {
		return f
	}
	return nil
}

// done is told how every change went.
func (g *guardFS) done(err error) error {
	if err != nil && diskFull(err) {
		_ = g.engine.fail("store/disk-full", "write", err)
	}
	return err
}

func (g *guardFS) file(f vfs.File, err error, name string) (vfs.File, error) {
	if err != nil {
		return nil, g.done(err)
	}
	if g.private {
		if err := os.Chmod(name, fileMode); err != nil {
			_ = f.Close() // the error that counts is the one of Chmod
			return nil, err
		}
	}
	return &guardFile{File: f, fs: g}, nil
}

func (g *guardFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if g.outside(name) {
		return g.FS.Create(name, category)
	}
	if g.vital(name) {
		return g.createVital(name, category)
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	f, err := g.FS.Create(name, category)
	return g.file(f, err, name)
}

func (g *guardFS) vital(name string) bool {
	base := g.FS.PathBase(name)
	return strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

func (g *guardFS) createVital(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if g.check() == nil {
		f, err := g.createOrdered(name, category)
		if f, err = g.file(f, err, name); err == nil {
			return &vitalFile{File: f, fs: g}, nil
		}
		_ = g.engine.wrap("write", err)
	}
	scratch, err := vfs.NewMem().Create(g.FS.PathBase(name), category)
	if err != nil {
		return nil, err
	}
	return &vitalFile{File: scratch, fs: g}, nil
}

// createOrdered creates a file of createVital. What the manifest's marker names must be in the directory before the marker is:
// Pebble syncs the directory after both, and a crash before that may leave any of them, also a marker without its manifest.
func (g *guardFS) createOrdered(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(g.FS.PathBase(name), "marker.manifest.") {
		if err := g.syncDir(g.FS.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return g.FS.Create(name, category)
}

func (g *guardFS) syncDir(name string) error {
	d, err := g.FS.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// OpenDir opens a directory, which Pebble does to sync it.
func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	if g.outside(name) {
		return f, nil
	}
	return &vitalFile{File: f, fs: g}, nil
}

func (g *guardFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	f, err := g.FS.OpenReadWrite(name, category, opts...)
	return g.file(f, err, name)
}

func (g *guardFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	f, err := g.FS.ReuseForWrite(oldname, newname, category)
	return g.file(f, err, newname)
}

func (g *guardFS) Link(oldname, newname string) error {
	if g.outside(newname) {
		return g.FS.Link(oldname, newname)
	}
	if err := g.check(); err != nil {
		return err
	}
	return g.done(g.FS.Link(oldname, newname))
}

func (g *guardFS) Rename(oldname, newname string) error {
	if g.outside(newname) {
		return g.FS.Rename(oldname, newname)
	}
	if err := g.check(); err != nil {
		return err
	}
	return g.done(g.FS.Rename(oldname, newname))
}

func (g *guardFS) Remove(name string) error {
	if err := g.check(); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

func (g *guardFS) RemoveAll(name string) error {
	if err := g.check(); err != nil {
		return err
	}
	return g.FS.RemoveAll(name)
}

func (g *guardFS) MkdirAll(dir string, _ os.FileMode) error {
	if g.outside(dir) {
		return g.FS.MkdirAll(dir, dirMode)
	}
	if err := g.check(); err != nil {
		return err
	}
	return g.done(g.FS.MkdirAll(dir, dirMode))
}

// Lock keeps the lock's handle, so that it can be let go when Pebble can no longer be asked to.
func (g *guardFS) Lock(name string) (io.Closer, error) {
	l, err := g.FS.Lock(name)
	if err != nil {
		var no syscall.Errno
		if errors.As(err, &no) && no != syscall.EAGAIN && no != syscall.EACCES {
			return nil, err
		}
		return nil, &fault.Error{
			Code: "store/locked", Kind: fault.State, Thing: "state directory", Value: g.engine.dir,
			Reason: "another process, or another part of this one, has it open", Remedy: remedies["store/locked"], Err: err,
		}
	}
	g.mu.Lock()
	g.lock = l
	g.mu.Unlock()
	if g.private {
		if err := os.Chmod(name, fileMode); err != nil {
			_ = g.unlock() // the error that counts is the one of Chmod
			return nil, err
		}
	}
	return guardLock{g}, nil
}

type guardLock struct{ g *guardFS }

func (l guardLock) Close() error { return l.g.unlock() }

func (g *guardFS) unlock() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lock
	if g.lock = nil; l == nil {
		return nil
	}
	return l.Close()
}

// GetDiskUsage answers that it does not know instead of failing: Pebble reports every failure as an error of its own.
func (g *guardFS) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	u, err := g.FS.GetDiskUsage(path)
	if err != nil {
		return vfs.DiskUsage{}, vfs.ErrUnsupported
	}
	return u, nil
}

func (g *guardFS) Unwrap() vfs.FS { return g.FS }

// vitalFile is a file whose writing never fails in Pebble's eyes.
type vitalFile struct {
	vfs.File
	fs *guardFS
}

// try does a change, unless the engine has failed, and marks it failed if the change goes wrong.
func (f *vitalFile) try(change func() error) {
	if f.fs.check() != nil {
		return
	}
	if err := change(); err != nil {
		_ = f.fs.engine.wrap("write", err)
	}
}

func (f *vitalFile) Write(p []byte) (int, error) {
	f.try(func() error { _, err := f.File.Write(p); return err })
	return len(p), nil
}

func (f *vitalFile) WriteAt(p []byte, off int64) (int, error) {
	f.try(func() error { _, err := f.File.WriteAt(p, off); return err })
	return len(p), nil
}

func (f *vitalFile) Preallocate(off, n int64) error {
	f.try(func() error { return f.File.Preallocate(off, n) })
	return nil
}

func (f *vitalFile) Sync() error {
	f.try(f.File.Sync)
	return nil
}

func (f *vitalFile) SyncData() error {
	f.try(f.File.SyncData)
	return nil
}

func (f *vitalFile) SyncTo(length int64) (fullSync bool, err error) {
	f.try(func() error { _, err := f.File.SyncTo(length); return err })
	return false, nil
}

func (f *vitalFile) Close() error {
	if err := f.File.Close(); err != nil {
		_ = f.fs.engine.wrap("write", err)
	}
	return nil
}

// guardFile is a file that was opened to be written.
type guardFile struct {
	vfs.File
	fs *guardFS
}

func (f *guardFile) Write(p []byte) (int, error) {
	if err := f.fs.check(); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	return n, f.fs.done(err)
}

func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(p, off)
	return n, f.fs.done(err)
}

func (f *guardFile) Preallocate(off, n int64) error {
	if err := f.fs.check(); err != nil {
		return err
	}
	return f.fs.done(f.File.Preallocate(off, n))
}

func (f *guardFile) Sync() error {
	if err := f.fs.check(); err != nil {
		return err
	}
	return f.fs.done(f.File.Sync())
}

func (f *guardFile) SyncData() error {
	if err := f.fs.check(); err != nil {
		return err
	}
	return f.fs.done(f.File.SyncData())
}

func (f *guardFile) SyncTo(length int64) (fullSync bool, err error) {
	if err := f.fs.check(); err != nil {
		return false, err
	}
	fullSync, err = f.File.SyncTo(length)
	return fullSync, f.fs.done(err)
}
