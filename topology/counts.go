package topology

import (
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/internal/fault"
)

// PartitionCounts derives from the partition counts of the user's topics those of the Through topics (by the TopicRef of
// their Source) and the number of tasks of each subtopology, by name. counts is asked for topics by their literal name.
//
// A Through topic has as many partitions as were asked for; else as many as the topics it must be co-partitioned with;
// else as many as the widest topic upstream of it, over Through topics too. A subtopology has as many tasks as its widest
// source has partitions. Sources that lead to one store must be equally wide; where they are not, and for topics that
// counts does not know, an error is returned, all of them joined.
func (t *Topology) PartitionCounts(counts func(topic string) (int32, bool)) (through map[TopicRef]int32, tasks map[string]int32, err error) {
	r := newReckoning(t, counts)
	through, tasks = map[TopicRef]int32{}, map[string]int32{}
	for _, s := range t.subs {
		for i, src := range s.Sources {
			if src.Broadcast != "" {
				r.broadcastWidth(src)
				if src.Topic.Global {
					through[src.Topic] = 1
				}
				continue
			}
			n := r.width(input{s, i})
			if src.Topic.Through {
				through[src.Topic] = n
			}
			tasks[s.Name] = max(tasks[s.Name], n)
		}
	}
	for _, s := range t.subs {
		for _, g := range s.groups() {
			r.compare(s, g)
		}
	}
	if err := errors.Join(r.errs...); err != nil {
		return nil, nil, err
	}
	return through, tasks, nil
}

// group is the sources whose records meet by key: in a store, or in a node with two inputs.
type group struct {
	meet    string
	sources []int // indexes into Subtopology.Sources, ascending
}

// groups lists, by store and by node with two inputs, the sources that lead to it.
func (s *Subtopology) groups() []group {
	var gs []group
	above := s.sourcesAbove()
	for _, st := range s.Stores {
		g := group{meet: "store " + quote(st.Name())}
		for i := range s.Nodes {
			if slices.Contains(s.Nodes[i].Stores, st.Name()) {
				g.sources = append(g.sources, above[i]...)
			}
		}
		slices.Sort(g.sources)
		g.sources = slices.Compact(g.sources)
		gs = append(gs, g)
	}
	for i := range s.Nodes {
		if s.Nodes[i].Kind == kindProcess2 {
			gs = append(gs, group{meet: "node " + quote(s.Nodes[i].Name), sources: above[i]})
		}
	}
	return gs
}

// sourcesAbove lists, by node, the sources whose records come to it.
func (s *Subtopology) sourcesAbove() [][]int {
	above := make([][]int, len(s.Nodes))
	for i := range s.Nodes { // parents come first
		if k := s.source[i]; k >= 0 && s.Sources[k].Broadcast == "" {
			above[i] = append(above[i], k)
		}
		slices.Sort(above[i])
		above[i] = slices.Compact(above[i])
		for _, c := range s.Nodes[i].Children {
			above[c] = append(above[c], above[i]...)
		}
	}
	return above
}

// input is one source of one subtopology.
type input struct {
	sub    *Subtopology
	source int
}

func (in input) ref() TopicRef { return in.sub.Sources[in.source].Topic }

// reckoning is one run of PartitionCounts.
type reckoning struct {
	counts   func(string) (int32, bool)
	upstream map[string][]input // by Through name: the sources that feed it
	partners map[input][]input  // sources that must be as wide, itself included
	done     map[input]int32
	busy     map[input]bool
	missing  map[string]bool
	errs     []error
}

func newReckoning(t *Topology, counts func(string) (int32, bool)) *reckoning {
	r := &reckoning{counts: counts, upstream: map[string][]input{}, partners: map[input][]input{}, done: map[input]int32{},
		busy: map[input]bool{}, missing: map[string]bool{}}
	for _, s := range t.subs {
		above := s.sourcesAbove()
		for _, sink := range s.Sinks {
			if !sink.Topic.Through || sink.Topic.Global {
				continue
			}
			for _, k := range above[sink.Node] {
				r.upstream[sink.Topic.Name] = append(r.upstream[sink.Topic.Name], input{s, k})
			}
		}
		for _, set := range s.copartitioned() {
			for _, i := range set {
				for _, k := range set {
					r.partners[input{s, i}] = append(r.partners[input{s, i}], input{s, k})
				}
			}
		}
	}
	return r
}

// copartitioned merges groups that share a source.
func (s *Subtopology) copartitioned() [][]int {
	var sets [][]int
	for _, g := range s.groups() {
		merged := slices.Clone(g.sources)
		var rest [][]int
		for _, set := range sets {
			if slices.ContainsFunc(set, func(i int) bool { return slices.Contains(merged, i) }) {
				merged = append(merged, set...)
			} else {
				rest = append(rest, set)
			}
		}
		slices.Sort(merged)
		sets = append(rest, slices.Compact(merged))
	}
	return sets
}

// fixed is the width of a source that does not depend on others: a literal topic's or one that was asked for.
func (r *reckoning) fixed(in input) (int32, bool) { return r.fixedTopic(in.ref()) }

func (r *reckoning) fixedTopic(ref TopicRef) (int32, bool) {
	if ref.Through {
		return ref.Partitions, ref.Partitions > 0
	}
	n, ok := r.counts(ref.Name)
	if !ok || n <= 0 {
		if !r.missing[ref.Name] {
			r.missing[ref.Name] = true
			r.errs = append(r.errs, &fault.Error{Code: "topic/missing", Kind: fault.Cluster, Thing: "topic", Value: ref.Name,
				Reason: "does not exist", Remedy: "create it: topics that the application does not own are not created by it"})
		}
		return 0, true
	}
	return n, true
}

// width is the partition count of a source.
func (r *reckoning) width(in input) int32 {
	if n, ok := r.fixed(in); ok {
		return n
	}
	if n, ok := r.done[in]; ok {
		return n
	}
	for _, p := range r.partners[in] {
		if n, ok := r.fixed(p); ok && n > 0 {
			r.done[in] = n
			return n
		}
	}
	// All partners are Through topics too, and get the width of the widest among what feeds them. A partner may be
	// upstream of another: it adds nothing to its own width.
	partners := r.partners[in]
	if len(partners) == 0 {
		partners = []input{in}
	}
	for _, p := range partners {
		r.busy[p] = true
	}
	var n int32
	for _, p := range partners {
		for _, up := range r.upstream[p.ref().Name] {
			if !r.busy[up] {
				n = max(n, r.width(up))
			}
		}
	}
	for _, p := range partners {
		r.busy[p] = false
		r.done[p] = n
	}
	return n
}

// compare refuses a group of sources that are not equally wide.
func (r *reckoning) compare(s *Subtopology, g group) {
	for _, i := range g.sources {
		a, b := input{s, g.sources[0]}, input{s, i}
		if n, m := r.width(a), r.width(b); n != m && n > 0 && m > 0 {
			r.errs = append(r.errs, &fault.Error{Code: "topology/not-copartitioned", Kind: fault.Cluster, Thing: "topic", Value: b.ref().Name,
				Reason: fmt.Sprintf("has %d partitions and %s has %d, and both lead to %s: equal keys would be in different tasks", m, a.ref(), n, g.meet),
				Remedy: "give both topics the same number of partitions, or send one through a repartition topic"})
		}
	}
}
