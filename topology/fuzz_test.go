package topology_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// grow makes a topology of a script of bytes. Names are drawn from so few that most collide.
func grow(script []byte) *topology.Builder {
	b := topology.NewBuilder()
	made := nodes()
	next := func() int {
		if len(script) == 0 {
			return 0
		}
		c := script[0]
		script = script[1:]
		return int(c)
	}
	name := func() string { return []string{"a", "b", "c", "d", "", "x/y"}[next()%6] }
	pick := func() numberNode { return made[next()%len(made)] }
	for len(script) > 0 {
		op := next() % 7
		if len(made) == 0 {
			op = 0
		}
		switch op {
		case 0:
			made = append(made, topology.AddSource(b, "", literal(name())))
		case 1:
			made = append(made, topology.AddProcessor(name(), apply(forward), nil, pick()))
		case 2:
			made = append(made, topology.AddProcessor("", apply(forward), []store.Spec{kv(name())}, pick(), pick()))
		case 3:
			topology.AddSink("", literal(name()), pick())
		case 4:
			made = append(made, topology.AddThrough(through(name()).Partitions(int32(next()%4)), pick()))
		case 5:
			made = append(made, topology.AddThrough(through(name()), pick()))
		case 6:
			pick().OnError(processor.DeadLetter(name()))
		}
	}
	return b
}

// FuzzBuild: whatever is built is refused with complete mistakes, or is sound.
func FuzzBuild(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 1, 1, 0, 3, 2, 1})
	f.Add([]byte{0, 0, 5, 1, 0, 2, 2, 1, 1, 3, 3, 2})
	f.Add([]byte{0, 0, 0, 1, 2, 0, 0, 1, 4, 1, 2, 2, 2, 2, 3, 0, 3, 3, 3})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			return
		}
		top, err := grow(script).Build()
		if err != nil {
			checkShape(t, err)
			return
		}
		again, err := grow(script).Build()
		if err != nil || again.Fingerprint() != top.Fingerprint() || again.String() != top.String() {
			t.Errorf("built twice: %v\n%s\n%s", err, top, again)
		}
		if err := top.DryRun(); err != nil {
			t.Error(err)
		}
		var names, nodeNames []string
		readers := map[topology.TopicRef]int{}
		for _, s := range top.Subtopologies() {
			names = append(names, s.Name)
			checkSub(t, s)
			for _, n := range s.Nodes {
				nodeNames = append(nodeNames, n.Name)
			}
			for _, src := range s.Sources {
				readers[src.Topic]++
			}
			if _, err := s.Wire(anyStore(t, s)); err != nil {
				t.Error(err)
			}
		}
		if !slices.IsSorted(names) {
			t.Errorf("names are not sorted: %q", names)
		}
		for what, list := range map[string][]string{"subtopology": names, "node": nodeNames} {
			slices.Sort(list)
			if n := len(list); len(slices.Compact(list)) != n {
				t.Errorf("a %s name is there twice: %q", what, list)
			}
		}
		for ref, n := range readers {
			if n != 1 {
				t.Errorf("%d sources of %s", n, ref)
			}
		}
		// Topics of one width never conflict with each other, only with what was asked for.
		widths, tasks, err := top.PartitionCounts(func(string) (int32, bool) { return 3, true })
		if err == nil {
			checkWidths(t, top, widths, tasks)
		}
	})
}

func checkSub(t *testing.T, s *topology.Subtopology) {
	t.Helper()
	fed := make([]bool, len(s.Nodes))
	for _, src := range s.Sources {
		fed[src.Node] = true
	}
	for i, n := range s.Nodes {
		if !fed[i] {
			t.Errorf("node %s of %s gets no records", n.Name, s.Name)
		}
		for _, c := range n.Children {
			if c <= i {
				t.Errorf("child %d of node %d", c, i)
			}
			fed[c] = true
		}
	}
}

func checkWidths(t *testing.T, top *topology.Topology, widths map[topology.TopicRef]int32, tasks map[string]int32) {
	t.Helper()
	for _, s := range top.Subtopologies() {
		var widest int32
		for _, src := range s.Sources {
			n := int32(3)
			if src.Topic.Through {
				n = widths[src.Topic]
			}
			if n <= 0 || src.Topic.Partitions > 0 && n != src.Topic.Partitions {
				t.Errorf("%s has %d partitions", src.Topic, n)
			}
			widest = max(widest, n)
		}
		if tasks[s.Name] != widest {
			t.Errorf("%s has %d tasks, and its widest source has %d partitions", s.Name, tasks[s.Name], widest)
		}
	}
}

// anyStore is a host with every store of a subtopology.
func anyStore(t *testing.T, s *topology.Subtopology) *host {
	var bindings []store.Binding
	for i, spec := range s.Stores {
		bindings = append(bindings, store.Binding{Spec: spec, Prefix: uint16(i + 1)})
	}
	db, err := store.Open(store.NewMemory(), bindings, store.Options{})
	if err != nil {
		t.Fatal(fmt.Errorf("stores of %s: %w", s.Name, err))
	}
	h := newHost()
	h.rows = db.Rows
	return h
}
