package runtime

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/store"
)

// budget is how one MemoryLimit is shared out. Roughly: three quarters for state (blocks, memtables, row tables, overlays),
// an eighth for records waiting or retained for replay, the rest for what is on its way to and from the brokers.
type budget struct {
	overlay  int64 // uncommitted state and outputs of one worker: full = commit early
	retained int64 // fetched records of one worker: full = pause; half of it processed and not committed = commit early
	tasks    int   // tasks this instance may have to run, at least 1
	spare    int64 // lists of fetched records that wait to be used again
	fetch    int64 // kgo's fetch buffer per broker
	part     int64 // of one partition in it: with many partitions each brings a little, so that few have to be paused
	produce  int64 // kgo's produce buffer per producer

	producers int // of one worker, each with an epoch that is not committed
}

func newBudget(limit int64, shared *store.Shared, workers, tasks int, pipelining bool) budget {
	b := budget{tasks: max(1, tasks), producers: 1}
	if pipelining {
		b.producers = 2
	}
	b.retained = limit / 8 / int64(workers)
	b.spare = limit / 16
	b.overlay = max(1<<20, shared.OverlayBytes()/int64(workers))
	b.fetch = min(50<<20, max(1<<20, limit/16))
	b.part = min(1<<20, b.fetch, max(partMin, limit/8/int64(b.tasks)/2))
	b.produce = min(256<<20, max(4<<20, limit/8/int64(workers*b.producers)))
	return b
}

// early is how much of a bound one epoch may use, so that the next one can be filled while it is committed.
func (b *budget) early(bound int64) int64 { return bound / int64(b.producers) }

// partMin is the least of a partition that is fetched at a time, and that a task may hold: a few batches of records.
const partMin = 128 << 10

// full reports whether a task that holds so many bytes of records is to be paused, beside others of its worker, n in all, with
// which it holds all. A task may have the room that the others do not use: keys are seldom spread evenly, and the busiest
// partition would otherwise come in small portions while nobody else has any.
func (b *budget) full(bytes, all int64, n int) bool {
	return bytes > b.share(n) && (all > b.retained/2 || bytes > b.retained/2)
}

// room reports whether a paused task holds little enough again.
func (b *budget) room(bytes, all int64, n int) bool {
	return bytes < b.share(n)/2 || all < b.retained/4
}

func (b *budget) share(n int) int64 { return max(2*partMin, b.retained/int64(max(1, n))) }

var heapLimited atomic.Bool // by a Runtime of this process

// heapLimitEvery is how often the collector is told how large the tables are now.
const heapLimitEvery = time.Second

// heapShareMin is what the heap gets of the memory limit however large the row tables are.
const heapShareMin = 4 // the inverse

// heapSlack is what the heap may have beyond the limit, the inverse. What is in use stays within the limit, by the shares; a
// collector that has no room beside it runs without end: counting 10 million keys in 512 MiB it took a third of the CPU.
const heapSlack = 8

// limitHeap tells Go's collector what the row tables, which are not in its heap, leave of the memory limit; unless the user has
// told it something already. The tables grow as they are filled: to keep their whole share from the heap from the start
// would have the collector run all the time beside memory that nobody uses.
func (r *Runtime) limitHeap() {
	if !r.limitsHeap {
		return
	}
	limit := r.cfg.MemoryLimit + r.cfg.MemoryLimit/heapSlack
	debug.SetMemoryLimit(max(limit-store.OffHeapBytes(), r.cfg.MemoryLimit/heapShareMin))
}

// limitHeapAsTablesGrow follows the size of the row tables.
func (r *Runtime) limitHeapAsTablesGrow(ctx context.Context) {
	every(ctx, heapLimitEvery, nil, func(context.Context) { r.limitHeap() })
}
