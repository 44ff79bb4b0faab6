package task

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-io/millrace/internal/fault"
)

// The kernel's own state, kept with the offsets (docs/format/kernel-state.md): a version, then fields, each with its tag and length.
const keptVersion = 1

// The tags. A reader refuses a tag it does not know: the program that wrote it relied on it. Never renumber.
const (
	tagAdvancing  = 1 // no bytes: timers up to the clock are being fired
	tagRetry      = 2 // input, partition, offset, tries, until
	tagTTL        = 3 // store, enabled at; one field for each store
	tagWatermarks = 4 // of inputs that have a clock strategy, or bring watermarks
	tagBroadcast  = 5 // store, topic, its id, next offset; one field for each broadcast input
)

// keep encodes what has to outlive the task; nil when there is nothing.
func (t *Task) keep(clock *clockMark) []byte {
	var b []byte
	field := func(tag uint64, body []byte) {
		if b == nil {
			b = append(b, keptVersion)
		}
		b = binary.AppendUvarint(b, tag)
		b = binary.AppendUvarint(b, uint64(len(body)))
		b = append(b, body...)
	}
	if t.advancing {
		field(tagAdvancing, nil)
	}
	if r := &t.retry; r.tries > 0 {
		name, partition := "", t.c.ID.Partition
		if i := r.origin.alarm(); i >= 0 {
			name = "timers " + t.alarms[i].Queue.Name()
		} else {
			name, partition = t.inputs[r.origin.Input].Topic, t.inputs[r.origin.Input].Partition
		}
		body := appendText(nil, name)
		body = binary.AppendVarint(body, int64(partition))
		body = binary.AppendVarint(body, r.origin.Offset)
		body = binary.AppendUvarint(body, uint64(r.tries))
		body = binary.AppendVarint(body, r.until)
		field(tagRetry, body)
	}
	at := t.db.TTLEnabledAt()
	for _, name := range slices.Sorted(maps.Keys(at)) {
		field(tagTTL, binary.AppendVarint(appendText(nil, name), at[name]))
	}
	for i := t.ordinary; i < len(t.inputs); i++ {
		if in := &t.inputs[i]; in.position() > 0 {
			field(tagBroadcast, in.keepBroadcast(nil))
		}
	}
	if clock != nil {
		field(tagWatermarks, t.keepClock(clock))
	}
	return b
}

// resume takes up what an earlier incarnation kept. It is called when the graph is wired.
func (t *Task) resume(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if b[0] != keptVersion {
		return t.unknown(fmt.Sprintf("version %d", b[0]))
	}
	r := fields{rest: b[1:]}
	for len(r.rest) > 0 && !r.bad {
		tag := r.uvarint()
		f := fields{rest: r.bytes()}
		switch tag {
		case tagAdvancing:
			t.advancing = t.events > 0
		case tagRetry:
			name, partition, offset := f.text(), int32(f.varint()), f.varint()
			found := retry{tries: int(f.uvarint()), until: f.varint()}
			for i := range t.alarms {
				if name == "timers "+t.alarms[i].Queue.Name() {
					found.origin = Origin{Input: -1 - i, Offset: offset}
					t.retry = found
				}
			}
			for i := range t.inputs {
				if t.inputs[i].Topic == name && t.inputs[i].Partition == partition {
					found.origin = Origin{Input: i, Offset: offset}
					t.retry = found
				}
			}
		case tagTTL:
			if t.enabled == nil {
				t.enabled = map[string]int64{}
			}
			name := f.text()
			t.enabled[name] = f.varint()
		case tagWatermarks:
			if err := t.resumeClock(&f); err != nil {
				return err
			}
		case tagBroadcast:
			if err := t.resumeBroadcast(&f); err != nil {
				return err
			}
		default:
			return t.unknown(fmt.Sprintf("field %d", tag))
		}
		r.bad = r.bad || f.bad
	}
	if r.bad {
		return &fault.Error{
			Code: "task/kernel-state", Kind: fault.State, Thing: "kernel state of task", Value: t.c.ID.String(),
			Reason: "it does not decode", Remedy: "this is a defect, or the tasks topic was written to by something else; `millrace reset` starts over",
		}
	}
	return nil
}

func (t *Task) unknown(what string) error {
	return &fault.Error{
		Code: "task/newer-format", Kind: fault.State, Thing: "kernel state of task " + t.c.ID.String(), Value: what,
		Reason: "this program does not know it", Remedy: "run the version of millrace that wrote it, or a newer one",
	}
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// fields takes values off bytes; after the first mistake it returns zeros.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.rest)
	if n <= 0 {
		f.rest, f.bad = nil, true
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.rest)
	if n <= 0 {
		f.rest, f.bad = nil, true
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) bytes() []byte {
	n := f.uvarint()
	if n > uint64(len(f.rest)) {
		f.rest, f.bad = nil, true
		return nil
	}
	return f.take(int(n))
}

// take takes n bytes.
func (f *fields) take(n int) []byte {
	if n > len(f.rest) {
		f.rest, f.bad = nil, true
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) text() string { return string(f.bytes()) }
