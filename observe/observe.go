// Package observe is what a program can watch: moments, as functions it may set, and figures, as plain structs. A leaf.
// Functions are called on the goroutine where the moment happens: they must be quick and must not call back into millrace.
package observe

import "time"

// Hooks is a set of functions; nil ones are not called. An application may have several sets.
type Hooks struct {
	State     func(StateChange)
	Task      func(TaskChange)
	Restore   func(RestoreProgress)
	Rebalance func(Rebalance)
	Commit    func(Commit)
	Abort     func(Abort)
	Record    func(RecordError)
	Slow      func(SlowHandler)
	Resolved  func(Resolved)
	Fenced    func(Fenced)

	// Stats is called every StatsInterval (10 s unless the application was told otherwise) while the application runs, and once when it
	// has ended, with all figures. It runs on a goroutine of its own: it may take its time, and calls never overlap.
	Stats func(Snapshot)
}

// StateChange is a change of the application's state: "created", "starting", "running", "rebalancing", "closing", "closed", "failed".
type StateChange struct {
	App, Instance string
	From, To      string
	Err           error
	At            time.Time
}

// TaskChange is a change of a task's state: "waiting", "restoring", "running", "leaving", "closed", "failed".
type TaskChange struct {
	Task     string
	From, To string
	Err      error
	At       time.Time
}

// RestoreProgress is how far a store's restore is. Remaining counts offsets, which compaction makes an upper bound of records.
type RestoreProgress struct {
	Task     string        `json:"task"`
	Store    string        `json:"store"`
	Records  int64         `json:"records"`
	Bytes    int64         `json:"bytes"`
	Position int64         `json:"position"`
	End      int64         `json:"end"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	Done     bool          `json:"done"`
	Rebuild  bool          `json:"rebuild"` // from the start of the changelog, because the local copy could not be trusted
}

// Remaining is the number of offsets still to be read.
func (p RestoreProgress) Remaining() int64 { return max(0, p.End-p.Position) }

// Rebalance is one finished rebalance as this member saw it.
type Rebalance struct {
	Generation int32
	Assigned   []string
	Revoked    []string
	Lost       []string
	Took       time.Duration
}

// Commit is one committed epoch of a worker.
type Commit struct {
	Worker        int
	Tasks         int
	Records       int64
	Outputs       int64
	ChangelogRows int64
	Bytes         int64
	Open          time.Duration // from begin to commit decision
	Took          time.Duration // from seal to the answer
	Stood         time.Duration // of it, and to apply it, how long no record was stepped although there may have been some
	// Reason is one of "interval", "half-timeout", "records", "bytes", "retained", "refused record", "failed record", and, when a task has to go,
	// "revoked", "lost", "closing", "membership broken", "membership over".
	Reason string
}

// Abort is one aborted epoch of a worker.
type Abort struct {
	Worker int
	Reason error
	// Kind is Reason as one of a few words: "refused record", "failed row", "not owned", "released", "fenced", "foreign commit", "fatal", "lost", "database",
	// "closing", "timeout", "broker", "other".
	Kind        string
	Consecutive int
	Backoff     time.Duration
}

// RecordError is a record that went to its policy.
type RecordError struct {
	Task      string
	Topic     string
	Partition int32
	Offset    int64
	Node      string
	Op        string
	Policy    string
	Err       error
}

// SlowHandler is a call of user code that is taking long: the stack says where. It is reported once per call, by the
// watchdog, while the call goes on.
type SlowHandler struct {
	Task  string
	For   time.Duration
	Stack string
}

// Resolved is a commit whose outcome was unknown and is now known.
type Resolved struct {
	CommitID  string
	Committed bool
	Took      time.Duration
}

// Fenced is a fencing of a dead instance's transactional ids by this one.
type Fenced struct {
	TransactionalID string
	Took            time.Duration
}
