// Package fault holds the one error shape every room of millrace speaks: what is wrong, with what, and what to do.
//
// The root package re-exports it as millrace.Error; rooms below create it where the mistake is first known.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says who has to act, and so which exit code a program should use.
type Kind uint8

const (
	Internal Kind = iota // a bug of ours: exit code 1
	Record               // a record that could not be processed under policy Fail: exit code 1
	Config               // the program's configuration or topology: exit code 2
	State                // the local state directory or the state's topics were refused: exit code 3
	Cluster              // the Kafka cluster is unreachable, or not as it must be: exit code 4
)

// Error is a refusal a person can act on. Code is stable and listed in docs/errors.md; Thing names what was
// looked at, Value what was found there (never a payload, never a secret), Remedy is one sentence that helps.
// Err, when set, is the sentinel or cause that errors.Is and errors.As reach.
type Error struct {
	Code   string
	Kind   Kind
	Thing  string
	Value  string
	Reason string
	Remedy string
	Err    error
}

// Error prints "code: thing "value": reason; remedy".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Code)
	if e.Thing != "" {
		b.WriteString(": ")
		b.WriteString(e.Thing)
	}
	if e.Value != "" {
		fmt.Fprintf(&b, " %q", e.Value)
	}
	if e.Reason != "" {
		b.WriteString(": ")
		b.WriteString(e.Reason)
	}
	if e.Err != nil && !strings.Contains(e.Reason, e.Err.Error()) {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error with the same code, so that a value with only a Code works as a sentinel.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// ExitCode is the exit status a program should end with for err: 0 for nil, 2 configuration, 3 refused state,
// 4 cluster, 1 everything else. Of several joined errors the first that says more than 1 decides.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	code := 1
	walk(err, func(e *Error) {
		if code != 1 {
			return
		}
		switch e.Kind {
		case Config:
			code = 2
		case State:
			code = 3
		case Cluster:
			code = 4
		}
	})
	return code
}

func walk(err error, visit func(*Error)) {
	if e, ok := err.(*Error); ok {
		visit(e)
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		if next := u.Unwrap(); next != nil {
			walk(next, visit)
		}
	case interface{ Unwrap() []error }:
		for _, next := range u.Unwrap() {
			walk(next, visit)
		}
	}
}

// Code returns the code of the first *Error in err's tree, or "".
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
