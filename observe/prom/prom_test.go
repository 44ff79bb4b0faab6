package prom_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/observe/prom"
)

// source shows a snapshot.
type source struct{ is observe.Snapshot }

func (s source) Snapshot() observe.Snapshot { return s.is }

// busy is an application with n tasks that has done something of everything. Figures are chosen so that sums tell what was added.
func busy(n int) observe.Snapshot {
	hist := func(bounds ...float64) observe.Histogram {
		h := observe.Histogram{Bounds: bounds, Counts: make([]int64, len(bounds)+1), Sum: 10}
		for i := range h.Counts {
			h.Counts[i] = int64(i + 1)
		}
		return h
	}
	worker := func(id int) observe.Worker {
		return observe.Worker{
			ID: id, Commits: []observe.Count{{Name: "interval", Count: 5}, {Name: "closing", Count: 1}}, Aborts: []observe.Count{{Name: "fenced", Count: 2}},
			Stood: 1500 * time.Millisecond, Epochs: hist(.1, 1), CommitTime: hist(.1, 1), EpochRecords: hist(10, 100),
		}
	}
	stores := func(of int64) []observe.Store {
		return []observe.Store{{
			Name: "counts", Rows: of, DiskBytes: 2 * of, ChangelogRecords: 3 * of, ChangelogBytes: 4 * of, Expired: 5 * of, RestoredRecords: 6 * of,
			RestoredBytes: 7 * of, RestoreRemaining: 8 * of,
		}}
	}
	counters := observe.Counters{
		Records: 100, Outputs: 90, Skipped: 1, DeadLetters: 2, Retries: 9, Late: 3, TimersFired: 4, CacheHits: 5, CacheMisses: 6, WriteBacks: 7,
		Drops: []observe.Drop{{Node: "count", Reason: "late", Count: 3}, {Node: "count", Reason: "null-key", Count: 8}},
	}
	s := observe.Snapshot{
		App: "orders", Instance: "a", Cluster: "c", State: "running", Guarantee: "exactly-once", Since: time.UnixMilli(1_700_000_000_500), Generation: 3,
		Rebalances: 2, Fenced: 1, SlowHandlers: 4, Resolved: []observe.Count{{Name: "committed", Count: 1}},
		Memory:        observe.Memory{Limit: 100, Tables: 1, Overlay: 2, Records: 3, Blocks: 4},
		Workers:       []observe.Worker{worker(0), worker(1)},
		Subtopologies: []observe.Subtopology{{Name: "counts", Tasks: n, Counters: counters, Stores: stores(10)}},
		Clients: []observe.Client{{
			Role: "group", Connects: 1, ConnectErrors: 2, Disconnects: 3, Requests: 4, RequestErrors: 5, WrittenBytes: 6, ReadBytes: 7, Latency: hist(.1, 1),
			Throttled: 2 * time.Second, ProducedRecords: 8, ProducedBatches: 9, ProducedBytes: 10, FetchedRecords: 11, FetchedBatches: 12, FetchedBytes: 13,
		}},
	}
	for i := range n {
		s.Tasks = append(s.Tasks, observe.Task{
			Task: fmt.Sprintf("counts/%d", i), Subtopology: "counts", Partition: int32(i), State: "running", Parked: i == 0, Counters: counters,
			Clock: int64(1000 * (i + 1)), ClockLag: int64(5000 - 1000*i), TimersPending: 1, TableRows: 2, TableBytes: 3, DirtyBytes: 4, OverlayBytes: 5,
			RecordBytes: 6, DiskBytes: 7, Tail: 8, Stores: stores(1),
			Inputs: []observe.Input{{Topic: "in", Partition: int32(i), Position: 90, End: 100, Paused: true}, {Topic: "quiet", Position: 5, End: -1}},
		})
	}
	return s
}

func gather(t *testing.T, c prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.MetricFamily{}
	for _, f := range families {
		all[f.GetName()] = f
	}
	return all
}

func series(families map[string]*dto.MetricFamily) (n int) {
	for _, f := range families {
		n += len(f.Metric)
	}
	return n
}

// TestFamilies: what is gathered is what Metrics lists, with the types and labels it says, and nothing else.
func TestFamilies(t *testing.T) {
	for _, perTask := range []bool{false, true} {
		t.Run(fmt.Sprint("per task ", perTask), func(t *testing.T) {
			c := prom.New(source{busy(3)})
			if perTask {
				c = c.PerTask()
			}
			got := gather(t, c)
			for _, m := range prom.Metrics() {
				f := got[m.Name]
				if f == nil {
					t.Errorf("%s is listed and has no series", m.Name)
					continue
				}
				delete(got, m.Name)
				if kind := strings.ToLower(f.GetType().String()); kind != m.Type {
					t.Errorf("%s is a %s, listed as %s", m.Name, kind, m.Type)
				}
				if f.GetHelp() != m.Help {
					t.Errorf("%s: help %q", m.Name, f.GetHelp())
				}
				want := append([]string{"app"}, m.Labels...)
				if perTask && slices.Contains(m.Labels, "subtopology") {
					want = append(want, "task")
				}
				slices.Sort(want)
				for _, s := range f.Metric {
					var labels []string
					for _, l := range s.Label {
						labels = append(labels, l.GetName())
					}
					if slices.Sort(labels); !slices.Equal(labels, want) {
						t.Errorf("%s has the labels %v, want %v", m.Name, labels, want)
					}
				}
			}
			if len(got) > 0 {
				t.Errorf("not listed: %v", slices.Sorted(maps.Keys(got)))
			}
		})
	}
}

// TestNames: the names are as Prometheus wants them, and say their unit.
func TestNames(t *testing.T) {
	families := gather(t, prom.New(source{busy(2)}))
	problems, err := promlint.NewWithMetricFamilies(slices.Collect(maps.Values(families))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, m := range prom.Metrics() {
		name := strings.TrimSuffix(m.Name, "_total")
		if m.Unit != "" && !strings.HasSuffix(name, "_"+m.Unit) {
			t.Errorf("%s counts %s", m.Name, m.Unit)
		}
		if (m.Type == "counter") != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s", m.Name, m.Type)
		}
	}
}

// TestValues: sums, minima and units, of some families of each sort.
func TestValues(t *testing.T) {
	const want = `
# HELP millrace_aborts_total Aborted epochs, by why.
# TYPE millrace_aborts_total counter
millrace_aborts_total{app="orders",reason="fenced"} 4
# HELP millrace_changelog_bytes_total Their keys and values, before compression.
# TYPE millrace_changelog_bytes_total counter
millrace_changelog_bytes_total{app="orders",store="counts",subtopology="counts"} 40
# HELP millrace_clock_lag_seconds How far that clock is behind the wall clock.
# TYPE millrace_clock_lag_seconds gauge
millrace_clock_lag_seconds{app="orders",subtopology="counts"} 5
# HELP millrace_clock_seconds The event time clock, since 1970: the one that is farthest behind; absent before any record.
# TYPE millrace_clock_seconds gauge
millrace_clock_seconds{app="orders",subtopology="counts"} 1
# HELP millrace_commits_total Committed epochs, by why they ended.
# TYPE millrace_commits_total counter
millrace_commits_total{app="orders",reason="closing"} 2
millrace_commits_total{app="orders",reason="interval"} 10
# HELP millrace_epoch_duration_seconds From the first record of an epoch to the answer to its commit.
# TYPE millrace_epoch_duration_seconds histogram
millrace_epoch_duration_seconds_bucket{app="orders",le="0.1"} 2
millrace_epoch_duration_seconds_bucket{app="orders",le="1"} 6
millrace_epoch_duration_seconds_bucket{app="orders",le="+Inf"} 12
millrace_epoch_duration_seconds_sum{app="orders"} 20
millrace_epoch_duration_seconds_count{app="orders"} 12
# HELP millrace_inputs_paused Input partitions paused because their task holds enough of them.
# TYPE millrace_inputs_paused gauge
millrace_inputs_paused{app="orders",subtopology="counts"} 3
# HELP millrace_lag_records Offsets between what is committed and what can be read, of the inputs where that is known; absent where it is of none.
# TYPE millrace_lag_records gauge
millrace_lag_records{app="orders",subtopology="counts"} 30
# HELP millrace_overlay_bytes State and outputs of epochs that are not committed, in memory.
# TYPE millrace_overlay_bytes gauge
millrace_overlay_bytes{app="orders",subtopology="counts"} 15
# HELP millrace_records_dropped_total Records that an operator left out on purpose, by node and reason.
# TYPE millrace_records_dropped_total counter
millrace_records_dropped_total{app="orders",node="count",reason="late",subtopology="counts"} 3
millrace_records_dropped_total{app="orders",node="count",reason="null-key",subtopology="counts"} 8
# HELP millrace_standstill_seconds_total How long workers could step no record because of commits.
# TYPE millrace_standstill_seconds_total counter
millrace_standstill_seconds_total{app="orders"} 3
# HELP millrace_start_time_seconds When Run began, since 1970; absent before.
# TYPE millrace_start_time_seconds gauge
millrace_start_time_seconds{app="orders"} 1.7000000005e+09
# HELP millrace_store_rows Committed rows, estimated; absent until it is known.
# TYPE millrace_store_rows gauge
millrace_store_rows{app="orders",store="counts",subtopology="counts"} 10
# HELP millrace_tasks Tasks on this instance, by state.
# TYPE millrace_tasks gauge
millrace_tasks{app="orders",state="failed",subtopology="counts"} 0
millrace_tasks{app="orders",state="restoring",subtopology="counts"} 0
millrace_tasks{app="orders",state="running",subtopology="counts"} 3
millrace_tasks{app="orders",state="waiting",subtopology="counts"} 0
# HELP millrace_tasks_parked Tasks that wait to try a record again.
# TYPE millrace_tasks_parked gauge
millrace_tasks_parked{app="orders",subtopology="counts"} 1
`
	families := gather(t, prom.New(source{busy(3)}))
	var got strings.Builder
	for line := range strings.Lines(want) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "TYPE" {
			if _, err := expfmt.MetricFamilyToText(&got, families[f[2]]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got.String() != want[1:] {
		t.Errorf("got\n%s\nwant%s", &got, want)
	}
}

// TestSeriesAreFew: their number does not grow with the tasks, unless it is asked to, and then by as much as PerTask says.
func TestSeriesAreFew(t *testing.T) {
	count := func(tasks int, perTask bool) int {
		c := prom.New(source{busy(tasks)})
		if perTask {
			c = c.PerTask()
		}
		return series(gather(t, c))
	}
	if one, many := count(1, false), count(500, false); one != many {
		t.Errorf("%d series with one task, %d with 500", one, many)
	}
	each := (count(101, true) - count(1, true)) / 100
	if each < 30 || each > 42 {
		t.Errorf("%d series for each task with a store", each)
	}
}

// TestUnknown: what is not known is absent, not 0.
func TestUnknown(t *testing.T) {
	s := busy(1)
	s.Since = time.Time{}
	s.Tasks[0].Clock, s.Tasks[0].ClockLag, s.Tasks[0].Inputs = -1, 0, []observe.Input{{Position: -1, End: -1}}
	s.Subtopologies[0].Stores[0].Rows = -1
	got := gather(t, prom.New(source{s}))
	for _, name := range []string{"start_time_seconds", "clock_seconds", "clock_lag_seconds", "lag_records", "store_rows"} {
		if got["millrace_"+name] != nil {
			t.Errorf("%s is there", name)
		}
	}
	// Of an application that has not begun there is little to say, and it is no error.
	if got := gather(t, prom.New(source{observe.Snapshot{App: "new", State: "created"}})); got["millrace_app_state"] == nil {
		t.Error("an application that was not run shows no state")
	}
}

// TestTwoApplications share a registry.
func TestTwoApplications(t *testing.T) {
	a, b := busy(1), busy(1)
	b.App = "payments"
	one, two := series(gather(t, prom.New(source{a}))), series(gather(t, prom.New(source{a}, source{b})))
	if two != 2*one {
		t.Errorf("%d series of one, %d of both", one, two)
	}
}

// TestBadNames: a name that Prometheus does not take is an error of the scrape, not a panic.
func TestBadNames(t *testing.T) {
	s := busy(1)
	s.Instance = "\xff"
	r := prometheus.NewRegistry()
	r.MustRegister(prom.New(source{s}))
	families, err := r.Gather()
	if err == nil || len(families) < 20 {
		t.Errorf("%d families, error %v", len(families), err)
	}
}
