package millrace_test

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace"
)

// TestBroadcastAtLeastOnce: without transactions too, rules reach every task before its first record, what was aborted reaches none, and
// the next life of all tasks has what was heard, with a disk and without.
func TestBroadcastAtLeastOnce(t *testing.T) {
	for _, engine := range []string{"memory", "pebble"} {
		t.Run(engine, func(t *testing.T) {
			s := newStands(t)
			state := millrace.MemoryStores()
			if engine == "pebble" {
				state = millrace.StateDir(t.TempDir())
			}
			run := func() *running {
				return launch(t, s.addrs, heralds(t), state, millrace.ProcessingGuarantee(millrace.AtLeastOnce))
			}
			stop := func(r *running) {
				t.Helper()
				if err := r.stop(t, 60*time.Second); err != nil {
					t.Fatal(err)
				}
			}
			s.limit("x", 100)
			s.aborted("x", 1)
			r := run()
			s.now("x=100 heard=1")
			s.limit("x", 200)
			s.until("x=100 heard=1", "x=200 heard=2")
			stop(r)
			r = run()
			s.now("x=200 heard=2") // nothing was published meanwhile: it is what was kept, and nothing was heard twice
			stop(r)
			s.limit("x", 300)
			r = run()
			s.now("x=300 heard=3")
			stop(r)
		})
	}
}
