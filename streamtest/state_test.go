package streamtest_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
)

var (
	heard   = store.List("heard", serde.String(), serde.String())
	lengths = store.Map("lengths", serde.String(), serde.String(), serde.Int64())
	newest  = store.Value("newest", serde.String(), serde.String())
	longest = store.Reducing("longest", serde.String(), serde.Int64(), func(old, added int64) int64 { return max(old, added) })
	letters = store.Aggregating("letters", serde.String(), serde.Int64(), store.Aggregator[string, int64, int64]{
		New: func() int64 { return 0 }, Add: func(n int64, s string) int64 { return n + int64(len(s)) }, Result: func(n int64) int64 { return n },
	})
)

// listener keeps what it hears in state of every kind.
type listener struct {
	heard   store.ListState[string, string]
	lengths store.MapState[string, string, int64]
	newest  store.ValueState[string, string]
	longest store.ReducingState[string, int64]
	letters store.AggregatingState[string, string, int64, int64]
}

func (l *listener) Init(ctx processor.InitContext) (err error) {
	var errs [5]error
	l.heard, errs[0] = heard.In(ctx)
	l.lengths, errs[1] = lengths.In(ctx)
	l.newest, errs[2] = newest.In(ctx)
	l.longest, errs[3] = longest.In(ctx)
	l.letters, errs[4] = letters.In(ctx)
	return errors.Join(errs[:]...)
}

func (l *listener) Prefetch(w *store.Wanted, key string) {
	l.heard.Want(w, key)
	l.newest.Want(w, key)
	l.longest.Want(w, key)
	l.letters.Want(w, key)
}

func (l *listener) Process(_ processor.Context[string, int64], r processor.Record[string, string]) error {
	if r.Value == "forget" {
		return errors.Join(l.heard.Clear(r.Key), l.lengths.Clear(r.Key), l.newest.Clear(r.Key), l.longest.Clear(r.Key), l.letters.Clear(r.Key))
	}
	_, err := l.longest.Add(r.Key, int64(len(r.Value)))
	err = errors.Join(err, l.heard.Append(r.Key, r.Value), l.lengths.Put(r.Key, r.Value, int64(len(r.Value))), l.newest.Put(r.Key, r.Value), l.letters.Add(r.Key, r.Value))
	if r.Value == "fail" {
		return errors.New("after it was all written")
	}
	return err
}

// TestKindsOfState runs state of every kind in a topology: through failed records, aborts and crashes, and until what clearing has
// left behind is swept.
func TestKindsOfState(t *testing.T) {
	for name, opts := range map[string][]streamtest.Option{"memory": nil, "pebble": {streamtest.Pebble()}} {
		t.Run(name, func(t *testing.T) {
			b := stream.NewBuilder()
			stream.Process(stream.From(b, lines), func() processor.Processor[string, string, string, int64] { return &listener{} },
				heard, lengths, newest, longest, letters).OnError(processor.Skip()).To(totals)
			top, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			d := streamtest.New(t, top, append(opts, streamtest.Partitions(2), streamtest.ManualCommit())...)
			in := streamtest.In(d, lines)
			for i, word := range []string{"one", "three", "fail", "one"} {
				in.Send("k", word)
				switch i {
				case 0:
					d.Crash()
				case 1:
					d.Commit()
					d.Crash()
				case 2:
					d.Abort()
				case 3:
					d.Commit()
					d.CrashLosingDisk()
				}
			}
			d.Settle()
			if got := streamtest.List(d, heard, "k"); !slices.Equal(got, []string{"one", "three", "one"}) {
				t.Errorf("list: %v", got)
			}
			if got := streamtest.Map(d, lengths, "k"); !slices.Equal(got, []streamtest.Entry[string, int64]{{"one", 3}, {"three", 5}}) {
				t.Errorf("map: %v", got)
			}
			if v, ok := streamtest.Get(d, newest, "k"); v != "one" || !ok {
				t.Errorf("value: %v %v", v, ok)
			}
			if v, ok := streamtest.Get(d, longest, "k"); v != 5 || !ok {
				t.Errorf("reducing: %v %v", v, ok)
			}
			if v, ok := streamtest.Get(d, letters, "k"); v != 11 || !ok {
				t.Errorf("aggregating: %v %v", v, ok)
			}

			for i := range 100 {
				in.Send("k", fmt.Sprint(i))
			}
			d.Settle()
			in.Send("k", "forget")
			d.Settle()
			d.CrashLosingDisk()
			for range 5 {
				d.Advance(time.Second)
				d.Settle()
			}
			if got := streamtest.List(d, heard, "k"); len(got) != 0 {
				t.Errorf("list: %v", got)
			}
			for _, s := range []store.Spec{heard, lengths, newest, longest, letters} {
				live := map[string]bool{}
				for _, r := range d.Changelog(s) {
					if live[string(r.Key)] = true; r.Value == nil {
						delete(live, string(r.Key))
					}
				}
				delete(live, "\x01") // the counter of generations
				if len(live) != 0 {
					t.Errorf("%s: %d rows are left in the changelog: %q", s.Name(), len(live), slices.Sorted(maps.Keys(live)))
				}
			}
		})
	}
}
