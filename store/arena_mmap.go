//go:build linux && !race

package store

import "syscall"

// offHeap says that mapMemory's memory is not part of Go's heap.
const offHeap = true

// mapMemory returns n zero bytes. They are never unmapped.
func mapMemory(n int) []byte {
	mem, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n) // the heap's refusal, if it comes to that, says more
	}
	return mem
}

// dropPages lets the system take the memory's pages; its bytes are then zero, or what they were.
func dropPages(mem []byte) { _ = syscall.Madvise(mem, syscall.MADV_DONTNEED) }
