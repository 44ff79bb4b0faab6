package changelog_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/devkafka"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

var countsSpec = store.KeyValue("counts", serde.String(), serde.Int64())

// openDB opens a database with one store on an engine.
func openDB(t testing.TB, e store.Engine) *store.DB {
	t.Helper()
	db, err := store.Open(e, []store.Binding{{Spec: countsSpec, Prefix: 1}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func counts(t testing.TB, db *store.DB) map[string]int64 {
	t.Helper()
	kv, err := countsSpec.In(db)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	scan := kv.All()
	for k, v := range scan.Rows() {
		got[k] = v
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

// rowsOf are the changelog rows of one epoch that a real database made.
func rowsOf(t testing.TB, db *store.DB, topic changelog.Topic, partition int32) []kgo.Record {
	t.Helper()
	e := db.Seal()
	var records []kgo.Record
	err := e.Each(func(_ string, key, value []byte) error {
		records = append(records, changelog.Record(topic.Name, partition, append([]byte(nil), key...), append([]byte(nil), value...), time.Now()))
		if value == nil {
			records[len(records)-1].Value = nil
		}
		return nil
	})
	if err == nil {
		err = db.Apply(e, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// A database's epochs go to the topic, and a second database made of the topic equals the first; interrupted in between,
// with the process gone, on Pebble.
func TestDatabaseFromChangelog(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic := c.topic(t, 1)
		w := c.writer(t)
		first := openDB(t, store.NewMemory())
		defer first.Close()
		kv, err := countsSpec.In(first)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 40 {
			for i := range 50 {
				key := fmt.Sprintf("k%04d", (n*37+i)%500)
				if (n+i)%7 == 0 {
					_, _, err = kv.Delete(key)
				} else {
					err = kv.PutWithTime(key, int64(n*1000+i), int64(n))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			w.txn(kgo.TryCommit, rowsOf(t, first, topic, 0)...)
		}
		want := counts(t, first)

		shared, err := store.NewShared(64<<20, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer shared.Close()
		dir := t.TempDir()
		part := c.part(t, "counts", topic, 0, -1)
		stop := errors.New("killed")
		began := int64(1_000)
		for round := 0; ; round++ {
			e, err := shared.OpenPebble(dir, store.PebbleOptions{})
			if err != nil {
				t.Fatal(err)
			}
			db := openDB(t, e)
			var base *changelog.Checkpoint
			row, ok, err := db.Checkpoint()
			if err != nil || ok != (round > 0) {
				t.Fatal(ok, err)
			}
			if ok {
				cp, err := changelog.ParseCheckpoint(row)
				if err != nil {
					t.Fatal(err)
				}
				base = &cp
				part.From, _ = cp.Store("counts")
				if cp.WallTime != began {
					t.Errorf("round %d: wall time %d, want the begin of the first restore %d", round, cp.WallTime, began)
				}
			}
			target := changelog.NewDBTarget(db, []string{"counts"}, base, began+int64(round))
			r := c.restorer(t, changelog.RestorerConfig{BatchRows: 200})
			res := result(t, r.Add(t.Context(), changelog.Request{Task: "counts/0", Parts: []changelog.Part{part}, Target: &limited{target, 3, stop}}))
			r.Close()
			if err := errors.Join(db.Flush(), db.Close()); err != nil {
				t.Fatal(err)
			}
			if errors.Is(res.Err, stop) {
				continue
			}
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			if round < 2 {
				t.Errorf("it was interrupted %d times only", round)
			}
			break
		}
		e, err := shared.OpenPebble(dir, store.PebbleOptions{})
		if err != nil {
			t.Fatal(err)
		}
		db := openDB(t, e)
		defer db.Close()
		if got := counts(t, db); !maps.Equal(got, want) {
			t.Errorf("%d rows, want %d; contents differ", len(got), len(want))
		}
		row, _, _ := db.Checkpoint()
		cp, err := changelog.ParseCheckpoint(row)
		if at, _ := cp.Store("counts"); err != nil || at != part.End {
			t.Errorf("checkpoint at %d, %v; want %d", at, err, part.End)
		}
	})
}

// A large gap comes through sorted tables, in several runs because memory is short, interrupted now and then with the
// process gone: what the local copy has afterwards is what the changelog says.
func TestDatabaseFromLargeChangelog(t *testing.T) {
	const records, keys = 120_000, 60_000
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	w := c.writer(t)
	want := map[string]string{}
	for n := 0; n < records; n += 5000 {
		batch := make([]kgo.Record, 0, 5000)
		for i := n; i < n+5000; i++ {
			k := uint64(i) * 2654435761 % keys
			key, value := fmt.Appendf(nil, "key-%06d", k), store.AppendRow(nil, fmt.Appendf(nil, "%0300d", i), int64(i))
			if i%5 == 4 {
				value = nil
			}
			batch = append(batch, changelog.Record(topic.Name, 0, key, value, time.Now()))
		}
		end := kgo.TryCommit
		if n%15_000 == 5000 {
			end = kgo.TryAbort
		}
		w.txn(end, batch...)
		for _, r := range batch {
			switch {
			case end == kgo.TryAbort:
			case r.Value == nil:
				delete(want, string(r.Key))
			default:
				want[string(r.Key)] = string(r.Value)
			}
		}
	}
	shared, err := store.NewShared(32<<20, 1) // a quarter of it for rows to be sorted
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	rowsSpec := store.KeyValue("counts", serde.String(), serde.Bytes())
	dir := t.TempDir()
	part := c.part(t, "counts", topic, 0, -1)
	whole := part.End
	stop := errors.New("killed")
	resumed := false
	for round := 0; ; round++ {
		e, err := shared.OpenPebble(dir, store.PebbleOptions{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(e, []store.Binding{{Spec: rowsSpec, Prefix: 1}}, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var base *changelog.Checkpoint
		part.From = -1
		if row, ok, err := db.Checkpoint(); err != nil {
			t.Fatal(err)
		} else if ok {
			cp, err := changelog.ParseCheckpoint(row)
			if err != nil {
				t.Fatal(err)
			}
			base = &cp
			if at, ok := cp.Store("counts"); ok {
				part.From = at
				resumed = resumed || at > 0 && at < whole
			}
		}
		target := changelog.NewDBTarget(db, []string{"counts"}, base, 1000)
		target.Expect(records)
		r := c.restorer(t, changelog.RestorerConfig{BatchRows: 500})
		res := result(t, r.Add(t.Context(), changelog.Request{Task: "counts/0", Parts: []changelog.Part{part}, Target: &limited{target, 60 + 60*round, stop}}))
		r.Close()
		target.Close()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if errors.Is(res.Err, stop) {
			continue
		}
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		break
	}
	if !resumed {
		t.Error("no restore went on where the one before it was")
	}
	if n := shared.BulkBytes(); n != 0 {
		t.Errorf("%d bytes are still taken for bulk restores", n)
	}
	e, err := shared.OpenPebble(dir, store.PebbleOptions{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	db := openDB(t, e)
	defer db.Close()
	it, err := e.Iter([]byte{0, 1}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	got := map[string]string{}
	for it.Next() {
		got[string(it.Key()[2:])] = string(it.Value())
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d rows, want %d; contents differ", len(got), len(want))
	}
}

// A store that is read from its log's start keeps nothing of an earlier life, even if the log does not speak of it.
func TestDatabaseBeginsEmpty(t *testing.T) {
	for _, expect := range []int64{0, 1 << 20} {
		shared, err := store.NewShared(64<<20, 1)
		if err != nil {
			t.Fatal(err)
		}
		e, err := shared.OpenPebble(t.TempDir(), store.PebbleOptions{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		db := openDB(t, e)
		row := store.AppendRow(nil, []byte{0, 0, 0, 0, 0, 0, 0, 1}, 1)
		must(t, db.Restore("counts", []store.Mutation{{Key: []byte("old"), Value: row}}, nil)) // rows, and no checkpoint
		target := changelog.NewDBTarget(db, []string{"counts"}, nil, 1)
		target.Expect(expect)
		must(t, target.Apply(0, []store.Mutation{{Key: []byte("new"), Value: row}}, 7))
		must(t, target.Finish())
		target.Close()
		if got := counts(t, db); len(got) != 1 || got["new"] != 1 {
			t.Errorf("expecting %d records: rows %v", expect, got)
		}
		must(t, db.Close())
		shared.Close()
	}
}

// At every moment the checkpoint claims exactly the rows that the engine has, and a rebuild forgets what was gathered.
func TestDatabaseCheckpointIsNeverAhead(t *testing.T) {
	shared, err := store.NewShared(32<<20, 1)
	must(t, err)
	e, err := shared.OpenPebble(t.TempDir(), store.PebbleOptions{Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	db := openDB(t, e)
	target := changelog.NewDBTarget(db, []string{"counts"}, nil, 1)
	target.Expect(1 << 20)
	value := store.AppendRow(nil, make([]byte, 4<<10), 1)
	batch := func(from int64) []store.Mutation {
		rows := make([]store.Mutation, 100)
		for i := range rows {
			rows[i] = store.Mutation{Key: fmt.Appendf(nil, "%08d", from+int64(i)), Value: value}
		}
		return rows
	}
	must(t, target.Apply(0, []store.Mutation{{Key: []byte("gone"), Value: value}}, 1))
	must(t, target.Rebuild(errors.New("asked for")))
	claimed, ingests := int64(0), 0
	look := func() {
		t.Helper()
		row, ok, err := db.Checkpoint()
		if err != nil || !ok {
			return
		}
		cp, err := changelog.ParseCheckpoint(row)
		must(t, err)
		at, _ := cp.Store("counts")
		if at == claimed {
			return
		}
		claimed, ingests = at, ingests+1
		it, err := e.Iter([]byte{0, 1}, nil, false)
		must(t, err)
		rows := int64(0)
		for it.Next() {
			rows++
		}
		must(t, it.Close())
		if rows != at {
			t.Errorf("the checkpoint claims %d rows, there are %d", at, rows)
		}
	}
	for n := int64(0); n < 6000; n += 100 {
		must(t, target.Apply(0, batch(n), n+100))
		look()
	}
	must(t, target.Finish())
	look()
	target.Close()
	if claimed != 6000 || ingests < 3 {
		t.Errorf("%d rows in %d runs", claimed, ingests)
	}
	must(t, db.Close())
	shared.Close()
}

// limited fails after some batches.
type limited struct {
	changelog.Target
	left int
	err  error
}

func (l *limited) Apply(part int, rows []store.Mutation, next int64) error {
	if l.left--; l.left < 0 {
		return l.err
	}
	return l.Target.Apply(part, rows, next)
}

// A rebuild leaves nothing of what was there, and a checkpoint that claims nothing but what was read since.
func TestDatabaseRebuild(t *testing.T) {
	t.Run("memory", func(t *testing.T) { databaseRebuild(t, store.NewMemory()) })
	t.Run("pebble", func(t *testing.T) {
		e, err := store.OpenPebble(t.TempDir(), store.PebbleOptions{Log: slog.New(slog.DiscardHandler)})
		must(t, err)
		databaseRebuild(t, e)
	})
}

func databaseRebuild(t *testing.T, engine store.Engine) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	source := openDB(t, store.NewMemory())
	defer source.Close()
	kv, _ := countsSpec.In(source)
	must(t, kv.Put("alive", 1))
	c.writer(t).txn(kgo.TryCommit, rowsOf(t, source, topic, 0)...)

	db := openDB(t, engine)
	defer db.Close()
	kv, _ = countsSpec.In(db)
	must(t, kv.Put("gone", 1))
	base := checkpoint
	base.Stores = []changelog.StoreOffset{{Store: "counts", Offset: 99}}
	must(t, db.Apply(db.Seal(), base.Append(nil)))

	part := c.part(t, "counts", topic, 0, 99) // beyond the end
	target := changelog.NewDBTarget(db, []string{"counts"}, &base, 5_000)
	defer target.Close()
	r := c.restorer(t, changelog.RestorerConfig{})
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "counts/0", Parts: []changelog.Part{part}, Target: target}))
	if res.Err != nil || res.Rebuilt == nil {
		t.Fatalf("%+v", res)
	}
	if got := counts(t, db); !maps.Equal(got, map[string]int64{"alive": 1}) {
		t.Errorf("rows %v", got)
	}
	want := changelog.Checkpoint{WallTime: 5_000, StreamTime: -1, Stores: []changelog.StoreOffset{{Store: "counts", Offset: part.End}}}
	if !reflect.DeepEqual(target.Checkpoint(), want) {
		t.Errorf("checkpoint %+v, want %+v", target.Checkpoint(), want)
	}
	if base.Stores[0].Offset != 99 {
		t.Error("the caller's checkpoint was changed")
	}
}

// BenchmarkRestore measures a whole restore from the embedded broker: records/s counts changelog records applied.
func BenchmarkRestore(b *testing.B) {
	const records = 400_000
	c := embedded(b, devkafka.Options{})
	topic := c.topic(b, 1)
	w := c.writer(b)
	for n := 0; n < records; n += 10_000 {
		batch := make([]kgo.Record, 10_000)
		for i := range batch {
			key := fmt.Appendf(nil, "key-%012d", (uint64(n+i)*2654435761)%200_000)
			value := make([]byte, 10+100)
			value[0] = 1
			binary.BigEndian.PutUint64(value[2:], uint64(n))
			batch[i] = changelog.Record(topic.Name, 0, key, value, time.Now())
		}
		w.txn(kgo.TryCommit, batch...)
	}
	part := c.part(b, "counts", topic, 0, -1)
	for _, engine := range []string{"none", "memory", "pebble", "pebble-sorted"} {
		b.Run(engine, func(b *testing.B) {
			r := c.restorer(b, changelog.RestorerConfig{})
			began, cpu := time.Now(), cpuTime(b)
			for b.Loop() {
				var target changelog.Target = newDiscard()
				var db *store.DB
				var shared *store.Shared
				switch engine {
				case "memory":
					db = openDB(b, store.NewMemory())
				case "pebble", "pebble-sorted":
					var err error
					if shared, err = store.NewShared(256<<20, 1); err != nil {
						b.Fatal(err)
					}
					e, err := shared.OpenPebble(b.TempDir(), store.PebbleOptions{})
					if err != nil {
						b.Fatal(err)
					}
					db = openDB(b, e)
				}
				if db != nil {
					into := changelog.NewDBTarget(db, []string{"counts"}, nil, 1)
					if engine == "pebble-sorted" {
						into.Expect(records)
					}
					target = into
				}
				res := result(b, r.Add(b.Context(), changelog.Request{Task: "counts/0", Parts: []changelog.Part{part}, Target: target}))
				if res.Err != nil || res.Records != records {
					b.Fatalf("%+v", res)
				}
				if db != nil {
					if err := db.Close(); err != nil {
						b.Fatal(err)
					}
				}
				if shared != nil {
					shared.Close()
				}
			}
			b.ReportMetric(float64(records)*float64(b.N)/time.Since(began).Seconds(), "records/s")
			b.ReportMetric((cpuTime(b)-cpu).Seconds()/float64(records)/float64(b.N)*1e6, "cpu-s/M")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime is what this process has used so far, the embedded broker in it included.
func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type discard struct{}

func newDiscard() discard { return discard{} }

func (discard) Apply(int, []store.Mutation, int64) error { return nil }
func (discard) Rebuild(error) error                      { return nil }
func (discard) Finish() error                            { return nil }
