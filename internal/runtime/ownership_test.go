package runtime

import (
	"errors"
	"testing"

	"github.com/millrace-io/millrace/processor"
)

// fakeMember is what the client would say of itself.
type fakeMember struct {
	id         string
	generation int32
}

func (f *fakeMember) current() (string, int32) { return f.id, f.generation }

func tid(n int32) processor.TaskID { return processor.TaskID{Subtopology: "s", Partition: n} }

func keys(n int32) []inputKey { return []inputKey{{"in", n}} }

// An epoch may commit under a newer generation as long as every task of it stayed ours.
func TestOwnershipNewGeneration(t *testing.T) {
	m := &fakeMember{"m1", 1}
	o := newOwnership(m.current)
	inc, _ := o.assign(tid(0))
	c := o.claim()
	if !c.add(tid(0), inc, keys(0)) {
		t.Fatal("a task of ours was refused")
	}
	m.generation = 7
	got, err := c.Authorize()
	if err != nil || got.ID != "m1" || got.Generation != 7 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if !c.Owned("in", 0) || c.Owned("in", 1) {
		t.Error("owned partitions")
	}
}

// Losing one task of an epoch ends all of it, even when the task comes back: the new generation would look valid.
func TestOwnershipLostAndBack(t *testing.T) {
	m := &fakeMember{"m1", 1}
	o := newOwnership(m.current)
	inc0, _ := o.assign(tid(0))
	inc1, _ := o.assign(tid(1))
	c := o.claim()
	c.add(tid(0), inc0, keys(0))
	c.add(tid(1), inc1, keys(1))

	o.doom(tid(1))
	o.remove(tid(1))
	m.generation = 2
	again, fresh := o.assign(tid(1))
	if !fresh || again == inc1 {
		t.Errorf("a task that was lost came back as incarnation %d", again)
	}
	if _, err := c.Authorize(); !errors.Is(err, errNotOwned) {
		t.Errorf("the epoch may commit: %v", err)
	}
	if !c.doomed() || c.Owned("in", 1) || !c.Owned("in", 0) {
		t.Error("what is owned after a loss")
	}
	if next := o.claim(); !next.add(tid(1), again, keys(1)) {
		t.Error("the new incarnation may not begin an epoch")
	}
	if next := o.claim(); next.add(tid(1), inc1, keys(1)) {
		t.Error("the old incarnation may begin an epoch")
	}
}

// A leaving task finishes the epoch it is in and begins no other.
func TestOwnershipLeaving(t *testing.T) {
	m := &fakeMember{"m1", 1}
	o := newOwnership(m.current)
	inc, _ := o.assign(tid(0))
	c := o.claim()
	c.add(tid(0), inc, keys(0))
	o.leave(tid(0))
	if _, err := c.Authorize(); err != nil {
		t.Errorf("its last epoch may not commit: %v", err)
	}
	if o.mayStep(tid(0), inc) || o.claim().add(tid(0), inc, keys(0)) {
		t.Error("it may go on")
	}
	o.doom(tid(0))
	if _, err := c.Authorize(); err == nil {
		t.Error("doomed, and may commit")
	}
}

// Another member id is a break of everything, for ever.
func TestOwnershipMemberChanged(t *testing.T) {
	m := &fakeMember{"m1", 1}
	o := newOwnership(m.current)
	inc, _ := o.assign(tid(0))
	c := o.claim()
	c.add(tid(0), inc, keys(0))
	m.id = "m2"
	if _, err := c.Authorize(); err == nil {
		t.Error("an epoch of m1 may commit as m2")
	}
	if o.alive() || o.mayStep(tid(0), inc) {
		t.Error("tasks of m1 live on")
	}
	m.id = "m1"
	if o.alive() {
		t.Error("a broken membership was mended")
	}
}

// Assigned again without having been revoked, a task goes on as it was.
func TestOwnershipAssignedAgain(t *testing.T) {
	m := &fakeMember{"m1", 1}
	o := newOwnership(m.current)
	first, _ := o.assign(tid(0))
	second, fresh := o.assign(tid(0))
	if fresh || first != second {
		t.Errorf("incarnation %d became %d", first, second)
	}
	o.doomAll()
	if len(o.tasks) != 0 {
		t.Error("tasks after doomAll")
	}
}
