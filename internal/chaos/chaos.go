// Package chaos is where tests reach into a real process: named points at which it may kill itself, and seeded bugs
// that our own verifier must catch. Without the build tag "chaos" every call is an empty function the compiler removes.
package chaos

// Point names an instant of an epoch's life, in order. A chaos build kills its own process with SIGKILL at the n-th
// passing of the point that MILLRACE_CRASH_AT names ("after-flush:3").
type Point string

// The points, in the order an epoch passes them.
const (
	AfterPoll    Point = "after-poll"
	MidProcess   Point = "mid-process"
	AfterFlush   Point = "after-flush"
	AfterOffsets Point = "after-offsets"
	AfterEndTxn  Point = "after-endtxn" // EndTxn was sent; its answer has not been looked at
	BeforeApply  Point = "before-apply"
	MidApply     Point = "mid-apply"
)

// Points lists every point, for tests that visit them all.
var Points = []Point{AfterPoll, MidProcess, AfterFlush, AfterOffsets, AfterEndTxn, BeforeApply, MidApply}

// Bug names a mistake that others have made. A chaos build makes it when MILLRACE_BUG names it.
type Bug string

// The seeded bugs.
const (
	CommitDespiteFailedProduce Bug = "commit-despite-failed-produce"
	RestoreEndBeforeFetch      Bug = "restore-end-before-fetch"
	ApplyBeforeCommit          Bug = "apply-before-commit"
	SkipDiscard                Bug = "skip-discard"
	RewindToLocalOffsets       Bug = "rewind-to-local-offsets"
	OffsetsForLostTask         Bug = "offsets-for-lost-task"
)

// Bugs lists every seeded bug.
var Bugs = []Bug{CommitDespiteFailedProduce, RestoreEndBeforeFetch, ApplyBeforeCommit, SkipDiscard, RewindToLocalOffsets, OffsetsForLostTask}
