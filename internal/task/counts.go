package task

import (
	"slices"

	"github.com/millrace-io/millrace/topology"
)

// Stats are figures of a task since it was made. What was discarded is not counted; what was replayed is counted once.
type Stats struct {
	Records     int64 // processed, those below included
	Skipped     int64
	DeadLetters int64
	Retries     int64  // failures that were followed by another try, or will be
	Timers      int64  // fired
	Late        int64  // of Drops, those that came too late
	Drops       []Drop // by node and reason, in order of first occurrence
}

// Drop is how many records an operator left out on purpose, and why: "null-key", "late", ...
type Drop struct {
	Node   string
	Reason string
	Count  int64
}

// counts is Stats in the making.
type counts struct {
	Records     int64
	Skipped     int64
	DeadLetters int64
	Retries     int64
	Timers      int64
	drops       []dropped
	journal     []int // drops of the record being processed, as indexes
}

type dropped struct {
	node   int
	reason string
	count  int64
}

// Stats returns the figures. Its slice is the caller's.
func (t *Task) Stats() Stats {
	s := Stats{Records: t.count.Records, Skipped: t.count.Skipped, DeadLetters: t.count.DeadLetters, Retries: t.count.Retries, Timers: t.count.Timers}
	for _, d := range t.count.drops {
		if d.count > 0 {
			s.Drops = append(s.Drops, Drop{t.nodeName(d.node), d.reason, d.count})
			if d.reason == topology.ReasonLate {
				s.Late += d.count
			}
		}
	}
	return s
}

// Parked reports whether the task waits for the next try of a record or timer that has failed.
func (t *Task) Parked() bool { return t.retry.until > t.now }

// drop counts one. The list is as long as there are operators that drop times their reasons: short.
func (c *counts) drop(node int, reason string) {
	i := slices.IndexFunc(c.drops, func(d dropped) bool { return d.node == node && d.reason == reason })
	if i < 0 {
		i = len(c.drops)
		c.drops = append(c.drops, dropped{node: node, reason: reason})
	}
	c.drops[i].count++
	c.journal = append(c.journal, i)
}

func (c *counts) rollback() {
	for _, i := range c.journal {
		c.drops[i].count--
	}
	c.journal = c.journal[:0]
}

// snapshot is a copy that shares nothing with c.
func (c *counts) snapshot() counts {
	s := *c
	s.drops = slices.Clone(c.drops)
	s.journal = nil
	return s
}
