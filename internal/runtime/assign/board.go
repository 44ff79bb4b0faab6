package assign

import (
	"cmp"
	"slices"

	"github.com/millrace-io/millrace/processor"
)

// board is where tasks are placed: members with their loads, and tasks with where they were and where they are to be. Loads are
// compared per worker by multiplying across, so that there is no rounding.
type board struct {
	seats    []seat
	tasks    []slot
	eligible [][]bool // by subtopology, by member
}

// seat is a member's place on the board.
type seat struct {
	weight   int
	capacity int
	total    int
	per      []int         // by subtopology
	position map[int]int64 // by task: how far a local copy reaches; looked up, never ranged over
	tasks    []int         // in no order
}

// slot is a task on the board.
type slot struct {
	id       processor.TaskID
	sub      int
	stateful bool
	inputs   []Partition
	home     int // who runs it, or was promised it by the plan before; -1: nobody
	at       int // -1: nowhere
}

func newBoard(members, subs int) *board {
	b := &board{seats: make([]seat, members), eligible: make([][]bool, subs)}
	for m := range b.seats {
		b.seats[m] = seat{weight: 1, per: make([]int, subs), position: map[int]int64{}}
	}
	for s := range b.eligible {
		b.eligible[s] = make([]bool, members)
	}
	return b
}

func (b *board) add(t slot) int {
	t.at = -1
	b.tasks = append(b.tasks, t)
	return len(b.tasks) - 1
}

// place finds a member for every task: owners keep theirs, what was promised is kept, then state decides, then load; then
// loads are evened out, in all and per subtopology. With the promises of the plan before, the second of two rebalances ends where
// the first one meant to.
func (b *board) place() {
	for t := range b.tasks {
		if h := b.tasks[t].home; h >= 0 {
			b.put(t, h)
		}
	}
	for t := range b.tasks {
		if b.tasks[t].at < 0 {
			if m := b.furthest(t); m >= 0 {
				b.put(t, m)
			}
		}
	}
	for t := range b.tasks {
		if b.tasks[t].at < 0 {
			if m := b.lightest(t); m >= 0 {
				b.put(t, m)
			}
		}
	}
	b.even(false) // tasks that are at home nowhere move first:
	b.even(true)  // moving one that runs costs its owner a revoke
	b.circulate()
	for settled := range 3 {
		b.spread(settled)
	}
}

func (b *board) put(t, m int) {
	task := &b.tasks[t]
	if a := task.at; a >= 0 {
		s := &b.seats[a]
		i := slices.Index(s.tasks, t)
		s.tasks[i] = s.tasks[len(s.tasks)-1]
		s.tasks = s.tasks[:len(s.tasks)-1]
		s.total--
		s.per[task.sub]--
	}
	task.at = m
	s := &b.seats[m]
	s.tasks = append(s.tasks, t)
	s.total++
	s.per[task.sub]++
}

func (b *board) room(m int) bool {
	return b.seats[m].capacity <= 0 || b.seats[m].total < b.seats[m].capacity
}
func (b *board) over(m int) bool {
	return b.seats[m].capacity > 0 && b.seats[m].total > b.seats[m].capacity
}

// furthest is the member whose copy of the task's state reaches furthest, the less loaded of equals; -1 if there is no copy.
func (b *board) furthest(t int) int {
	best := -1
	for m := range b.seats {
		p := b.seats[m].position[t]
		if p <= 0 {
			continue
		}
		if best < 0 || p > b.seats[best].position[t] ||
			p == b.seats[best].position[t] && b.seats[m].total*b.seats[best].weight < b.seats[best].total*b.seats[m].weight {
			best = m
		}
	}
	return best
}

// lightest is the member that would be loaded least with the task, in all and then by its subtopology. Members with room go first.
func (b *board) lightest(t int) int {
	sub := b.tasks[t].sub
	best := -1
	for m := range b.seats {
		if !b.eligible[sub][m] {
			continue
		}
		if best < 0 {
			best = m
			continue
		}
		x, y := &b.seats[m], &b.seats[best]
		if c := cmp.Or(
			compareBool(b.room(best), b.room(m)),
			cmp.Compare((x.total+1)*y.weight, (y.total+1)*x.weight),
			cmp.Compare((x.per[sub]+1)*y.weight, (y.per[sub]+1)*x.weight),
		); c < 0 {
			best = m
		}
	}
	return best
}

// compareBool is -1 when only b holds.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// unfair reports whether a task should move from a to b.
func (b *board) unfair(from, to int) bool {
	f, t := &b.seats[from], &b.seats[to]
	return b.room(to) && (b.over(from) || f.total*t.weight > (t.total+1)*f.weight)
}

// even moves tasks from the most to the least loaded members until no move makes it fairer. Every move lowers the greater of
// two loads, or what is over a capacity, so it ends.
func (b *board) even(settled bool) {
	for b.evenOnce(settled) {
	}
}

func (b *board) evenOnce(settled bool) bool {
	givers, takers := b.byLoad(), b.byNextLoad()
	for _, from := range givers {
		for _, to := range takers {
			if from == to || !b.unfair(from, to) {
				continue
			}
			if t := b.choose(from, to, settled); t >= 0 {
				b.put(t, to)
				return true
			}
		}
	}
	return false
}

// byLoad lists the members, most loaded first, those over their capacity before all.
func (b *board) byLoad() []int {
	return b.order(func(x, y int) int {
		return cmp.Or(compareBool(b.over(y), b.over(x)), cmp.Compare(b.seats[y].total*b.seats[x].weight, b.seats[x].total*b.seats[y].weight))
	})
}

// byNextLoad lists the members, the one that would be loaded least with one task more first.
func (b *board) byNextLoad() []int {
	return b.order(func(x, y int) int {
		return cmp.Compare((b.seats[x].total+1)*b.seats[y].weight, (b.seats[y].total+1)*b.seats[x].weight)
	})
}

func (b *board) order(less func(x, y int) int) []int {
	list := make([]int, len(b.seats))
	for m := range list {
		list[m] = m
	}
	slices.SortStableFunc(list, less)
	return list
}

// choose is the task whose move from one member to another costs least: one that is not at home there, of a subtopology the giver has
// more of, whose state the taker has, without state before with.
func (b *board) choose(from, to int, settled bool) int {
	best := -1
	for _, t := range b.seats[from].tasks {
		task := &b.tasks[t]
		if !b.eligible[task.sub][to] || !settled && task.home == from {
			continue
		}
		if best < 0 || b.cheaper(t, best, from, to) < 0 {
			best = t
		}
	}
	return best
}

func (b *board) cheaper(x, y, from, to int) int {
	p, q := &b.tasks[x], &b.tasks[y]
	f, t := &b.seats[from], &b.seats[to]
	more := func(sub int) int { return f.per[sub]*t.weight - t.per[sub]*f.weight }
	return cmp.Or(
		compareBool(q.home != from, p.home != from),
		compareBool(more(q.sub) > 0, more(p.sub) > 0),
		cmp.Compare(t.position[y]-f.position[y], t.position[x]-f.position[x]),
		compareBool(!q.stateful, !p.stateful),
		cmp.Compare(more(q.sub), more(p.sub)),
		cmp.Compare(x, y),
	)
}

// spread evens out every subtopology by exchanging tasks between members, which leaves their totals alone. At most settled of
// the two tasks of an exchange may be at home where they are. Every exchange lowers the sum of squares of the loads, so it ends.
func (b *board) spread(settled int) {
	for again := true; again; { // an exchange for one subtopology can open one for another
		again = false
		for sub := range b.eligible {
			for b.spreadOnce(sub, settled) {
				again = true
			}
		}
	}
}

func (b *board) spreadOnce(sub, settled int) bool {
	givers := b.order(func(x, y int) int {
		return cmp.Compare(b.seats[y].per[sub]*b.seats[x].weight, b.seats[x].per[sub]*b.seats[y].weight)
	})
	takers := b.order(func(x, y int) int {
		return cmp.Compare((b.seats[x].per[sub]+1)*b.seats[y].weight, (b.seats[y].per[sub]+1)*b.seats[x].weight)
	})
	for _, from := range givers {
		for _, to := range takers {
			f, t := &b.seats[from], &b.seats[to]
			if f.per[sub]*t.weight <= (t.per[sub]+1)*f.weight {
				break
			}
			if b.exchange(sub, from, to, settled) {
				return true
			}
		}
	}
	return false
}

// exchange gives a task of sub from one member to the other, for one of another subtopology if the totals ask for it.
func (b *board) exchange(sub, from, to, settled int) bool {
	give := b.pick(sub, from, to, settled > 0)
	if give < 0 {
		return false
	}
	if b.tasks[give].home == from {
		settled--
	}
	f, t := &b.seats[from], &b.seats[to]
	change := (2*t.per[sub]+1)*f.weight - (2*f.per[sub]-1)*t.weight
	if b.room(to) && f.total*t.weight >= (t.total+1)*f.weight {
		if change < 0 {
			b.put(give, to)
			return true
		}
		return false
	}
	back, gain := -1, 0
	for other := range b.eligible {
		if other == sub {
			continue
		}
		c := change + (2*f.per[other]+1)*t.weight - (2*t.per[other]-1)*f.weight
		if c >= gain {
			continue
		}
		if p := b.pick(other, to, from, settled > 0); p >= 0 {
			back, gain = p, c
		}
	}
	if back < 0 {
		return false
	}
	b.put(give, to)
	b.put(back, from)
	return true
}

// pick is the task of one subtopology whose move costs least.
func (b *board) pick(sub, from, to int, settled bool) int {
	best := -1
	if !b.eligible[sub][to] {
		return best
	}
	for _, t := range b.seats[from].tasks {
		if b.tasks[t].sub != sub || !settled && b.tasks[t].home == from {
			continue
		}
		if best < 0 || b.cheaper(t, best, from, to) < 0 {
			best = t
		}
	}
	return best
}
