// Package assign decides which member of a group runs which task. Assign is a pure function: the same members and topics
// give the same plan on whatever machine leads the group. Balancer puts it behind kgo's group protocol.
//
// The unit is the task: every input partition of a task goes to one member, and moves together. A task that moves is given
// to nobody in the first rebalance; its owner lets go of it and rejoins, and the second rebalance hands it on. docs/design/0006-assignment.md
// tells why it is as it is.
package assign

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
)

// SubtopologySpec is a subtopology as the assignment sees it.
type SubtopologySpec struct {
	Name string
	// Hash is the identity of what the subtopology does and owns: only members that declare the same name, hash and sources
	// may take over each other's tasks.
	Hash uint64
	// Sources are the topics it reads, as Kafka calls them. No topic may be read by two subtopologies of one topology.
	Sources  []string
	Stateful bool
	// Tasks is the number of its tasks; 0 means as many as its widest source has partitions. Partitions beyond it stay
	// with nobody.
	Tasks int32
}

// Version is a topology fingerprint and when it was first started anywhere, in milliseconds of that machine's wall clock.
type Version struct {
	Fingerprint uint64
	Since       int64
}

// Position is how far a local copy of a task's state reaches: the sum, over its stores, of the next changelog offset to
// apply. Members can be compared by it, since the offsets are those of the same topics.
type Position struct {
	Task   processor.TaskID
	Offset int64
}

// Member is what a member tells the others when it joins (docs/format/join-userdata.md).
type Member struct {
	Instance  string
	Address   string // host:port of its listener, "" without one
	Workers   int    // its weight; less than 1 counts as 1
	Capacity  int    // tasks it has room for, 0 = any number; exceeded only when nobody has room
	Guarantee uint8

	// Fingerprint is the topology's, Since when this process started it. Known are the versions heard of from others.
	Fingerprint uint64
	Since       int64
	Known       []Version

	Subtopologies []SubtopologySpec
	// Positions are the local copies of tasks that the member does not own. The owner of a task is taken to be up to date.
	Positions []Position
	// Promised are the tasks that the last plan withheld for this member: it has the first call on them.
	Promised []processor.TaskID
}

// Partition is one partition of a topic.
type Partition struct {
	Topic     string
	Partition int32
}

func (p Partition) String() string { return p.Topic + "/" + strconv.Itoa(int(p.Partition)) }

func comparePartitions(a, b Partition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

func compareTasks(a, b processor.TaskID) int {
	return cmp.Or(cmp.Compare(a.Subtopology, b.Subtopology), cmp.Compare(a.Partition, b.Partition))
}

// Joined is a member as the group's leader sees it.
type Joined struct {
	ID string // of the group
	Member
	// Claims are the partitions it says it holds, as of Generation.
	Claims     []Partition
	Generation int32
	// Err says that what it told could not be read: it keeps what it claims and is given nothing.
	Err error
}

// Input is everything a plan depends on. Nothing in it is changed.
type Input struct {
	Generation int32 // being balanced into
	Members    []Joined
	// Topics is the number of partitions of every topic; a missing topic has none.
	Topics map[string]int32
}

// Assignment is what one member is to have at the end of this rebalance.
type Assignment struct {
	Member     string
	Tasks      []processor.TaskID // in order
	Partitions []Partition        // in order
}

// Withheld is a task that goes to To once those it comes From have let go of it.
type Withheld struct {
	Task processor.TaskID
	From []string
	To   string
}

// Unassigned is a task that nobody can have, and why. Partition -1 stands for every task of a subtopology that nobody has yet.
type Unassigned struct {
	Task   processor.TaskID
	Reason string
}

// Plan is who gets what.
type Plan struct {
	Generation int32
	Members    []Assignment // in order of member ids
	Withheld   []Withheld   // in order of tasks
	Unassigned []Unassigned // in order of tasks
	// Winner is the newest topology that has a member; Versions everything known about the age of topologies, newest first.
	Winner    uint64
	Versions  []Version
	Instances []Instance // in order of names
	// Refused is set when the group cannot work as it is: everybody keeps what it has and nobody gets anything.
	Refused *fault.Error
}

// Assign makes a plan.
//
// Every task goes to a member that declares its subtopology as the newest topology does. A task stays with its owner unless
// balance demands a move; where it must move, it goes where its state reaches furthest. Members get tasks in
// proportion to their workers: no task could move and leave its new owner with fewer tasks per worker than its old one had.
// Among equals (same workers, same topology) that is within one, in all and per subtopology.
//
// Members of an older topology keep what the newest one declares differently, for as long as they live.
func Assign(in Input) Plan {
	g := gather(in)
	p := Plan{Generation: in.Generation, Winner: g.winner, Versions: g.versions, Instances: g.instances()}
	if p.Refused = g.mixedGuarantees(); p.Refused != nil {
		g.keepEverything()
	} else {
		g.keepForeign()
		b, free := g.board()
		p.Unassigned = free
		b.place()
		p.Withheld = g.hand(b)
	}
	for m := range g.members {
		a := &g.given[m]
		slices.SortFunc(a.Tasks, compareTasks)
		a.Tasks = slices.Compact(a.Tasks)
		slices.SortFunc(a.Partitions, comparePartitions)
		p.Members = append(p.Members, *a)
	}
	return p
}

// TasksOf names the tasks that a set of partitions belongs to, in order. Every input of a task is always assigned together,
// so one partition is enough to know it. Partitions of topics that nobody in catalog reads are left out.
func TasksOf(catalog []SubtopologySpec, assigned map[string][]int32) []processor.TaskID {
	var tasks []processor.TaskID
	for i := range catalog {
		for _, topic := range catalog[i].Sources {
			for _, p := range assigned[topic] {
				tasks = append(tasks, processor.TaskID{Subtopology: catalog[i].Name, Partition: p})
			}
		}
	}
	slices.SortFunc(tasks, compareTasks)
	return slices.Compact(tasks)
}
