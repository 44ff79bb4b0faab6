package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/millrace-io/millrace/examples/internal/demo"
	"github.com/millrace-io/millrace/processor"
)

// text is the input: files, by name, as lines.
type text struct {
	files map[string][]string
	lines int64
}

// read reads the files, or Go's net/http where none is named.
func read(names []string) (*text, error) {
	if len(names) == 0 {
		var err error
		if names, err = goSource("net/http"); err != nil {
			return nil, err
		}
	}
	t := &text{files: map[string][]string{}}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		scan := bufio.NewScanner(f)
		scan.Buffer(nil, 512<<10) // a line is a record, and a record of Kafka has a limit
		for scan.Scan() {
			t.files[name] = append(t.files[name], scan.Text())
			t.lines++
		}
		if err := errors.Join(scan.Err(), f.Close()); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return t, nil
}

// goSource lists the Go files of a package of the standard library and of the packages below it.
func goSource(pkg string) (names []string, err error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot find Go's source text to count its words (go env GOROOT: %w); name files instead", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(root)), "src", filepath.FromSlash(pkg))
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(path) == ".go" {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read Go's source text: %w; name files instead", err)
	}
	return names, nil
}

// records are the lines as they are sent: keyed by their file, in order.
func (t *text) records() iter.Seq2[processor.Record[string, string], error] {
	return func(yield func(processor.Record[string, string], error) bool) {
		for _, name := range slices.Sorted(maps.Keys(t.files)) {
			for _, line := range t.files[name] {
				if !yield(processor.Record[string, string]{Key: name, Value: line}, nil) {
					return
				}
			}
		}
	}
}

// count is the same count without any of this: a map.
func (t *text) count() (counts map[string]int64, total int64) {
	counts = map[string]int64{}
	for _, lines := range t.files {
		for _, line := range lines {
			for _, w := range split(line) {
				counts[w]++
				total++
			}
		}
	}
	return counts, total
}

// compare names the first word, in the order of the alphabet, whose counts differ, and how many do.
func compare(got, want map[string]int64) error {
	words := maps.Clone(want)
	maps.Copy(words, got)
	var wrong []string
	for _, w := range slices.Sorted(maps.Keys(words)) {
		if got[w] != want[w] {
			wrong = append(wrong, w)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	w := wrong[0]
	return fmt.Errorf("the counts of %d words differ from those of a plain map: %q was counted %s times and is there %s times",
		len(wrong), w, demo.Number(got[w]), demo.Number(want[w]))
}

// table prints the n most frequent words.
func table(w io.Writer, counts map[string]int64, n int) {
	words := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, word := range words[:min(n, len(words))] {
		fmt.Fprintf(tw, "%d\t%s\t%s\t\n", i+1, word, demo.Number(counts[word]))
	}
	tw.Flush()
}
