package task

import "github.com/millrace-io/millrace/processor"

const (
	slabBytes   = 64 << 10
	slabsKept   = 64 // 4 MiB per task at most stay for the next epochs
	headersSlab = 256
	headersKept = 16
)

// arena holds the bytes of one epoch's outputs. They are all let go together.
type arena struct {
	from  *slabs
	bytes int64 // held, used or not
	data  [][]byte
	heads [][]processor.Header
}

// slabs are the slabs no arena uses, of one task.
type slabs struct {
	data  [][]byte
	heads [][]processor.Header
}

// arenaMark is how far an arena was filled.
type arenaMark struct {
	data, used   int
	heads, named int
}

// copy returns b in the arena's memory; nil stays nil, and empty stays empty.
func (a *arena) copy(b []byte) []byte {
	if b == nil {
		return nil
	}
	if n := len(a.data); n == 0 || cap(a.data[n-1])-len(a.data[n-1]) < len(b) {
		a.data = append(a.data, a.slab(len(b)))
	}
	last := &a.data[len(a.data)-1]
	start := len(*last)
	*last = append(*last, b...)
	return (*last)[start:len(*last):len(*last)]
}

func (a *arena) slab(need int) []byte {
	if n := len(a.from.data); n > 0 && need <= slabBytes {
		s := a.from.data[n-1]
		a.from.data = a.from.data[:n-1]
		a.bytes += int64(cap(s))
		return s
	}
	s := make([]byte, 0, max(need, slabBytes))
	a.bytes += int64(cap(s))
	return s
}

// headers returns a copy of hs, values included, in the arena's memory.
func (a *arena) headers(hs []processor.Header) []processor.Header {
	if len(hs) == 0 {
		return nil
	}
	if n := len(a.heads); n == 0 || cap(a.heads[n-1])-len(a.heads[n-1]) < len(hs) {
		a.heads = append(a.heads, a.headSlab(len(hs)))
	}
	i := len(a.heads) - 1
	start := len(a.heads[i])
	for _, h := range hs {
		a.heads[i] = append(a.heads[i], processor.Header{Key: h.Key, Value: a.copy(h.Value)})
	}
	return a.heads[i][start:len(a.heads[i]):len(a.heads[i])]
}

func (a *arena) headSlab(need int) []processor.Header {
	if n := len(a.from.heads); n > 0 && need <= headersSlab {
		s := a.from.heads[n-1]
		a.from.heads = a.from.heads[:n-1]
		return s
	}
	return make([]processor.Header, 0, max(need, headersSlab))
}

func (a *arena) mark() arenaMark {
	m := arenaMark{data: len(a.data), heads: len(a.heads)}
	if m.data > 0 {
		m.used = len(a.data[m.data-1])
	}
	if m.heads > 0 {
		m.named = len(a.heads[m.heads-1])
	}
	return m
}

// rollback lets go of everything behind the mark.
func (a *arena) rollback(m arenaMark) {
	for _, s := range a.data[m.data:] {
		a.bytes -= int64(cap(s))
		if cap(s) == slabBytes && len(a.from.data) < slabsKept {
			a.from.data = append(a.from.data, s[:0])
		}
	}
	clear(a.data[m.data:])
	a.data = a.data[:m.data]
	if m.data > 0 {
		a.data[m.data-1] = a.data[m.data-1][:m.used]
	}
	for _, s := range a.heads[m.heads:] {
		clear(s)
		if cap(s) == headersSlab && len(a.from.heads) < headersKept {
			a.from.heads = append(a.from.heads, s[:0])
		}
	}
	clear(a.heads[m.heads:])
	a.heads = a.heads[:m.heads]
	if m.heads > 0 {
		a.heads[m.heads-1] = a.heads[m.heads-1][:m.named]
	}
}

// reset lets go of everything.
func (a *arena) reset() { a.rollback(arenaMark{}) }
