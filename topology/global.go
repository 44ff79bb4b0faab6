package topology

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// kindGlobal is the node that takes the entries of a global store's topic into the store.
const kindGlobal = "global"

// globals adds, for every global store, what makes it one: a sink that writes the task's own entries to the store's topic, a
// source from which every task reads all of them, and a node that puts those of others into the store. The store keeps them in the
// subtopology of the nodes it is attached to.
func (c *check) globals() {
	seen := map[string]bool{}
	for _, n := range slices.Clone(c.nodes) {
		for _, s := range n.stores {
			if s.Kind() != store.KindGlobal || seen[s.Name()] {
				continue
			}
			seen[s.Name()] = true
			t := Topic[[]byte, []byte]{
				ref: TopicRef{Name: s.Name(), Through: true, Global: true, Partitions: 1}, key: serde.Bytes(), value: serde.Bytes(),
			}
			add := func(made *node) *node {
				made.id, made.at, made.topic, made.feeder = len(c.nodes), n.at, nil, -1
				made.policy = processor.Fail() // its bytes are ours
				made.name = made.auto
				for i := 2; slices.ContainsFunc(c.nodes, func(o *node) bool { return o.name == made.name }); i++ {
					made.name = fmt.Sprintf("%s-%d", made.auto, i)
				}
				made.nameAt, made.errorAt = n.at, n.at
				c.nodes = append(c.nodes, made)
				return made
			}
			sink := add(&node{auto: "to-" + s.Name(), kind: kindSink, stores: []store.Spec{s}})
			sink.topic, sink.wire = useOf(t), wireGlobalSink(s, wireSink(t))
			src := add(&node{auto: s.Name(), kind: kindSource, broadcast: s.Name()})
			src.topic, src.wire = useOf(t), wireSource(t)
			apply := add(&node{auto: kindGlobal + "-" + s.Name(), kind: kindGlobal, stores: []store.Spec{s}, owns: true, parents: []int{src.id}})
			apply.wire = wireGlobal(s)
		}
	}
}

// wireGlobalSink makes a sink that takes what a task publishes instead of what a parent hands on.
func wireGlobalSink(s store.Spec, wire func(*wiring, int, []any) (any, error)) func(*wiring, int, []any) (any, error) {
	return func(w *wiring, local int, children []any) (any, error) {
		in, err := wire(w, local, children)
		if err != nil {
			return nil, err
		}
		emit := in.(func(*processor.Record[[]byte, []byte]) error)
		var out processor.Record[[]byte, []byte]
		if w.global == nil {
			w.global = map[string]func(key, value []byte, at int64) error{}
		}
		w.global[s.Name()] = func(key, value []byte, at int64) error {
			out.Key, out.Value = key, value
			out.Time = time.UnixMilli(at).UTC()
			return emit(&out)
		}
		return in, nil
	}
}

// wireGlobal makes the node that takes entries.
func wireGlobal(s store.Spec) func(*wiring, int, []any) (any, error) {
	return func(w *wiring, local int, children []any) (any, error) {
		stage, err := newStage[[]byte, []byte](w, local, children)
		if err != nil {
			return nil, err
		}
		rows, err := stage.Rows(s.Name())
		if err != nil {
			return nil, err
		}
		owner := w.host.TaskID().Partition
		return func(r *processor.Record[[]byte, []byte]) error {
			stage.Enter()
			if err := store.ApplyGlobal(rows, owner, r.Key, r.Value, r.Time.UnixMilli()); err != nil {
				return stage.Fail("process", err)
			}
			return nil
		}, nil
	}
}

// Global is store.GlobalSource's: what publishes an entry of a global store, in the name of this node.
func (s *Stage[K, V]) Global(name string) (publish func(key, value []byte, at int64) error, owner int32, err error) {
	if _, err := s.Rows(name); err != nil {
		return nil, 0, err
	}
	emit := s.w.global[name]
	if emit == nil {
		return nil, 0, &fault.Error{Code: "store/not-attached", Kind: fault.Config, Thing: "store", Value: name, Reason: "is not a global store",
			Remedy: "declare it with store.Global"}
	}
	return func(key, value []byte, at int64) error {
		err := emit(key, value, at)
		s.Enter()
		return err
	}, s.TaskID().Partition, nil
}

// fed refuses broadcast state that no node writes.
func (c *check) fed() {
	for _, n := range c.nodes {
		for _, s := range n.stores {
			if s == nil || s.Kind() != store.KindBroadcast || slices.ContainsFunc(c.nodes, func(o *node) bool {
				i := slices.IndexFunc(o.stores, func(x store.Spec) bool { return x != nil && x.Name() == s.Name() })
				return i >= 0 && o.ownsStore(i)
			}) {
				continue
			}
			c.wrong.add(n.at, &fault.Error{Code: "store/not-broadcast", Thing: "store", Value: s.Name(),
				Reason: "is broadcast state that no node writes", Remedy: "give it to a ProcessBroadcast, with the topic that it comes from"})
		}
	}
}

// broadcastWidth refuses a broadcast topic of which every task would see all, but not in the same order.
func (r *reckoning) broadcastWidth(src Source) {
	if src.Topic.Global {
		return
	}
	if n, ok := r.fixedTopic(src.Topic); ok && n > 1 {
		r.errs = append(r.errs, &fault.Error{Code: "topic/broadcast-partitions", Kind: fault.Cluster, Thing: "broadcast topic", Value: src.Topic.Name,
			Reason: "is a broadcast topic with more than one partition: tasks would see its records in different orders",
			Remedy: "create it with one partition (kafka-topics --create --partitions 1), and write it anew"})
	}
}

// sortEnders puts parents before children.
func sortEnders(enders []Ender) {
	slices.SortFunc(enders, func(a, b Ender) int { return cmp.Compare(a.Node, b.Node) })
}
