package txn

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// turns are two producers of one worker.
func (b *bench) turns() [2]*Producer {
	s := NewSequence()
	var ps [2]*Producer
	for i, id := range []TransactionalID{b.txnID, b.txnID.Pair()} {
		ps[i] = b.producer(func(c *Config) { c.TransactionalID, c.Sequence = id.String(), s })
	}
	return ps
}

// The next transaction is begun and written while the one before it is not over, and its offsets follow.
func TestProducersTakeTurns(t *testing.T) {
	b := newAny(t)
	ps := b.turns()
	var want []string
	var prev CommitID
	before := b.begin(ps[0])
	b.send(before, "a0", "b0")
	for epoch := range int64(6) {
		next := b.begin(ps[(epoch+1)%2])
		if !before.ID().Before(next.ID()) || next.ID().Before(before.ID()) {
			t.Errorf("%+v and %+v do not follow each other", before.ID(), next.ID())
		}
		values := []string{string(rune('a'+epoch)) + "1", string(rune('a'+epoch)) + "2"}
		b.send(next, values...)
		if r, err := before.Commit(b.ctx, anybody(), b.at(epoch+1, prev)); r != Committed {
			t.Fatalf("epoch %d: %v, %v", epoch, r, err)
		}
		prev = before.ID()
		if got := b.stable(); got.Offset != epoch+1 || got.Meta.Commit != prev {
			t.Fatalf("epoch %d: the group holds %+v", epoch, got)
		}
		before, want = next, append(want, values...)
	}
	if err := before.Abort(b.ctx, errors.New("because")); err != nil {
		t.Fatal(err)
	}
	b.wantOutput(append([]string{"a0", "b0"}, want[:len(want)-2]...)...)
}

// A commit whose outcome is unknown finds what the other producer committed before it.
func TestVerdictBetweenTurns(t *testing.T) {
	s := NewSequence()
	one, two := s.next("millrace:a:i:0:0", 7, 3), s.next("millrace:a:i:0:1", 8, 1)
	if r, err := verdict(two, CommitID{}, Stable{Offset: 5, Ours: true, Meta: Meta{Commit: one}}); r != Aborted || err != nil {
		t.Errorf("%v, %v", r, err)
	}
	if r, _ := verdict(one, CommitID{}, Stable{Offset: 5, Ours: true, Meta: Meta{Commit: two}}); r != Lost {
		t.Errorf("%v for an epoch that another one came behind", r)
	}
	stranger := NewSequence().next("millrace:a:i:0:1", 8, 1)
	if stranger.Before(two) || two.Before(stranger) {
		t.Error("ids of two sequences follow each other")
	}
}

// Written is told when every record is acknowledged, though offsets are not, and not when one was refused; Unknown when the
// outcome has to be looked for.
func TestWatch(t *testing.T) {
	b := newFake(t)
	p := b.producer()
	var mu sync.Mutex
	commit := func(watch func(Moment)) (Result, []Moment) {
		tx := b.begin(p)
		b.send(tx, "x", "y")
		var told []Moment
		tx.Watch(func(m Moment) {
			mu.Lock()
			told = append(told, m)
			mu.Unlock()
			if watch != nil {
				watch(m)
			}
		})
		r, _ := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{}))
		mu.Lock()
		defer mu.Unlock()
		return r, told
	}
	written := make(chan struct{})
	b.fake.ControlKey(key(kmsg.TxnOffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.SleepControl(func() { <-written }) // comes while this has no answer
		return nil, nil, false
	})
	if r, told := commit(func(m Moment) { close(written) }); r != Committed || !slices.Equal(told, []Moment{Written}) {
		t.Errorf("%v, told %v", r, told)
	}
	refused := b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTxnState, Count: 1})
	if r, told := commit(nil); r != Aborted || len(told) != 0 || refused.Hits() == 0 {
		t.Errorf("%v, told %v, a record was refused %d times", r, told, refused.Hits())
	}
	refused.Remove()
	b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.UnknownServerError, Count: 1})
	if r, told := commit(nil); r != Aborted || !slices.Equal(told, []Moment{Written, Unknown}) {
		t.Errorf("%v, told %v", r, told)
	}
}

// Whoever is told that he was fenced leaves his transaction to whoever did it. If nobody did, it is still open, and Settle
// ends it without another transaction.
func TestSettleEndsWhatWasLeftOpen(t *testing.T) {
	b := newFake(t)
	p := b.producer()
	if p.Loose() || p.Settle(b.ctx) != nil {
		t.Error("a new producer has nothing to settle")
	}
	b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.InvalidProducerEpoch, Count: 1})
	tx := b.begin(p)
	b.send(tx, "x", "y")
	if err := p.client.Flush(b.ctx); err != nil {
		t.Fatal(err)
	}
	if r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{})); r != Aborted || !IsFenced(err) {
		t.Fatalf("%v, %v", r, err)
	}
	open := func() int {
		t.Helper()
		list, err := ListOpen(b.ctx, b.cl, b.txnID.App)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if !p.Loose() || open() != 1 {
		t.Fatalf("loose %v, %d open transactions", p.Loose(), open())
	}
	if err := p.Settle(b.ctx); err != nil || p.Loose() || open() != 0 {
		t.Fatalf("%v, loose %v, %d open transactions", err, p.Loose(), open())
	}
	b.epochs(p, anybody(), 1, 1)
	b.wantEpochs(1, 1)
}
