package streamtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/txn"
)

// disk is where a task's engine lives. It outlives a crash.
type disk interface {
	open() (store.Engine, error)
	crash(db *store.DB) error // the process that had it open is gone
	lose() error
}

// openState opens a task's database and brings it up to the group's commit, as a restart does: what the engine holds
// according to its checkpoint, then the tail of each changelog.
func (d *Driver) openState(r *running, from position) (*store.DB, error) {
	if d.disks[r.id] == nil {
		d.disks[r.id] = d.newDisk(r.id)
	}
	engine, err := d.disks[r.id].open()
	if err != nil {
		return nil, err
	}
	var bindings []store.Binding
	for _, spec := range r.sub.Stores {
		bindings = append(bindings, store.Binding{Spec: spec, Prefix: d.prefixes[spec.Name()]})
	}
	db, err := store.Open(engine, bindings, store.Options{})
	if err != nil {
		return nil, err
	}
	if err := d.restore(r, db, from); err != nil {
		return nil, errors.Join(fmt.Errorf("restoring: %w", err), db.Close())
	}
	return db, nil
}

func (d *Driver) restore(r *running, db *store.DB, from position) error {
	var have changelog.Checkpoint
	row, ok, err := db.Checkpoint()
	if err != nil {
		return err
	}
	if ok {
		if have, err = changelog.ParseCheckpoint(row); err != nil {
			return err
		}
	}
	if have.Commit.Seq > from.commit {
		return fmt.Errorf("the local engine holds commit %d, the group only %d", have.Commit.Seq, from.commit)
	}
	want := changelog.Checkpoint{
		Commit: txn.CommitID{TxnID: "streamtest", Seq: from.commit}, WallTime: d.now, StreamTime: from.streamTime, Now: from.now, State: from.state,
	}
	db.SetClocks(max(d.now, from.now), from.streamTime)
	for _, spec := range r.sub.Stores {
		log := d.broker.changelogs[spec.Name()]
		next, _ := have.Store(spec.Name())
		end := log.end(r.id.Partition)
		if next > end {
			return fmt.Errorf("store %s: the local engine holds the changelog up to %d, which ends at %d", spec.Name(), next, end)
		}
		var rows []store.Mutation
		for _, rec := range log.from(r.id.Partition, next) {
			rows = append(rows, store.Mutation{Key: rec.Key, Value: rec.Value, Delete: rec.Value == nil})
		}
		if err := db.Restore(spec.Name(), rows, nil); err != nil {
			return err
		}
		want.Stores = append(want.Stores, changelog.StoreOffset{Store: spec.Name(), Offset: end})
	}
	if len(r.sub.Stores) == 0 {
		return nil
	}
	return db.Restore(r.sub.Stores[0].Name(), nil, want.Append(nil))
}

func (d *Driver) newDisk(id processor.TaskID) disk {
	if d.o.pebble {
		return &pebbleDisk{dir: filepath.Join(d.dir, id.Subtopology, fmt.Sprint(id.Partition))}
	}
	return &memoryDisk{durable: store.NewMemory()}
}

// pebbleDisk is a directory. A crash closes the database properly: what a process had not yet written to its disk is not
// lost here.
type pebbleDisk struct{ dir string }

func (p *pebbleDisk) open() (store.Engine, error) {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	return store.OpenPebble(p.dir, store.PebbleOptions{})
}

func (p *pebbleDisk) crash(db *store.DB) error { return db.Close() }

func (p *pebbleDisk) lose() error { return os.RemoveAll(p.dir) }

// memoryDisk is a memory engine with a disk behind it that is some batches late: a crash loses those, and never one
// before another, as a Pebble database without a write-ahead log does.
type memoryDisk struct {
	durable store.Engine
	late    []store.Batch
}

// lateBatches is how many of the last batches a crash loses.
const lateBatches = 3

func (m *memoryDisk) open() (store.Engine, error) {
	m.late = nil
	live := store.NewMemory()
	it, err := m.durable.Iter(nil, nil, false)
	if err != nil {
		return nil, err
	}
	var b store.Batch
	for it.Next() {
		b.Set(bytes.Clone(it.Key()), bytes.Clone(it.Value()))
	}
	if err := it.Close(); err != nil {
		return nil, err
	}
	if err := live.Apply(&b); err != nil {
		return nil, err
	}
	return &memoryEngine{Engine: live, disk: m}, nil
}

func (m *memoryDisk) crash(*store.DB) error { return nil }

func (m *memoryDisk) lose() error {
	m.durable = store.NewMemory()
	return nil
}

// write lets batches reach the disk until only so many are late.
func (m *memoryDisk) write(late int) error {
	for len(m.late) > late {
		if err := m.durable.Apply(&m.late[0]); err != nil {
			return err
		}
		m.late = m.late[1:]
	}
	return nil
}

// memoryEngine is the live engine of a memoryDisk.
type memoryEngine struct {
	store.Engine
	disk *memoryDisk
}

func (e *memoryEngine) Apply(b *store.Batch) error {
	if err := e.Engine.Apply(b); err != nil {
		return err
	}
	var late store.Batch
	for _, m := range b.Mutations {
		late.Mutations = append(late.Mutations, store.Mutation{Key: bytes.Clone(m.Key), Value: bytes.Clone(m.Value), Delete: m.Delete})
	}
	e.disk.late = append(e.disk.late, late)
	return e.disk.write(lateBatches)
}

func (e *memoryEngine) Flush() error {
	if err := e.Engine.Flush(); err != nil {
		return err
	}
	return e.disk.write(0)
}
