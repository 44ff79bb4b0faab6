package store

// Engine is an ordered byte map that holds the committed rows of one task. Rows of different stores differ in their
// first two bytes (docs/format/rows.md). Pebble and memory are the two engines; storetest is what both must pass.
// An Engine is used by one goroutine at a time, except Stats, and except that Pebble's is written back to while the task reads.
type Engine interface {
	// Get returns a copy of the value at key, and whether there is one. The copy is appended to dst[:0].
	Get(dst, key []byte) (value []byte, ok bool, err error)
	// Iter iterates over keys in [lower, upper), from the end when reverse is set. A nil upper is the end. It shows the rows
	// as they are now, whatever is applied meanwhile. The bounds are not kept.
	Iter(lower, upper []byte, reverse bool) (EngineIter, error)
	// Apply makes all mutations of b visible at once; after a crash either all of them are there or none, and never
	// those of a later Apply without those of an earlier one.
	Apply(b *Batch) error
	// Clear removes every row at once and makes that durable.
	Clear() error
	// EstimateRows estimates how many keys are in [lower, upper). It may read an index of the disk: not for every record.
	EstimateRows(lower, upper []byte) int64
	// Flush makes what was applied durable on disk.
	Flush() error
	// Close flushes and closes.
	Close() error
	// Stats may be called by any goroutine.
	Stats() EngineStats
}

// EngineIter is an iterator over an Engine: for it.Next() { it.Key(), it.Value() }; then Close. Key and Value are valid
// until the next call. Close returns the first error met.
type EngineIter interface {
	Next() bool
	Key() []byte
	Value() []byte
	Close() error
}

// EngineStats are figures about an engine. Pebble's cache figures are those of the cache it shares. What is said of the table
// only DB.Stats knows.
type EngineStats struct {
	DiskBytes     int64
	RowsEstimated int64 // of all stores; only DB.Stats knows it for Pebble, from the first Apply on
	CacheHits     int64
	CacheMisses   int64

	TableRows  int64 // rows in memory
	TableBytes int64 // and what they need
	DirtyBytes int64 // of them, committed and not yet written back
	Hits       int64 // reads that the table answered
	Misses     int64 // reads that the engine had to answer
	WriteBacks int64
	Tail       int64 // rows committed that a crash of the process would make a restore read again
	Resident   bool  // every row is in memory: the engine is never asked
}

// Mutation sets key to Value, or deletes it.
type Mutation struct {
	Key    []byte
	Value  []byte
	Delete bool
}

// Batch is a list of mutations, applied in order. The engine does not keep its slices.
type Batch struct {
	Mutations []Mutation
}

// Set appends a write.
func (b *Batch) Set(key, value []byte) {
	b.Mutations = append(b.Mutations, Mutation{key, value, false})
}

// Delete appends a delete.
func (b *Batch) Delete(key []byte) { b.Mutations = append(b.Mutations, Mutation{key, nil, true}) }

// Reset empties b and keeps its memory.
func (b *Batch) Reset() { b.Mutations = b.Mutations[:0] }
