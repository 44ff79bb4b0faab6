package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/ttl"
)

// snapEngines make an empty engine in a directory.
var snapEngines = map[string]func(t *testing.T) store.Engine{
	"memory": func(*testing.T) store.Engine { return store.NewMemory() },
	"pebble": func(t *testing.T) store.Engine {
		e, err := store.OpenPebble(filepath.Join(t.TempDir(), "db"), store.PebbleOptions{})
		must(t, err)
		return e
	},
}

func snapOpen(t *testing.T, e store.Engine, specs ...store.Spec) *store.DB {
	t.Helper()
	var bindings []store.Binding
	for i, s := range specs {
		bindings = append(bindings, store.Binding{Spec: s, Prefix: uint16(i + 1)})
	}
	db, err := store.Open(e, bindings, store.Options{})
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// snapRestored is a database that begins with what a snapshot of any engine holds.
func snapRestored(t *testing.T, dir string, e store.Engine, specs ...store.Spec) *store.DB {
	t.Helper()
	s, err := store.OpenSnapshot(dir)
	must(t, err)
	must(t, s.CopyTo(e))
	must(t, s.Close())
	return snapOpen(t, e, specs...)
}

func snapCommit(t *testing.T, db *store.DB, checkpoint string) {
	t.Helper()
	must(t, db.Apply(db.Seal(), []byte(checkpoint)))
}

// everyWay runs a case with each engine taking snapshots and each taking them up again.
func everyWay(t *testing.T, f func(t *testing.T, from, to func(*testing.T) store.Engine)) {
	for from, a := range snapEngines {
		for to, b := range snapEngines {
			t.Run(from+" to "+to, func(t *testing.T) { f(t, a, b) })
		}
	}
}

// TestSnapshotState runs the cases of state that recover at a commit, each at a snapshot of that commit.
func TestSnapshotState(t *testing.T) {
	t.Run("V-2", func(t *testing.T) {
		everyWay(t, func(t *testing.T, from, to func(*testing.T) store.Engine) {
			db := snapOpen(t, from(t), aString)
			v, err := aString.In(db)
			must(t, err)
			c1, c2 := filepath.Join(t.TempDir(), "c1"), filepath.Join(t.TempDir(), "c2")
			must(t, v.Put("k1", "1"))
			must(t, v.Put("k2", "2"))
			snapCommit(t, db, "c1")
			must(t, v.Put("k1", "not committed")) // is in no snapshot
			must(t, db.Snapshot(c1))
			for _, k := range []string{"1", "2", "3"} {
				must(t, v.Put("k"+k, "u"+k))
			}
			snapCommit(t, db, "c2")
			must(t, db.Snapshot(c2))
			for dir, want := range map[string][3]string{c1: {"1", "2", ""}, c2: {"u1", "u2", "u3"}} {
				again := snapRestored(t, dir, to(t), aString)
				v, err := aString.In(again)
				must(t, err)
				for i, want := range want {
					got, ok, err := v.Get(fmt.Sprint("k", i+1))
					if err != nil || got != want || ok != (want != "") {
						t.Errorf("%s: k%d = %q, %v, %v; want %q", filepath.Base(dir), i+1, got, ok, err, want)
					}
				}
				if row, ok, err := again.Checkpoint(); err != nil || !ok || string(row) != filepath.Base(dir) {
					t.Errorf("%s: checkpoint %q, %v, %v", filepath.Base(dir), row, ok, err)
				}
			}
		})
	})
	t.Run("L-5", func(t *testing.T) {
		everyWay(t, func(t *testing.T, from, to func(*testing.T) store.Engine) {
			db := snapOpen(t, from(t), texts)
			l, err := texts.In(db)
			must(t, err)
			first, second := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "s")
			must(t, l.Append("k1", "1"))
			must(t, l.Append("k2", "2"))
			snapCommit(t, db, "c1")
			must(t, db.Snapshot(first))
			must(t, l.Append("k1", "u1"))
			must(t, l.Replace("k2", []string{"2"}))
			must(t, l.Append("k2", "u2"))
			must(t, l.Append("k3", "u3"))
			snapCommit(t, db, "c2")
			must(t, db.Snapshot(second))
			for _, c := range []struct {
				dir  string
				want map[string][]string
			}{
				{first, map[string][]string{"k1": {"1"}, "k2": {"2"}, "k3": nil}},
				{second, map[string][]string{"k1": {"1", "u1"}, "k2": {"2", "u2"}, "k3": {"u3"}}},
			} {
				l, err := texts.In(snapRestored(t, c.dir, to(t), texts))
				must(t, err)
				for k, want := range c.want {
					var got []string
					all, err := l.Slice(k)
					must(t, err)
					got = append(got, all...)
					if !slices.Equal(got, want) {
						t.Errorf("%s = %q, want %q", k, got, want)
					}
				}
			}
		})
	})
}

// T-10: what a restored snapshot holds expires by the times in it.
func TestSnapshotTimes(t *testing.T) {
	everyWay(t, func(t *testing.T, from, to func(*testing.T) store.Engine) {
		spec := store.Value("expiring", serde.String(), serde.String(), store.WithTTL(ttl.AfterWrite(100*time.Millisecond)))
		db := snapOpen(t, from(t), spec)
		v, err := spec.In(db)
		must(t, err)
		write := func(at int64, keys ...string) {
			db.SetClocks(at, -1)
			for _, k := range keys {
				must(t, v.Put(k, "v"))
			}
			snapCommit(t, db, "c")
		}
		write(0, "k1")
		write(50, "k1")
		write(100, "k2")
		dir := filepath.Join(t.TempDir(), "s")
		must(t, db.Snapshot(dir))
		write(170, "k1", "k2")
		again := snapRestored(t, dir, to(t), spec)
		again.SetClocks(180, -1)
		v, err = spec.In(again)
		must(t, err)
		for k, want := range map[string]bool{"k1": false, "k2": true} {
			if _, ok, err := v.Get(k); err != nil || ok != want {
				t.Errorf("%s: %v, %v", k, ok, err)
			}
		}
	})
}

// A snapshot stays what it is, whatever happens to the database: overwritten, compacted, cleared, closed.
func TestSnapshotStays(t *testing.T) {
	for name, open := range snapEngines {
		t.Run(name, func(t *testing.T) {
			s := store.KeyValue("s", serde.String(), serde.Bytes())
			db := snapOpen(t, open(t), s)
			kv, err := s.In(db)
			must(t, err)
			fill := func(b byte) {
				for i := range 2000 {
					must(t, kv.Put(fmt.Sprintf("%05d", i), bytes.Repeat([]byte{b}, 300)))
				}
				snapCommit(t, db, string(b))
			}
			fill('a')
			dir := filepath.Join(t.TempDir(), "snap")
			must(t, db.Snapshot(dir))
			for _, b := range []byte("bcdef") {
				fill(b)
				must(t, db.Flush())
			}
			must(t, db.Clear())
			must(t, db.Close())
			r, err := store.OpenSnapshot(dir)
			must(t, err)
			defer r.Close()
			n := 0
			must(t, r.Each(1, func(key, value []byte) error {
				v, _, err := store.ParseRow(value)
				if err == nil && !bytes.Equal(v, bytes.Repeat([]byte{'a'}, 300)) {
					err = fmt.Errorf("row %q is %q", key, v)
				}
				n++
				return err
			}))
			if n != 2000 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// What goes wrong with a snapshot is said, and leaves the database alone; damage is found when it is read.
func TestSnapshotRefusals(t *testing.T) {
	for name, open := range snapEngines {
		t.Run(name, func(t *testing.T) {
			db := snapOpen(t, open(t), aString)
			v, err := aString.In(db)
			must(t, err)
			must(t, v.Put("k", "v"))
			snapCommit(t, db, "c")
			root := t.TempDir()
			for _, bad := range []string{root, filepath.Join(root, "file", "snap")} {
				must(t, os.WriteFile(filepath.Join(root, "file"), []byte("x"), 0o600))
				if err := db.Snapshot(bad); fault.Code(err) != "store/snapshot-not-written" {
					t.Errorf("%s: %v", bad, err)
				}
			}
			must(t, v.Put("k", "w"))
			snapCommit(t, db, "d") // it lives
			dir := filepath.Join(root, "snap")
			must(t, db.Snapshot(dir))

			if _, err := store.OpenSnapshot(filepath.Join(root, "none")); fault.Code(err) != "store/snapshot-missing" {
				t.Errorf("missing: %v", err)
			}
			if _, err := store.OpenSnapshot(root); fault.Code(err) != "store/snapshot-damaged" {
				t.Errorf("no database: %v", err)
			}
			// A byte in the middle of its largest file.
			var largest string
			var most int64
			entries, err := os.ReadDir(dir)
			must(t, err)
			for _, e := range entries {
				info, err := e.Info()
				must(t, err)
				if name := e.Name(); (filepath.Ext(name) == ".sst" || name == "rows") && info.Size() > most {
					largest, most = filepath.Join(dir, name), info.Size()
				}
			}
			text, err := os.ReadFile(largest)
			must(t, err)
			text[30] ^= 0x10
			must(t, os.Remove(largest)) // a hard link: the database keeps its file
			must(t, os.WriteFile(largest, text, 0o600))
			r, err := store.OpenSnapshot(dir)
			if err == nil {
				err = errors.Join(r.Each(1, func(_, _ []byte) error { return nil }), r.Close())
			}
			if code := fault.Code(err); code != "store/snapshot-damaged" && code != "store/corrupt" {
				t.Errorf("damaged: %v", err)
			}
			if got, _, err := v.Get("k"); err != nil || got != "w" {
				t.Errorf("the database: %q, %v", got, err)
			}
		})
	}
}
