package topology

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
)

// Stage is one node of one task, as the node's own code sees it: its children, its stores, its host.
type Stage[K, V any] struct {
	Host

	w     *wiring
	local int
	next  func(*processor.Record[K, V]) error
}

func newStage[K, V any](w *wiring, local int, children []any) (*Stage[K, V], error) {
	next, err := fanOut[K, V](children)
	if err != nil {
		return nil, err
	}
	return &Stage[K, V]{Host: w.host, w: w, local: local, next: next}, nil
}

// Enter tells the host that this node is about to run user code.
func (s *Stage[K, V]) Enter() { s.SetNode(s.local) }

// Next returns the function that hands a record to every child. It keeps nothing of the record.
func (s *Stage[K, V]) Next() func(*processor.Record[K, V]) error { return s.next }

// Drop counts a record that the node lets go, and returns nil.
func (s *Stage[K, V]) Drop(reason string) error {
	s.Dropped(s.local, reason)
	return nil
}

// Restored reports whether the task has committed anything before.
func (s *Stage[K, V]) Restored() bool {
	h, ok := s.Host.(interface{ Restored() bool })
	return ok && h.Restored()
}

// Fail makes err the node's.
func (s *Stage[K, V]) Fail(op string, err error) error { return s.w.fail(s.local, op, err) }

// Rows opens a store that is attached to the node.
func (s *Stage[K, V]) Rows(name string) (*store.Rows, error) {
	info := &s.w.sub.Nodes[s.local]
	if slices.Contains(info.Stores, name) {
		return s.Host.Rows(name)
	}
	return nil, &fault.Error{Code: "store/not-attached", Kind: fault.Config, Thing: "store", Value: name,
		Reason: "is opened by node " + quote(info.Name) + " and is not attached to it",
		Remedy: "give the store to the verb or AddProcessor that adds the node"}
}

// fanOut makes one function of the children's. This is where a type comes back: once per edge and task.
func fanOut[K, V any](children []any) (func(*processor.Record[K, V]) error, error) {
	fs := make([]func(*processor.Record[K, V]) error, len(children))
	for i, c := range children {
		f, ok := c.(func(*processor.Record[K, V]) error)
		if !ok {
			return nil, fmt.Errorf("a child takes %T and is given %T", c, f)
		}
		fs[i] = f
	}
	switch len(fs) {
	case 0:
		return func(*processor.Record[K, V]) error { return nil }, nil
	case 1:
		return fs[0], nil
	case 2:
		a, b := fs[0], fs[1]
		return func(r *processor.Record[K, V]) error {
			if err := a(r); err != nil {
				return err
			}
			return b(r)
		}, nil
	}
	return func(r *processor.Record[K, V]) error {
		for _, f := range fs {
			if err := f(r); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// procContext is what a user's processor sees: one per node and task, lent for the time of a call.
type procContext[K, V any] struct {
	*Stage[K, V]

	out  processor.Record[K, V] // what was forwarded last: children get a pointer into here, so nothing is allocated
	at   time.Time              // of the record being processed
	err  error                  // first error of a child while the record was processed
	live bool

	broadcasting bool // the record is of a broadcast topic

	pinned  bool // out takes the key below
	key     K
	nullKey bool
}

var errNotInCall = errors.New("the context was used outside the call it was given to")

// Forward is processor.Context's.
func (c *procContext[K, V]) Forward(r processor.Record[K, V]) error {
	if !c.live {
		return c.Fail("process", errNotInCall)
	}
	if r.Time.IsZero() {
		r.Time = c.at
	} else if r.Time.UnixMilli() < 0 {
		c.err = c.Fail("timestamp", fmt.Errorf("forwarded record: %w", errBefore1970))
		return c.err
	}
	if c.pinned {
		r.Key, r.NullKey = c.key, c.nullKey
	}
	c.out = r
	err := c.next(&c.out)
	if err != nil && c.err == nil {
		c.err = err
	}
	c.SetNode(c.local)
	return err
}

// pinKey makes a context forward the key of the record it is given.
func pinKey[K, VI, VO any](c *procContext[K, VO], r *processor.Record[K, VI]) {
	c.pinned, c.key, c.nullKey = true, r.Key, r.NullKey
}

// wireProcessor makes the wiring of a node with a user's processor. pin, if any, is called before each record.
func wireProcessor[KI, VI, KO, VO any](newP func() processor.Processor[KI, VI, KO, VO], pin func(*procContext[KO, VO], *processor.Record[KI, VI])) func(*Stage[KO, VO]) (func(*processor.Record[KI, VI]) error, error) {
	return func(s *Stage[KO, VO]) (func(*processor.Record[KI, VI]) error, error) {
		p := newP()
		c := &procContext[KO, VO]{Stage: s}
		if err := adopt[KI](s, c, p, func() any { return newP() }); err != nil {
			return nil, err
		}
		var pinFired func(KI)
		if pin != nil {
			var fired processor.Record[KI, VI]
			pinFired = func(key KI) {
				fired.Key = key
				pin(c, &fired)
			}
		}
		if err := wireTimers(s, c, p, pinFired); err != nil {
			return nil, err
		}
		var ctx processor.Context[KO, VO] = c
		return func(r *processor.Record[KI, VI]) error {
			if pin != nil {
				pin(c, r)
			}
			c.begin(r.Time)
			s.Enter()
			return s.called(c, p.Process(ctx, clipped(r)))
		}, nil
	}
}

// begin begins a call of a processor.
func (c *procContext[K, V]) begin(at time.Time) {
	c.at, c.err, c.live, c.broadcasting = at, nil, true, false
}

// clipped is the record as a processor gets it: an append to its headers must not reach into the record a sibling sees.
func clipped[K, V any](r *processor.Record[K, V]) processor.Record[K, V] {
	in := *r
	in.Headers = slices.Clip(in.Headers)
	return in
}

// adopt takes a new processor of a node with keys of type K: what it offers beside its records.
func adopt[K, KO, VO any](s *Stage[KO, VO], c *procContext[KO, VO], p any, another func() any) error {
	if nilPointer(p) {
		return &fault.Error{Code: "processor/nil", Kind: fault.Config, Thing: "supplier of node", Value: s.w.sub.Nodes[s.local].Name,
			Reason: "returned nil", Remedy: "return a new processor for each call"}
	}
	if s.w.made != nil {
		s.w.made(s.local, p, another)
	}
	if f, ok := p.(processor.Prefetcher[K]); ok {
		s.w.ahead[s.local] = Ahead[K](func(w *store.Wanted, key K, _ bool) { f.Prefetch(w, key) })
	}
	if f, ok := p.(processor.EpochHandler[KO, VO]); ok {
		var ctx processor.Context[KO, VO] = c
		s.w.enders = append(s.w.enders, Ender{Node: s.local, End: func(at int64) error {
			s.Enter()
			c.begin(time.UnixMilli(at).UTC())
			return s.called(c, f.OnEpoch(ctx))
		}, Forget: f.Forget})
	}
	step := &s.w.steps[s.local]
	if i, ok := p.(processor.Initer); ok {
		step.init = func() error {
			if f, ok := p.(processor.Closer); ok {
				step.close = f.Close
			}
			return i.Init(c)
		}
	} else if f, ok := p.(processor.Closer); ok {
		step.close = f.Close
	}
	return nil
}

// wireTimers makes an alarm of every set of timers that is attached to a processor's node.
func wireTimers[KI, KO, VO any](s *Stage[KO, VO], c *procContext[KO, VO], p any, pin func(KI)) error {
	for _, spec := range s.w.sub.nodes[s.local].stores {
		if spec.Kind() != store.KindTimers {
			continue
		}
		set, typed := spec.(timers.Spec[KI])
		handler, handles := p.(processor.TimerHandler[KI, KO, VO])
		wrong := &fault.Error{Kind: fault.Config, Thing: "timers", Value: spec.Name()}
		switch {
		case !handles:
			wrong.Code, wrong.Reason = "timers/no-handler", fmt.Sprintf("are attached to node %q, whose processor %T has no OnTimer for them", s.w.sub.Nodes[s.local].Name, p)
			wrong.Remedy = fmt.Sprintf("give it: OnTimer(ctx processor.Context[%s, %s], f timers.Fired[%s]) error", reflect.TypeFor[KO](), reflect.TypeFor[VO](), reflect.TypeFor[KI]())
			return wrong
		case !typed:
			wrong.Code, wrong.Reason = "timers/key-type", fmt.Sprintf("have keys of another type than the records of node %q", s.w.sub.Nodes[s.local].Name)
			wrong.Remedy = fmt.Sprintf("declare them with keys of type %s", reflect.TypeFor[KI]())
			return wrong
		}
		if err := set.Validate(); err != nil {
			return err
		}
		opened, err := set.In(s)
		if err != nil {
			return err
		}
		var ctx processor.Context[KO, VO] = c
		fire := func(d timers.Due, at int64) error {
			s.Enter()
			f, err := opened.Fired(d)
			if err != nil {
				return s.Fail("decode key", err)
			}
			if pin != nil {
				pin(f.Key)
			}
			c.begin(time.UnixMilli(at).UTC())
			err = handler.OnTimer(ctx, f)
			return s.called(c, err)
		}
		s.w.alarms = append(s.w.alarms, Alarm{Node: s.local, Queue: opened.Queue(), Fire: fire, Letter: opened.Letter})
	}
	return nil
}

// called ends a call of a processor.
func (s *Stage[KO, VO]) called(c *procContext[KO, VO], err error) error {
	c.live = false
	if c.err != nil && (err == nil || !errors.Is(err, c.err)) {
		// A child failed and the processor kept it to itself: half of the record's effects would stay.
		err = errors.Join(c.err, err)
	}
	if err != nil {
		return s.Fail("process", err)
	}
	return nil
}

func quote(s string) string { return fmt.Sprintf("%q", s) }
