package runtime

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/task"
)

// TestRoomForEveryReader: the readers of a task's broadcast topics share its room. A reader that found none looks again when records of
// another's are let go of; else it never would, and the task would wait for the end of its topic.
func TestRoomForEveryReader(t *testing.T) {
	run := &taskRun{group: &group{fetched: newFetched(1 << 20)}, inputs: make([]task.Input, 1)}
	for range 2 {
		run.announcers = append(run.announcers, &broadcastReader{woken: make(chan struct{}, 1)})
	}
	b := run.group.fetched.announce(1, []*kgo.Record{{Value: make([]byte, 100)}}, 1)
	run.announcing.Add(int64(b.Bytes))
	run.released(*b)
	for i, r := range run.announcers {
		select {
		case <-r.woken:
		default:
			t.Errorf("reader %d was not told", i)
		}
	}
	if n := run.announcing.Load(); n != 0 {
		t.Errorf("%d bytes are held still", n)
	}
}
