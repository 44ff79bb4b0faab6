package topology

import "github.com/millrace-io/millrace/store"

// Ahead puts the rows that a record with this key is going to read on the list; null says that the record's value is
// null. The key is valid during the call. It must have no other effect, and is not called for records with a null key.
type Ahead[K any] func(w *store.Wanted, key K, null bool)

// Reads says, during wiring, which rows the node reads by the key of its records alone, so that those of many records can
// be read at once. The node must be one that keeps keys (NodeSpec.KeepsKey).
func (s *Stage[K, V]) Reads(f Ahead[K]) { s.w.ahead[s.local] = f }

// aheadOf is what a node and, if keys go through it as they are, the nodes below it read by a key of type K; nil if that
// is nothing.
func aheadOf[K any](w *wiring, local int, through bool) Ahead[K] {
	var all []Ahead[K]
	if own, ok := w.ahead[local].(Ahead[K]); ok {
		all = append(all, own)
	}
	if through {
		for _, c := range w.sub.Nodes[local].Children {
			if f, ok := w.ahead[c].(Ahead[K]); ok {
				all = append(all, f)
			}
		}
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return func(w *store.Wanted, key K, null bool) {
		for _, f := range all {
			f(w, key, null)
		}
	}
}
