// Package clock is the seam between millrace and the wall clock: whoever needs the time is handed one of these.
package clock

import "time"

// Clock tells processing time.
type Clock interface {
	Now() time.Time
}

// System is the machine's clock.
type System struct{}

// Now returns the wall time.
func (System) Now() time.Time { return time.Now() }

// Func makes a Clock of a function.
type Func func() time.Time

// Now calls f.
func (f Func) Now() time.Time { return f() }
