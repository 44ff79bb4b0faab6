package main

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

func count(key int, n byte) *kgo.Record {
	return &kgo.Record{Key: workload.AppendKey(nil, key), Value: []byte{0, 0, 0, 0, 0, 0, 0, n}}
}

// TestWaitingCountsFromWhenARecordWasDue, not from when it was sent; a count covers all records of its key up to it.
func TestWaitingCountsFromWhenARecordWasDue(t *testing.T) {
	t.Parallel()
	tr := newTraffic(nil, "in", workload.Spec{Keys: 2, ValueBytes: 100}, 1000, false)
	tr.began = time.Unix(100, 0)
	for _, key := range []int{0, 1, 0, 0} { // due at 0, 1, 2 and 3 ms
		tr.next(key)
	}
	at := func(ms int) time.Time { return tr.began.Add(time.Duration(ms) * time.Millisecond) }
	tr.take(count(0, 2), at(10)) // an app that merges says 2 at once
	tr.take(count(0, 2), at(15)) // a repetition of what is known
	tr.take(count(1, 1), at(20))
	if tr.open != 1 || tr.wrong != nil {
		t.Fatalf("%d are open, %v", tr.open, tr.wrong)
	}
	tr.take(count(0, 3), at(30))
	waited, sent := tr.between(at(1), at(4)) // the first was due before that
	if want := []time.Duration{19 * time.Millisecond, 8 * time.Millisecond, 27 * time.Millisecond}; sent != 3 || !slices.Equal(waited, want) {
		t.Errorf("%v", waited)
	}
	if tr.take(count(0, 4), at(40)); tr.wrong == nil {
		t.Error("more were counted than sent, and nobody minds")
	}
}

func TestAStampIsAnAnswer(t *testing.T) {
	t.Parallel()
	tr := newTraffic(nil, "in", workload.Spec{Keys: 1, ValueBytes: 8}, 10, true)
	tr.began = time.Unix(100, 0)
	tr.next(0)
	r := tr.next(0)
	tr.take(r, tr.began.Add(150*time.Millisecond))
	if tr.open != 1 || tr.waited[1] != 50*time.Millisecond {
		t.Errorf("%d open, %v", tr.open, tr.waited)
	}
	if tr.take(count(0, 9), tr.began); tr.wrong == nil {
		t.Error("a stamp that was never sent")
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	var waited []time.Duration
	for i := range 1000 {
		waited = append(waited, time.Duration(1000-i)*time.Millisecond)
	}
	if got := *summary(waited); got.P50 != 501 || got.P90 != 901 || got.P99 != 991 || got.P999 != 1000 || got.Max != 1000 {
		t.Errorf("%+v", got)
	}
}

func TestMeterAddsUpTheHighestCounts(t *testing.T) {
	t.Parallel()
	m := &meter{want: 5, highest: make([]int64, 3)}
	digits := &kgo.Record{Key: workload.AppendKey(nil, 1), Value: []byte("7")}
	row := &kgo.Record{Key: workload.AppendKey(nil, 0), Value: append([]byte{0, 0, 0, 0, 0, 0, 0, 5}, "a value"...)}
	for _, r := range []*kgo.Record{count(0, 1), count(2, 1), count(0, 3), count(0, 2)} { // 2 was merged, and comes late
		m.take(r)
	}
	if m.sum != 4 || m.seen != 4 || m.wrong != nil {
		t.Errorf("%+v", m)
	}
	m.take(digits)
	m.take(row)
	if m.sum != 4+7+2 {
		t.Errorf("sum %d", m.sum)
	}
	for _, bad := range []*kgo.Record{{Key: []byte("x"), Value: make([]byte, 8)}, count(3, 1), {Key: workload.AppendKey(nil, 1), Value: []byte("one")}, {Key: workload.AppendKey(nil, 1)}} {
		m := &meter{want: 5, highest: make([]int64, 3)}
		if m.take(bad); m.wrong == nil {
			t.Errorf("%q = %q was taken for a count", bad.Key, bad.Value)
		}
	}
}
