package task

import (
	"errors"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/topology"
)

// ending is a graph with nodes that do something before an epoch ends.
type ending interface{ Enders() []topology.Ender }

// epochOrigin is the origin of what a node does at the end of an epoch: neither a record nor a timer.
func (t *Task) epochOrigin(node int) Origin {
	return Origin{Input: -1 - len(t.alarms), Offset: int64(node)}
}

// endEpoch runs what nodes do before an epoch ends, if the epoch has anything in it.
func (t *Task) endEpoch() error {
	if len(t.enders) == 0 || !t.Dirty() {
		return nil
	}
	for i := range t.enders {
		if failed := t.end(&t.enders[i]); failed != nil {
			t.rollback()
			return t.notEnded(t.enders[i].Node, failed)
		}
	}
	return nil
}

func (t *Task) end(e *topology.Ender) (failed error) {
	defer func() {
		if !t.user {
			return
		}
		if v := recover(); v != nil {
			t.user = false
			failed = t.atNode(t.node, "panic", caught(v))
		}
	}()
	t.origin, t.node = t.epochOrigin(e.Node), e.Node
	t.undo.open = false
	if len(t.condemned) > 0 {
		if c := t.condemnation(t.origin); c != nil {
			return c
		}
	}
	t.open()
	at := max(t.streamTime, 0)
	t.db.SetTime(at)
	t.emitErr = nil
	t.user = true
	err := e.End(at)
	t.user = false
	if err == nil {
		err = t.emitErr
	}
	return err
}

// notEnded is the error of an epoch that could not be ended. There is no record whose policy could decide.
func (t *Task) notEnded(node int, failed error) error {
	at := deepest(failed)
	if at == nil {
		at = &topology.NodeError{Node: node, Name: t.nodeName(node), Op: "process", Err: failed}
	}
	if broken := notTheRecord(failed); broken != nil {
		return broken
	}
	if t.c.Context.Err() != nil {
		failed = errors.Join(t.c.Context.Err(), failed)
	}
	return &fault.Error{
		Code: "processor/epoch-failed", Kind: fault.Record, Thing: "end of an epoch of task", Value: t.c.ID.String(),
		Reason: "OnEpoch of node " + t.nodeName(node) + " failed",
		Remedy: "correct the cause and start again: everything since the epoch before is processed again", Err: failed,
	}
}

// forget tells nodes that what was processed since the last epoch has been undone.
func (t *Task) forget() {
	for i := range t.enders {
		t.enders[i].Forget()
	}
}
