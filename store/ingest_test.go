package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

var (
	bulkA = store.KeyValue("bulk-a", serde.Bytes(), serde.Bytes())
	bulkB = store.KeyValue("bulk-b", serde.Bytes(), serde.Bytes())
)

func bulkDB(e store.Engine) (*store.DB, error) {
	return store.Open(e, []store.Binding{{Spec: bulkB, Prefix: 7}, {Spec: bulkA, Prefix: 2}}, store.Options{})
}

// logged is a changelog record of one of the two stores.
type logged struct {
	store string
	row   store.Mutation
}

// changes makes a log: few keys, of many lengths, written again and again, deleted and written once more.
func changes(rng *rand.Rand, n, keys, valueMax int) []logged {
	log := make([]logged, n)
	for i := range log {
		name := "bulk-a"
		if rng.IntN(3) == 0 {
			name = "bulk-b"
		}
		k := rng.IntN(keys)
		m := store.Mutation{Key: fmt.Appendf(nil, "key%0*d", 1+k%13, k)}
		if rng.IntN(4) == 0 {
			m.Delete = true
		} else {
			m.Value = store.AppendRow(nil, bytes.Repeat([]byte{byte(i)}, rng.IntN(valueMax)), int64(i))
		}
		log[i] = logged{name, m}
	}
	return log
}

// stateOf is what a log leaves.
func stateOf(log []logged) map[string]string {
	m := map[string]string{}
	for _, l := range log {
		k := l.store + "/" + string(l.row.Key)
		if l.row.Delete {
			delete(m, k)
		} else {
			m[k] = string(l.row.Value)
		}
	}
	return m
}

// contents reads everything a DB's engine has.
func contents(e store.Engine) (map[string]string, error) {
	it, err := e.Iter([]byte{0, 1}, nil, false)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for it.Next() {
		name := "bulk-a"
		if it.Key()[1] == 7 {
			name = "bulk-b"
		}
		m[name+"/"+string(it.Key()[2:])] = string(it.Value())
	}
	return m, it.Close()
}

// restoreFrom applies a log from a position on, in batches of batch records of one store, and ingests every `every` batches.
func restoreFrom(b *store.Bulk, log []logged, at, batch, every int) error {
	sinceIngest := 0
	for at < len(log) {
		end := min(len(log), at+batch)
		for _, name := range []string{"bulk-a", "bulk-b"} {
			var rows []store.Mutation
			for _, l := range log[at:end] {
				if l.store == name {
					rows = append(rows, l.row)
				}
			}
			if err := b.Add(name, rows); err != nil {
				return err
			}
		}
		at = end
		if sinceIngest++; sinceIngest == every || at == len(log) {
			sinceIngest = 0
			if err := b.Ingest(position(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

func position(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func checkpointOf(db *store.DB) (int, error) {
	row, ok, err := db.Checkpoint()
	if err != nil || !ok {
		return 0, err
	}
	return int(binary.BigEndian.Uint64(row)), nil
}

// Whatever is gathered, in however many runs and over whatever was there, is what the log leaves.
func TestBulk(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 12 {
		e, err := store.OpenPebbleOn(vfs.NewMem(), "db", small)
		if err != nil {
			t.Fatal(err)
		}
		db, err := bulkDB(e)
		if err != nil {
			t.Fatal(err)
		}
		before := changes(rng, 300*(round%3), 100, 40)
		for i := range before {
			if err := db.Restore(before[i].store, []store.Mutation{before[i].row}, nil); err != nil {
				t.Fatal(err)
			}
		}
		log := changes(rng, 2000, 30+200*(round%4), 100)
		b, err := db.Bulk()
		if err != nil || b == nil {
			t.Fatal(b, err)
		}
		if err := restoreFrom(b, log, 0, 1+rng.IntN(300), 1+rng.IntN(8)); err != nil {
			t.Fatal(err)
		}
		b.Close()
		got, err := contents(e)
		if err != nil {
			t.Fatal(err)
		}
		if want := stateOf(append(before, log...)); !maps.Equal(got, want) {
			t.Errorf("round %d: %d rows, want %d; contents differ", round, len(got), len(want))
		}
		if at, err := checkpointOf(db); err != nil || at != len(log) {
			t.Errorf("round %d: checkpoint %d, %v", round, at, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What a DB held of its engine before a bulk restore is not believed afterwards.
func TestBulkUnderTable(t *testing.T) {
	e, err := store.OpenPebbleOn(vfs.NewMem(), "db", small)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bulkDB(e)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	kv, err := bulkA.In(db)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"stays", "goes", "absent"} {
		if _, _, err := kv.Get([]byte(k)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(kv.Put([]byte("stays"), []byte("old")), kv.Put([]byte("goes"), []byte("old")), db.Apply(db.Seal(), nil)); err != nil {
		t.Fatal(err)
	}
	b, err := db.Bulk()
	if err != nil || b == nil {
		t.Fatal(b, err)
	}
	defer b.Close()
	rows := []store.Mutation{
		{Key: []byte("stays"), Value: store.AppendRow(nil, []byte("new"), 1)},
		{Key: []byte("goes"), Delete: true},
		{Key: []byte("absent"), Value: store.AppendRow(nil, []byte("there"), 1)},
	}
	if err := errors.Join(b.Add("bulk-a", rows), b.Ingest(nil)); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{"stays": "new", "goes": "", "absent": "there"} {
		v, ok, err := kv.Get([]byte(k))
		if err != nil || ok != (want != "") || string(v) != want {
			t.Errorf("%s = %q, %v, %v; want %q", k, v, ok, err, want)
		}
	}
}

// A crash at any operation of the disk leaves a checkpoint that claims nothing which is not there: going on from it ends
// with the same rows.
func TestBulkCrashAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	log := changes(rng, 1200, 150, 60)
	want := stateOf(log)
	points, resumed := 0, 0
	for seed := range uint64(2) {
		mem := vfs.NewCrashableMem()
		crng := rand.New(rand.NewPCG(seed, 9))
		var crashed []*vfs.MemFS
		var mu sync.Mutex // compactions write as well
		watch := errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && (!testing.Short() || crng.IntN(4) == 0) {
				crashed = append(crashed, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed) * 50, RNG: crng}))
			}
			return nil
		})
		e, err := store.OpenPebbleOn(errorfs.Wrap(mem, watch), "db", small)
		if err != nil {
			t.Fatal(err)
		}
		db, err := bulkDB(e)
		if err != nil {
			t.Fatal(err)
		}
		begin := int(seed) * 100 // so much comes in batches, and is in a memtable when the tables come
		for i := range begin {
			if err := db.Restore(log[i].store, []store.Mutation{log[i].row}, position(i+1)); err != nil {
				t.Fatal(err)
			}
		}
		b, err := db.Bulk()
		if err != nil || b == nil {
			t.Fatal(b, err)
		}
		if err := restoreFrom(b, log, begin, 50, 4); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for i, c := range crashed {
			at, err := goesOn(c, log, want)
			if err != nil {
				t.Errorf("crash at change %d of %d, seed %d: %v", i, len(crashed), seed, err)
			}
			if at > 0 && at < len(log) {
				resumed++
			}
		}
		points += len(crashed)
	}
	if points < 40 || resumed == 0 {
		t.Errorf("%d crashes, %d with a part of the log: too few", points, resumed)
	}
}

// goesOn opens what a crash left, restores from its checkpoint on, and compares.
func goesOn(fsys vfs.FS, log []logged, want map[string]string) (at int, err error) {
	e, err := store.OpenPebbleOn(fsys, "db", small)
	if err != nil {
		return 0, fmt.Errorf("open again: %w", err)
	}
	db, err := bulkDB(e)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if at, err = checkpointOf(db); err != nil {
		return at, err
	}
	names, err := fsys.List("db")
	if err != nil {
		return at, err
	}
	for _, n := range names {
		if strings.HasPrefix(n, "restore-") {
			return at, fmt.Errorf("%s was left", n)
		}
	}
	if at == 0 {
		if err := errors.Join(db.ClearStore("bulk-a"), db.ClearStore("bulk-b")); err != nil {
			return at, err
		}
	}
	b, err := db.Bulk()
	if err != nil || b == nil {
		return at, fmt.Errorf("no bulk restore: %w", err)
	}
	defer b.Close()
	if err := restoreFrom(b, log, at, 70, 100); err != nil {
		return at, err
	}
	got, err := contents(e)
	if err == nil && !maps.Equal(got, want) {
		err = fmt.Errorf("from checkpoint %d: %d rows, want %d; contents differ", at, len(got), len(want))
	}
	return at, err
}

// One operation of the disk fails, each in turn: a typed error or none, and what is there can be gone on from.
func TestBulkErrorAtEveryOperation(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	log := changes(rng, 600, 100, 60)
	want := stateOf(log)
	step := int32(1)
	if testing.Short() {
		step = 3
	}
	failed := 0
	for i := int32(0); ; i += step {
		mem := vfs.NewMem()
		index := errorfs.OnIndex(i)
		var err error
		watched(t, fmt.Sprintf("operation %d", i), func() { err = bulkLife(errorfs.Wrap(mem, index), log) })
		if index.Load() >= 0 {
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
		if _, err := goesOn(mem, log, want); err != nil {
			t.Errorf("operation %d: %v", i, err)
		}
	}
	if failed < 15 {
		t.Errorf("only %d failures: the errors did not reach the store", failed)
	}
}

func bulkLife(fsys vfs.FS, log []logged) error {
	e, err := store.OpenPebbleOn(fsys, "db", small)
	if err != nil {
		return err
	}
	db, err := bulkDB(e)
	if err != nil {
		return err
	}
	b, err := db.Bulk()
	if err != nil {
		return errors.Join(err, db.Close())
	}
	defer b.Close()
	err = restoreFrom(b, log, 0, 100, 2)
	if closeErr := db.Close(); err == nil {
		err = closeErr
	}
	return err
}

// A full disk says so.
func TestBulkDiskFull(t *testing.T) {
	log := changes(rand.New(rand.NewPCG(7, 8)), 300, 100, 60)
	full := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, "restore-") {
			return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.ENOSPC}
		}
		return nil
	})
	if err := bulkLife(errorfs.Wrap(vfs.NewMem(), full), log); fault.Code(err) != "store/disk-full" {
		t.Errorf("%v", err)
	}
}

// All bulk restores together stay within the share of the memory limit, whoever comes and goes; one too many is told to do
// without.
func TestBulkShares(t *testing.T) {
	shared, err := store.NewShared(32<<20, 8) // 8 MiB for bulk restores: four of them at the least
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	limit := shared.Memory().Bulk
	var bulks []*store.Bulk
	rows := make([]store.Mutation, 500)
	value := store.AppendRow(nil, make([]byte, 100), 1)
	fill := func(b *store.Bulk, salt int) (added int) {
		for ; ; added++ {
			for i := range rows {
				rows[i] = store.Mutation{Key: fmt.Appendf(nil, "%d/%d/%d", salt, added, i), Value: value}
			}
			if !b.Room(rows) {
				return added
			}
			if err := b.Add("bulk-a", rows); err != nil {
				t.Fatal(err)
			}
			if used := shared.BulkBytes(); used > limit {
				t.Fatalf("%d bytes are given out, the limit is %d", used, limit)
			}
		}
	}
	for i := range 5 {
		e, err := shared.OpenPebble(t.TempDir(), small)
		if err != nil {
			t.Fatal(err)
		}
		db, err := bulkDB(e)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		b, err := db.Bulk()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if n := fill(b, 0); n < 40 {
				t.Errorf("alone it took %d batches only", n)
			}
			if other, _ := db.Bulk(); other != nil {
				t.Error("there was room for another while one had everything")
			}
			if err := b.Ingest(position(1)); err != nil { // everything is its share still
				t.Fatal(err)
			}
			b.Close()
			if b, err = db.Bulk(); b == nil || err != nil {
				t.Fatal(b, err)
			}
		}
		if (b == nil) != (i == 4) {
			t.Fatalf("bulk restore %d: %v", i, b)
		}
		if b != nil {
			bulks = append(bulks, b)
		}
	}
	for i, b := range bulks {
		if fill(b, i) == 0 {
			t.Errorf("bulk restore %d got no room", i)
		}
		if err := b.Ingest(position(1)); err != nil {
			t.Error(err)
		}
		if !b.Room(rows) {
			t.Errorf("bulk restore %d has no room after it ingested", i)
		}
	}
	for _, b := range bulks {
		b.Close()
		b.Close()
	}
	if used := shared.BulkBytes(); used != 0 {
		t.Errorf("%d bytes are still given out", used)
	}
}

// Rows that are not rows are refused as they are in small batches.
func TestBulkRefuses(t *testing.T) {
	e, err := store.OpenPebbleOn(vfs.NewMem(), "db", small)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bulkDB(e)
	if err != nil {
		t.Fatal(err)
	}
	b, err := db.Bulk()
	if err != nil || b == nil {
		t.Fatal(b, err)
	}
	for code, m := range map[string]store.Mutation{
		"store/row-format":   {Key: []byte("k"), Value: []byte("not a row")},
		"store/key-too-long": {Key: make([]byte, store.KeyBytesMax+1), Delete: true},
	} {
		if err := b.Add("bulk-a", []store.Mutation{{Key: []byte("good"), Value: store.AppendRow(nil, nil, 1)}, m}); fault.Code(err) != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	if err := b.Add("nobody", nil); fault.Code(err) != "store/unknown" {
		t.Errorf("%v", err)
	}
	if err := b.Ingest(position(1)); err != nil {
		t.Error(err)
	}
	if got, err := contents(e); len(got) != 0 || err != nil {
		t.Errorf("%d rows of refused batches, %v", len(got), err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Ingest(position(2)); fault.Code(err) != "store/closed" {
		t.Errorf("after the DB was closed: %v", err)
	}
	b.Close()
	if err := b.Add("bulk-a", nil); fault.Code(err) != "store/closed" {
		t.Errorf("after it was closed: %v", err)
	}
	mem, err := bulkDB(store.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if b, err := mem.Bulk(); b != nil || err != nil {
		t.Errorf("the memory engine takes tables: %v, %v", b, err)
	}
}
