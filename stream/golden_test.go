package stream_test

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/topology"
)

// The golden tables of testdata/golden are scripts: one record per line, "<step> <topic> <key> <value>@<time>", with null
// for a null. What comes out is listed by the step that caused it. Each script is run straight; with a crash between
// every two steps, with and without the local disk; on both engines; over several partitions; and in one epoch. All
// must agree.

// Scripts count time from here, so that nothing hides near zero.
const base = 1_000_000

type (
	text       = stream.Stream[string, string]
	textTopic  = stream.Topic[string, string]
	textRecord = processor.Record[string, string]
)

func topic(name string) textTopic { return stream.NewTopic(name, serde.String(), serde.String()) }

func textStore(name string) store.KeyValueSpec[string, string] {
	return store.KeyValue(name, serde.String(), serde.String())
}

var (
	left  = topic("L")
	right = topic("R")
	out   = topic("out")
)

func dash(l, r string) string { return l + "-" + r }

func dashOrNull(l, r string, ok bool) string {
	if !ok {
		r = "null"
	}
	return dash(l, r)
}

func append1(a, v string) string { return a + "+" + v }

func show(n int64) string { return strconv.FormatInt(n, 10) }

// byValue groups a stream by its values, over a repartition topic.
func byValue(s text) stream.Grouped[string, string] {
	return stream.GroupBy(s, func(_, v string) string { return v }, stream.Through("by-value", serde.String(), serde.String()))
}

func prefix(k, v string) (string, string) { return "k:" + k, "v:" + v }

// tables are the topologies the scripts run, all from the topic L (and R) to out.
var tables = map[string]func(b *stream.Builder, l text) text{
	"join": func(b *stream.Builder, l text) text {
		return stream.Join(l, stream.TableFrom(b, right, textStore("right")), dash)
	},
	"left-join": func(b *stream.Builder, l text) text {
		return stream.LeftJoin(l, stream.TableFrom(b, right, textStore("right")), dashOrNull)
	},
	"join-repartitioned": func(b *stream.Builder, l text) text {
		rekeyed := stream.SelectKey(l, func(k, _ string) string { return k })
		through := stream.Through("by-key", serde.String(), serde.String())
		return stream.Join(rekeyed.Repartition(through), stream.TableFrom(b, right, textStore("right")), dash)
	},
	"left-join-aggregate": func(b *stream.Builder, l text) text {
		sums := stream.GroupByKey(stream.From(b, right)).Reduce(append1, textStore("right"))
		return stream.LeftJoin(l, sums, dashOrNull)
	},
	"count": func(_ *stream.Builder, l text) text {
		return stream.MapValues(stream.GroupByKey(l).Count(store.KeyValue("counts", serde.String(), serde.Int64())).ToStream(), show)
	},
	"count-by-value": func(_ *stream.Builder, l text) text {
		return stream.MapValues(byValue(l).Count(store.KeyValue("counts", serde.String(), serde.Int64())).ToStream(), show)
	},
	"reduce": func(_ *stream.Builder, l text) text {
		return stream.GroupByKey(l).Reduce(append1, textStore("reduced")).ToStream()
	},
	"aggregate": func(_ *stream.Builder, l text) text {
		return stream.Aggregate(stream.GroupByKey(l), func() string { return "0" }, append1, textStore("sums")).ToStream()
	},
	"to-table": func(_ *stream.Builder, l text) text { return l.ToTable(textStore("table")).ToStream() },
	"filter":   func(_ *stream.Builder, l text) text { return l.Filter(func(_, v string) bool { return v < "b" }) },
	"filter-not": func(_ *stream.Builder, l text) text {
		return l.FilterNot(func(k, _ string) bool { return k == "x" })
	},
	"map": func(_ *stream.Builder, l text) text { return stream.Map(l, prefix) },
	"map-values": func(_ *stream.Builder, l text) text {
		return stream.MapValues(l, func(v string) string { return "v:" + v })
	},
	"select-key": func(_ *stream.Builder, l text) text {
		return stream.SelectKey(l, func(k, v string) string { return "k:" + k + v })
	},
	"flat-map": func(_ *stream.Builder, l text) text {
		return stream.FlatMap(l, func(k, v string) []stream.Pair[string, string] {
			return []stream.Pair[string, string]{{Key: k + "1", Value: v + "1"}, {Key: k + "2", Value: v + "2"}}
		})
	},
	"flat-map-values": func(_ *stream.Builder, l text) text {
		return stream.FlatMapValues(l, func(v string) []string { return strings.Split(v, ",") })
	},
	"empty-values": func(_ *stream.Builder, l text) text {
		empty := func(_, v string) bool { return v == "" }
		return stream.Map(l, prefix).Filter(empty).Merge(
			stream.MapValues(l, double).Filter(empty),
			stream.FlatMap(l, pairs).Filter(empty),
			stream.FlatMapValues(l, split).Filter(empty))
	},
	"merge": func(b *stream.Builder, l text) text { return l.Merge(stream.From(b, right), l) },
	"repartition": func(_ *stream.Builder, l text) text {
		return l.Repartition(stream.Through("again", serde.String(), serde.String()))
	},
}

// step is one line of a script.
type step struct {
	name string
	to   string
	rec  textRecord
}

func parseScript(t *testing.T, d *datadriven.TestData) []step {
	var steps []step
	for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
		f := strings.Fields(line)
		value, at, ok := strings.Cut(f[len(f)-1], "@")
		ms, err := strconv.ParseInt(at, 10, 64)
		if len(f) != 4 || !ok || err != nil {
			d.Fatalf(t, "cannot read %q", line)
		}
		r := textRecord{Key: f[2], Value: value, Time: time.UnixMilli(base + ms).UTC()}
		if r.NullKey = r.Key == "null"; r.NullKey {
			r.Key = ""
		}
		if r.NullValue = value == "null"; r.NullValue {
			r.Value = ""
		}
		r.Headers = []processor.Header{{Key: "step", Value: []byte(f[0])}}
		steps = append(steps, step{f[0], f[1], r})
	}
	return steps
}

// mode is a way to run a script that must not show in what comes out.
type mode struct {
	name    string
	options []streamtest.Option
	between func(d *streamtest.Driver)
	whole   bool // outputs cannot be told apart by step
	// oneInput: not for scripts with two topics. What was processed as it came is processed again with all of it there,
	// and then the topics are merged by time.
	oneInput bool
}

var modes = []mode{
	{name: "crash", between: (*streamtest.Driver).Crash},
	{name: "crash losing the disk", between: (*streamtest.Driver).CrashLosingDisk},
	{name: "pebble", options: []streamtest.Option{streamtest.Pebble()}},
	{name: "pebble, crash", options: []streamtest.Option{streamtest.Pebble()}, between: (*streamtest.Driver).Crash},
	{name: "pebble, crash losing the disk", options: []streamtest.Option{streamtest.Pebble()}, between: (*streamtest.Driver).CrashLosingDisk},
	{name: "three partitions", options: []streamtest.Option{streamtest.Partitions(3)}},
	{name: "three partitions, crash", options: []streamtest.Option{streamtest.Partitions(3)}, between: (*streamtest.Driver).Crash},
	{name: "one epoch", options: []streamtest.Option{streamtest.ManualCommit()}, whole: true},
	{name: "one epoch, aborted after each step", options: []streamtest.Option{streamtest.ManualCommit()},
		between: (*streamtest.Driver).Abort, whole: true, oneInput: true},
	{name: "epochs of four records", options: []streamtest.Option{streamtest.CommitEvery(4)}, whole: true},
}

// run plays a script and returns what came out, by step, and what was dropped.
func run(t *testing.T, top *topology.Topology, steps []step, m mode) (byStep [][]string, dropped map[string]int64) {
	t.Helper()
	d := streamtest.New(t, top, m.options...)
	defer d.Close()
	result := streamtest.Out(d, out)
	for i, s := range steps {
		if i > 0 && m.between != nil {
			m.between(d)
		}
		in := left
		if s.to == "R" {
			in = right
		}
		streamtest.In(d, in).SendRecord(s.rec)
		byStep = append(byStep, lines(result.All()))
	}
	d.Commit()
	d.Settle()
	if late := lines(result.All()); m.whole {
		byStep = [][]string{append(slices.Concat(byStep...), late...)}
	} else if len(late) > 0 {
		t.Errorf("%s: output after the last step: %q", m.name, late)
	}
	return byStep, d.Dropped()
}

func lines(rs []textRecord) (all []string) {
	for _, r := range rs {
		k, v := r.Key, r.Value
		if r.NullKey {
			k = "null"
		}
		if r.NullValue {
			v = "null"
		}
		line := fmt.Sprintf("%s %s@%d", k, v, r.Time.UnixMilli()-base)
		for _, h := range r.Headers {
			line += fmt.Sprintf(" %s:%s", h.Key, h.Value)
		}
		all = append(all, line)
	}
	return all
}

func TestGoldenTables(t *testing.T) {
	seen := map[string]bool{}
	datadriven.RunTest(t, "testdata/golden", func(t *testing.T, d *datadriven.TestData) string {
		verb := tables[d.Cmd]
		if verb == nil {
			d.Fatalf(t, "no such topology: %s", d.Cmd)
		}
		seen[d.Cmd] = true
		b := stream.NewBuilder()
		verb(b, stream.From(b, left)).To(out)
		top, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		if err := top.DryRun(); err != nil {
			t.Fatal(err)
		}
		steps := parseScript(t, d)
		straight, dropped := run(t, top, steps, mode{name: "straight"})
		for _, m := range modes {
			two := slices.ContainsFunc(steps, func(s step) bool { return s.to == "R" })
			if two && (m.oneInput || m.whole && len(top.Subtopologies()) > 1) {
				continue // a repartition topic shows its records at the commit: they meet the other topic later
			}
			got, _ := run(t, top, steps, m)
			want := straight
			if m.whole {
				want = [][]string{slices.Concat(straight...)}
			}
			if !slices.EqualFunc(got, want, slices.Equal[[]string]) {
				t.Errorf("%s: mode %q gives\n%q, and straight\n%q", d.Cmd, m.name, got, want)
			}
		}
		var text strings.Builder
		for i, lines := range straight {
			for _, line := range lines {
				fmt.Fprintf(&text, "%s -> %s\n", steps[i].name, line)
			}
		}
		var drops []string
		for what, n := range dropped {
			drops = append(drops, fmt.Sprintf("dropped %d by %s\n", n, what))
		}
		sort.Strings(drops)
		return text.String() + strings.Join(drops, "")
	})
	for name := range tables {
		if !seen[name] {
			t.Errorf("%s has no golden table", name)
		}
	}
}
