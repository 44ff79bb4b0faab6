package streamtest

import (
	"bytes"
	"slices"

	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// broker is what outlives a crash: topics, changelogs, and the offsets of the group.
type broker struct {
	topics     map[string]*topic
	changelogs map[string]*changelogTopic // by store
	group      map[processor.TaskID]position
}

// position is what the group knows of a task.
type position struct {
	offsets    []int64 // by input
	streamTime int64
	now        int64
	state      []byte
	commit     uint64
}

// topic is a log of committed records per partition.
type topic struct {
	name    string
	parts   []partition
	next    int32 // partition of the next record that does not care
	arrived []arrival
}

type partition struct {
	records []topology.Raw
	end     int64 // offset of the next record of any kind
}

// arrival is a record's place in the order in which a topic took its records.
type arrival struct {
	partition int32
	index     int
}

func newTopic(name string, partitions int32) *topic {
	return &topic{name: name, parts: make([]partition, partitions)}
}

// partition returns p, or the partition whose turn it is if p is -1.
func (t *topic) partition(p int32) int32 {
	if p >= 0 {
		return p
	}
	p = t.next
	t.next = (t.next + 1) % int32(len(t.parts))
	return p
}

// append adds a record, which belongs to the topic from now on. A control record is not among those that arrive.
func (t *topic) append(p int32, r topology.Raw, control bool) {
	part := &t.parts[p]
	r.Offset = part.end
	part.end++
	if !control {
		t.arrived = append(t.arrived, arrival{p, len(part.records)})
	}
	part.records = append(part.records, r)
}

// own is a copy of a record that shares nothing with r.
func own(r topology.Raw) topology.Raw {
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		r.Headers[i].Value = bytes.Clone(r.Headers[i].Value)
	}
	return r
}

// transaction is the records of one epoch on their way into topics. As in Kafka each takes its offset when it is
// produced, and a control record follows in every partition that was touched, whatever becomes of them.
type transaction struct {
	records []pending
}

type pending struct {
	topic     *topic
	partition int32
	record    topology.Raw
	control   bool // a watermark: in the log, and nobody's record
	origin    task.Origin
	from      *running
}

// add copies an output of a task.
func (x *transaction) add(t *topic, out *task.Out, from *running) {
	r := own(topology.Raw{Key: out.Key, Value: out.Value, Headers: out.Headers, Time: out.Time})
	x.records = append(x.records, pending{topic: t, partition: t.partition(out.Partition), record: r, control: out.Sink == task.SinkControl, origin: out.Origin, from: from})
}

func (x *transaction) commit() {
	for i := range x.records {
		p := &x.records[i]
		p.topic.append(p.partition, p.record, p.control)
	}
	x.mark()
}

func (x *transaction) abort() {
	for i := range x.records {
		x.records[i].topic.parts[x.records[i].partition].end++
	}
	x.mark()
}

// mark writes the control records.
func (x *transaction) mark() {
	type place struct {
		t *topic
		p int32
	}
	seen := map[place]bool{}
	for i := range x.records {
		at := place{x.records[i].topic, x.records[i].partition}
		if !seen[at] {
			seen[at] = true
			at.t.parts[at.p].end++
		}
	}
	clear(x.records)
	x.records = x.records[:0]
}

// changelogTopic is the log of a store: one partition per task.
type changelogTopic struct {
	parts []logPartition
}

type logPartition struct {
	rows []ChangelogRecord
	end  int64
}

// ChangelogRecord is one record of a changelog: a row as it was after an epoch.
type ChangelogRecord struct {
	Partition int32
	Offset    int64
	Key       []byte // the row's key (docs/format/rows.md)
	Value     []byte // header and value; nil when the row was deleted
}

func (c *changelogTopic) append(p int32, key, value []byte) {
	for len(c.parts) <= int(p) {
		c.parts = append(c.parts, logPartition{})
	}
	part := &c.parts[p]
	part.rows = append(part.rows, ChangelogRecord{Partition: p, Offset: part.end, Key: bytes.Clone(key), Value: bytes.Clone(value)})
	part.end++
}

// end of a partition, which may not have been written to.
func (c *changelogTopic) end(p int32) int64 {
	if int(p) >= len(c.parts) {
		return 0
	}
	return c.parts[p].end
}

// from returns the records of a partition at or after an offset.
func (c *changelogTopic) from(p int32, offset int64) []ChangelogRecord {
	if int(p) >= len(c.parts) {
		return nil
	}
	rows := c.parts[p].rows
	i, _ := slices.BinarySearchFunc(rows, offset, func(r ChangelogRecord, o int64) int { return int(r.Offset - o) })
	return rows[i:]
}
