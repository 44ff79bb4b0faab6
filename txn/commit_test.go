package txn

import (
	"errors"
	"testing"
)

func TestCommitMakesEverythingVisibleAtOnce(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	var prev CommitID
	var want []string
	for epoch := range 5 {
		tx := b.begin(p)
		values := []string{string(rune('a'+epoch)) + "0", string(rune('a'+epoch)) + "1"}
		b.send(tx, values...)
		r, err := tx.Commit(b.ctx, anybody(), b.at(int64(epoch+1), prev))
		if r != Committed || err != nil {
			t.Fatalf("epoch %d: %v, %v", epoch, r, err)
		}
		ends := 0
		tx.Ends(func(string, int32, int64) { ends++ })
		if ends != 2 {
			t.Errorf("epoch %d: ends of %d partitions, want 2", epoch, ends)
		}
		want = append(want, values...)
		got := b.stable()
		if got.Offset != int64(epoch+1) || !got.Ours || got.Meta.Commit != tx.ID() || got.Meta.StreamTime != int64(epoch+1)*10 || got.Meta.Now != int64(epoch+1)*100 {
			t.Fatalf("epoch %d: the group holds %+v, the epoch was %+v", epoch, got, tx.ID())
		}
		if !prev.Zero() && !prev.Before(tx.ID()) {
			t.Errorf("%+v is not before %+v", prev, tx.ID())
		}
		prev = tx.ID()
	}
	b.wantOutput(want...)
}

func TestAbortLeavesNoTrace(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	tx := b.begin(p)
	b.send(tx, "x", "y")
	if err := tx.Abort(b.ctx, errors.New("because")); err != nil {
		t.Fatal(err)
	}
	tx = b.begin(p)
	b.send(tx, "a", "b")
	if r, err := tx.Commit(b.ctx, anybody(), b.at(2, CommitID{})); r != Committed {
		t.Fatal(r, err)
	}
	b.wantOutput("a", "b")
	if r, err := tx.Commit(b.ctx, anybody(), b.at(2, CommitID{})); r != Aborted || !errors.Is(err, ErrEnded) {
		t.Errorf("a second Commit: %v, %v", r, err)
	}
	if err := tx.Abort(b.ctx, nil); !errors.Is(err, ErrEnded) {
		t.Errorf("Abort after Commit: %v", err)
	}
}
