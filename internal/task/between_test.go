package task

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
	"github.com/millrace-io/millrace/ttl"
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

// A task that waits for another try has no use for a Step, also while its state has something to clean up: a worker would begin one
// empty epoch after another.
func TestParkedTasksAreNotTidied(t *testing.T) {
	seen := store.Value("seen", serde.String(), serde.String(), store.WithTTL(ttl.AfterWrite(time.Second)))
	b := topology.NewBuilder()
	topology.AddSink("", ringOut, topology.AddProcessor("p", func() processor.Processor[string, string, string, string] { return &forgetful{seen: seen} },
		[]store.Spec{seen}, topology.AddSource(b, "", ringIn)))
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: seen, Prefix: 1}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	task, err := New(Config{
		Context: context.Background(), App: "app", Sub: top.Subtopologies()[0], DB: db, Inputs: []Input{{Topic: "in"}}, SinkPartitions: []int32{1},
		OnError: processor.Retry(3, time.Minute, processor.Skip()),
	}, Start{StreamTime: -1, Now: 1})
	if err != nil {
		t.Fatal(err)
	}
	put(task, 0, raw(0, 5, "a", "x"), raw(1, 5, "a", "fail"))
	if _, err := task.Step(10, nil); err != nil {
		t.Fatal(err)
	}
	if task.Tick(30_000); !db.Untidy() || task.Tick(40_000) {
		t.Error("a Step is asked for while the task is parked")
	}
	if !task.Tick(60_001) {
		t.Error("the task is not woken")
	}
}

// forgetful keeps values for a second.
type forgetful struct {
	seen  store.ValueSpec[string, string]
	state store.ValueState[string, string]
}

func (p *forgetful) Init(ctx processor.InitContext) (err error) {
	p.state, err = p.seen.In(ctx)
	return err
}

func (p *forgetful) Process(_ processor.Context[string, string], r processor.Record[string, string]) error {
	if r.Value == "fail" {
		return errors.New("told to fail")
	}
	return p.state.Put(r.Key, r.Value)
}
