package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// circumstances are what a figure is worth nothing without.
type circumstances struct {
	When    string `json:"when"`
	Commit  string `json:"commit"`
	Command string `json:"command"`
	Machine string `json:"machine"`
	Broker  string `json:"broker"`
	Go      string `json:"go"`
}

func (b *bench) circumstances(ctx context.Context) circumstances {
	return circumstances{
		When: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Commit: commit(ctx), Command: b.asked, Machine: machine(), Broker: b.broker.what,
		Go: runtime.Version() + ", CGO_ENABLED=0",
	}
}

// commit is what the programs were built from.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	out, err = exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no", "--", "*.go", "go.mod").Output()
	if err != nil || len(out) > 0 {
		name += " with changes"
	}
	return name
}

// section is the results of one figure, all from one call.
type section struct {
	Figure string `json:"figure"`
	circumstances
	Skipped []string `json:"not_measured,omitempty"` // and why, a line each
	Runs    []result `json:"runs"`
}

// sections is the file of results: figures may come from different calls, and each knows its own.
type sections []section

func (s sections) of(figure string) (section, bool) {
	i := slices.IndexFunc(s, func(one section) bool { return one.Figure == figure })
	if i < 0 {
		return section{}, false
	}
	return s[i], true
}

// put replaces the section of a figure, or adds it in the order of the report.
func (s sections) put(one section) sections {
	s = slices.DeleteFunc(slices.Clone(s), func(old section) bool { return old.Figure == one.Figure })
	s = append(s, one)
	names := figureNames()
	slices.SortStableFunc(s, func(x, y section) int {
		return cmp.Compare(slices.Index(names, x.Figure), slices.Index(names, y.Figure))
	})
	return s
}

// sections are those of this call.
func (b *bench) sections(now circumstances) (all sections) {
	for _, f := range b.chosen() {
		one := section{Figure: f.name, circumstances: now, Skipped: b.skipped[f.name]}
		if f.peers && b.peers {
			one.Skipped = append(slices.Clone(one.Skipped), b.missing...)
		}
		for _, r := range b.all {
			if r.Figure == f.name {
				one.Runs = append(one.Runs, r)
			}
		}
		if one.Runs != nil || one.Skipped != nil {
			all = all.put(one)
		}
	}
	return all
}

const (
	resultsFile = "results.json"
	reportFile  = "RESULTS.md"
	figuresDir  = "figures"
)

// keep writes what there is so far of a figure into the report, beside the sections of other calls.
func (b *bench) keep(f figure, now circumstances) error {
	one, ok := b.sections(now).of(f.name)
	if b.out == "" || !ok {
		return nil
	}
	all, err := readSections(b.out)
	if err != nil {
		return err
	}
	return all.put(one).write(b.out)
}

func readSections(dir string) (all sections, err error) {
	text, err := os.ReadFile(filepath.Join(dir, resultsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("results of earlier calls: %w; delete the file to begin anew", err)
	}
	return slices.DeleteFunc(all, func(s section) bool { return !slices.Contains(figureNames(), s.Figure) }), nil
}

// write renders everything anew. Results are a line each, so that a change of one is a change of one line.
func (s sections) write(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, figuresDir), 0o755); err != nil {
		return err
	}
	var file strings.Builder
	file.WriteString("[")
	for i, one := range s {
		runs := one.Runs
		one.Runs = nil
		head, err := json.Marshal(one)
		if err != nil {
			return err
		}
		if i > 0 {
			file.WriteString(",")
		}
		file.WriteString("\n" + strings.TrimSuffix(string(head), "null}") + "[")
		for k, r := range runs {
			line, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if k > 0 {
				file.WriteString(",")
			}
			fmt.Fprintf(&file, "\n  %s", line)
		}
		file.WriteString("]}")
	}
	file.WriteString("\n]\n")
	errs := []error{
		os.WriteFile(filepath.Join(dir, resultsFile), []byte(file.String()), 0o644),
		os.WriteFile(filepath.Join(dir, reportFile), []byte(s.report()), 0o644),
	}
	for _, f := range figures() {
		if one, ok := s.of(f.name); ok {
			errs = append(errs, draw(filepath.Join(dir, figuresDir, f.name+".svg"), f, one))
		}
	}
	if one, ok := s.of("state"); ok {
		errs = append(errs, one.costs(dir))
	}
	return errors.Join(errs...)
}
