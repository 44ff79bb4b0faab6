package topology

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
)

// Mistake is one thing that is wrong with a topology and the line of the program that made it. Build returns all of
// them joined; errors.As finds the *millrace.Error inside.
type Mistake struct {
	File string // as the compiler recorded it; empty when no single line is to blame
	Line int
	Err  *fault.Error
}

// Error prints "dir/file.go:12: code: thing ...".
func (m *Mistake) Error() string {
	if m.File == "" {
		return m.Err.Error()
	}
	return place{m.File, m.Line}.String() + ": " + m.Err.Error()
}

// Unwrap returns the typed error.
func (m *Mistake) Unwrap() error { return m.Err }

// place is a line of the user's program.
type place struct {
	file string
	line int
}

// String keeps the last directory only: enough to find the line, and the same on every machine.
func (p place) String() string {
	dir, file := filepath.Split(p.file)
	return fmt.Sprintf("%s:%d", filepath.ToSlash(filepath.Join(filepath.Base(dir), file)), p.line)
}

// caller is the innermost line on the stack that is not the language's own: the call the user wrote.
func caller() place {
	var pcs [32]uintptr
	n := runtime.Callers(2, pcs[:])
	frames := runtime.CallersFrames(pcs[:n])
	for {
		f, more := frames.Next()
		if !ours(f.Function) || strings.HasSuffix(f.File, "_test.go") {
			return place{f.File, f.Line}
		}
		if !more {
			return place{f.File, f.Line}
		}
	}
}

const module = "github.com/millrace-io/millrace/"

func ours(function string) bool {
	return strings.HasPrefix(function, module+"topology.") || strings.HasPrefix(function, module+"stream.")
}

// mistakes collects them, and says each one once.
type mistakes struct {
	list []*Mistake
}

func (m *mistakes) add(at place, e *fault.Error) {
	for _, x := range m.list {
		if x.File == at.file && x.Line == at.line && x.Err.Code == e.Code && x.Err.Value == e.Value && x.Err.Thing == e.Thing {
			return
		}
	}
	e.Kind = fault.Config
	m.list = append(m.list, &Mistake{at.file, at.line, e})
}

// join returns them in the order of the program's lines, nil if there are none.
func (m *mistakes) join() error {
	sort.SliceStable(m.list, func(i, j int) bool {
		a, b := m.list[i], m.list[j]
		if a.File != b.File {
			return a.File < b.File
		}
		return a.Line < b.Line
	})
	errs := make([]error, len(m.list))
	for i, x := range m.list {
		errs[i] = x
	}
	return errors.Join(errs...)
}
