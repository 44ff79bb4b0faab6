package processor

import (
	"context"
	"time"

	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
)

// Processor handles the records of one task, one at a time, on one goroutine. The state writes and the forwards of one
// call take effect together or, if it returns an error or panics, not at all; what happens to the record then is the
// node's Policy. One instance is made per task, so fields need no locks; millrace.New makes some more to look at them.
type Processor[KIn, VIn, KOut, VOut any] interface {
	Process(ctx Context[KOut, VOut], r Record[KIn, VIn]) error
}

// Func is a Processor without state of its own.
type Func[KIn, VIn, KOut, VOut any] func(ctx Context[KOut, VOut], r Record[KIn, VIn]) error

// Process calls f.
func (f Func[KIn, VIn, KOut, VOut]) Process(ctx Context[KOut, VOut], r Record[KIn, VIn]) error {
	return f(ctx, r)
}

// Initer is implemented by processors that open stores or prepare something before the first record. millrace.New runs
// Init once against a dry context to find stores that were not attached: Init must not have effects elsewhere.
type Initer interface {
	Init(ctx InitContext) error
}

// TimerHandler is implemented by processors that have timers (package timers) among what is attached to them; their keys are of
// the type of the input's. OnTimer is called when a clock has reached a timer's time, one timer at a time and never while
// Process runs: in the order of time, then of the set's name, of the key and of the namespace. What it does, its forwards, and
// the end of the timer take effect together or not at all; if it returns an error or panics, the node's Policy decides what
// becomes of the timer. A record it forwards without a time gets the timer's, in processing time the task's Now.
type TimerHandler[K, KOut, VOut any] interface {
	OnTimer(ctx Context[KOut, VOut], f timers.Fired[K]) error
}

// Closer is implemented by processors that hold something to give back when the task leaves this instance. The dry run of
// millrace.New calls it too, after Init, with empty stores.
type Closer interface {
	Close() error
}

// Prefetcher is implemented by processors that know from a record's key alone which rows Process will read. While the
// task's state is larger than its memory, the rows of many records are then read at once, which costs a fraction of as
// many single reads:
//
//	func (p *counter) Prefetch(w *store.Wanted, key string) { p.counts.Want(w, key) }
//
// It is called after Init, for records that may yet be processed, any number of times and in any order, and only where the key
// comes from the source unchanged. It must do nothing but call Want: it must not read or write stores, keep the key or w,
// or count on being called. What it leaves out, or names in vain, changes no result.
type Prefetcher[K any] interface {
	Prefetch(w *store.Wanted, key K)
}

// InitContext is what Init may ask for. It hands out stores to spec.In.
type InitContext interface {
	store.Source
	TaskID() TaskID
	// Restored reports whether the task has committed anything before, here or elsewhere: false is the very first start.
	Restored() bool
}

// Context is what Process may ask for. As a context.Context it is cancelled when the instance gives up waiting for the
// handler (hard stop); pass it to I/O. It is valid only during the call.
type Context[K, V any] interface {
	context.Context
	InitContext

	// Forward hands r to every child. A zero Time means the time of the record being processed; a record with a time
	// before 1970 is refused. It returns the first error of a child; return that error from Process. The record being
	// processed fails in any case, also if the error is kept: half of its effects never stay.
	Forward(r Record[K, V]) error

	// StreamTime is the task's event-time clock. Unless the sources have a clock strategy of their own it is the greatest
	// event time the task has processed, this record included; with a strategy it is the watermark: no record at or before it
	// is expected any more. Before the first record it is the zero time. It never goes back, also over restarts.
	StreamTime() time.Time

	// Now is the processing time: the wall clock as the task sees it, never going back, also over restarts.
	Now() time.Time

	// Origin is where the record being processed came from.
	Origin() Origin
}
