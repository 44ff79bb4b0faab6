//go:build chaos

package task

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/chaos"
)

// A kernel that forgets to discard state must not pass its own tests: run in a process of their own with the mistake
// seeded, they fail. go test -tags chaos ./internal/task
func TestSeededSkipDiscardIsCaught(t *testing.T) {
	c := exec.Command(os.Args[0], "-test.run=^TestExactlyOnceOverLongLives$")
	c.Env = append(os.Environ(), "MILLRACE_BUG="+string(chaos.SkipDiscard))
	out, err := c.CombinedOutput()
	if err == nil {
		t.Fatal("with the state of discarded epochs kept every test passed")
	}
	if !strings.Contains(string(out), "committed output") {
		t.Fatalf("it failed for another reason:\n%s", out)
	}
}
