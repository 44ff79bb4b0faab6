package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHarness runs some of it, small, on the embedded broker: its figures mean nothing, that it ends with some means it works.
func TestHarness(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out := t.TempDir()
	c, err := flags([]string{"-embedded", "-only", "pass,start,latency,kill,restore,memory", "-scale", "0.001", "-runs", "1", "-out", out,
		"-kill", "0.1", "-session", "1s", "-rates", "20000", "-commits", "100ms", "-measure", "500ms", "-memory-for", "3s"})
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	if err := run(ctx, c, &stdout); err != nil {
		t.Fatal(err)
	}
	got := map[string]result{}
	scan := bufio.NewScanner(&stdout)
	for scan.Scan() && (scan.Text() == "" || strings.HasPrefix(scan.Text(), "{")) {
		var r result
		if scan.Text() == "" {
			continue
		}
		if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", scan.Text(), err)
		}
		got[r.Figure+"/"+r.Case+"/"+r.Program] = r
	}
	for name, has := range map[string]func(result) bool{
		"pass/zipf 100k/raw":                 func(r result) bool { return r.BrokerCPU != nil && r.Outputs == r.Records }, // its CPU may be less than a clock tick
		"pass/zipf 100k/raw-2":               func(r result) bool { return r.Outputs == 2000 },
		"pass/zipf 100k/millrace":            func(r result) bool { return r.Outputs == 2000 && r.RSS > 0 && r.CPU > 0 && r.Commits > 0 },
		"start/no state/raw-changelog":       func(r result) bool { return r.First > 0 },
		"start/no state/millrace":            func(r result) bool { return r.First > 0 && r.Rate == 0 },
		"latency/20k/s, 100ms/raw-changelog": func(r result) bool { return r.Latency != nil && r.Latency.P50 > 0 && r.Latency.P50 <= r.Latency.Max },
		"latency/20k/s, 100ms/millrace":      func(r result) bool { return r.Latency != nil && r.Latency.P99 > 0 && r.Latency.Sent > 0 },
		"kill/0.1 GB/millrace": func(r result) bool {
			return r.Kill != nil && r.Kill.Back >= r.Kill.Start && r.Kill.Start > 0 && r.Kill.State > 0
		},
		"kill/0.1 GB, static/millrace":            func(r result) bool { return r.Kill != nil && r.Kill.Back >= r.Kill.Start && r.Kill.Start > 0 },
		"restore/" + restoreCase + "/raw-ingest":  func(r result) bool { return r.Rate > 0 && r.Records >= 1000 },
		"restore/" + restoreCase + "/raw-batches": func(r result) bool { return r.Rate > 0 && r.Records >= 1000 },
		"restore/" + restoreCase + "/millrace":    func(r result) bool { return r.Rate > 0 && r.Records >= 1000 && r.First > r.Restore },
		"memory/" + memoryCase + "/millrace":      func(r result) bool { return r.Memory != nil && len(r.Memory.Samples) >= 2 && r.Memory.Growth > 0 },
	} {
		if r, ok := got[name]; !ok || r.Failed != "" || r.Probe <= 0 || !has(r) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	text, err := os.ReadFile(filepath.Join(out, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## Pass-through, exactly once", "| bare loop, 2 goroutines |", "## From start", "| bare loop, ingest |", "## Marks", "commit ", "go run ./bench -embedded"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	// Not of "pass": two thousand records may all come in one commit, and then there is no rate to draw.
	for _, f := range []string{"start", "latency", "kill", "restore", "memory"} {
		if svg, err := os.ReadFile(filepath.Join(out, figuresDir, f+".svg")); err != nil || !bytes.HasPrefix(svg, []byte("<svg")) {
			t.Errorf("no picture of %s: %v", f, err)
		}
	}
}
