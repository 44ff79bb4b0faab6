package changelog

import (
	"encoding/binary"

	"github.com/millrace-io/millrace/txn"
)

// StoreOffset is how far a store's changelog partition is contained in the local database.
type StoreOffset struct {
	Store  string
	Offset int64 // of the next changelog record to apply
}

// Checkpoint is the row a task's database holds in the same batch as its data (docs/format/checkpoint.md).
//
// While a task runs, WallTime is when the row was written. While a restore is under way it is when the restore first
// read the changelog (see DBTarget): the age of a checkpoint says whether a tombstone may have been missed, and that
// counts from the oldest row read, not from the last.
type Checkpoint struct {
	Commit     txn.CommitID
	WallTime   int64 // milliseconds
	StreamTime int64
	Now        int64
	Inputs     []InputOffset
	Stores     []StoreOffset
	Tasks      int64  // offset of the next record of <app>-tasks to read
	State      []byte // the kernel's own (docs/format/kernel-state.md)
}

// Append appends the encoded checkpoint to dst and returns the extended slice.
func (c *Checkpoint) Append(dst []byte) []byte {
	from := len(dst)
	dst = append(dst, kindCheckpoint, stateVersion)
	dst = appendCommit(dst, c.Commit)
	dst = binary.AppendVarint(dst, c.WallTime)
	dst = binary.AppendVarint(dst, c.StreamTime)
	dst = binary.AppendVarint(dst, c.Now)
	dst = appendInputs(dst, c.Inputs)
	dst = binary.AppendUvarint(dst, uint64(len(c.Stores)))
	for i := range c.Stores {
		dst = appendString(dst, c.Stores[i].Store)
		dst = binary.AppendVarint(dst, c.Stores[i].Offset)
	}
	dst = binary.AppendVarint(dst, c.Tasks)
	dst = appendState(dst, c.State)
	return seal(dst, from)
}

// ParseCheckpoint decodes a checkpoint row. The result shares nothing with row. A row that is damaged or was written by a
// newer millrace is a *fault.Error with code "changelog/damaged" or "changelog/newer-format".
func ParseCheckpoint(row []byte) (Checkpoint, error) {
	r, err := open(row, kindCheckpoint, "checkpoint")
	if err != nil {
		return Checkpoint{}, err
	}
	c := Checkpoint{
		Commit:     r.commit(),
		WallTime:   r.varint("wall time"),
		StreamTime: r.varint("stream time"),
		Now:        r.varint("processing time"),
		Inputs:     r.inputs(),
	}
	if n := r.count("stores", 2); n > 0 {
		c.Stores = make([]StoreOffset, n)
		for i := range c.Stores {
			c.Stores[i] = StoreOffset{Store: r.string("store", nameBytesMax), Offset: r.varint("store offset")}
		}
	}
	c.Tasks = r.varint("tasks offset")
	c.State = r.state()
	if err := r.done(); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

// Store returns the position of a store's changelog, and whether the checkpoint has one.
func (c *Checkpoint) Store(name string) (next int64, ok bool) {
	for i := range c.Stores {
		if c.Stores[i].Store == name {
			return c.Stores[i].Offset, true
		}
	}
	return 0, false
}

// SetStore sets the position of a store's changelog.
func (c *Checkpoint) SetStore(name string, next int64) {
	for i := range c.Stores {
		if c.Stores[i].Store == name {
			c.Stores[i].Offset = next
			return
		}
	}
	c.Stores = append(c.Stores, StoreOffset{Store: name, Offset: next})
}

// Record is the checkpoint seen as a task record: what <app>-tasks said when the checkpoint was written. ok is false for
// the checkpoint of a restore that began with an empty database and has not ended: it knows of no epoch.
func (c *Checkpoint) Record() (record TaskRecord, ok bool) {
	return TaskRecord{Commit: c.Commit, StreamTime: c.StreamTime, Now: c.Now, Inputs: c.Inputs, State: c.State}, c.Commit != (txn.CommitID{})
}
