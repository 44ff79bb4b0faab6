package store

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/millrace-io/millrace/ttl"
)

// Local rows are in the task's database and in no changelog (docs/format/rows.md). They are written with the rows they speak of, by
// the same epochs, and made anew when those are restored.
//
//	0 0 2 | prefix 2 | row key            -> empty   the row was dead when it was restored: it says so itself, and its tombstone is owed
//	0 0 3 | prefix 2 | due 8 | row key    -> empty   the row has to be looked at then
//	0 0 4 | prefix 2                      -> how     the store's rows are all in the index
const (
	localDead  = 2
	localDue   = 3
	localIndex = 4

	localKeyBytes = 5
	dueBytes      = 8
)

func isLocal(key []byte) bool { return key[0] == 0 && key[1] == 0 }

// localKey makes the key of a local row, in memory that the next call overwrites. due is for localDue only.
func (db *DB) localKey(kind byte, r *Rows, due int64, key []byte) []byte {
	db.localBuf = appendLocalKey(db.localBuf[:0], kind, r, due, key)
	return db.localBuf
}

func appendLocalKey(dst []byte, kind byte, r *Rows, due int64, key []byte) []byte {
	dst = append(dst, 0, 0, kind, r.prefix[0], r.prefix[1])
	if kind == localDue {
		dst = binary.BigEndian.AppendUint64(dst, uint64(due)^1<<63)
	}
	return append(dst, key...)
}

// localEnd is the first key after the local rows of a kind and a store.
func localEnd(kind byte, r *Rows) []byte {
	n := r.number() + 1
	return []byte{0, 0, kind, byte(n >> 8), byte(n)}
}

// dueOf splits the key of an index row.
func dueOf(key []byte) (due int64, rowKey []byte) {
	return int64(binary.BigEndian.Uint64(key[localKeyBytes:]) ^ 1<<63), key[localKeyBytes+dueBytes:]
}

var emptyRow = AppendRow(nil, nil, 0)

// restoreRow turns a row that is about to be restored into what the database gets: the row, marked when it is dead, so that it stays
// dead whatever the clocks say later. Its tombstone is owed then. m.Key is without prefix. Local rows go to emit; their keys are
// the callee's to copy.
func (db *DB) restoreRow(r *Rows, m *Mutation, emit func(key, value []byte, gone bool)) {
	l := r.life
	if l == nil || m.Delete {
		return
	}
	_, h, err := ParseRowHeader(m.Value)
	if err != nil || h.Permanent() {
		return // the caller has checked it
	}
	if l.dead(&h) && !l.policy.Kept() {
		emit(db.localKey(localDead, r, 0, m.Key), emptyRow, false)
		m.Value = bytes.Clone(m.Value)
		m.Value[1] |= rowFlagDead
		db.owes, db.debt = true, true
		return
	}
	if l.width == 0 {
		return
	}
	if due := l.due(l.deadline(&h)); due != math.MaxInt64 {
		emit(db.localKey(localDue, r, due, m.Key), emptyRow, false)
	} else if !l.event && !h.HasAccessed() {
		// When it is due will be known later.
		l.sweep.indexed, l.sweep.checked, l.sweep.marked = false, true, false
		emit(db.localKey(localIndex, r, 0, nil), nil, true)
	}
}

// openLocal looks at the local rows a database has when it is opened.
func (db *DB) openLocal() error {
	if err := db.lookForDebt(); err != nil {
		return err
	}
	for _, r := range db.stores {
		if db.owes && r.life == nil {
			it, err := db.engine.Iter(db.localKey(localDead, r, 0, nil), localEnd(localDead, r), false)
			if err != nil {
				return err
			}
			if it.Next() {
				r.life = newLife(r, ttl.Disabled()) // its rows live for ever, but for those that are marked
			}
			if err := it.Close(); err != nil {
				return err
			}
		}
		_, marked, err := db.engine.Get(nil, db.localKey(localIndex, r, 0, nil))
		if err != nil {
			return err
		}
		if l := r.life; l != nil && l.width > 0 {
			l.sweep.indexed, err = db.storeEmpty(r)
			if err != nil {
				return err
			}
			continue
		}
		if marked { // nobody will look after the index
			if err := db.clearLocal(r, localDue, localIndex); err != nil {
				return err
			}
		}
	}
	return nil
}

// restoreLocal puts the local rows of a batch of restored rows, which begin at first, before them. Everything stays sorted.
func (db *DB) restoreLocal(r *Rows, first int) {
	if r.life == nil {
		return
	}
	var locals []Mutation
	for i := first; i < len(db.batch.Mutations); i++ {
		row := db.batch.Mutations[i]
		row.Key = row.Key[len(r.prefix):]
		db.restoreRow(r, &row, func(key, value []byte, gone bool) {
			locals = append(locals, Mutation{Key: bytes.Clone(key), Value: value, Delete: gone})
		})
		db.batch.Mutations[i].Value = row.Value
	}
	slices.SortFunc(locals, func(a, b Mutation) int { return bytes.Compare(a.Key, b.Key) })
	db.batch.Mutations = slices.Insert(db.batch.Mutations, first, locals...)
}

// lookForDebt finds out whether the database owes tombstones.
func (db *DB) lookForDebt() error {
	it, err := db.engine.Iter([]byte{0, 0, localDead}, []byte{0, 0, localDead + 1}, false)
	if err != nil {
		return err
	}
	db.owes = it.Next()
	db.debt, db.debtAt = db.owes, nil
	return it.Close()
}

// revive takes the mark off rows that a restore took for dead because it did not know that the time to live was switched on later.
// That concerns all of a store's or none: a dead row is older than that moment, and all such die together.
func (db *DB) revive(l *life) error {
	now := l.now()
	if !db.owes || l.enabledAt == never || now < 0 || l.deadline(&RowHeader{Time: l.enabledAt, Accessed: l.enabledAt, flags: l.rows.flags}) <= now {
		return nil
	}
	if l.width > 0 {
		// They are not in the index.
		l.sweep.indexed, l.sweep.checked, l.sweep.marked = false, true, false
		var b Batch
		b.Delete(appendLocalKey(nil, localIndex, l.rows, 0, nil))
		if err := db.engine.Apply(&b); err != nil {
			return err
		}
	}
	return db.eachLocal(localDead, l.rows, func(b *Batch, key []byte) error {
		b.Delete(key)
		full := key[localKeyBytes-2:]
		row, ok, err := db.engine.Get(nil, full)
		if err != nil || !ok || row[1]&rowFlagDead == 0 {
			return err
		}
		row[1] &^= rowFlagDead
		b.Set(full, row)
		return nil
	})
}

// clearLocal deletes local rows of a store.
func (db *DB) clearLocal(r *Rows, kinds ...byte) error {
	for _, kind := range kinds {
		err := db.eachLocal(kind, r, func(b *Batch, key []byte) error {
			b.Delete(key)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachLocal rewrites the local rows of a kind and a store, straight in the engine. f deletes each one, so that the walk comes
// to an end; key is f's to keep.
func (db *DB) eachLocal(kind byte, r *Rows, f func(b *Batch, key []byte) error) error {
	const rowsAtOnce = 5000
	for begun := false; ; begun = true {
		it, err := db.engine.Iter(appendLocalKey(nil, kind, r, never, nil), localEnd(kind, r), false)
		if err != nil {
			return err
		}
		var b Batch
		for n := 0; n < rowsAtOnce && err == nil && it.Next(); n++ {
			err = f(&b, bytes.Clone(it.Key()))
		}
		if closeErr := it.Close(); err == nil {
			err = closeErr
		}
		if err != nil || len(b.Mutations) == 0 {
			return err
		}
		if !begun {
			if err := db.Restore(r.name, nil, nil); err != nil { // what is known of the engine's rows ends here
				return err
			}
		}
		if err := db.engine.Apply(&b); err != nil {
			return err
		}
	}
}
