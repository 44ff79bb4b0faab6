// Command conformance runs the acceptance cases of stateful processing and writes docs/conformance.md: which test is which case, and
// what came out. With -check it writes nothing and fails if the page does not say what the run says. Cases that need a real Kafka are
// looked up in the sources; itest runs them.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	page = "docs/conformance.md"
	runs = "TestState|TestTTL|TestTimer|TestClock|TestBroadcast"
)

func main() {
	check := flag.Bool("check", false, "compare with "+page+" instead of writing it")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	fmt.Fprintln(os.Stderr, "running the acceptance cases: go test ./... -run '"+runs+"'")
	cmd := exec.Command("go", "test", "-json", "-timeout", "10m", "-run", "^("+runs+")", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	results, err := read(out)
	if waited := cmd.Wait(); err == nil && waited != nil && len(results) == 0 {
		err = waited
	}
	if err != nil {
		return err
	}
	known, err := testsInSources(".")
	if err != nil {
		return err
	}
	text, problems := render(results, known)
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n\t"))
	}
	if !check {
		return os.WriteFile(page, text, 0o644)
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	if !bytes.Equal(old, text) {
		return fmt.Errorf("%s does not say what the run said; `make conformance` writes it anew", page)
	}
	fmt.Fprintln(os.Stderr, page+" says what the run said")
	return nil
}

// result is what became of a case in one package's test.
type result struct {
	test   string // "store.TestTTL/T-10"
	leaves int    // sub-tests without sub-tests of their own: engines, modes
	failed []string
}

// event is a line of go test -json.
type event struct{ Action, Package, Test string }

var idPart = regexp.MustCompile(`^(V|L|M|RA|T|TM|W|B|RS|X)-\d+`)

// read collects the results by case.
func read(r io.Reader) (map[string][]*result, error) {
	results := map[string][]*result{}
	parents := map[string]bool{}
	var leaves []event
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Test == "" {
			continue // what the go command says itself
		}
		switch e.Action {
		case "run":
			for i, c := range e.Test { // names may have slashes of their own
				if c == '/' {
					parents[e.Package+" "+e.Test[:i]] = true
				}
			}
		case "pass", "fail":
			leaves = append(leaves, e)
		}
	}
	for _, e := range leaves {
		parts := strings.Split(e.Test, "/")
		at := slices.IndexFunc(parts, idPart.MatchString)
		if at < 0 {
			continue
		}
		id := idPart.FindString(parts[at])
		name := filepath.Base(e.Package) + "." + strings.Join(parts[:at], "/") + "/" + id
		list := results[id]
		i := slices.IndexFunc(list, func(r *result) bool { return r.test == name })
		if i < 0 {
			i, list = len(list), append(list, &result{test: name})
			results[id] = list
		}
		one := list[i]
		if !parents[e.Package+" "+e.Test] {
			one.leaves++
		}
		if e.Action == "fail" {
			one.failed = append(one.failed, e.Test)
		}
	}
	return results, lines.Err()
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// testsInSources lists all tests as "package.Test".
func testsInSources(root string) (map[string]bool, error) {
	known := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		room := filepath.Base(filepath.Dir(path))
		if room == "." {
			room = "millrace"
		}
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			known[room+"."+string(m[1])] = true
		}
		return nil
	})
	return known, err
}

// render makes the page. Problems are cases without a test, and tests that failed.
func render(results map[string][]*result, known map[string]bool) (text []byte, problems []string) {
	var b bytes.Buffer
	b.WriteString(`# Conformance

What stateful processing promises, case by case, and the test that shows it. Written by ` + "`make conformance`" + ` from a run of the tests; do not edit.

Cases run without and with a crash and restore between all steps (with the local disk kept, and lost), and on the memory and the Pebble engine, where that
makes a difference: "variants" is how many of these a test ran. Those of the last section run against real processes and a real Kafka in ` + "`make itest`" + `.
What streams and tables promise (windows, joins) is not in here yet.
`)
	for _, section := range cases {
		fmt.Fprintf(&b, "\n## %s\n\n| case | what must hold | test | variants | result | beside Flink |\n|---|---|---|---|---|---|\n", section.title)
		for _, c := range section.cases {
			var tests []string
			variants, outcome := 0, "passes"
			for _, r := range results[c.id] {
				tests = append(tests, "`"+r.test+"`")
				variants += r.leaves
				if len(r.failed) > 0 {
					outcome = "FAILS"
					problems = append(problems, fmt.Sprintf("case %s fails: %s", c.id, strings.Join(r.failed, ", ")))
				}
			}
			slices.Sort(tests)
			for _, name := range c.tests {
				tests = append(tests, "`"+name+"`")
				outcome = "in itest"
				if !strings.HasPrefix(name, "itest.") {
					outcome = "passes"
				}
				if !known[name] {
					problems = append(problems, fmt.Sprintf("case %s: there is no test %s", c.id, name))
				}
			}
			if len(tests) == 0 {
				problems = append(problems, fmt.Sprintf("case %s has no test (%s)", c.id, c.what))
			}
			count := "-"
			if variants > 0 {
				count = fmt.Sprint(variants)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", c.id, c.what, strings.Join(tests, ", "), count, outcome, c.note)
		}
	}
	return b.Bytes(), problems
}
