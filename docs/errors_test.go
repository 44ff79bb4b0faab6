// Package docs_test holds the pages to what the code does.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	slug = regexp.MustCompile(`^[a-z]+/[a-z][a-z-]*[a-z]$`)
	row  = regexp.MustCompile("(?m)^\\| `([^`]*/[^`]*)` \\| (.*) \\| (.*) \\|$")
)

// TestErrorsAreListed: docs/errors.md has a row for every code in the source, and none for a code that is not there.
func TestErrorsAreListed(t *testing.T) {
	text, err := os.ReadFile("errors.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		code := m[1]
		switch {
		case listed[code]:
			t.Errorf("%s is listed twice", code)
		case !slug.MatchString(code):
			t.Errorf("%s is not a code: room, slash, words with dashes", code)
		case len(m[2]) < 8 || len(m[3]) < 3:
			t.Errorf("%s: its row says nothing", code)
		}
		listed[code] = true
	}
	inUse := codes(t)
	if len(inUse) < 100 {
		t.Fatalf("only %d codes found in the source", len(inUse))
	}
	for code, at := range inUse {
		if !listed[code] {
			t.Errorf("%s at %s is not in docs/errors.md", code, at)
		}
	}
	for code := range listed {
		if inUse[code] == "" {
			t.Errorf("%s is in docs/errors.md and nowhere in the source", code)
		}
	}
}

// TestSourcesAreSearched: the search finds codes in the forms in which the source writes them.
func TestSourcesAreSearched(t *testing.T) {
	const code = `package x
import _ "not/a-code"
var a = E{Code: "room/thing"}
var b = bad("room/other-thing", "x")
var c = "Not/Code" + "room/" + "text/plain; charset"
`
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", code, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	codesOf(f, func(code string, _ token.Pos) { got = append(got, code) })
	if strings.Join(got, " ") != "room/thing room/other-thing" {
		t.Errorf("found %q", got)
	}
}

// codes are all codes of the product's own source, with a place each.
func codes(t *testing.T) map[string]string {
	t.Helper()
	const root = ".."
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			guest := path == filepath.Join(root, "examples") || path == filepath.Join(root, "bench") || path == filepath.Join(root, "itest")
			if guest || name == "testdata" || path != root && strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		codesOf(f, func(code string, at token.Pos) { all[code] = set.Position(at).String() })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// codesOf calls found for every string of the file that looks like a code. Import paths do too, and are none.
func codesOf(f *ast.File, found func(code string, at token.Pos)) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				return true
			}
			if s, err := strconv.Unquote(n.Value); err == nil && slug.MatchString(s) {
				found(s, n.Pos())
			}
		}
		return true
	})
}
