package txn

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// open begins a transaction of an instance's worker and leaves it so.
func (b *bench) openTxn(instance string, worker int) (*Txn, TransactionalID) {
	b.t.Helper()
	id, err := NewTransactionalID(b.txnID.App, instance, worker, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	p := b.producer(func(c *Config) { c.TransactionalID = id.String() })
	tx := b.begin(p)
	b.send(tx, "open of "+id.String())
	if err := p.client.Flush(b.ctx); err != nil {
		b.t.Fatal(err)
	}
	return tx, id
}

func TestFencePass(t *testing.T) {
	b := newAny(t)
	_, dead0 := b.openTxn("dead", 0)
	_, dead3 := b.openTxn("dead", 3)
	alive, live0 := b.openTxn("live", 0)
	foreign := b.txnID
	foreign.App += "-more" // not a prefix of us, and we not of it
	p := b.producer(func(c *Config) { c.TransactionalID = foreign.String() })
	theirs := b.begin(p)
	b.send(theirs, "theirs")
	if err := p.client.Flush(b.ctx); err != nil {
		t.Fatal(err)
	}

	open, err := ListOpen(b.ctx, b.cl, b.txnID.App)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, o := range open {
		ids = append(ids, o.ID.String())
	}
	slices.Sort(ids)
	if want := []string{dead0.String(), dead3.String(), live0.String()}; !slices.Equal(ids, want) {
		t.Fatalf("open: %v, want %v", ids, want)
	}

	fenced, err := FencePass(b.ctx, b.cl, b.txnID.App, func(instance string) bool { return instance == "live" })
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[TransactionalID]bool)
	for _, f := range fenced {
		got[f.ID] = f.Open
	}
	if len(got) != 4 || !got[dead0] || !got[dead3] {
		t.Errorf("fenced: %+v", fenced)
	}
	for _, pair := range []TransactionalID{dead0.Pair(), dead3.Pair()} {
		if was, ok := got[pair]; !ok || was {
			t.Errorf("%s is the other id of a pair: %v, %v", pair, was, ok)
		}
	}
	if again, err := FencePass(b.ctx, b.cl, b.txnID.App, func(instance string) bool { return instance == "live" }); err != nil || len(again) != 0 {
		t.Errorf("a second pass: %+v, %v", again, err)
	}
	if r, err := alive.Commit(b.ctx, anybody(), b.at(1, CommitID{})); r != Committed {
		t.Errorf("the live one: %v, %v", r, err)
	}
	if r, err := theirs.Commit(b.ctx, anybody(), b.at(2, CommitID{})); r != Committed {
		t.Errorf("the other application's: %v, %v", r, err)
	}
	b.wantOutput("open of "+live0.String(), "theirs")
}

// A fenced producer finds out at its commit, and goes on with a new client.
func TestFencedProducerGoesOn(t *testing.T) {
	b := newAny(t)
	tx, id := b.openTxn("one", 0)
	if err := Fence(b.ctx, b.cl, id.String(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{})); r != Aborted || err == nil {
		t.Fatalf("%v, %v", r, err)
	}
	b.epochs(tx.p, anybody(), 1, 2)
	b.wantEpochs(1, 2)
}

// Every broker is asked, and a broker that fails to answer is asked again: an id it coordinates would be overlooked.
func TestListOpenNeedsEveryBroker(t *testing.T) {
	b := newFake(t, kfake.NumBrokers(3))
	for i := range 12 { // over all coordinators
		b.openTxn("dead", i)
	}
	h := b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListTransactions}, TopLevel: true, Err: kerr.CoordinatorLoadInProgress, Count: 4})
	open, err := ListOpen(b.ctx, b.cl, b.txnID.App)
	if err != nil || len(open) != 12 {
		t.Errorf("%d open transactions of 12, %v", len(open), err)
	}
	if h.Hits() != 4 {
		t.Errorf("the fault was hit %d times of 4", h.Hits())
	}
	b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListTransactions}, TopLevel: true, Err: kerr.CoordinatorNotAvailable, Count: -1})
	ctx, cancel := context.WithTimeout(b.ctx, 100*time.Millisecond)
	defer cancel()
	if open, err := ListOpen(ctx, b.client(kgo.RequestRetries(0)), b.txnID.App); err == nil || open != nil {
		t.Errorf("%v, %v: a broker that never answers was left out", open, err)
	}
}

func TestFenceTellsWhatCannotHelp(t *testing.T) {
	b := newFake(t)
	b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.TransactionalIDAuthorizationFailed})
	if err := Fence(b.ctx, b.cl, b.txnID.String(), time.Minute); !IsFatal(err) || !errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
		t.Errorf("%v", err)
	}
	h := b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.ConcurrentTransactions, Count: 20})
	if err := Fence(b.ctx, b.cl, b.txnID.String(), time.Minute); err != nil || h.Hits() != 20 {
		t.Errorf("%v after %d", err, h.Hits())
	}
	b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.ConcurrentTransactions, Count: -1})
	ctx, cancel := context.WithTimeout(b.ctx, 50*time.Millisecond)
	defer cancel()
	if err := Fence(ctx, b.cl, b.txnID.String(), time.Minute); !errors.Is(err, kerr.ConcurrentTransactions) {
		t.Errorf("a transaction that never ends: %v", err)
	}
}
