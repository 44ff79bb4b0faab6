package task

import (
	"errors"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
)

// torn is an engine that cannot be read any more once it is told so.
type torn struct {
	store.Engine
	err error
}

func (e *torn) Iter(from, to []byte, reverse bool) (store.EngineIter, error) {
	if e.err != nil {
		return nil, e.err
	}
	return e.Engine.Iter(from, to, reverse)
}

func (*torn) Close() error { return nil }

// Between two records the next timers are read, and the disk refuses. The record before it was processed: what it did stays, as does
// its position, and both are committed before the task is given up.
func TestTimersThatCannotBeReadUndoNothing(t *testing.T) {
	engine := &torn{Engine: store.NewMemory()}
	c := (&clockwork{t: t, reopen: func() store.Engine { return engine }, process: func(b *bell, r processor.Record[string, string]) error {
		return b.events.Set(r.Key, r.Time.Add(time.Second))
	}}).start()
	c.record(10, "a", "x")
	c.commit()
	c.crash()     // what there is has to be read
	c.task.Wake() // reads the timers in processing time

	c.enqueue(20, "b", "x")
	engine.err = &fault.Error{Code: "store/corrupt", Kind: fault.State, Thing: "store", Value: "events", Reason: "told to be unreadable"}
	if _, err := c.task.Step(10, nil); !errors.Is(err, engine.err) {
		t.Fatalf("error %v", err)
	}
	engine.err = nil
	c.commit()
	if at := c.group.Offsets[0].Offset; at != 2 {
		t.Fatalf("committed up to %d", at)
	}
	c.waits(2, 0)
}
