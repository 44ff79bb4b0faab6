package task

import (
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// aheadMost is how many records are looked at in one go, of all inputs together: reading their rows holds the task up for a
// few milliseconds.
const aheadMost = 1000

// aheadGraph is a graph that can tell which rows a record is going to read.
type aheadGraph interface {
	LooksAhead() bool
	Ahead(source int, r *topology.Raw, w *store.Wanted)
}

// ahead reads the rows of the next records at once, while the state is larger than the memory for it. It changes nothing
// but the time a record takes.
type ahead struct {
	graph  aheadGraph // nil when no record reads rows by its key
	wanted store.Wanted
}

func newAhead(g graph) ahead {
	if looker, ok := g.(aheadGraph); ok && looker.LooksAhead() {
		return ahead{graph: looker}
	}
	return ahead{}
}

// lookAhead reads the rows that the next records of every input are going to read and that are not in memory. It is called
// when there is a head that was not looked at.
func (t *Task) lookAhead() {
	if t.db.Resident() {
		for i := range t.inputs {
			t.inputs[i].looked = aheadMost
		}
		return
	}
	share := max(1, aheadMost/len(t.inputs))
	for i := range t.inputs {
		room := t.db.Room(&t.ahead.wanted) / (len(t.inputs) - i)
		t.want(&t.inputs[i], share, t.ahead.wanted.Len()+max(1, room))
	}
	// An error is not the business of any record yet: whoever needs a row that cannot be read will be told, and the record
	// is named then.
	_ = t.db.Prefetch(&t.ahead.wanted)
}

// want puts the rows of an input's next records on the list, until share records from the cursor on were looked at or the
// list has so many rows.
func (t *Task) want(in *input, share, rows int) {
	defer func() {
		// A codec or a Prefetcher panics. If the record is to blame it will do so again, when it is processed.
		if t.user {
			t.user = false
			_ = recover()
		}
	}()
	skip, from := in.looked, in.at.record
	for j := int(in.at.batch - in.first); j < len(in.batches); j++ {
		records := in.batches[j].Records[from:]
		from = 0
		if skip >= len(records) {
			skip -= len(records)
			continue
		}
		for k := skip; k < len(records); k++ {
			if in.looked >= share || t.ahead.wanted.Len() >= rows {
				return
			}
			in.looked++
			t.user = true
			t.ahead.graph.Ahead(in.Source, &records[k], &t.ahead.wanted)
			t.user = false
		}
		skip = 0
	}
}
