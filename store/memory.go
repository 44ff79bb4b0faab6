package store

import (
	"bytes"
	"sync/atomic"
)

// NewMemory returns an engine that holds its rows in memory, in key order. They are gone when it is closed; the
// changelog has them.
func NewMemory() Engine { return &memory{rows: newMemoryRows()} }

type memory struct {
	rows   *memoryRows
	closed bool
	count  atomic.Int64
}

// memoryRows keeps each row in one slot (key length 4, value length 4, key, value) and orders the slots.
type memoryRows struct {
	slab  *slab
	order order
	open  int      // iterators
	leave []uint32 // slots no longer in the order, kept while iterators are open
}

func newMemoryRows() *memoryRows {
	m := &memoryRows{slab: newSlab()}
	m.order.key = m.key
	return m
}

const memoryRowBytes = 8

func (m *memoryRows) key(ref uint32) []byte {
	row := m.slab.at(ref)
	n := memoryRowBytes + int(load32(row, 0))
	return row[memoryRowBytes:n:n]
}

func (m *memoryRows) row(ref uint32) (key, value []byte) {
	row := m.slab.at(ref)
	k := memoryRowBytes + int(load32(row, 0))
	v := k + int(load32(row, 4))
	return row[memoryRowBytes:k:k], row[k:v:v]
}

func (m *memory) Get(dst, key []byte) (value []byte, ok bool, err error) {
	if m.closed {
		return dst[:0], false, errClosed()
	}
	r := m.rows
	p, ok := r.order.seek(key)
	if !ok {
		return dst[:0], false, nil
	}
	_, value = r.row(r.order.blocks[p.block].refs[p.at])
	return append(dst[:0], value...), true, nil
}

func (m *memory) Apply(b *Batch) error {
	if m.closed {
		return errClosed()
	}
	r := m.rows
	for i := range b.Mutations {
		mut := &b.Mutations[i]
		p, ok := r.order.seek(mut.Key)
		switch {
		case mut.Delete && ok:
			r.drop(r.order.remove(p))
		case mut.Delete:
		case ok && r.open == 0 && r.overwrite(r.order.blocks[p.block].refs[p.at], mut.Value):
		case ok:
			r.drop(r.order.replace(p, r.slot(mut.Key, mut.Value)))
		default:
			r.order.insert(p, r.slot(mut.Key, mut.Value))
		}
	}
	m.count.Store(int64(r.order.n))
	return nil
}

func (m *memoryRows) slot(key, value []byte) uint32 {
	ref := m.slab.alloc(memoryRowBytes + len(key) + len(value))
	row := m.slab.at(ref)
	store32(row, 0, uint32(len(key)))
	store32(row, 4, uint32(len(value)))
	copy(row[memoryRowBytes:], key)
	copy(row[memoryRowBytes+len(key):], value)
	return ref
}

// overwrite puts a value into a row's slot if it fits there without wasting half of it.
func (m *memoryRows) overwrite(ref uint32, value []byte) bool {
	row := m.slab.at(ref)
	k := memoryRowBytes + int(load32(row, 0))
	if size := m.slab.size(ref); k+len(value) > size || k+len(value) < size/2 {
		return false
	}
	store32(row, 4, uint32(len(value)))
	copy(row[k:], value)
	return true
}

func (m *memoryRows) drop(ref uint32) {
	if m.open > 0 {
		m.leave = append(m.leave, ref)
		return
	}
	m.slab.release(ref)
}

func (m *memory) Clear() error {
	if m.closed {
		return errClosed()
	}
	m.rows = newMemoryRows() // iterators that are open hold on to the old ones
	m.count.Store(0)
	return nil
}

func (m *memory) EstimateRows(lower, upper []byte) int64 {
	o := &m.rows.order
	if m.closed || len(o.blocks) == 0 {
		return 0
	}
	from, _ := o.seek(lower)
	to := place{len(o.blocks), 0}
	if upper != nil {
		to, _ = o.seek(upper)
	}
	return int64(count(o.blocks, from, to))
}

func (m *memory) Flush() error {
	if m.closed {
		return errClosed()
	}
	return nil
}

func (m *memory) Close() error {
	m.closed = true
	return nil
}

func (m *memory) Stats() EngineStats { return EngineStats{RowsEstimated: m.count.Load()} }

func (m *memory) Iter(lower, upper []byte, reverse bool) (EngineIter, error) {
	if m.closed {
		return nil, errClosed()
	}
	r := m.rows
	it := &memoryIter{rows: r, blocks: r.order.snapshot(), reverse: reverse}
	r.open++
	lo, _ := seek(it.blocks, lower, r.key)
	hi := place{len(it.blocks), 0}
	if upper != nil {
		hi, _ = seek(it.blocks, upper, r.key)
	}
	if it.at, it.end = lo, hi; reverse {
		it.at, it.end = hi, lo
	}
	if upper != nil && bytes.Compare(lower, upper) >= 0 {
		it.end = it.at
	}
	return it, nil
}

type memoryIter struct {
	rows       *memoryRows
	blocks     []*orderBlock
	at, end    place
	reverse    bool
	key, value []byte
	closed     bool
}

func (it *memoryIter) Next() bool {
	if it.closed || it.at == it.end {
		it.key, it.value = nil, nil
		return false
	}
	if it.reverse {
		it.at = before(it.blocks, it.at)
		it.key, it.value = it.rows.row(it.blocks[it.at.block].refs[it.at.at])
		return true
	}
	it.key, it.value = it.rows.row(it.blocks[it.at.block].refs[it.at.at])
	it.at = after(it.blocks, it.at)
	return true
}

func (it *memoryIter) Key() []byte   { return it.key }
func (it *memoryIter) Value() []byte { return it.value }

func (it *memoryIter) Close() error {
	if it.closed {
		return nil
	}
	it.closed = true
	r := it.rows
	if r.open--; r.open == 0 {
		for _, ref := range r.leave {
			r.slab.release(ref)
		}
		r.leave = r.leave[:0]
	}
	return nil
}
