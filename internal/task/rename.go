package task

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-io/millrace/internal/fault"
)

// RenameTopics rewrites kernel state for an application whose internal topics have other names. rename returns the new name of an
// internal topic and true, or false for one that keeps its name. What was tried again in such a topic is its first record now.
func RenameTopics(state []byte, rename func(topic string) (string, bool)) ([]byte, error) {
	if len(state) == 0 {
		return nil, nil
	}
	if state[0] != keptVersion {
		return nil, (&Task{}).unknown("version")
	}
	r := fields{rest: state[1:]}
	out := []byte{keptVersion}
	for len(r.rest) > 0 && !r.bad {
		tag := r.uvarint()
		body := r.bytes()
		f := fields{rest: body}
		switch tag {
		case tagRetry:
			if name, ok := rename(f.text()); ok {
				partition := f.varint()
				f.varint() // its offset
				body = binary.AppendVarint(appendText(nil, name), partition)
				body = append(binary.AppendVarint(body, 0), f.rest...)
			}
		case tagWatermarks:
			body = renameClock(&f, rename)
		case tagAdvancing, tagTTL, tagBroadcast:
		default:
			return nil, (&Task{}).unknown("field")
		}
		r.bad = r.bad || f.bad
		out = binary.AppendUvarint(out, tag)
		out = append(binary.AppendUvarint(out, uint64(len(body))), body...)
	}
	if r.bad {
		return nil, &fault.Error{
			Code: "task/kernel-state", Kind: fault.State, Thing: "kernel state", Value: fmt.Sprintf("%d bytes", len(state)),
			Reason: "it does not decode", Remedy: "this is a defect, or the snapshot was written to by something else; take another one",
		}
	}
	return out, nil
}

// renameClock is keepClock of what resumeClock reads, with other names.
func renameClock(f *fields, rename func(string) (string, bool)) (b []byte) {
	name := func() {
		old := f.text()
		if n, ok := rename(old); ok {
			old = n
		}
		b = appendText(b, old)
	}
	// copied takes over what a read moved past.
	copied := func(read func()) {
		before := f.rest
		read()
		b = append(b, before[:len(before)-len(f.rest)]...)
	}
	count := func() (n uint64) {
		copied(func() { n = f.uvarint() })
		return n
	}
	for n := count(); n > 0 && !f.bad; n-- {
		name()
		copied(func() {
			f.uvarint() // partition
			f.flag()
			f.varint()
			f.varint()
			f.bytes()
			for n := f.uvarint(); n > 0 && !f.bad; n-- {
				f.varint()
				f.flag()
			}
		})
	}
	for n := count(); n > 0 && !f.bad; n-- {
		name()
		copied(func() {
			f.uvarint()
			f.varint()
			f.flag()
		})
	}
	return append(b, f.rest...) // fields may grow at their end
}
