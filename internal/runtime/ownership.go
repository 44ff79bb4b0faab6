package runtime

import (
	"errors"
	"sync"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/txn"
)

// errNotOwned is why an epoch may not commit: a task of it was lost, or the member is another one by now.
var errNotOwned = errors.New("runtime: a task of this epoch was lost to the group")

// ownership is which tasks this member has, as one value under one lock. Only the group's callbacks change it; nothing is
// asked of a broker and nothing is waited for while the lock is held.
//
// Why it exists: the broker fences offset commits by member and generation, not by task, and kgo stores a new generation
// before it calls OnPartitionsRevoked. A refreshed generation therefore always looks valid to the broker, whatever we lost
// in between. So an epoch remembers what it owned when it began, and is asked here before every send.
type ownership struct {
	mu     sync.Mutex
	member string // member id all tasks were assigned under; "" before the first assignment
	broken bool   // the membership is over: everything is lost, for ever; the client is replaced
	tasks  map[processor.TaskID]*owned
	next   uint64 // incarnations given out

	// current asks the client for its member id and generation.
	current func() (member string, generation int32)
	static  *string // group instance id, nil for a dynamic member
}

// owned is one task this member has.
type owned struct {
	incarnation uint64
	leaving     bool // OnPartitionsRevoked has begun: no new epoch may begin with it
	doomed      bool // its time is over: no offset commit for it may be sent any more
}

func newOwnership(current func() (string, int32)) *ownership {
	return &ownership{tasks: map[processor.TaskID]*owned{}, current: current}
}

// check compares the member id with the one everything was assigned under. It reports false once they differ: after an
// eviction kgo rejoins under a new id without telling OnPartitionsLost, so a changed id is a break of everything.
// Called with the lock held.
func (o *ownership) check() bool {
	if o.broken {
		return false
	}
	member, _ := o.current()
	if o.member != "" && member != o.member {
		o.broken = true
		for _, t := range o.tasks {
			t.doomed = true
		}
		return false
	}
	return true
}

// alive is check for callers outside.
func (o *ownership) alive() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.check()
}

// assign notes a task as ours and returns its incarnation. A task assigned again without having been revoked keeps it.
func (o *ownership) assign(id processor.TaskID) (incarnation uint64, fresh bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken {
		return 0, false
	}
	if o.member == "" {
		o.member, _ = o.current()
	}
	if t, ok := o.tasks[id]; ok && !t.doomed {
		return t.incarnation, false
	}
	o.next++
	o.tasks[id] = &owned{incarnation: o.next}
	return o.next, true
}

// leave marks a task that is being revoked.
func (o *ownership) leave(id processor.TaskID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.tasks[id]; t != nil {
		t.leaving = true
	}
}

// doom ends a task: nothing of it will be committed from here on, except what is already on its way.
func (o *ownership) doom(id processor.TaskID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.tasks[id]; t != nil {
		t.doomed = true
	}
}

// remove forgets a task.
func (o *ownership) remove(id processor.TaskID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.tasks[id]; t != nil {
		t.doomed = true // an epoch may still hold it
		delete(o.tasks, id)
	}
}

// doomAll ends everything, for ever: the membership is over, and what the group still gives to it is not taken.
func (o *ownership) doomAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.broken = true
	for id, t := range o.tasks {
		t.doomed = true
		delete(o.tasks, id)
	}
}

// mayStep reports whether a new record of the task may be processed: owned, and not on its way out.
func (o *ownership) mayStep(id processor.TaskID, incarnation uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.tasks[id]
	return t != nil && t.incarnation == incarnation && !t.doomed && !t.leaving && !o.broken
}

// claim is what one worker epoch owned, task by task, from the moment each of them first stepped in it.
type claim struct {
	o      *ownership
	member string
	tasks  []claimed
	inputs map[inputKey]int // index into tasks, to look a partition's task up
}

type claimed struct {
	id processor.TaskID
	t  *owned
}

type inputKey struct {
	topic     string
	partition int32
}

// claim begins an empty claim.
func (o *ownership) claim() *claim {
	o.mu.Lock()
	defer o.mu.Unlock()
	return &claim{o: o, member: o.member, inputs: map[inputKey]int{}}
}

// add puts a task under the claim; false when it is no longer ours to begin with.
func (c *claim) add(id processor.TaskID, incarnation uint64, inputs []inputKey) bool {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	t := c.o.tasks[id]
	if t == nil || t.incarnation != incarnation || t.doomed || t.leaving || c.o.broken {
		return false
	}
	if c.member == "" {
		c.member = c.o.member
	}
	for _, in := range inputs {
		c.inputs[in] = len(c.tasks)
	}
	c.tasks = append(c.tasks, claimed{id, t})
	return true
}

// doomed reports whether any task of the claim is over, which ends the whole epoch.
func (c *claim) doomed() bool {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	return c.doomedLocked()
}

func (c *claim) doomedLocked() bool {
	if !c.o.check() || c.member != c.o.member {
		return true
	}
	for _, t := range c.tasks {
		if t.t.doomed {
			return true
		}
	}
	return false
}

// any reports whether at least one task of the claim is still ours.
func (c *claim) any() bool {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	for _, t := range c.tasks {
		if !t.t.doomed {
			return c.o.check()
		}
	}
	return false
}

// Authorize implements txn.Ownership.
func (c *claim) Authorize() (txn.Member, error) {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	if c.doomedLocked() {
		return txn.Member{}, errNotOwned
	}
	member, generation := c.o.current()
	if member != c.member {
		return txn.Member{}, errNotOwned
	}
	return txn.Member{ID: member, Generation: generation, InstanceID: c.o.static}, nil
}

// Owned reports whether the task that reads this partition has been ours without interruption since the epoch began.
func (c *claim) Owned(topic string, partition int32) bool {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	i, ok := c.inputs[inputKey{topic, partition}]
	return ok && c.o.check() && !c.tasks[i].t.doomed
}
