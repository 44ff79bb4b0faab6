package main

import (
	"fmt"
	"strings"
)

// mark is something that a figure should reach.
type mark struct {
	figure, what string
	goal         string
	// measure returns what was measured over what is asked for: 1 or more is met. ok is false if it was not measured.
	measure func(s sections) (got string, over float64, ok bool)
}

// at least so many times the base.
func (s sections) times(figure, name, program, base string, f metric, least float64) (got string, over float64, ok bool) {
	v, ok := s.compare(figure, name, program, base, f)
	return fmt.Sprintf("%.2f x", v), v / least, ok
}

// at most such a part of the base.
func (s sections) part(figure, name, program, base string, f metric, most float64) (got string, over float64, ok bool) {
	v, ok := s.compare(figure, name, program, base, f)
	if !ok || v == 0 {
		return "", 0, false
	}
	return "1/" + fmt.Sprintf("%.1f", 1/v), most / v, true
}

func (s sections) compare(figure, name, program, base string, f metric) (float64, bool) {
	one, _ := s.of(figure)
	c, ok := one.cell(name, program)
	other, known := one.cell(name, base)
	if !ok || !known {
		return 0, false
	}
	return c.ratio(other, f)
}

// at most so much of something.
func (s sections) most(figure, name, program string, f metric, limit float64, format string) (got string, over float64, ok bool) {
	one, _ := s.of(figure)
	c, ok := one.cell(name, program)
	if !ok || c.mid(f) == 0 {
		return "", 0, false
	}
	return fmt.Sprintf(format, c.mid(f)), limit / c.mid(f), true
}

// The names under which the peers are known here.
const (
	kstreamsSame    = "ks-eos-nocache" // one output per input, as millrace
	kstreamsDefault = "ks-eos"
	flinkSecond     = "flink-eos-1000"
	flinkTenth      = "flink-eos-100"
)

type measured func(s sections) (string, float64, bool)

func times(figure, name, base string, f metric, least float64) measured {
	return func(s sections) (string, float64, bool) { return s.times(figure, name, "millrace", base, f, least) }
}

func part(figure, name, base string, f metric, most float64) measured {
	return func(s sections) (string, float64, bool) { return s.part(figure, name, "millrace", base, f, most) }
}

func most(figure, name string, f metric, limit float64, format string) measured {
	return func(s sections) (string, float64, bool) { return s.most(figure, name, "millrace", f, limit, format) }
}

// marks are those of the project.
func marks() []mark {
	const hot, wide = "zipf 100k", "uniform 1M"
	return []mark{
		{"count", "zipf 100k keys, beside the bare loop with a changelog record per input", ">= 0.80", times("count", hot, "raw-changelog", rate, 0.80)},
		{"count", "the same, beside the bare loop with two goroutines", "no mark", times("count", hot, "raw-changelog-2", rate, 0)},
		{"count", "records/s, beside Kafka Streams without its cache", ">= 8 x", times("count", hot, kstreamsSame, rate, 8)},
		{"count", "CPU per record, beside Kafka Streams without its cache", "<= 1/10", part("count", hot, kstreamsSame, cpu, 1./10)},
		{"count", "the same from the first output on", "no mark", part("count", hot, kstreamsSame, steadyCPU, 1)},
		{"count", "records/s, beside Kafka Streams as it comes", ">= 4 x", times("count", hot, kstreamsDefault, rate, 4)},
		{"count", "CPU per record, beside Kafka Streams as it comes", "<= 1/6", part("count", hot, kstreamsDefault, cpu, 1./6)},
		{"count", "the same from the first output on", "no mark", part("count", hot, kstreamsDefault, steadyCPU, 1)},
		{"count", "records/s, beside Flink with checkpoints of 1 s", ">= 4 x", times("count", hot, flinkSecond, rate, 4)},
		{"count", "CPU per record, beside Flink with checkpoints of 1 s", "<= 1/8", part("count", hot, flinkSecond, cpu, 1./8)},
		{"count", "the same from the first output on", "no mark", part("count", hot, flinkSecond, steadyCPU, 1)},
		{"count", "uniform 1M keys in 512 MiB, beside the bare loop", ">= 0.60", times("count", wide, "raw-changelog", rate, 0.60)},
		{"count", "uniform 1M keys, records/s beside Kafka Streams as it comes", ">= 10 x", times("count", wide, kstreamsDefault, rate, 10)},
		{"count", "uniform 1M keys, CPU per record beside Kafka Streams as it comes", "<= 1/12", part("count", wide, kstreamsDefault, cpu, 1./12)},
		{"count", "the same from the first output on", "no mark", part("count", wide, kstreamsDefault, steadyCPU, 1)},
		{"large", "uniform 10M keys in 512 MiB, beside the bare loop", ">= 0.20", times("large", "uniform 10M", "raw-changelog", rate, 0.20)},
		{"large", "uniform 10M keys, records/s beside Kafka Streams with as much memory", ">= 5 x", times("large", "uniform 10M", kstreamsDefault, rate, 5)},
		{"pass", "pass-through, beside the bare loop", ">= 0.90", times("pass", hot, "raw", rate, 0.90)},
		{"latency", "p99 at 20k/s, commits of 100 ms", "<= 130 ms", most("latency", "20k/s, 100ms", p99, 130, "%.0f ms")},
		{"latency", "p99 at 20k/s, commits of 10 ms", "<= 35 ms", most("latency", "20k/s, 10ms", p99, 35, "%.0f ms")},
		{"latency", "p99 at 20k/s, commits of 100 ms, beside Kafka Streams without its cache", "below", part("latency", "20k/s, 100ms", kstreamsSame, p99, 1)},
		{"latency", "p99 at 20k/s, commits of 100 ms, beside Flink with checkpoints of 100 ms", "below", part("latency", "20k/s, 100ms", flinkTenth, p99, 1)},
		{"restore", "1M keys x 100 B, beside a bare read-and-ingest loop", ">= 0.85", times("restore", restoreCase, "raw-ingest", rate, 0.85)},
		{"restore", "1M keys x 100 B, beside Kafka Streams", ">= 4 x", times("restore", restoreCase, kstreamsDefault, rate, 4)},
		{"kill", "kill -9 to next output, 1 GB of state, static membership", "<= 5 s", most("kill", "1 GB, static", back, 5, "%.1f s")},
		{"kill", "the same without static membership", "<= session + 2 s", backWithoutStatic},
		{"kill", "stores rebuilt after it", "0", nothingRebuilt},
		{"state", "get of a value in memory, one core", ">= 2M/s", operations("valueGet", 2e6)},
		{"state", "update of a value in memory, one core", ">= 2M/s", operations("valueUpdate", 2e6)},
		{"state", "get of a row on disk, one core", ">= 200,000/s", operations("get of a row that is on disk", 200_000)},
		{"state", "rows put and committed in batches of 5,000, one core", ">= 1M/s", operations("put of a row, and its share of a commit of 5,000", 1e6)},
		{"memory", "peak memory at a limit of 256 MiB, 10M keys", "<= 1.25 x limit + 64 MiB", peakMemory},
		{"memory", "growth over the last third", "none (<= 1.05)", most("memory", memoryCase, memoryGrowth, 1.05, "%.2f")},
		{"partitions", "256 partitions beside 4", ">= 0.85", manyBesideFew},
		{"partitions", "idle CPU at 256 partitions", "<= 3 % of a core", most("partitions", "256", idle, 0.03, "%.3f cores")},
		{"count", "allocations per record, warm keys", "<= 1", most("count", hot, func(r result) float64 { return r.Allocs }, 1, "%.2f")},
		{"count", "bytes allocated per record, warm keys", "<= 200", most("count", hot, func(r result) float64 { return r.AllocBytes }, 200, "%.0f")},
	}
}

// operations of one kind, on Pebble, in a second.
func operations(name string, least float64) measured {
	return func(s sections) (string, float64, bool) {
		one, _ := s.of("state")
		c, ok := one.cell(name, "pebble")
		if !ok {
			return "", 0, false
		}
		return thousands(c.mid(rate)) + "/s", c.mid(rate) / least, true
	}
}

func p99(r result) float64  { return quantile(func(l latency) float64 { return l.P99 })(r) }
func back(r result) float64 { return comebackOf(func(k comeback) float64 { return k.Back })(r) }

func idle(r result) float64 {
	if r.Idle == nil {
		return 0
	}
	return *r.Idle
}

func memoryGrowth(r result) float64 {
	if r.Memory == nil {
		return 0
	}
	return r.Memory.Growth
}

// backWithoutStatic is measured against the session timeout of the run, which a restart has to wait for.
func backWithoutStatic(s sections) (string, float64, bool) {
	one, _ := s.of("kill")
	c, ok := one.cell("1 GB", "millrace")
	if !ok {
		return "", 0, false
	}
	limit := c.mid(comebackOf(func(k comeback) float64 { return k.Session })) + 2
	return fmt.Sprintf("%.1f s of %.0f", c.mid(back), limit), limit / c.mid(back), true
}

// peakMemory is measured against the limit of the run.
func peakMemory(s sections) (string, float64, bool) {
	one, _ := s.of("memory")
	c, ok := one.cell(memoryCase, "millrace")
	if !ok {
		return "", 0, false
	}
	return megabytes(c.mid(rss)), (1.25*memoryLimit + 64*mib) / c.mid(rss), true
}

// nothingRebuilt looks at all restarts: not one may have thrown away what was on disk.
func nothingRebuilt(s sections) (string, float64, bool) {
	one, _ := s.of("kill")
	n, seen := int64(0), false
	for _, r := range one.Runs {
		if r.Kill != nil && r.Program == "millrace" {
			n, seen = n+r.Kill.Rebuilt, true
		}
	}
	if n > 0 {
		return fmt.Sprint(n), 0, seen
	}
	return "0", 1, seen
}

// manyBesideFew compares cases, not programs.
func manyBesideFew(s sections) (string, float64, bool) {
	one, _ := s.of("partitions")
	many, ok := one.cell("256", "millrace")
	few, known := one.cell("4", "millrace")
	if !ok || !known {
		return "", 0, false
	}
	v, ok := many.ratio(few, rate)
	return fmt.Sprintf("%.2f x", v), v / 0.85, ok
}

func (s sections) marks() string {
	var out strings.Builder
	for _, m := range marks() {
		got, over, ok := m.measure(s)
		verdict := "not measured"
		switch {
		case ok && m.goal == "no mark":
			verdict = "-"
		case ok && over >= 1:
			verdict = "met"
		case ok:
			verdict = fmt.Sprintf("**missed** by %.0f %%", 100*(1-over))
		default:
			got = "-"
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", m.figure, m.what, m.goal, got, verdict)
	}
	return "\n## Marks\n\n| figure | mark | goal | measured | |\n|---|---|---|---|---|\n" + out.String()
}
