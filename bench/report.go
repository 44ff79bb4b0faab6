package main

import (
	"fmt"
	"slices"
	"strings"
)

// column is one of a table. It is left out where no run has something to say in it.
type column struct {
	head string
	has  metric
	text func(c, base cell) string
}

func number(head string, f metric, format string) column {
	return column{head, f, func(c, _ cell) string { return fmt.Sprintf(format, c.mid(f)) }}
}

// spread prints the median in bold, with the least and the greatest when there is more than one run.
func spread(head string, f metric, show func(float64) string) column {
	return column{head, f, func(c, _ cell) string {
		mid, low, high := c.spread(f)
		if len(c.runs) == 1 {
			return "**" + show(mid) + "**"
		}
		return fmt.Sprintf("**%s** [%s..%s]", show(mid), show(low), show(high))
	}}
}

// of is a ratio to the figure's base.
func of(head string, f metric) column {
	return column{head, f, func(c, base cell) string {
		if v, ok := c.ratio(base, f); ok {
			return fmt.Sprintf("%.2f", v)
		}
		return "-"
	}}
}

func megabytes(v float64) string { return fmt.Sprintf("%.0f MB", v/(1<<20)) }
func seconds(v float64) string   { return fmt.Sprintf("%.2f s", v) }
func millis(v float64) string    { return fmt.Sprintf("%.0f", v) }

func columns() []column {
	return []column{
		spread("records/s", rate, thousands),
		of("of the bare loop", rate),
		number("CPU s/M", cpu, "%.2f"),
		number("from the first output on", steadyCPU, "%.2f"),
		of("CPU, of the bare loop's", cpu),
		{"broker CPU s/M", brokerCost, func(c, _ cell) string {
			if c.mid(brokerCost) == 0 {
				return "unknown"
			}
			return fmt.Sprintf("%.2f", c.mid(brokerCost))
		}},
		spread("p50 ms", quantile(func(l latency) float64 { return l.P50 }), millis),
		number("p90", quantile(func(l latency) float64 { return l.P90 }), "%.0f"),
		spread("p99", quantile(func(l latency) float64 { return l.P99 }), millis),
		number("p99.9", quantile(func(l latency) float64 { return l.P999 }), "%.0f"),
		number("max", quantile(func(l latency) float64 { return l.Max }), "%.0f"),
		number("app cores", quantile(func(l latency) float64 { return l.Cores }), "%.2f"),
		spread("kill to next committed output", comebackOf(func(k comeback) float64 { return k.Back }), seconds),
		number("start to it", comebackOf(func(k comeback) float64 { return k.Start }), "%.2f s"),
		number("state on disk", comebackOf(func(k comeback) float64 { return float64(k.State) / 1e9 }), "%.2f GB"),
		number("replay tail, records", comebackOf(func(k comeback) float64 { return float64(k.Tail) }), "%.0f"),
		number("stores rebuilt", comebackOf(func(k comeback) float64 { return float64(k.Rebuilt) }), "%.0f"),
		spread("restore", func(r result) float64 { return r.Restore }, seconds),
		spread("peak RSS", rss, megabytes),
		number("growth of the last third", memoryGrowth, "%.2f"),
		spread("start to first output", firstOutput, seconds),
		number("commit", func(r result) float64 { return r.CommitMS }, "%.0f ms"),
		{"outputs", func(r result) float64 { return float64(r.Outputs) }, func(c, _ cell) string {
			return thousands(c.mid(func(r result) float64 { return float64(r.Outputs) }))
		}},
		number("allocs", func(r result) float64 { return r.Allocs }, "%.2f"),
		number("bytes", func(r result) float64 { return r.AllocBytes }, "%.0f"),
		number("idle, cores", idle, "%.3f"),
	}
}

func brokerCost(r result) float64 {
	if r.BrokerCPU == nil {
		return 0
	}
	return *r.BrokerCPU
}

// report is what is printed and written.
func (s sections) report() string {
	var out strings.Builder
	out.WriteString("# Figures\n\nWritten by the command that is named below each figure; README.md says how it is measured. Medians of runs in turns, with least and\n" +
		"greatest; ratios are medians of the ratios inside a round. CPU is user and system time of the process from its start, per million input records. All runs\n" +
		"are in results.json. NOISY: runs during which others used more than " + fmt.Sprint(noisyForeign) + " of the machine's processors, or its host took more than " + fmt.Sprint(noisyStolen) + ".\n")
	out.WriteString(s.marks())
	for _, f := range figures() {
		if one, ok := s.of(f.name); ok {
			out.WriteString(one.report(f))
		}
	}
	return out.String()
}

func (s section) report(f figure) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n## %s\n", f.title)
	if f.text != "" {
		fmt.Fprintf(&out, "\n%s\n", f.text)
	}
	if len(s.Runs) > 0 {
		fmt.Fprintf(&out, "\n![%s](%s/%s.svg)\n\n%s", f.title, figuresDir, f.name, s.table(f))
	}
	for _, line := range s.Skipped {
		fmt.Fprintf(&out, "\nNot measured: %s.\n", strings.TrimSuffix(line, "."))
	}
	fmt.Fprintf(&out, "\n<sub>%s, commit %s, `%s`; %s; %s; %s</sub>\n", s.When, s.Commit, s.Command, s.Broker, s.Machine, s.Go)
	return out.String()
}

func (s section) table(f figure) string {
	cells := s.cells()
	used := slices.DeleteFunc(columns(), func(c column) bool {
		base := strings.Contains(c.head, "bare loop")
		return base && f.base == "" || !slices.ContainsFunc(cells, func(one cell) bool { return len(one.runs) > 0 && one.mid(c.has) != 0 })
	})
	several := slices.ContainsFunc(cells, func(c cell) bool { return c.name != cells[0].name })
	var out strings.Builder
	out.WriteString("| |")
	if several {
		out.WriteString(" |")
	}
	for _, c := range used {
		out.WriteString(" " + c.head + " |")
	}
	out.WriteString(" runs |\n" + strings.Repeat("|---", len(used)+2))
	if several {
		out.WriteString("|---")
	}
	out.WriteString("|\n")
	for _, c := range cells {
		if several {
			fmt.Fprintf(&out, "| %s ", c.name)
		}
		fmt.Fprintf(&out, "| %s |", c.title)
		base, _ := s.cell(c.name, f.base)
		for _, col := range used {
			text := "-"
			if len(c.runs) > 0 && c.mid(col.has) != 0 {
				text = col.text(c, base)
			}
			out.WriteString(" " + text + " |")
		}
		fmt.Fprintf(&out, " %s |\n", c.count())
	}
	return out.String()
}

// count says how many runs there were, and how many of them say less than they should.
func (c cell) count() string {
	text := fmt.Sprint(len(c.runs))
	if n := c.noisy(); n > 0 {
		text += fmt.Sprintf(", %d NOISY", n)
	}
	if len(c.runs) > 0 {
		if part := c.mid(func(r result) float64 { return r.Cut }); part > 0 {
			text += fmt.Sprintf(", cut at %.0f %%", 100*part)
		}
	}
	if len(c.failed) > 0 {
		text += fmt.Sprintf(", %d failed: %s", len(c.failed), strings.ReplaceAll(c.failed[0], "|", "/"))
	}
	return text
}

// line is a result for a person who waits.
func (r result) line() string {
	text := fmt.Sprintf("%-18s", r.Program)
	if r.Rate > 0 {
		text += fmt.Sprintf(" %9.0f records/s  %5.2f CPU s/M  first output %.2f s", r.Rate, r.CPU, r.First)
	}
	if r.Cut > 0 {
		text += fmt.Sprintf("  cut at %.0f %%", 100*r.Cut)
	}
	if l := r.Latency; l != nil {
		text += fmt.Sprintf(" p50 %.0f  p99 %.0f  max %.0f ms", l.P50, l.P99, l.Max)
	}
	if k := r.Kill; k != nil {
		text += fmt.Sprintf(" back after %.2f s (%.2f s from its start), tail %d records", k.Back, k.Start, k.Tail)
	}
	if m := r.Memory; m != nil {
		text += fmt.Sprintf(" peak %s at a limit of %s, growth %.2f", megabytes(float64(r.RSS)), megabytes(float64(m.Limit)), m.Growth)
	}
	if r.noisy() {
		text += fmt.Sprintf("  NOISY (others %.1f, stolen %.1f cores)", r.Foreign, r.Stolen)
	}
	return text
}
