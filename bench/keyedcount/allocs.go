package main

import "runtime"

// allocations finds out what a record costs the heap, in the whole process: from the first look at which records had been
// committed, when tables and buffers are there, to the last at which there were more.
type allocations struct{ first, last heapMark }

type heapMark struct {
	records        int64
	objects, bytes uint64
}

// look is to be called now and then with the number of records committed so far.
func (a *allocations) look(records int64) {
	if records == a.last.records {
		return
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	a.last = heapMark{records, m.Mallocs, m.TotalAlloc}
	if a.first.records == 0 {
		a.first = a.last
	}
}

// perRecord is zero if there were not two looks.
func (a *allocations) perRecord() (objects, bytes float64) {
	n := float64(a.last.records - a.first.records)
	if n <= 0 {
		return 0, 0
	}
	return float64(a.last.objects-a.first.objects) / n, float64(a.last.bytes-a.first.bytes) / n
}
