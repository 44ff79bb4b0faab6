package store

import (
	"encoding/binary"
	"hash/maphash"
)

// table holds the rows of one task that are in memory, found by one probe: those the uncommitted epochs changed, with a
// version per epoch, those that are committed and not yet written back, and a bounded number of others, kept so that hot
// keys never reach the engine.
//
//	index    hash 32 | row reference 32, open addressing
//	row      newest version 4 | key length 2 | facts 1 | marks 1 | length of the committed row value 4 | key | row value
//	version  older version 4 | epoch 4 | savepoint 4 | word 4 | row value
//	word     deleted 1 | what the version changed in the number of rows 2 | length of the row value 29
//
// A row's versions go from newest to oldest; epochs fall along the way. Beneath them is the committed state, in the row
// itself; where it could not be put there it is the last version, with epoch 0, and what the row itself says is out of date.
// "Deleted" says that there is no such row; the engine may still have to be told. A row without committed state was written
// blindly: the engine has to be asked what there was.
//
// While a row is pinned by a write-back another goroutine reads its key, its facts and its committed value, which therefore
// stay as they are (writeback.go).
type table struct {
	slab  *slab
	index []uint64
	mask  uint32
	hand  uint32 // steps of the eviction: see evictStride
	rows  int
	seed  maphash.Seed
}

const (
	rowBytes     = 12
	versionBytes = 16
	rowOverhead  = 20 // index slot at its usual load, place in an epoch's list or in the list of those to be written back
	inlineMax    = 1 << 10

	factLongKey = 1 << 0 // the key has 65,536 bytes more than its length says
	factKnown   = 1 << 1 // the row has its committed state
	factDeleted = 1 << 2 // which is that there is none

	markUsed   = 1 << 0 // read or written since the eviction last came by
	markDirty0 = 1 << 1 // committed, and the engine does not have it: to be written back, or just being written.
	markDirty1 = 1 << 2 // Which of the two is which changes with each write-back
	markLate   = 1 << 3 // the same of a committed state that is a version
	markHusk   = 1 << 4 // the row has moved; a list still knows its old place
	markPinned = markDirty0 | markDirty1 | markLate | markHusk

	wordDeleted   = 1 << 31
	wordChange    = 3 << 29 // 0: not known whether there was a row; else the change + 2
	wordLength    = 1<<29 - 1
	indexSizeInit = 1 << 10
)

func newTable() *table {
	t := &table{slab: newSlab(), index: make([]uint64, indexSizeInit), mask: indexSizeInit - 1, seed: maphash.MakeSeed()}
	t.slab.shared = true
	return t
}

// reset forgets every row.
func (t *table) reset() {
	t.slab.reset()
	if len(t.index) > 1<<16 {
		t.index = make([]uint64, indexSizeInit)
	} else {
		clear(t.index)
	}
	t.mask = uint32(len(t.index) - 1)
	t.rows, t.hand = 0, 0
}

// close forgets every row and gives the memory back.
func (t *table) close() {
	t.reset()
	t.slab.free()
}

// bytes is the memory of all rows.
func (t *table) bytes() int64 { return t.slab.used + int64(t.rows)*rowOverhead }

func (t *table) hash(key []byte) uint32 { return uint32(maphash.Bytes(t.seed, key) >> 32) }

func load32(b []byte, at int) uint32     { return binary.LittleEndian.Uint32(b[at:]) }
func store32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }

// A row's fields. Newest version and marks are those that change while a row is pinned.

func rowHead(row []byte) uint32         { return load32(row, 0) }
func setRowHead(row []byte, ver uint32) { store32(row, 0, ver) }
func rowFacts(row []byte) uint8         { return row[6] }
func rowMarks(row []byte) uint8         { return row[7] }
func setRowMarks(row []byte, m uint8)   { row[7] = m }

// rowValueAt is where the row's value begins.
func rowValueAt(row []byte) int {
	return rowBytes + int(binary.LittleEndian.Uint16(row[4:])) + int(row[6]&factLongKey)<<16
}

func rowKey(row []byte) []byte {
	n := rowValueAt(row)
	return row[rowBytes:n:n]
}

// rowValue is the committed value in the row.
func rowValue(row []byte) []byte {
	at := rowValueAt(row)
	n := at + int(load32(row, 8))
	return row[at:n:n]
}

// setRowState sets the committed state to known, or deleted, with a value of n bytes.
func setRowState(row []byte, gone bool, n int) {
	row[6] = row[6]&factLongKey | factKnown
	if gone {
		row[6] |= factDeleted
	}
	store32(row, 8, uint32(n))
}

func setRowUnknown(row []byte) { row[6] &= factLongKey }

// A version's fields.

func verOlder(ver []byte) uint32           { return load32(ver, 0) }
func setVerOlder(ver []byte, older uint32) { store32(ver, 0, older) }
func verEpoch(ver []byte) uint32           { return load32(ver, 4) }
func setVerEpoch(ver []byte, epoch uint32) { store32(ver, 4, epoch) }
func verSavepoint(ver []byte) uint32       { return load32(ver, 8) }
func setVerSavepoint(ver []byte, n uint32) { store32(ver, 8, n) }
func verWord(ver []byte) uint32            { return load32(ver, 12) }
func setVerWord(ver []byte, word uint32)   { store32(ver, 12, word) }
func verValue(ver []byte) []byte {
	n := versionBytes + int(verWord(ver)&wordLength)
	return ver[versionBytes:n:n]
}

func deleted(word uint32) bool { return word&wordDeleted != 0 }

// change is what a version with this word adds to the number of rows, 0 when that is not known.
func change(word uint32) int64 {
	if word&wordChange == 0 {
		return 0
	}
	return int64(word&wordChange>>29) - 2
}

func changeWord(n int64) uint32 { return uint32(n+2) << 29 }

func (t *table) key(row uint32) []byte { return rowKey(t.slab.at(row)) }

// visible returns the row value that the task sees; ok is false when there is none.
func (t *table) visible(row []byte) (value []byte, ok bool) {
	if head := rowHead(row); head != 0 {
		ver := t.slab.at(head)
		return verValue(ver), !deleted(verWord(ver))
	}
	return rowValue(row), rowFacts(row)&factDeleted == 0
}

// uncommitted reports whether an epoch has a version of the row.
func (t *table) uncommitted(row []byte) bool {
	head := rowHead(row)
	return head != 0 && verEpoch(t.slab.at(head)) != 0
}

// find returns the row of key, or 0.
func (t *table) find(hash uint32, key []byte) uint32 {
	for i := hash & t.mask; ; i = (i + 1) & t.mask {
		slot := t.index[i]
		if slot == 0 {
			return 0
		}
		if uint32(slot>>32) == hash {
			if ref := uint32(slot); string(t.key(ref)) == string(key) {
				return ref
			}
		}
	}
}

// insert adds a row without any state, and with room for a value of n bytes. The key must be absent.
func (t *table) insert(hash uint32, key []byte, n int) uint32 {
	if (t.rows+1)*4 > len(t.index)*3 {
		t.grow()
	}
	ref := t.row(key, n)
	t.place(hash, ref)
	t.rows++
	return ref
}

// row makes a row that the index does not know.
func (t *table) row(key []byte, n int) uint32 {
	ref := t.slab.alloc(rowBytes + len(key) + n)
	row := t.slab.at(ref)
	setRowHead(row, 0)
	binary.LittleEndian.PutUint16(row[4:], uint16(len(key)))
	row[6], row[7] = uint8(len(key)>>16), 0
	store32(row, 8, 0)
	copy(row[rowBytes:], key)
	return ref
}

func (t *table) place(hash, ref uint32) {
	i := hash & t.mask
	for t.index[i] != 0 {
		i = (i + 1) & t.mask
	}
	t.index[i] = uint64(hash)<<32 | uint64(ref)
}

func (t *table) grow() {
	old := t.index
	t.index = make([]uint64, 2*len(old))
	t.mask = uint32(len(t.index) - 1)
	for _, slot := range old {
		if slot != 0 {
			t.place(uint32(slot>>32), uint32(slot))
		}
	}
}

// slot is the place in the index that refers to a row.
func (t *table) slot(ref uint32) uint32 {
	i := t.hash(t.key(ref)) & t.mask
	for uint32(t.index[i]) != ref {
		i = (i + 1) & t.mask
	}
	return i
}

// remove takes a row without versions out.
func (t *table) remove(ref uint32) { t.removeAt(t.slot(ref)) }

func (t *table) removeAt(i uint32) {
	ref := uint32(t.index[i])
	// Close the gap: whatever could stand at i instead of behind it moves up.
	for j := i; ; {
		j = (j + 1) & t.mask
		slot := t.index[j]
		if slot == 0 {
			break
		}
		home := uint32(slot>>32) & t.mask
		if (j-home)&t.mask >= (j-i)&t.mask {
			t.index[i] = slot
			i = j
		}
	}
	t.index[i] = 0
	t.slab.release(ref)
	t.rows--
}

// move gives a row another place with room for a value of n bytes. The new one has its key and nothing else; the old one
// is out of the index and still has to be released.
func (t *table) move(ref uint32, n int) (moved uint32) {
	i := t.slot(ref)
	moved = t.row(t.key(ref), n)
	t.index[i] = t.index[i]&^(1<<32-1) | uint64(moved)
	return moved
}

// room is the longest value the row has a place for.
func (t *table) room(ref uint32, row []byte) int { return t.slab.size(ref) - rowValueAt(row) }

// version makes a version with room for n bytes of row value, not yet linked to a row.
func (t *table) version(older, epoch, savepoint, word uint32, n int) (ref uint32, ver []byte) {
	ref = t.slab.alloc(versionBytes + n)
	ver = t.slab.at(ref)
	setVerOlder(ver, older)
	setVerEpoch(ver, epoch)
	setVerSavepoint(ver, savepoint)
	setVerWord(ver, word|uint32(n))
	return ref, ver
}

// unlink takes a version out of a row's list.
func (t *table) unlink(row []byte, at uint32) {
	older := verOlder(t.slab.at(at))
	if rowHead(row) == at {
		setRowHead(row, older)
		return
	}
	ver := t.slab.at(rowHead(row))
	for verOlder(ver) != at {
		ver = t.slab.at(verOlder(ver))
	}
	setVerOlder(ver, older)
}

// evictStride takes the eviction's hand all over the index: it is odd, so every slot has its turn, and far from any small
// fraction of a power of two. A hand that went from slot to slot would empty the index behind it while new rows come
// everywhere: what is before it fills up until probes are a thousand slots long. Counting 8M records of 10M keys, looking
// rows up took 40 % of 80 CPU s that way.
const evictStride = 0x9E3779B1

// evict drops rows that the engine knows as well, those not used for a while first, until the table is within limit; kept is
// the memory in it that does not count. It looks at so many places of the index at most, and reports whether a row was
// dropped that the engine has.
func (t *table) evict(limit, kept int64, places int) (dropped bool) {
	for ; places > 0 && (t.bytes()-kept > limit || t.slab.held > 2*(limit+kept)+16*slabChunkBytes); places-- {
		at := t.hand * evictStride & t.mask
		slot := t.index[at]
		if slot == 0 {
			t.hand++
			continue
		}
		row := t.slab.at(uint32(slot))
		marks := rowMarks(row)
		if marks&(markPinned|markUsed) != 0 {
			setRowMarks(row, marks&^markUsed)
			t.hand++
			continue
		}
		if t.uncommitted(row) {
			t.hand++
			continue
		}
		if _, ok := t.visible(row); ok {
			dropped = true
		}
		if head := rowHead(row); head != 0 {
			t.slab.release(head)
		}
		t.removeAt(at) // another row may stand here now: the hand stays
	}
	return dropped
}
