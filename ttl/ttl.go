// Package ttl says when an entry of a store is dead: policies, and the arithmetic of expiry. A policy is given to a store's
// declaration with store.WithTTL.
package ttl

import (
	"math"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
)

// Policy is a time to live: how long, counted from what, by which clock, and how what is dead goes away. The zero value is
// Disabled. A Policy is a value: each method returns a changed copy.
//
//	ttl.AfterWrite(24*time.Hour)
//	ttl.AfterAccess(30*time.Minute).RefreshEvery(time.Minute).EventTime()
//
// Each value, list element, map entry and accumulator has its own time. An entry is dead from the millisecond on in which its
// time to live is over: of 100 ms counted from 0, 99 is alive and 100 is dead.
type Policy struct {
	life    time.Duration
	set     bool
	reads   bool
	once    bool
	event   bool
	keep    bool
	cleanup Cleanup
	refresh time.Duration
	width   time.Duration
	rows    int
}

// Cleanup is how dead entries that nobody reads go away.
type Cleanup uint8

const (
	Incremental Cleanup = iota // a walk over the store, some rows at a time
	Buckets                    // an index of what dies when
	Off                        // not at all
)

// sweepRowsDefault is what a task looks at for each record: with it the walk is around a store of a million rows after a
// hundred thousand records.
const sweepRowsDefault = 10

// AfterWrite is a time to live that is counted from the last write. An entry that is only read dies. Durations count in whole
// milliseconds, rounded up.
func AfterWrite(d time.Duration) Policy { return Policy{life: d, set: true, rows: sweepRowsDefault} }

// AfterAccess is a time to live that is counted from the last write or read; to look whether an entry is there, or to
// iterate over it, is a read. Every read becomes a write to the changelog unless RefreshEvery makes that rarer.
func AfterAccess(d time.Duration) Policy {
	p := AfterWrite(d)
	p.reads = true
	return p
}

// Disabled is no time to live, the same as none given. Rows keep the times they have, so it can be switched on again.
func Disabled() Policy { return Policy{} }

// RefreshEvery lets reads count only when the last one that did is further back than d: an entry may die up to d earlier than
// its last read would have it, and the changelog is spared. By default every read counts. It is for AfterAccess.
func (p Policy) RefreshEvery(d time.Duration) Policy {
	p.refresh = d
	return p
}

// ReturnExpiredIfNotCleanedUp lets the first read of a dead entry that is still there return it; that read removes it. By default
// a dead entry is never returned.
func (p Policy) ReturnExpiredIfNotCleanedUp() Policy {
	p.once = true
	return p
}

// EventTime counts by event time: from the event time of the record that wrote the entry, against the task's event-time clock. The
// same input gives the same result then, whenever it is processed. Before the clock has a value nothing dies. The
// default is processing time.
func (p Policy) EventTime() Policy {
	p.event = true
	return p
}

// KeepOnRestore does not drop dead entries when state is restored from the changelog. By default they are.
func (p Policy) KeepOnRestore() Policy {
	p.keep = true
	return p
}

// Sweep cleans up by a walk over the store that looks at n rows for each record processed, and at more while the task has nothing
// else to do. It rests while nothing can have died. It is the default, with n = 10.
func (p Policy) Sweep(n int) Policy {
	p.cleanup, p.rows = Incremental, n
	return p
}

// Buckets cleans up by an index on the local disk, in which the keys of entries that die within the same width are together. It costs one
// more local row for each entry, written when its bucket changes, and looks at nothing that is alive: for large stores of which
// little dies. Entries are removed up to width after they died.
func (p Policy) Buckets(width time.Duration) Policy {
	p.cleanup, p.width = Buckets, width
	return p
}

// NoCleanup leaves dead entries where they are until they are read or state is restored: the store and its changelog keep them.
func (p Policy) NoCleanup() Policy {
	p.cleanup = Off
	return p
}

// Enabled reports whether there is a time to live.
func (p Policy) Enabled() bool { return p.set }

// Life is the time to live in milliseconds.
func (p Policy) Life() int64 { return millis(p.life) }

// OnRead reports whether reads count.
func (p Policy) OnRead() bool { return p.reads }

// Once reports whether a dead entry is returned once.
func (p Policy) Once() bool { return p.once }

// ByEventTime reports whether event time counts.
func (p Policy) ByEventTime() bool { return p.event }

// Kept reports whether a restore keeps dead entries.
func (p Policy) Kept() bool { return p.keep }

// Refresh is how old, in milliseconds, the last read that counted has to be for another one to count.
func (p Policy) Refresh() int64 { return millis(p.refresh) }

// Cleanup is how dead entries go away.
func (p Policy) Cleanup() Cleanup { return p.cleanup }

// SweepRows is how many rows the walk looks at for each record.
func (p Policy) SweepRows() int { return p.rows }

// Width is that of a bucket in milliseconds.
func (p Policy) Width() int64 { return millis(p.width) }

// millis rounds up.
func millis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > 0 && d%time.Millisecond != 0 {
		ms++
	}
	return ms
}

// Validate returns what is wrong with the policy, or nil.
func (p Policy) Validate() error {
	if !p.set {
		return nil
	}
	wrong := func(thing, value, reason, remedy string) error {
		return &fault.Error{Code: "store/ttl", Kind: fault.Config, Thing: thing, Value: value, Reason: reason, Remedy: remedy}
	}
	switch {
	case p.life <= 0:
		return wrong("time to live", p.life.String(), "it has to be positive", "give a duration, or use ttl.Disabled for none")
	case p.refresh < 0:
		return wrong("RefreshEvery", p.refresh.String(), "it is negative", "leave it out to let every read count")
	case p.refresh > 0 && !p.reads:
		return wrong("RefreshEvery", p.refresh.String(), "reads do not count with ttl.AfterWrite", "use ttl.AfterAccess, or leave it out")
	case p.refresh >= p.life:
		return wrong("RefreshEvery", p.refresh.String(), "it is not below the time to live of "+p.life.String()+": no read would count",
			"a tenth of the time to live is a good value")
	case p.cleanup == Buckets && p.width <= 0:
		return wrong("bucket width", p.width.String(), "it has to be positive", "a tenth of the time to live is a good value")
	case p.cleanup == Incremental && p.rows <= 0:
		return wrong("rows to sweep for each record", "", "there has to be at least one", "use NoCleanup to leave dead entries")
	}
	return nil
}

// Deadline is when an entry of time ts dies. It is math.MaxInt64 where the sum would be beyond.
func Deadline(ts, life int64) int64 {
	if ts > 0 && life > math.MaxInt64-ts {
		return math.MaxInt64
	}
	return ts + life
}

// Expired reports whether an entry of time ts is dead at now: from ts + life on.
func Expired(ts, life, now int64) bool { return Deadline(ts, life) <= now }

// Bucket is the end of the bucket that a deadline is in: the least multiple of width that is not before it, or
// math.MaxInt64. All entries of a bucket are dead at its end.
func Bucket(deadline, width int64) int64 {
	over := deadline % width
	if over == 0 {
		return deadline
	}
	if over < 0 { // Go rounds towards zero, which is up here
		return deadline - over
	}
	if deadline > math.MaxInt64-(width-over) {
		return math.MaxInt64
	}
	return deadline + (width - over)
}
