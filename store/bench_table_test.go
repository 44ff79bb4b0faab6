package store

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// uniform is the keyed count of spec: four databases, 16-byte keys drawn uniformly, get, add 1, put; an epoch of each
// database ends after every 5,000 records of all.
type uniform struct {
	dbs   [4]*DB
	rows  [4]*Rows
	keys  uint64
	rnd   *rand.Rand
	key   [16]byte
	value [8]byte
	n     int
	time  int64
}

func newUniform(tb testing.TB, limit int64, keys uint64) *uniform {
	tb.Helper()
	s, err := NewShared(limit, 4)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	u := &uniform{keys: keys, rnd: rand.New(rand.NewPCG(1, 1))}
	for i := range u.dbs {
		e, err := s.OpenPebble(tb.TempDir(), PebbleOptions{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			tb.Fatal(err)
		}
		if u.dbs[i], err = Open(e, []Binding{{tally, 1}}, Options{CacheBytes: s.CacheBytes()}); err != nil {
			tb.Fatal(err)
		}
		if u.rows[i], err = u.dbs[i].Rows("tally"); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = u.dbs[i].Close() })
	}
	return u
}

// fill restores every key.
func (u *uniform) fill(tb testing.TB) {
	tb.Helper()
	row := AppendRow(nil, u.value[:], 1)
	for i, db := range u.dbs {
		b, err := db.Bulk()
		if err != nil || b == nil {
			tb.Fatal(b, err)
		}
		var rows []Mutation
		add := func() {
			if !b.Room(rows) {
				if err := b.Ingest(nil); err != nil {
					tb.Fatal(err)
				}
			}
			if err := b.Add("tally", rows); err != nil {
				tb.Fatal(err)
			}
			rows = rows[:0]
		}
		for n := uint64(i); n < u.keys; n += 4 {
			rows = append(rows, Mutation{Key: u.scatter(make([]byte, 16), n), Value: row})
			if len(rows) == 5000 {
				add()
			}
		}
		add()
		if err := b.Ingest([]byte("checkpoint")); err != nil {
			tb.Fatal(err)
		}
		b.Close()
		if err := db.Warm(); err != nil {
			tb.Fatal(err)
		}
	}
}

// scatter is the key with a number.
func (u *uniform) scatter(key []byte, n uint64) []byte {
	binary.BigEndian.PutUint64(key, (n+1)*0x9E3779B97F4A7C15)
	binary.BigEndian.PutUint64(key[8:], n)
	return key
}

func (u *uniform) record() error {
	n := u.rnd.Uint64N(u.keys)
	i := n % 4
	key := u.scatter(u.key[:], n)
	r := u.rows[i]
	v, _, ok, err := r.Get(key)
	if err != nil {
		return err
	}
	count := uint64(1)
	if ok {
		count += binary.BigEndian.Uint64(v)
	}
	binary.BigEndian.PutUint64(u.value[:], count)
	if err := r.Put(key, u.value[:], 1); err != nil {
		return err
	}
	u.dbs[i].Savepoint()
	if u.n++; u.n%5000 == 0 {
		return u.commit()
	}
	return nil
}

func (u *uniform) commit() error {
	for _, db := range u.dbs {
		u.time += 10
		if err := db.Apply(db.Seal(), []byte("checkpoint")); err != nil {
			return err
		}
		if err := db.Tick(u.time); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkTable is what one operation costs on 100,000 resident rows: a Get, a Get and a Put, and per row an Apply of epochs
// of 5,000 rows, write-backs included.
func BenchmarkTable(b *testing.B) {
	const keys = 100_000
	b.Run("get", func(b *testing.B) {
		u := newUniform(b, 512<<20, keys)
		u.fill(b)
		before := cpu()
		for b.Loop() {
			n := u.rnd.Uint64N(keys)
			if _, _, ok, err := u.rows[n%4].Get(u.scatter(u.key[:], n)); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
		reportCPU(b, before)
	})
	b.Run("get-put", func(b *testing.B) {
		u := newUniform(b, 512<<20, keys)
		u.fill(b)
		before := cpu()
		for i := 0; b.Loop(); i++ {
			n := u.rnd.Uint64N(keys)
			key := u.scatter(u.key[:], n)
			if _, _, ok, err := u.rows[n%4].Get(key); !ok || err != nil {
				b.Fatal(ok, err)
			}
			if err := u.rows[n%4].Put(key, u.value[:], 1); err != nil {
				b.Fatal(err)
			}
			u.dbs[n%4].Savepoint()
		}
		reportCPU(b, before)
	})
	b.Run("apply", func(b *testing.B) {
		u := newUniform(b, 512<<20, keys)
		u.fill(b)
		before := cpu()
		began := time.Duration(0)
		for rows := 0; b.Loop(); rows++ {
			n := u.rnd.Uint64N(keys) / 4 * 4
			if err := u.rows[0].Put(u.scatter(u.key[:], n), u.value[:], 1); err != nil {
				b.Fatal(err)
			}
			u.dbs[0].Savepoint()
			if rows%5000 < 4999 {
				continue
			}
			e := u.dbs[0].Seal()
			at := time.Now()
			if err := u.dbs[0].Apply(e, u.value[:]); err != nil {
				b.Fatal(err)
			}
			began += time.Since(at)
		}
		reportCPU(b, before)
		b.ReportMetric(float64(b.N)/began.Seconds(), "rows-applied/s")
	})
}

// BenchmarkColdGet reads rows that are not in the table, one by one, from 1M rows on the disk.
func BenchmarkColdGet(b *testing.B) {
	u := newUniform(b, 512<<20, 1_000_000)
	u.fill(b)
	for _, db := range u.dbs {
		db.limit = 1
	}
	for range 4_000_000 / evictPlaces * 2 {
		for _, db := range u.dbs {
			db.trim(evictPlaces)
		}
	}
	before := cpu()
	for b.Loop() {
		n := u.rnd.Uint64N(u.keys)
		if _, _, ok, err := u.rows[n%4].Get(u.scatter(u.key[:], n)); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
	reportCPU(b, before)
}

// reportCPU is report, and the processor time of an operation since before: on a busy machine that is the figure to look at.
func reportCPU(b *testing.B, before float64) {
	report(b)
	b.ReportMetric((cpu()-before)/float64(b.N)*1e9, "cpu-ns/op")
}

func cpu() float64 {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

// BenchmarkUniform is comparable with the rows T4 (1M keys) and L1 (10M keys) of the measurements in docs/design/0009-store.md.
func BenchmarkUniform(b *testing.B) {
	for _, c := range []struct {
		name  string
		limit int64
		keys  uint64
		fill  bool
	}{
		{"1M-empty", 512 << 20, 1_000_000, false},
		{"1M-restored", 512 << 20, 1_000_000, true},
		{"10M-restored", 512 << 20, 10_000_000, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			u := newUniform(b, c.limit, c.keys)
			if c.fill {
				u.fill(b)
			}
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu()
			for b.Loop() {
				if err := u.record(); err != nil {
					b.Fatal(err)
				}
			}
			report(b)
			b.ReportMetric((cpu()-before)/float64(b.N)*1e6, "cpu-s/M")
			var sum EngineStats
			for _, db := range u.dbs {
				s := db.Stats()
				sum.Misses += s.Misses
				sum.WriteBacks += s.WriteBacks
				sum.TableBytes += s.TableBytes
				sum.TableRows += s.TableRows
				if s.Resident {
					sum.Tail++
				}
			}
			b.ReportMetric(float64(sum.Misses)/float64(b.N), "misses/op")
			b.ReportMetric(float64(sum.WriteBacks), "writebacks")
			b.ReportMetric(float64(sum.Tail), "resident")
			b.ReportMetric(float64(sum.TableBytes)/float64(max(1, sum.TableRows)), "bytes/row")
		})
	}
}
