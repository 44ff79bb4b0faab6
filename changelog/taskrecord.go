package changelog

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/txn"
)

// InputOffset is the offset of the next record to process of one input partition.
type InputOffset struct {
	Topic       string
	Partition   int32
	Offset      int64
	LeaderEpoch int32 // of the last record processed, -1 unknown
}

// TaskRecord is a stateful task's record in <app>-tasks, written in every epoch (docs/format/tasks-topic.md).
type TaskRecord struct {
	Commit     txn.CommitID
	StreamTime int64
	Now        int64
	Inputs     []InputOffset
	State      []byte // the kernel's own (docs/format/kernel-state.md)
}

// Append appends the encoded record to dst and returns the extended slice.
func (t *TaskRecord) Append(dst []byte) []byte {
	from := len(dst)
	dst = append(dst, kindTaskRecord, stateVersion)
	dst = appendCommit(dst, t.Commit)
	dst = binary.AppendVarint(dst, t.StreamTime)
	dst = binary.AppendVarint(dst, t.Now)
	dst = appendInputs(dst, t.Inputs)
	dst = appendState(dst, t.State)
	return seal(dst, from)
}

// ParseTaskRecord decodes a task record. The result shares nothing with value. Errors are as of ParseCheckpoint.
func ParseTaskRecord(value []byte) (TaskRecord, error) {
	r, err := open(value, kindTaskRecord, "task record")
	if err != nil {
		return TaskRecord{}, err
	}
	t := TaskRecord{
		Commit:     r.commit(),
		StreamTime: r.varint("stream time"),
		Now:        r.varint("processing time"),
		Inputs:     r.inputs(),
		State:      r.state(),
	}
	if err := r.done(); err != nil {
		return TaskRecord{}, err
	}
	return t, nil
}

// Input returns the offset of an input partition, and whether the record has one.
func (t *TaskRecord) Input(topic string, partition int32) (offset int64, ok bool) {
	return inputOffset(t.Inputs, topic, partition)
}

func inputOffset(inputs []InputOffset, topic string, partition int32) (offset int64, ok bool) {
	for i := range inputs {
		if inputs[i].Partition == partition && inputs[i].Topic == topic {
			return inputs[i].Offset, true
		}
	}
	return 0, false
}

// TaskKey is the key of a task's record in <app>-tasks: "counts/3". It has exactly one slash; registry keys have two or
// more, and names have none, so the two never meet.
func TaskKey(subtopology string, partition int32) []byte {
	return strconv.AppendInt(append([]byte(subtopology), '/'), int64(partition), 10)
}

// IsTaskKey reports whether a key of <app>-tasks belongs to a task, as opposed to the registry.
func IsTaskKey(key []byte) bool { return strings.Count(string(key), "/") == 1 }
