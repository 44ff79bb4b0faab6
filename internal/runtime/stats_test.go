package runtime

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/txn"
)

// incarnation begins the figures of a task with one store, without a task.
func incarnation(s *stats, id processor.TaskID) *runStats {
	sum := s.tasks[id]
	if sum == nil {
		sum = &totals{stores: []observe.Store{{Name: "counts"}}}
		s.tasks[id] = sum
	}
	run := &runStats{totals: sum, clock: -1, positions: []int64{-1}, restores: make([]observe.RestoreProgress, 1)}
	s.byName[id.String()] = run
	return run
}

// TestCountersOutliveIncarnations: a task leaves and comes back, its kernel counts from 0, its totals go on.
func TestCountersOutliveIncarnations(t *testing.T) {
	s, id := newStats(), processor.TaskID{Subtopology: "counts", Partition: 3}
	add := func(run *runStats, is task.Stats) {
		addTask(&run.totals.Counters, &run.task, &is)
		run.task = is
	}
	late := func(n int64) []task.Drop { return []task.Drop{{Node: "sum", Reason: "late", Count: n}} }
	first := incarnation(s, id)
	add(first, task.Stats{Records: 10, Skipped: 1})
	add(first, task.Stats{Records: 15, Skipped: 1, DeadLetters: 2, Retries: 3, Timers: 4, Late: 5, Drops: late(5)})
	add(first, task.Stats{Records: 15, Skipped: 1, DeadLetters: 2, Retries: 3, Timers: 4, Late: 5, Drops: late(5)}) // nothing new
	second := incarnation(s, id)
	add(second, task.Stats{Records: 7, Late: 1, Drops: append(late(1), task.Drop{Node: "sum", Reason: "null-key", Count: 9})})
	want := observe.Counters{
		Records: 22, Skipped: 1, DeadLetters: 2, Retries: 3, TimersFired: 4, Late: 6,
		Drops: []observe.Drop{{Node: "sum", Reason: "late", Count: 6}, {Node: "sum", Reason: "null-key", Count: 9}},
	}
	if got := s.tasks[id].Counters; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}

	// Two look at a database at a time: the older look adds nothing.
	second.count(&store.EngineStats{Hits: 10, Misses: 5, WriteBacks: 1}, nil)
	second.count(&store.EngineStats{Hits: 8, Misses: 5}, nil)
	second.count(&store.EngineStats{Hits: 11, Misses: 6, WriteBacks: 1}, nil)
	if c := s.tasks[id].Counters; c.CacheHits != 11 || c.CacheMisses != 6 || c.WriteBacks != 1 {
		t.Errorf("cache %+v", c)
	}
}

// TestRestoresAddUp: one restore begins again from the start, another follows with the next incarnation.
func TestRestoresAddUp(t *testing.T) {
	s, id := newStats(), processor.TaskID{Subtopology: "counts", Partition: 3}
	tell := func(records, bytes, position, end int64, done bool) {
		s.restored(observe.RestoreProgress{
			Task: id.String(), Store: "counts", Records: records, Bytes: bytes, Position: position, End: end, Done: done,
		})
	}
	run := incarnation(s, id)
	tell(10, 100, 20, 50, false)
	if got := run.restores[0].Remaining(); got != 30 {
		t.Errorf("%d offsets remain, want 30", got)
	}
	tell(20, 200, 40, 50, false)
	tell(5, 50, 10, 50, false) // the local copy was not to be trusted
	tell(25, 250, 50, 50, true)
	s.restored(observe.RestoreProgress{Task: "somebody/1", Store: "counts", Records: 1})
	s.restored(observe.RestoreProgress{Task: id.String(), Store: "other", Records: 1})
	incarnation(s, id)
	tell(3, 30, 50, 50, true)
	if st := s.tasks[id].stores[0]; st.RestoredRecords != 20+25+3 || st.RestoredBytes != 480 {
		t.Errorf("restored %d records of %d bytes", st.RestoredRecords, st.RestoredBytes)
	}
}

// TestAbortKinds: every abort has one of the listed words.
func TestAbortKinds(t *testing.T) {
	phase := func(action txn.Action, err error) error {
		return &txn.Error{Phase: txn.PhaseProduce, Action: action, Err: err}
	}
	for _, c := range []struct {
		reason error
		want   string
	}{
		{errRefused, "refused record"},
		{fmt.Errorf("flush: %w", txn.ErrProduced), "refused record"},
		{errNotOwned, "not owned"},
		{txn.ErrNoneOwned, "not owned"},
		{txn.ErrForeignCommit, "foreign commit"},
		{&releasedError{processor.TaskID{Subtopology: "a"}, "revoked"}, "released"},
		{fmt.Errorf("%w: %w", errLost, context.DeadlineExceeded), "lost"},
		{phase(txn.ActFenced, errors.New("x")), "fenced"},
		{phase(txn.ActFatal, errors.New("x")), "fatal"},
		{phase(txn.ActAbort, errors.New("x")), "broker"},
		{&fault.Error{Code: "store/io", Kind: fault.State}, "database"},
		{&fault.Error{Code: "state/row-too-large", Kind: fault.Record}, "failed row"},
		{context.Canceled, "closing"},
		{context.DeadlineExceeded, "timeout"},
		{errors.New("x"), "other"},
	} {
		if got := abortKind(c.reason); got != c.want {
			t.Errorf("%v is %q, want %q", c.reason, got, c.want)
		}
	}
}

// TestHistogram: a value on a bound belongs below it, one above all bounds to the end.
func TestHistogram(t *testing.T) {
	h := newHistogram([]float64{1, 10})
	for _, v := range []float64{0, 1, 1.5, 10, 11, 1000} {
		h.add(v)
	}
	got := h.shown()
	if want := []int64{2, 2, 2}; !reflect.DeepEqual(got.Counts, want) || got.Sum != 1023.5 || got.Count() != 6 {
		t.Errorf("got %+v", got)
	}
	h.add(5)
	if got.Count() != 6 {
		t.Error("what was shown changes")
	}
}

// TestEnds: the end of an input never goes back, and is unknown at first.
func TestEnds(t *testing.T) {
	run := &runStats{ends: make([]atomic.Int64, 1)}
	for _, c := range []struct{ told, want int64 }{{-1, -1}, {0, 0}, {10, 10}, {7, 10}, {-1, 10}, {11, 11}} {
		run.end(0, c.told)
		if got := run.ends[0].Load() - 1; got != c.want {
			t.Errorf("told %d: %d, want %d", c.told, got, c.want)
		}
	}
}

// TestLastError: what a rebalance does is no error.
func TestLastError(t *testing.T) {
	s := newStats()
	s.workers = []workerStats{{aborts: map[string]int64{}}}
	h := s.hooks(func() time.Time { return time.UnixMilli(5) })
	for _, reason := range []error{errNotOwned, &releasedError{}, context.Canceled} {
		h.Abort(observe.Abort{Reason: reason, Kind: abortKind(reason)})
	}
	if s.last != nil || s.workers[0].aborts[abortNotOwned] != 1 || s.workers[0].aborts[abortReleased] != 1 {
		t.Errorf("%+v, %v", s.last, s.workers[0].aborts)
	}
	h.Abort(observe.Abort{Reason: errRefused, Kind: abortRefused})
	if want := (observe.LastError{At: time.UnixMilli(5), What: "epoch", Error: errRefused.Error()}); s.last == nil || *s.last != want {
		t.Errorf("%+v", s.last)
	}
}
