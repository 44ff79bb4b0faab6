package topology

import (
	"fmt"
	"reflect"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// Builder collects the nodes of one topology. The zero Builder is ready to use. Nothing it is told fails at once: every
// mistake waits for Build, which returns all of them. It is used by one goroutine.
type Builder struct {
	nodes    []*node
	mistakes []*Mistake
}

// NewBuilder returns an empty builder.
func NewBuilder() *Builder { return new(Builder) }

// Build checks the graph and returns it. If anything is wrong it returns every mistake, joined, each a *Mistake with the
// file and line of the call that made it. The builder may be added to and built again: what Build returned before
// does not change.
func (b *Builder) Build() (*Topology, error) {
	c := newCheck(b)
	c.all()
	if err := c.wrong.join(); err != nil {
		return nil, err
	}
	return assemble(c.nodes), nil
}

// Refuse adds a mistake to those that Build will return, with the line that called into this package or stream. It is
// for packages that offer verbs of their own.
func (b *Builder) Refuse(e *fault.Error) { b.refuseAt(caller(), e) }

func (b *Builder) refuseAt(at place, e *fault.Error) {
	m := mistakes{b.mistakes}
	m.add(at, e)
	b.mistakes = m.list
}

// node is a node as it was declared, its types erased but for what wire captured.
type node struct {
	id      int
	name    string // the user's, or ""
	auto    string // what an unnamed node is called, made unique by Build
	kind    string
	at      place
	nameAt  place // of the call that named it
	policy  processor.Policy
	errorAt place // of the call that set the policy
	parents []int
	stores  []store.Spec
	owns    bool // writes its first store alone: two owners of a store are a mistake
	noValue bool // does not look at values
	topic   *topicUse
	feeder  int // of a Through's source: the sink that writes its topic; else -1

	broadcast string // of the source of a broadcast topic: the store that is written of its records

	// wire makes one task's instance of the node. children holds the inputs of its children, each a
	// func(*processor.Record[K, V]) error of the node's output types. It returns the node's own input, or a *intake for
	// a source.
	wire func(w *wiring, local int, children []any) (any, error)
}

// topicUse is what a source or sink says about its topic.
type topicUse struct {
	ref        TopicRef
	key, value reflect.Type
	keyID      string
	valueID    string
	extractor  uintptr // code of the timestamp function, 0 if there is none
	clock      Clock
	promises   bool // it has WatermarkBy
}

func (u *topicUse) types() string {
	return fmt.Sprintf("%s (%s) -> %s (%s)", u.key, u.keyID, u.value, u.valueID)
}

func (u *topicUse) sameTypes(o *topicUse) bool {
	return u.key == o.key && u.value == o.value && u.keyID == o.keyID && u.valueID == o.valueID
}

func useOf[K, V any](t Topic[K, V]) *topicUse {
	u := &topicUse{ref: t.ref, key: reflect.TypeFor[K](), value: reflect.TypeFor[V](), keyID: codecID(t.key), valueID: codecID(t.value)}
	if t.extract != nil {
		u.extractor = reflect.ValueOf(t.extract).Pointer()
	}
	u.clock, u.promises = t.clock, t.mark != nil
	return u
}

func codecID[T any](s serde.Serde[T]) string {
	if nilPointer(s) {
		return "no serde" // reported by checkCodecs
	}
	return serde.ID(s)
}

// nilPointer reports whether v is nil, or an interface that holds a nil pointer, map or function.
func nilPointer(v any) bool {
	if v == nil {
		return true
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Slice, reflect.Chan, reflect.Interface:
		return r.IsNil()
	default:
		return false
	}
}

func (b *Builder) add(n *node) *node {
	n.id = len(b.nodes)
	n.nameAt, n.errorAt = n.at, n.at
	b.nodes = append(b.nodes, n)
	return n
}

// Mark is a position in the order of declaration, for Node.Since.
func (b *Builder) Mark() int { return len(b.nodes) }

// setPolicy sets the policy of nodes first..last.
func (b *Builder) setPolicy(first, last int, p processor.Policy) {
	if first > last {
		b.Refuse(&fault.Error{Code: "policy/nothing", Thing: "policy", Value: p.String(), Reason: "the verb before OnError made no node",
			Remedy: "put OnError behind the verb whose records it is for"})
		return
	}
	if p.Action > processor.ActDeadLetter {
		b.Refuse(&fault.Error{Code: "policy/unknown", Thing: "policy", Value: fmt.Sprintf("Action(%d)", p.Action),
			Reason: "there is no such action", Remedy: "use processor.Fail, Skip, DeadLetter or Retry"})
		return
	}
	if reason := p.Mistake(); reason != "" {
		b.Refuse(&fault.Error{Code: "policy/retry", Thing: "policy", Value: p.String(), Reason: reason,
			Remedy: "use processor.Retry with at least one try, a pause that is not negative, and Fail, Skip or DeadLetter after it"})
		return
	}
	for _, n := range b.nodes[first : last+1] {
		if n.policy.Action != processor.Inherit && n.policy != p {
			b.Refuse(&fault.Error{Code: "policy/conflict", Thing: "node", Value: n.display(),
				Reason: fmt.Sprintf("has policy %s already and is given %s", n.policy, p), Remedy: "set the policy of a node once"})
			continue
		}
		n.policy, n.errorAt = p, caller()
	}
}

func (b *Builder) setName(id int, name string) {
	n := b.nodes[id]
	if reason := illegalNodeName(name); reason != "" {
		b.Refuse(&fault.Error{Code: "topology/illegal-name", Thing: n.kind, Value: clip(name), Reason: reason,
			Remedy: "give it a short printable name"})
		return
	}
	if n.name != "" && n.name != name {
		b.Refuse(&fault.Error{Code: "topology/renamed", Thing: n.kind, Value: clip(name),
			Reason: fmt.Sprintf("the node is named %q already", n.name), Remedy: "name a node once"})
		return
	}
	n.name, n.nameAt = name, caller()
}

func (n *node) display() string {
	if n.name != "" {
		return n.name
	}
	return n.auto
}
