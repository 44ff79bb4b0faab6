package store

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/internal/fault"
)

// DB is all the state of one task: one engine, and above it a table of rows with a stack of epochs whose writes are readable
// by the task but not committed. It is used by the task's goroutine only.
//
//	Put, Delete (Rows) -> the epoch being filled
//	Savepoint, Rollback -> undo one record's writes
//	Seal               -> the filled epoch is frozen and a new one begins
//	Apply(oldest)      -> its rows are the committed ones, its checkpoint the newest one
//	Discard            -> every epoch not yet applied is dropped
//
// With an engine on a disk committed rows stay in the table and are written back now and then, many epochs at a time, in one
// atomic batch with the checkpoint of the last of them (writeback.go). So the engine may be behind what is committed, as if it
// had crashed some time ago, and is never ahead of it. The memory engine has every epoch as soon as it is applied.
type DB struct {
	engine Engine
	stores []*Rows // by prefix
	names  map[string]*Rows
	table  *table
	limit  int64 // of committed rows kept in the table
	time   int64

	// complete says that the table holds every row the engine has: what it does not know does not exist. True from an
	// empty engine on until the first row is evicted.
	complete bool

	epochs    []*Epoch // oldest first; the last is the one being filled
	lastEpoch uint32
	recycled  [][]uint32 // lists of epochs that are gone
	dirty     int64      // bytes of rows and versions of the epochs
	savepoint uint32
	journal   []undo
	undone    []byte // the values the journal restores

	order   *order // the changed rows in key order; nil until a scan asks for it
	scanned bool   // since the last Seal
	scans   []*RowScan

	behind bool // committed rows reach the engine later, by write-back
	wb     writeback
	hits   int64
	misses int64

	local    *Rows   // rows of ours (expiry.go)
	lives    []*life // of the stores with a time to live
	now      int64   // of SetClocks; below 0 is none
	eventNow int64
	pending  bool   // a store waits for its clock to have a value
	steps    int    // records since the last Sweep: savepoints
	turn     int    // the store that was cleaned up last
	owes     bool   // the engine may have rows whose tombstone is owed
	debt     bool   // and there may be such as are still to be written
	debtAt   []byte // where to go on; nil is the beginning
	localBuf []byte
	stats    tableStats

	batch    Batch
	restored Batch // the same, sorted
	sorted   []sortable
	key      []byte // prefix and key of the row asked for
	value    []byte // as the engine returned it
	arena    []byte // keys of a restore batch
	closed   bool
	rows     atomic.Int64 // in the engine and one more, for Stats; 0 is not known
}

// undo is one step of the way back to the savepoint. For a row first changed in the running epoch the version is
// dropped; for one changed before, its last bytes are copied back from the end of DB.undone.
type undo struct {
	row  uint32
	word uint32
}

const undoPush = math.MaxUint32 // no version has this word: its length would be 512 MiB

// Binding ties a declared store to the two-byte prefix its rows have in this task's database. Prefixes are given out by
// the manifest (from 1 up; 0 is ours, and so is 65535) and never change.
type Binding struct {
	Spec   Spec
	Prefix uint16
}

// Options bound a DB. Zero values take the defaults.
type Options struct {
	CacheBytes int64 // committed rows in memory, written back or not; default 16 MiB
}

const cacheBytesDefault = 16 << 20

// checkpointKey is where the checkpoint row is: prefix 0, kind 1. Nothing sorts before it.
var checkpointKey = []byte{0, 0, 1}

// Open makes a DB of an engine. The DB owns the engine and closes it, also when Open fails.
func Open(e Engine, stores []Binding, o Options) (*DB, error) {
	if o.CacheBytes <= 0 {
		o.CacheBytes = cacheBytesDefault
	}
	db := &DB{engine: e, names: make(map[string]*Rows, len(stores)), table: newTable(), limit: o.CacheBytes, savepoint: 1, now: -1, eventNow: -1}
	db.local = &Rows{db: db}
	_, db.behind = e.(backgroundEngine)
	if err := db.open(stores); err != nil {
		_ = e.Close() // the first error is the one that explains
		return nil, err
	}
	return db, nil
}

func (db *DB) open(stores []Binding) error {
	for _, b := range stores {
		r := &Rows{db: db, spec: b.Spec, name: b.Spec.Name(), prefix: [2]byte{byte(b.Prefix >> 8), byte(b.Prefix)}}
		reason := ""
		switch {
		case b.Prefix == 0 || b.Prefix == math.MaxUint16:
			reason = fmt.Sprintf("row prefix %d is reserved", b.Prefix)
		case db.names[r.name] != nil:
			reason = "it is bound twice"
		default:
			for _, other := range db.stores {
				if other.prefix == r.prefix {
					reason = fmt.Sprintf("row prefix %d is that of store %q", b.Prefix, other.name)
				}
			}
		}
		if reason != "" {
			return &fault.Error{Code: "store/binding", Kind: fault.Internal, Thing: "store", Value: r.name, Reason: reason}
		}
		if err := r.settings(b.Spec); err != nil {
			return err
		}
		db.names[r.name] = r
		db.stores = append(db.stores, r)
	}
	slices.SortFunc(db.stores, func(a, b *Rows) int { return int(a.number()) - int(b.number()) })
	for _, r := range db.stores {
		if r.life != nil {
			db.lives = append(db.lives, r.life)
		}
	}
	db.begin()
	if err := db.lookAround(); err != nil {
		return err
	}
	return db.openLocal()
}

// lookAround finds out whether the engine has any row.
func (db *DB) lookAround() error {
	it, err := db.engine.Iter([]byte{0, 1}, nil, false)
	if err != nil {
		return err
	}
	db.complete = !it.Next()
	db.recounted()
	return it.Close()
}

// recounted lets every store count its rows anew.
func (db *DB) recounted() {
	base := int64(-1)
	db.rows.Store(0)
	if db.complete {
		base = 0
		db.rows.Store(1)
	}
	for _, r := range db.stores {
		r.recounted(base)
	}
}

// Rows returns the store with that name. It implements Source without any check of attachment. The same name gives the
// same *Rows each time.
func (db *DB) Rows(name string) (*Rows, error) {
	if r := db.names[name]; r != nil {
		return r, nil
	}
	known := make([]string, 0, len(db.names))
	for _, r := range db.stores {
		known = append(known, r.name)
	}
	slices.Sort(known)
	reason := "this task has no stores"
	if len(known) > 0 {
		reason = "the stores of this task are " + strings.Join(known, ", ")
	}
	return nil, &fault.Error{
		Code: "store/unknown", Kind: fault.Config, Thing: "store", Value: name, Reason: reason,
		Remedy: "attach the store to the node that opens it",
	}
}

// SetTime sets the event time that KV.Put writes rows with: the time of the record being processed.
func (db *DB) SetTime(ms int64) { db.time = ms }

// Savepoint forgets the undo journal: Rollback will return to this state. Scans that are still open end here.
func (db *DB) Savepoint() {
	db.steps++
	db.save()
}

func (db *DB) save() {
	if len(db.scans) > 0 {
		db.endScans()
	}
	db.journal = db.journal[:0]
	if cap(db.undone) > 1<<20 {
		db.undone = nil
	}
	db.undone = db.undone[:0]
	if db.savepoint != math.MaxUint32 {
		db.savepoint++
	}
}

// Rollback undoes every write since Savepoint. Scans that are still open end here.
func (db *DB) Rollback() {
	db.endScans()
	cur := db.filling()
	for i := len(db.journal) - 1; i >= 0; i-- {
		u := db.journal[i]
		if u.word == undoPush {
			if isLocal(db.table.key(u.row)) {
				cur.local--
			}
			db.pop(u.row)
			cur.rows = cur.rows[:len(cur.rows)-1]
			continue
		}
		row := db.table.slab.at(u.row)
		ver := db.table.slab.at(rowHead(row)) // of the epoch being filled
		db.recount(row, change(u.word)-change(verWord(ver)))
		// The slot can only have grown since.
		n := len(db.undone) - int(u.word&wordLength)
		copy(ver[versionBytes:], db.undone[n:])
		db.undone = db.undone[:n]
		setVerWord(ver, u.word)
	}
	// A new savepoint, not just an empty journal: versions say at which savepoint they were last written to the journal,
	// and what the journal said is gone.
	db.save()
}

// Dirty reports whether the epoch being filled has writes that go to a changelog.
func (db *DB) Dirty() bool { return db.filling().Len() > 0 }

// Seal freezes the epoch being filled and begins a new one. The returned Epoch may be empty. It is also a Savepoint.
func (db *DB) Seal() *Epoch {
	db.save()
	if !db.scanned {
		db.order = nil // nobody scans: stop paying for the order
	}
	db.scanned = false
	e := db.filling()
	e.sealed = true
	db.begin()
	return e
}

// Apply makes the oldest sealed epoch, which must be e, the committed state, and checkpoint the newest checkpoint row; nil
// leaves that as it is. Both reach the engine in one batch, at once or by a later write-back. It may return the error of an
// earlier one. After an error the DB must be closed and the task restored again.
func (db *DB) Apply(e *Epoch, checkpoint []byte) error {
	if db.closed {
		return errClosed()
	}
	if e != db.epochs[0] || !e.sealed {
		return &fault.Error{
			Code: "store/epoch-order", Kind: fault.Internal, Thing: "epoch", Reason: "it is not the oldest sealed epoch of this task",
		}
	}
	db.endScans()
	for _, r := range db.stores {
		if r.base < 0 {
			r.ask() // before this epoch's rows are in it: from now on they are counted as they come
		}
	}
	rows := len(e.rows)
	chaos.Pass(chaos.MidApply)
	if db.behind {
		if err := db.reap(reapRows); err != nil {
			return err
		}
		db.settle(e)
		db.noteCommitted(int64(rows), checkpoint)
	} else {
		if err := db.writeThrough(e, checkpoint); err != nil {
			return err
		}
		db.settle(e)
	}
	db.trim(evictPlaces + 8*rows)
	var err error
	switch {
	case !db.behind:
	case chaos.Has(chaos.ApplyBeforeCommit):
		err = db.Flush() // what was applied too early must be there after a crash as well
	default:
		err = db.writeIfDue()
	}
	db.publish()
	return err
}

// writeThrough writes an epoch and its checkpoint to the engine in one batch.
func (db *DB) writeThrough(e *Epoch, checkpoint []byte) error {
	db.batch.Reset()
	if checkpoint != nil {
		db.batch.Set(checkpointKey, checkpoint)
	}
	db.collect(e)
	err := db.engine.Apply(&db.batch)
	clear(db.batch.Mutations) // they hold on to memory of the table
	return err
}

// Discard drops every epoch that has not been applied, sealed ones and the one being filled.
func (db *DB) Discard() {
	db.endScans()
	db.sweepDiscarded()
	db.order = nil
	for i := len(db.epochs) - 1; i >= 0; i-- {
		e := db.epochs[i]
		for _, row := range e.rows {
			db.pop(row)
		}
		db.forget(e)
	}
	db.epochs = db.epochs[:0]
	db.journal = db.journal[:0]
	db.undone = db.undone[:0]
	db.begin()
	db.trim(evictPlaces)
}

// OverlayBytes is the memory held by epochs that are not yet applied.
func (db *DB) OverlayBytes() int64 { return db.dirty + int64(len(db.undone)) }

// Checkpoint returns the newest checkpoint row: that of the last Apply, Restore or SetCheckpoint, or the one the engine had when
// the DB was opened; ok is false on a fresh database. The slice is the caller's.
func (db *DB) Checkpoint() (row []byte, ok bool, err error) {
	if db.closed {
		return nil, false, errClosed()
	}
	if db.wb.checkpointKnown {
		return slices.Clone(db.wb.checkpoint), true, nil
	}
	return db.engine.Get(nil, checkpointKey)
}

// SetCheckpoint replaces the newest checkpoint row with one that says the same of the committed rows. Like those it reaches
// the engine at once or by a later write-back, never ahead of a row it speaks of.
func (db *DB) SetCheckpoint(checkpoint []byte) error {
	if db.closed {
		return errClosed()
	}
	if db.behind {
		if db.wb.failed != nil {
			return db.wb.failed
		}
		db.noteCommitted(0, checkpoint)
		return nil
	}
	db.batch.Reset()
	db.batch.Set(checkpointKey, checkpoint)
	return db.engine.Apply(&db.batch)
}

// Restore applies changelog rows of one store directly to the engine, with the checkpoint row in the same batch when it
// is not nil. Without rows it is SetCheckpoint; without
// that either, the DB forgets what it knows of the engine's rows. Keys are row keys as in the changelog (without prefix); of several rows with one key the last counts.
// Used only while no epoch holds writes. The slices are not kept. A row that is not in the form of a row is an error, and
// nothing of the batch is applied then. A batch of a few thousand rows is a good size.
func (db *DB) Restore(store string, rows []Mutation, checkpoint []byte) error {
	if db.closed {
		return errClosed()
	}
	if len(db.epochs) > 1 || len(db.filling().rows) > 0 {
		return &fault.Error{
			Code: "store/epoch-order", Kind: fault.Internal, Thing: "store", Value: store, Reason: "restore while an epoch holds writes",
		}
	}
	r, err := db.Rows(store)
	if err != nil {
		return err
	}
	if len(rows) == 0 && checkpoint != nil {
		return db.SetCheckpoint(checkpoint)
	}
	db.endScans()
	if err := db.gather(r, rows, checkpoint); err != nil {
		return err
	}
	if err := db.writeAll(false); err != nil { // what is committed comes before
		return err
	}
	if r.life != nil {
		r.life.restart()
	}
	db.wb.checkpointKnown = false // from here on it is the engine's
	// From here on the table may be wrong about the engine, whether Apply succeeds or not.
	db.complete = false
	r.recounted(-1)
	if db.table.rows > 0 {
		db.table.reset()
	}
	err = db.engine.Apply(&db.batch)
	clear(db.batch.Mutations)
	return err
}

// Clear deletes every row of every store and the checkpoint, for a rebuild. It is durable when it returns. Epochs that were
// not applied are discarded.
func (db *DB) Clear() error {
	if db.closed {
		return errClosed()
	}
	db.Discard()
	db.forgetAll()
	db.table.reset()
	db.complete = false
	if err := db.engine.Clear(); err != nil {
		return err
	}
	db.complete = true
	db.recounted()
	db.owes, db.debt, db.debtAt = false, false, nil
	for _, l := range db.lives {
		l.emptied()
	}
	return nil
}

// Flush writes back what is committed and makes it durable.
func (db *DB) Flush() error {
	if db.closed {
		return errClosed()
	}
	db.endScans()
	if err := db.writeAll(false); err != nil {
		return err
	}
	if err := db.engine.Flush(); err != nil {
		return err
	}
	db.wb.tail, db.wb.since = 0, db.wb.now
	db.publish()
	return nil
}

// Close writes back what is committed and closes the engine; unapplied epochs are lost, as in a crash. Closing twice is
// harmless.
func (db *DB) Close() error {
	if db.closed {
		return nil
	}
	db.Discard()
	err := db.writeAll(false)
	db.forgetAll()
	db.closed = true
	db.table.close()
	db.complete = false
	if closeErr := db.engine.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Stats are the engine's and the table's, as they were after the last Apply, Flush or Tick. Any goroutine may call it.
func (db *DB) Stats() EngineStats {
	s := db.engine.Stats()
	if n := db.rows.Load(); n > 0 {
		s.RowsEstimated = n - 1
	}
	db.stats.fill(&s)
	return s
}

func errClosed() error {
	return &fault.Error{Code: "store/closed", Kind: fault.Internal, Thing: "store", Reason: "the task's database is closed"}
}
