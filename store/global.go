package store

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
)

// Global declares global state: named entries that each task writes for itself and all tasks of the store read. It is for a few
// entries that seldom change, such as what each partition has seen of something: every entry is in every task. A task sees its own
// entries at once, those of others some time after the epoch that wrote them was committed, and those of one owner
// never in another order than they were written. There is no common cut over owners.
func Global[V any](name string, value serde.Serde[V]) GlobalSpec[V] {
	return GlobalSpec[V]{name, value, options{codecs: publishedCodec[V]{value}}}
}

// GlobalSpec declares global state.
type GlobalSpec[V any] struct {
	name  string
	value serde.Serde[V]
	options
}

// Name is the store's name.
func (s GlobalSpec[V]) Name() string { return s.name }

// Kind is KindGlobal.
func (s GlobalSpec[V]) Kind() Kind { return KindGlobal }

// KeyID says that entries have an owner and a name.
func (s GlobalSpec[V]) KeyID() string { return "owner entry" }

// ValueID is the id of the value's codec.
func (s GlobalSpec[V]) ValueID() string { return serde.ID(s.value) }

// The bounds of global state: of one task's entries, and of an entry's name.
const (
	GlobalEntriesMax   = 1000
	GlobalNameBytesMax = 1000
)

// A value in the store's topic begins with its format and with whether there is an entry (docs/format/global-topic.md). A deleted
// entry is no tombstone: that would be gone when a task that was away for long comes to it.
const (
	globalFormat = 1
	globalGone   = 0
	globalThere  = 1
)

// GlobalSource is a Source that global state can be written through.
type GlobalSource interface {
	// Global returns what publishes an entry of the store, and the partition of the task, which owns what it writes.
	Global(store string) (publish func(key, value []byte, time int64) error, owner int32, err error)
}

// In opens the state as a node sees it.
func (s GlobalSpec[V]) In(src Source) (*GlobalState[V], error) {
	rows, err := openRows(src, s)
	if err != nil {
		return nil, err
	}
	g := &GlobalState[V]{rows: rows, value: newValued(s.value), owner: -1}
	if w, ok := src.(GlobalSource); ok {
		g.publish, g.owner, err = w.Global(s.name)
	}
	return g, err
}

// GlobalState is one task's view of global state. It sees the task's own uncommitted writes. Not for concurrent use.
type GlobalState[V any] struct {
	rows    *Rows
	value   valued[V]
	owner   int32
	publish func(key, value []byte, time int64) error
	key     []byte
	wire    []byte
}

// GlobalEntry says which entry it is.
type GlobalEntry struct {
	Owner int32 // partition of the task that wrote it
	Name  string
}

func (s *GlobalState[V]) at(owner int32, name string) []byte {
	s.key = append(binary.BigEndian.AppendUint32(s.key[:0], uint32(owner)), name...)
	return s.key
}

// Owner is the partition of this task: the owner of what it writes.
func (s *GlobalState[V]) Owner() int32 { return s.owner }

// Get returns an entry, and whether there is one. The value is the caller's to keep.
func (s *GlobalState[V]) Get(owner int32, name string) (value V, ok bool, err error) {
	value, _, ok, err = s.value.load(s.rows, s.rows.full(s.at(owner, name)))
	return value, ok, err
}

// Each calls f for every entry, by owner and then by name, until it returns an error.
func (s *GlobalState[V]) Each(f func(e GlobalEntry, value V) error) error {
	scan := s.rows.Scan(nil, nil, false)
	for scan.Next() {
		v, err := s.value.decode(s.rows, scan.Value(), scan.Version())
		if err == nil {
			err = f(GlobalEntry{int32(binary.BigEndian.Uint32(scan.Key())), string(scan.Key()[4:])}, v)
		}
		if err != nil {
			_ = scan.Close()
			return err
		}
	}
	return scan.Close()
}

// Put sets an entry of this task's. A value that stands for null deletes it.
func (s *GlobalState[V]) Put(name string, value V) error {
	if s.value.isNull(value) {
		return s.Delete(name)
	}
	if err := s.writable(name); err != nil {
		return err
	}
	raw, err := s.value.encode(s.rows, value)
	if err != nil {
		return err
	}
	if _, _, there, err := s.rows.Get(s.at(s.owner, name)); err != nil {
		return err
	} else if !there {
		if err := s.room(); err != nil {
			return err
		}
	}
	if err := s.rows.Put(s.at(s.owner, name), raw, s.rows.db.time); err != nil {
		return err
	}
	s.wire = append(append(s.wire[:0], globalFormat, globalThere), raw...)
	return s.publish(s.at(s.owner, name), s.wire, s.rows.db.time)
}

// Delete removes an entry of this task's. There need not be one.
func (s *GlobalState[V]) Delete(name string) error {
	if err := s.writable(name); err != nil {
		return err
	}
	if _, _, there, err := s.rows.Get(s.at(s.owner, name)); err != nil || !there {
		return err
	}
	if err := s.rows.Delete(s.at(s.owner, name)); err != nil {
		return err
	}
	s.wire = append(s.wire[:0], globalFormat, globalGone)
	return s.publish(s.at(s.owner, name), s.wire, s.rows.db.time)
}

func (s *GlobalState[V]) writable(name string) error {
	switch {
	case s.publish == nil:
		return &fault.Error{Code: "store/global-read-only", Kind: fault.Config, Thing: "global store", Value: s.rows.name,
			Reason: "is opened where it can only be read", Remedy: "open it in Init of a processor that it is attached to"}
	case len(name) > GlobalNameBytesMax:
		return &fault.Error{Code: "store/key-too-long", Kind: fault.Record, Thing: "entry of global store " + s.rows.name, Value: strconv.Itoa(len(name)) + " bytes",
			Reason: fmt.Sprintf("its name may have %d", GlobalNameBytesMax), Remedy: "use a shorter name"}
	}
	return nil
}

// room refuses another entry where there are too many: each of them is in every task.
func (s *GlobalState[V]) room() error {
	s.at(s.owner, "")
	end := binary.BigEndian.AppendUint32(nil, uint32(s.owner)+1)
	n := 0
	scan := s.rows.Scan(s.key, end, false)
	for scan.Next() {
		n++
	}
	if err := scan.Close(); err != nil {
		return err
	}
	if n >= GlobalEntriesMax {
		return &fault.Error{Code: "store/global-full", Kind: fault.Record, Thing: "global store", Value: s.rows.name,
			Reason: fmt.Sprintf("task partition %d has %d entries, and each of them is in every task", s.owner, n),
			Remedy: "use keyed state: global state is for a few entries"}
	}
	return nil
}

// ApplyGlobal takes a record of a global store's topic into the rows of a task. What the task itself wrote is there already, and may be
// newer there. An error means that the record is not one of ours.
func ApplyGlobal(rows *Rows, owner int32, key, value []byte, time int64) error {
	switch {
	case len(key) < 4:
		return fmt.Errorf("an entry of global store %s has a key of %d bytes", rows.name, len(key))
	case int32(binary.BigEndian.Uint32(key)) == owner:
		return nil
	case len(value) < 2 || value[0] != globalFormat || value[1] > globalThere:
		return fmt.Errorf("an entry of global store %s has a format that this version does not know", rows.name)
	case value[1] == globalGone:
		return rows.Delete(key)
	}
	return rows.Put(key, value[2:], time)
}
