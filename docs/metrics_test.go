package docs_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/observe/prom"
)

var metricRow = regexp.MustCompile("(?m)^\\| `(millrace_[a-z_]+)` \\| ([^|]+) \\| ([^|]+) \\| ([^|]+) \\| (.+) \\|$")

// TestMetricsAreListed: docs/metrics.md has a row for every metric that is exported, saying the same of it, and none for another. That what
// Metrics lists is what is gathered is a test of observe/prom.
func TestMetricsAreListed(t *testing.T) {
	text, err := os.ReadFile("metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	byName := map[string]prom.Metric{}
	for _, m := range prom.Metrics() {
		byName[m.Name] = m
	}
	if len(byName) < 50 {
		t.Fatalf("only %d metrics are exported", len(byName))
	}
	for _, row := range metricRow.FindAllStringSubmatch(string(text), -1) {
		m, ok := byName[row[1]]
		switch {
		case !ok:
			t.Errorf("%s is in docs/metrics.md and is not exported", row[1])
			continue
		case listed[row[1]]:
			t.Errorf("%s is listed twice", row[1])
		}
		listed[row[1]] = true
		labels := "-"
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		unit := m.Unit
		if unit == "" {
			unit = "-"
		}
		for i, want := range []string{m.Type, labels, unit, m.Help} {
			if got := row[i+2]; got != want {
				t.Errorf("%s: docs/metrics.md says %q, the program %q", m.Name, got, want)
			}
		}
	}
	for name := range byName {
		if !listed[name] {
			t.Errorf("%s is not in docs/metrics.md", name)
		}
	}
}
