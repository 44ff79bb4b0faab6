package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

// figure is a section of the report. Each says what is tried, with which programs, and beside which of them the others are put.
type figure struct {
	name, title, text string
	base              string // the program that the others are compared with; "": none
	peers             bool   // the other systems take part
	alone             bool   // it is measured only when -only names it
	quick             bool   // it is part of -quick
	of                metric // what the picture shows; nil: records/s
	unit              string // of it
	programs          []string
	trials            func(c config) []trial                              // of the figures that run whole inputs
	run               func(b *bench, ctx context.Context, f figure) error // nil: tryAll
}

const mib = 1 << 20

var (
	counting = []string{"raw-changelog", "raw-changelog-2", "millrace"}
	oursOnly = []string{"millrace"}
)

// figures are all there are, in the order of the report.
func figures() []figure {
	return []figure{
		{name: "pass", title: "Pass-through, exactly once", base: "raw", peers: true, quick: true, programs: []string{"raw", "raw-2", "millrace"},
			text: "Every record is written as it is. The bare loop is one goroutine; with two, each has a client and half of the partitions, as millrace's workers have.",
			trials: func(c config) []trial {
				return []trial{{name: "zipf 100k", workload: "pass", spec: zipf(c.records(2_000_000), 100)}}
			}},
		{name: "map", title: "Map and filter, exactly once", peers: true, programs: oursOnly,
			text: "Half of the records are dropped, the others' values are put in upper case.",
			trials: func(c config) []trial {
				return []trial{{name: "zipf 100k", workload: "map", spec: zipf(c.records(2_000_000), 100)}}
			}},
		{name: "count", title: "Keyed count, exactly once", base: "raw-changelog", peers: true, quick: true, programs: append(slices.Clone(counting), "millrace-memory"),
			text: "The bare loop keeps no state and writes an output and a changelog record per input; millrace keeps the counts in Pebble, and writes the last value of each key and epoch to the changelog.",
			trials: func(c config) []trial {
				all := []trial{
					{name: "zipf 100k", workload: "count", spec: zipf(c.records(2_000_000), 100)},
					{name: "uniform 1M", workload: "count", spec: uniform(c.records(1_000_000), c.records(2_000_000)), memory: 512 * mib},
				}
				if !c.quick {
					all = append(all, trial{name: "zipf 100k, 1 KiB values", workload: "count", spec: zipf(c.records(500_000), 1024)})
				}
				return all
			}},
		{name: "large", title: "Keyed count, 10 million keys in 512 MiB, exactly once", base: "raw-changelog", peers: true, programs: []string{"raw-changelog", "millrace"},
			text: "The state does not fit into memory.",
			trials: func(c config) []trial {
				return []trial{{name: "uniform 10M", workload: "count", spec: uniform(c.records(10_000_000), c.records(6_000_000)), memory: 512 * mib}}
			}},
		{name: "aggregate", title: "Aggregate with 200 bytes of state, exactly once", base: "raw-changelog", peers: true, programs: counting,
			text: "The bare loop writes an output and a changelog record as long as the value it read (100 bytes).",
			trials: func(c config) []trial {
				return []trial{{name: "zipf 100k", workload: "aggregate", spec: zipf(c.records(1_000_000), 100)}}
			}},
		{name: "repartition", title: "Repartition and count, exactly once", peers: true, programs: oursOnly,
			text: "Ten keys become one, which travels through a repartition topic and is counted.",
			trials: func(c config) []trial {
				return []trial{{name: "zipf 100k", workload: "repartition", spec: zipf(c.records(1_000_000), 100)}}
			}},
		{name: "join", title: "Stream-table join, exactly once", peers: true, programs: oursOnly,
			text: "Each record meets the row of its key in a table of 100,000 rows. The table is read first, and its time is in the start.",
			trials: func(c config) []trial {
				return []trial{{name: "zipf 100k", workload: "join", spec: zipf(c.records(1_000_000), 100)}}
			}},
		{name: "commit", title: "Commit interval, keyed count, exactly once", base: "raw-changelog", programs: []string{"raw-changelog", "millrace"}, trials: intervals},
		{name: "guarantee", title: "Exactly once and at least once, keyed count", peers: true, programs: oursOnly,
			trials: func(c config) []trial {
				s := zipf(c.records(2_000_000), 100)
				return []trial{{name: "exactly once", workload: "count", spec: s}, {name: "at least once", workload: "count", spec: s, guarantee: "at_least_once"}}
			}},
		{name: "partitions", title: "Many partitions on one instance, keyed count, exactly once", programs: oursOnly, trials: manyPartitions,
			text: "After the run the app has nothing to do for five seconds; what it uses then is its idle CPU, in cores."},
		{name: "instances", title: "1, 2 and 4 instances, keyed count, exactly once", programs: oursOnly,
			text: "All on this one machine: more instances cannot be faster than its processors. CPU and memory are the sums.",
			trials: func(c config) (all []trial) {
				for _, n := range []int{1, 2, 4} {
					all = append(all, trial{name: fmt.Sprint(n), workload: "count", spec: zipf(c.records(2_000_000), 100), instances: n})
				}
				return all
			}},
		{name: "start", title: "From start to the first committed output, no state", peers: true, quick: true, programs: []string{"raw-changelog", "millrace"}, of: firstOutput, unit: "seconds",
			trials: func(config) []trial {
				return []trial{{name: "no state", workload: "count", spec: zipf(1000, 100), short: true}}
			}},
		{name: "latency", title: "Latency at a fixed rate, exactly once", peers: true, quick: true, programs: []string{"raw-changelog", "millrace"}, of: p99, unit: "p99, ms", run: (*bench).latencies,
			text: "Open loop: each record counts from the moment at which it was due, until an output that covers it is visible to a read_committed consumer. The sender and the reader run on the same processors."},
		{name: "kill", title: "kill -9 and restart in place, to the next committed output", quick: true, programs: oursOnly, of: back, unit: "seconds", run: (*bench).kills,
			text: "400 records a second go on all the time. The clock starts at the kill; the answer is the first committed output of a record that was sent after it. Without static membership Kafka believes for a session timeout that the dead member lives."},
		{name: "restore", title: "Restore after kill -9 and the loss of the disk", base: "raw-ingest", peers: true, quick: true, programs: oursOnly, run: (*bench).restores,
			text: "The bare loops read the same changelog into Pebble: sorted into one table per partition that is ingested, and with one batch per fetch. Records/s are those of the restore alone."},
		{name: "state", title: "Operations on state, one core", alone: true, programs: oursOnly, unit: "operations/s", run: (*bench).states,
			text: "Single operations by the names that Flink's benchmarks have: 500,000 keys, values of 8 bytes, 10 entries in a map. Records/s are operations."},
		{name: "memory", title: "Memory over time at a limit of 256 MiB, 10 million keys", alone: true, programs: oursOnly, unit: "MiB", run: (*bench).memories,
			text: "Every key once per round, in a random order, at a fixed rate. Resident memory of the process each second."},
	}
}

// tryAll runs all trials with all programs in turns, the other way round every second time.
func (b *bench) tryAll(ctx context.Context, f figure) error {
	type turn struct {
		trial
		program
	}
	var turns []turn
	for _, t := range f.trials(b.config) {
		t.figure = f.name
		for _, p := range b.takePart(f, f.programs) {
			if p.peer && p.can(t.wish()) != "" {
				b.skip(f.name, "%s, %s: %s", t.name, p.title, p.can(t.wish()))
				continue
			}
			turns = append(turns, turn{t, p})
		}
	}
	for i := range b.runs {
		for _, now := range turns {
			r, err := b.once(ctx, now.trial, now.program)
			if err := b.took(ctx, now.trial, now.program, i+1, r, err); err != nil {
				return err
			}
		}
		slices.Reverse(turns)
	}
	return nil
}

// took keeps what a run has brought, be it a failure. Only an end of everything is an error.
func (b *bench) took(ctx context.Context, t trial, p program, run int, r result, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if cannot := (unfit{}); errors.As(err, &cannot) {
		b.skip(t.figure, "%s: %s", t.name, cannot.why)
		return nil
	}
	if old := (*workload.Exists)(nil); errors.As(err, &old) {
		b.skip(t.figure, "%s, %s: %s", t.name, p, old)
		return nil
	}
	if err != nil {
		failed := t.result(p)
		failed.Failed = firstLine(err)
		r = failed
		say("  %s, %s: %v", t, p, err)
		if !p.peer {
			b.failed = append(b.failed, fmt.Sprintf("%s, %s: %s", t, p, r.Failed))
		}
	}
	r.Run = run
	if r.Failed == "" {
		say("  %s, run %d of %d: %s", t, run, b.runs, r.line())
	}
	return b.add(r)
}

func intervals(c config) (all []trial) {
	for _, d := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second} {
		all = append(all, trial{name: d.String(), workload: "count", spec: zipf(c.records(2_000_000), 100), commit: d})
	}
	return all
}

// manyPartitions takes the rate from the second half: a broker that has just got 768 partitions with nothing in them spends
// the first twenty seconds making their files, whoever writes.
func manyPartitions(c config) (all []trial) {
	for _, n := range []int{4, 64, 256} {
		s := zipf(c.records(6_000_000), 100)
		s.Partitions = n
		all = append(all, trial{name: fmt.Sprint(n), workload: "count", spec: s, settled: 0.5, idle: 5 * time.Second})
	}
	return all
}

func figureNames() (names []string) {
	for _, f := range figures() {
		names = append(names, f.name)
	}
	return names
}

// chosen are the figures to measure.
func (b *bench) chosen() (all []figure) {
	for _, f := range figures() {
		only := list(b.only)
		switch {
		case len(only) > 0 && !slices.Contains(only, f.name):
		case len(only) == 0 && (f.alone || b.quick && !f.quick || b.peers && !f.peers):
		default:
			if f.run == nil {
				f.run = (*bench).tryAll
			}
			all = append(all, f)
		}
	}
	return all
}
