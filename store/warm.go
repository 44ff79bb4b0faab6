package store

// warmShare is the part of the table that Warm fills at most, in eighths: what comes needs room as well.
const warmShare = 7

// Warm reads the engine's rows into the table if they seem to have room there. When all have, the table knows every row from
// then on and the engine is not asked again until the first is evicted. Call it when a restore is over; it takes about a
// second for three million rows, and nothing where there are too many.
func (db *DB) Warm() error {
	if db.closed {
		return errClosed()
	}
	if db.complete || !db.behind || len(db.epochs) > 1 || len(db.filling().rows) > 0 {
		return nil // with an engine in memory there is nothing to gain; a row written blindly would hide what was there
	}
	limit := db.limit / 8 * warmShare
	rows := int64(0)
	for _, r := range db.stores {
		rows += db.engine.EstimateRows(r.prefix[:], r.end())
	}
	if rows*(rowBytes+rowOverhead+rowHeaderBytes) > 2*limit { // a row that was overwritten may count twice
		return nil
	}
	if err := db.writeAll(false); err != nil {
		return err
	}
	it, err := db.engine.Iter([]byte{0, 1}, nil, false)
	if err != nil {
		return err
	}
	counts := make([]int64, len(db.stores))
	db.complete = true // until something is evicted, or left out
	for it.Next() {
		key := it.Key()
		at := db.storeAt(key)
		if at < 0 {
			continue // of a store that the topology has no more
		}
		if db.table.bytes()-db.dirty > limit {
			db.complete = false
			break
		}
		counts[at]++
		if hash := db.table.hash(key); db.table.find(hash, key) == 0 {
			db.insertClean(hash, key, it.Value(), true)
		}
	}
	err = it.Close()
	if err != nil {
		db.complete = false
	}
	if db.complete {
		for i, r := range db.stores {
			r.recounted(counts[i])
		}
	}
	db.publish()
	return err
}

// storeAt is the number of the store a row belongs to, or -1.
func (db *DB) storeAt(key []byte) int {
	for i, r := range db.stores {
		if string(r.prefix[:]) == string(key[:2]) {
			return i
		}
	}
	return -1
}
