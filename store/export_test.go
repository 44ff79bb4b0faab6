package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// OpenPebbleOn opens a Pebble database on another file system.
func OpenPebbleOn(fs vfs.FS, dir string, o PebbleOptions) (Engine, error) {
	return openAlone(dir, fs, o)
}

// Late is an engine in memory that is written back to, by a goroutine that takes its time, and that a crash sets back to some
// batch after the last flush.
type Late struct {
	mu      sync.Mutex
	rows    Engine
	rnd     *rand.Rand
	log     []Batch
	durable int
	turn    chan struct{}
	dead    bool

	Background int // batches written back
}

// NewLate makes one whose delays are drawn from rnd.
func NewLate(rnd *rand.Rand) *Late {
	return &Late{rows: NewMemory(), rnd: rnd, turn: make(chan struct{}, 1)}
}

// Crash returns the engine as it is found after a crash. The old one takes no more batches.
func (l *Late) Crash() *Late {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	found := NewLate(l.rnd)
	kept := l.durable + l.rnd.IntN(len(l.log)-l.durable+1)
	for i := range l.log[:kept] {
		_ = found.rows.Apply(&l.log[i])
	}
	found.log, found.durable, found.Background = l.log[:kept:kept], kept, l.Background
	return found
}

func (l *Late) turns() chan struct{} { return l.turn }

func (l *Late) writeRows(checkpoint []byte, n, _ int, row func(i int) (key, value []byte, gone bool), flush bool) (durable bool, err error) {
	l.mu.Lock()
	wait := l.rnd.IntN(4000)
	l.mu.Unlock()
	for range wait {
		runtime.Gosched()
	}
	var b Batch
	if checkpoint != nil {
		b.Set(checkpointKey, checkpoint)
	}
	for i := range n {
		key, value, gone := row(i)
		if n := len(b.Mutations); n > 0 && bytes.Compare(b.Mutations[n-1].Key, key) >= 0 {
			return false, errors.New("rows are not sorted")
		}
		if b.Mutations = append(b.Mutations, Mutation{key, value, gone}); wait%16 == 0 {
			runtime.Gosched()
		}
	}
	l.mu.Lock()
	l.Background++
	l.mu.Unlock()
	if err := l.Apply(&b); err != nil || !flush {
		return false, err
	}
	return true, l.Flush()
}

// Apply implements Engine.
func (l *Late) Apply(b *Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errors.New("the process is dead")
	}
	var kept Batch
	for _, m := range b.Mutations {
		kept.Mutations = append(kept.Mutations, Mutation{bytes.Clone(m.Key), bytes.Clone(m.Value), m.Delete})
	}
	l.log = append(l.log, kept)
	return l.rows.Apply(b)
}

// Flush implements Engine.
func (l *Late) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable = len(l.log)
	return nil
}

// Clear implements Engine.
func (l *Late) Clear() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log, l.durable = nil, 0
	return l.rows.Clear()
}

// Get implements Engine.
func (l *Late) Get(dst, key []byte) ([]byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows.Get(dst, key)
}

// EstimateRows implements Engine.
func (l *Late) EstimateRows(lower, upper []byte) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows.EstimateRows(lower, upper)
}

// Stats implements Engine.
func (l *Late) Stats() EngineStats { return l.rows.Stats() }

// Close implements Engine. It flushes.
func (l *Late) Close() error { return l.Flush() }

// Iter implements Engine.
func (l *Late) Iter(lower, upper []byte, reverse bool) (EngineIter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	it, err := l.rows.Iter(lower, upper, reverse)
	return &lateIter{it, l}, err
}

type lateIter struct {
	EngineIter
	late *Late
}

func (i *lateIter) Next() bool {
	i.late.mu.Lock()
	defer i.late.mu.Unlock()
	return i.EngineIter.Next()
}

func (i *lateIter) Close() error {
	i.late.mu.Lock()
	defer i.late.mu.Unlock()
	return i.EngineIter.Close()
}

// LocalRows counts the local rows of a kind that the engine has.
func (db *DB) LocalRows(kind byte) (n int, err error) {
	it, err := db.engine.Iter([]byte{0, 0, kind}, []byte{0, 0, kind + 1}, false)
	if err != nil {
		return 0, err
	}
	for it.Next() {
		n++
	}
	return n, it.Close()
}

// The kinds of local rows.
const (
	LocalDead  = localDead
	LocalDue   = localDue
	LocalIndex = localIndex
)

// CheckIndex returns an error if a row that the engine has will not be found by the index it should be in.
func (db *DB) CheckIndex() error {
	for _, l := range db.lives {
		if l.width == 0 || !l.sweep.indexed || l.sweep.building {
			continue
		}
		it, err := db.engine.Iter(l.rows.prefix[:], l.rows.end(), false)
		if err != nil {
			return err
		}
		for err == nil && it.Next() {
			_, h, bad := ParseRowHeader(it.Value())
			due := l.due(l.deadline(&h))
			if bad != nil || h.Permanent() || h.flags&rowFlagDead != 0 {
				err = bad
				continue
			}
			if _, ok, bad := db.engine.Get(nil, db.localKey(localDue, l.rows, due, it.Key()[2:])); bad != nil {
				err = bad
			} else if !ok {
				err = fmt.Errorf("row %q, due at %d, is not in the index", it.Key(), due)
			}
		}
		if err := errors.Join(err, it.Close()); err != nil {
			return err
		}
	}
	return nil
}
