package store

import "slices"

// slab hands out byte ranges ("slots") of large chunks and takes them back one by one. References are numbers, not
// pointers, so a million rows are nothing to the garbage collector. A slot never moves. Not for concurrent use, except that
// a view may be read.
//
//	reference = chunk number << 13 | offset in the chunk / 8        0 is "none"
//
// A chunk of 64 KiB holds slots of one size class. A slot above the largest class has a chunk of its own. A chunk whose
// last slot is freed is given to whichever class asks next, so memory follows a workload that changes its sizes.
type slab struct {
	chunks  []slabChunk
	vacant  []uint32 // numbers of chunks without memory
	spare   [][]byte // memory of emptied chunks
	partial [slabClasses]uint32
	shared  bool  // chunks come from the arena of the process and go back there; else they are the collector's
	used    int64 // bytes in slots handed out, at their class's size
	held    int64 // bytes of all chunks in use
}

type slabChunk struct {
	mem        []byte
	size       int32 // of a slot
	live       int32
	fresh      int32 // offset of the first slot never handed out
	freed      int32 // offset of the first slot taken back, +1; chained through the slots' first 4 bytes
	prev, next uint32
	class      uint8
}

const (
	slabChunkBytes = 64 << 10
	slabUnit       = 8
	slabOffsetBits = 13
	slabSpareMax   = 2           // of a slab; the rest goes back to the arena
	slabLarge      = slabClasses // class of a slot with its own chunk
)

// slabSizes are the slot sizes: steps of 8 up to 128, then at most a fifth of waste.
var slabSizes = func() (sizes []int32) {
	for n := int32(16); n <= 128; n += 8 {
		sizes = append(sizes, n)
	}
	return append(sizes, 144, 160, 184, 208, 240, 280, 328, 384, 448, 520, 608, 712, 832, 976, 1144, 1336, 1560, 1816,
		2112, 2464, 2880, 3368, 3936, 4592, 5352, 6240, 7280, 8488, 9896, 11544, 13464, 16384)
}()

const slabClasses = 47

// slabClassOf is the class for n bytes, by (n+7)/8.
var slabClassOf = func() (table [16384/slabUnit + 1]uint8) {
	class := 0
	for i := range table {
		for int32(i*slabUnit) > slabSizes[class] {
			class++
		}
		table[i] = uint8(class)
	}
	return table
}()

func newSlab() *slab {
	return &slab{chunks: make([]slabChunk, 1)} // number 0 stays unused: reference 0 is "none"
}

// alloc returns a slot of at least n bytes, with whatever bytes it has.
func (s *slab) alloc(n int) uint32 {
	if n > int(slabSizes[slabClasses-1]) {
		num := s.chunk(make([]byte, n), slabLarge, int32(n))
		c := &s.chunks[num]
		c.live, c.fresh = 1, int32(n)
		s.used += int64(n)
		return num << slabOffsetBits
	}
	class := slabClassOf[(n+slabUnit-1)/slabUnit]
	num := s.partial[class]
	if num == 0 {
		num = s.chunk(s.memory(), class, slabSizes[class])
		s.link(num)
	}
	c := &s.chunks[num]
	var off int32
	if c.freed != 0 {
		off = c.freed - 1
		c.freed = int32(get32(c.mem[off:]))
	} else {
		off = c.fresh
		c.fresh += c.size
	}
	c.live++
	s.used += int64(c.size)
	if c.freed == 0 && int(c.fresh+c.size) > len(c.mem) {
		s.unlink(num)
	}
	return num<<slabOffsetBits | uint32(off)/slabUnit
}

// release takes a slot back. Its bytes stay readable until the next alloc, except the first four.
func (s *slab) release(ref uint32) {
	num := ref >> slabOffsetBits
	c := &s.chunks[num]
	c.live--
	s.used -= int64(c.size)
	if c.class == slabLarge {
		s.vacate(num)
		return
	}
	full := c.freed == 0 && int(c.fresh+c.size) > len(c.mem)
	off := int32(ref&(1<<slabOffsetBits-1)) * slabUnit
	put32(c.mem[off:], uint32(c.freed))
	c.freed = off + 1
	if full {
		s.link(num)
	}
	// The class keeps its last chunk, so that a lone slot going to and fro costs nothing.
	if c.live == 0 && (c.next != 0 || c.prev != 0) {
		s.unlink(num)
		s.spareChunk(c.mem)
		s.vacate(num)
	}
}

// at returns the bytes from the slot's start to its chunk's end.
func (s *slab) at(ref uint32) []byte {
	return s.chunks[ref>>slabOffsetBits].mem[(ref&(1<<slabOffsetBits-1))*slabUnit:]
}

// size is the number of bytes the slot has.
func (s *slab) size(ref uint32) int { return int(s.chunks[ref>>slabOffsetBits].size) }

func (s *slab) memory() []byte {
	if n := len(s.spare); n > 0 {
		mem := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return mem
	}
	if s.shared {
		return chunks.take()
	}
	return make([]byte, slabChunkBytes)
}

// spareChunk keeps the memory of an emptied chunk, or gives it to the tables of other tasks.
func (s *slab) spareChunk(mem []byte) {
	if len(s.spare) < slabSpareMax {
		s.spare = append(s.spare, mem)
		return
	}
	if s.shared {
		chunks.give(mem)
	}
}

// view returns the memory of every chunk by number, for another goroutine: it may read slots that are in use, as long as
// they stay so and nobody writes to the same bytes.
func (s *slab) view() slabView {
	v := make(slabView, len(s.chunks))
	for i := range s.chunks {
		v[i] = s.chunks[i].mem
	}
	return v
}

// slabView is the memory of a slab as it was at some time.
type slabView [][]byte

// at returns the bytes from the slot's start to its chunk's end.
func (v slabView) at(ref uint32) []byte {
	return v[ref>>slabOffsetBits][(ref&(1<<slabOffsetBits-1))*slabUnit:]
}

func (s *slab) chunk(mem []byte, class uint8, size int32) uint32 {
	s.held += int64(len(mem))
	c := slabChunk{mem: mem, class: class, size: size}
	if n := len(s.vacant); n > 0 {
		num := s.vacant[n-1]
		s.vacant = s.vacant[:n-1]
		s.chunks[num] = c
		return num
	}
	if len(s.chunks) >= 1<<(32-slabOffsetBits) {
		panic("store: more than 32 GiB of rows in one task's memory")
	}
	s.chunks = append(s.chunks, c)
	return uint32(len(s.chunks) - 1)
}

func (s *slab) vacate(num uint32) {
	s.held -= int64(len(s.chunks[num].mem))
	s.chunks[num] = slabChunk{}
	s.vacant = append(s.vacant, num)
}

// link puts a chunk with room at the head of its class's list.
func (s *slab) link(num uint32) {
	c := &s.chunks[num]
	c.prev, c.next = 0, s.partial[c.class]
	if c.next != 0 {
		s.chunks[c.next].prev = num
	}
	s.partial[c.class] = num
}

func (s *slab) unlink(num uint32) {
	c := &s.chunks[num]
	if c.prev != 0 {
		s.chunks[c.prev].next = c.next
	} else {
		s.partial[c.class] = c.next
	}
	if c.next != 0 {
		s.chunks[c.next].prev = c.prev
	}
	c.prev, c.next = 0, 0
}

// reset takes everything back at once.
func (s *slab) reset() {
	spare := s.spare
	for i := range s.chunks {
		if c := &s.chunks[i]; c.mem != nil && c.class != slabLarge {
			spare = append(spare, c.mem)
		}
	}
	clear(s.chunks)
	*s = slab{chunks: s.chunks[:1], vacant: s.vacant[:0], shared: s.shared}
	s.chunks = slices.Clip(s.chunks)
	for _, mem := range spare {
		s.spareChunk(mem)
	}
}

// free gives all memory back. The slab is empty and can be used again.
func (s *slab) free() {
	s.reset()
	for _, mem := range s.spare {
		if s.shared {
			chunks.give(mem)
		}
	}
	s.spare = nil
}

func get32(b []byte) uint32 {
	_ = b[3]
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func put32(b []byte, v uint32) {
	_ = b[3]
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}
