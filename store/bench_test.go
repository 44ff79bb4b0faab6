package store

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/millrace-io/millrace/serde"
)

var tally = KeyValue("tally", serde.String(), serde.Int64())

// counter is the keyed count of 100k hot keys: get, add one, put, and a savepoint per record.
type counter struct {
	db   *DB
	kv   *KV[string, int64]
	keys []string
	next int
}

func newCounter(tb testing.TB, e Engine, keys int) *counter {
	tb.Helper()
	db, err := Open(e, []Binding{{tally, 1}}, Options{CacheBytes: 64 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	c := &counter{db: db}
	if c.kv, err = tally.In(db); err != nil {
		tb.Fatal(err)
	}
	for i := range keys {
		c.keys = append(c.keys, fmt.Sprintf("key-%012d", i))
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	rnd.Shuffle(len(c.keys), func(i, j int) { c.keys[i], c.keys[j] = c.keys[j], c.keys[i] })
	for range c.keys { // warm: every key is in memory and committed
		if err := c.count(); err != nil {
			tb.Fatal(err)
		}
	}
	if err := c.commit(); err != nil {
		tb.Fatal(err)
	}
	// Another order than the one they lie in memory.
	rnd.Shuffle(len(c.keys), func(i, j int) { c.keys[i], c.keys[j] = c.keys[j], c.keys[i] })
	return c
}

func (c *counter) count() error {
	k := c.keys[c.next]
	if c.next++; c.next == len(c.keys) {
		c.next = 0
	}
	c.db.SetTime(int64(c.next))
	n, _, err := c.kv.Get(k)
	if err != nil {
		return err
	}
	if err := c.kv.Put(k, n+1); err != nil {
		return err
	}
	c.db.Savepoint()
	return nil
}

func (c *counter) commit() error { return c.db.Apply(c.db.Seal(), []byte("checkpoint")) }

func engines(tb testing.TB) map[string]func() Engine {
	return map[string]func() Engine{
		"memory": NewMemory,
		"pebble": func() Engine {
			s, err := NewShared(512<<20, 4)
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(s.Close)
			e, err := s.OpenPebble(tb.TempDir(), PebbleOptions{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				tb.Fatal(err)
			}
			return e
		},
	}
}

// BenchmarkCount is one record: Get and Put of a hot key. "overlay" leaves out what a commit costs; the others commit
// every 10,000 records.
func BenchmarkCount(b *testing.B) {
	b.Run("overlay", func(b *testing.B) {
		c := newCounter(b, NewMemory(), 100_000)
		defer c.db.Close()
		b.ReportAllocs()
		b.ResetTimer()
		for b.Loop() {
			if err := c.count(); err != nil {
				b.Fatal(err)
			}
		}
		report(b)
	})
	for name, open := range engines(b) {
		b.Run(name, func(b *testing.B) {
			c := newCounter(b, open(), 100_000)
			defer c.db.Close()
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				if err := c.count(); err != nil {
					b.Fatal(err)
				}
				if i%10_000 == 0 {
					if err := c.commit(); err != nil {
						b.Fatal(err)
					}
				}
			}
			report(b)
		})
	}
}

func report(b *testing.B) { b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s") }

// BenchmarkRestore applies changelog rows of about 100 bytes in batches of 5,000, keys in random order.
func BenchmarkRestore(b *testing.B) {
	for name, open := range engines(b) {
		b.Run(name, func(b *testing.B) {
			db, err := Open(open(), []Binding{{tally, 1}}, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			const batch = 5000
			value := AppendRow(nil, make([]byte, 74), 1)
			rows := make([]Mutation, batch)
			keys := make([]byte, 16*batch)
			rnd := rand.New(rand.NewPCG(1, 1))
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				for i := range rows {
					key := keys[16*i : 16*i+16]
					binary.BigEndian.PutUint64(key, rnd.Uint64())
					rows[i] = Mutation{Key: key, Value: value}
				}
				if err := db.Restore("tally", rows, []byte("checkpoint")); err != nil {
					b.Fatal(err)
				}
			}
			if err := db.Flush(); err != nil {
				b.Fatal(err)
			}
			report(b)
		})
	}
}

// TestCountAllocates holds the hot path to its promise: once the overlay has its memory, a record takes none.
func TestCountAllocates(t *testing.T) {
	c := newCounter(t, NewMemory(), 1000)
	defer c.db.Close()
	epoch := func() {
		for range 2000 {
			if err := c.count(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.commit(); err != nil {
			t.Fatal(err)
		}
	}
	epoch()
	if n := testing.AllocsPerRun(50, epoch); n > 4 {
		t.Errorf("%v allocations in an epoch of 2,000 records, want at most 4", n)
	}
}
