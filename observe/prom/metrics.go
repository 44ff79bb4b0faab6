package prom

import (
	"slices"

	"github.com/millrace-io/millrace/observe"
)

// Metric is one family of metrics as the Collector exports it. docs/metrics.md has a row for each.
type Metric struct {
	Name   string
	Type   string   // "counter", "gauge" or "histogram"
	Labels []string // beside "app", and "task" where series are per task
	Unit   string   // "" for a number of things
	Help   string
}

// scope is what a family is about: it says which loop exports it and whether it can be split by task.
type scope uint8

const (
	ofApp scope = iota
	ofTask
	ofStore
	ofClient
)

// family is a Metric and where its values come from.
type family struct {
	Metric
	scope scope
	// One of these, by scope and type.
	app      func(*observe.Snapshot, emit)
	task     func(*unit, emit)
	store    func(*observe.Store, emit)
	kafka    func(*observe.Client, emit)
	epochs   func(*observe.Worker) *observe.Histogram
	requests func(*observe.Client) *observe.Histogram
}

// emit gives one value, with the labels that the scope does not give.
type emit func(value float64, labels ...string)

// unit is what figures are exported for: a subtopology with all its tasks here, or one task.
type unit struct {
	subtopology, task string
	counters          *observe.Counters
	stores            []observe.Store
	tasks             []*observe.Task // that are here now
}

const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

var (
	appStates  = []string{"created", "starting", "rebalancing", "running", "closing", "closed", "failed"}
	taskStates = []string{"waiting", "restoring", "running", "failed"}
)

func app(name, kind, unit, help string, labels []string, f func(*observe.Snapshot, emit)) family {
	return family{Metric: Metric{"millrace_" + name, kind, labels, unit, help}, scope: ofApp, app: f}
}

func ofTasks(name, kind, unit, help string, labels []string, f func(*unit, emit)) family {
	return family{Metric: Metric{"millrace_" + name, kind, append([]string{"subtopology"}, labels...), unit, help}, scope: ofTask, task: f}
}

func ofStores(name, kind, unit, help string, f func(*observe.Store, emit)) family {
	return family{Metric: Metric{"millrace_" + name, kind, []string{"subtopology", "store"}, unit, help}, scope: ofStore, store: f}
}

func ofEpochs(name, unit, help string, f func(*observe.Worker) *observe.Histogram) family {
	return family{Metric: Metric{"millrace_" + name, histogram, nil, unit, help}, scope: ofApp, epochs: f}
}

func kafka(name, kind, unit, help string, f func(*observe.Client, emit)) family {
	return family{Metric: Metric{"millrace_kafka_" + name, kind, []string{"client"}, unit, help}, scope: ofClient, kafka: f}
}

// number exports one figure.
func number[T any, N int | int32 | int64 | float64](f func(T) N) func(T, emit) {
	return func(t T, e emit) { e(float64(f(t))) }
}

// total adds up one figure of the tasks of a unit that are here.
func total(f func(*observe.Task) int64) func(*unit, emit) {
	return number(func(u *unit) (n int64) {
		for _, t := range u.tasks {
			n += f(t)
		}
		return n
	})
}

func counts(of []observe.Count, e emit) {
	for _, c := range of {
		e(float64(c.Count), c.Name)
	}
}

// merged adds up counts of several workers.
func merged(workers []observe.Worker, f func(*observe.Worker) []observe.Count) (out []observe.Count) {
	for i := range workers {
		for _, c := range f(&workers[i]) {
			if at := slices.IndexFunc(out, func(o observe.Count) bool { return o.Name == c.Name }); at >= 0 {
				out[at].Count += c.Count
				continue
			}
			out = append(out, c)
		}
	}
	return out
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// families is everything that is exported, in the order of docs/metrics.md.
var families = []family{
	app("app_info", gauge, "", "1; the labels say who the instance is.", []string{"instance_name", "cluster", "guarantee"},
		func(s *observe.Snapshot, e emit) { e(1, s.Instance, s.Cluster, s.Guarantee) }),
	app("app_state", gauge, "", "1 for the state the application is in, 0 for the others.", []string{"state"}, func(s *observe.Snapshot, e emit) {
		for _, state := range appStates {
			e(one(state == s.State), state)
		}
	}),
	app("start_time_seconds", gauge, "seconds", "When Run began, since 1970; absent before.", nil, func(s *observe.Snapshot, e emit) {
		if !s.Since.IsZero() {
			e(float64(s.Since.UnixMilli()) / 1000)
		}
	}),
	app("memory_limit_bytes", gauge, "bytes", "The memory limit.", nil, number(func(s *observe.Snapshot) int64 { return s.Memory.Limit })),
	app("memory_bytes", gauge, "bytes", "What is used of it: tables, overlay, records, blocks (reserved).", []string{"part"}, func(s *observe.Snapshot, e emit) {
		e(float64(s.Memory.Tables), "tables")
		e(float64(s.Memory.Overlay), "overlay")
		e(float64(s.Memory.Records), "records")
		e(float64(s.Memory.Blocks), "blocks")
	}),
	app("workers", gauge, "", "Workers.", nil, number(func(s *observe.Snapshot) int { return len(s.Workers) })),
	app("group_generation", gauge, "", "Generation of the consumer group; -1 while the instance is no member.", nil,
		number(func(s *observe.Snapshot) int32 { return s.Generation })),
	app("rebalances_total", counter, "", "Rebalances this instance took part in.", nil, number(func(s *observe.Snapshot) int64 { return s.Rebalances })),
	app("fenced_total", counter, "", "Transactional ids that this instance fenced: of dead instances, and of its own earlier life.", nil,
		number(func(s *observe.Snapshot) int64 { return s.Fenced })),
	app("slow_handlers_total", counter, "", "Calls of user code that took longer than SlowHandler.", nil,
		number(func(s *observe.Snapshot) int64 { return s.SlowHandlers })),
	app("resolved_commits_total", counter, "", "Commits whose outcome was unknown, by what became of them.", []string{"outcome"},
		func(s *observe.Snapshot, e emit) { counts(s.Resolved, e) }),
	app("commits_total", counter, "", "Committed epochs, by why they ended.", []string{"reason"}, func(s *observe.Snapshot, e emit) {
		counts(merged(s.Workers, func(w *observe.Worker) []observe.Count { return w.Commits }), e)
	}),
	app("aborts_total", counter, "", "Aborted epochs, by why.", []string{"reason"}, func(s *observe.Snapshot, e emit) {
		counts(merged(s.Workers, func(w *observe.Worker) []observe.Count { return w.Aborts }), e)
	}),
	app("standstill_seconds_total", counter, "seconds", "How long workers could step no record because of commits.", nil, number(func(s *observe.Snapshot) (sum float64) {
		for i := range s.Workers {
			sum += s.Workers[i].Stood.Seconds()
		}
		return sum
	})),
	ofEpochs("epoch_duration_seconds", "seconds", "From the first record of an epoch to the answer to its commit.",
		func(w *observe.Worker) *observe.Histogram { return &w.Epochs }),
	ofEpochs("commit_duration_seconds", "seconds", "From the decision to commit to the answer.",
		func(w *observe.Worker) *observe.Histogram { return &w.CommitTime }),
	ofEpochs("epoch_records", "", "Input records of an epoch.", func(w *observe.Worker) *observe.Histogram { return &w.EpochRecords }),

	ofTasks("tasks", gauge, "", "Tasks on this instance, by state.", []string{"state"}, func(u *unit, e emit) {
		for _, state := range taskStates {
			n := 0
			for _, t := range u.tasks {
				if t.State == state {
					n++
				}
			}
			e(float64(n), state)
		}
	}),
	ofTasks("tasks_parked", gauge, "", "Tasks that wait to try a record again.", nil, total(func(t *observe.Task) int64 { return int64(one(t.Parked)) })),
	ofTasks("records_total", counter, "", "Input records processed, those skipped and dead-lettered included.", nil, number(func(u *unit) int64 { return u.counters.Records })),
	ofTasks("outputs_total", counter, "", "Records written to sinks and dead letter topics.", nil, number(func(u *unit) int64 { return u.counters.Outputs })),
	ofTasks("records_skipped_total", counter, "", "Records that failed and were skipped.", nil, number(func(u *unit) int64 { return u.counters.Skipped })),
	ofTasks("records_dead_lettered_total", counter, "", "Records that failed and went to a dead letter topic.", nil,
		number(func(u *unit) int64 { return u.counters.DeadLetters })),
	ofTasks("retries_total", counter, "", "Failures after which a record or timer was, or will be, tried again.", nil,
		number(func(u *unit) int64 { return u.counters.Retries })),
	ofTasks("records_late_total", counter, "", "Records that came later than their operator allows.", nil, number(func(u *unit) int64 { return u.counters.Late })),
	ofTasks("records_dropped_total", counter, "", "Records that an operator left out on purpose, by node and reason.", []string{"node", "reason"}, func(u *unit, e emit) {
		for _, d := range u.counters.Drops {
			e(float64(d.Count), d.Node, d.Reason)
		}
	}),
	ofTasks("lag_records", gauge, "", "Offsets between what is committed and what can be read, of the inputs where that is known; absent where it is of none.", nil, func(u *unit, e emit) {
		var sum int64
		known := false
		for _, t := range u.tasks {
			if n, ok := t.Lag(); ok {
				sum, known = sum+n, true
			}
		}
		if known {
			e(float64(sum))
		}
	}),
	ofTasks("inputs_paused", gauge, "", "Input partitions paused because their task holds enough of them.", nil, total(func(t *observe.Task) (n int64) {
		for i := range t.Inputs {
			n += int64(one(t.Inputs[i].Paused))
		}
		return n
	})),
	ofTasks("clock_seconds", gauge, "seconds", "The event time clock, since 1970: the one that is farthest behind; absent before any record.", nil, func(u *unit, e emit) {
		if t := hindmost(u); t != nil {
			e(float64(t.Clock) / 1000)
		}
	}),
	ofTasks("clock_lag_seconds", gauge, "seconds", "How far that clock is behind the wall clock.", nil, func(u *unit, e emit) {
		if t := hindmost(u); t != nil {
			e(float64(t.ClockLag) / 1000)
		}
	}),
	ofTasks("timers_pending", gauge, "", "Timers that are set.", nil, total(func(t *observe.Task) int64 { return t.TimersPending })),
	ofTasks("timers_fired_total", counter, "", "Timers that fired.", nil, number(func(u *unit) int64 { return u.counters.TimersFired })),
	ofTasks("overlay_bytes", gauge, "bytes", "State and outputs of epochs that are not committed, in memory.", nil, total(func(t *observe.Task) int64 { return t.OverlayBytes })),
	ofTasks("input_buffer_bytes", gauge, "bytes", "Fetched records, waiting or kept for replay.", nil, total(func(t *observe.Task) int64 { return t.RecordBytes })),
	ofTasks("table_rows", gauge, "", "Rows of state in memory.", nil, total(func(t *observe.Task) int64 { return t.TableRows })),
	ofTasks("table_bytes", gauge, "bytes", "What they need.", nil, total(func(t *observe.Task) int64 { return t.TableBytes })),
	ofTasks("table_dirty_bytes", gauge, "bytes", "Of them, committed and not yet written to the engine.", nil, total(func(t *observe.Task) int64 { return t.DirtyBytes })),
	ofTasks("restore_tail_rows", gauge, "", "Committed rows that a crash of the process would have a restore read again.", nil, total(func(t *observe.Task) int64 { return t.Tail })),
	ofTasks("disk_bytes", gauge, "bytes", "Databases on disk, logs and what compaction will drop included.", nil, total(func(t *observe.Task) int64 { return t.DiskBytes })),
	ofTasks("cache_hits_total", counter, "", "Reads of state that memory answered.", nil, number(func(u *unit) int64 { return u.counters.CacheHits })),
	ofTasks("cache_misses_total", counter, "", "Reads of state that the engine had to answer.", nil, number(func(u *unit) int64 { return u.counters.CacheMisses })),
	ofTasks("write_backs_total", counter, "", "Batches of committed rows written to the engine.", nil, number(func(u *unit) int64 { return u.counters.WriteBacks })),

	ofStores("store_rows", gauge, "", "Committed rows, estimated; absent until it is known.", func(s *observe.Store, e emit) {
		if s.Rows >= 0 {
			e(float64(s.Rows))
		}
	}),
	ofStores("store_disk_bytes", gauge, "bytes", "The store's rows in tables on disk, estimated; what is still in memory or in a log is not counted.",
		number(func(s *observe.Store) int64 { return s.DiskBytes })),
	ofStores("store_expired_total", counter, "", "Rows removed because their time to live was over, by epochs that were aborted and by restores too.", number(func(s *observe.Store) int64 { return s.Expired })),
	ofStores("changelog_records_total", counter, "", "Records committed to the changelog.", number(func(s *observe.Store) int64 { return s.ChangelogRecords })),
	ofStores("changelog_bytes_total", counter, "bytes", "Their keys and values, before compression.", number(func(s *observe.Store) int64 { return s.ChangelogBytes })),
	ofStores("restore_records_total", counter, "", "Changelog records read by restores.", number(func(s *observe.Store) int64 { return s.RestoredRecords })),
	ofStores("restore_bytes_total", counter, "bytes", "Their keys and values.", number(func(s *observe.Store) int64 { return s.RestoredBytes })),
	ofStores("restore_remaining_records", gauge, "", "Offsets still to be read by restores that are under way.",
		number(func(s *observe.Store) int64 { return s.RestoreRemaining })),

	kafka("connects_total", counter, "", "Connections opened.", number(func(c *observe.Client) int64 { return c.Connects })),
	kafka("connect_errors_total", counter, "", "Connections that could not be opened.", number(func(c *observe.Client) int64 { return c.ConnectErrors })),
	kafka("disconnects_total", counter, "", "Connections closed.", number(func(c *observe.Client) int64 { return c.Disconnects })),
	kafka("requests_total", counter, "", "Requests sent.", number(func(c *observe.Client) int64 { return c.Requests })),
	kafka("request_errors_total", counter, "", "Requests that could not be written, or whose answers could not be read.",
		number(func(c *observe.Client) int64 { return c.RequestErrors })),
	{Metric: Metric{
		"millrace_kafka_request_duration_seconds", histogram, []string{"client"}, "seconds",
		"From the start of a request's write to the end of its answer; without fetches, joins and syncs, which brokers answer late on purpose.",
	}, scope: ofClient, requests: func(c *observe.Client) *observe.Histogram { return &c.Latency }},
	kafka("throttled_seconds_total", counter, "seconds", "Throttling that brokers imposed.", number(func(c *observe.Client) float64 { return c.Throttled.Seconds() })),
	kafka("written_bytes_total", counter, "bytes", "Bytes of requests.", number(func(c *observe.Client) int64 { return c.WrittenBytes })),
	kafka("read_bytes_total", counter, "bytes", "Bytes of answers.", number(func(c *observe.Client) int64 { return c.ReadBytes })),
	kafka("produced_records_total", counter, "", "Records written, committed or not.", number(func(c *observe.Client) int64 { return c.ProducedRecords })),
	kafka("produced_batches_total", counter, "", "Batches of them.", number(func(c *observe.Client) int64 { return c.ProducedBatches })),
	kafka("produced_bytes_total", counter, "bytes", "Their bytes, compressed.", number(func(c *observe.Client) int64 { return c.ProducedBytes })),
	kafka("fetched_records_total", counter, "", "Records fetched, markers of transactions included.", number(func(c *observe.Client) int64 { return c.FetchedRecords })),
	kafka("fetched_batches_total", counter, "", "Batches of them.", number(func(c *observe.Client) int64 { return c.FetchedBatches })),
	kafka("fetched_bytes_total", counter, "bytes", "Their bytes, compressed.", number(func(c *observe.Client) int64 { return c.FetchedBytes })),
}

// hindmost is the task whose clock is farthest behind, nil if none has one.
func hindmost(u *unit) (last *observe.Task) {
	for _, t := range u.tasks {
		if t.Clock >= 0 && (last == nil || t.Clock < last.Clock) {
			last = t
		}
	}
	return last
}
