package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

var (
	names = store.KeyValue("names", serde.String(), serde.Optional(serde.String()))
	sums  = store.KeyValue("sums", serde.Int64(), serde.Int64())
)

func open(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: names, Prefix: 1}, {Spec: sums, Prefix: 2}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func code(t *testing.T, err error, want string) {
	t.Helper()
	if fault.Code(err) != want {
		t.Errorf("error %v, want code %s", err, want)
	}
}

func opened(t *testing.T, db *store.DB) (*store.KV[string, *string], *store.KV[int64, int64]) {
	t.Helper()
	n, err := names.In(db)
	must(t, err)
	s, err := sums.In(db)
	must(t, err)
	return n, s
}

func TestUnknownStore(t *testing.T) {
	db := open(t)
	_, err := db.Rows("nmaes")
	want := `store/unknown: store "nmaes": the stores of this task are names, sums; attach the store to the node that opens it`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = store.KeyValue("sums", serde.String(), serde.Int64()).In(db)
	want = `store/other-type: store "sums": it is attached with key int64 and value int64, and opened with key string and value int64; ` +
		`declare the store once and use that value everywhere`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestBindings(t *testing.T) {
	for _, bad := range [][]store.Binding{
		{{Spec: names, Prefix: 0}},
		{{Spec: names, Prefix: 65535}},
		{{Spec: names, Prefix: 1}, {Spec: names, Prefix: 2}},
		{{Spec: names, Prefix: 1}, {Spec: sums, Prefix: 1}},
	} {
		_, err := store.Open(store.NewMemory(), bad, store.Options{})
		code(t, err, "store/binding")
	}
}

func TestNulls(t *testing.T) {
	db := open(t)
	n, _ := opened(t, db)
	ada := "Ada"
	must(t, n.Put("a", &ada))
	must(t, n.Put("a", nil)) // a null value deletes
	if _, ok, err := n.Get("a"); ok || err != nil {
		t.Errorf("after putting null: %v %v", ok, err)
	}
	byName, err := store.Open(store.NewMemory(), []store.Binding{{Spec: optionalKeys, Prefix: 1}}, store.Options{})
	must(t, err)
	defer byName.Close()
	kv, err := optionalKeys.In(byName)
	must(t, err)
	code(t, kv.Put(nil, 1), "store/null-key")
	_, _, err = kv.Get(nil)
	code(t, err, "store/null-key")
	scan := kv.Range(nil, &ada)
	for range scan.Rows() {
		t.Error("a row in a range from null")
	}
	code(t, scan.Err(), "store/null-key")
	must(t, kv.Put(&ada, 1))
	if v, ok, err := kv.Get(&ada); v != 1 || !ok || err != nil {
		t.Errorf("got %d %v %v", v, ok, err)
	}
}

var optionalKeys = store.KeyValue("optional", serde.Optional(serde.String()), serde.Int64())

func TestLimits(t *testing.T) {
	db := open(t)
	rows, err := db.Rows("names")
	must(t, err)
	key := make([]byte, store.KeyBytesMax+1)
	code(t, rows.Put(key, nil, 0), "store/key-too-long")
	code(t, rows.Delete(key), "store/key-too-long")
	code(t, rows.Put(nil, make([]byte, store.ValueBytesMax+1), 0), "store/value-too-long")
	code(t, db.Restore("names", []store.Mutation{{Key: key, Delete: true}}, nil), "store/key-too-long")
	must(t, rows.Put(key[1:], nil, 0))
	must(t, rows.Put(nil, []byte("the empty key is a key"), 0))
	if v, _, ok, err := rows.Get(nil); string(v) != "the empty key is a key" || !ok || err != nil {
		t.Errorf("%q %v %v", v, ok, err)
	}
}

func TestEpochOrder(t *testing.T) {
	db := open(t)
	_, s := opened(t, db)
	must(t, s.Put(1, 1))
	first := db.Seal()
	must(t, s.Put(1, 2))
	second := db.Seal()
	code(t, db.Apply(second, nil), "store/epoch-order")
	code(t, db.Restore("sums", nil, nil), "store/epoch-order")
	must(t, db.Apply(first, []byte("one")))
	code(t, db.Apply(first, nil), "store/epoch-order")
	must(t, db.Apply(second, nil)) // no checkpoint: the old one stays
	if row, ok, err := db.Checkpoint(); string(row) != "one" || !ok || err != nil {
		t.Errorf("checkpoint %q %v %v", row, ok, err)
	}
	third := db.Seal()
	db.Discard()
	code(t, db.Apply(third, nil), "store/epoch-order")
}

func TestRestoreChecksRows(t *testing.T) {
	db := open(t)
	good := store.AppendRow(nil, []byte("v"), 5)
	accessed := append([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7}, "v"...)
	for name, bad := range map[string][]byte{
		"empty": {}, "short": good[:9], "version 2": append([]byte{2}, good[1:]...), "flag 8": append([]byte{1, 8}, good[2:]...),
		"short with access time": accessed[:17],
	} {
		err := db.Restore("sums", []store.Mutation{{Key: []byte("a"), Value: good}, {Key: []byte("b"), Value: bad}}, []byte("c"))
		if !store.IsCorrupt(err) {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok, err := db.Checkpoint(); ok || err != nil {
			t.Errorf("%s: part of the batch was applied (%v)", name, err)
		}
	}
	must(t, db.Restore("sums", []store.Mutation{{Key: []byte("a"), Value: good}, {Key: []byte("b"), Value: accessed}}, []byte("c")))
	rows, err := db.Rows("sums")
	must(t, err)
	if v, ts, ok, err := rows.Get([]byte("b")); string(v) != "v" || ts != 9 || !ok || err != nil {
		t.Errorf("a row with access time: %q %d %v %v", v, ts, ok, err)
	}
}

// TestDeleteLeavesTraces says which deletes reach the changelog.
func TestDeleteLeavesTraces(t *testing.T) {
	db := open(t)
	_, s := opened(t, db)
	must(t, s.Put(1, 1))
	must(t, db.Apply(db.Seal(), nil))
	trace := func() (rows []string) {
		e := db.Seal()
		must(t, e.Each(func(_ string, key, value []byte) error {
			rows = append(rows, fmt.Sprintf("%d %v", key[7], value != nil))
			return nil
		}))
		must(t, db.Apply(e, nil))
		return rows
	}
	drop := func(k, want int64) {
		t.Helper()
		if old, present, err := s.Delete(k); err != nil || present != (want != 0) || old != want {
			t.Errorf("delete %d: %d %v %v", k, old, present, err)
		}
	}
	drop(7, 0) // never there
	drop(1, 1)
	drop(1, 0)
	must(t, s.Put(2, 2)) // put and deleted in one epoch: a tombstone, though it was never there
	drop(2, 2)
	if got, want := trace(), []string{"1 false", "2 false"}; !slices.Equal(got, want) {
		t.Errorf("traces %v, want %v", got, want)
	}
	drop(1, 0)
	if got := trace(); len(got) > 0 {
		t.Errorf("traces %v of rows that were not there", got)
	}
}

func TestEachStops(t *testing.T) {
	db := open(t)
	_, s := opened(t, db)
	must(t, s.Put(1, 1))
	must(t, s.Put(2, 2))
	stop, n := errors.New("stop"), 0
	err := db.Seal().Each(func(string, []byte, []byte) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("%v after %d rows", err, n)
	}
}

func TestScansEndWithTheirRecord(t *testing.T) {
	db := open(t)
	_, s := opened(t, db)
	for k := range int64(10) {
		must(t, s.Put(k, k))
	}
	rows, err := db.Rows("sums")
	must(t, err)
	for name, end := range map[string]func(){
		"savepoint": db.Savepoint, "rollback": db.Rollback, "seal": func() { db.Seal() }, "discard": db.Discard,
	} {
		for k := range int64(10) {
			must(t, s.Put(k, k))
		}
		scan := rows.Scan(nil, nil, false)
		if !scan.Next() {
			t.Fatal(name, "no rows")
		}
		end()
		if scan.Next() {
			t.Errorf("%s: the scan went on", name)
		}
		code(t, scan.Close(), "store/scan-ended")
	}
}

func TestClosed(t *testing.T) {
	db := open(t)
	_, s := opened(t, db)
	must(t, s.Put(1, 1))
	e := db.Seal()
	must(t, db.Close())
	must(t, db.Close())
	_, _, err := s.Get(1)
	code(t, err, "store/closed")
	code(t, s.Put(1, 1), "store/closed")
	_, _, err = s.Delete(1)
	code(t, err, "store/closed")
	code(t, db.Apply(e, nil), "store/closed")
	code(t, db.Flush(), "store/closed")
	code(t, db.Clear(), "store/closed")
	code(t, db.Restore("sums", nil, nil), "store/closed")
	_, _, err = db.Checkpoint()
	code(t, err, "store/closed")
	scan := s.All()
	for range scan.Rows() {
		t.Error("a row of a closed store")
	}
	code(t, scan.Err(), "store/closed")
	if n := s.ApproximateLen(); n != 0 {
		t.Errorf("%d rows", n)
	}
	db.Savepoint()
	db.Rollback()
	db.Discard()
}

func TestApproximateLen(t *testing.T) {
	engine := store.NewMemory()
	db, err := store.Open(engine, []store.Binding{{Spec: names, Prefix: 1}, {Spec: sums, Prefix: 2}}, store.Options{CacheBytes: 1})
	must(t, err)
	defer db.Close()
	n, s := opened(t, db)
	is := func(want int64) {
		t.Helper()
		if got := s.ApproximateLen(); got != want {
			t.Errorf("%d rows, want %d", got, want)
		}
	}
	ada := "Ada"
	must(t, n.Put("another store", &ada))
	is(0)
	for k := range int64(100) {
		_, _, err := s.PutIfAbsent(k, k)
		must(t, err)
	}
	is(100)
	db.Savepoint()
	_, _, err = s.Delete(5)
	must(t, err)
	_, _, err = s.Delete(6)
	must(t, err)
	must(t, s.Put(6, 6))
	is(99)
	db.Rollback()
	is(100)
	e := db.Seal()
	_, _, err = s.Delete(7)
	must(t, err)
	is(99)
	must(t, db.Apply(e, nil))
	is(99)
	db.Discard()
	is(100)
	must(t, db.Clear())
	is(0)
	rows := []store.Mutation{{Key: []byte("12345678"), Value: store.AppendRow(nil, make([]byte, 8), 0)}}
	must(t, db.Restore("sums", rows, nil))
	is(1)
	// Rows written without being read count once the engine is asked again.
	for k := range int64(3000) {
		must(t, s.Put(k+1000, k))
	}
	must(t, db.Apply(db.Seal(), nil))
	is(3001)
}

// TestValuesMayComeFromGet puts slices that Get returned, for other rows and for the row itself.
func TestValuesMayComeFromGet(t *testing.T) {
	db := open(t)
	rows, err := db.Rows("names")
	must(t, err)
	must(t, rows.Put([]byte("a"), []byte("0123456789"), 1))
	v, _, _, err := rows.Get([]byte("a"))
	must(t, err)
	must(t, rows.Put([]byte("a"), v[3:], 2)) // overlaps with where it goes
	v, _, _, _ = rows.Get([]byte("a"))
	if string(v) != "3456789" {
		t.Errorf("%q", v)
	}
	must(t, rows.Put([]byte("b"), v, 3))
	v, _, _, _ = rows.Get([]byte("b"))
	must(t, rows.Put([]byte("b"), bytes.Repeat(v, 100), 4)) // needs a larger place
	if v, _, _, _ = rows.Get([]byte("b")); string(v) != strings.Repeat("3456789", 100) {
		t.Errorf("%q", v)
	}
}

func TestMemoryLimit(t *testing.T) {
	for _, tasks := range []int{0, 1, 3, 10, 100, 1000} {
		least := store.MemoryMin(tasks)
		if _, err := store.NewShared(least-1, tasks); fault.Code(err) != "store/memory-limit" || !strings.Contains(err.Error(), fmt.Sprint(least)) {
			t.Errorf("%d tasks: %v", tasks, err)
		}
		for _, limit := range []int64{least, 2 * least, 512 << 20, 16 << 30} {
			if limit < least {
				continue
			}
			m, err := store.ShareOut(limit, tasks)
			must(t, err)
			n := int64(max(1, tasks))
			if used := m.BlockCache + n*m.ReadCache + m.Overlay; used > limit*3/4 {
				t.Errorf("%d tasks, %d bytes: state takes %d", tasks, limit, used)
			}
			if m.MemTable < 64<<10 || m.MemTable > 4<<20 || m.BlockCache-3*n*m.MemTable < 4<<20-16 || m.ReadCache < 128<<10-16 || m.Overlay/n < 32<<10-16 {
				t.Errorf("%d tasks, %d bytes: %+v", tasks, limit, m)
			}
		}
	}
	s, err := store.NewShared(512<<20, 4)
	must(t, err)
	defer s.Close()
	if s.CacheBytes() < 48<<20 || s.OverlayBytes() < 64<<20 || s.Memory().MemTable > 4<<20 {
		t.Errorf("%+v", s.Memory())
	}
	if rows := s.CacheBytes() / 8 * 7 / 80; rows < 250_000 {
		t.Errorf("a task of four has room for %d small rows, not for a quarter of a million", rows)
	}
	if least := store.MemoryMin(256); least > 192<<20 {
		t.Errorf("256 tasks need %d MiB", least>>20)
	}
	a, err := s.OpenPebble(t.TempDir(), small)
	must(t, err)
	b, err := s.OpenPebble(t.TempDir(), small)
	must(t, err)
	must(t, errors.Join(a.Close(), b.Close()))
}

// TestFormat holds the bytes in the engine and in the changelog to docs/format/rows.md.
func TestFormat(t *testing.T) {
	engine := store.NewMemory()
	db, err := store.Open(engine, []store.Binding{{Spec: stock, Prefix: 1}}, store.Options{})
	must(t, err)
	defer db.Close()
	kv, err := stock.In(db)
	must(t, err)
	db.SetTime(1000)
	must(t, kv.Put("apples", 3))
	const value = "\x01\x00\x00\x00\x00\x00\x00\x00\x03\xE8\x00\x00\x00\x00\x00\x00\x00\x03"
	e := db.Seal()
	must(t, e.Each(func(_ string, key, row []byte) error {
		if string(key) != "apples" || string(row) != value {
			t.Errorf("changelog %q = % X", key, row)
		}
		return nil
	}))
	must(t, db.Apply(e, []byte("checkpoint")))
	it, err := engine.Iter(nil, nil, false)
	must(t, err)
	var rows []string
	for it.Next() {
		rows = append(rows, fmt.Sprintf("%x=%x", it.Key(), it.Value()))
	}
	must(t, it.Close())
	if want := []string{fmt.Sprintf("%x=%x", "\x00\x00\x01", "checkpoint"), fmt.Sprintf("%x=%x", "\x00\x01apples", value)}; !slices.Equal(rows, want) {
		t.Errorf("the engine has %v, want %v", rows, want)
	}
}
