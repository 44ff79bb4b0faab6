package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/millrace-io/millrace"
	root   = "../.."
)

// rules is every rule, by the name under which it fails. A complaint says where, what, and what to do instead.
var rules = []struct {
	name  string
	check func([]source) []string
}{
	{"who imports whom", checkRooms},
	{"the floor plan itself", checkFloorPlan},
	{"test kits are for tests", checkKits},
	{"Pebble", checkPebble},
	{"who speaks Kafka", checkSpeakers},
	{"the kernel's clock", checkClock},
	{"the kernel's goroutines", checkGoroutines},
	{"sleeping tests", checkSleeps},
	{"skipped tests", checkSkips},
	{"printing libraries", checkPrints},
	{"unfinished work", checkUnfinished},
	{"format pages", checkFormats},
	{"one Kafka image", checkImage},
}

func TestHouse(t *testing.T) {
	files := load(t)
	if len(files) < 50 {
		t.Fatalf("only %d Go files found from here", len(files))
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, wrong := range r.check(files) {
				t.Error(wrong)
			}
		})
	}
}

// TestRulesBite breaks each rule once, and keeps it once where it could be too eager.
func TestRulesBite(t *testing.T) {
	for _, c := range []struct {
		check func([]source) []string
		path  string
		code  string
		want  string // part of the complaint, "" for none
	}{
		{checkRooms, "attic/a.go", `package attic`, "new room"},
		{checkRooms, "store/a.go", `package store; import _ "github.com/millrace-io/millrace/stream"`, "floor plan"},
		{checkRooms, "store/a.go", `package store; import _ "github.com/millrace-io/millrace/internal/fault"`, ""},
		{checkRooms, "store/a_test.go", `package store; import _ "github.com/millrace-io/millrace/stream"`, ""},
		{checkRooms, "txn/a.go", `package txn; import _ "github.com/millrace-io/millrace"`, "floor plan"},
		{checkRooms, "internal/fault/a.go", `package fault; import _ "github.com/millrace-io/millrace/serde"`, "imports nobody"},
		{checkRooms, "internal/task/a.go", `package task; import _ "github.com/millrace-io/millrace/internal/runtime/assign"`, "floor plan"},
		{checkRooms, "examples/01/main.go", `package main; import _ "github.com/millrace-io/millrace/internal/runtime"`, "floor plan"},
		{checkRooms, "examples/01/main.go", `package main; import _ "github.com/millrace-io/millrace/stream"`, ""},
		{checkRooms, "examples/01/main.go", `package main; import _ "github.com/millrace-io/millrace/examples/internal/demo"`, ""},
		{checkRooms, "bench/x/main.go", `package main; import _ "github.com/millrace-io/millrace/internal/kafkatest"`, "floor plan"},
		{checkRooms, "itest/app/main.go", `package main; import _ "github.com/millrace-io/millrace/itest/oracle"`, ""},
		{checkKits, "topology/a.go", `package topology; import _ "github.com/millrace-io/millrace/streamtest"`, "test kits"},
		{checkKits, "examples/01/main.go", `package main; import _ "testing"`, "test kits"},
		{checkKits, "stream/a_test.go", `package stream; import _ "github.com/millrace-io/millrace/streamtest"`, ""},
		{checkPebble, "store/kv.go", `package store; import _ "github.com/cockroachdb/pebble/v2"`, "Pebble"},
		{checkPebble, "changelog/a_test.go", `package changelog; import _ "github.com/cockroachdb/pebble/v2/vfs"`, "Pebble"},
		{checkPebble, "store/pebble.go", `package store; import _ "github.com/cockroachdb/pebble/v2"`, ""},
		{checkSpeakers, "internal/task/a.go", `package task; import _ "github.com/twmb/franz-go/pkg/kgo"`, "speak to Kafka"},
		{checkSpeakers, "txn/a.go", `package txn; import _ "github.com/twmb/franz-go/pkg/kgo"`, ""},
		{checkClock, "internal/task/a.go", `package task; import "time"; var _ = time.Now()`, "handed the time"},
		{checkClock, "internal/task/a.go", `package task; import clock "time"; var _ = clock.Now`, "handed the time"},
		{checkClock, "internal/task/a.go", `package task; import "time"; var _ = time.UnixMilli(0)`, ""},
		{checkClock, "internal/runtime/a.go", `package runtime; import "time"; var _ = time.Now()`, ""},
		{checkGoroutines, "stream/a.go", `package stream; func f() { go f() }`, "goroutine"},
		{checkSleeps, "txn/a_test.go", `package txn; import "time"; func f() { time.Sleep(1) }`, "Sleep"},
		{checkSleeps, "txn/a.go", `package txn; import "time"; func f() { time.Sleep(1) }`, ""},
		{checkSkips, "txn/a_test.go", `package txn; import "testing"; func f(t *testing.T) { t.Skip("later") }`, "skipped"},
		{checkSkips, "txn/a_test.go", `package txn; import "github.com/millrace-io/millrace/processor"; var _ = processor.Skip()`, ""},
		{checkPrints, "store/a.go", `package store; import "fmt"; func f() { fmt.Println() }`, "terminal"},
		{checkPrints, "store/a.go", `package store; func f() { println() }`, "terminal"},
		{checkPrints, "store/a.go", `package store; import "log"; func f() { log.Fatal() }`, "logger"},
		{checkPrints, "store/a.go", `package store; var log struct{ end int }; var _ = log.end`, ""},
		{checkPrints, "store/a.go", `package store; import "fmt"; func f() error { return fmt.Errorf("") }`, ""},
		{checkPrints, "cmd/millrace/main.go", `package main; import "fmt"; func main() { fmt.Println() }`, ""},
		{checkUnfinished, "store/a.go", "package store\n// TO" + "DO: later\n", "issue"},
		{checkFormats, "store/a.go", "package store\n// See docs/format/no-such-page.md.\n", "not there"},
	} {
		got := strings.Join(c.check([]source{parse(t, c.path, c.code)}), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s %s\n\tcomplaint %q, want %q", c.path, c.code, got, c.want)
		}
	}
}

// source is one Go file.
type source struct {
	path string // from the root
	room string // directory from the root, "." for the root
	test bool
	ast  *ast.File
	set  *token.FileSet
}

func load(t *testing.T) []source {
	t.Helper()
	var files []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "vendor") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, newSource(filepath.ToSlash(rel), f, set))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func parse(t *testing.T, path, code string) source {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, code, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return newSource(path, f, set)
}

func newSource(path string, f *ast.File, set *token.FileSet) source {
	return source{path: path, room: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go"), ast: f, set: set}
}

func (f source) imports() []string {
	var all []string
	for _, i := range f.ast.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// roomOf is the room of an import path, if it is one of ours.
func roomOf(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func (f source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.set.Position(n.Pos()).Line)
}

// use is one mention of something of another package, by its path, or of a variable, "$name"; or a call of a builtin.
type use struct{ pkg, name, at string }

func (f source) calls() []use {
	paths := map[string]string{} // by the name it has here
	for _, i := range f.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue
		}
		name := p[strings.LastIndex(p, "/")+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		paths[name] = p
	}
	var all []use
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				pkg, imported := paths[x.Name]
				if !imported {
					pkg = "$" + x.Name
				}
				all = append(all, use{pkg, n.Sel.Name, f.at(n)})
			}
		case *ast.CallExpr:
			if x, ok := n.Fun.(*ast.Ident); ok {
				all = append(all, use{"", x.Name, f.at(n)})
			}
		}
		return true
	})
	return all
}
