package store

// StoreStats are figures about one store of a task.
type StoreStats struct {
	Store     string
	Rows      int64 // committed, as ApproximateLen estimates them; -1 until it is known
	DiskBytes int64 // an estimate of its rows in tables on disk; 0 for an engine without
}

// sizer is an engine that knows how much of its disk a range of keys takes. Any goroutine may ask.
type sizer interface {
	DiskBytes(lower, upper []byte) int64
}

// StoreStats are the figures of every store of the task, in the order of their prefixes: rows as they were after the last
// Apply, Flush or Tick, sizes as they are. Any goroutine may call it. Sizes are read from the tables' indexes: not for
// every record.
func (db *DB) StoreStats() []StoreStats {
	shown := db.stats.stores.Load()
	out := make([]StoreStats, len(db.stores))
	disk, _ := db.engine.(sizer)
	for i, r := range db.stores {
		out[i] = StoreStats{Store: r.name, Rows: -1}
		if shown != nil {
			out[i].Rows = (*shown)[i]
		}
		if disk != nil {
			out[i].DiskBytes = disk.DiskBytes(r.prefix[:], r.end())
		}
	}
	return out
}

// publishRows shows the rows of every store to other goroutines.
func (db *DB) publishRows() {
	shown := db.stats.stores.Load()
	same := shown != nil
	for i, r := range db.stores {
		same = same && (*shown)[i] == r.committed()
	}
	if same {
		return
	}
	rows := make([]int64, len(db.stores))
	for i, r := range db.stores {
		rows[i] = r.committed()
	}
	db.stats.stores.Store(&rows)
}

// committed is the number of rows without the overlay's, -1 if the engine has not been asked yet.
func (r *Rows) committed() int64 {
	if r.base < 0 {
		return -1
	}
	return max(0, r.base+r.moved)
}
