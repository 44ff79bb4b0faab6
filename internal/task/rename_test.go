package task

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
)

// keptOf is kernel state with every field, of an application whose internal topics begin with id: what is called retrying is to be tried
// again at an offset, and clock and broadcast input are under way. A store and a generator's bytes look like a topic's name and are none.
func keptOf(id, retrying string, offset int64) []byte {
	const trap = "one-by-word"
	b := []byte{keptVersion}
	field := func(tag uint64, body []byte) {
		b = binary.AppendUvarint(b, tag)
		b = append(binary.AppendUvarint(b, uint64(len(body))), body...)
	}
	field(tagAdvancing, nil)
	body := binary.AppendVarint(appendText(nil, retrying), 3)
	body = binary.AppendUvarint(binary.AppendVarint(body, offset), 7)
	field(tagRetry, append(binary.AppendVarint(body, 1_700_000_000_000), "grown"...))
	field(tagTTL, binary.AppendVarint(appendText(nil, trap), 1_600_000_000_000))
	rules := input{tail: 300}
	rules.Broadcast, rules.Topic, rules.TopicID = trap, "rules", [16]byte{1, 2, 3, 255}
	field(tagBroadcast, rules.keepBroadcast(nil))
	t := &Task{inputs: make([]input, 2), w: wiring{topics: []string{id + "by-word", "results", id + "by-user"}}}
	t.inputs[0].Topic, t.inputs[0].Partition = "words", 3
	t.inputs[1].Topic, t.inputs[1].Partition = id+"by-word", 3
	clock := t.keepClock(&clockMark{
		sources: []sourceState{
			{greatest: 1_700_000_000_001, mark: 1_699_999_999_000, idle: true},
			{greatest: -1, mark: 500, upstream: []upstream{{mark: -1}, {mark: 500, idle: true}, {mark: 1 << 40}}},
		},
		generators: [][]byte{[]byte(trap), nil},
		told:       []told{{sink: 0, sequence: 300, mark: 499}, {sink: 2, sequence: 1, mark: -1, idle: true}},
	})
	field(tagWatermarks, append(clock, "grown"...))
	return b
}

// TestRenameTopics: names of internal topics are exchanged, and the rest is what it was, byte for byte.
func TestRenameTopics(t *testing.T) {
	rename := func(topic string) (string, bool) {
		rest, ok := strings.CutPrefix(topic, "one-")
		return "forked-" + rest, ok
	}
	for _, c := range []struct {
		name      string
		was, want []byte
	}{
		{"a record of a repartition topic, which begins anew", keptOf("one-", "one-by-word", 4711), keptOf("forked-", "forked-by-word", 0)},
		{"a record of an input topic", keptOf("one-", "words", 4711), keptOf("forked-", "words", 4711)},
		{"a timer", keptOf("one-", "timers one-by-word", 1<<60), keptOf("forked-", "timers one-by-word", 1<<60)},
		{"nothing to rename", keptOf("other-", "words", 1), keptOf("other-", "words", 1)},
		{"nothing kept", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			was := slices.Clone(c.was)
			got, err := RenameTopics(c.was, rename)
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q\nerr %v", got, c.want, err)
			}
			if !bytes.Equal(was, c.was) {
				t.Error("what was given has changed")
			}
		})
	}
	refused := func(what string, kept []byte, code string) {
		t.Helper()
		if got, err := RenameTopics(kept, rename); got != nil || !errors.Is(err, &fault.Error{Code: code}) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	refused("a later version", []byte{keptVersion + 1}, "task/newer-format")
	refused("a field of later", []byte{keptVersion, 99, 0}, "task/newer-format")
	whole := keptOf("one-", "one-by-word", 4711)
	refused("a name that is longer than its field", []byte{keptVersion, tagRetry, 2, 200, 1}, "task/kernel-state")
	refused("a clock that ends early", []byte{keptVersion, tagWatermarks, 3, 1, 1, 'a'}, "task/kernel-state")
	ends := map[int]bool{1: true} // fields end here, and so may the text
	for r := (fields{rest: whole[1:]}); len(r.rest) > 0; ends[len(whole)-len(r.rest)] = true {
		r.uvarint()
		r.bytes()
	}
	for n := 1; n < len(whole); n++ {
		if got, err := RenameTopics(whole[:n], rename); ends[n] != (err == nil) {
			t.Errorf("%d of %d bytes: %q, %v", n, len(whole), got, err)
		}
	}
}
