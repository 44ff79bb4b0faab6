package store

import "sync/atomic"

// tableStats are the figures of a table, for other goroutines.
type tableStats struct {
	rows, bytes, dirty, hits, misses, writeBacks, tail atomic.Int64
	resident                                           atomic.Bool
	stores                                             atomic.Pointer[[]int64] // rows of each
}

// publish shows the figures as they are now.
func (db *DB) publish() {
	rows := int64(1)
	for _, r := range db.stores {
		if r.base < 0 { // the engine has not been asked yet
			rows = 0
			break
		}
		rows += max(0, r.base+r.moved)
	}
	db.rows.Store(rows)
	s, w := &db.stats, &db.wb
	s.rows.Store(int64(db.table.rows))
	s.bytes.Store(db.table.bytes())
	s.dirty.Store(w.changedBytes + w.frozenBytes)
	s.hits.Store(db.hits)
	s.misses.Store(db.misses)
	s.writeBacks.Store(w.done)
	s.tail.Store(w.tail)
	s.resident.Store(db.complete)
	db.publishRows()
}

func (s *tableStats) fill(e *EngineStats) {
	e.TableRows, e.TableBytes, e.DirtyBytes = s.rows.Load(), s.bytes.Load(), s.dirty.Load()
	e.Hits, e.Misses, e.WriteBacks = s.hits.Load(), s.misses.Load(), s.writeBacks.Load()
	e.Tail, e.Resident = s.tail.Load(), s.resident.Load()
}
