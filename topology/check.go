package topology

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// check is one Build: a copy of the builder's nodes, and what is wrong with them.
type check struct {
	nodes []*node
	wrong mistakes
}

func newCheck(b *Builder) *check {
	c := &check{}
	c.wrong.list = slices.Clone(b.mistakes)
	for _, n := range b.nodes {
		copied := *n
		copied.parents = slices.Clone(n.parents)
		copied.stores = slices.Clone(n.stores)
		c.nodes = append(c.nodes, &copied)
	}
	return c
}

func (c *check) all() {
	if !slices.ContainsFunc(c.nodes, func(n *node) bool { return n.kind == kindSource }) {
		c.wrong.add(place{}, &fault.Error{Code: "topology/empty", Thing: "topology", Reason: "it reads no topic",
			Remedy: "begin with stream.From or topology.AddSource"})
		return
	}
	c.nodeNames()
	c.topics()
	c.stores()
	c.timers()
	c.policies()
	c.cycles()
	c.clocks()
	c.fed()
	if len(c.wrong.list) == 0 { // what follows needs a sound graph
		c.globals()
		c.subtopologyNames()
		c.partitions()
		c.mixedClocks()
	}
}

// nodeNames finds explicit names given twice and makes the automatic ones unique.
func (c *check) nodeNames() {
	taken := map[string]*node{}
	for _, n := range c.nodes {
		if n.name == "" {
			continue
		}
		if reason := illegalNodeName(n.name); reason != "" {
			c.wrong.add(n.nameAt, &fault.Error{Code: "topology/illegal-name", Thing: n.kind, Value: clip(n.name), Reason: reason,
				Remedy: "give it a short printable name"})
		}
		if first := taken[n.name]; first != nil {
			c.wrong.add(n.nameAt, &fault.Error{Code: "topology/duplicate-node", Thing: "node", Value: n.name,
				Reason: "the name is taken by the " + first.kind + " at " + first.nameAt.String(), Remedy: "give one of them another name"})
			continue
		}
		taken[n.name] = n
	}
	unique := func(base string) string {
		name := base
		for i := 2; taken[name] != nil; i++ {
			name = fmt.Sprintf("%s-%d", base, i)
		}
		return name
	}
	// Sources go first: the plain name of a topic belongs to the node that reads it.
	for _, sources := range []bool{true, false} {
		for _, n := range c.nodes {
			if n.name == "" && (n.kind == kindSource) == sources {
				n.name = unique(n.auto)
				taken[n.name] = n
			}
		}
	}
}

// topics looks at every name that Kafka will see, and at what is said about one topic in several places.
func (c *check) topics() {
	first := map[string]*node{}   // literal topics
	through := map[string]*node{} // sinks of Through topics
	for _, n := range c.nodes {
		switch {
		case n.topic == nil:
		case n.topic.ref.Through:
			if n.kind == kindSink && !n.topic.ref.Global {
				c.through(n, through)
			}
		default:
			c.literal(n, first)
		}
	}
	for _, n := range c.nodes {
		if n.topic == nil || n.topic.ref.Through {
			continue
		}
		if what := c.internal(n.topic.ref.Name); what != "" {
			c.wrong.add(n.at, &fault.Error{Code: "topic/internal", Thing: "topic", Value: n.topic.ref.Name,
				Reason: "looks like the " + what + " of this topology", Remedy: "internal topics are not for reading or writing: use another topic"})
		}
	}
}

func (c *check) literal(n *node, first map[string]*node) {
	name := n.topic.ref.Name
	if reason := illegalTopicName(name); reason != "" {
		c.wrong.add(n.at, &fault.Error{Code: "topic/illegal-name", Thing: "topic", Value: clip(name), Reason: reason,
			Remedy: "declare the topic with a name Kafka takes"})
		return
	}
	f := first[name]
	if f == nil {
		first[name] = n
		return
	}
	if !f.topic.sameTypes(n.topic) {
		c.wrong.add(n.at, &fault.Error{Code: "topic/type-conflict", Thing: "topic", Value: name,
			Reason: "is declared as " + n.topic.types() + " here and as " + f.topic.types() + " at " + f.at.String(),
			Remedy: "declare the topic once and use the same value in both places"})
	}
}

func (c *check) through(n *node, seen map[string]*node) {
	ref := n.topic.ref
	if reason := illegalInternalName(ref.Name, repartitionSuffix); reason != "" {
		c.wrong.add(n.at, &fault.Error{Code: "topic/illegal-name", Thing: "repartition", Value: clip(ref.Name), Reason: reason,
			Remedy: "give the Through topic another name"})
	}
	if ref.Partitions < 0 {
		c.wrong.add(n.at, &fault.Error{Code: "topic/illegal-partitions", Thing: "repartition", Value: ref.Name,
			Reason: "is asked to have less than one partition", Remedy: "give Partitions at least 1, or leave it out"})
	}
	if first := seen[ref.Name]; first != nil {
		c.wrong.add(n.at, &fault.Error{Code: "topic/duplicate-through", Thing: "repartition", Value: ref.Name,
			Reason: "is used at " + first.at.String() + " already", Remedy: "declare another Through topic, or merge the streams in front of it"})
		return
	}
	seen[ref.Name] = n
}

// internal says whether a literal topic has a name that this topology's own topics get under some application id.
func (c *check) internal(name string) string {
	for _, n := range c.nodes {
		if n.topic != nil && n.topic.ref.Through && !n.topic.ref.Global && strings.HasSuffix(name, "-"+n.topic.ref.Name+repartitionSuffix) {
			return "repartition topic of " + quote(n.topic.ref.Name)
		}
		for _, s := range n.stores {
			if s != nil && strings.HasSuffix(name, "-"+s.Name()+changelogSuffix) {
				return "changelog of store " + quote(s.Name())
			}
			if s != nil && s.Kind() == store.KindGlobal && strings.HasSuffix(name, "-"+s.Name()+globalSuffix) {
				return "topic of global store " + quote(s.Name())
			}
		}
	}
	return ""
}

// stores looks at the stores attached to nodes. A store is its name: the same declaration may be attached to several
// nodes, which puts them into one subtopology.
func (c *check) stores() {
	type known struct {
		at   place
		kind store.Kind
		ids  string
		own  *node
	}
	seen := map[string]*known{}
	for _, n := range c.nodes {
		for i, s := range n.stores {
			if nilPointer(s) {
				c.wrong.add(n.at, &fault.Error{Code: "store/missing", Thing: "node", Value: n.name, Reason: "one of its stores is nil",
					Remedy: "declare the store with store.KeyValue"})
				n.stores = nil
				break
			}
			if reason := illegalInternalName(s.Name(), changelogSuffix); reason != "" {
				c.wrong.add(n.at, &fault.Error{Code: "store/illegal-name", Thing: "store", Value: clip(s.Name()), Reason: reason,
					Remedy: "give the store another name"})
				continue
			}
			ids, err := storeIDs(s)
			if err != nil {
				c.wrong.add(n.at, err)
				continue
			}
			if err := store.Usable(s); err != nil {
				c.wrong.add(n.at, unusable("store", s.Name(), err))
				continue
			}
			k := seen[s.Name()]
			if k == nil {
				k = &known{at: n.at, kind: s.Kind(), ids: ids}
				seen[s.Name()] = k
			} else if k.kind != s.Kind() || k.ids != ids {
				c.wrong.add(n.at, &fault.Error{Code: "store/conflict", Thing: "store", Value: s.Name(),
					Reason: fmt.Sprintf("is declared as %s here and as %s at %s", ids, k.ids, k.at),
					Remedy: "declare the store once and use the same value in both places"})
			}
			if n.ownsStore(i) {
				if k.own != nil {
					c.wrong.add(n.at, &fault.Error{Code: "store/duplicate", Thing: "store", Value: s.Name(),
						Reason: "is written by " + quote(k.own.name) + " at " + k.own.at.String() + " already",
						Remedy: "declare another store: each aggregation and table has its own"})
				} else {
					k.own = n
				}
			}
		}
	}
}

// storeIDs names the codecs of a store. A store declared without one cannot say.
func storeIDs(s store.Spec) (ids string, fail *fault.Error) {
	none := &fault.Error{Code: "store/no-serde", Thing: "store", Value: s.Name(), Reason: "has no serde for its key or value",
		Remedy: "declare the store with both serdes"}
	defer func() {
		if recover() != nil { // a nil pointer of the user's serde type
			fail = none
		}
	}()
	if s.KeyID() == noID || s.ValueID() == noID {
		return "", none
	}
	ids = s.KeyID() + " -> " + s.ValueID()
	if forms := store.Forms(s); len(forms) > 1 || forms[0].Version > 1 {
		ids += fmt.Sprint(" ", forms)
	}
	return ids, nil
}

// unusable says where a codec is that cannot be used there.
func unusable(what, name string, err error) *fault.Error {
	var why *fault.Error
	if !errors.As(err, &why) {
		return &fault.Error{Code: "serde/place", Kind: fault.Config, Thing: what, Value: name, Reason: err.Error(), Err: err}
	}
	said := *why
	said.Thing = what + " " + quote(name) + ", " + why.Thing
	return &said
}

// noID is what a nil serde is called.
var noID = serde.ID[int](nil)

// policies looks at the topics of dead letters.
func (c *check) policies() {
	reads := map[string]*node{}
	for _, n := range c.nodes {
		if n.kind == kindSource && !n.topic.ref.Through {
			reads[n.topic.ref.Name] = n
		}
	}
	for _, n := range c.nodes {
		if n.policy.Action != processor.ActDeadLetter {
			continue
		}
		if reason := illegalTopicName(n.policy.Topic); reason != "" {
			c.wrong.add(n.errorAt, &fault.Error{Code: "policy/illegal-topic", Thing: "dead-letter topic", Value: clip(n.policy.Topic), Reason: reason,
				Remedy: "give DeadLetter a name Kafka takes"})
			continue
		}
		if what := c.internal(n.policy.Topic); what != "" {
			c.wrong.add(n.errorAt, &fault.Error{Code: "topic/internal", Thing: "dead-letter topic", Value: n.policy.Topic,
				Reason: "looks like the " + what + " of this topology", Remedy: "use another topic for dead letters"})
		}
		if src := reads[n.policy.Topic]; src != nil && c.reaches(src)[n.id] {
			c.wrong.add(n.errorAt, &fault.Error{Code: "policy/dead-letter-loop", Thing: "dead-letter topic", Value: n.policy.Topic,
				Reason: "is read by source " + quote(src.name) + ", which leads to the node " + quote(n.name) + " again",
				Remedy: "use a topic for dead letters that does not lead back"})
		}
	}
}

// cycles refuses a topic that is written downstream of where it is read: each record would go round for ever. A topic
// that is read and written without leading back is fine; it cuts the topology as a Through topic does, but its
// partitions and retention are the user's affair.
func (c *check) cycles() {
	for _, src := range c.nodes {
		if src.kind != kindSource || src.topic.ref.Through {
			continue
		}
		reached := c.reaches(src)
		for _, n := range c.nodes {
			if n.kind == kindSink && !n.topic.ref.Through && n.topic.ref.Name == src.topic.ref.Name && reached[n.id] {
				c.wrong.add(n.at, &fault.Error{Code: "topology/cycle", Thing: "topic", Value: src.topic.ref.Name,
					Reason: "is written here and read at " + src.at.String() + ", which leads here: its records would go round for ever",
					Remedy: "write to another topic"})
			}
		}
	}
}

// reaches tells, by id, the nodes a record of src can come to, over topics too.
func (c *check) reaches(src *node) []bool {
	reached := make([]bool, len(c.nodes))
	todo := []int{src.id}
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if reached[id] {
			continue
		}
		reached[id] = true
		from := c.nodes[id]
		for _, n := range c.nodes {
			next := slices.Contains(n.parents, id) || n.feeder == id ||
				from.kind == kindSink && n.kind == kindSource && !n.topic.ref.Through && from.topic.ref == n.topic.ref
			if next {
				todo = append(todo, n.id)
			}
		}
	}
	return reached
}

// subtopologyNames refuses two subtopologies of one name: their tasks could not be told apart.
func (c *check) subtopologyNames() {
	seen := map[string]*Subtopology{}
	for _, s := range split(c.nodes) {
		if other := seen[s.Name]; other != nil {
			at := s.nodes[0].at
			c.wrong.add(at, &fault.Error{Code: "topology/name-clash", Thing: "subtopology", Value: s.Name,
				Reason: "takes its name from a " + s.namedBy() + ", and the one at " + other.nodes[0].at.String() + " from a " + other.namedBy(),
				Remedy: "give the store or the Through topic another name"})
			continue
		}
		seen[s.Name] = s
	}
}

// partitions compares partition counts that are known already: those asked for with Partitions.
func (c *check) partitions() {
	for _, s := range split(c.nodes) {
		for _, g := range s.groups() {
			var fixed *node
			for _, i := range g.sources {
				n := s.nodes[s.Sources[i].Node]
				if n.topic.ref.Partitions == 0 {
					continue
				}
				if fixed != nil && fixed.topic.ref.Partitions != n.topic.ref.Partitions {
					c.wrong.add(n.at, &fault.Error{Code: "topology/not-copartitioned", Thing: n.topic.ref.String(),
						Reason: fmt.Sprintf("has %d partitions and %s has %d, and both lead to %s", n.topic.ref.Partitions,
							fixed.topic.ref, fixed.topic.ref.Partitions, g.meet),
						Remedy: "give both the same number of partitions"})
				}
				fixed = n
			}
		}
	}
}
