package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

var errBroken = &fault.Error{Code: "state/unreadable", Kind: fault.State, Thing: "store", Value: "counts", Reason: "told to be broken"}

// What a record under policy Fail leaves for the person who has to look: where, which node, doing what, and why; never
// the record's bytes.
func TestFailNamesEverythingButThePayload(t *testing.T) {
	task, _ := bench{}.open(t)
	put(task, 0, raw(41, 1000, "secret-key", "x"), raw(42, 1000, "secret-key", "error-panic"))
	task.SetEnd(0, 43)
	r, err := task.Step(10, nil)
	if r.Records != 1 {
		t.Fatalf("processed %d before the failure, want 1", r.Records)
	}
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != "record/panicked" || f.Kind != fault.Record {
		t.Fatalf("error = %#v", err)
	}
	for _, want := range []string{"lines/0@42", "counts/0", "node count", "panic", "told to panic with an error"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%q holds the record's key", err)
	}
	var p *Panic
	if !errors.As(err, &p) || !strings.Contains(p.Stack, "byHand).Process") {
		t.Errorf("no stack of the panic: %+v", p)
	}
	if !errors.Is(err, errTold) {
		t.Error("the error that was panicked with is not reachable")
	}
	var re *RecordError
	if !errors.As(err, &re) || re.Origin != (processor.Origin{Topic: "lines", Offset: 42}) || re.Node != "count" {
		t.Errorf("record error = %+v", re)
	}
}

// A panic in a long text, or with a huge value, must not fill logs and dead letters.
func TestBoundedCutsBetweenCharacters(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aéé", 2, "a"}, {"aéé", 3, "aé"}, {"日本", 2, ""}} {
		if got := bounded(c.in, c.n); got != c.want {
			t.Errorf("bounded(%q, %d) = %q, want %q", c.in, c.n, got, c.want)
		}
	}
}

// A handler that returns because its context was cancelled says nothing about the record: Skip must not lose it.
func TestInterruptedRecordIsNotSkipped(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var failures int
	task, _ := bench{policy: processor.Skip(), ctx: ctx, observer: func(Failure) { failures++ }}.open(t)
	put(task, 0, raw(0, 1000, "cat", "fail"))
	cancel()
	_, err := task.Step(10, nil)
	if fault.Code(err) != "record/interrupted" {
		t.Fatalf("Step = %v, want record/interrupted", err)
	}
	if got := task.Positions()[0]; got != 0 {
		t.Errorf("position %d, want 0: the record is still to be processed", got)
	}
	if failures != 0 {
		t.Errorf("%d failures were reported, want none", failures)
	}
}

func TestPolicyOfTheNodeBeatsThatOfTheApplication(t *testing.T) {
	for _, c := range []struct{ node, app, want processor.Policy }{
		{processor.Policy{}, processor.Policy{}, processor.Fail()},
		{processor.Policy{}, processor.Skip(), processor.Skip()},
		{processor.Fail(), processor.Skip(), processor.Fail()},
		{processor.DeadLetter("d"), processor.Skip(), processor.DeadLetter("d")},
	} {
		task, _ := bench{policy: c.node, onError: c.app}.open(t)
		if got := task.policy(nodeCount); got != c.want {
			t.Errorf("node %v, application %v: %v, want %v", c.node, c.app, got, c.want)
		}
	}
}

// A panic of the driver's own functions, between records, is no record's fault.
func TestPanicOutsideUserCodeIsNotSwallowed(t *testing.T) {
	task, _ := bench{policy: processor.Skip()}.open(t)
	put(task, 0, raw(0, 1000, "cat", "x"))
	defer func() {
		if v := recover(); v != "the driver's" {
			t.Errorf("recovered %v", v)
		}
	}()
	task.Step(10, func() bool { panic("the driver's") })
	t.Error("Step returned")
}

func TestInterruptIsAskedBetweenRecords(t *testing.T) {
	task, _ := bench{}.open(t)
	put(task, 0, raw(0, 1, "a", "x"), raw(1, 2, "b", "x"), raw(2, 3, "c", "x"))
	asked := 0
	r, err := task.Step(10, func() bool { asked++; return asked > 2 })
	if err != nil || r.Records != 2 || !r.More {
		t.Errorf("Step = %+v, %v; want 2 records and more to do", r, err)
	}
}

// Outputs that Seal left behind would commit with the wrong epoch.
func TestSealInsistsOnOutputs(t *testing.T) {
	task, _ := bench{}.open(t)
	put(task, 0, raw(0, 1, "a", "x"))
	if _, err := task.Step(10, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Seal did not panic")
		}
	}()
	task.Seal()
}

// Batches are given back exactly once, when nothing can go back to them any more.
func TestBatchesAreReleasedWhenCommitted(t *testing.T) {
	var released []int64
	task, _ := bench{release: func(b Batch) { released = append(released, b.Next) }}.open(t)
	put(task, 0, raw(0, 1, "a", "x"), raw(1, 1, "a", "x"))
	put(task, 0, raw(2, 1, "a", "x"))
	put(task, 0, raw(2, 1, "a", "x")) // a repeat: given back at once
	if !slices.Equal(released, []int64{3}) {
		t.Fatalf("released %v, want the repeated batch", released)
	}
	step := func(n int) *Epoch {
		t.Helper()
		if _, err := task.Step(n, nil); err != nil {
			t.Fatal(err)
		}
		task.Outputs()
		return task.Seal()
	}
	if got := task.Replay(); got != 0 {
		t.Errorf("%d bytes to replay before anything was processed", got)
	}
	first := step(1)
	if got := task.Replay(); got != 0 {
		t.Errorf("%d bytes to replay in the middle of the first batch", got)
	}
	second := step(2)
	if got := task.Retained(); got != 300 {
		t.Errorf("retained %d bytes, want 300", got)
	}
	if got := task.Replay(); got != 300 {
		t.Errorf("%d bytes to replay, want 300", got)
	}
	for _, c := range []struct {
		e    *Epoch
		want []int64
	}{{first, []int64{3}}, {second, []int64{3, 2, 3}}} {
		if err := task.Committed(c.e, nil); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(released, c.want) {
			t.Errorf("released %v, want %v", released, c.want)
		}
	}
	if got := task.Retained(); got != 0 {
		t.Errorf("retained %d bytes, want 0", got)
	}
}

// The bytes of an output are its own: the graph reuses its buffers, and so do later epochs.
func TestOutputsLiveUntilTheirEpochIsCommitted(t *testing.T) {
	task, _ := bench{}.open(t)
	var epochs []*Epoch
	var outs [][]Out
	for i := range int64(4) {
		put(task, 0, raw(i, 1, fmt.Sprint("key-", i), "x"))
		if _, err := task.Step(1, nil); err != nil {
			t.Fatal(err)
		}
		outs = append(outs, slices.Clone(task.Outputs()))
		epochs = append(epochs, task.Seal())
	}
	if task.Overlay() < 4*slabBytes {
		t.Errorf("overlay of %d bytes does not count the outputs of 4 epochs", task.Overlay())
	}
	for i, e := range epochs {
		for j := i; j < len(outs); j++ {
			if got, want := string(outs[j][0].Key), fmt.Sprint("key-", j); got != want {
				t.Fatalf("before commit %d, output of epoch %d has key %q, want %q", i, j, got, want)
			}
		}
		if err := task.Committed(e, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(task.slabs.data); got != 4 {
		t.Errorf("%d slabs came back, want 4", got)
	}
}

// In steady state a record costs no allocation in the kernel: what is left belongs to the epoch.
func TestStepDoesNotAllocatePerRecord(t *testing.T) {
	const records = 1000
	task, _ := bench{lean: true, release: func(Batch) {}}.open(t)
	f := newFeeder(task, 500, records)
	f.epoch(t, records)
	f.epoch(t, records)
	if perEpoch := testing.AllocsPerRun(20, func() { f.epoch(t, records) }); perEpoch > 100 {
		t.Errorf("%.0f allocations for an epoch of %d records", perEpoch, records)
	}
}

// Output memory of a record that failed is given back before the next one runs.
func TestRollbackGivesBackOutputMemory(t *testing.T) {
	task, _ := bench{policy: processor.Skip()}.open(t)
	put(task, 0, raw(0, 1, "a", "x"))
	if _, err := task.Step(10, nil); err != nil {
		t.Fatal(err)
	}
	before, used := task.arena.bytes, len(task.arena.data[0])
	broken := &brokenAfterEmit{graph: task.graph}
	task.graph = broken
	for i := range int64(100) {
		put(task, 0, raw(1+i, 1, "a", fmt.Sprint("big:", slabBytes)))
	}
	if r, err := task.Step(1000, nil); err != nil || r.Records != 100 || task.Stats().Skipped != 100 {
		t.Fatal(r, err, task.Stats())
	}
	if task.arena.bytes != before || len(task.arena.data[0]) != used {
		t.Errorf("the arena grew from %d bytes (%d used) to %d (%d used)", before, used, task.arena.bytes, len(task.arena.data[0]))
	}
}

// brokenAfterEmit fails every record after all else of it has succeeded.
type brokenAfterEmit struct{ graph }

func (g *brokenAfterEmit) Process(source int, r *topology.Raw, at int64) error {
	if err := g.graph.Process(source, r, at); err != nil {
		return err
	}
	return errTold
}

// A condemned record may wait behind commits of others, and its own commit may be discarded. Then it is forgotten.
func TestCondemnationLastsUntilItsRecordIsCommitted(t *testing.T) {
	var failed []int64
	task, _ := bench{policy: processor.Skip(), observer: func(f Failure) { failed = append(failed, f.Origin.Offset) }}.open(t)
	put(task, 0, raw(0, 1, "a", "x"), raw(1, 1, "a", "x"), raw(2, 1, "a", "x"))
	epoch := func(n int) *Epoch {
		t.Helper()
		if _, err := task.Step(n, nil); err != nil {
			t.Fatal(err)
		}
		task.Outputs()
		return task.Seal()
	}
	commit := func(e *Epoch) {
		t.Helper()
		if err := task.Committed(e, nil); err != nil {
			t.Fatal(err)
		}
	}
	epoch(3)
	task.Discard()
	task.Condemn(Origin{Offset: 1, Node: nodeSink}, errTold)
	commit(epoch(1))
	epoch(1)
	task.Discard()
	commit(epoch(1))
	if !slices.Equal(failed, []int64{1, 1}) {
		t.Errorf("failed %v, want the record at 1 in both of its epochs", failed)
	}
	if len(task.condemned) != 0 {
		t.Errorf("%v is still condemned after its commit", task.condemned)
	}
}

// Suppliers, Init and Close are user code too.
func TestInitAndCloseThatPanicAreErrors(t *testing.T) {
	task, _ := bench{}.open(t)
	w := wiring{sources: task.w.sources, nodes: task.w.nodes, wire: func(topology.Host) (graph, error) { panic("no Init today") }}
	c := task.c
	c.SinkPartitions = nil
	if _, err := newTask(c, Start{}, w); fault.Code(err) != "processor/init-failed" || !strings.Contains(err.Error(), "no Init today") {
		t.Errorf("newTask = %v", err)
	}
	w.wire = func(topology.Host) (graph, error) { return closeFails{}, nil }
	task, err := newTask(c, Start{}, w)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Close(); fault.Code(err) != "processor/close-failed" || !strings.Contains(err.Error(), "no Close today") {
		t.Errorf("Close = %v", err)
	}
}

type closeFails struct{ graph }

func (closeFails) Close() error { panic("no Close today") }

// Only a state or a cluster that is broken passes by the policies. An error that user code made itself, of whatever kind,
// is the record's.
func TestWhatIsNotTheRecordsFault(t *testing.T) {
	for _, c := range []struct {
		kind fault.Kind
		want bool
	}{{fault.Internal, false}, {fault.Record, false}, {fault.Config, false}, {fault.State, true}, {fault.Cluster, true}} {
		err := fmt.Errorf("while counting: %w", &fault.Error{Code: "x/y", Kind: c.kind})
		if got := notTheRecord(err) != nil; got != c.want {
			t.Errorf("kind %d: %v, want %v", c.kind, got, c.want)
		}
	}
}
