package task

import (
	"strconv"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// The headers of a dead letter, after those the record came with (docs/format/deadletter.md).
const (
	DeadLetterPrefix    = "millrace.dl."
	DeadLetterVersion   = DeadLetterPrefix + "version"
	DeadLetterApp       = DeadLetterPrefix + "app"
	DeadLetterTask      = DeadLetterPrefix + "task"
	DeadLetterTopic     = DeadLetterPrefix + "topic"
	DeadLetterPartition = DeadLetterPrefix + "partition"
	DeadLetterOffset    = DeadLetterPrefix + "offset"
	DeadLetterTimestamp = DeadLetterPrefix + "timestamp"
	DeadLetterNode      = DeadLetterPrefix + "node"
	DeadLetterOp        = DeadLetterPrefix + "op"
	DeadLetterCode      = DeadLetterPrefix + "code"
	DeadLetterError     = DeadLetterPrefix + "error"
)

// DeadLetterHeaders is how many headers a dead letter has that the record did not come with. They are its last.
const DeadLetterHeaders = 11

// letter is the key and the namespace of the timer that failed; the whole row key if its codec panics.
func (t *Task) letter(alarm int) (key, namespace []byte) {
	defer func() {
		if recover() != nil {
			key, namespace = t.due.Row, nil
		}
	}()
	return t.alarms[alarm].Letter(t.due)
}

// deadLetter puts the head of the failed record's input among the outputs.
func (t *Task) deadLetter(topic string, at *topology.NodeError, code string) {
	var raw *topology.Raw
	if i := t.origin.alarm(); i >= 0 {
		raw = &topology.Raw{Time: t.due.At}
		raw.Key, raw.Value = t.letter(i)
	} else {
		raw = t.inputs[t.origin.Input].head
	}
	where := t.where(t.origin)
	headers := make([]processor.Header, 0, len(raw.Headers)+DeadLetterHeaders)
	headers = append(headers, raw.Headers...)
	for _, h := range [DeadLetterHeaders]struct{ key, value string }{
		{DeadLetterVersion, "1"},
		{DeadLetterApp, t.c.App},
		{DeadLetterTask, t.c.ID.String()},
		{DeadLetterTopic, where.Topic},
		{DeadLetterPartition, strconv.Itoa(int(where.Partition))},
		{DeadLetterOffset, strconv.FormatInt(where.Offset, 10)},
		{DeadLetterTimestamp, strconv.FormatInt(raw.Time, 10)},
		{DeadLetterNode, t.nodeName(at.Node)},
		{DeadLetterOp, at.Op},
		{DeadLetterCode, code},
		{DeadLetterError, bounded(at.Err.Error(), textMax)},
	} {
		headers = append(headers, processor.Header{Key: h.key, Value: []byte(h.value)})
	}
	// The time of a dead letter is when it was written, so that the topic's retention counts from there. The event time
	// is in the headers.
	time := t.now
	if time <= 0 {
		time = max(raw.Time, 0)
	}
	origin := t.origin
	origin.Node, origin.DeadLetter = at.Node, true
	t.outs = append(t.outs, Out{
		Topic: topic, Partition: -1,
		Key: t.arena.copy(raw.Key), Value: t.arena.copy(raw.Value), Headers: t.arena.headers(headers),
		Time: time, Sink: -1, Origin: origin,
	})
	t.emitted++
}
