package store

import (
	"bytes"
	"slices"
	"sort"
)

// order keeps references sorted by the keys they stand for: a list of sorted blocks. It is what the memory engine and the
// overlay's range scans walk over. A snapshot stays as it was; the first change after it copies what it touches.
type order struct {
	blocks  []*orderBlock
	n       int
	changes uint64 // counts insertions and removals: a cursor that has seen another number looks its place up again
	key     func(ref uint32) []byte
	stamp   uint32 // blocks with another stamp belong to a snapshot too
	shared  bool   // so does the list of blocks
}

type orderBlock struct {
	stamp uint32
	refs  []uint32
}

const orderBlockMax = 256

// place is a position in a list of blocks. It is valid while block < len(blocks).
type place struct{ block, at int }

func (o *order) snapshot() []*orderBlock {
	o.stamp++
	o.shared = true
	return o.blocks
}

// seek returns the first place whose key is not below key, and whether it is equal.
func seek(blocks []*orderBlock, key []byte, keyOf func(uint32) []byte) (place, bool) {
	b := sort.Search(len(blocks), func(i int) bool { return bytes.Compare(keyOf(blocks[i].refs[0]), key) > 0 })
	if b == 0 {
		return place{}, false
	}
	refs := blocks[b-1].refs
	lo, hi := 0, len(refs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := bytes.Compare(keyOf(refs[mid]), key); {
		case c == 0:
			return place{b - 1, mid}, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	if lo == len(refs) {
		return place{b, 0}, false
	}
	return place{b - 1, lo}, false
}

// before returns the place before p; its block is -1 when there is none.
func before(blocks []*orderBlock, p place) place {
	if p.at > 0 {
		return place{p.block, p.at - 1}
	}
	if p.block == 0 {
		return place{-1, 0}
	}
	return place{p.block - 1, len(blocks[p.block-1].refs) - 1}
}

// after returns the place after p.
func after(blocks []*orderBlock, p place) place {
	if p.at+1 < len(blocks[p.block].refs) {
		return place{p.block, p.at + 1}
	}
	return place{p.block + 1, 0}
}

func (o *order) seek(key []byte) (place, bool) { return seek(o.blocks, key, o.key) }

// own makes block b writable.
func (o *order) own(b int) *orderBlock {
	blk := o.blocks[b]
	if blk.stamp == o.stamp {
		return blk
	}
	o.ownList()
	blk = &orderBlock{stamp: o.stamp, refs: append(make([]uint32, 0, orderBlockMax), blk.refs...)}
	o.blocks[b] = blk
	return blk
}

func (o *order) ownList() {
	if o.shared {
		o.blocks = slices.Clone(o.blocks)
		o.shared = false
	}
}

// replace sets the reference at p to another one for the same key and returns the old one.
func (o *order) replace(p place, ref uint32) (old uint32) {
	blk := o.own(p.block)
	old, blk.refs[p.at] = blk.refs[p.at], ref
	return old
}

// insert puts ref at the place seek gave for its key, which must be absent.
func (o *order) insert(p place, ref uint32) {
	o.n++
	o.changes++
	if len(o.blocks) == 0 {
		o.ownList()
		o.blocks = append(o.blocks, &orderBlock{stamp: o.stamp, refs: append(make([]uint32, 0, orderBlockMax), ref)})
		return
	}
	if p.at == 0 && p.block > 0 {
		p = place{p.block - 1, len(o.blocks[p.block-1].refs)} // behind the last of the block before
	}
	blk := o.own(p.block)
	if len(blk.refs) < orderBlockMax {
		blk.refs = slices.Insert(blk.refs, p.at, ref)
		return
	}
	// A full block splits in the middle, or, when keys arrive in order, at its end: then blocks stay full.
	cut := orderBlockMax / 2
	if p.at == orderBlockMax {
		cut = orderBlockMax
	}
	upper := &orderBlock{stamp: o.stamp, refs: append(make([]uint32, 0, orderBlockMax), blk.refs[cut:]...)}
	blk.refs = blk.refs[:cut]
	if p.at >= cut && cut < orderBlockMax || cut == orderBlockMax {
		upper.refs = slices.Insert(upper.refs, p.at-cut, ref)
	} else {
		blk.refs = slices.Insert(blk.refs, p.at, ref)
	}
	o.ownList()
	o.blocks = slices.Insert(o.blocks, p.block+1, upper)
}

// remove takes the reference at p out and returns it.
func (o *order) remove(p place) uint32 {
	o.n--
	o.changes++
	blk := o.own(p.block)
	ref := blk.refs[p.at]
	blk.refs = slices.Delete(blk.refs, p.at, p.at+1)
	if len(blk.refs) == 0 {
		o.ownList()
		o.blocks = slices.Delete(o.blocks, p.block, p.block+1)
	}
	return ref
}

// fill makes the order of refs, which are sorted.
func (o *order) fill(refs []uint32) {
	o.blocks, o.n, o.shared = nil, len(refs), false
	o.changes++
	const full = orderBlockMax * 3 / 4 // room for what comes between
	for len(refs) > 0 {
		n := min(full, len(refs))
		o.blocks = append(o.blocks, &orderBlock{stamp: o.stamp, refs: append(make([]uint32, 0, orderBlockMax), refs[:n]...)})
		refs = refs[n:]
	}
}

// count is the number of references from place lo up to place hi.
func count(blocks []*orderBlock, lo, hi place) int {
	if lo.block >= len(blocks) {
		return 0
	}
	if lo.block == hi.block {
		return max(0, hi.at-lo.at)
	}
	n := len(blocks[lo.block].refs) - lo.at
	for b := lo.block + 1; b < hi.block && b < len(blocks); b++ {
		n += len(blocks[b].refs)
	}
	return max(0, n+hi.at)
}
