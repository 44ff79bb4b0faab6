package topology

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
)

// Raw is a record as it came from Kafka. Key and Value are nil for nulls (an empty one is a non-nil empty slice).
// Its slices belong to the fetch they came with.
type Raw struct {
	Key     []byte
	Value   []byte
	Headers []processor.Header
	Time    int64 // milliseconds
	Offset  int64
}

// Host is what a task offers to the graph that is wired into it. The kernel implements it.
type Host interface {
	context.Context
	store.Source // every store of the task; the graph checks attachment

	TaskID() processor.TaskID
	StreamTime() time.Time
	Now() time.Time
	Origin() processor.Origin

	// Emit takes one output of the record being processed, for the sink with that index. The slices are copied before it
	// returns; a nil key or value is a null.
	Emit(sink int, key, value []byte, time int64, headers []processor.Header) error

	// SetNode says which node (index into Subtopology.Nodes) is about to run user code, for errors and panics.
	SetNode(node int)

	// Dropped counts a record that an operator let go without an error, as its rules say ("null key"). The reason is one
	// of a few constant strings.
	Dropped(node int, reason string)
}

// Source is a topic a subtopology reads. Its index in Subtopology.Sources is the number the kernel calls it by.
type Source struct {
	Topic     TopicRef
	Node      int  // index into Subtopology.Nodes
	Extractor bool // its timestamps come from a function of key and value: ask Graph.Timestamp

	Watermark *Watermark // how watermarks are made of its records; nil where they are not
	InBand    bool       // watermarks of the tasks that write the topic come with its records
	Writer    string     // of a Through topic: the subtopology that writes it

	// Broadcast is the store that the records of a broadcast topic are written to; "" for all others. Such a topic has one partition,
	// which every task reads.
	Broadcast string
}

// Sink is a topic a subtopology writes.
type Sink struct {
	Topic TopicRef
	Node  int
}

// NodeInfo is one node as the kernel, the runtime and the pictures see it.
type NodeInfo struct {
	Name     string
	Kind     string // "source", "filter", "process", "sink", ...
	Policy   processor.Policy
	Children []int    // indexes into Subtopology.Nodes
	Stores   []string // attached to the node
}

// Subtopology is one connected part of the graph: what a task runs. Its slices are read-only.
type Subtopology struct {
	Name    string // the least of its store names, else of its source topics' names
	Sources []Source
	Sinks   []Sink
	Stores  []store.Spec // sorted by name
	Nodes   []NodeInfo

	Watermarks bool // the clock of its tasks is a watermark, not stream time

	nodes  []*node // as Nodes
	source []int   // by node: index into Sources, else -1
	sink   []int   // by node: index into Sinks, else -1
}

// Wire makes one task's instance of the subtopology: processors are made and their Init is called, parents before
// children. Types are erased here and nowhere else; nothing is asserted per record. If it fails, what was made is closed.
// An error of a supplier or an Init is a *NodeError. Panics of user code are the caller's to recover.
func (s *Subtopology) Wire(h Host) (*Graph, error) {
	w := &wiring{host: h, sub: s, steps: make([]step, len(s.nodes)), ahead: make([]any, len(s.nodes))}
	g := &Graph{sources: make([]*intake, len(s.Sources))}
	inputs := make([]any, len(s.nodes))
	for i := len(s.nodes) - 1; i >= 0; i-- { // a child always comes after its parents
		children := make([]any, len(s.Nodes[i].Children))
		for j, c := range s.Nodes[i].Children {
			children[j] = inputs[c]
		}
		h.SetNode(i)
		in, err := s.nodes[i].wire(w, i, children)
		if err != nil {
			return nil, errors.Join(w.fail(i, "init", err), w.close())
		}
		inputs[i] = in
		if k := s.source[i]; k >= 0 {
			g.sources[k] = in.(*intake)
		}
	}
	for i := range w.steps {
		if init := w.steps[i].init; init != nil {
			h.SetNode(i)
			if err := init(); err != nil {
				return nil, errors.Join(w.fail(i, "init", err), w.close())
			}
		}
	}
	g.close = w.close
	for _, in := range g.sources {
		g.ahead = g.ahead || in.ahead != nil
	}
	g.alarms, g.enders = w.alarms, w.enders
	sortEnders(g.enders)
	slices.SortFunc(g.alarms, func(a, b Alarm) int { return strings.Compare(a.Queue.Name(), b.Queue.Name()) })
	return g, nil
}

// wiring is the state of one Wire.
type wiring struct {
	host   Host
	sub    *Subtopology
	steps  []step // by node
	ahead  []any  // by node: an Ahead of its key's type, or nil
	alarms []Alarm
	enders []Ender
	global map[string]func(key, value []byte, time int64) error // by store: what publishes its entries

	// made, if set, is told of every processor and of a way to make another: the dry run compares them.
	made func(node int, p any, another func() any)
}

// step is what a node wants done when all are wired, and at the end.
type step struct {
	init  func() error
	close func() error
}

func (w *wiring) fail(node int, op string, err error) error {
	return nodeError(node, w.sub.Nodes[node].Name, op, err)
}

// close closes in the order of the nodes, each once.
func (w *wiring) close() error {
	var errs []error
	for i := range w.steps {
		if f := w.steps[i].close; f != nil {
			w.steps[i].close = nil
			w.host.SetNode(i)
			if err := f(); err != nil {
				errs = append(errs, w.fail(i, "close", err))
			}
		}
	}
	return errors.Join(errs...)
}

// Graph is a wired subtopology. It is used by one goroutine.
type Graph struct {
	sources []*intake
	ahead   bool // some source's records read rows by their key
	alarms  []Alarm
	enders  []Ender
	close   func() error
}

// Process decodes r, which came from Sources[source] and has event time at, and runs it through the graph. An error of user code or
// of a codec is a *NodeError. Panics of user code are the caller's to recover; the graph can be used on after one.
func (g *Graph) Process(source int, r *Raw, at int64) error { return g.sources[source].process(r, at) }

// Timestamp returns the event time of r: its own, or what the topic's extractor makes of it. An error is a *NodeError; so
// is a time before 1970.
func (g *Graph) Timestamp(source int, r *Raw) (int64, error) { return g.sources[source].timestamp(r) }

// Promise is the watermark that the last record of Sources[source] that was processed has brought, in milliseconds; math.MinInt64 for none.
func (g *Graph) Promise(source int) int64 { return g.sources[source].promised }

// Ahead puts the rows that r, from Sources[source], is going to read on the list, as far as its key alone says which. It
// runs no user code but codecs and processor.Prefetcher, whose panics are the caller's to recover, and has no effect
// besides. A record whose key cannot be decoded is passed over.
func (g *Graph) Ahead(source int, r *Raw, w *store.Wanted) {
	if f := g.sources[source].ahead; f != nil {
		f(r, w)
	}
}

// LooksAhead reports whether Ahead ever does anything.
func (g *Graph) LooksAhead() bool { return g.ahead }

// Alarm is a set of timers of a node: the kernel takes what is due from the queue and has it fired.
type Alarm struct {
	Node  int // index into Subtopology.Nodes
	Queue *timers.Queue
	// Fire runs the node's OnTimer for a timer that was taken; at is the event time of what it does, in milliseconds. Errors and
	// panics are as those of Process.
	Fire func(d timers.Due, at int64) error
	// Letter is what a dead letter says of a timer: its key in the topic's form, and its namespace. It runs the key's codec, whose
	// panics are the caller's to recover.
	Letter func(d timers.Due) (key, namespace []byte)
}

// Ender is what a node does before an epoch ends.
type Ender struct {
	Node int // index into Subtopology.Nodes
	// End runs the node's OnEpoch; at is the event time of what it does, in milliseconds. Errors and panics are as those of Process.
	End func(at int64) error
	// Forget runs the node's Forget, whose panics are the caller's.
	Forget func()
}

// Enders are what nodes do before an epoch ends, parents before children.
func (g *Graph) Enders() []Ender { return g.enders }

// Alarms are the graph's sets of timers, in the order of their names.
func (g *Graph) Alarms() []Alarm { return g.alarms }

// Close calls the Close of every processor that has one and joins their errors. A second call does nothing.
func (g *Graph) Close() error { return g.close() }

// NodeError is an error of a node's user code or codec. Node is an index into Subtopology.Nodes.
type NodeError struct {
	Node int
	Name string
	// Op is "decode key", "decode value", "timestamp" (of the record, or of one it forwards), "process", "state" (a store
	// used by an operator), "encode key", "encode value", "emit" (the host refused an output), "init", "close" or "panic".
	Op  string
	Err error
}

func (e *NodeError) Error() string { return "node " + e.Name + ": " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *NodeError) Unwrap() error { return e.Err }

// nodeError says where err happened, unless it says so itself: an error that a processor got from Forward belongs to
// the node below that made it, however the processor wrapped it.
func nodeError(node int, name, op string, err error) error {
	if e, ok := err.(*NodeError); ok {
		return e
	}
	var inner *NodeError
	if errors.As(err, &inner) {
		return &NodeError{Node: inner.Node, Name: inner.Name, Op: inner.Op, Err: err}
	}
	return &NodeError{Node: node, Name: name, Op: op, Err: err}
}
