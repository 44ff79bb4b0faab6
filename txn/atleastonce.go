package txn

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/internal/chaos"
)

// commitAtLeastOnce ends an epoch without a transaction: everything is written, then what vouches for it, then the offsets are
// committed. Whatever breaks off on the way leaves offsets behind what was written, so that records come again; never before it.
func (t *Txn) commitAtLeastOnce(ctx context.Context, own Ownership, offsets []Offset) (Result, error) {
	bound, cancel := context.WithTimeoutCause(ctx, t.p.c.Timeout, fmt.Errorf("txn: not ready to commit within %s", t.p.c.Timeout))
	defer cancel()
	if err := t.write(bound); err != nil {
		return Aborted, t.stop(ctx, err)
	}
	t.tell(Written)
	chaos.Pass(chaos.AfterFlush)
	sent, err := t.p.sendPlain(bound, t.client, own, t.id, offsets)
	t.offsetsSent = sent
	chaos.Pass(chaos.AfterOffsets)
	if err == nil {
		chaos.Pass(chaos.AfterEndTxn)
		t.end()
		return Committed, nil
	}
	if cause, ok := errors.AsType[*Error](err); ok && sent {
		// Even a refusal may be the answer to a second request whose first was heard. To look costs one request.
		return t.resolve(ctx, own, offsets, cause)
	}
	return Aborted, t.stop(ctx, err)
}

// write waits until the records of the epoch are acknowledged by all in-sync replicas, and writes those that were kept for
// the end.
func (t *Txn) write(ctx context.Context) error {
	if t.Failed() {
		return t.refused(ctx)
	}
	err := t.flush(ctx)
	if err == nil && len(t.last) > 0 {
		last := t.last
		t.last = nil
		for _, r := range last {
			t.hand(r)
		}
		err = t.flush(ctx)
	}
	switch {
	case errors.Is(err, ErrProduced):
		return t.refused(ctx)
	case err != nil:
		return t.p.failure(PhaseProduce, t.patience(PhaseProduce, err), err)
	}
	return nil
}
