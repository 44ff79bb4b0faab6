package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/store"
)

// state looks into snapshots, and makes applications from them.
func stateCommand(term terminal) *cobra.Command {
	c := &cobra.Command{
		Use: "state", Short: "Look into snapshots of state, and make applications from them", Args: noArgs,
		Long: `Look into snapshots of state, and make applications from them.

A snapshot is a directory that App.SnapshotState has written (docs/format/snapshot.md). Nothing here writes to it, and several may look at a
time. "millrace state fork" alone talks to Kafka.`,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(stateShow(term), stateVerify(term), stateDump(term), stateDiff(term), stateFork(term))
	return c
}

// sub makes a command with -from.
func stateSub(use, short, long string, run func(ctx context.Context, from string) error) (*cobra.Command, *string) {
	from := new(string)
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: noArgs, DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error {
			if *from == "" {
				return usage("-from is missing", "name the snapshot's directory; `"+c.CommandPath()+" -h` lists the flags")
			}
			return run(c.Context(), *from)
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(from, "from", "", "`DIR` that the snapshot was written to")
	c.SetFlagErrorFunc(flagError)
	return c, from
}

func stateShow(term terminal) *cobra.Command {
	c, _ := stateSub("show -from DIR", "List the tasks of a snapshot", "List the tasks of a snapshot, the stores in it, and where each task goes on.",
		func(_ context.Context, from string) error {
			s, err := changelog.ReadSnapshot(from, true)
			if err != nil {
				return err
			}
			first := s.Tasks[0]
			tasks := 0
			for _, part := range first.Topology {
				tasks += int(part.Tasks)
			}
			fmt.Fprintf(term.out, "application %s on cluster %s, %d of %d tasks\n\n", first.App, first.Cluster, len(s.Tasks), tasks)
			w := tabwriter.NewWriter(term.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TASK\tTAKEN\tINPUT\tOFFSET\tSTORE")
			for _, t := range s.Tasks {
				for i := range max(len(t.Inputs), len(t.Stores), 1) {
					name, taken, input, offset, stored := "", "", "", "", ""
					if i == 0 {
						name, taken = t.Task.String(), t.Taken.Format(time.RFC3339)
					}
					if i < len(t.Inputs) {
						in := t.Inputs[i]
						input, offset = fmt.Sprintf("%s/%d", in.Topic, in.Partition), fmt.Sprint(in.Offset)
						if in.Pending {
							offset += " (with what is not processed)"
						}
					}
					if i < len(t.Stores) {
						st := t.Stores[i]
						stored = fmt.Sprintf("%s: %s, %s -> %s", st.Name, st.Kind, st.Key, st.Value)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, taken, input, offset, stored)
				}
			}
			return w.Flush()
		})
	return c
}

func stateVerify(term terminal) *cobra.Command {
	c, _ := stateSub("verify -from DIR", "Read all of a snapshot, and say whether it is whole",
		"Read all of a snapshot, and say whether it is whole: every task is there, they fit together, and every row can be read.",
		func(ctx context.Context, from string) error {
			s, err := changelog.ReadSnapshot(from, false)
			if err != nil {
				return err
			}
			for _, t := range s.Tasks {
				if err := ctx.Err(); err != nil {
					return err
				}
				rows, bytes, err := t.Verify()
				if err != nil {
					return err
				}
				fmt.Fprintf(term.out, "%s: %d rows, %d bytes\n", t.Task, rows, bytes)
			}
			fmt.Fprintf(term.out, "The snapshot of %s is whole.\n", s.Tasks[0].App)
			return nil
		})
	return c
}

// dumped is a row as a line of JSON.
type dumped struct {
	Store string `json:"store"`
	Task  string `json:"task"`
	Key   any    `json:"key"`
	Value any    `json:"value"`
	Time  string `json:"time,omitempty"`
}

func stateDump(term terminal) *cobra.Command {
	var name string
	c, _ := stateSub("dump -from DIR [-store NAME]", "Print the rows of a snapshot, one JSON object per line",
		`Print the rows of a snapshot, one JSON object per line. Keys and values of codecs that the command knows (string, int64, json) are readable; of
others, and of kinds of stores that keep several rows for a key, the bytes are printed, as {"hex": "..."}.`,
		func(_ context.Context, from string) error {
			return eachRow(from, name, func(t *changelog.TaskSnapshot, st changelog.SnapshotStore, key, value []byte) error {
				line, err := json.Marshal(readable(t, st, key, value))
				if err == nil {
					_, err = fmt.Fprintf(term.out, "%s\n", line)
				}
				return err
			})
		})
	c.Flags().StringVar(&name, "store", "", "only the rows of the store `NAME`")
	return c
}

func readable(t *changelog.TaskSnapshot, st changelog.SnapshotStore, key, value []byte) dumped {
	d := dumped{Store: st.Name, Task: t.Task.String(), Key: decoded("", key)}
	plain, at, err := store.ParseRow(value)
	if st.Kind != store.KindKeyValue || err != nil {
		d.Value = decoded("", value)
		return d
	}
	if st.Key == "string" {
		d.Key = decoded(st.Key, key)
	}
	d.Value, d.Time = decoded(st.Value, plain), time.UnixMilli(at).UTC().Format(time.RFC3339Nano)
	return d
}

// decoded is bytes of a codec that is known, or their digits.
func decoded(codec string, b []byte) any {
	switch {
	case codec == "string" && utf8.Valid(b):
		return string(b)
	case codec == "int64" && len(b) == 8:
		return int64(binary.BigEndian.Uint64(b))
	case len(codec) >= 4 && codec[:4] == "json" && json.Valid(b):
		return json.RawMessage(b)
	}
	return map[string]string{"hex": hex.EncodeToString(b)}
}

// eachRow calls f for the rows of a store, or of all, in order of task, store and key.
func eachRow(from, name string, f func(t *changelog.TaskSnapshot, st changelog.SnapshotStore, key, value []byte) error) error {
	s, err := changelog.ReadSnapshot(from, true)
	if err != nil {
		return err
	}
	found := name == ""
	for _, t := range s.Tasks {
		rows, err := t.OpenRows()
		if err != nil {
			return err
		}
		slices.SortFunc(t.Stores, func(a, b changelog.SnapshotStore) int { return strings.Compare(a.Name, b.Name) })
		for _, st := range t.Stores {
			if err != nil || name != "" && st.Name != name {
				continue
			}
			found = true
			err = rows.Each(st.Prefix, func(key, value []byte) error { return f(t, st, key, value) })
		}
		if rows != nil {
			err = errors.Join(err, rows.Close())
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return usage(fmt.Sprintf("-store %q is in none of the tasks", name), "`millrace state show` lists the stores")
	}
	return nil
}

func stateDiff(term terminal) *cobra.Command {
	var to string
	c, _ := stateSub("diff -from DIR -to DIR", "Print the rows in which two snapshots differ",
		`Print the rows in which two snapshots differ, one JSON object per line behind "-" for what only the first has, "+" for what only the second has. A row that
was changed is both.`,
		func(_ context.Context, from string) error {
			if to == "" {
				return usage("-to is missing", "name the directory of the second snapshot")
			}
			n, err := diff(term.out, from, to)
			if err == nil && n == 0 {
				fmt.Fprintln(term.err, "The rows are the same.")
			}
			return err
		})
	c.Flags().StringVar(&to, "to", "", "`DIR` of the second snapshot")
	return c
}

type placed struct {
	at    string // task, store and key, in order
	value []byte
	line  dumped
}

func diff(out io.Writer, from, to string) (n int, err error) {
	var errs [2]error
	rows := func(i int, dir string) iter.Seq[placed] {
		return func(yield func(placed) bool) {
			stop := errors.New("stop")
			err := eachRow(dir, "", func(t *changelog.TaskSnapshot, st changelog.SnapshotStore, key, value []byte) error {
				at := fmt.Sprintf("%s\x00%010d\x00%s\x00%s", t.Task.Subtopology, t.Task.Partition, st.Name, key)
				if !yield(placed{at, bytes.Clone(value), readable(t, st, bytes.Clone(key), bytes.Clone(value))}) {
					return stop
				}
				return nil
			})
			if !errors.Is(err, stop) {
				errs[i] = err
			}
		}
	}
	a, endA := iter.Pull(rows(0, from))
	defer endA()
	b, endB := iter.Pull(rows(1, to))
	defer endB()
	say := func(sign string, p placed) {
		n++
		line, _ := json.Marshal(p.line)
		fmt.Fprintf(out, "%s %s\n", sign, line)
	}
	x, okX := a()
	y, okY := b()
	for (okX || okY) && errs[0] == nil && errs[1] == nil {
		switch {
		case !okY || okX && x.at < y.at:
			say("-", x)
			x, okX = a()
		case !okX || y.at < x.at:
			say("+", y)
			y, okY = b()
		default:
			if !bytes.Equal(x.value, y.value) {
				say("-", x)
				say("+", y)
			}
			x, okX = a()
			y, okY = b()
		}
	}
	return n, errors.Join(errs[:]...)
}

func stateFork(term terminal) *cobra.Command {
	var app string
	var brokers []string
	var replication int
	c, _ := stateSub("fork -from DIR -app ID -brokers HOST:PORT[,...]", "Make a new application from a snapshot",
		`Make a new application from a snapshot: its changelogs with the snapshot's rows, its repartition topics with what was not processed, and its
consumer group's offsets. Its instances, started afterwards, go on from the moment of the snapshot.

The new id must have neither topics nor a group. All of the snapshot is read before anything is changed. A fork that was interrupted leaves an
application that refuses to start; "millrace reset" removes it. The application that the snapshot is of is not touched.`,
		func(ctx context.Context, from string) error {
			if app == "" {
				return usage("-app is missing", "name the new application's id")
			}
			opts := []millrace.Option{millrace.SeedBrokers(brokers...)}
			if replication > 0 {
				opts = append(opts, millrace.ReplicationFactor(replication))
			}
			report, err := millrace.ForkState(ctx, from, app, func(p millrace.ForkProgress) {
				switch {
				case p.Step == "read" || p.Step == "rows":
					fmt.Fprintf(term.err, "%s: %d of %d tasks, %d rows\n", p.Step, p.Tasks, p.AllTasks, p.Rows)
				default:
					fmt.Fprintf(term.err, "%s\n", p.Step)
				}
			}, opts...)
			if err != nil {
				return err
			}
			fmt.Fprintf(term.out, "Made %s from a snapshot of %s: %d tasks, %d rows, %d records that were on their way.\n", app, report.From, report.Tasks, report.Rows, report.Pending)
			return nil
		})
	f := c.Flags()
	f.StringVar(&app, "app", "", "the new application's `ID`")
	f.StringSliceVar(&brokers, "brokers", nil, "seed brokers, as `HOST:PORT`, separated by commas")
	f.IntVar(&replication, "replication", 0, "replication `FACTOR` of the topics; left out, the brokers' default")
	return c
}
