package assign

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/processor"
)

// simGroup is a consumer group on paper: members that do what they are told, and a check at every rebalance that nobody is
// given what another may still be reading.
type simGroup struct {
	topics     map[string]int32
	generation int32
	members    map[string]*simMember
	plan       Plan
}

type simMember struct {
	Joined
	disk map[processor.TaskID]int64 // local copies
	deaf bool                       // does not take part: a zombie that will come back with its old claims
}

func newSimGroup(topics map[string]int32) *simGroup {
	return &simGroup{topics: topics, members: map[string]*simMember{}}
}

func (g *simGroup) join(m Joined) *simMember {
	s := &simMember{Joined: m, disk: map[processor.TaskID]int64{}}
	s.Generation = -1
	if old := g.members[m.ID]; old != nil { // the same member under another version: its disk stays
		s.disk = old.disk
	}
	g.members[m.ID] = s
	return s
}

func (g *simGroup) ids() []string { return slices.Sorted(maps.Keys(g.members)) }

// input is what the members say now.
func (g *simGroup) input() Input {
	in := Input{Generation: g.generation + 1, Topics: g.topics}
	for _, id := range g.ids() {
		m := g.members[id]
		if m.deaf {
			continue
		}
		m.Positions = nil
		owned := TasksOf(m.Subtopologies, m.owned())
		for t, p := range m.disk {
			if !slices.Contains(owned, t) {
				m.Positions = append(m.Positions, Position{t, p})
			}
		}
		in.Members = append(in.Members, m.Joined)
	}
	return in
}

func (m *simMember) owned() map[string][]int32 {
	o := map[string][]int32{}
	for _, p := range m.Claims {
		o[p.Topic] = append(o[p.Topic], p.Partition)
	}
	return o
}

// rebalance makes a plan, checks it and carries it out.
func (g *simGroup) rebalance() (Plan, error) {
	in := g.input()
	p := Assign(in)
	if err := naive(in, p); err != nil {
		return p, err
	}
	g.generation = in.Generation
	for _, a := range p.Members {
		m := g.members[a.Member]
		m.Generation = g.generation
		m.Claims = a.Partitions
		m.Known, m.Promised = p.Versions, nil
		for _, w := range p.Withheld {
			if w.To == a.Member {
				m.Promised = append(m.Promised, w.Task)
			}
		}
		for _, t := range a.Tasks {
			m.disk[t] = max(m.disk[t], int64(g.generation)) // it has run it in this generation
		}
	}
	g.plan = p
	return p, nil
}

// settle rebalances until nothing is withheld and returns how many rebalances that took.
func (g *simGroup) settle() (int, error) {
	for n := 1; ; n++ {
		p, err := g.rebalance()
		if err != nil || len(p.Withheld) == 0 {
			return n, err
		}
		if n == 10 {
			return n, fmt.Errorf("still withheld after %d rebalances: %v", n, p.Withheld)
		}
	}
}

// owners maps tasks to members, from the last plan.
func (g *simGroup) owners() map[processor.TaskID]string {
	o := map[processor.TaskID]string{}
	for _, a := range g.plan.Members {
		for _, t := range a.Tasks {
			o[t] = a.Member
		}
	}
	return o
}

// naive checks what must hold of every plan, by going through it partition by partition.
func naive(in Input, p Plan) error {
	var errs []string
	fail := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	reads := map[Partition][]string{}
	for _, m := range in.Members {
		for _, c := range m.Claims {
			reads[c] = append(reads[c], m.ID)
		}
	}
	given := map[Partition]string{}
	if len(p.Members) != len(in.Members) {
		fail("%d members planned for, %d there", len(p.Members), len(in.Members))
	}
	for _, a := range p.Members {
		i := slices.IndexFunc(in.Members, func(m Joined) bool { return m.ID == a.Member })
		if i < 0 {
			fail("%s is nobody", a.Member)
			continue
		}
		m := in.Members[i]
		for _, tp := range a.Partitions {
			if other, twice := given[tp]; twice {
				fail("%s goes to %s and %s", tp, other, a.Member)
			}
			given[tp] = a.Member
			if tp.Partition >= in.Topics[tp.Topic] && !slices.Contains(m.Claims, tp) {
				fail("%s does not exist", tp)
			}
			if !slices.Contains(m.Claims, tp) && len(reads[tp]) > 0 {
				fail("%s goes to %s while %v may be reading it", tp, a.Member, reads[tp])
			}
		}
		// Every input of a task, or none.
		seen := map[string]bool{}
		for _, s := range m.Subtopologies {
			if m.Err != nil || slices.ContainsFunc(s.Sources, func(t string) bool { return seen[t] }) {
				continue // it cannot say, or contradicts itself
			}
			for _, topic := range s.Sources {
				seen[topic] = true
			}
			for n := range in.Topics[widest(in.Topics, s.Sources)] {
				var has, all int
				for _, topic := range s.Sources {
					if n < in.Topics[topic] {
						all++
						if given[Partition{topic, n}] == a.Member {
							has++
						}
					}
				}
				named := slices.Contains(a.Tasks, processor.TaskID{Subtopology: s.Name, Partition: n})
				if has != 0 && has != all && p.Refused == nil || named != (has > 0) {
					fail("%s has %d of %d inputs of %s/%d, named %v", a.Member, has, all, s.Name, n, named)
				}
			}
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%s", strings.Join(errs, "\n"))
	}
	return nil
}

func widest(topics map[string]int32, of []string) string {
	return slices.MaxFunc(of, func(a, b string) int { return int(topics[a] - topics[b]) })
}
