package topology

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
)

// DryRun makes every processor once and calls its Init and Close against a task that is not there, and returns what went
// wrong for all nodes at once: stores that are opened and were not attached, suppliers that return nil or the same
// processor twice, errors and panics of Init. millrace.New calls it.
func (t *Topology) DryRun() error {
	var wrong mistakes
	for _, s := range t.subs {
		s.dryRun(&wrong)
	}
	return wrong.join()
}

func (s *Subtopology) dryRun(wrong *mistakes) {
	h := &dryHost{Context: context.Background(), id: processor.TaskID{Subtopology: s.Name}}
	var bindings []store.Binding
	for i, spec := range s.Stores {
		bindings = append(bindings, store.Binding{Spec: spec, Prefix: uint16(i + 1)})
	}
	db, err := store.Open(store.NewMemory(), bindings, store.Options{})
	if err != nil {
		s.blame(wrong, 0, err)
		return
	}
	defer func() { _ = db.Close() }() // in memory, and thrown away
	h.db = db
	w := &wiring{host: h, sub: s, steps: make([]step, len(s.nodes)), ahead: make([]any, len(s.nodes))}
	w.made = func(node int, p any, another func() any) {
		if same(p, another()) {
			s.blame(wrong, node, &fault.Error{Code: "processor/shared", Thing: "supplier of node", Value: s.Nodes[node].Name,
				Reason: "returned the same processor twice, and tasks run at the same time", Remedy: "return a new processor for each call"})
		}
	}
	try := func(node int, f func() error) {
		if err := recovered(f); err != nil {
			s.blame(wrong, node, err)
		}
	}
	inputs := make([]any, len(s.nodes))
	for i := len(s.nodes) - 1; i >= 0; i-- {
		children := make([]any, 0, len(s.Nodes[i].Children))
		for _, c := range s.Nodes[i].Children {
			if inputs[c] != nil { // a child that could not be wired has been reported
				children = append(children, inputs[c])
			}
		}
		try(i, func() (err error) {
			inputs[i], err = s.nodes[i].wire(w, i, children)
			return err
		})
	}
	for i := range w.steps {
		if init := w.steps[i].init; init != nil {
			try(i, init)
		}
	}
	for i := range w.steps {
		if f := w.steps[i].close; f != nil {
			try(i, f)
		}
	}
}

// blame ties an error to the line that added the node.
func (s *Subtopology) blame(wrong *mistakes, node int, err error) {
	f := new(fault.Error)
	if at := f; errors.As(err, &at) {
		*f = *at // a copy: the error may be a value of the user's
	} else {
		f = &fault.Error{Code: "processor/init", Thing: "node", Value: s.Nodes[node].Name, Reason: "its processor could not be made",
			Err: err, Remedy: "Init runs once before any record, without effects elsewhere: make it succeed without them"}
	}
	wrong.add(s.nodes[node].at, f)
}

// recovered calls f and turns a panic into an error.
func recovered(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f()
}

// same reports whether two processors are one. Pointers to empty structs may be equal without being one.
func same(a, b any) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	return x.Kind() == reflect.Pointer && y.Kind() == reflect.Pointer && x.Type() == y.Type() &&
		x.Type().Elem().Size() > 0 && x.Pointer() == y.Pointer()
}

// dryHost is a task that is not there.
type dryHost struct {
	context.Context
	id processor.TaskID
	db *store.DB
}

func (h *dryHost) Rows(name string) (*store.Rows, error) { return h.db.Rows(name) }
func (h *dryHost) TaskID() processor.TaskID              { return h.id }
func (h *dryHost) StreamTime() time.Time                 { return time.Time{} }
func (h *dryHost) Now() time.Time                        { return time.Unix(0, 0).UTC() }
func (h *dryHost) Origin() processor.Origin              { return processor.Origin{} }
func (h *dryHost) SetNode(int)                           {}
func (h *dryHost) Dropped(int, string)                   {}
func (h *dryHost) Emit(int, []byte, []byte, int64, []processor.Header) error {
	return errors.New("a dry run has no records")
}
