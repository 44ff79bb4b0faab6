package assign

import "math"

// Tasks that are at home nowhere cost nothing to place elsewhere, so they are placed as well as they can be before anything
// that runs is touched. Exchanges between two members do not always get there: it may take a circle, a to b, b to c and c to a.
//
// The members are the nodes of a graph. An edge from a to b is the cheapest free task that b could have instead of a, its weight
// how much the sum of squared loads (of its subtopology, per worker) would change; or no task at all, weight 0, where b can do
// with one task less and a with one more. A circle of negative weight makes the spread better and the totals no worse; when
// there is none left, no placement of the free tasks is better. In a circle without repeated members weights add up exactly, except
// for what members of different weights lose in rounding, which slack makes up for.

const (
	scale = 1 << 20 // of a squared load per worker
	none  = math.MaxInt64 / 4
)

// edge is the best way to take one task from a member to another.
type edge struct {
	weight int64
	task   int // -1: none has to move
}

// circulate carries out circles until there is none of negative weight. Each lowers the sum of squares, so it ends; the
// bound is for weights so different that rounding could hide that.
func (b *board) circulate() {
	for range len(b.tasks) {
		if !b.circle() {
			return
		}
	}
}

func (b *board) circle() bool {
	n := len(b.seats)
	edges := b.edges()
	slack := int64(0)
	if !b.equalWeights() {
		slack = int64(4 * n)
	}
	// Bellman and Ford: distances from everywhere at once; whoever still gets closer in the n-th round is behind a circle.
	distance, before := make([]int64, n), make([]int, n)
	for m := range before {
		before[m] = -1
	}
	last := -1
	for range n {
		last = -1
		for from := range n {
			for to := range n {
				if e := edges[from*n+to]; e.weight < none && distance[from]+e.weight < distance[to] {
					distance[to], before[to], last = distance[from]+e.weight, from, to
				}
			}
		}
		if last < 0 {
			return false
		}
	}
	for range n { // into the circle
		last = before[last]
	}
	var moves []edge
	var targets []int
	sum := int64(0)
	for to := last; ; {
		from := before[to]
		e := edges[from*n+to]
		sum += e.weight
		if e.task >= 0 {
			moves, targets = append(moves, e), append(targets, to)
		}
		if to = from; to == last {
			break
		}
	}
	if sum >= -slack {
		return false
	}
	for i, e := range moves {
		b.put(e.task, targets[i])
	}
	return true
}

// edges is the graph, as it stands.
func (b *board) edges() []edge {
	n := len(b.seats)
	edges := make([]edge, n*n)
	best := make([]int, len(b.eligible)) // by subtopology, the task that is cheapest to move
	for from := range n {
		for to := range n {
			e := edge{weight: none, task: -1}
			if from != to {
				e = b.edge(from, to, best)
			}
			edges[from*n+to] = e
		}
	}
	return edges
}

func (b *board) edge(from, to int, best []int) edge {
	f, t := &b.seats[from], &b.seats[to]
	e := edge{weight: none, task: -1}
	// No task has to go from here to there if there can do with one less (it lost one to the next in the circle) and here with
	// one more.
	if b.room(from) && t.total*f.weight >= (f.total+1)*t.weight {
		e.weight = 0
	}
	for i := range best {
		best[i] = -1
	}
	for _, x := range f.tasks {
		task := &b.tasks[x]
		if task.home == from || !b.eligible[task.sub][to] {
			continue
		}
		if y := best[task.sub]; y < 0 || b.cheaper(x, y, from, to) < 0 {
			best[task.sub] = x
		}
	}
	for sub, x := range best {
		if x < 0 {
			continue
		}
		w := int64(2*t.per[sub]+1)*scale/int64(t.weight) - int64(2*f.per[sub]-1)*scale/int64(f.weight)
		if w < e.weight {
			e = edge{w, x}
		}
	}
	return e
}

func (b *board) equalWeights() bool {
	for m := range b.seats {
		if b.seats[m].weight != b.seats[0].weight {
			return false
		}
	}
	return true
}
