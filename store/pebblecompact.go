package store

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// compactions decides when a Pebble database may compact: not before it is open. Pebble's own scheduler begins while
// the database is being opened; if opening then fails, the caches are let go under a compaction that still runs, and
// that ends the process; and not while a bulk restore adds tables, so that all of them are merged once and not again
// and again. Otherwise it is as Pebble's: as many at a time as the database allows.
type compactions struct {
	mu       sync.Mutex
	granted  sync.Cond // granting has become false
	db       pebble.DBForCompaction
	open     bool
	held     bool // no new ones
	closed   bool
	granting bool
	running  int
}

func newCompactions() *compactions {
	c := &compactions{}
	c.granted.L = &c.mu
	return c
}

// Register and Unregister are called when the database is opened and when it is closed.
func (c *compactions) Register(_ int, db pebble.DBForCompaction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.db = db
}

// Unregister waits for calls into the database to end.
func (c *compactions) Unregister() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for c.granting {
		c.granted.Wait()
	}
}

// begin lets compactions run.
func (c *compactions) begin() {
	c.mu.Lock()
	c.open = true
	c.mu.Unlock()
	c.grant()
}

// hold keeps new compactions from beginning, or lets them.
func (c *compactions) hold(held bool) {
	c.mu.Lock()
	changed := c.held != held
	c.held = held
	c.mu.Unlock()
	if changed && !held {
		c.grant()
	}
}

// TrySchedule is called when the database has something to compact.
func (c *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open || c.held || c.closed || c.db.GetAllowedWithoutPermission() <= c.running {
		return false, nil
	}
	c.running++
	return true, c
}

// UpdateGetAllowedWithoutPermission is called, under Pebble's lock, when more may be allowed than before.
func (c *compactions) UpdateGetAllowedWithoutPermission() { go c.grant() }

// grant lets compactions that had to wait begin.
func (c *compactions) grant() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.granting {
		c.granted.Wait()
	}
	if !c.open || c.held || c.closed {
		return
	}
	c.granting = true
	for left := c.db.GetAllowedWithoutPermission() - c.running; left > 0; left-- {
		c.mu.Unlock() // the database takes its own lock, under which it calls TrySchedule
		waiting, _ := c.db.GetWaitingCompaction()
		accepted := waiting && c.db.Schedule(c)
		c.mu.Lock()
		if !accepted {
			break
		}
		c.running++
	}
	c.granting = false
	c.granted.Broadcast()
}

// Done is called when a compaction has ended.
func (c *compactions) Done() {
	c.mu.Lock()
	c.running--
	c.mu.Unlock()
	c.grant()
}

// Started, MeasureCPU and CumulativeStats are for schedulers that account for what a compaction uses.

// Started does nothing.
func (c *compactions) Started() {}

// MeasureCPU does nothing.
func (c *compactions) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats does nothing.
func (c *compactions) CumulativeStats(pebble.CompactionGrantHandleStats) {}
