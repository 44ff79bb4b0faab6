package txn

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func atLeastOnce(c *Config) { c.Guarantee = AtLeastOnce }

// What is written is there at once, offsets come after it, and their metadata says how they came.
func TestAtLeastOnce(t *testing.T) {
	b := newAny(t)
	p := b.producer(atLeastOnce)
	var prev CommitID
	var want []string
	for epoch := range 3 {
		tx := b.begin(p)
		values := []string{name(epoch, 0), name(epoch, 1)}
		b.send(tx, values...)
		r, err := tx.Commit(b.ctx, anybody(), b.at(int64(epoch+1), prev))
		if r != Committed || err != nil {
			t.Fatalf("epoch %d: %v, %v", epoch, r, err)
		}
		ends := map[int32]int64{}
		tx.Ends(func(_ string, num int32, next int64) { ends[num] = next })
		if ends[0] != int64(epoch+1) || ends[1] != int64(epoch+1) {
			t.Errorf("epoch %d: ends %v", epoch, ends)
		}
		want = append(want, values...)
		got := b.stable()
		if got.Offset != int64(epoch+1) || got.Meta.Commit != tx.ID() || got.Meta.Guarantee != AtLeastOnce || !got.Meta.Commit.AtLeastOnce() {
			t.Fatalf("epoch %d: the group holds %+v, the epoch was %+v", epoch, got, tx.ID())
		}
		prev = tx.ID()
	}
	b.wantOutput(want...)

	// An epoch that is given up leaves what it wrote, and the offsets alone.
	tx := b.begin(p)
	b.send(tx, "x", "y")
	if err := tx.Abort(b.ctx, errors.New("because")); err != nil {
		t.Fatal(err)
	}
	if got := b.stable(); got.Offset != 3 {
		t.Errorf("the group is at %d after an epoch that was given up, want 3", got.Offset)
	}
	b.epochs(p, anybody(), 4, 4)
	id, err := p.CommitOffsets(b.ctx, b.cl, anybody(), b.at(5, b.stable().Meta.Commit))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.stable(); got.Meta.Commit != id || got.Meta.Guarantee != AtLeastOnce || id.AtLeastOnce() {
		t.Errorf("offsets alone: the group holds %+v, want %+v: no epoch wrote anything under it", got, id)
	}
}

// No offset is sent before everything is acknowledged, and what vouches for the epoch is written after all else.
func TestAtLeastOnceWritesFirst(t *testing.T) {
	b := newAny(t)
	w := new(wire)
	p := b.producer(atLeastOnce, over(w), func(c *Config) { c.LastTopic = b.in })
	b.epochs(p, anybody(), 1, 1)

	var mu sync.Mutex
	var seen []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, s)
	}
	w.set(func(k kmsg.Key) bool {
		switch k {
		case kmsg.Produce:
			note("write")
		case kmsg.OffsetCommit:
			note("offsets")
		}
		return true
	}, func(k kmsg.Key, _ []byte) bool {
		if k == kmsg.Produce {
			note("written")
		}
		return true
	})
	tx := b.begin(p)
	tx.Produce(&kgo.Record{Topic: b.in, Value: []byte("voucher"), Timestamp: time.UnixMilli(1)})
	b.send(tx, name(2, 0), name(2, 1))
	told := 0
	tx.Watch(func(m Moment) {
		if m == Written {
			told++
			note("told")
		}
	})
	if r, err := tx.Commit(b.ctx, anybody(), b.at(2, b.stable().Meta.Commit)); r != Committed {
		t.Fatal(r, err)
	}
	mu.Lock()
	defer mu.Unlock()
	offsets, toldAt := slices.Index(seen, "offsets"), slices.Index(seen, "told")
	if n := len(seen); n < 6 || offsets != n-1 || toldAt != n-2 || seen[n-3] != "written" || seen[n-4] != "write" || seen[n-5] != "written" {
		t.Errorf("the order was %v; want records, written, voucher, written, told, offsets", seen)
	}
	if got := b.read(b.in); len(got) != 1 || got[0] != "voucher" {
		t.Errorf("the voucher: %v", got)
	}
}

// The answer of the offset commit never comes: what the group holds decides.
func TestAtLeastOnceUnknownOutcome(t *testing.T) {
	for _, applied := range []bool{true, false} {
		t.Run(map[bool]string{true: "applied", false: "never applied"}[applied], func(t *testing.T) {
			b := newAny(t)
			w := new(wire)
			var resolved []Result
			p := b.producer(atLeastOnce, quick, over(w), func(c *Config) {
				c.Observer.Resolved = func(_ CommitID, r Result, _ time.Duration) { resolved = append(resolved, r) }
			})
			b.epochs(p, anybody(), 1, 1)
			var sent atomic.Int64
			w.set(func(k kmsg.Key) bool { return k != kmsg.OffsetCommit || sent.Add(1) == 1 && applied },
				func(k kmsg.Key, _ []byte) bool { return k != kmsg.OffsetCommit })
			tx := b.begin(p)
			b.send(tx, name(2, 0), name(2, 1))
			r, err := tx.Commit(b.ctx, anybody(), b.at(2, b.stable().Meta.Commit))
			w.set(nil, nil)
			want := map[bool]Result{true: Committed, false: Aborted}[applied]
			if r != want || (err == nil) != applied || len(resolved) != 1 || resolved[0] != want {
				t.Fatalf("Commit: %v, %v, resolved %v, want %v", r, err, resolved, want)
			}
			if applied {
				b.epochs(p, anybody(), 3, 3)
				b.wantEpochs(1, 3)
				return
			}
			b.epochs(p, anybody(), 2, 2)
			got := b.committed()
			slices.Sort(got)
			if !slices.Equal(got, []string{name(1, 0), name(1, 1), name(2, 0), name(2, 0), name(2, 1), name(2, 1)}) {
				t.Errorf("the output is %v: an epoch that comes again is there twice, and nothing is missing", got)
			}
		})
	}
}

// A record that was refused, or an epoch that is not ours any more, commits no offsets.
func TestAtLeastOnceGivesUp(t *testing.T) {
	b := newAny(t)
	w := new(wire)
	var commits atomic.Int64
	w.set(func(k kmsg.Key) bool {
		if k == kmsg.OffsetCommit {
			commits.Add(1)
		}
		return true
	}, nil)
	p := b.producer(atLeastOnce, quick, over(w), func(c *Config) { c.LastTopic = "never-made" })
	tx := b.begin(p)
	b.send(tx, "a")
	tx.Produce(&kgo.Record{Topic: b.out, Partition: 7, Value: []byte("no such partition"), Timestamp: time.UnixMilli(1)})
	tx.Produce(&kgo.Record{Topic: "never-made", Value: []byte("voucher"), Timestamp: time.UnixMilli(1)})
	if r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{})); r != Aborted || !errors.Is(err, ErrProduced) {
		t.Errorf("with a refused record: %v, %v", r, err)
	}
	if n := len(tx.Failures()); n != 1 {
		t.Errorf("%d failures, want the one", n)
	}
	tx = b.begin(p)
	b.send(tx, "b")
	gone := errors.New("not ours")
	own := anybody()
	own.err = gone
	if r, err := tx.Commit(b.ctx, own, b.at(1, CommitID{})); r != Aborted || !errors.Is(err, gone) {
		t.Errorf("without the task: %v, %v", r, err)
	}
	if n := commits.Load(); n != 0 {
		t.Errorf("%d offset commits were sent, want none", n)
	}
	if got := b.stable(); got.Offset != -1 {
		t.Errorf("the group is at %d", got.Offset)
	}
	if _, err := NewProducer(Config{TransactionalID: "x", Group: "g", Guarantee: 7}); err == nil {
		t.Error("a guarantee that nobody knows is taken")
	}
}
