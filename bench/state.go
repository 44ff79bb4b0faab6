package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/bench/internal/measure"
)

// stateBenchmarks are the Go benchmarks of single operations on state, by the names that Flink's have. Each is run in its package, with
// and without a time to live.
var stateBenchmarks = []struct{ pkg, pattern string }{
	{"./store", "^Benchmark(Table|ColdGet)$"},
	{"./store", "^Benchmark(Value|List|Map)State$"},
	{"./store", "^BenchmarkTtl(Value|List|Map)State$/^(valueUpdate|valueGet|listAppend|listGet|mapUpdate|mapGet)$/^Expire3Percent$/./^NeverReturnExpired$"},
	{"./timers", "^BenchmarkTimers$"},
	{"./internal/task", "^BenchmarkFireProcessingTimers$"},
}

// states measures single operations, each on one core.
func (b *bench) states(ctx context.Context, f figure) error {
	long := "1s"
	if b.quick {
		long = "100ms"
	}
	for run := range b.runs {
		for _, one := range stateBenchmarks {
			probe, started := measure.Probe(probeTime), time.Now().UTC().Format("2006-01-02 15:04:05")
			cmd := exec.CommandContext(ctx, "go", "test", one.pkg, "-run", "^$", "-bench", one.pattern, "-benchmem", "-benchtime", long, "-timeout", "30m")
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				return err
			}
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				r, ok := operation(lines.Text())
				if !ok {
					continue
				}
				r.Figure, r.Run, r.Probe, r.Started = f.name, run+1, probe, started
				say("  %-40s %-7s %12s a second", r.Case, r.Program, thousands(r.Rate))
				if err := b.add(r); err != nil {
					return errors.Join(err, cmd.Wait())
				}
			}
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("go test %s -bench %s: %w", one.pkg, one.pattern, err)
			}
		}
	}
	return nil
}

var procs = regexp.MustCompile(`-\d+$`)

// operation reads a line of a benchmark: its name, and pairs of a number and a unit.
func operation(line string) (r result, ok bool) {
	words := strings.Fields(line)
	if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
		return r, false
	}
	r.Case, r.Program = operationName(procs.ReplaceAllString(words[0], ""))
	r.Title = r.Program
	r.Records, _ = strconv.ParseInt(words[1], 10, 64)
	for i := 2; i+1 < len(words); i += 2 {
		v, err := strconv.ParseFloat(words[i], 64)
		if err != nil || v <= 0 {
			continue
		}
		switch words[i+1] {
		case "ns/op":
			r.Rate = 1e9 / v
		case "allocs/op":
			r.Allocs = v
		case "B/op":
			r.AllocBytes = v
		}
	}
	return r, r.Rate > 0
}

// operationName is what a benchmark is about, and the engine it ran on.
func operationName(bench string) (name, engine string) {
	parts := strings.Split(strings.TrimPrefix(bench, "Benchmark"), "/")
	engine = "pebble"
	if last := parts[len(parts)-1]; last == "memory" || last == "pebble" {
		engine, parts = last, parts[:len(parts)-1]
	}
	switch group := parts[0]; {
	case group == "ColdGet":
		return "get of a row that is on disk", engine
	case group == "Table" && len(parts) > 1:
		return map[string]string{"get": "get of a row in memory", "get-put": "get and put of a row in memory", "apply": "put of a row, and its share of a commit of 5,000"}[parts[1]], engine
	case strings.HasPrefix(group, "Ttl") && len(parts) > 3:
		return parts[1] + ", time to live, " + parts[3], engine
	case group == "Timers" && len(parts) > 1:
		return parts[1] + " a timer, 1M pending", engine
	case len(parts) > 1:
		return parts[1], engine
	}
	return "fireProcessingTimers, 150,000 of them", "memory"
}

// costsFile is beside the report's directory.
const costsFile = "../docs/state-costs.md"

// costs writes the page for users of the library: what an operation costs.
func (s section) costs(dir string) error {
	path := filepath.Join(dir, costsFile)
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil // the report goes somewhere else
	}
	var out strings.Builder
	out.WriteString(`# What state costs

One operation, on one core, with its key and value encoded and decoded. Written by the command below; do not edit.

- **The first touch of a row in an epoch is the dear one.** Rows read or written again in the epoch, or that were used lately, are in memory: no disk, no
  allocation. So reading a value, changing it and putting it back costs one look-up more than reading it.
- **Rows that are not in memory are read from disk one by one, unless somebody says beforehand which will be needed.** Verbs of the language do that by
  themselves; a processor says it with ` + "`Prefetch`" + ` (processor.Prefetcher): the rows of many records are then read in one pass.
- **A list or map is a row per element.** Adding one does not depend on how many there are. Walking over all is a scan: some microseconds to begin, then
  a fraction of one for each element.
- **The changelog gets the last value of each row of an epoch**, however often it was written in it.
- **A time to live** adds eight bytes to a row, and a look at the clock to each read. OnReadAndWrite makes a write of each read: give it a refresh
  granularity.
- **A timer** is a row: setting, deleting and firing one cost the same whatever is pending.

| operation | Pebble, ns | memory, ns | allocations |
|---|---|---|---|
`)
	ns := func(name, engine string) (text string, allocs float64) {
		c, ok := s.cell(name, engine)
		if !ok {
			return "-", 0
		}
		return thousands(1e9 / c.mid(rate)), c.mid(func(r result) float64 { return r.Allocs })
	}
	done := map[string]bool{}
	for _, c := range s.cells() {
		if done[c.name] {
			continue
		}
		done[c.name] = true
		disk, allocs := ns(c.name, "pebble")
		memory, more := ns(c.name, "memory")
		fmt.Fprintf(&out, "| %s | %s | %s | %.0f |\n", c.name, disk, memory, max(allocs, more))
	}
	fmt.Fprintf(&out, "\n<sub>%s, commit %s, `%s`; %s; %s</sub>\n", s.When, s.Commit, s.Command, s.Machine, s.Go)
	return os.WriteFile(path, []byte(out.String()), 0o644)
}
