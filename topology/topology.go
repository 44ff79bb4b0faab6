package topology

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
)

// Topology is a finished graph: immutable, safe for concurrent use, run by any number of applications.
type Topology struct {
	subs        []*Subtopology
	fingerprint [16]byte
}

func assemble(nodes []*node) *Topology {
	t := &Topology{subs: split(nodes)}
	spread(t.subs)
	sum := sha256.Sum256([]byte(t.canonical()))
	copy(t.fingerprint[:], sum[:])
	return t
}

// Subtopologies are the connected parts, cut at Through topics, sorted by name. The slice is read-only.
func (t *Topology) Subtopologies() []*Subtopology { return t.subs }

// Fingerprint identifies everything that matters to the other members of a group: names, topics, stores, codecs, kinds
// and edges; not code, not policies. Equal topologies have equal fingerprints in every process.
func (t *Topology) Fingerprint() [16]byte { return t.fingerprint }

// canonical writes what Fingerprint is the hash of. A change of this text is a change of every fingerprint.
func (t *Topology) canonical() string {
	var b strings.Builder
	b.WriteString("millrace topology 1\n")
	for _, s := range t.subs {
		fmt.Fprintf(&b, "subtopology %q\n", s.Name)
		if s.Watermarks { // its repartition topics have records that others would not understand
			b.WriteString("watermarks\n")
		}
		for _, st := range s.Stores {
			fmt.Fprintf(&b, "store %q %d %q %q\n", st.Name(), st.Kind(), st.KeyID(), st.ValueID())
		}
		for i, n := range s.Nodes {
			fmt.Fprintf(&b, "node %q %q %v %q\n", n.Name, n.Kind, n.Children, n.Stores)
			if u := s.nodes[i].topic; u != nil {
				fmt.Fprintf(&b, "topic %q %t %d %q %q %t\n", u.ref.Name, u.ref.Through, u.ref.Partitions, u.keyID, u.valueID, u.extractor != 0)
				if to := s.nodes[i].broadcast; to != "" {
					fmt.Fprintf(&b, "broadcast %q\n", to)
				}
			}
		}
	}
	return b.String()
}

// CheckApp says what is wrong with running the topology under an application id: a name that becomes too long for
// Kafka, or a topic of the user's that is one of the application's own. It returns every mistake at once.
func (t *Topology) CheckApp(app string) error {
	var wrong mistakes
	own := map[string]string{app + tasksSuffix: "the application's task topic"}
	for _, s := range t.subs {
		for _, st := range s.Stores {
			if st.Kind() == store.KindGlobal {
				own[app+"-"+st.Name()+globalSuffix] = "the topic of global store " + quote(st.Name())
			}
			own[app+"-"+st.Name()+changelogSuffix] = "the changelog of store " + quote(st.Name())
		}
		for _, src := range s.Sources {
			if src.Topic.Through {
				own[src.Topic.Resolve(app)] = "the application's " + src.Topic.String()
			}
		}
	}
	for _, name := range sortedKeys(own) {
		if reason := illegalTopicName(name); reason != "" {
			wrong.add(place{}, &fault.Error{Code: "topic/illegal-name", Thing: own[name], Value: clip(name), Reason: reason,
				Remedy: "use a shorter application id of letters, digits, '.', '_' and '-'"})
		}
	}
	for _, s := range t.subs {
		for i, n := range s.Nodes {
			node := s.nodes[i]
			if u := node.topic; u != nil && !u.ref.Through && own[u.ref.Name] != "" {
				wrong.add(node.at, &fault.Error{Code: "topic/internal", Thing: "topic", Value: u.ref.Name, Reason: "is " + own[u.ref.Name],
					Remedy: "use another topic or another application id"})
			}
			if n.Policy.Action == processor.ActDeadLetter && own[n.Policy.Topic] != "" {
				wrong.add(node.at, &fault.Error{Code: "topic/internal", Thing: "dead-letter topic", Value: n.Policy.Topic, Reason: "is " + own[n.Policy.Topic],
					Remedy: "use another topic for dead letters"})
			}
		}
	}
	return wrong.join()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// split cuts the nodes into subtopologies: nodes are together when one is the other's parent or when they share a store.
func split(nodes []*node) []*Subtopology {
	root := make([]int, len(nodes))
	for i := range root {
		root[i] = i
	}
	find := func(i int) int {
		for root[i] != i {
			root[i] = root[root[i]]
			i = root[i]
		}
		return i
	}
	join := func(a, b int) {
		a, b = find(a), find(b)
		root[max(a, b)] = min(a, b)
	}
	byStore := map[string]int{}
	for _, n := range nodes {
		for _, p := range n.parents {
			join(n.id, p)
		}
		for _, s := range n.stores {
			if first, ok := byStore[s.Name()]; ok {
				join(n.id, first)
			} else {
				byStore[s.Name()] = n.id
			}
		}
	}
	parts := map[int]*Subtopology{}
	var subs []*Subtopology
	for _, n := range nodes {
		s := parts[find(n.id)]
		if s == nil {
			s = &Subtopology{}
			parts[find(n.id)] = s
			subs = append(subs, s)
		}
		s.nodes = append(s.nodes, n)
	}
	for _, s := range subs {
		s.fill()
	}
	sort.SliceStable(subs, func(i, j int) bool { return subs[i].Name < subs[j].Name })
	return subs
}

// fill makes the public face of a subtopology out of its nodes.
func (s *Subtopology) fill() {
	local := map[int]int{}
	for i, n := range s.nodes {
		local[n.id] = i
		info := NodeInfo{Name: n.name, Kind: n.kind, Policy: n.policy}
		for _, st := range n.stores {
			if slices.Contains(info.Stores, st.Name()) {
				continue
			}
			info.Stores = append(info.Stores, st.Name())
			if !slices.ContainsFunc(s.Stores, func(o store.Spec) bool { return o.Name() == st.Name() }) {
				s.Stores = append(s.Stores, st)
			}
		}
		s.Nodes = append(s.Nodes, info)
		s.source, s.sink = append(s.source, -1), append(s.sink, -1)
		switch n.kind {
		case kindSource:
			s.source[i] = len(s.Sources)
			s.Sources = append(s.Sources, Source{Topic: n.topic.ref, Node: i, Extractor: n.topic.extractor != 0, Watermark: n.topic.clock.lower(), Broadcast: n.broadcast})
			if n.broadcast != "" {
				s.Sources[len(s.Sources)-1].Watermark = nil // it has no part in the clock
			}
		case kindSink:
			s.sink[i] = len(s.Sinks)
			s.Sinks = append(s.Sinks, Sink{Topic: n.topic.ref, Node: i})
		}
		for _, p := range n.parents {
			from := &s.Nodes[local[p]]
			from.Children = append(from.Children, i)
		}
	}
	sort.Slice(s.Stores, func(i, j int) bool { return s.Stores[i].Name() < s.Stores[j].Name() })
	switch {
	case len(s.Stores) > 0:
		s.Name = s.Stores[0].Name()
	case len(s.Sources) > 0:
		s.Name = s.Sources[0].Topic.Name
		for _, src := range s.Sources {
			s.Name = min(s.Name, src.Topic.Name)
		}
	}
}

func (s *Subtopology) namedBy() string {
	if len(s.Stores) > 0 {
		return "store"
	}
	return "source topic"
}
