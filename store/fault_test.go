package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

var faulty = store.KeyValue("faulty", serde.Int64(), serde.Bytes())

// life writes epochs of 40 rows on fs, flushing now and then, and returns the number of the last applied epoch, the last
// one that was flushed, and the error that ended it. Each epoch deletes the rows of the one before.
func life(fsys vfs.FS, epochs int) (applied, flushed int, err error) {
	e, err := store.OpenPebbleOn(fsys, "db", small)
	if err != nil {
		return 0, 0, err
	}
	db, err := store.Open(e, []store.Binding{{Spec: faulty, Prefix: 1}}, store.Options{CacheBytes: 1})
	if err != nil {
		return 0, 0, err
	}
	applied, flushed, err = lives(db, epochs)
	if closeErr := db.Close(); err == nil {
		if err = closeErr; err == nil {
			flushed = applied
		}
	}
	return applied, flushed, err
}

func lives(db *store.DB, epochs int) (applied, flushed int, err error) {
	kv, err := faulty.In(db)
	if err != nil {
		return 0, 0, err
	}
	for n := 1; n <= epochs; n++ {
		for i := range int64(40) {
			if _, _, err := kv.Delete(int64(n-1)*100 + i); err != nil {
				return applied, flushed, err
			}
			if err := kv.Put(int64(n)*100+i, fmt.Appendf(nil, "%0200d", n)); err != nil {
				return applied, flushed, err
			}
		}
		if err := db.Apply(db.Seal(), fmt.Append(nil, n)); err != nil {
			return applied, flushed, err
		}
		applied = n
		if n%5 == 0 {
			if err := db.Flush(); err != nil {
				return applied, flushed, err
			}
			flushed = n
		}
	}
	return applied, flushed, nil
}

// verify opens the store on a healthy disk: it must be exactly the state of the epoch its checkpoint names, which must lie
// between the last flushed epoch and the last one that may have been applied.
func verify(fsys vfs.FS, flushed, applied int) error {
	e, err := store.OpenPebbleOn(fsys, "db", small)
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	db, err := store.Open(e, []store.Binding{{Spec: faulty, Prefix: 1}}, store.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	row, _, err := db.Checkpoint()
	if err != nil {
		return err
	}
	at := 0
	if len(row) > 0 {
		if _, err := fmt.Sscan(string(row), &at); err != nil {
			return err
		}
	}
	if at < flushed || at > applied+1 {
		return fmt.Errorf("the checkpoint is %d; flushed were %d, applied %d", at, flushed, applied)
	}
	kv, err := faulty.In(db)
	if err != nil {
		return err
	}
	scan, n := kv.All(), int64(0)
	for k, v := range scan.Rows() {
		if k != int64(at)*100+n || string(v) != fmt.Sprintf("%0200d", at) {
			return fmt.Errorf("at checkpoint %d there is row %d = %.20q", at, k, v)
		}
		n++
	}
	if scan.Err() != nil {
		return scan.Err()
	}
	if want := int64(min(at, 1) * 40); n != want {
		return fmt.Errorf("at checkpoint %d there are %d rows, want %d", at, n, want)
	}
	return nil
}

func typed(err error) bool {
	var f *fault.Error
	return errors.As(err, &f) && strings.HasPrefix(f.Code, "store/")
}

// watched fails the test when f neither returns nor fails: a store that hangs is as bad as one that ends the process.
func watched(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: still not done after 30 s", what)
	}
}

// TestErrorAtEveryOperation lets one operation of the disk fail, each in turn. Either the store does without it, or it says
// so with a typed error; and what is on the disk is consistent.
func TestErrorAtEveryOperation(t *testing.T) {
	step := int32(1)
	if testing.Short() {
		step = 4
	}
	failed := 0
	for i := int32(0); ; i += step {
		mem := vfs.NewMem()
		index := errorfs.OnIndex(i)
		var applied, flushed int
		var err error
		watched(t, fmt.Sprintf("operation %d", i), func() {
			applied, flushed, err = life(errorfs.Wrap(mem, index), 12)
		})
		if index.Load() >= 0 { // there is no operation with this number: all were tried
			if err != nil {
				t.Fatalf("nothing was injected, yet: %v", err)
			}
			break
		}
		if err != nil {
			failed++
			if !typed(err) {
				t.Errorf("operation %d: not a typed error: %v", i, err)
			}
		}
		if err := verify(mem, flushed, applied); err != nil {
			t.Errorf("operation %d: %v", i, err)
		}
		if i > 5000 {
			t.Fatal("no end of operations")
		}
	}
	if failed < 15 {
		t.Errorf("only %d failures: the errors did not reach the store", failed)
	}
	t.Logf("%d failures", failed)
}

// TestCrashWhileOpening crashes a store at every change of the disk from its creation on, and from its opening on when it has
// rows, in which each new file of a directory that was not synced is there or is not. What a crash left opens, with no less
// than what was flushed.
func TestCrashWhileOpening(t *testing.T) {
	rounds := uint64(24)
	if testing.Short() {
		rounds = 8
	}
	crashes := 0
	for seed := range rounds {
		mem := vfs.NewCrashableMem()
		rng := rand.New(rand.NewPCG(seed, 12))
		applied, flushed := 0, 0
		for life := range 2 { // the first creates it
			var crashed []*vfs.MemFS
			var mu sync.Mutex // flushes and compactions write as well
			watch := errorfs.InjectorFunc(func(op errorfs.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					crashed = append(crashed, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}))
				}
				return nil
			})
			e, err := store.OpenPebbleOn(errorfs.Wrap(mem, watch), "db", small)
			if err != nil {
				t.Fatal(err)
			}
			db, err := store.Open(e, []store.Binding{{Spec: faulty, Prefix: 1}}, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			before := flushed
			if applied, flushed, err = lives(db, 5); err != nil || flushed != 5 {
				t.Fatal(applied, flushed, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			for i, c := range crashed {
				if err := verify(c, before, applied); err != nil {
					t.Fatalf("seed %d, life %d, crash at change %d of %d: %v", seed, life, i, len(crashed), err)
				}
			}
			crashes += len(crashed)
		}
	}
	if crashes < 40*int(rounds) {
		t.Errorf("%d crashes: too few", crashes)
	}
}

// TestDiskFull lets every write fail from some operation on, as a full disk does. The store stops with store/disk-full.
func TestDiskFull(t *testing.T) {
	step := int64(3)
	if testing.Short() {
		step = 15
	}
	reached := 0
	for from := int64(0); from < 400; from += step {
		mem := vfs.NewMem()
		var ops, refused atomic.Int64
		full := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || ops.Add(1) <= from {
				return nil
			}
			switch op.Kind {
			case errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpFileClose, errorfs.OpLock:
				return nil // a full disk still lets go
			}
			refused.Add(1)
			return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.ENOSPC}
		})
		var applied, flushed int
		var err error
		watched(t, fmt.Sprintf("full from write %d", from), func() {
			applied, flushed, err = life(errorfs.Wrap(mem, full), 60)
		})
		if ops.Load() <= from {
			break
		}
		if refused.Load() == 0 {
			continue // what came after was only letting go
		}
		reached++
		if fault.Code(err) != "store/disk-full" {
			t.Errorf("full from write %d: %v", from, err)
		}
		if err := verify(mem, flushed, applied); err != nil {
			t.Errorf("full from write %d: %v", from, err)
		}
	}
	if reached < 10 {
		t.Errorf("the disk was full in %d runs only", reached)
	}
}

// TestDamage flips a byte of, or cuts off, every file of a closed store at many places. Reading it gives a typed error or
// the rows of the epoch its checkpoint names, which may be an earlier one: the changelog has the rest. It never ends the
// process, and never gives a wrong row.
func TestDamage(t *testing.T) {
	whole := vfs.NewMem()
	applied, flushed, err := life(whole, 12)
	if err != nil || flushed != applied {
		t.Fatal(applied, flushed, err)
	}
	names, err := whole.List("db")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, name := range names {
		path := whole.PathJoin("db", name)
		content := readAll(t, whole, path)
		step := max(1, len(content)/60)
		for at := 0; at < len(content); at += step {
			for _, cut := range []bool{false, true} {
				damaged := vfs.NewMem()
				if ok, err := vfs.Clone(whole, damaged, "db", "db"); err != nil || !ok {
					t.Fatal(ok, err)
				}
				bad := append([]byte(nil), content...)
				if cut {
					bad = bad[:at]
				} else {
					bad[at] ^= 0x40
				}
				writeAll(t, damaged, path, bad)
				what := fmt.Sprintf("%s at %d of %d, cut=%v", name, at, len(content), cut)
				watched(t, what, func() {
					err := verify(damaged, 0, applied)
					if err == nil {
						return
					}
					refused++
					if !typed(err) {
						t.Errorf("%s: %v", what, err)
					}
				})
			}
		}
	}
	if refused < 20 {
		t.Errorf("only %d damages were noticed", refused)
	}
	t.Logf("%d damages noticed", refused)
}

// TestMissingFile takes each file of a closed store away. What opens is consistent; what does not is store/corrupt, for which
// the runtime sets the directory aside and restores.
func TestMissingFile(t *testing.T) {
	whole := vfs.NewMem()
	_, _, err := life(whole, 12)
	if err != nil {
		t.Fatal(err)
	}
	names, err := whole.List("db")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, name := range names {
		without := vfs.NewMem()
		if ok, err := vfs.Clone(whole, without, "db", "db"); err != nil || !ok {
			t.Fatal(ok, err)
		}
		if err := without.Remove(without.PathJoin("db", name)); err != nil {
			t.Fatal(err)
		}
		if err := verify(without, 0, 12); err != nil {
			refused++
			if fault.Code(errors.Unwrap(err)) != "store/corrupt" {
				t.Errorf("without %s: %v", name, err)
			}
		}
	}
	if refused < 3 {
		t.Errorf("refused without %d of %v", refused, names)
	}
}

func readAll(t *testing.T, fsys vfs.FS, path string) []byte {
	t.Helper()
	f, err := fsys.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if len(b) > 0 {
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func writeAll(t *testing.T, fsys vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestApplyWaitsForFlush holds flushes back: applying stops after a bounded number of memtables, goes on when the disk does,
// and gives up when the disk fails.
func TestApplyWaitsForFlush(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%v", fails), func(t *testing.T) {
			mem := vfs.NewMem()
			held, release := make(chan struct{}, 1), make(chan struct{})
			slow := errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind != errorfs.OpFileWrite || !strings.HasSuffix(op.Path, ".sst") {
					return nil
				}
				select {
				case held <- struct{}{}:
				default:
				}
				<-release
				if fails {
					return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.ENOSPC}
				}
				return nil
			})
			e, err := store.OpenPebbleOn(errorfs.Wrap(mem, slow), "db", small)
			if err != nil {
				t.Fatal(err)
			}
			const batches = 2000 // of 4 KiB: a hundred memtables
			var applied atomic.Int64
			end := make(chan error, 1)
			go func() {
				var b store.Batch
				for n := range batches {
					b.Reset()
					b.Set(fmt.Appendf([]byte{0, 1}, "%d", n), make([]byte, 4<<10))
					if err := e.Apply(&b); err != nil {
						end <- err
						return
					}
					applied.Add(1)
				}
				end <- nil
			}()
			watched(t, "the first flush", func() { <-held })
			// The writer must come to rest by itself. It rests when a while of scheduling brings no batch any more.
			rest, last := 0, int64(-1)
			watched(t, "the writer's rest", func() {
				for rest < 20_000 {
					if n := applied.Load(); n != last {
						rest, last = 0, n
					}
					rest++
					runtime.Gosched()
				}
			})
			if last >= batches {
				t.Fatalf("all %d batches were applied while no flush could finish", batches)
			}
			close(release)
			watched(t, "the end", func() { err = <-end })
			if fails && fault.Code(err) != "store/disk-full" || !fails && (err != nil || applied.Load() != batches) {
				t.Errorf("%d batches applied, %v", applied.Load(), err)
			}
			if err := e.Close(); (err != nil) != fails {
				t.Errorf("close: %v", err)
			}
		})
	}
}

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	e, err := store.OpenPebble(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenPebble(dir, small); fault.Code(err) != "store/locked" {
		t.Errorf("opened twice: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := store.OpenPebble(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestStatsAnyTime reads figures from another goroutine while the store lives and closes.
func TestStatsAnyTime(t *testing.T) {
	for _, e := range []func() (store.Engine, error){
		func() (store.Engine, error) { return store.NewMemory(), nil },
		func() (store.Engine, error) { return store.OpenPebbleOn(vfs.NewMem(), "db", small) },
	} {
		engine, err := e()
		if err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(engine, []store.Binding{{Spec: faulty, Prefix: 1}}, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		stop, rows := make(chan struct{}), make(chan int64)
		go func() {
			most := int64(0)
			for {
				select {
				case <-stop:
					rows <- most
					return
				default:
					most = max(most, db.Stats().RowsEstimated)
				}
			}
		}()
		if _, _, err := lives(db, 20); err != nil {
			t.Fatal(err)
		}
		if n := db.Stats().RowsEstimated; n != 40 {
			t.Errorf("%d rows, want 40", n)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		close(stop)
		if n := <-rows; n > 40 {
			t.Errorf("%d rows were seen", n)
		}
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "app", "task")
	e, err := store.OpenPebble(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	var b store.Batch
	b.Set([]byte{0, 1, 1}, []byte("row"))
	if err := errors.Join(e.Apply(&b), e.Flush()); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen++
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %o", d.Name(), mode)
		}
		return nil
	})
	if err != nil || seen < 4 {
		t.Errorf("%d files, %v", seen, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUnwritableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenPebble(filepath.Join(file, "db"), small); fault.Code(err) != "store/io" {
		t.Errorf("opened below a file: %v", err)
	}
}
