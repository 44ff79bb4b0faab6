package txn

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/chaos"
)

// Member is who commits.
type Member struct {
	ID         string
	Generation int32
	InstanceID *string
}

// Ownership is the test that stands before every offset commit. Both methods are called on the goroutine that called Commit.
type Ownership interface {
	// Authorize is asked immediately before each send of the request (first try and retries) and says under which member id
	// and generation to send. An error means that at least one task of the epoch was lost in between: the request is not
	// sent (again) and the epoch is aborted. Implementations note that offsets are in flight when they say yes.
	Authorize() (Member, error)
	// Owned reports whether the task that reads the partition has been owned without a break since the transaction began.
	// It is asked when the outcome of a commit is unknown, to find a partition whose committed offset can tell.
	Owned(topic string, partition int32) bool
}

// Result says what became of an epoch.
type Result uint8

// The results.
const (
	Aborted   Result = iota // nothing of the epoch is visible: discard and replay
	Committed               // everything is: apply
	Lost                    // the tasks have another owner and it is not known whether the epoch committed: drop the tasks, do not replay
)

func (r Result) String() string { return [...]string{"aborted", "committed", "lost"}[r] }

// Commit flushes, commits the offsets (in parallel), checks the producer id again and ends the transaction. offsets has an
// entry for every input of every task that took part, and at least one record must have been produced. It returns Committed,
// or Aborted or Lost with the reason, which is an *Error where it is not the ownership's own; an unknown outcome is resolved
// before it returns. After Commit each produced record has its Offset set. ctx bounds the flush and the offsets; an EndTxn
// that was sent is waited for whatever becomes of ctx, up to the transaction timeout, and an unknown outcome is looked for
// up to the same and no longer than 5 s after ctx is done.
//
// Under AtLeastOnce the records are written first, then the offsets are committed. Aborted then says that the offsets are not
// committed; what was written stays.
func (t *Txn) Commit(ctx context.Context, own Ownership, offsets []Offset) (Result, error) {
	if t.ended {
		return Aborted, ErrEnded
	}
	if t.produced == 0 || len(offsets) == 0 {
		return Aborted, t.stop(ctx, t.p.failure(PhaseEnd, ActAbort, ErrNothingProduced))
	}
	if t.p.c.Guarantee == AtLeastOnce {
		return t.commitAtLeastOnce(ctx, own, offsets)
	}
	if err := t.prepare(ctx, own, offsets); err != nil {
		return Aborted, t.stop(ctx, err)
	}

	// Not the caller's context: an EndTxn that was sent cannot be called back, only no longer be listened to.
	endCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.p.c.Timeout)
	defer cancel()
	err := t.client.EndTransaction(endCtx, kgo.TryCommit)
	chaos.Pass(chaos.AfterEndTxn)
	if err == nil {
		t.end()
		return Committed, nil
	}
	e := t.p.failure(PhaseEnd, Classify(PhaseEnd, err), err)
	if chaos.Has(chaos.RewindToLocalOffsets) {
		_ = t.client.EndTransaction(endCtx, kgo.TryAbort)
		t.end()
		return Aborted, e
	}
	return t.resolve(ctx, own, offsets, e)
}

// prepare does everything that must have succeeded before a commit may be asked for.
func (t *Txn) prepare(ctx context.Context, own Ownership, offsets []Offset) error {
	ctx, cancel := context.WithTimeoutCause(ctx, t.p.c.Timeout, fmt.Errorf("txn: not ready to commit within %s", t.p.c.Timeout))
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)

	if t.Failed() {
		return t.refused(ctx)
	}
	flushed := make(chan error, 1)
	go func() {
		err := t.flush(ctx)
		if err != nil {
			giveUp(err) // the offsets need not be sent any more
		} else {
			t.tell(Written)
		}
		chaos.Pass(chaos.AfterFlush)
		flushed <- err
	}()
	offsetsErr := t.sendOffsets(ctx, own, offsets)
	if offsetsErr != nil {
		giveUp(offsetsErr)
	}
	flushErr := <-flushed
	chaos.Pass(chaos.AfterOffsets)

	switch {
	case errors.Is(flushErr, ErrProduced):
		return t.refused(ctx)
	case offsetsErr != nil && errors.Is(context.Cause(ctx), offsetsErr):
		return offsetsErr // what else went wrong came of giving up
	case flushErr != nil:
		return t.p.failure(PhaseProduce, t.patience(PhaseProduce, flushErr), flushErr)
	case offsetsErr != nil:
		return offsetsErr
	}
	if t.acked.Load() == 0 {
		// EndTransaction would send an abort, or nothing at all, and say yes.
		return t.p.failure(PhaseProduce, ActRecreate, ErrNothingProduced)
	}

	// kgo makes the partitions of a topic it has not known visible to EndTransaction only after it has let their first records
	// go (topics_and_partitions.go, the deferred Store in storePartitionsUpdate). On a busy machine (1) the metadata goroutine
	// hands over the records and is suspended; (2) they are written and acknowledged, Flush returns; (3) EndTransaction finds
	// no partition with a record, takes the transaction for one whose every produce failed, sends an ABORT, and returns nil;
	// (4) we would believe that the epoch is committed. Seen in 3 of 2,400 first transactions on a loaded machine. The
	// goroutine holds a lock all that time which AbortBufferedRecords takes as well; with nothing buffered, taking it is all
	// that this call does.
	if err := t.client.AbortBufferedRecords(ctx); err != nil {
		return t.p.failure(PhaseProduce, t.patience(PhaseProduce, err), err)
	}

	// When a partition's log start has moved past what we last wrote there, a broker may have forgotten us; kgo then takes
	// another producer epoch inside the transaction and goes on without telling anybody. Initialising aborted all that was
	// sent before: to commit now would be to commit the second part alone. Nothing is in flight after the flush, so the pair
	// cannot change between here and EndTxn.
	id, epoch, err := t.client.ProducerID(ctx)
	if err != nil {
		return t.p.failure(PhaseProduce, Classify(PhaseProduce, err), err)
	}
	if id != t.id.ProducerID || epoch != t.id.ProducerEpoch {
		return t.p.failure(PhaseProduce, ActRecreate, fmt.Errorf("%w: %d/%d became %d/%d",
			ErrProducerChanged, t.id.ProducerID, t.id.ProducerEpoch, id, epoch))
	}
	return nil
}

// flush waits until every record that was handed to the client is written. ErrProduced says that one was refused.
func (t *Txn) flush(ctx context.Context) error {
	err := t.client.Flush(ctx)
	if err == nil {
		err = t.settled(ctx)
	}
	if t.Failed() {
		return ErrProduced
	}
	return err
}

// refused is the error of a transaction whose records were not all written.
func (t *Txn) refused(ctx context.Context) error {
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(settleBound, t.p.c.Timeout))
	defer cancel()
	if t.client.AbortBufferedRecords(settle) != nil || t.settled(settle) != nil || len(t.failures) == 0 {
		return t.p.failure(PhaseProduce, ActRecreate, ErrProduced)
	}
	f := t.failures[0]
	return t.p.failure(PhaseProduce, t.worst, fmt.Errorf("%w: %s/%d: %w", ErrProduced, f.Record.Topic, f.Record.Partition, f.Err))
}

// patience is the action for an error of waiting: the caller's own end of patience says nothing against the client.
func (t *Txn) patience(phase Phase, err error) Action {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ActAbort
	}
	return Classify(phase, err)
}

// Abort ends the transaction without a trace; reason says why, for the log, and decides whether the client is kept. If the
// client cannot abort it is thrown away and the id is fenced. An error says that the broker could not be told in time: the
// epoch is aborted all the same (nobody will commit it), its offsets stay unstable until the next Begin, a Settle, or the
// transaction timeout. ctx may be done already; Abort takes at most some 20 s, and 5 s once ctx is done.
func (t *Txn) Abort(ctx context.Context, reason error) error {
	if t.ended {
		return ErrEnded
	}
	if reason == nil {
		reason = errors.New("txn: aborted by its owner")
	}
	err := t.stop(ctx, reason)
	if joined, ok := err.(*unsettled); ok { //nolint:errorlint // made by stop, never wrapped
		return joined.abort
	}
	return nil
}

// unsettled is a reason together with the abort's own failure.
type unsettled struct{ reason, abort error }

func (e *unsettled) Error() string   { return e.reason.Error() + "; aborting: " + e.abort.Error() }
func (e *unsettled) Unwrap() []error { return []error{e.reason, e.abort} }

// stop aborts, and returns the reason, with what went wrong in aborting if anything did.
func (t *Txn) stop(ctx context.Context, reason error) error {
	defer t.end()
	ctx, over := outlive(ctx, 2*settleBound, closeGrace)
	defer over()
	settle, cancel := context.WithTimeout(ctx, min(settleBound, t.p.c.Timeout))
	defer cancel()

	t.produced -= int64(len(t.last)) // nobody has seen these
	t.last = nil
	keep := true
	for e := range all(reason) {
		if e.Action > ActAbort {
			keep = false
		}
	}
	if keep && t.client.AbortBufferedRecords(settle) != nil {
		keep = false
	}
	if keep && t.settled(settle) != nil {
		keep = false
	}
	if t.p.c.Guarantee == AtLeastOnce {
		if !keep {
			t.discard(settle, reason)
		}
		t.p.c.Log.Info("epoch given up", "producer", t.id.TxnID, "seq", t.id.Seq, "reason", reason)
		return reason
	}
	if keep && t.acked.Load() == 0 && t.offsetsSent {
		// EndTransaction looks at the records it wrote and at nothing else: it would send nothing, and the offsets would stay
		// in the transaction, for the next commit to make them true.
		keep = false
	}
	if keep {
		if err := t.client.EndTransaction(settle, kgo.TryAbort); err != nil {
			reason = errors.Join(reason, t.p.failure(PhaseAbort, Classify(PhaseAbort, err), err))
			keep = false
		}
	}
	if keep {
		t.p.c.Log.Info("transaction aborted", "txn", t.id.TxnID, "seq", t.id.Seq, "reason", reason)
		return reason
	}

	t.discard(settle, reason)
	if IsFenced(reason) || (t.acked.Load() == 0 && !t.offsetsSent && t.produced == 0) {
		t.p.loose = t.produced > 0 || t.offsetsSent
		return reason // whoever fenced us aborted what we had, if it is true; or there is nothing to fence
	}
	fenceCtx, cancelFence := context.WithTimeout(ctx, min(settleBound, t.p.c.Timeout))
	defer cancelFence()
	if err := t.p.fence(fenceCtx); err != nil {
		t.p.loose = true
		return &unsettled{reason: reason, abort: fmt.Errorf("fencing %s: %w", t.id.TxnID, err)}
	}
	return reason
}

// discard throws the client away and waits until it has let go of every record.
func (t *Txn) discard(ctx context.Context, reason error) {
	t.p.renew(reason)
	if err := t.settled(ctx); err != nil {
		t.p.c.Log.Warn("client closed with records not accounted for", "txn", t.id.TxnID,
			"records", t.produced-t.done.Load(), "err", err)
	}
}

func (t *Txn) end() {
	t.ended = true
	t.cancel()
	if t.p.open == t {
		t.p.open = nil
	}
}
