package store

import "github.com/millrace-io/millrace/ttl"

// Untidy reports whether Sweep or SweepGarbage may have something to do now. It reads nothing.
func (db *DB) Untidy() bool {
	if db.debt {
		return true
	}
	for _, l := range db.lives {
		now := l.now()
		if l.policy.Cleanup() != ttl.Off && now >= 0 && (l.sweep.running || l.isTime(now)) {
			return true
		}
	}
	epoch := db.filling().number
	for _, r := range db.stores {
		if k := r.spec.Kind(); k != KindList && k != KindMap {
			continue
		}
		if g := &r.gens; g.state != gensNone && !g.clean && g.looked != epoch {
			return true
		}
	}
	return false
}
