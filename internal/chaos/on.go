//go:build chaos

package chaos

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Enabled says whether this is a chaos build.
const Enabled = true

var (
	target Point
	left   atomic.Int64
	bug    = Bug(os.Getenv("MILLRACE_BUG"))
)

func init() {
	name, n, _ := strings.Cut(os.Getenv("MILLRACE_CRASH_AT"), ":")
	target = Point(name)
	count, err := strconv.ParseInt(n, 10, 64)
	if err != nil || count < 1 {
		count = 1
	}
	left.Store(count)
}

// Pass is the instant p: the process ends here, without any clean-up, if this is the passing it was told to die at.
func Pass(p Point) {
	if p != target || left.Add(-1) != 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "chaos: dying at %s\n", p)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// Has reports whether the bug is seeded in this process.
func Has(b Bug) bool { return bug == b }
