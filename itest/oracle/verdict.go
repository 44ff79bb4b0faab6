// Package oracle decides whether an application kept its promise: every input record up to the committed offset is
// reflected exactly once in state and in what a read_committed consumer sees.
//
// It knows nothing of how millrace works. It reads the topics (Cluster), and compares them with what a few lines of plain
// Go make of the same input. The checks are pure functions of what was read, so that each of them can be shown wrong data
// and must object. None of them looks in one direction only: what is missing counts as much as what is too much.
package oracle

import (
	"errors"
	"fmt"
	"strings"
)

// shown is how many differences a verdict describes; all of them are counted.
const shown = 8

// Verdict is what one check found.
type Verdict struct {
	Check string   // what was checked, for a person
	Seen  int64    // how many things were looked at; 0 proves nothing
	Wrong int64    // how many were not as they must be
	First []string // the first few of those
}

// OK reports whether the check looked at something and found nothing wrong.
func (v *Verdict) OK() bool { return v.Wrong == 0 && v.Seen > 0 }

// Err is nil if the verdict is OK, and otherwise says what is wrong.
func (v *Verdict) Err() error {
	switch {
	case v.OK():
		return nil
	case v.Wrong == 0:
		return fmt.Errorf("%s: nothing to look at, which proves nothing", v.Check)
	default:
		return errors.New(v.String())
	}
}

func (v *Verdict) String() string {
	if v.Wrong == 0 {
		return fmt.Sprintf("ok     %s: %d", v.Check, v.Seen)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "WRONG  %s: %d of %d", v.Check, v.Wrong, v.Seen)
	for _, line := range v.First {
		b.WriteString("\n         ")
		b.WriteString(line)
	}
	if more := v.Wrong - int64(len(v.First)); more > 0 {
		fmt.Fprintf(&b, "\n         ... and %d more", more)
	}
	return b.String()
}

// wrong counts a difference and describes it if it is one of the first.
func (v *Verdict) wrong(format string, args ...any) {
	v.Wrong++
	if len(v.First) < shown {
		v.First = append(v.First, fmt.Sprintf(format, args...))
	}
}

// Verdicts is what several checks of one run found.
type Verdicts []*Verdict

// Err joins the errors of all verdicts; nil if there are verdicts and all are OK.
func (vs Verdicts) Err() error {
	if len(vs) == 0 {
		return errors.New("no check was made, which proves nothing")
	}
	var errs []error
	for _, v := range vs {
		errs = append(errs, v.Err())
	}
	return errors.Join(errs...)
}

// Wrong is the number of differences in all verdicts.
func (vs Verdicts) Wrong() int64 {
	var n int64
	for _, v := range vs {
		n += v.Wrong
	}
	return n
}

func (vs Verdicts) String() string {
	lines := make([]string, len(vs))
	for i, v := range vs {
		lines[i] = v.String()
	}
	return strings.Join(lines, "\n")
}
