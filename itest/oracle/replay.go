package oracle

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Step is what an application does with one record of a key: from the state it has for the key it makes another, and
// the value it sends. ok is false when it sends nothing for this record.
type Step[S any] func(state S, value []byte) (next S, out []byte, ok bool)

// Replay checks a topic against a plain replay of the input: partition by partition, the i-th output must have the key
// and the value that step makes. It holds for applications that keep keys, whose output has as many partitions as the
// input. input is already cut at the committed offsets.
func Replay[S any](input, output *Log, step Step[S]) *Verdict {
	v := &Verdict{Check: fmt.Sprintf("%s is what a plain replay of %s gives, record for record", output.Topic, input.Topic)}
	if len(input.Partitions) != len(output.Partitions) {
		v.wrong("%s has %d partitions, %s has %d", input.Topic, len(input.Partitions), output.Topic, len(output.Partitions))
		return v
	}
	for p := range input.Partitions {
		state := make(map[string]S)
		got := output.Partitions[p].Records
		i := 0
		for _, in := range input.Partitions[p].Records {
			next, want, ok := step(state[string(in.Key)], in.Value)
			state[string(in.Key)] = next
			v.Seen++
			if !ok {
				continue
			}
			if i < len(got) {
				if !bytes.Equal(got[i].Key, in.Key) || !bytes.Equal(got[i].Value, want) {
					v.wrong("%s/%d@%d: %s, want %s for input @%d", output.Topic, p, got[i].Offset, pair(got[i].Key, got[i].Value), pair(in.Key, want), in.Offset)
				}
			} else {
				v.wrong("%s/%d: ends after %d records, input @%d should have given %s (lost)", output.Topic, p, len(got), in.Offset, pair(in.Key, want))
			}
			i++
		}
		for ; i < len(got); i++ {
			v.wrong("%s/%d@%d: %s is one too many", output.Topic, p, got[i].Offset, pair(got[i].Key, got[i].Value))
		}
	}
	return v
}

// Milestones checks a topic that must hold, per key, exactly every, 2*every, 3*every, ... up to the number of times the
// key is in the input: values are 8 bytes big-endian. input is already cut at the committed offsets.
func Milestones(input, output *Log, every int64) *Verdict {
	v := &Verdict{Check: fmt.Sprintf("%s has %d, %d, ... for each key of %s", output.Topic, every, 2*every, input.Topic)}
	count := Fold(input, func(n int64, _ []byte) int64 { return n + 1 })
	reached := make(map[string]int64, len(count))
	v.Seen += int64(len(count)) // a key that has not come so far is looked at too
	for p := range output.Partitions {
		for _, r := range output.Partitions[p].Records {
			v.Seen++
			key := string(r.Key)
			want := reached[key] + every
			if len(r.Value) != 8 {
				v.wrong("%s/%d@%d key %q: value %x is not 8 bytes", output.Topic, p, r.Offset, key, r.Value)
				continue
			}
			got := int64(binary.BigEndian.Uint64(r.Value))
			switch {
			case got != want:
				v.wrong("%s/%d@%d key %q: %d, want %d", output.Topic, p, r.Offset, key, got, want)
			case got > count[key]:
				v.wrong("%s/%d@%d key %q: %d, the key is there only %d times", output.Topic, p, r.Offset, key, got, count[key])
			}
			reached[key] = max(got, reached[key])
		}
	}
	for key, n := range count {
		if want := n / every * every; reached[key] < want {
			v.wrong("%s key %q: ends at %d, want %d (lost)", output.Topic, key, reached[key], want)
		}
	}
	return v
}

func pair(key, value []byte) string { return fmt.Sprintf("(%s, %s)", text(key), text(value)) }

// text shows bytes: null, printable text in quotes, and otherwise a number if they could be one.
func text(b []byte) string {
	switch {
	case b == nil:
		return "null"
	case printable(b):
		return fmt.Sprintf("%q", b)
	case len(b) == 4:
		return fmt.Sprint(int32(binary.BigEndian.Uint32(b)))
	case len(b) == 8:
		return fmt.Sprint(int64(binary.BigEndian.Uint64(b)))
	default:
		return fmt.Sprintf("%x", b)
	}
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
