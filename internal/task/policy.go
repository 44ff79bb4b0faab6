package task

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// Failure is a record that went to its policy.
type Failure struct {
	Task   processor.TaskID
	Origin processor.Origin
	Node   string
	Op     string
	Action processor.Action
	Err    error // a *fault.Error around a *RecordError
}

// RecordError says where a record failed, and wraps why. It never holds the record's bytes.
type RecordError struct {
	Task   processor.TaskID
	Origin processor.Origin
	Node   string
	Op     string // "decode key", "decode value", "timestamp", "process", "encode key", "encode value", "too large", "panic", "refused", "dead letter"
	Err    error
}

func (e *RecordError) Error() string {
	return "task " + e.Task.String() + ", node " + e.Node + ", " + e.Op + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *RecordError) Unwrap() error { return e.Err }

// Panic is a panic of user code, caught.
type Panic struct {
	Value string // what was panicked with, at most 1 KiB of it
	Stack string
	err   error
}

func (p *Panic) Error() string { return "panic: " + p.Value }

// Unwrap returns what was panicked with, if that was an error.
func (p *Panic) Unwrap() error { return p.err }

// textMax bounds the text of an error wherever it is kept.
const textMax = 1 << 10

// errTimestamp is the error of a record without a valid event time.
var errTimestamp = errors.New("the event time is before 1970")

// caught is a recovered value as an error. It is called while the stack is still that of the panic.
func caught(v any) error {
	err, _ := v.(error)
	return &Panic{Value: bounded(fmt.Sprint(v), textMax), Stack: string(debug.Stack()), err: err}
}

// bounded cuts s to at most n bytes, between two characters.
func bounded(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

func (t *Task) nodeName(node int) string {
	if node < 0 || node >= len(t.w.nodes) {
		return "?"
	}
	return t.w.nodes[node].Name
}

func (t *Task) atNode(node int, op string, err error) error {
	return &topology.NodeError{Node: node, Name: t.nodeName(node), Op: op, Err: err}
}

// condemned is a record that must fail in its next processing.
type condemned struct {
	origin Origin
	err    error
	met    bool   // of a timer: it has failed for it,
	in     *Epoch // in this epoch, once that is sealed
}

// Condemn makes the record at an origin fail in its next processing, as if the node had returned err: the broker refused
// one of its outputs after the fact. The record's node policy decides; a refused dead letter has no policy left, and
// fails the task. Call after Discard. It holds until the record is committed, however often it is replayed.
func (t *Task) Condemn(o Origin, err error) {
	for i := range t.condemned {
		c := &t.condemned[i]
		if c.origin.Input == o.Input && c.origin.Offset == o.Offset {
			if o.DeadLetter && !c.origin.DeadLetter {
				c.origin, c.err = o, err
			}
			return
		}
	}
	t.condemned = append(t.condemned, condemned{origin: o, err: err})
}

// condemnation returns the error the record at o must fail with, if any.
func (t *Task) condemnation(o Origin) error {
	for i := range t.condemned {
		c := &t.condemned[i]
		if c.origin.Input == o.Input && c.origin.Offset == o.Offset {
			t.origin.DeadLetter = c.origin.DeadLetter
			c.met = true
			op := "refused"
			if c.origin.DeadLetter {
				op = "dead letter"
			}
			return t.atNode(c.origin.Node, op, c.err)
		}
	}
	return nil
}

// pardon forgets the condemnations of records that are committed now.
func (t *Task) pardon(e *Epoch) {
	kept := t.condemned[:0]
	for _, c := range t.condemned {
		if c.origin.alarm() >= 0 {
			if c.in != e { // what was committed has not come to this timer yet
				kept = append(kept, c)
			}
			continue
		}
		in := &t.inputs[c.origin.Input]
		at := in.tail
		if m := t.committed.cursors[c.origin.Input]; m.batch-in.first < int64(len(in.batches)) {
			at = in.batches[m.batch-in.first].Records[m.record].Offset
		}
		if c.origin.Offset >= at {
			kept = append(kept, c)
		}
	}
	clear(t.condemned[len(kept):])
	t.condemned = kept
}

// settle does with the record or timer at t.origin, which failed and was rolled back, what its policy says. parked is true when it
// is to be tried again, later. An error is the end of the Step.
func (t *Task) settle(failed error) (parked bool, err error) {
	at := deepest(failed)
	if at == nil {
		// The graph names the node of every error; what came without one happened where it was last seen.
		at = &topology.NodeError{Node: t.node, Name: t.nodeName(t.node), Op: "process", Err: failed}
	}
	if broken := notTheRecord(failed); broken != nil {
		return false, broken
	}
	policy := t.policy(at.Node)
	code := codes[at.Op]
	if code == "" {
		code = "record/failed"
	}
	remedy := "correct the cause and start again, or give the node a policy: Skip or DeadLetter"
	switch {
	case t.c.Context.Err() != nil:
		// The handler gave up because it was told to. That says nothing about the record.
		policy, code, remedy = processor.Fail(), "record/interrupted", "none is needed: the record will be processed again"
	case t.origin.DeadLetter:
		policy, remedy = processor.Fail(), "make the dead-letter topic take records of this size, and start again"
	}
	where := t.where(t.origin)
	refusal := &fault.Error{
		Code: code, Kind: fault.Record, Thing: "record", Value: fmt.Sprintf("%s/%d@%d", where.Topic, where.Partition, where.Offset),
		Remedy: remedy,
		Err:    &RecordError{Task: t.c.ID, Origin: where, Node: t.nodeName(at.Node), Op: at.Op, Err: at.Err},
	}
	if t.origin.alarm() >= 0 {
		refusal.Thing, refusal.Value = "timer", fmt.Sprintf("%s/%d@%s", where.Topic, where.Partition, time.UnixMilli(t.due.At).UTC().Format(time.RFC3339Nano))
	}
	action := policy.Action
	// What the broker has refused it would refuse again.
	if parked = policy.Attempts > 0 && at.Op != "refused" && t.again(policy); parked {
		action = processor.ActRetry
	}
	if t.c.Observer != nil && code != "record/interrupted" {
		t.c.Observer(Failure{Task: t.c.ID, Origin: where, Node: t.nodeName(at.Node), Op: at.Op, Action: action, Err: refusal})
	}
	if parked {
		return true, nil
	}
	if t.retry.of(t.origin) && code != "record/interrupted" {
		t.retry, t.touched = retry{}, true
	}
	switch action {
	case processor.ActSkip:
		t.count.Skipped++
	case processor.ActDeadLetter:
		t.count.DeadLetters++
		t.deadLetter(policy.Topic, at, code)
	default:
		return false, refusal
	}
	return false, nil
}

// codes are the stable names of what can go wrong with a record, by operation.
var codes = map[string]string{
	"decode key":   "record/undecodable",
	"decode value": "record/undecodable",
	"timestamp":    "record/bad-timestamp",
	"process":      "record/failed",
	"panic":        "record/panicked",
	"encode key":   "record/unencodable",
	"encode value": "record/unencodable",
	"too large":    "record/too-large",
	"refused":      "record/refused",
	"dead letter":  "record/dead-letter-refused",
}

// policy of a node: its own, else the application's, else Fail.
func (t *Task) policy(node int) processor.Policy {
	p := t.c.OnError
	if node >= 0 && node < len(t.w.nodes) && t.w.nodes[node].Policy.Action != processor.Inherit {
		p = t.w.nodes[node].Policy
	}
	if p.Action == processor.Inherit {
		p = processor.Fail()
	}
	return p
}

// deepest returns the NodeError that is nearest to the cause: a node that passes on the error of its child is not the one
// that failed.
func deepest(err error) (found *topology.NodeError) {
	for err != nil {
		if n, ok := err.(*topology.NodeError); ok {
			found = n
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				if n := deepest(one); n != nil {
					return n
				}
			}
			return found
		default:
			return found
		}
	}
	return found
}

// notTheRecord returns the refusal in err's tree that no other record would escape: a disk that cannot be read, say. Other
// kinds of fault may be user code's own, and are the record's.
func notTheRecord(err error) error {
	var f *fault.Error
	if errors.As(err, &f) && (f.Kind == fault.State || f.Kind == fault.Cluster) {
		return f
	}
	return nil
}
