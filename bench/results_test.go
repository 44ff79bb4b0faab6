package main

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func sectionOf(figure, commit string, runs ...result) section {
	for i := range runs {
		runs[i].Figure = figure
	}
	return section{Figure: figure, circumstances: circumstances{Commit: commit, Command: "go run ./bench -only " + figure}, Runs: runs}
}

// TestASectionReplacesItsOwn: a call that measures one figure leaves the others as they are, each with its own commit.
func TestASectionReplacesItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cost := 0.5
	old := sections{}.put(sectionOf("latency", "aaa", result{Case: "20k/s, 100ms", Program: "millrace", Title: "millrace", Run: 1, Latency: &latency{P99: 99}})).
		put(sectionOf("pass", "aaa", result{Case: "zipf 100k", Program: "raw", Title: "bare loop", Run: 1, Rate: 100, BrokerCPU: &cost}))
	if err := old.write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readSections(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, old) {
		t.Errorf("written %+v\nread %+v", old, got)
	}
	if got[0].Figure != "pass" { // the order of the report, not of the calls
		t.Errorf("%s comes first", got[0].Figure)
	}

	b := &bench{config: config{only: "pass", out: dir}, skipped: map[string][]string{"pass": {"large: too little disk"}}}
	b.all = []result{{Figure: "pass", Case: "zipf 100k", Program: "raw", Title: "bare loop", Run: 1, Rate: 250}}
	if err := b.keep(b.chosen()[0], circumstances{Commit: "bbb"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"**250**", "commit bbb", "**99**", "commit aaa", "Not measured: large: too little disk."} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	if strings.Contains(string(text), "**100**") {
		t.Error("the old figure is still there")
	}
}

func TestResultsThatCannotBeReadAreNotOverwritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, resultsFile)
	if err := os.WriteFile(path, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bench{config: config{only: "pass", out: dir}, all: []result{{Figure: "pass", Rate: 1}}}
	if err := b.keep(b.chosen()[0], circumstances{}); err == nil || !strings.Contains(err.Error(), "delete the file") {
		t.Errorf("%v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "[{" {
		t.Errorf("%s", text)
	}
}

func TestMedians(t *testing.T) {
	t.Parallel()
	c := cell{runs: []result{{Rate: 30}, {Rate: 10}, {Rate: 20}}}
	if mid, low, high := c.spread(rate); mid != 20 || low != 10 || high != 30 {
		t.Errorf("%v %v %v", mid, low, high)
	}
	c.runs = append(c.runs, result{Rate: 40})
	if mid := c.mid(rate); math.Abs(mid-25) > 1e-9 {
		t.Errorf("%v", mid)
	}
}

// TestRatiosAreTakenInsideARound: a machine that is half as fast in one round does not change them.
func TestRatiosAreTakenInsideARound(t *testing.T) {
	t.Parallel()
	base := cell{runs: []result{{Run: 1, Rate: 100}, {Run: 2, Rate: 50}, {Run: 3, Rate: 100}}}
	c := cell{runs: []result{{Run: 1, Rate: 80}, {Run: 2, Rate: 40}, {Run: 4, Rate: 1}}} // the third failed, nobody did a fourth
	if v, ok := c.ratio(base, rate); !ok || v != 0.8 {
		t.Errorf("%v %v", v, ok)
	}
	if _, ok := c.ratio(cell{}, rate); ok {
		t.Error("a ratio to nothing")
	}
}

// TestMarks: met, missed with how much, and not measured.
func TestMarks(t *testing.T) {
	t.Parallel()
	idleCores := 0.06
	s := sections{
		sectionOf("count", "a",
			result{Case: "zipf 100k", Program: "raw-changelog", Run: 1, Rate: 1000, CPU: 1},
			result{Case: "zipf 100k", Program: "millrace", Run: 1, Rate: 850, CPU: 2, Allocs: 1.25, AllocBytes: 150},
			result{Case: "zipf 100k", Program: kstreamsSame, Run: 1, Rate: 100, CPU: 18, SteadyCPU: 18}),
		sectionOf("partitions", "a",
			result{Case: "4", Program: "millrace", Run: 1, Rate: 1000},
			result{Case: "256", Program: "millrace", Run: 1, Rate: 680, Idle: &idleCores}),
		sectionOf("kill", "a",
			result{Case: "1 GB", Program: "millrace", Run: 1, Kill: &comeback{Back: 7.5, Session: 6}},
			result{Case: "0.1 GB", Program: "millrace", Run: 1, Kill: &comeback{Back: 7, Session: 6, Rebuilt: 1}}),
		sectionOf("memory", "a", result{Case: memoryCase, Program: "millrace", RSS: 384 * mib, Memory: &growth{Growth: 1.01}}),
	}
	text := s.marks()
	for _, want := range []string{
		"| >= 0.80 | 0.85 x | met |",
		"| >= 8 x | 8.50 x | met |",
		"| <= 1/10 | 1/9.0 | **missed** by 10 % |",
		"| <= 1 | 1.25 | **missed** by 20 % |",
		"| <= 200 | 150 | met |",
		"| >= 0.85 | 0.68 x | **missed** by 20 % |",
		"| <= 3 % of a core | 0.060 cores | **missed** by 50 % |",
		"| <= session + 2 s | 7.5 s of 8 | met |",
		"| 0 | 1 | **missed** by 100 % |",
		"| <= 1.25 x limit + 64 MiB | 384 MB | met |",
		"| >= 0.60 | - | not measured |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the marks do not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// TestATableHasWhatWasMeasured: no column that is empty, and failures and noise in the last.
func TestATableHasWhatWasMeasured(t *testing.T) {
	t.Parallel()
	s := sectionOf("count", "a",
		result{Case: "zipf 100k", Program: "raw-changelog", Title: "bare loop", Run: 1, Rate: 2000, Foreign: 1},
		result{Case: "zipf 100k", Program: "millrace", Title: "millrace", Run: 1, Rate: 1000},
		result{Case: "uniform 1M", Program: "millrace", Title: "millrace", Run: 1, Failed: "it | broke"})
	var f figure
	for _, one := range figures() {
		if one.name == "count" {
			f = one
		}
	}
	text := s.report(f)
	for _, want := range []string{
		"| | | records/s | of the bare loop | runs |",
		"| zipf 100k | bare loop | **2,000** | 1.00 | 1, 1 NOISY |",
		"| zipf 100k | millrace | **1,000** | 0.50 | 1 |",
		"| uniform 1M | millrace | - | - | 0, 1 failed: it / broke |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
}

func TestPictures(t *testing.T) {
	t.Parallel()
	bars := drawBars(figure{title: "A <figure>"}, sectionOf("count", "a",
		result{Case: "x", Program: "one", Title: "one & only", Run: 1, Rate: 500}, result{Case: "y", Program: "one", Title: "one & only", Run: 1, Rate: 1000}))
	for _, want := range []string{"A &lt;figure&gt;", "one &amp; only", ">x</text>", `width="240.0"`, `width="480.0"`, ">500</text>", ">1k</text>"} {
		if !strings.Contains(bars, want) {
			t.Errorf("the picture has no %s:\n%s", want, bars)
		}
	}
	s := sectionOf("memory", "a", result{Title: "millrace", Memory: &growth{Samples: []int64{0, 100 * mib, 200 * mib}}})
	if lines := drawLines(figure{}, s.lines()); !strings.Contains(lines, `points="60.0,360.0 445.0,210.0 830.0,60.0"`) {
		t.Error(lines)
	}
	if drawBars(figure{}, section{}) != "" {
		t.Error("a picture of nothing")
	}
	for n, want := range map[float64]string{0.314: "0.314", 12: "12", 999: "999", 1500: "1.5k", 672_832: "673k", 2_000_000: "2M"} {
		if got := short(n); got != want {
			t.Errorf("%v is %s", n, got)
		}
	}
}

func TestGrowthLeavesOutTheStart(t *testing.T) {
	t.Parallel()
	if v := grown([]int64{1, 50, 90, 100, 100, 900, 110, 110, 110}); v != 1.1 {
		t.Errorf("%v", v)
	}
}
