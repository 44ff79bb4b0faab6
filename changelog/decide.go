package changelog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

// Action is what a task does with what was found at its start.
type Action uint8

// The actions.
const (
	// Normal: go on from the group's offsets; the local copy is brought up to the changelog's end.
	Normal Action = iota
	// AdoptGroup: take the group's offsets as they are: the task is stateless, or somebody moved them and that was accepted.
	AdoptGroup
	// AdoptRecord: the group's offsets are gone; take the task record's.
	AdoptRecord
	// FirstStart: there is no state anywhere. Offsets the group may have (a migration, an application that had no store
	// before) are adopted; inputs without one start where their source says.
	FirstStart
	// RebuildLocal: as Normal, but the local copy is ahead of Kafka: drop it and restore from the changelog's start.
	RebuildLocal
	// Refuse: the sources contradict each other and going on would lose or double something. Err says what to do.
	Refuse
)

func (a Action) String() string {
	names := [...]string{"normal", "adopt group", "adopt record", "first start", "rebuild local", "refuse"}
	if int(a) < len(names) {
		return names[a]
	}
	return "action " + strconv.Itoa(int(a))
}

// Found is everything a task's sources say at its start, taken in the order of docs/design/0005-restore.md: the stable
// OffsetFetch first, then the changelogs' ends, then the task record.
type Found struct {
	Task       string       // as it prints
	Group      string       // for messages
	Stateful   bool         // it has stores; a task without may have a record, for what the kernel keeps
	Inputs     []FoundInput // every input partition of the task
	Changelogs []FoundChangelog
	// Record is the task's latest record in <app>-tasks, nil if there is none. When the topic was read from the checkpoint's
	// position and had no later record, it is what Checkpoint.Record gives.
	Record     *TaskRecord
	Checkpoint *Checkpoint // of the local database, nil if there is none
	TasksEnd   int64       // end of the task's partition of <app>-tasks; -1 unknown

	// Guarantee is what this process promises; what wrote the sources may have promised something else.
	Guarantee txn.Guarantee
	// AcceptOffsets: the user takes the group's offsets as they are, although they contradict the record. Moved forward, the
	// records in between are not counted; moved back, they are counted again.
	AcceptOffsets bool
}

// FoundInput is what the group says about one input partition.
type FoundInput struct {
	Topic     string
	Partition int32
	Offset    int64 // committed offset, -1 absent
	Meta      txn.Meta
	Ours      bool  // the metadata is one of millrace's
	MetaErr   error // the metadata is ours and cannot be read
}

// FoundChangelog is the log of one of the task's stores.
type FoundChangelog struct {
	Store      string
	Start, End int64 // log start and uncommitted end
}

func (c FoundChangelog) empty() bool { return c.End <= c.Start }

// Decision is where a task goes on from.
type Decision struct {
	Action Action
	// Inputs has, in the order of Found.Inputs, the offset to start each at; -1 where the source's start position decides.
	Inputs     []int64
	StreamTime int64 // -1 before any record
	Now        int64
	State      []byte // the kernel's own, of the task record
	// Commit is the epoch the state ends with: the last commit id known, for resolving an unknown outcome later. It is the
	// zero CommitID when there was none.
	Commit txn.CommitID
	// Say is a sentence for the log where something was adopted or dropped; empty in the normal case. Alarm says it is one
	// somebody should look at.
	Say   string
	Alarm bool
	Err   *fault.Error // set with Refuse only
	// OnRecords is set when the decision holds only if the changelogs have no committed record: their offsets may come from
	// aborted transactions alone, which only the restore can tell. If it applies a record, this is the refusal.
	OnRecords *fault.Error
}

// Decide says which of several sources is true. It compares per partition, and any partition decides: one conflict refuses
// the task. It is pure.
//
//	| found at start                                              | action        |
//	|-------------------------------------------------------------|---------------|
//	| group >= task record >= checkpoint                          | Normal        |
//	| stateless task                                              | AdoptGroup, with what the kernel kept unless moved back |
//	| no record, changelogs empty, metadata absent or not ours    | FirstStart    |
//	| no record, changelogs empty, metadata ours                  | FirstStart    |
//	| no record, changelogs not empty                             | FirstStart, if the restore finds no record |
//	| group absent, record present                                | AdoptRecord   |
//	| metadata not ours, offset = record                          | Normal, clock from the record |
//	| metadata not ours, offset > record                          | Refuse, or AdoptGroup if accepted |
//	| group < record                                              | Refuse, or AdoptGroup if accepted |
//	| the same, metadata ours, record written at least once       | Normal        |
//	| no record, changelogs not empty, at least once now or before | Normal       |
//	| checkpoint > group, or > the end of a changelog             | RebuildLocal  |
//
// Under at-least-once an epoch writes its changelog rows, then its task record, then its offsets. A process that dies in between
// leaves the first ahead of the others: their input comes again. It matters what the sources were written under, not what is
// promised now, so a switch of the guarantee finds the same rows of the table.
func Decide(f *Found) Decision {
	d := Decision{StreamTime: -1, Inputs: make([]int64, len(f.Inputs))}
	for i, in := range f.Inputs {
		d.Inputs[i] = in.Offset
		if in.MetaErr != nil {
			return refuse(f, in, "group/metadata-unreadable", "its commit metadata is millrace's and cannot be read: "+in.MetaErr.Error(),
				"run the version of millrace that committed it, or a newer one; or set the offsets anew with `millrace reset`")
		}
		if in.Offset >= 0 && in.Ours {
			if in.Meta.StreamTime > d.StreamTime {
				d.StreamTime = in.Meta.StreamTime
			}
			if in.Meta.Now >= d.Now {
				d.Now, d.Commit = in.Meta.Now, in.Meta.Commit
			}
		}
	}
	if !f.Stateful {
		d.Action = AdoptGroup
		if f.Record != nil && !before(f) {
			d.State = f.Record.State
		}
		return d
	}
	if f.Record == nil {
		return decideFirst(f, d)
	}
	return decideRecord(f, d)
}

// before reports whether somebody moved the group to before the record.
func before(f *Found) bool {
	for _, in := range f.Inputs {
		if want, known := f.Record.Input(in.Topic, in.Partition); known && in.Offset < want {
			return true
		}
	}
	return false
}

// decideFirst handles a stateful task that has no record. Every transaction that writes to a changelog writes the task's record
// too; so if there is none, then nothing in the changelogs is committed, unless something else is wrong.
func decideFirst(f *Found, d Decision) Decision {
	d.Action = FirstStart
	unfinished := f.Guarantee == txn.AtLeastOnce
	for _, in := range f.Inputs {
		unfinished = unfinished || in.Ours && in.Meta.Guarantee == txn.AtLeastOnce
	}
	for _, c := range f.Changelogs {
		if c.empty() {
			continue
		}
		if unfinished {
			d.Action, d.Alarm = Normal, true
			d.Say = fmt.Sprintf("task %s has a changelog for store %q and no record of where it came from: a first epoch under at-least-once was not finished, and its records are counted again", f.Task, c.Store)
			break
		}
		d.OnRecords = &fault.Error{
			Code: "task/record-missing", Kind: fault.State, Thing: "task", Value: f.Task,
			Reason: fmt.Sprintf("the changelog of store %q has records between offsets %d and %d, but nothing says which input they came from", c.Store, c.Start, c.End),
			Remedy: "the tasks topic was emptied, or the store came from another application; `millrace reset` starts over",
		}
		break
	}
	var seeded, ours []string
	for _, in := range f.Inputs {
		switch {
		case in.Offset < 0:
		case in.Ours:
			ours = append(ours, place(in))
		default:
			seeded = append(seeded, place(in))
		}
	}
	switch {
	case d.Say != "":
	case len(seeded) > 0:
		d.Say = fmt.Sprintf("first start of task %s on a group that already has offsets: going on from %s with empty state", f.Task, strings.Join(seeded, ", "))
	case len(ours) > 0:
		d.Say = fmt.Sprintf("task %s gets its first store: state begins at %s", f.Task, strings.Join(ours, ", "))
	}
	if f.Checkpoint != nil && f.Checkpoint.Commit != (txn.CommitID{}) {
		// A local copy of a state that Kafka knows nothing of: a directory left from another life of this application.
		d.Action, d.Alarm = RebuildLocal, true
		d.Say = fmt.Sprintf("task %s has a local copy although Kafka has neither a record nor a changelog of it: the copy is dropped", f.Task)
	}
	return d
}

// decideRecord handles a stateful task with a record.
func decideRecord(f *Found, d Decision) Decision {
	r := f.Record
	var adopted, forward, backward, again []string
	for i, in := range f.Inputs {
		want, known := r.Input(in.Topic, in.Partition)
		switch {
		case !known:
			// An input the task did not have when it wrote the record: what the group says holds, if anything.
		case in.Offset < 0:
			d.Inputs[i] = want
			adopted = append(adopted, fmt.Sprintf("%s/%d at %d", in.Topic, in.Partition, want))
		case in.Offset < want && in.Ours && r.Commit.AtLeastOnce():
			again = append(again, fmt.Sprintf("%s, written up to %d", place(in), want))
		case in.Offset < want:
			if !f.AcceptOffsets {
				return refuse(f, in, "group/offset-behind",
					fmt.Sprintf("the task's state already contains everything below offset %d: the records in between would be counted twice", want),
					"`millrace reset` starts over with empty state; the option AcceptOffsets counts them twice")
			}
			backward = append(backward, place(in))
		case !in.Ours && in.Offset > want:
			if !f.AcceptOffsets {
				return refuse(f, in, "group/offset-ahead",
					fmt.Sprintf("the task's state ends at offset %d and something other than millrace moved the group forward: the records in between would be missing", want),
					"`millrace reset` starts over with empty state; the option AcceptOffsets leaves them out")
			}
			forward = append(forward, place(in))
		}
	}
	d.State = r.State
	// The record's clock and the group's are the same epoch's, or the later of the two is right: a clock never goes back.
	d.StreamTime = max(d.StreamTime, r.StreamTime)
	if r.Now > d.Now || d.Commit == (txn.CommitID{}) {
		d.Now, d.Commit = max(d.Now, r.Now), r.Commit
	}
	switch {
	case len(backward) > 0:
		d.Action, d.Alarm = AdoptGroup, true
		d.Say = fmt.Sprintf("task %s goes back to %s, as accepted: records are counted again", f.Task, strings.Join(backward, ", "))
	case len(forward) > 0:
		d.Action, d.Alarm = AdoptGroup, true
		d.Say = fmt.Sprintf("task %s jumps to %s, as accepted: the records in between are not counted", f.Task, strings.Join(forward, ", "))
	case len(adopted) > 0:
		d.Action, d.Alarm = AdoptRecord, true
		d.Say = fmt.Sprintf("the group %q has no offsets for task %s (expired or deleted): going on from its record, %s", f.Group, f.Task, strings.Join(adopted, ", "))
	case len(again) > 0:
		d.Say = fmt.Sprintf("an epoch of task %s under at-least-once was written and its offsets were not committed: going on from %s; what is in between comes again", f.Task, strings.Join(again, ", "))
	}
	if why := ahead(f, d.Inputs, len(backward) > 0); why != "" {
		if d.Say != "" {
			d.Say += "; "
		}
		d.Action, d.Alarm = RebuildLocal, true
		d.Say += fmt.Sprintf("the local copy of task %s is ahead of Kafka (%s): it is dropped and rebuilt from the changelog", f.Task, why)
	}
	return d
}

// ahead says in what the checkpoint is ahead of Kafka, or "". movedBack says that the inputs were moved back on purpose:
// then being ahead of them is no sign of anything.
func ahead(f *Found, inputs []int64, movedBack bool) string {
	c := f.Checkpoint
	if c == nil {
		return ""
	}
	for i, in := range f.Inputs {
		if at, ok := inputOffset(c.Inputs, in.Topic, in.Partition); ok && !movedBack && inputs[i] >= 0 && at > inputs[i] {
			return fmt.Sprintf("checkpoint of %s/%d at %d, group at %d", in.Topic, in.Partition, at, inputs[i])
		}
	}
	for _, l := range f.Changelogs {
		if at, ok := c.Store(l.Store); ok && at > l.End {
			return fmt.Sprintf("checkpoint of store %q at %d, its changelog ends at %d", l.Store, at, l.End)
		}
	}
	if f.TasksEnd >= 0 && c.Tasks > f.TasksEnd {
		return fmt.Sprintf("checkpoint of the tasks topic at %d, it ends at %d", c.Tasks, f.TasksEnd)
	}
	return ""
}

func place(in FoundInput) string {
	return fmt.Sprintf("%s/%d at %d", in.Topic, in.Partition, in.Offset)
}

func refuse(f *Found, in FoundInput, code, reason, remedy string) Decision {
	return Decision{Action: Refuse, Err: &fault.Error{
		Code: code, Kind: fault.State,
		Thing:  fmt.Sprintf("offset of group %q for %s/%d, task %s", f.Group, in.Topic, in.Partition, f.Task),
		Value:  strconv.FormatInt(in.Offset, 10),
		Reason: reason, Remedy: remedy,
	}}
}
