package task

import (
	"fmt"
	"hash/fnv"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/store"
)

// Epoch is everything of one task that must become durable together with the outputs handed out since the last Seal. It is
// valid until it is committed or discarded.
type Epoch struct {
	// Offsets has an entry for EVERY input of the task, in order of Config.Inputs, unmoved ones included. Those of broadcast inputs
	// are in State.
	Offsets []changelog.InputOffset
	// StreamTime and Now are the clocks at the end of the epoch.
	StreamTime int64
	Now        int64
	// Records is the number of input records processed.
	Records int64
	// State is the kernel's own, to be kept with the offsets and given to the next Start; nil when there is nothing to keep.
	State []byte
	// Rows is the state that changed; one changelog record per row.
	Rows *store.Epoch
	// Err is set when a row is too large for its changelog, by a count that is a little generous (RecordBytes). Such an
	// epoch should not be sent: Discard it, and fail the task with the error. If it is sent and the broker takes it all
	// the same, it is as good as any other.
	Err error

	arena arena
	mark  mark
}

// Dirty reports whether the epoch being filled has processed anything.
func (t *Task) Dirty() bool { return t.records > 0 || t.touched }

// Moved reports whether the epoch being filled wrote state or outputs (as opposed to having only moved offsets).
func (t *Task) Moved() bool { return t.emitted > 0 || t.db.Dirty() }

// Seal ends the epoch being filled and begins another. Its outputs must have been taken before.
func (t *Task) Seal() *Epoch {
	if len(t.outs) > 0 {
		// They would be handed out with the next epoch, and be lost or doubled when only one of the two commits.
		panic("task: Seal before Outputs")
	}
	m, err := t.mark()
	e := &Epoch{
		Offsets: make([]changelog.InputOffset, t.ordinary), StreamTime: t.streamTime, Now: t.now, Records: t.records,
		State: t.keep(m.clock), Rows: t.db.Seal(), arena: t.arena, mark: m,
	}
	for i := range t.ordinary {
		in := &t.inputs[i]
		e.Offsets[i] = changelog.InputOffset{
			Topic: in.Topic, Partition: in.Partition, Offset: in.position(), LeaderEpoch: in.at.leader,
		}
	}
	for i := range t.condemned {
		if c := &t.condemned[i]; c.met && c.in == nil {
			c.in = e
		}
	}
	if e.Err = err; err == nil {
		e.Err = t.tooLarge(e.Rows)
	}
	t.sealed = append(t.sealed, e)
	t.begun()
	return e
}

// begun starts an empty epoch.
func (t *Task) begun() {
	t.arena = arena{from: &t.slabs}
	t.records, t.emitted, t.touched = 0, 0, false
	t.undo.open = false
}

func (t *Task) mark() (m mark, err error) {
	m = mark{
		cursors: make([]cursor, len(t.inputs)), streamTime: t.streamTime, now: t.now, count: t.count.snapshot(),
		advancing: t.advancing, retry: t.retry,
	}
	for i := range t.inputs {
		m.cursors[i] = t.inputs[i].at
	}
	if len(t.alarms) > 0 {
		m.fronts = make([][]byte, len(t.alarms))
		for i := range t.alarms {
			m.fronts[i] = t.alarms[i].Queue.Front()
		}
	}
	if t.clock != nil {
		m.clock, err = t.clock.mark()
	}
	return m, err
}

// Committed applies the oldest sealed epoch, which must be e, with its checkpoint row, and lets its inputs and outputs go.
// After an error the DB must be closed and the task restored again.
func (t *Task) Committed(e *Epoch, checkpoint []byte) error {
	if len(t.sealed) == 0 || t.sealed[0] != e {
		panic("task: Committed of an epoch that is not the oldest")
	}
	if err := t.db.Apply(e.Rows, checkpoint); err != nil {
		return err
	}
	chaos.Pass(chaos.MidApply)
	n := copy(t.sealed, t.sealed[1:])
	t.sealed[n] = nil
	t.sealed = t.sealed[:n]
	t.committed = e.mark
	for i := range t.inputs {
		t.letGo(&t.inputs[i], e.mark.cursors[i])
	}
	t.pardon(e)
	e.arena.reset()
	return nil
}

// Discard undoes every epoch that was not committed, the one being filled included: state, clocks, positions and outputs
// are as after the last Committed, and the retained inputs will be stepped again. Outputs handed out before must not be
// in use any more.
func (t *Task) Discard() {
	if chaos.Has(chaos.SkipDiscard) {
		t.keepState()
	} else {
		t.db.Discard()
	}
	for _, e := range t.sealed {
		e.arena.reset()
	}
	clear(t.sealed)
	t.sealed = t.sealed[:0]
	t.arena.reset()
	t.outs = t.outs[:0]
	t.begun()
	t.streamTime = t.committed.streamTime // the wall clock is what it is: time does not go back because work was undone
	t.db.SetClocks(t.now, t.streamTime)
	t.advancing, t.retry = t.committed.advancing, t.committed.retry
	for i := range t.alarms {
		t.alarms[i].Queue.Discard(t.committed.fronts[i])
	}
	for i := range t.condemned {
		t.condemned[i].met, t.condemned[i].in = false, nil
	}
	t.count = t.committed.count.snapshot()
	if t.clock != nil {
		t.clock.restore(t.committed.clock)
	}
	for i := range t.inputs {
		in := &t.inputs[i]
		in.at, in.looked = t.committed.cursors[i], 0
		in.look()
	}
	t.forget()
}

// keepState is the mistake of a Discard that forgets the state: what was sealed stays as if it had been committed, and
// what was not stays in the epoch being filled. Only a chaos build makes it, to see that the verifier notices.
func (t *Task) keepState() {
	checkpoint, _, err := t.db.Checkpoint()
	for _, e := range t.sealed {
		if err == nil {
			err = t.db.Apply(e.Rows, checkpoint)
		}
	}
	if err != nil {
		panic(err)
	}
}

// tooLarge returns an error if a row does not fit its changelog.
func (t *Task) tooLarge(rows *store.Epoch) error {
	most := t.c.MaxChangelogBytes
	if most <= 0 {
		return nil
	}
	return rows.Each(func(name string, key, value []byte) error {
		n := RecordBytes(key, value, nil)
		if n <= most {
			return nil
		}
		hash := fnv.New64a()
		hash.Write(key)
		return &fault.Error{
			Code: "state/row-too-large", Kind: fault.Record, Thing: "store", Value: name,
			Reason: fmt.Sprintf("task %s: the row whose key has the FNV-1a hash %016x needs a changelog record of %d bytes; the topic takes %d",
				t.c.ID, hash.Sum64(), n, most),
			Remedy: "raise max.message.bytes of the changelog topic, or keep less in one value",
		}
	})
}
