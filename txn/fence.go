package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// OpenTxn is a transaction that is not over.
type OpenTxn struct {
	ID         TransactionalID
	ProducerID int64
	State      string // as the coordinator names it
}

// openStates are the states in which a transaction holds offsets or readers.
var openStates = []string{"Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence"}

// ListOpen lists the open transactions of an application. Every broker is asked and every broker's answer is needed, since
// each knows only the ids it coordinates: an error is tried again until ctx is done. A principal without DESCRIBE on the ids
// gets an empty list, not an error.
func ListOpen(ctx context.Context, cl *kgo.Client, app string) ([]OpenTxn, error) {
	pause := backoff{min: 10 * time.Millisecond, max: 500 * time.Millisecond}
	for {
		open, err := listOpen(ctx, cl, app)
		if err == nil {
			return open, nil
		}
		if pause.wait(ctx) != nil {
			return nil, fmt.Errorf("list open transactions of %s: %w", app, err)
		}
	}
}

func listOpen(ctx context.Context, cl *kgo.Client, app string) ([]OpenTxn, error) {
	var open []OpenTxn
	seen := make(map[string]bool) // an id that moves between coordinators may be named by both
	for _, shard := range cl.RequestSharded(ctx, kmsg.NewPtrListTransactionsRequest()) {
		if shard.Err != nil {
			return nil, shard.Err
		}
		resp, ok := shard.Resp.(*kmsg.ListTransactionsResponse)
		if !ok {
			return nil, fmt.Errorf("txn: ListTransactions answered with %T", shard.Resp)
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return nil, fmt.Errorf("broker %d: %w", shard.Meta.NodeID, err)
		}
		// Filtered here and not by the broker: the pattern filter is young, and an unknown state is an error to older ones.
		for _, s := range resp.TransactionStates {
			id, ours := ParseTransactionalID(s.TransactionalID)
			if !ours || id.App != app || !isOpen(s.TransactionState) || seen[s.TransactionalID] {
				continue
			}
			seen[s.TransactionalID] = true
			open = append(open, OpenTxn{ID: id, ProducerID: s.ProducerID, State: s.TransactionState})
		}
	}
	return open, nil
}

func isOpen(state string) bool {
	for _, s := range openStates {
		if s == state {
			return true
		}
	}
	return false
}

// Fence initialises a transactional id by hand: what its holder has open is aborted, unless it is being committed already,
// then the commit is completed. When Fence returns nil that is over, markers included, and no request of the old holder is
// accepted any more. It tries again until ctx is done; CONCURRENT_TRANSACTIONS, the answer while the old transaction is
// being ended, every 5 ms. timeout is the transaction timeout to name; the next holder names its own. Fencing twice, or an id
// that never was, is harmless.
//
// kgo's Client.ProducerID is no fence: it returns the pair it holds.
func Fence(ctx context.Context, cl *kgo.Client, txnID string, timeout time.Duration) error {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &txnID
	req.TransactionTimeoutMillis = int32(timeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = -1, -1
	busy := backoff{min: 5 * time.Millisecond, max: 5 * time.Millisecond}
	pause := backoff{min: 10 * time.Millisecond, max: 500 * time.Millisecond}
	var said error // the last thing a broker said
	for {
		resp, err := req.RequestWith(ctx, cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
			said = err
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil && said != nil {
			err = said // that we gave up is known; what we waited for is not
		}
		e := newError(txnID, "", PhaseInit, Classify(PhaseInit, err), err)
		wait := &pause
		switch {
		case errors.Is(err, kerr.ConcurrentTransactions):
			wait = &busy
		case errors.Is(err, kerr.InvalidTransactionTimeout) && req.TransactionTimeoutMillis > fenceTimeoutMillis:
			// The fencer begins no transaction; any timeout the broker takes will do.
			req.TransactionTimeoutMillis = fenceTimeoutMillis
			continue
		case e.Action == ActFatal:
			return e
		}
		if wait.wait(ctx) != nil {
			return e
		}
	}
}

const (
	fenceTimeoutMillis = 1000
	fenceParallel      = 8
)

// Fenced is one id that a pass has fenced.
type Fenced struct {
	ID   TransactionalID
	Open bool // it had an open transaction, as opposed to being the other id of such a pair
	Took time.Duration
}

// FencePass fences the application's open transactions whose instance is not live, both ids of each worker. live must not
// claim less than the truth: call it with the members of the current generation, after a heartbeat of that generation
// succeeded. Every listed id was fenced when err is nil; otherwise the result has those that were.
func FencePass(ctx context.Context, cl *kgo.Client, app string, live func(instance string) bool) ([]Fenced, error) {
	open, err := ListOpen(ctx, cl, app)
	if err != nil {
		return nil, err
	}
	had := make(map[TransactionalID]bool)
	for _, o := range open {
		if live(o.ID.Instance) {
			continue
		}
		had[o.ID] = true
		if pair := o.ID.Pair(); !had[pair] {
			had[pair] = false
		}
	}
	todo := make([]Fenced, 0, len(had))
	for id, was := range had {
		todo = append(todo, Fenced{ID: id, Open: was})
	}
	errs := make([]error, len(todo))
	var group errgroup.Group
	group.SetLimit(fenceParallel)
	for i := range todo {
		group.Go(func() error {
			start := time.Now()
			errs[i] = Fence(ctx, cl, todo[i].ID.String(), defaultTimeout)
			todo[i].Took = time.Since(start)
			return nil
		})
	}
	_ = group.Wait() // the goroutines keep their errors by id
	var done []Fenced
	for i, f := range todo {
		if errs[i] == nil {
			done = append(done, f)
		}
	}
	return done, errors.Join(errs...)
}
