package observe

import "time"

// Snapshot is what one instance has done and holds, at one moment. It is the caller's: nothing in it changes afterwards.
//
// What belongs together is from one moment: the figures of a task are those of its last committed epoch, all of them; and all
// tasks of an epoch, and the worker that committed it, are shown with it or without it. So the sum of Records over
// Subtopologies is the sum over Workers, in every Snapshot. Figures that say so (bytes in use, sizes on disk) are of the
// moment they were looked at.
//
// Counters count what was committed since the process made the App. What was aborted and processed again counts once. They
// never go down, also when a task leaves and comes back.
type Snapshot struct {
	At        time.Time `json:"at"`
	App       string    `json:"app"`
	Instance  string    `json:"instance"` // "" until the state directory is open
	Cluster   string    `json:"cluster"`  // "" until a broker has answered
	State     string    `json:"state"`    // as in StateChange
	Guarantee string    `json:"guarantee"`
	Since     time.Time `json:"since"` // when Run began; zero before

	Generation    int32         `json:"generation"` // of the consumer group; -1 while it is no member
	Rebalances    int64         `json:"rebalances"`
	Fenced        int64         `json:"fenced"`        // transactional ids of others, or of an earlier life, that were fenced
	SlowHandlers  int64         `json:"slow_handlers"` // calls of user code that the watchdog reported
	Resolved      []Count       `json:"resolved"`      // commits of unknown outcome, by what became of them: "committed", "aborted"
	Memory        Memory        `json:"memory"`
	LastError     *LastError    `json:"last_error,omitempty"`
	Workers       []Worker      `json:"workers"`
	Subtopologies []Subtopology `json:"subtopologies"` // all of the topology's, by name
	Tasks         []Task        `json:"tasks"`         // assigned to this instance now, by name
	Clients       []Client      `json:"clients"`       // the Kafka clients, by role
}

// Count is a number by a name of a small, fixed set.
type Count struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

// LastError is the last thing that went wrong, whether the application got over it or not.
type LastError struct {
	At    time.Time `json:"at"`
	What  string    `json:"what"`           // "application", "task", "record", "epoch"
	Task  string    `json:"task,omitempty"` // where there is one
	Error string    `json:"error"`
}

// Memory is how the memory limit is used, in bytes, at the moment of the Snapshot. Block cache and memtables are reserved for as
// long as the application runs.
type Memory struct {
	Limit   int64 `json:"limit"`
	Tables  int64 `json:"tables"`  // committed rows in memory, and what finds them
	Overlay int64 `json:"overlay"` // state and outputs of epochs that are not committed
	Records int64 `json:"records"` // fetched records, waiting or kept for replay
	Blocks  int64 `json:"blocks"`  // block cache, memtables included
}

// Used is the sum of the parts.
func (m Memory) Used() int64 { return m.Tables + m.Overlay + m.Records + m.Blocks }

// Worker is what one worker has committed and aborted.
type Worker struct {
	ID            int           `json:"id"`
	Tasks         int           `json:"tasks"`   // it has now
	Records       int64         `json:"records"` // of the epochs committed
	Outputs       int64         `json:"outputs"`
	ChangelogRows int64         `json:"changelog_rows"`
	Commits       []Count       `json:"commits"`        // by reason: that of Commit
	Aborts        []Count       `json:"aborts"`         // by kind: that of Abort
	Stood         time.Duration `json:"stood_ns"`       // how long nothing could be stepped because of commits
	Epochs        Histogram     `json:"epoch_seconds"`  // from an epoch's first record to the answer
	CommitTime    Histogram     `json:"commit_seconds"` // from the decision to commit to the answer
	EpochRecords  Histogram     `json:"epoch_records"`
}

// Committed is the number of epochs.
func (w *Worker) Committed() int64 { return sum(w.Commits) }

// Aborted is the number of aborts.
func (w *Worker) Aborted() int64 { return sum(w.Aborts) }

func sum(counts []Count) (n int64) {
	for _, c := range counts {
		n += c.Count
	}
	return n
}

// Histogram counts values by size: Counts[i] values were at most Bounds[i], and more than the bound before; the last of
// Counts, which has one more, those above all bounds.
type Histogram struct {
	Bounds []float64 `json:"bounds"`
	Counts []int64   `json:"counts"`
	Sum    float64   `json:"sum"`
}

// Count is the number of values.
func (h *Histogram) Count() (n int64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Counters are what a task, or all of a subtopology, committed.
type Counters struct {
	Records     int64  `json:"records"` // input records processed, those skipped and dead-lettered included
	Outputs     int64  `json:"outputs"` // records written to sinks and dead letter topics
	Skipped     int64  `json:"skipped"`
	DeadLetters int64  `json:"dead_letters"`
	Retries     int64  `json:"retries"` // failures after which a record or timer was, or will be, tried again
	Late        int64  `json:"late"`    // records that came later than their operator allows; they are in Drops too, if they were left out
	TimersFired int64  `json:"timers_fired"`
	Drops       []Drop `json:"drops"`        // records that operators left out on purpose, by node and reason
	CacheHits   int64  `json:"cache_hits"`   // reads of state that the row table answered
	CacheMisses int64  `json:"cache_misses"` // and that the engine had to
	WriteBacks  int64  `json:"write_backs"`  // batches written to the engine
}

// Drop is how many records one operator left out, and why.
type Drop struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// Subtopology is what the tasks of one subtopology did on this instance, those that have left it included.
type Subtopology struct {
	Name  string `json:"name"`
	Tasks int    `json:"tasks"` // of the topology, on all instances; 0 until the topics are known
	Counters
	Stores []Store `json:"stores"` // counters as above; rows and bytes are sums over the tasks that are here now
}

// Task is one task of this instance.
type Task struct {
	Task        string `json:"task"` // as it prints: "counts/3"
	Subtopology string `json:"subtopology"`
	Partition   int32  `json:"partition"`
	State       string `json:"state"`  // as in TaskChange
	Worker      int    `json:"worker"` // -1: not placed yet
	Parked      bool   `json:"parked"` // a record of it is being retried: its inputs wait
	Error       string `json:"error,omitempty"`
	Counters

	// Clock is the task's event time clock, in milliseconds since 1970; -1 before any record. ClockLag is how far it was behind the
	// wall clock at the moment of the Snapshot, in milliseconds; it is 0 where there is no clock.
	Clock    int64 `json:"clock_ms"`
	ClockLag int64 `json:"clock_lag_ms"`

	TimersPending int64   `json:"timers_pending"` // an estimate, as Rows of the timer sets, which are among Stores
	TableRows     int64   `json:"table_rows"`     // in memory
	TableBytes    int64   `json:"table_bytes"`    // and what they need
	DirtyBytes    int64   `json:"dirty_bytes"`    // of them, committed and not yet written back
	OverlayBytes  int64   `json:"overlay_bytes"`  // uncommitted; looked at ten times a second
	RecordBytes   int64   `json:"record_bytes"`   // fetched records, waiting or kept for replay
	DiskBytes     int64   `json:"disk_bytes"`     // of the task's database, its log and overhead included; 0 in memory
	Tail          int64   `json:"tail"`           // rows that a crash now would have a restore read again
	Inputs        []Input `json:"inputs"`
	Stores        []Store `json:"stores"`
}

// Lag is the number of offsets that the task is behind in the inputs of which the end is known; ok is false if it is known of
// none.
func (t *Task) Lag() (lag int64, ok bool) {
	for i := range t.Inputs {
		if n := t.Inputs[i].Lag(); n >= 0 {
			lag, ok = lag+n, true
		}
	}
	return lag, ok
}

// Restored reports how far the restore of the task's stores is, in offsets; total is 0 where nothing was to be read.
func (t *Task) Restored() (remaining, total int64) {
	for i := range t.Stores {
		if r := t.Stores[i].Restore; r != nil {
			remaining += r.Remaining()
			total += r.Remaining() + r.Records
		}
	}
	return remaining, total
}

// Input is one partition that a task reads.
type Input struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Position  int64  `json:"position"` // offset of the next record to be processed, as committed; -1: not known yet
	End       int64  `json:"end"`      // offset after the last readable record, as last heard; -1: not known yet
	Paused    bool   `json:"paused"`   // because the task holds enough of it
}

// Lag is the number of offsets between the two, -1 if it is not known. Markers of transactions count.
func (i *Input) Lag() int64 {
	if i.Position < 0 || i.End < 0 {
		return -1
	}
	return max(0, i.End-i.Position)
}

// Store is one store of a task, or of all tasks of a subtopology that are here.
type Store struct {
	Name             string `json:"name"`
	Rows             int64  `json:"rows"`              // committed; an estimate; -1: not known yet
	DiskBytes        int64  `json:"disk_bytes"`        // an estimate of tables on disk; what is still in memory or in the log is not counted
	ChangelogRecords int64  `json:"changelog_records"` // committed
	ChangelogBytes   int64  `json:"changelog_bytes"`   // keys and values of them, before compression
	Expired          int64  `json:"expired"`           // rows removed because their time to live was over; also in epochs that were aborted, and by restores
	RestoredRecords  int64  `json:"restored_records"`  // by all restores
	RestoredBytes    int64  `json:"restored_bytes"`
	RestoreRemaining int64  `json:"restore_remaining"` // offsets that restores under way have still to read

	Restore *RestoreProgress `json:"restore,omitempty"` // the present or last one of this task; nil for a subtopology, or if there was none
}

// Client is what the Kafka clients of one role did: "admin", "group", "restore", or "producer" for those of all workers.
type Client struct {
	Role            string        `json:"role"`
	Connects        int64         `json:"connects"`
	ConnectErrors   int64         `json:"connect_errors"`
	Disconnects     int64         `json:"disconnects"`
	Requests        int64         `json:"requests"`
	RequestErrors   int64         `json:"request_errors"` // written or read with an error
	WrittenBytes    int64         `json:"written_bytes"`
	ReadBytes       int64         `json:"read_bytes"`
	Latency         Histogram     `json:"request_seconds"` // from the start of a request's write to the end of its answer
	Throttled       time.Duration `json:"throttled_ns"`
	ProducedRecords int64         `json:"produced_records"`
	ProducedBatches int64         `json:"produced_batches"`
	ProducedBytes   int64         `json:"produced_bytes"` // as sent: compressed
	FetchedRecords  int64         `json:"fetched_records"`
	FetchedBatches  int64         `json:"fetched_batches"`
	FetchedBytes    int64         `json:"fetched_bytes"`
}
