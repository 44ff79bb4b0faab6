package main

import "testing"

// TestNobodyBeginsBeforeAllHaveTheirs: the first to join owns everything for a moment, and gives some of it away.
func TestNobodyBeginsBeforeAllHaveTheirs(t *testing.T) {
	t.Parallel()
	s := newShares(2)
	began := func() bool {
		select {
		case <-s.all:
			return true
		default:
			return false
		}
	}
	s.add(0, 4)
	s.add(0, -2)
	if began() {
		t.Error("it began with one")
	}
	s.add(1, 2)
	if !began() {
		t.Error("both have theirs, and nothing begins")
	}
	s.add(1, -2) // a later rebalance
	s.add(1, 2)
}
