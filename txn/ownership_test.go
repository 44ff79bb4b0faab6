package txn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var errLost = errors.New("the task was lost")

// A rebalance between Begin and Commit makes the generation old. While the tasks are still owned the offsets are sent again
// under the new one; when they are not, they are not.
func TestIllegalGeneration(t *testing.T) {
	t.Run("still owned", func(t *testing.T) {
		b := newAny(t)
		p := b.producer()
		cl, member := b.join()
		own := anybody()
		own.authorize = func(n int) (Member, error) {
			if n == 1 { // as it was before the rebalance
				old := member
				old.Generation--
				return old, nil
			}
			return memberOf(cl), nil
		}
		aborted, lost, errs := b.epochs(p, own, 1, 1)
		if aborted != 0 || lost != 0 || own.asked != 2 {
			t.Errorf("aborted %d, lost %d, asked %d times: %v", aborted, lost, own.asked, errs)
		}
		b.wantEpochs(1, 1)
	})
	t.Run("no longer owned", func(t *testing.T) {
		b := newAny(t)
		p := b.producer()
		_, member := b.join()
		own := anybody()
		own.authorize = func(n int) (Member, error) {
			if n == 1 {
				old := member
				old.Generation--
				return old, nil
			}
			return Member{}, errLost
		}
		tx := b.begin(p)
		b.send(tx, "x", "y")
		r, err := tx.Commit(b.ctx, own, b.at(1, CommitID{}))
		if r != Aborted || !errors.Is(err, errLost) || own.asked != 2 {
			t.Fatalf("%v, %v, asked %d times", r, err, own.asked)
		}
		b.wantOutput()
		if s := b.stable(); s.Offset >= 0 {
			t.Errorf("offset %d was committed", s.Offset)
		}
	})
	t.Run("lost before the first time", func(t *testing.T) {
		b := newAny(t)
		p := b.producer()
		own := anybody()
		own.err = errLost
		tx := b.begin(p)
		b.send(tx, "x", "y")
		if r, err := tx.Commit(b.ctx, own, b.at(1, CommitID{})); r != Aborted || !errors.Is(err, errLost) || tx.offsetsSent {
			t.Fatalf("%v, %v, offsets sent: %v", r, err, tx.offsetsSent)
		}
		b.wantOutput()
	})
	t.Run("evicted", func(t *testing.T) {
		b := newAny(t)
		p := b.producer()
		b.join()
		own := anybody()
		own.member = Member{ID: "somebody-who-was-here", Generation: 1}
		tx := b.begin(p)
		b.send(tx, "x", "y")
		r, err := tx.Commit(b.ctx, own, b.at(1, CommitID{}))
		if r != Aborted || !errors.Is(err, kerr.UnknownMemberID) || own.asked != 1 {
			t.Fatalf("%v, %v, asked %d times", r, err, own.asked)
		}
		b.wantOutput()
	})
}

// The outcome of a commit outside of a transaction: it has the same test and the same retries.
func TestCommitOffsets(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	cl, member := b.join()
	own := anybody()
	own.authorize = func(n int) (Member, error) {
		if n == 1 {
			old := member
			old.Generation--
			return old, nil
		}
		return memberOf(cl), nil
	}
	id, err := p.CommitOffsets(b.ctx, cl, own, b.at(4, CommitID{}))
	if err != nil || own.asked != 2 {
		t.Fatalf("%v, asked %d times", err, own.asked)
	}
	s := b.stable()
	if s.Offset != 4 || s.Meta.Commit != id || id.ProducerID != -1 || s.Meta.StreamTime != 40 {
		t.Errorf("%+v, want offset 4 of %+v", s, id)
	}
	own.authorize = func(int) (Member, error) { return Member{}, errLost }
	if _, err := p.CommitOffsets(b.ctx, cl, own, b.at(5, id)); !errors.Is(err, errLost) {
		t.Errorf("%v", err)
	}
	noID := b.at(5, id)
	noID[0].TopicID = [16]byte{}
	if _, err := p.CommitOffsets(b.ctx, cl, anybody(), noID); err == nil {
		t.Error("an offset without a topic id was taken")
	}
	if s := b.stable(); s.Offset != 4 {
		t.Errorf("the group is at %d, want 4", s.Offset)
	}
}

func TestOffsetWithoutATopicID(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	tx := b.begin(p)
	b.send(tx, "x")
	noID := b.at(1, CommitID{})
	noID[0].TopicID = [16]byte{}
	if r, err := tx.Commit(b.ctx, anybody(), noID); r != Aborted || err == nil {
		t.Errorf("%v, %v", r, err)
	}
	b.wantOutput()
}

// One refused partition among many is enough.
func TestEveryPartitionsAnswerCounts(t *testing.T) {
	b := newFake(t)
	p := b.producer()
	own := anybody()
	two := append(b.at(1, CommitID{}), b.at(1, CommitID{})...)
	two[1].Partition = 1
	b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Topic: b.in, Partitions: []int32{1}, Err: kerr.OffsetMetadataTooLarge})
	tx := b.begin(p)
	b.send(tx, "x")
	if r, err := tx.Commit(b.ctx, own, two); r != Aborted || !errors.Is(err, kerr.OffsetMetadataTooLarge) {
		t.Fatalf("%v, %v", r, err)
	}
	// An answer that leaves a partition out is not a yes either.
	b.fake.ControlKey(key(kmsg.TxnOffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		return r.ResponseKind(), nil, true
	})
	tx = b.begin(p)
	b.send(tx, "x")
	if r, err := tx.Commit(b.ctx, own, two); r != Aborted || !errors.Is(err, ErrShortAnswer) {
		t.Fatalf("%v, %v", r, err)
	}
	b.wantOutput()
}

func TestStableOffsets(t *testing.T) {
	b := newAny(t)
	got, err := StableOffsets(b.ctx, b.cl, b.group, map[string][]int32{b.in: {0, 1}})
	if err != nil || len(got[b.in]) != 2 || got[b.in][0].Offset != -1 || got[b.in][1].Ours {
		t.Errorf("of a group that never was: %+v, %v", got, err)
	}
	p := b.producer()
	b.epochs(p, anybody(), 1, 1)
	got, err = StableOffsets(b.ctx, b.cl, b.group, map[string][]int32{b.in: {0, 1}})
	if err != nil || got[b.in][0].Offset != 1 || got[b.in][1].Offset != -1 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := StableOffsets(b.ctx, b.cl, b.group, nil); len(got) != 0 || err != nil {
		t.Errorf("of nothing: %+v, %v", got, err)
	}

	tx := b.begin(p)
	b.send(tx, "x", "y")
	if err := tx.sendOffsets(b.ctx, anybody(), b.at(2, CommitID{})); err != nil {
		t.Fatal(err)
	}
	if _, err := StableOffsets(b.ctx, b.cl, b.group, map[string][]int32{b.in: {0}}); !errors.Is(err, ErrUnstable) {
		t.Errorf("with an open transaction: %v", err)
	}
	if err := tx.Abort(b.ctx, nil); err != nil {
		t.Fatal(err)
	}
	if s := b.stable(); s.Offset != 1 {
		t.Errorf("after the abort: %+v", s)
	}
	gone, cancel := context.WithTimeout(b.ctx, time.Nanosecond)
	defer cancel()
	if _, err := StableOffsets(gone, b.cl, b.group, map[string][]int32{b.in: {0}}); err == nil {
		t.Error("fetched with a context that is done")
	}
}

// A member that is paused beyond its session timeout wakes up, and commits under what it still believes.
func TestZombieMember(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	cl, member := b.join()
	tx := b.begin(p)
	b.send(tx, "zombie 0", "zombie 1")
	if err := cl.LeaveGroupContext(b.ctx); err != nil { // what the coordinator does at the end of the session
		t.Fatal(err)
	}
	_, next := b.join()
	own := anybody()
	own.member = next
	other := b.producer(func(c *Config) { id := b.txnID; id.Instance = "two"; c.TransactionalID = id.String() })
	b.epochs(other, own, 1, 1)

	zombie := anybody()
	zombie.member = member
	if r, err := tx.Commit(b.ctx, zombie, b.at(1, CommitID{})); r != Aborted || !errors.Is(err, kerr.UnknownMemberID) {
		t.Fatalf("%v, %v", r, err)
	}
	b.wantEpochs(1, 1)
}
