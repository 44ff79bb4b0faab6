package store

import (
	"sync"
	"sync/atomic"
)

// arena is where the row tables of the process get their chunks from. On Linux the memory is mapped, not part of Go's heap:
// hundreds of megabytes of rows would otherwise let the heap grow as far again before it is collected. Any goroutine may
// use it.
//
// A chunk that is given back keeps its address for ever and is handed out again, so what refers to it by mistake reads
// other rows but never unmapped memory. Beyond arenaWarm chunks its pages go back to the system at once.
type arena struct {
	mu   sync.Mutex
	free [][]byte
	used atomic.Int64 // bytes of chunks that are not free
}

const (
	arenaRegion = 64  // chunks mapped at a time
	arenaWarm   = 128 // free chunks that keep their pages
)

var chunks arena

// OffHeapBytes is the memory that the row tables of the process have now, outside of Go's heap. Any goroutine may call it.
func OffHeapBytes() int64 {
	if !offHeap {
		return 0
	}
	return chunks.used.Load()
}

func (a *arena) take() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.free) == 0 {
		region := mapMemory(arenaRegion * slabChunkBytes)
		for len(region) > 0 {
			a.free = append(a.free, region[:slabChunkBytes:slabChunkBytes])
			region = region[slabChunkBytes:]
		}
	}
	n := len(a.free) - 1
	mem := a.free[n]
	a.free[n] = nil
	a.free = a.free[:n]
	a.used.Add(slabChunkBytes)
	return mem
}

func (a *arena) give(mem []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.free) >= arenaWarm {
		dropPages(mem)
	}
	a.free = append(a.free, mem)
	a.used.Add(-slabChunkBytes)
}
