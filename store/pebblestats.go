package store

// DiskBytes estimates what the rows in [lower, upper) take in tables on disk. Any goroutine may call it; 0 once the engine is
// closed or has failed.
func (e *pebbleEngine) DiskBytes(lower, upper []byte) (bytes int64) {
	e.stats.RLock()
	defer e.stats.RUnlock()
	if e.ready() != nil {
		return 0
	}
	// A table that cannot be read is for the task's goroutine to find: nobody else may declare the engine broken.
	defer func() { _ = recover() }()
	n, err := e.db.EstimateDiskUsage(lower, upper)
	if err != nil {
		return 0
	}
	return int64(n)
}
