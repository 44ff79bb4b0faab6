package changelog

import (
	"fmt"

	"github.com/millrace-io/millrace/store"
)

// DBTarget restores into a task's database, so that a restore that is interrupted goes on where it was. There are two
// ways, chosen by how much there is to read (Expect):
//
//	few records    each batch goes to the engine at once, with the checkpoint after it, in one atomic batch
//	many records   rows are gathered (store.Bulk), and go to the engine as sorted tables when their share of memory is full
//	               and at the end; then the checkpoint. What was gathered when the process ends is read again.
//
// A store that is read from its log's start begins empty: a row from an earlier life would stay for ever if the log
// does not mention it any more.
type DBTarget struct {
	db         *store.DB
	stores     []string
	checkpoint Checkpoint
	started    int64 // wall clock, milliseconds
	row        []byte
	expected   int64
	begun      bool
	bulk       *store.Bulk
}

// bulkRecords is from how many records on rows are gathered and sorted. Below it the files that an ingest makes durable cost
// more than the memtable does.
const bulkRecords = 50_000

// NewDBTarget makes a target of a task's database. stores are the names by part; base is the database's checkpoint, nil if
// it has none; now is the wall clock in milliseconds at the begin of the restore.
func NewDBTarget(db *store.DB, stores []string, base *Checkpoint, now int64) *DBTarget {
	t := &DBTarget{db: db, stores: stores, started: now}
	if base == nil {
		t.reset()
		return t
	}
	t.checkpoint = *base
	t.checkpoint.Stores = append([]StoreOffset(nil), base.Stores...)
	return t
}

// Expect says how many records there are to read at most. Call it before the restore begins; without it few are expected.
func (t *DBTarget) Expect(records int64) { t.expected = records }

// reset is a checkpoint that claims nothing. Its wall time is the begin of the restore and stays until the restore is
// over: a tombstone that was in the log then is there for delete.retention.ms more, whatever is applied meanwhile.
func (t *DBTarget) reset() { t.checkpoint = Checkpoint{WallTime: t.started, StreamTime: -1} }

// begin comes before the first rows.
func (t *DBTarget) begin() error {
	if t.begun {
		return nil
	}
	t.begun = true
	for _, name := range t.stores {
		if _, ok := t.checkpoint.Store(name); ok {
			continue
		}
		if err := t.db.ClearStore(name); err != nil {
			return err
		}
	}
	if t.expected < bulkRecords || t.bulk != nil {
		return nil
	}
	var err error
	t.bulk, err = t.db.Bulk()
	return err
}

// Apply implements Target.
func (t *DBTarget) Apply(part int, rows []store.Mutation, next int64) error {
	if err := t.begin(); err != nil {
		return err
	}
	name := t.stores[part]
	if at, ok := t.checkpoint.Store(name); ok && next < at {
		return fmt.Errorf("restore of store %s would go back from offset %d to %d", name, at, next)
	}
	if t.bulk == nil {
		t.checkpoint.SetStore(name, next)
		return t.db.Restore(name, rows, t.encoded())
	}
	if !t.bulk.Room(rows) {
		if err := t.bulk.Ingest(t.encoded()); err != nil { // the checkpoint of what was gathered, without these rows
			return err
		}
	}
	if err := t.bulk.Add(name, rows); err != nil {
		return err
	}
	t.checkpoint.SetStore(name, next)
	return nil
}

func (t *DBTarget) encoded() []byte {
	t.row = t.checkpoint.Append(t.row[:0])
	return t.row
}

// Rebuild implements Target.
func (t *DBTarget) Rebuild(error) error {
	t.reset()
	t.expected = max(t.expected, bulkRecords) // all of the log, however much that is
	if err := t.db.Clear(); err != nil {
		return err
	}
	t.begun = false
	if t.bulk != nil {
		t.bulk.Discard()
	}
	return nil
}

// Finish implements Target.
func (t *DBTarget) Finish() error {
	if err := t.begin(); err != nil || t.bulk == nil {
		return err
	}
	defer t.Close()
	return t.bulk.Ingest(t.encoded())
}

// Close gives memory back. Call it when the restore has ended, however it did. Closing twice is harmless.
func (t *DBTarget) Close() {
	if t.bulk != nil {
		t.bulk.Close()
	}
}

// Checkpoint is the checkpoint as it stands. Call it when the restore has ended.
func (t *DBTarget) Checkpoint() Checkpoint { return t.checkpoint }
