package runtime

import (
	"testing"

	"github.com/millrace-io/millrace/processor"
)

// An epoch that begins while another one is on its way takes its claim when it begins: what the one before it owned says
// nothing about it.
func TestEpochClaimsAtItsBegin(t *testing.T) {
	member := "m"
	newOwn := func() *ownership { return newOwnership(func() (string, int32) { return member, 1 }) }
	own := newOwn()
	id := func(n int32) processor.TaskID { return processor.TaskID{Subtopology: "counts", Partition: n} }
	run := func(o *ownership, n int32) *taskRun {
		incarnation, _ := o.assign(id(n))
		return &taskRun{group: &group{own: o}, id: id(n), incarnation: incarnation}
	}
	kept, leaving, lost := run(own, 0), run(own, 1), run(own, 2)

	w := newWorker(0, nil)
	for _, r := range []*taskRun{kept, leaving, lost} {
		if !w.join(r) {
			t.Fatal(r.id, "may not be stepped")
		}
	}
	first := w.epoch
	w.flight, w.epoch = &flight{epoch: first}, nil

	own.leave(leaving.id)
	own.doom(lost.id)
	again := run(own, 2) // the same task once more, as another incarnation
	for _, r := range []*taskRun{leaving, lost} {
		if w.join(r) || w.epoch != nil {
			t.Errorf("%s began an epoch although it is no longer ours", r.id)
		}
	}
	if !w.join(kept) || !w.join(again) || w.join(lost) {
		t.Error("of the tasks that are left, or come back, one may not be stepped, or one that was lost may")
	}
	switch second := w.epoch; {
	case second == nil || second == first || second.claim == first.claim:
		t.Error("the second epoch has no claim of its own")
	case !first.claim.doomed():
		t.Error("the first epoch may commit a task that was lost")
	case second.claim.doomed():
		t.Error("the second epoch is doomed for what the first one lost")
	}

	other := run(newOwn(), 5)
	w.epoch = nil
	if w.join(other) {
		t.Error("an epoch of another membership began while one of this is on its way")
	}
}
