package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// resolve finds out what became of a commit whose answer cannot be trusted.
//
//  1. The client is thrown away: whatever it still believes is not evidence.
//  2. The id is initialised by hand, by a client without a history. When that has succeeded, the transaction is over: it was
//     committed, or it was aborted by this, and no request of ours that is still on its way can change it.
//  3. Each offset of the epoch carries the epoch's commit id. A stable OffsetFetch of any one of them, for a task that was
//     ours the whole time, shows it, or what was there before it.
//
// Under AtLeastOnce there is no id to initialise, and the second step is left out.
func (t *Txn) resolve(ctx context.Context, own Ownership, offsets []Offset, cause *Error) (Result, error) {
	start := time.Now()
	ctx, cancel := outlive(ctx, t.p.c.Timeout, closeGrace)
	defer cancel()
	t.tell(Unknown)
	t.p.c.Log.Warn("outcome of a commit is unknown, looking for it", "txn", t.id.TxnID, "seq", t.id.Seq, "cause", cause.Err)
	t.discard(ctx, cause)
	r, err := t.look(ctx, own, offsets)
	t.end()
	took := time.Since(start)
	t.p.c.Log.Warn("outcome of a commit resolved", "txn", t.id.TxnID, "seq", t.id.Seq, "result", r, "took", took, "err", err)
	if t.p.c.Observer.Resolved != nil {
		t.p.c.Observer.Resolved(t.id, r, took)
	}
	switch {
	case r == Committed:
		return Committed, nil
	case err != nil:
		return r, errors.Join(cause, err)
	}
	return r, cause
}

func (t *Txn) look(ctx context.Context, own Ownership, offsets []Offset) (Result, error) {
	cl, err := t.p.plain()
	if err != nil {
		return Lost, err
	}
	defer cl.Close()
	// Also when the answer was that we are fenced: an answer is not what we go by here. Offsets that were sent outside of a
	// transaction cannot be called back: should they arrive after we looked, what was replayed meanwhile is doubled.
	if t.p.c.Guarantee == AtLeastOnce {
		return t.lookAt(ctx, cl, own, offsets)
	}
	if err := Fence(ctx, cl, t.id.TxnID, t.p.c.Timeout); err != nil {
		t.p.loose = true
		return Lost, err
	}
	return t.lookAt(ctx, cl, own, offsets)
}

// lookAt asks the group for what it holds now.
func (t *Txn) lookAt(ctx context.Context, cl *kgo.Client, own Ownership, offsets []Offset) (Result, error) {
	pause := backoff{min: 10 * time.Millisecond, max: 500 * time.Millisecond}
	for {
		o, ok := firstOwned(own, offsets)
		if !ok {
			return Lost, ErrNoneOwned
		}
		got, err := StableOffsets(ctx, cl, t.p.c.Group, map[string][]int32{o.Topic: {o.Partition}})
		switch {
		case err == nil:
			c := got[o.Topic][o.Partition]
			r, err := verdict(t.id, o.Previous, c)
			// What stands there now is only evidence of what we did if nobody else could have put it there.
			if r == Aborted && !own.Owned(o.Topic, o.Partition) {
				continue
			}
			return r, err
		case IsFatal(err):
			return Lost, err
		}
		if errors.Is(err, ErrUnstable) {
			pause = backoff{min: 20 * time.Millisecond, max: 20 * time.Millisecond}
		}
		if pause.wait(ctx) != nil {
			return Lost, fmt.Errorf("resolving: %w", err)
		}
	}
}

func firstOwned(own Ownership, offsets []Offset) (Offset, bool) {
	for _, o := range offsets {
		if own.Owned(o.Topic, o.Partition) {
			return o, true
		}
	}
	return Offset{}, false
}

// verdict compares what stands in the group with the epoch in question and with what stood there before it.
func verdict(ours, previous CommitID, got Stable) (Result, error) {
	switch id := got.Meta.Commit; {
	case got.Err != nil:
		return Lost, got.Err
	case got.Ours && id == ours:
		return Committed, nil
	case got.Ours && id.Before(ours):
		return Aborted, nil
	case got.Ours && id == previous:
		return Aborted, nil
	case !got.Ours && previous.Zero():
		return Aborted, nil // nothing of ours was there, and nothing is
	}
	return Lost, ErrForeignCommit
}

// Loose reports whether the last transaction was given up without knowing that the broker ended it: its offsets may be
// unstable, and its records hold readers up, until Settle or the next Begin succeeds.
func (p *Producer) Loose() bool { return p.loose }

// Settle ends what was left open, if anything was. It tries until ctx is done.
func (p *Producer) Settle(ctx context.Context) error {
	switch {
	case p.closed:
		return ErrClosed
	case p.open != nil:
		return ErrBusy
	case !p.loose:
		return nil
	}
	if err := p.fence(ctx); err != nil {
		return fmt.Errorf("fencing %s: %w", p.c.TransactionalID, err)
	}
	p.loose = false
	return nil
}

// fence initialises the producer's own id, by a client without a history.
func (p *Producer) fence(ctx context.Context) error {
	cl, err := p.plain()
	if err != nil {
		return err
	}
	defer cl.Close()
	return Fence(ctx, cl, p.c.TransactionalID, p.c.Timeout)
}
