package assign

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
)

// claim says that a member holds a partition, as of a generation.
type claim struct {
	member     int
	generation int32
}

// group is the input, sorted and with its questions answered.
type group struct {
	members  []Joined // by id, each id once
	topics   map[string]int32
	claims   map[Partition][]claim // highest generation first, then by member
	versions []Version
	winner   uint64
	catalog  []SubtopologySpec // of the winner, by name

	held  map[Partition]int // partitions that a member keeps whatever the plan says
	fixed []int             // by member: the tasks among them
	given []Assignment      // by member
}

func gather(in Input) *group {
	g := &group{topics: in.Topics, claims: map[Partition][]claim{}, held: map[Partition]int{}}
	g.members = slices.Clone(in.Members)
	slices.SortStableFunc(g.members, func(a, b Joined) int { return cmp.Compare(a.ID, b.ID) })
	g.members = slices.CompactFunc(g.members, func(a, b Joined) bool { return a.ID == b.ID })
	g.fixed = make([]int, len(g.members))
	g.given = make([]Assignment, len(g.members))
	for m := range g.members {
		g.given[m].Member = g.members[m].ID
		for _, p := range g.members[m].Claims {
			if len(g.claims[p]) == 0 || g.claims[p][len(g.claims[p])-1].member != m { // a partition named twice is one claim
				g.claims[p] = append(g.claims[p], claim{m, g.members[m].Generation})
			}
		}
	}
	for _, c := range g.claims {
		slices.SortFunc(c, func(a, b claim) int {
			return cmp.Or(cmp.Compare(b.generation, a.generation), cmp.Compare(a.member, b.member))
		})
	}
	g.versions, g.winner = g.newest()
	g.catalog = g.declared()
	return g
}

// newest returns the known versions, newest first, and the newest one that has a member. The age of a version is the
// earliest anybody knows of: a member of an old version that restarts does not make it new, as long as one member that
// heard of it lives.
func (g *group) newest() ([]Version, uint64) {
	var all []Version
	for _, m := range g.members {
		if m.Err == nil {
			all = append(all, Version{m.Fingerprint, m.Since})
			all = append(all, m.Known...)
		}
	}
	all = mergeVersions(all)
	for _, v := range all {
		for _, m := range g.members {
			if m.Err == nil && m.Fingerprint == v.Fingerprint {
				return all, v.Fingerprint
			}
		}
	}
	return all, 0
}

// mergeVersions keeps each fingerprint once, with its earliest time, newest first.
func mergeVersions(all []Version) []Version {
	slices.SortFunc(all, func(a, b Version) int {
		return cmp.Or(cmp.Compare(a.Fingerprint, b.Fingerprint), cmp.Compare(a.Since, b.Since))
	})
	all = slices.CompactFunc(all, func(a, b Version) bool { return a.Fingerprint == b.Fingerprint })
	slices.SortFunc(all, func(a, b Version) int {
		return cmp.Or(cmp.Compare(b.Since, a.Since), cmp.Compare(b.Fingerprint, a.Fingerprint))
	})
	return all
}

// declared is the winner's catalog. Members of one fingerprint declare the same; they may differ in how many tasks they
// have learned of, and the greatest number holds.
func (g *group) declared() []SubtopologySpec {
	var catalog []SubtopologySpec
	for _, m := range g.members {
		if m.Err != nil || m.Fingerprint != g.winner {
			continue
		}
		for _, s := range m.Subtopologies {
			s.Sources = slices.Sorted(slices.Values(s.Sources))
			s.Sources = slices.Compact(s.Sources)
			i, found := slices.BinarySearchFunc(catalog, s.Name, func(s SubtopologySpec, name string) int { return cmp.Compare(s.Name, name) })
			if !found {
				catalog = slices.Insert(catalog, i, s)
			} else if s.Tasks > catalog[i].Tasks {
				catalog[i].Tasks = s.Tasks
			}
		}
	}
	return catalog
}

// declares reports whether a member declares a subtopology identically.
func declares(m *Joined, s *SubtopologySpec) bool {
	return m.Err == nil && slices.ContainsFunc(m.Subtopologies, func(o SubtopologySpec) bool {
		return o.Name == s.Name && o.Hash == s.Hash && sameTopics(o.Sources, s.Sources)
	})
}

func sameTopics(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// inputs are the partitions a task reads: the one with its number of every source that is wide enough.
func (g *group) inputs(s *SubtopologySpec, number int32) []Partition {
	in := make([]Partition, 0, len(s.Sources))
	for _, topic := range s.Sources {
		if number < g.topics[topic] {
			in = append(in, Partition{topic, number})
		}
	}
	return in
}

// claims a member makes that nobody outbids: a member that was away may still claim what others have been given since.
func (g *group) honoured(m int, p Partition) bool {
	c := g.claims[p]
	return len(c) > 0 && g.members[m].Generation == c[0].generation &&
		slices.ContainsFunc(c, func(c claim) bool { return c.member == m })
}

// hold leaves a partition with a member, unless somebody has it already.
func (g *group) hold(m int, p Partition) bool {
	if _, taken := g.held[p]; taken {
		return false
	}
	g.held[p] = m
	g.given[m].Partitions = append(g.given[m].Partitions, p)
	return true
}

// keepEverything leaves every member with what it rightly claims.
func (g *group) keepEverything() {
	for m := range g.members {
		for _, p := range g.members[m].Claims {
			if g.honoured(m, p) && g.hold(m, p) {
				g.name(m, p)
			}
		}
	}
}

// keepForeign leaves members with what the newest topology does not give away: tasks it declares differently or not
// at all, and everything of members that could not be understood.
func (g *group) keepForeign() {
	for m := range g.members {
		j := &g.members[m]
		if j.Err != nil {
			for _, p := range j.Claims {
				if g.honoured(m, p) && g.hold(m, p) {
					g.fixed[m]++
				}
			}
			continue
		}
		for _, s := range j.Subtopologies {
			i := slices.IndexFunc(g.catalog, func(c SubtopologySpec) bool {
				return c.Name == s.Name && c.Hash == s.Hash && sameTopics(c.Sources, s.Sources)
			})
			if i < 0 {
				g.keepTasks(m, &s)
			}
		}
	}
}

// keepTasks leaves a member with the tasks of s of which it holds every input. What it claims tells which those are: the brokers
// may not know a topic at the moment.
func (g *group) keepTasks(m int, s *SubtopologySpec) {
	var numbers []int32
	for _, p := range g.members[m].Claims {
		if slices.Contains(s.Sources, p.Topic) {
			numbers = append(numbers, p.Partition)
		}
	}
	slices.Sort(numbers)
	for _, number := range slices.Compact(numbers) {
		in := g.inputs(s, number)
		for _, topic := range s.Sources {
			if p := (Partition{topic, number}); g.claimed(m, p) && !slices.Contains(in, p) {
				in = append(in, p)
			}
		}
		if slices.ContainsFunc(in, func(p Partition) bool { _, taken := g.held[p]; return taken || !g.honoured(m, p) }) {
			continue
		}
		for _, p := range in {
			g.hold(m, p)
		}
		g.given[m].Tasks = append(g.given[m].Tasks, processor.TaskID{Subtopology: s.Name, Partition: number})
		g.fixed[m]++
	}
}

// name adds the task of a partition, as the member itself declares it.
func (g *group) name(m int, p Partition) {
	for _, s := range g.members[m].Subtopologies {
		if slices.Contains(s.Sources, p.Topic) {
			g.given[m].Tasks = append(g.given[m].Tasks, processor.TaskID{Subtopology: s.Name, Partition: p.Partition})
			return
		}
	}
}

// width is the number of tasks. What members say is bounded by what the brokers say.
func (g *group) width(s *SubtopologySpec) int32 {
	var widest int32
	for _, topic := range s.Sources {
		widest = max(widest, g.topics[topic])
	}
	if s.Tasks > 0 {
		return min(s.Tasks, widest)
	}
	return widest
}

// board lays out the tasks of the newest topology that can be given, and returns those that cannot.
func (g *group) board() (*board, []Unassigned) {
	b := newBoard(len(g.members), len(g.catalog))
	for m := range g.members {
		b.seats[m].weight = min(max(g.members[m].Workers, 1), maxWorkers)
		b.seats[m].capacity = g.members[m].Capacity
	}
	index := map[processor.TaskID]int{}
	readers := map[string]string{}
	var none []Unassigned
	for s := range g.catalog {
		spec := &g.catalog[s]
		for m := range g.members {
			b.eligible[s][m] = declares(&g.members[m], spec)
		}
		reason := g.broken(spec, readers)
		if reason != "" {
			for m := range g.members { // whoever runs a task of it goes on
				if b.eligible[s][m] {
					g.keepTasks(m, spec)
				}
			}
			none = append(none, Unassigned{processor.TaskID{Subtopology: spec.Name, Partition: -1}, reason})
			continue
		}
		for number := range g.width(spec) {
			id := processor.TaskID{Subtopology: spec.Name, Partition: number}
			in := g.inputs(spec, number)
			if h, held := g.holder(in); held {
				none = append(none, Unassigned{id, "held by member " + g.members[h].ID + ", which declares it differently"})
				continue
			}
			owner := g.owner(b, s, in)
			index[id] = b.add(slot{id: id, sub: s, stateful: spec.Stateful, inputs: in, home: owner})
		}
	}
	promised := map[int]int{}
	for m := range g.members {
		b.seats[m].total = g.fixed[m]
		for _, p := range g.members[m].Positions {
			if t, ok := index[p.Task]; ok && p.Offset > 0 && b.tasks[t].stateful && b.eligible[b.tasks[t].sub][m] {
				b.seats[m].position[t] = p.Offset
			}
		}
		for _, id := range g.members[m].Promised {
			t, ok := index[id]
			if !ok || !b.eligible[b.tasks[t].sub][m] {
				continue
			}
			if o, taken := promised[t]; !taken || g.members[m].Generation > g.members[o].Generation {
				promised[t] = m
			}
		}
	}
	for t := range b.tasks {
		if m, ok := promised[t]; ok && b.tasks[t].home < 0 {
			b.tasks[t].home = m
		}
	}
	return b, none
}

// broken says why no task of a subtopology can be given to anybody, or "".
func (g *group) broken(s *SubtopologySpec, readers map[string]string) string {
	for _, topic := range s.Sources {
		if other, taken := readers[topic]; taken {
			return "topic " + topic + " is read by subtopology " + other + " too"
		}
	}
	for _, topic := range s.Sources {
		readers[topic] = s.Name
		if g.topics[topic] <= 0 {
			return "topic " + topic + " is not known to the brokers"
		}
	}
	return ""
}

// owner is the member that runs a task now, and may: of those that claim a part of it, the newest, then the most complete claim
// counts. -1 if there is none.
func (g *group) owner(b *board, sub int, in []Partition) int {
	best, parts, generation := -1, 0, int32(0)
	for m := range b.eligible[sub] {
		if !b.eligible[sub][m] {
			continue
		}
		n := 0
		for _, p := range in {
			if g.honoured(m, p) {
				n++
			}
		}
		gen := g.members[m].Generation
		if n > 0 && (best < 0 || gen > generation || gen == generation && n > parts) {
			best, parts, generation = m, n, gen
		}
	}
	return best
}

func (g *group) holder(in []Partition) (int, bool) {
	for _, p := range in {
		if m, held := g.held[p]; held {
			return m, true
		}
	}
	return -1, false
}

// hand gives the tasks on the board to their members, except those that somebody else may still be running.
func (g *group) hand(b *board) []Withheld {
	var withheld []Withheld
	for t := range b.tasks {
		task := &b.tasks[t]
		if task.at < 0 {
			continue
		}
		whole := !slices.ContainsFunc(task.inputs, func(p Partition) bool { return !g.honoured(task.at, p) })
		var from []string
		if !whole {
			for m := range g.members {
				if m != task.at && slices.ContainsFunc(task.inputs, func(p Partition) bool { return g.claimed(m, p) }) {
					from = append(from, g.members[m].ID)
				}
			}
		}
		if len(from) > 0 {
			withheld = append(withheld, Withheld{Task: task.id, From: from, To: g.members[task.at].ID})
			continue
		}
		a := &g.given[task.at]
		a.Tasks = append(a.Tasks, task.id)
		a.Partitions = append(a.Partitions, task.inputs...)
	}
	return withheld
}

// claimed reports whether a member claims a partition, rightly or not: it may be reading it either way.
func (g *group) claimed(m int, p Partition) bool {
	return slices.ContainsFunc(g.claims[p], func(c claim) bool { return c.member == m })
}

// mixedGuarantees refuses a group whose members promise different things: offsets committed by one would not mean to the
// next owner what they meant to it.
func (g *group) mixedGuarantees() *fault.Error {
	by := map[uint8][]string{}
	for _, m := range g.members {
		if m.Err == nil {
			by[m.Guarantee] = append(by[m.Guarantee], m.Instance)
		}
	}
	if len(by) < 2 {
		return nil
	}
	var kinds []uint8
	for k := range by {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	var parts []string
	for _, k := range kinds {
		slices.Sort(by[k])
		names := by[k]
		if len(names) > 3 {
			names = append(slices.Clone(names[:3]), fmt.Sprintf("%d more", len(names)-3))
		}
		parts = append(parts, fmt.Sprintf("%s: %s", guaranteeName(k), strings.Join(names, ", ")))
	}
	return &fault.Error{
		Code:   "group/mixed-guarantees",
		Kind:   fault.Config,
		Thing:  "instances",
		Value:  strings.Join(parts, "; "),
		Reason: "the members of the group promise different guarantees, and a commit of one would not mean to another what it meant to it",
		Remedy: "stop every instance, then start them all with the same guarantee",
	}
}

func guaranteeName(g uint8) string {
	switch g {
	case 1:
		return "exactly-once"
	case 2:
		return "at-least-once"
	}
	return fmt.Sprintf("guarantee %d", g)
}

// instances is who lives, by name.
func (g *group) instances() []Instance {
	var all []Instance
	for _, m := range g.members {
		if m.Err == nil {
			all = append(all, Instance{Name: m.Instance, Address: m.Address, Workers: m.Workers})
		}
	}
	slices.SortStableFunc(all, func(a, b Instance) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
