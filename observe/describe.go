package observe

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Description is an instance for a person, or for a program as JSON: its topology and what it is doing.
type Description struct {
	Topology string `json:"topology"` // the picture in text
	Snapshot
}

// String is a page of text.
func (d Description) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "application %s", d.App)
	if d.Instance != "" {
		fmt.Fprintf(&b, ", instance %s", d.Instance)
	}
	fmt.Fprintf(&b, ": %s", d.State)
	if !d.Since.IsZero() {
		fmt.Fprintf(&b, ", for %s", d.At.Sub(d.Since).Round(time.Second))
	}
	fmt.Fprintf(&b, ", %s\n", d.Guarantee)
	fmt.Fprintf(&b, "memory: %s of %s (tables %s, overlay %s, records %s, blocks %s)\n", size(d.Memory.Used()), size(d.Memory.Limit),
		size(d.Memory.Tables), size(d.Memory.Overlay), size(d.Memory.Records), size(d.Memory.Blocks))
	if d.Cluster != "" {
		fmt.Fprintf(&b, "cluster: %s, generation %d, %d rebalances\n", d.Cluster, d.Generation, d.Rebalances)
	}
	if e := d.LastError; e != nil {
		fmt.Fprintf(&b, "last error: %s ago, %s", d.At.Sub(e.At).Round(time.Second), e.What)
		if e.Task != "" {
			fmt.Fprintf(&b, " of task %s", e.Task)
		}
		fmt.Fprintf(&b, ": %s\n", e.Error)
	}
	table(&b, "worker\ttasks\tcommits\taborts\trecords\toutputs\tchangelog rows\tmean epoch", len(d.Workers), func(i int) []any {
		w := &d.Workers[i]
		return []any{w.ID, w.Tasks, w.Committed(), w.Aborted(), w.Records, w.Outputs, w.ChangelogRows, mean(&w.Epochs)}
	})
	table(&b, "task\tstate\tworker\trecords\tlag\tclock\tclock lag\ttimers\toverlay\tdisk", len(d.Tasks), func(i int) []any {
		t := &d.Tasks[i]
		lag, clock, behind := "?", "-", "-"
		if n, ok := t.Lag(); ok {
			lag = fmt.Sprint(n)
		}
		if t.Clock >= 0 {
			clock = time.UnixMilli(t.Clock).UTC().Format(time.RFC3339Nano)
			behind = (time.Duration(t.ClockLag) * time.Millisecond).String()
		}
		state := t.State
		if t.Parked {
			state += ", parked"
		}
		if left, total := t.Restored(); t.State == "restoring" && total > 0 {
			state += fmt.Sprintf(" %d%%", 100*(total-left)/total)
		}
		return []any{t.Task, state, t.Worker, t.Records, lag, clock, behind, t.TimersPending, size(t.OverlayBytes), size(t.DiskBytes)}
	})
	var inputs []Input
	var readers []string
	var stores []Store
	var owners []string
	for i := range d.Tasks {
		for _, in := range d.Tasks[i].Inputs {
			inputs, readers = append(inputs, in), append(readers, d.Tasks[i].Task)
		}
		for _, s := range d.Tasks[i].Stores {
			stores, owners = append(stores, s), append(owners, d.Tasks[i].Task)
		}
	}
	table(&b, "input\ttask\tposition\tend\tlag\tpaused", len(inputs), func(i int) []any {
		in := &inputs[i]
		return []any{fmt.Sprintf("%s/%d", in.Topic, in.Partition), readers[i], known(in.Position), known(in.End), known(in.Lag()), yes(in.Paused)}
	})
	table(&b, "store\ttask\trows\tdisk\tchangelog\tchangelog bytes\texpired\trestored\tto restore", len(stores), func(i int) []any {
		s := &stores[i]
		left := "-"
		if s.Restore != nil {
			left = fmt.Sprint(s.Restore.Remaining())
		}
		return []any{s.Name, owners[i], known(s.Rows), size(s.DiskBytes), s.ChangelogRecords, size(s.ChangelogBytes), s.Expired, s.RestoredRecords, left}
	})
	for i := range d.Tasks {
		if t := &d.Tasks[i]; t.Error != "" {
			fmt.Fprintf(&b, "\ntask %s: %s\n", t.Task, t.Error)
		}
	}
	if d.Topology != "" {
		fmt.Fprintf(&b, "\n%s", d.Topology)
	}
	return b.String()
}

// table writes n rows below a head, or nothing if there are none.
func table(b *strings.Builder, head string, n int, row func(i int) []any) {
	if n == 0 {
		return
	}
	b.WriteByte('\n')
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for i := range n {
		for j, cell := range row(i) {
			if j > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // a strings.Builder takes everything
}

func known(n int64) string {
	if n < 0 {
		return "?"
	}
	return fmt.Sprint(n)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

func mean(h *Histogram) string {
	n := h.Count()
	if n == 0 {
		return "-"
	}
	return time.Duration(h.Sum / float64(n) * float64(time.Second)).Round(time.Millisecond).String()
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
