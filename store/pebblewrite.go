package store

import "github.com/cockroachdb/pebble/v2"

// nodeBytes is what Pebble reserves of a memtable per row of a batch. A batch that would need half of one skips the memtable
// and is flushed as it is.
const nodeBytes = 215

func (e *pebbleEngine) turns() chan struct{} { return e.shared.writing }

// writeRows writes a sorted batch. A large one becomes a file of its own; then it is waited for, so that its memory is
// gone when the next database's turn comes.
func (e *pebbleEngine) writeRows(checkpoint []byte, n, size int, row func(i int) (key, value []byte, gone bool), flush bool) (durable bool, err error) {
	if err := e.ready(); err != nil {
		return false, err
	}
	defer e.recovered("write", &err)
	large := int64(size+n*nodeBytes) >= e.memTable/2
	if n > 0 || checkpoint != nil {
		if err := e.writeSorted(checkpoint, n, size, row); err != nil {
			return false, err
		}
	}
	if !large && !flush {
		return false, nil
	}
	return true, e.Flush()
}

func (e *pebbleEngine) writeSorted(checkpoint []byte, n, size int, row func(i int) (key, value []byte, gone bool)) (err error) {
	if err := e.room(); err != nil {
		return err
	}
	batch := e.db.NewBatchWithSize(32 + len(checkpoint) + size + 11*n)
	set := func(key, value []byte) error {
		op := batch.SetDeferred(len(key), len(value))
		copy(op.Key, key)
		copy(op.Value, value)
		return op.Finish()
	}
	if checkpoint != nil {
		err = set(checkpointKey, checkpoint)
	}
	var counts []rowCount
	for i := 0; i < n && err == nil; i++ {
		key, value, gone := row(i)
		counts = countRow(counts, key, gone)
		if !gone {
			err = set(key, value)
			continue
		}
		op := batch.DeleteDeferred(len(key))
		copy(op.Key, key)
		err = op.Finish()
	}
	if err != nil {
		_ = batch.Close() // the batch was not applied; err says why
		return e.wrap("write", err)
	}
	e.counted(int64(batch.Len())+64*int64(batch.Count()), counts)
	if err := e.db.Apply(batch, pebble.NoSync); err != nil {
		return e.wrap("write", err)
	}
	if err := batch.Close(); err != nil {
		return e.wrap("write", err)
	}
	return e.ready() // a commit that went wrong is told through Fatalf
}

// counted notes what is about to be applied.
func (e *pebbleEngine) counted(bytes int64, rows []rowCount) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unflushed += bytes
	for _, c := range rows {
		i := 0
		for i < len(e.pending) && e.pending[i].prefix != c.prefix {
			i++
		}
		if i == len(e.pending) {
			e.pending = append(e.pending, c)
			continue
		}
		e.pending[i].rows += c.rows
	}
}

// countRow adds a row to the counts by store; rows of one store come together.
func countRow(counts []rowCount, key []byte, gone bool) []rowCount {
	if len(key) < 2 {
		return counts
	}
	prefix := uint16(key[0])<<8 | uint16(key[1])
	if n := len(counts); n == 0 || counts[n-1].prefix != prefix {
		counts = append(counts, rowCount{prefix: prefix})
	}
	if gone {
		counts[len(counts)-1].rows--
	} else {
		counts[len(counts)-1].rows++
	}
	return counts
}
