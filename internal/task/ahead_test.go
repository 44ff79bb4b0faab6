package task

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// plainEngine counts reads of single rows, and hides that the engine could read many at once.
type plainEngine struct {
	store.Engine
	gets int
}

func (e *plainEngine) Get(dst, key []byte) ([]byte, bool, error) {
	e.gets++
	return e.Engine.Get(dst, key)
}

// sortedEngine reads many at once.
type sortedEngine struct {
	*plainEngine
	sorted int
}

func (e *sortedEngine) ReadSorted(keys [][]byte, each func(i int, value []byte, ok bool) bool) error {
	e.sorted += len(keys)
	return e.Engine.(store.SortedReader).ReadSorted(keys, each)
}

// aheadRun is a task over a Pebble database with more rows than memory.
type aheadRun struct {
	task   *Task
	plain  *plainEngine
	sorted *sortedEngine // nil when nothing may be read ahead
	offset []int64
}

const aheadRows = 3000

func openAhead(t testing.TB, build func(b *stream.Builder), cache int64, ahead bool) *aheadRun {
	t.Helper()
	b := stream.NewBuilder()
	build(b)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	sub := top.Subtopologies()[0]
	var bindings []store.Binding
	for i, s := range sub.Stores {
		bindings = append(bindings, store.Binding{Spec: s, Prefix: uint16(i + 1)})
	}
	dir := t.TempDir()
	r := &aheadRun{offset: make([]int64, len(sub.Sources))}
	open := func() *store.DB {
		e, err := store.OpenPebble(dir, store.PebbleOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.plain = &plainEngine{Engine: e}
		e = r.plain
		if ahead {
			r.sorted = &sortedEngine{plainEngine: r.plain}
			e = r.sorted
		}
		db, err := store.Open(e, bindings, store.Options{CacheBytes: cache})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	for _, s := range sub.Stores {
		var rows []store.Mutation
		for i := range aheadRows {
			value := binary.BigEndian.AppendUint64(nil, uint64(i))
			rows = append(rows, store.Mutation{Key: aheadKey(i), Value: store.AppendRow(nil, value, 1)})
		}
		if err := db.Restore(s.Name(), rows, []byte("checkpoint")); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open()
	t.Cleanup(func() { _ = db.Close() })
	var inputs []Input
	for i := range sub.Sources {
		inputs = append(inputs, Input{Source: i, Topic: fmt.Sprint("in", i)})
	}
	counts := make([]int32, len(sub.Sinks))
	for i := range counts {
		counts[i] = 8
	}
	r.task, err = New(Config{
		Context: context.Background(), ID: processor.TaskID{Subtopology: "ahead"}, App: "app", Sub: sub, DB: db,
		Inputs: inputs, SinkPartitions: counts, OnError: processor.Skip(),
	}, Start{StreamTime: -1})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func aheadKey(i int) []byte { return fmt.Appendf(nil, "key-%05d", i) }

// drive runs records through the task, in epochs of which some are undone and replayed, and returns all outputs of the
// committed ones as text.
func (r *aheadRun) drive(t testing.TB, records int, next func(rnd *rand.Rand) topology.Raw) (outs []string) {
	rnd := rand.New(rand.NewPCG(7, 7))
	time := int64(0)
	for done := 0; done < records; {
		for range 1 + rnd.IntN(4) {
			for i := range r.offset {
				b := Batch{Input: i}
				for range 1 + rnd.IntN(600) {
					raw := next(rnd)
					time++
					raw.Time, raw.Offset = time, r.offset[i]
					r.offset[i]++
					b.Records = append(b.Records, raw)
					done++
				}
				b.Next = r.offset[i]
				r.task.Enqueue(b)
				r.task.SetEnd(i, b.Next)
			}
		}
		again := rnd.IntN(3) == 0
		mark := len(outs)
		for {
			res, err := r.task.Step(1000, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range r.task.Outputs() {
				outs = append(outs, fmt.Sprintf("%s %x %d %d", o.Key, o.Value, o.Partition, o.Time))
			}
			if res.More {
				continue
			}
			if !again {
				break
			}
			again, outs = false, outs[:mark]
			r.task.Discard()
		}
		if err := r.task.Committed(r.task.Seal(), []byte("checkpoint")); err != nil {
			t.Fatal(err)
		}
	}
	return outs
}

func anyRecord(rnd *rand.Rand) topology.Raw {
	raw := topology.Raw{Key: aheadKey(rnd.IntN(aheadRows + aheadRows/10)), Value: binary.BigEndian.AppendUint64(nil, uint64(rnd.IntN(10)))}
	switch rnd.IntN(50) {
	case 0:
		raw.Value = nil
	case 1:
		raw.Key = nil
	case 2:
		raw.Value = []byte("no number")
	}
	return raw
}

var (
	aheadIn    = stream.NewTopic("in", serde.String(), serde.Int64())
	aheadTable = stream.NewTopic("table", serde.String(), serde.Int64())
	aheadOut   = stream.NewTopic("out", serde.String(), serde.Int64())
	aheadStore = store.KeyValue("rows", serde.String(), serde.Int64())
)

// latest is a processor that says what it reads.
type latest struct {
	rows *store.KV[string, int64]
	bad  bool
}

func (p *latest) Init(ctx processor.InitContext) (err error) {
	p.rows, err = aheadStore.In(ctx)
	return err
}

func (p *latest) Prefetch(w *store.Wanted, key string) {
	if p.bad && key[len(key)-1] == '7' {
		panic("told to")
	}
	p.rows.Want(w, key)
}

func (p *latest) Process(ctx processor.Context[string, int64], r processor.Record[string, int64]) error {
	if r.NullKey {
		return errors.New("a null key")
	}
	was, _, err := p.rows.Get(r.Key)
	if err != nil {
		return err
	}
	if r.NullValue {
		if _, _, err := p.rows.Delete(r.Key); err != nil {
			return err
		}
	} else if err := p.rows.Put(r.Key, was+r.Value); err != nil {
		return err
	}
	return ctx.Forward(processor.With(r, r.Key, was))
}

func aheadProcessor(bad bool) func(b *stream.Builder) {
	return func(b *stream.Builder) {
		stream.ProcessValues(stream.From(b, aheadIn), func() processor.Processor[string, int64, string, int64] {
			return &latest{bad: bad}
		}, aheadStore).To(aheadOut)
	}
}

// Reading ahead changes no output, whatever the size of the memory, and leaves next to nothing to be read one by one.
func TestAhead(t *testing.T) {
	for _, c := range []struct {
		name  string
		build func(b *stream.Builder)
		rest  float64 // rows per record that may be read one by one all the same: lists too short for a pass, and rows evicted too soon
	}{
		{"count", func(b *stream.Builder) {
			stream.GroupByKey(stream.From(b, aheadIn)).Count(aheadStore).ToStream().To(aheadOut)
		}, 0.04},
		{"behind stateless verbs", func(b *stream.Builder) {
			s := stream.From(b, aheadIn).Peek(func(string, int64) {}).Filter(func(k string, _ int64) bool { return k != "key-00009" })
			s = stream.MapValues(s.Merge(s), func(n int64) int64 { return n + 1 })
			stream.GroupByKey(s).Reduce(func(a, b int64) int64 { return a + b }, aheadStore).ToStream().To(aheadOut)
		}, 0.04},
		{"join", func(b *stream.Builder) {
			table := stream.TableFrom(b, aheadTable, aheadStore)
			stream.LeftJoin(stream.From(b, aheadIn), table, func(n, m int64, ok bool) int64 { return n*100 + m }).To(aheadOut)
		}, 0.04},
		{"processor", aheadProcessor(false), 0.04},
		{"processor that panics", aheadProcessor(true), 1},
		{"behind another key", func(b *stream.Builder) { // nothing can be known
			s := stream.SelectKey(stream.From(b, aheadIn), func(k string, _ int64) string { return k + "!" })
			stream.Process(s, func() processor.Processor[string, int64, string, int64] { return &latest{} }, aheadStore).To(aheadOut)
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			const records = 8000
			want := openAhead(t, c.build, 64<<20, false).drive(t, records, anyRecord)
			if len(want) < records/3 {
				t.Fatalf("%d outputs of %d records", len(want), records)
			}
			caches := []int64{16 << 10, 128 << 10}
			if testing.Short() {
				caches = caches[:1]
			}
			for _, cache := range caches {
				r := openAhead(t, c.build, cache, true)
				got := r.drive(t, records, anyRecord)
				if len(got) != len(want) {
					t.Fatalf("%d outputs with %d KiB, %d with 64 MiB", len(got), cache>>10, len(want))
				}
				for i := range got {
					if got[i] != want[i] {
						t.Fatalf("output %d with %d KiB is %q, want %q", i, cache>>10, got[i], want[i])
					}
				}
				if c.rest < 1 && r.sorted.sorted < records/8 {
					t.Errorf("%d rows were read ahead of %d records", r.sorted.sorted, records)
				}
				most := c.rest
				if cache == 16<<10 { // forty rows: some lists are too short to be read in order
					most *= 3
				}
				if rest := float64(r.plain.gets) / records; rest > most {
					t.Errorf("with %d KiB %.3f rows per record were read one by one, want at most %.3f", cache>>10, rest, most)
				}
			}
		})
	}
}

// Behind a filter that lets little through, rows are soon not read for nothing any more.
func TestAheadStopsWhenItDoesNotPay(t *testing.T) {
	r := openAhead(t, func(b *stream.Builder) {
		s := stream.From(b, aheadIn).Filter(func(k string, _ int64) bool { return k[len(k)-1] == '0' })
		stream.GroupByKey(s).Count(aheadStore).ToStream().To(aheadOut)
	}, 32<<10, true)
	r.drive(t, 50_000, anyRecord)
	if r.sorted.sorted == 0 || r.sorted.sorted > 6000 {
		t.Errorf("%d rows were read ahead; a tenth of the records gets to the store", r.sorted.sorted)
	}
}

// While everything is in memory nothing is looked at ahead.
func TestAheadRestsWhenResident(t *testing.T) {
	looked := 0
	d := newDriver(t, func(b *stream.Builder) {
		stream.ProcessValues(stream.From(b, countIn), func() processor.Processor[string, []byte, string, int64] {
			return &looker{looked: &looked}
		}).To(countOut)
	}, nil, 100)
	d.epoch(t)
	if looked != 0 {
		t.Errorf("%d records were looked at", looked)
	}
}

type looker struct{ looked *int }

func (p *looker) Prefetch(*store.Wanted, string) { *p.looked++ }

func (p *looker) Process(ctx processor.Context[string, int64], r processor.Record[string, []byte]) error {
	return ctx.Forward(processor.With(r, r.Key, int64(len(r.Value))))
}
