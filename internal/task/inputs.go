package task

import (
	"math"

	"github.com/millrace-io/millrace/topology"
)

// Input is one partition a task reads, and the offset to start at.
type Input struct {
	Source    int
	Topic     string // as in Kafka
	Partition int32
	Start     int64 // offset of the next record to be processed
	// Broadcast is the store that the records of a broadcast topic are written to; "" for all others. Start is then where a
	// task begins that has not read it before, and TopicID, if it is known, must be that of the topic it has read.
	Broadcast string
	TopicID   [16]byte
}

// Batch is a run of records of one input, in offset order. The task holds on to it until the epoch that processed its
// last record is committed.
type Batch struct {
	Input   int // index into Config.Inputs
	Records []topology.Raw
	// Next is the position after the batch: the last offset of any kind (control records included) + 1.
	Next  int64
	Epoch int32 // leader epoch of the last record, -1 unknown
	Bytes int   // memory the batch holds on to
}

// unknownEnd is the end of an input nobody told the end of: there is always more.
const unknownEnd = math.MaxInt64

// input is the queue of one partition. Batches stay in it, behind the cursor, until what they led to is committed:
//
//	batches   [ b4 | b5 | b6 | b7 ]          first = 4
//	               ^committed  ^cursor       a Discard puts the cursor back
//
// The position is where the cursor stands: the offset of the head, or the end of all that came if there is none.
type input struct {
	Input
	extract bool // timestamps come from the graph
	through bool // a repartition topic, which may bring control records
	batches []Batch
	first   int64 // number of batches[0]
	at      cursor
	head    *topology.Raw // the record at the cursor; nil if none is here
	tail    int64         // position after everything that was enqueued
	end     int64         // how far the broker's readable records reach
	bytes   int64
	looked  int   // records from the cursor on whose rows were read ahead, or need not be
	until   int64 // of a broadcast input: nothing else is done before the position is here

	// The head's event time, once it was asked for.
	timed   bool
	time    int64
	timeErr error
}

// cursor is a place in the queue: the record with that index in the batch with that number. It is never behind the last
// record of a batch: it is before the first of the next one then.
type cursor struct {
	batch  int64
	record int
	leader int32 // leader epoch of the last record before it
}

func newInput(in Input, source topology.Source) input {
	made := input{Input: in, extract: source.Extractor, through: source.Topic.Through && !source.Topic.Global, tail: in.Start, end: unknownEnd, at: cursor{leader: -1}}
	if in.Broadcast != "" {
		made.until = unknownEnd
	}
	return made
}

// Enqueue takes a batch. Records below the input's position are dropped (a fetch may repeat them); a gap is fine.
func (t *Task) Enqueue(b Batch) {
	in := &t.inputs[b.Input]
	n := 0
	for n < len(b.Records) && b.Records[n].Offset < in.tail {
		n++
	}
	whole := b
	b.Records = b.Records[n:]
	if len(b.Records) == 0 {
		// Nothing to process, but perhaps control records to step over.
		in.tail = max(in.tail, b.Next)
		t.release(whole)
		return
	}
	in.tail = max(in.tail, b.Next, b.Records[len(b.Records)-1].Offset+1)
	in.bytes += int64(b.Bytes)
	in.batches = append(in.batches, b)
	if in.head == nil {
		in.look()
	}
}

// SetEnd says how far the broker's readable records of an input reach (its last stable offset). Until it is called the end
// is unknown and counts as "has more". Step waits for an empty input only while its position is below the end. Of a broadcast
// input the first end that is told, its high watermark, is the one that everything else waits for.
func (t *Task) SetEnd(input int, end int64) {
	in := &t.inputs[input]
	if in.until == unknownEnd && in.end == unknownEnd {
		in.until = end
	}
	in.end = end
}

// Positions returns, by input, the offset after the last processed record (control records before the next one included).
// The slice is reused by the next call.
func (t *Task) Positions() []int64 {
	for i := range t.inputs {
		t.positions[i] = t.inputs[i].position()
	}
	return t.positions
}

func (in *input) position() int64 {
	if in.head != nil {
		return in.head.Offset
	}
	return in.tail
}

// waits reports whether the input is empty here while the broker has more.
func (in *input) waits() bool { return in.head == nil && in.tail < in.end }

// advance moves the cursor past the head.
func (in *input) advance() {
	b := &in.batches[in.at.batch-in.first]
	in.at.record++
	in.at.leader = b.Epoch
	in.looked = max(in.looked-1, 0)
	if in.at.record == len(b.Records) {
		in.at.batch++
		in.at.record = 0
	}
	in.look()
}

// look finds the record at the cursor.
func (in *input) look() {
	in.head, in.timed, in.timeErr = nil, false, nil
	if i := in.at.batch - in.first; i < int64(len(in.batches)) {
		in.head = &in.batches[i].Records[in.at.record]
	}
}

// letGo forgets the batches before a cursor, which nothing will go back to.
func (t *Task) letGo(in *input, to cursor) {
	n := int(to.batch - in.first)
	if n == 0 {
		return
	}
	for i := range n {
		in.bytes -= int64(in.batches[i].Bytes)
		t.release(in.batches[i])
	}
	rest := copy(in.batches, in.batches[n:])
	clear(in.batches[rest:])
	in.batches = in.batches[:rest]
	in.first = to.batch
}

func (t *Task) release(b Batch) {
	if t.c.Release != nil {
		t.c.Release(b)
	}
}

// ready says whether a record can be processed now, and which input must be waited for if it cannot (-1: none).
func (t *Task) ready() (ok bool, waiting int) {
	if first, starting := t.announced(); first >= 0 || starting {
		return first >= 0, -1
	}
	for i := range t.ordinary {
		in := &t.inputs[i]
		if in.waits() {
			return false, i
		}
		ok = ok || in.head != nil && !t.held(i)
	}
	return ok, -1
}

// choose returns the input with the smallest head timestamp; the first of equal ones. A head whose timestamp is not
// valid has none to be merged by: it goes first, to its policy. Those held back are left out; -1 if there is no other.
func (t *Task) choose() int {
	if t.ordinary == 1 {
		t.time(0)
		if t.held(0) {
			return -1
		}
		return 0
	}
	if t.clock != nil && t.clock.aligned { // who is held back depends on where all others stand
		for i := range t.ordinary {
			if t.inputs[i].head != nil {
				t.time(i)
			}
		}
	}
	best, least := -1, int64(0)
	for i := range t.ordinary {
		in := &t.inputs[i]
		if in.head == nil {
			continue
		}
		if at := t.time(i); (best < 0 || at < least) && !t.held(i) {
			best, least = i, at
		}
	}
	return best
}

// time returns the event time of an input's head, -1 if it has no valid one.
func (t *Task) time(i int) int64 {
	in := &t.inputs[i]
	if in.timed {
		return in.time
	}
	at := in.head.Time
	if in.extract {
		t.begin(i) // a panic of the extractor must find the record named
		t.node = t.w.sources[in.Source].Node
		t.user = true
		at, in.timeErr = t.graph.Timestamp(in.Source, in.head)
		t.user = false
	}
	if in.timeErr == nil && at < 0 {
		in.timeErr = t.atNode(t.w.sources[in.Source].Node, "timestamp", errTimestamp)
	}
	if in.timeErr != nil {
		at = -1
	}
	in.timed, in.time = true, at
	return at
}
