package store

import (
	"encoding/binary"

	"github.com/millrace-io/millrace/serde"
)

// Partition declares one value per task: state of a partition, not of a key. It follows its partition: whichever instance runs the
// task has it.
func Partition[V any](name string, value serde.Serde[V]) PartitionSpec[V] {
	return PartitionSpec[V]{name, value, options{codecs: valueCodec[V]{value}}}
}

// PartitionSpec declares partition state.
type PartitionSpec[V any] struct {
	name  string
	value serde.Serde[V]
	options
}

// Name is the store's name.
func (s PartitionSpec[V]) Name() string { return s.name }

// Kind is KindPartition.
func (s PartitionSpec[V]) Kind() Kind { return KindPartition }

// KeyID says that there is one value.
func (s PartitionSpec[V]) KeyID() string { return "partition" }

// ValueID is the id of the value's codec.
func (s PartitionSpec[V]) ValueID() string { return serde.ID(s.value) }

// The rows of partition state (docs/format/rows.md): the value under its class alone, elements of a list under theirs and the place,
// which is big-endian.
const (
	classPartitionValue   = 1
	classPartitionElement = 2
)

// In opens the state as a node sees it.
func (s PartitionSpec[V]) In(src Source) (*PartitionState[V], error) {
	rows, err := openRows(src, s)
	if err != nil {
		return nil, err
	}
	return &PartitionState[V]{rows, newValued(s.value)}, nil
}

// PartitionState is the one value of a task. It sees the task's own uncommitted writes. Not for concurrent use.
type PartitionState[V any] struct {
	rows  *Rows
	value valued[V]
}

// Get returns the value, and whether there is one. The value is the caller's to keep.
func (s *PartitionState[V]) Get() (value V, ok bool, err error) {
	value, _, ok, err = s.value.load(s.rows, s.rows.full([]byte{classPartitionValue}))
	return value, ok, err
}

// Put sets the value; one that stands for null clears it.
func (s *PartitionState[V]) Put(value V) error {
	if s.value.isNull(value) {
		return s.Clear()
	}
	raw, err := s.value.encode(s.rows, value)
	if err != nil {
		return err
	}
	return s.rows.Put([]byte{classPartitionValue}, raw, s.rows.db.time)
}

// Clear removes the value. There need not be one.
func (s *PartitionState[V]) Clear() error { return s.rows.Delete([]byte{classPartitionValue}) }

// PartitionList declares a list per task, one row per element.
func PartitionList[V any](name string, value serde.Serde[V]) PartitionListSpec[V] {
	return PartitionListSpec[V]{name, value, options{codecs: valueCodec[V]{value}}}
}

// PartitionListSpec declares a list per task.
type PartitionListSpec[V any] struct {
	name  string
	value serde.Serde[V]
	options
}

// Name is the store's name.
func (s PartitionListSpec[V]) Name() string { return s.name }

// Kind is KindPartition.
func (s PartitionListSpec[V]) Kind() Kind { return KindPartition }

// KeyID says that there is a list.
func (s PartitionListSpec[V]) KeyID() string { return "partition list" }

// ValueID is the id of the element's codec.
func (s PartitionListSpec[V]) ValueID() string { return serde.ID(s.value) }

// In opens the list as a node sees it.
func (s PartitionListSpec[V]) In(src Source) (*PartitionListState[V], error) {
	rows, err := openRows(src, s)
	if err != nil {
		return nil, err
	}
	return &PartitionListState[V]{rows: rows, value: newValued(s.value)}, nil
}

// PartitionListState is the list of a task. It sees the task's own uncommitted writes. Not for concurrent use.
type PartitionListState[V any] struct {
	rows  *Rows
	value valued[V]
	key   [9]byte
}

// All returns the elements in the order in which they were added. The slice is the caller's.
func (s *PartitionListState[V]) All() ([]V, error) {
	var all []V
	scan := s.rows.Scan([]byte{classPartitionElement}, []byte{classPartitionElement + 1}, false)
	for scan.Next() {
		v, err := s.value.decode(s.rows, scan.Value(), scan.Version())
		if err != nil {
			_ = scan.Close()
			return nil, err
		}
		all = append(all, v)
	}
	return all, scan.Close()
}

// Append adds elements at the end. A null is an error, and then nothing was added.
func (s *PartitionListState[V]) Append(values ...V) error {
	for i, v := range values {
		if s.value.isNull(v) {
			return errNullElement(s.rows, "element", i)
		}
	}
	next, err := s.next()
	if err != nil {
		return err
	}
	for _, v := range values {
		raw, err := s.value.encode(s.rows, v)
		if err != nil {
			return err
		}
		if err := s.rows.Put(s.at(next), raw, s.rows.db.time); err != nil {
			return err
		}
		next++
	}
	return nil
}

// Put replaces the whole list.
func (s *PartitionListState[V]) Put(values ...V) error {
	for i, v := range values {
		if s.value.isNull(v) {
			return errNullElement(s.rows, "element", i)
		}
	}
	if err := s.Clear(); err != nil {
		return err
	}
	return s.Append(values...)
}

// Clear removes all elements.
func (s *PartitionListState[V]) Clear() error { return s.rows.clear() }

// next is the place behind the last element.
func (s *PartitionListState[V]) next() (uint64, error) {
	scan := s.rows.Scan([]byte{classPartitionElement}, []byte{classPartitionElement + 1}, true)
	next := uint64(0)
	if scan.Next() && len(scan.Key()) == len(s.key) {
		next = binary.BigEndian.Uint64(scan.Key()[1:]) + 1
	}
	return next, scan.Close()
}

func (s *PartitionListState[V]) at(place uint64) []byte {
	s.key[0] = classPartitionElement
	binary.BigEndian.PutUint64(s.key[1:], place)
	return s.key[:]
}
