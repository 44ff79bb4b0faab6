//go:build !linux || race

package store

// offHeap says that mapMemory's memory is not part of Go's heap.
const offHeap = false

// mapMemory returns n zero bytes, of the heap: under the race detector too, which does not watch other memory.
func mapMemory(n int) []byte { return make([]byte, n) }

// dropPages does nothing here.
func dropPages([]byte) {}
