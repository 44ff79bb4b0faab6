package oracle

import (
	"github.com/twmb/franz-go/pkg/kgo"
)

// Log is a topic as a read_committed consumer sees it, from its beginning to its last stable offset.
type Log struct {
	Topic      string
	Partitions []Partition
}

// Partition is one partition of a Log.
type Partition struct {
	Records []Record // in offset order
	Stable  int64    // the last stable offset, where reading ended
	High    int64    // the high watermark: above Stable while a transaction is open
}

// Record is one record. A nil Key or Value is Kafka's null.
type Record struct {
	Offset  int64
	Key     []byte
	Value   []byte
	Headers []kgo.RecordHeader
}

// Len is the number of records.
func (l *Log) Len() int {
	n := 0
	for i := range l.Partitions {
		n += len(l.Partitions[i].Records)
	}
	return n
}

// Upto returns the part of l below the given offsets, one per partition: the input that a group has committed. A
// missing or negative offset is 0. The records are shared with l.
func (l *Log) Upto(offsets []int64) *Log {
	cut := &Log{Topic: l.Topic, Partitions: make([]Partition, len(l.Partitions))}
	for i, p := range l.Partitions {
		var end int64
		if i < len(offsets) {
			end = offsets[i]
		}
		n := 0
		for n < len(p.Records) && p.Records[n].Offset < end {
			n++
		}
		cut.Partitions[i] = Partition{Records: p.Records[:n:n], Stable: min(end, p.Stable), High: p.High}
	}
	return cut
}

// Rekey returns l with other keys; its values, offsets and headers are shared with l.
func (l *Log) Rekey(key func(Record) []byte) *Log {
	other := &Log{Topic: l.Topic, Partitions: make([]Partition, len(l.Partitions))}
	for i, p := range l.Partitions {
		other.Partitions[i] = Partition{Records: make([]Record, len(p.Records)), Stable: p.Stable, High: p.High}
		for j, r := range p.Records {
			r.Key = key(r)
			other.Partitions[i].Records[j] = r
		}
	}
	return other
}

// Settled checks that the logs end where they are stable: no transaction is left open, no record lies at or after the
// last stable offset, and offsets go up.
func Settled(logs ...*Log) *Verdict {
	v := &Verdict{Check: "no open transaction, records in order below the last stable offset"}
	for _, l := range logs {
		for p := range l.Partitions {
			part := &l.Partitions[p]
			v.Seen++
			if part.Stable != part.High {
				v.wrong("%s/%d: last stable offset %d, high watermark %d: a transaction is open", l.Topic, p, part.Stable, part.High)
			}
			last := int64(-1)
			for _, r := range part.Records {
				if r.Offset >= part.Stable {
					v.wrong("%s/%d: record at %d, the last stable offset is %d", l.Topic, p, r.Offset, part.Stable)
				}
				if r.Offset <= last {
					v.wrong("%s/%d: record at %d after the one at %d", l.Topic, p, r.Offset, last)
				}
				last = r.Offset
			}
		}
	}
	return v
}

// Drained checks that the group has committed everything there is to read in its input.
func Drained(input *Log, committed []int64) *Verdict {
	v := &Verdict{Check: "the group has committed all of " + input.Topic}
	for p := range input.Partitions {
		v.Seen++
		part := &input.Partitions[p]
		done := len(input.Upto(committed).Partitions[p].Records)
		if left := len(part.Records) - done; left > 0 {
			v.wrong("%s/%d: committed %d, %d records lie behind it", input.Topic, p, at(committed, p), left)
		}
		if at(committed, p) > part.High {
			v.wrong("%s/%d: committed %d is beyond the end %d", input.Topic, p, at(committed, p), part.High)
		}
	}
	return v
}

func at(offsets []int64, p int) int64 {
	if p < len(offsets) {
		return offsets[p]
	}
	return 0
}

// Where returns the part of l whose records keep says yes to. The records are shared with l.
func (l *Log) Where(keep func(Record) bool) *Log {
	part := &Log{Topic: l.Topic, Partitions: make([]Partition, len(l.Partitions))}
	for i, p := range l.Partitions {
		part.Partitions[i] = Partition{Stable: p.Stable, High: p.High}
		for _, r := range p.Records {
			if keep(r) {
				part.Partitions[i].Records = append(part.Partitions[i].Records, r)
			}
		}
	}
	return part
}
