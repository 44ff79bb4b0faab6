package txn

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is a wait that doubles from min to max, jittered by a half so that many waiters do not ask in step.
type backoff struct {
	min, max time.Duration
	next     time.Duration
}

// wait sleeps, or returns ctx's error as soon as ctx is done.
func (b *backoff) wait(ctx context.Context) error {
	if b.next < b.min {
		b.next = b.min
	}
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, b.max)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// soon is the client's wait before it sends a request again: 5 ms, then twice as long each time, to 2 s. An epoch's offsets and
// the first records of a partition both have the coordinator of its transaction add something to it, at the same moment; one
// of the two is told COORDINATOR_LOAD_IN_PROGRESS or NOT_AVAILABLE by a broker that means CONCURRENT_TRANSACTIONS, and is
// welcome a millisecond later. With the client's default of 250 ms one commit in ten took 280 ms instead of 6.
func soon(tries int) time.Duration {
	d := min(5*time.Millisecond<<min(max(tries-1, 0), 9), 2*time.Second)
	return d/2 + rand.N(d/2+1)
}

// outlive returns a context that goes on for grace after ctx is done, and in all for at most bound: for what must be finished
// even while a program stops.
func outlive(ctx context.Context, bound, grace time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-out.Done():
		}
	})
	return out, func() { stop(); cancel() }
}
