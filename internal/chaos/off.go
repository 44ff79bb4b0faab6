//go:build !chaos

package chaos

// Enabled says whether this is a chaos build.
const Enabled = false

// Pass is the instant p. It does nothing in this build.
func Pass(Point) {}

// Has reports whether the bug is seeded. Never in this build.
func Has(Bug) bool { return false }
