package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
	link    = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
)

// TestReadmeProgramCompiles builds the program of the README as it stands there.
func TestReadmeProgramCompiles(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := goBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("the README has %d Go programs, and this test knows two", len(blocks))
	}
	for i, program := range []string{blocks[0][1], aroundState[0] + blocks[1][1] + aroundState[1]} {
		dir := t.TempDir()
		source := filepath.Join(dir, "main.go")
		if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		// In the root, so that the imports are this module's.
		for _, args := range [][]string{{"vet", source}, {"build", "-o", filepath.Join(dir, "program"), source}} {
			cmd := exec.Command("go", args...)
			cmd.Dir = ".."
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("program %d: go %s: %v\n%s", i+1, args[0], err, out)
			}
		}
	}
}

// aroundState makes a program of the README's second piece: what stands before it, and behind.
var aroundState = [2]string{`package main

import (
	"fmt"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/ttl"
)
`, `
func newWatch() processor.Processor[string, int64, string, string] { return &watch{} }

func main() {
	b := stream.NewBuilder()
	clicks := stream.NewTopic("clicks", serde.String(), serde.Int64())
	summaries := stream.NewTopic("summaries", serde.String(), serde.String())
	stream.Process(stream.From(b, clicks), newWatch, recent, quiet).To(summaries)
	top, err := b.Build()
	if err == nil {
		err = top.DryRun()
	}
	fmt.Println(err)
}
`}

// TestLinksLeadSomewhere: what a page links to in this repository is there.
func TestLinksLeadSomewhere(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../*.md", "*.md", "*/*.md", "../examples/*/*.md", "../bench/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 15 {
		t.Fatalf("only %d pages found", len(pages))
	}
	links := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(prose(string(text)), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Clean(page), m[1], err)
			}
		}
	}
	if links < 20 {
		t.Errorf("only %d links found", links)
	}
}

// prose is a page without its code.
func prose(text string) string {
	var b strings.Builder
	code := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "```") {
			code = !code
			continue
		}
		if !code {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestConformanceIsComplete: every case of the page has a test that is there, and none failed when it was written.
func TestConformanceIsComplete(t *testing.T) {
	text, err := os.ReadFile("conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "FAILS") {
		t.Error("a case fails")
	}
	known := map[string]bool{}
	for _, pattern := range []string{"../*_test.go", "../*/*_test.go", "../*/*/*_test.go", "../*/*/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			room := filepath.Base(filepath.Dir(file))
			if room == ".." {
				room = "millrace"
			}
			for _, m := range testFunc.FindAllSubmatch(source, -1) {
				known[room+"."+string(m[1])] = true
			}
		}
	}
	cases := 0
	for _, line := range strings.Split(string(text), "\n") {
		if !caseLine.MatchString(line) {
			continue
		}
		cases++
		tests := testName.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range tests {
			if !known[m[1]] {
				t.Errorf("there is no test %s: make conformance writes the page anew", m[1])
			}
		}
	}
	if cases != 67 {
		t.Errorf("%d cases, want the 67 of state, time and operators", cases)
	}
}

var (
	testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	caseLine = regexp.MustCompile(`^\| (V|L|M|RA|T|TM|W|B|RS|X)-\d+ \|`)
	testName = regexp.MustCompile("`([\\w-]+\\.Test\\w+)")
)
