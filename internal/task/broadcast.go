package task

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-io/millrace/internal/fault"
)

// Broadcast inputs stand behind all others in Config.Inputs. Their position is the task's own: it is kept with the epoch
// (tagBroadcast) and not in the group, which could hold one position for all tasks only.
//
// The order of a task is: what failed and is tried again, which holds up all else; then what has come of broadcast topics, in the order of the inputs; then
// timers; then records. After a start nothing else is done before every broadcast input has been read as far as it went then.

// ordinary is the number of inputs that are not broadcast.
func ordinary(inputs []Input) (n int, err error) {
	for i := range inputs {
		if inputs[i].Broadcast != "" {
			continue
		}
		if n < i {
			return 0, fmt.Errorf("input %s/%d stands behind a broadcast input", inputs[i].Topic, inputs[i].Partition)
		}
		n++
	}
	return n, nil
}

// announced returns the broadcast input whose head comes before everything else, -1 if there is none, and whether nothing else may be
// done yet.
func (t *Task) announced() (input int, starting bool) {
	input = -1
	for i := t.ordinary; i < len(t.inputs); i++ {
		in := &t.inputs[i]
		if in.head != nil && input < 0 {
			input = i
		}
		starting = starting || in.position() < in.until
	}
	return input, starting
}

// Starting reports whether the task still reads broadcast topics as far as they went when it was started.
func (t *Task) Starting() bool {
	_, starting := t.announced()
	return starting
}

// keepBroadcast encodes the position of a broadcast input.
func (in *input) keepBroadcast(dst []byte) []byte {
	dst = appendText(dst, in.Broadcast)
	dst = appendText(dst, in.Topic)
	dst = append(dst, in.TopicID[:]...)
	return binary.AppendVarint(dst, in.position())
}

// resumeBroadcast takes up a position. Those of stores and topics that the task does not read any more are let go.
func (t *Task) resumeBroadcast(f *fields) error {
	name, topic := f.text(), f.text()
	id := f.take(len(input{}.TopicID))
	next := f.varint()
	if f.bad {
		return nil // the caller says so
	}
	for i := t.ordinary; i < len(t.inputs); i++ {
		in := &t.inputs[i]
		if in.Broadcast != name || in.Topic != topic {
			continue
		}
		if was := [16]byte(id); was != in.TopicID && was != [16]byte{} && in.TopicID != [16]byte{} {
			return &fault.Error{
				Code: "topic/recreated", Kind: fault.State, Thing: "broadcast topic", Value: topic,
				Reason: "it was deleted and created again: what task " + t.c.ID.String() + " has read of it is of another topic",
				Remedy: "`millrace reset` makes the application's state match the new topic",
			}
		}
		in.Start, in.tail = next, next
	}
	return nil
}
