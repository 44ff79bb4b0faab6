package oracle

import (
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The headers by which an application under test says which input record an output came from. Values are decimal text.
const (
	HeaderTopic     = "origin-topic"
	HeaderPartition = "origin-partition"
	HeaderOffset    = "origin-offset"
)

// Origin is the input record an output says it came from.
type Origin struct {
	Topic     string
	Partition int32
	Offset    int64
}

// ParseOrigin reads the origin headers. Each of them must be there exactly once.
func ParseOrigin(headers []kgo.RecordHeader) (Origin, error) {
	var (
		o    Origin
		seen [3]int
		err  error
	)
	for _, h := range headers {
		switch h.Key {
		case HeaderTopic:
			seen[0]++
			o.Topic = string(h.Value)
		case HeaderPartition:
			seen[1]++
			var n int64
			if n, err = strconv.ParseInt(string(h.Value), 10, 32); err != nil {
				return o, fmt.Errorf("header %s: %w", h.Key, err)
			}
			o.Partition = int32(n)
		case HeaderOffset:
			seen[2]++
			if o.Offset, err = strconv.ParseInt(string(h.Value), 10, 64); err != nil {
				return o, fmt.Errorf("header %s: %w", h.Key, err)
			}
		}
	}
	if seen != [3]int{1, 1, 1} {
		return o, fmt.Errorf("origin headers appear %v times, not once each", seen)
	}
	return o, nil
}

// Provenance checks a topic that must hold one record per input record: each names an input record below the committed
// offset, each input record is named exactly once, and records that came from one partition are in its order.
// input is already cut at the committed offsets.
func Provenance(input, output *Log) *Verdict {
	v := &Verdict{Check: fmt.Sprintf("every record of %s is in %s exactly once, in order", input.Topic, output.Topic)}
	owed := make([]bitmap, len(input.Partitions))
	paid := make([]bitmap, len(input.Partitions))
	for p := range input.Partitions {
		var end int64
		if n := len(input.Partitions[p].Records); n > 0 {
			end = input.Partitions[p].Records[n-1].Offset + 1
		}
		owed[p], paid[p] = newBitmap(end), newBitmap(end)
		for _, r := range input.Partitions[p].Records {
			owed[p].set(r.Offset)
			v.Seen++
		}
	}
	for q := range output.Partitions {
		last := make([]int64, len(input.Partitions))
		for p := range last {
			last[p] = -1
		}
		for _, r := range output.Partitions[q].Records {
			where := fmt.Sprintf("%s/%d@%d", output.Topic, q, r.Offset)
			o, err := ParseOrigin(r.Headers)
			switch {
			case err != nil:
				v.wrong("%s: %v", where, err)
				continue
			case o.Topic != input.Topic || o.Partition < 0 || int(o.Partition) >= len(input.Partitions):
				v.wrong("%s: comes from %s/%d@%d, which is no input", where, o.Topic, o.Partition, o.Offset)
				continue
			case !owed[o.Partition].has(o.Offset):
				v.wrong("%s: comes from %s/%d@%d, which is not a committed input record", where, o.Topic, o.Partition, o.Offset)
				continue
			case paid[o.Partition].has(o.Offset):
				v.wrong("%s: comes from %s/%d@%d, which is already there (twice)", where, o.Topic, o.Partition, o.Offset)
				continue
			}
			paid[o.Partition].set(o.Offset)
			if o.Offset < last[o.Partition] {
				v.wrong("%s: comes from %s/%d@%d, after a record from @%d (out of order)", where, o.Topic, o.Partition, o.Offset, last[o.Partition])
			}
			last[o.Partition] = max(last[o.Partition], o.Offset)
		}
	}
	for p := range input.Partitions {
		for _, r := range input.Partitions[p].Records {
			if !paid[p].has(r.Offset) {
				v.wrong("%s/%d@%d key %q: not in %s (lost)", input.Topic, p, r.Offset, r.Key, output.Topic)
			}
		}
	}
	return v
}

// bitmap is one bit per offset from 0.
type bitmap []uint64

func newBitmap(end int64) bitmap { return make(bitmap, (end+63)/64) }

func (b bitmap) has(i int64) bool {
	return i >= 0 && i/64 < int64(len(b)) && b[i/64]&(1<<(i%64)) != 0
}

func (b bitmap) set(i int64) { b[i/64] |= 1 << (i % 64) }
