package observe_test

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/observe"
)

// TestDescription is the page a person reads, of an instance that is restoring, has had an error, and is behind.
func TestDescription(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	progress := &observe.RestoreProgress{Records: 30, Position: 40, End: 100}
	d := observe.Description{Topology: "subtopology counts\n", Snapshot: observe.Snapshot{
		At: at, App: "orders", Instance: "a1", Cluster: "c7", State: "rebalancing", Guarantee: "exactly-once", Since: at.Add(-90 * time.Minute), Generation: 4, Rebalances: 2,
		Memory:    observe.Memory{Limit: 512 << 20, Tables: 3 << 20, Overlay: 1536, Records: 10, Blocks: 5 << 30},
		LastError: &observe.LastError{At: at.Add(-3 * time.Second), What: "record", Task: "counts/1", Error: "no good"},
		Workers: []observe.Worker{{
			Tasks: 2, Records: 1000, Outputs: 900, ChangelogRows: 80, Commits: []observe.Count{{Name: "interval", Count: 4}}, Aborts: []observe.Count{{Name: "fenced", Count: 1}},
			Epochs: observe.Histogram{Counts: []int64{4}, Sum: .5},
		}},
		Tasks: []observe.Task{
			{
				Task: "counts/0", State: "running", Parked: true, Counters: observe.Counters{Records: 1000}, Clock: at.Add(-1500 * time.Millisecond).UnixMilli(), ClockLag: 1500,
				TimersPending: 3, OverlayBytes: 2048, DiskBytes: 100,
				Inputs: []observe.Input{{Topic: "in", Position: 90, End: 100, Paused: true}, {Topic: "side", Position: 7, End: -1}},
				Stores: []observe.Store{{Name: "counts", Rows: 12, DiskBytes: 100, ChangelogRecords: 80, ChangelogBytes: 1600, Expired: 1}},
			},
			{
				Task: "counts/1", State: "restoring", Worker: 1, Error: "database", Clock: -1, Inputs: []observe.Input{{Topic: "in", Partition: 1, Position: -1, End: -1}},
				Stores: []observe.Store{{Name: "counts", Rows: -1, RestoredRecords: 30, Restore: progress}},
			},
		},
	}}
	const want = `application orders, instance a1: rebalancing, for 1h30m0s, exactly-once
memory: 5.0 GiB of 512.0 MiB (tables 3.0 MiB, overlay 1.5 KiB, records 10 B, blocks 5.0 GiB)
cluster: c7, generation 4, 2 rebalances
last error: 3s ago, record of task counts/1: no good

worker  tasks  commits  aborts  records  outputs  changelog rows  mean epoch
0       2      4        1       1000     900      80              125ms

task      state            worker  records  lag  clock                   clock lag  timers  overlay  disk
counts/0  running, parked  0       1000     10   2026-01-02T03:04:03.5Z  1.5s       3       2.0 KiB  100 B
counts/1  restoring 33%    1       0        ?    -                       -          0       0 B      0 B

input   task      position  end  lag  paused
in/0    counts/0  90        100  10   yes
side/0  counts/0  7         ?    ?    -
in/1    counts/1  ?         ?    ?    -

store   task      rows  disk   changelog  changelog bytes  expired  restored  to restore
counts  counts/0  12    100 B  80         1.6 KiB          1        0         -
counts  counts/1  ?     0 B    0          0 B              0        30        60

task counts/1: database

subtopology counts
`
	if got := d.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if strings.Contains(want, " \n") {
		t.Error("the table has trailing blanks")
	}
}

// TestLag: an input of which nothing is known does not hide one of which something is.
func TestLag(t *testing.T) {
	for _, c := range []struct {
		in   []observe.Input
		lag  int64
		know bool
	}{
		{nil, 0, false},
		{[]observe.Input{{Position: -1, End: 10}}, 0, false},
		{[]observe.Input{{Position: 5, End: -1}, {Position: 5, End: 10}}, 5, true},
		{[]observe.Input{{Position: 10, End: 8}}, 0, true}, // the end was heard of before
	} {
		task := observe.Task{Inputs: c.in}
		if lag, ok := task.Lag(); lag != c.lag || ok != c.know {
			t.Errorf("%+v: %d, %t", c.in, lag, ok)
		}
	}
}
