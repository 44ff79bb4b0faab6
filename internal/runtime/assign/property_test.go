package assign

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/processor"
)

const rounds = 500 // random groups per property

// shape makes a random topology and its topics.
func shape(r *rand.Rand) (map[string]int32, []SubtopologySpec) {
	topics := map[string]int32{}
	var catalog []SubtopologySpec
	for s := range 1 + r.IntN(4) {
		spec := SubtopologySpec{Name: fmt.Sprintf("sub%d", s), Hash: r.Uint64(), Stateful: r.IntN(3) > 0}
		n := int32(1 + r.IntN(24))
		for t := range 1 + r.IntN(3) {
			topic := fmt.Sprintf("t%d-%d", s, t)
			spec.Sources = append(spec.Sources, topic)
			topics[topic] = n
			if r.IntN(4) == 0 {
				topics[topic] = 1 + r.Int32N(n) // a narrower source: the last tasks do without it
			}
		}
		catalog = append(catalog, spec)
	}
	return topics, catalog
}

func member(name string, workers int, catalog []SubtopologySpec) Joined {
	return Joined{ID: name, Member: Member{Instance: name, Workers: workers, Guarantee: 1, Fingerprint: 1, Since: 1, Subtopologies: catalog}}
}

func taskCount(topics map[string]int32, catalog []SubtopologySpec) int {
	n := 0
	for _, s := range catalog {
		n += int(topics[widest(topics, s.Sources)])
	}
	return n
}

// fair compares loads by brute force: no task could move and leave both with less per worker than the giver had, in all and,
// among equal members, per subtopology.
func fair(g *simGroup) error {
	equal := true
	total, per := map[string]int{}, map[string]map[string]int{}
	subs := map[string]bool{}
	for _, a := range g.plan.Members {
		equal = equal && g.members[a.Member].Workers == g.members[g.plan.Members[0].Member].Workers
		per[a.Member] = map[string]int{}
		for _, t := range a.Tasks {
			total[a.Member]++
			per[a.Member][t.Subtopology]++
			subs[t.Subtopology] = true
		}
	}
	for a := range g.members {
		for b := range g.members {
			wa, wb := g.members[a].Workers, g.members[b].Workers
			if total[a]*wb > (total[b]+1)*wa {
				return fmt.Errorf("%s has %d tasks on %d workers, %s %d on %d", a, total[a], wa, b, total[b], wb)
			}
			for s := range subs {
				if equal && per[a][s] > per[b][s]+1 {
					return fmt.Errorf("%s has %d tasks of %s, %s only %d", a, per[a][s], s, b, per[b][s])
				}
			}
		}
	}
	return nil
}

func moved(before, after map[processor.TaskID]string) (n int) {
	for t, m := range after {
		if was, ok := before[t]; ok && was != m {
			n++
		}
	}
	return n
}

// TestRandomGroups lets groups grow, shrink and restart at random. After every change the plan is complete, fair, reached in at
// most two rebalances, the same whatever order the members are listed in, and the next one changes nothing.
func TestRandomGroups(t *testing.T) {
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		topics, catalog := shape(r)
		g := newSimGroup(topics)
		weighted := r.IntN(3) == 0
		next := 0
		for step := range 8 {
			what := "join"
			switch ids := g.ids(); {
			case len(ids) > 0 && r.IntN(3) == 0:
				what = "leave"
				delete(g.members, ids[r.IntN(len(ids))])
			case len(ids) > 0 && r.IntN(5) == 0:
				what = "restart"
				m := g.members[ids[r.IntN(len(ids))]]
				g.join(m.Joined).Claims = nil
			default:
				w := 1
				if weighted {
					w += r.IntN(4)
				}
				g.join(member(fmt.Sprintf("m%02d", next), w, catalog))
				next++
			}
			if len(g.members) == 0 {
				continue
			}
			where := fmt.Sprintf("seed %d step %d (%s)", seed, step, what)

			in := g.input()
			shuffled := in
			shuffled.Members = slices.Clone(in.Members)
			r.Shuffle(len(shuffled.Members), func(i, j int) {
				shuffled.Members[i], shuffled.Members[j] = shuffled.Members[j], shuffled.Members[i]
			})
			if a, b := Assign(in), Assign(shuffled); !reflect.DeepEqual(a, b) {
				t.Fatalf("%s: the order of members matters:\n%v\n%v", where, a, b)
			}

			n, err := g.settle()
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			if n > 2 {
				t.Fatalf("%s: settled after %d rebalances", where, n)
			}
			if got, want := len(g.owners()), taskCount(topics, catalog); got != want {
				t.Fatalf("%s: %d tasks of %d have an owner", where, got, want)
			}
			if err := fair(g); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			before := g.owners()
			if n, err := g.settle(); n != 1 || err != nil || !maps.Equal(before, g.owners()) {
				t.Fatalf("%s: a rebalance without a cause moved %d tasks in %d rebalances (%v)", where, moved(before, g.owners()), n, err)
			}
		}
	}
}

// completable tries every way to give the tasks that kept leaves over to the members of g, equals, such that all loads are
// within one, in all and per subtopology.
func completable(g *simGroup, kept map[processor.TaskID]string, topics map[string]int32, catalog []SubtopologySpec) bool {
	ids := g.ids()
	total, least := make([]int, len(ids)), taskCount(topics, catalog)/len(ids)
	var try func(sub, left, from int, per []int) bool
	next := func(sub int) bool {
		if sub == len(catalog) {
			return !slices.ContainsFunc(total, func(n int) bool { return n < least || n > least+1 })
		}
		per, left := make([]int, len(ids)), int(topics[widest(topics, catalog[sub].Sources)])
		for t, m := range kept {
			if t.Subtopology == catalog[sub].Name {
				per[slices.Index(ids, m)]++
				left--
			}
		}
		return try(sub, left, 0, per)
	}
	try = func(sub, left, from int, per []int) bool {
		if left == 0 {
			return slices.Max(per)-slices.Min(per) <= 1 && next(sub+1)
		}
		for m := from; m < len(ids); m++ {
			if total[m] > least {
				continue
			}
			per[m]++
			total[m]++
			done := try(sub, left-1, m, per)
			per[m]--
			total[m]--
			if done {
				return true
			}
		}
		return false
	}
	for _, m := range kept {
		total[slices.Index(ids, m)]++
	}
	return next(0)
}

// TestLeaverAloneMoves holds the plan to the least possible when a member leaves equals: only its tasks change owner, unless
// there is no way to share them out that leaves every subtopology spread.
func TestLeaverAloneMoves(t *testing.T) {
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 2))
		topics, catalog := shape(r)
		g := newSimGroup(topics)
		for i := range 2 + r.IntN(6) {
			g.join(member(fmt.Sprintf("m%02d", i), 2, catalog))
			if _, err := g.settle(); err != nil {
				t.Fatal(err)
			}
		}
		before := g.owners()
		gone := g.ids()[r.IntN(len(g.members))]
		delete(g.members, gone)
		maps.DeleteFunc(before, func(_ processor.TaskID, m string) bool { return m == gone })
		if _, err := g.settle(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if m := moved(before, g.owners()); m != 0 && completable(g, before, topics, catalog) {
			t.Errorf("seed %d: %d tasks of survivors moved, and none had to", seed, m)
		}
	}
}

// TestJoinerTakesItsShare holds the plan to the least possible when an equal joins a group that has one subtopology: as many tasks
// move as the newcomer gets.
func TestJoinerTakesItsShare(t *testing.T) {
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 3))
		n := 1 + r.IntN(64)
		catalog := []SubtopologySpec{{Name: "s", Sources: []string{"t"}, Stateful: true}}
		g := newSimGroup(map[string]int32{"t": int32(n)})
		members := 1 + r.IntN(6)
		for i := range members {
			g.join(member(fmt.Sprintf("m%02d", i), 1, catalog))
		}
		if _, err := g.settle(); err != nil {
			t.Fatal(err)
		}
		before := g.owners()
		g.join(member("new", 1, catalog))
		if _, err := g.settle(); err != nil {
			t.Fatal(err)
		}
		if got, most := moved(before, g.owners()), n/(members+1); got > most {
			t.Errorf("seed %d: %d tasks, %d members and a new one: %d moved, %d would do", seed, n, members, got, most)
		}
	}
}
