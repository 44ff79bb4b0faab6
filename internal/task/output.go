package task

import (
	"fmt"

	"github.com/millrace-io/millrace/processor"
)

// Out is one output. Its slices live until its epoch is committed or discarded.
type Out struct {
	Topic     string
	Partition int32 // -1: any (null key, or a dead letter)
	Key       []byte
	Value     []byte
	Headers   []processor.Header
	Time      int64
	Sink      int // -1 for a dead letter, SinkControl for a control record
	Origin    Origin
}

// Origin is the input record an output came from. Of a timer's output Input is -1 less the number of the set of timers, and Offset
// a hash of the timer.
type Origin struct {
	Input  int
	Offset int64
	Node   int // the node whose policy decides if the broker refuses the output
	// DeadLetter is set on outputs that are dead letters. If the broker refuses one, no policy can help: Fail.
	DeadLetter bool
}

// alarm is the number of the set of timers an output came from, -1 for a record's.
func (o Origin) alarm() int { return max(-1, -1-o.Input) }

// Outputs returns the outputs since the last call, in order. The slice is reused by the next call. They must be taken
// before Seal: they are part of the epoch that it ends.
func (t *Task) Outputs() []Out {
	t.handed, t.outs = t.outs, t.handed[:0]
	return t.handed
}

// emit takes one output of the record being processed.
func (t *Task) emit(sink int, key, value []byte, time int64, headers []processor.Header) error {
	node := t.w.sinks[sink].Node
	if time < 0 {
		return t.atNode(node, "timestamp", errTimestamp)
	}
	if key == nil && value == nil && isClock(headers) && t.w.sinks[sink].Topic.Through && !t.w.sinks[sink].Topic.Global {
		return t.atNode(node, "encode value", errReserved)
	}
	if sink < len(t.c.MaxRecordBytes) {
		if most := t.c.MaxRecordBytes[sink]; most > 0 {
			if n := RecordBytes(key, value, headers); n > most {
				return t.atNode(node, "too large", fmt.Errorf("a record of %d bytes is too large for %s, which takes %d", n, t.w.topics[sink], most))
			}
		}
	}
	partition := int32(-1)
	if key != nil {
		partition = Partition(key, t.c.SinkPartitions[sink])
	}
	origin := t.origin
	origin.Node = node
	t.outs = append(t.outs, Out{
		Topic: t.w.topics[sink], Partition: partition,
		Key: t.arena.copy(key), Value: t.arena.copy(value), Headers: t.arena.headers(headers),
		Time: time, Sink: sink, Origin: origin,
	})
	t.emitted++
	return nil
}

// RecordBytes is the most that a record takes on the wire, alone in a batch without compression: what a broker compares
// with max.message.bytes. Lengths are counted exactly, the two deltas of a record (time and offset) at their widest.
func RecordBytes(key, value []byte, headers []processor.Header) int {
	const (
		batch  = 61             // header of a record batch, format 2
		record = 5 + 1 + 10 + 5 // length, attributes, time delta, offset delta
	)
	n := batch + record + lengthBytes(len(key)) + len(key) + lengthBytes(len(value)) + len(value) + lengthBytes(len(headers))
	for _, h := range headers {
		n += lengthBytes(len(h.Key)) + len(h.Key) + lengthBytes(len(h.Value)) + len(h.Value)
	}
	return n
}

// lengthBytes is the size of n as a zigzag varint.
func lengthBytes(n int) int {
	size := 1
	for v := uint64(n) << 1; v >= 0x80; v >>= 7 {
		size++
	}
	return size
}
