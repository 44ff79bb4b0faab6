package main

import (
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/itest"
	"github.com/millrace-io/millrace/observe"
)

var (
	stdout   = json.NewEncoder(os.Stdout)
	stdoutMu sync.Mutex
)

// say prints one event.
func say(e itest.Event) {
	stdoutMu.Lock()
	defer stdoutMu.Unlock()
	if e.At.IsZero() {
		e.At = time.Now()
	}
	// A reader that went away has gone with the test: there is nobody to tell.
	_ = stdout.Encode(e)
}

func hooks() observe.Hooks {
	return observe.Hooks{
		State: func(s observe.StateChange) {
			say(itest.Event{Event: "state", At: s.At, From: s.From, To: s.To, Err: text(s.Err)})
		},
		Task: func(s observe.TaskChange) {
			say(itest.Event{Event: "task", At: s.At, Task: s.Task, From: s.From, To: s.To, Err: text(s.Err)})
		},
		Restore: func(p observe.RestoreProgress) {
			if p.Done {
				say(itest.Event{Event: "restored", Task: p.Task, Store: p.Store, Records: p.Records, Position: p.Position, End: p.End, Rebuild: p.Rebuild, TookMS: ms(p.Elapsed)})
			}
		},
		Rebalance: func(r observe.Rebalance) {
			say(itest.Event{Event: "rebalance", Generation: r.Generation, Assigned: r.Assigned, Revoked: r.Revoked, Lost: r.Lost, TookMS: ms(r.Took)})
		},
		Commit: func(c observe.Commit) {
			say(itest.Event{Event: "commit", Worker: c.Worker, Records: c.Records, Outputs: c.Outputs, Reason: c.Reason, TookMS: ms(c.Took)})
		},
		Abort: func(a observe.Abort) {
			say(itest.Event{Event: "abort", Worker: a.Worker, Err: text(a.Reason), TookMS: ms(a.Backoff)})
		},
		Record: func(r observe.RecordError) {
			say(itest.Event{Event: "record", Task: r.Task, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Node: r.Node, Op: r.Op, Policy: r.Policy, Err: text(r.Err)})
		},
		Slow: func(s observe.SlowHandler) {
			say(itest.Event{Event: "slow", Task: s.Task, TookMS: ms(s.For)})
		},
		Resolved: func(r observe.Resolved) {
			say(itest.Event{Event: "resolved", ID: r.CommitID, Committed: r.Committed, TookMS: ms(r.Took)})
		},
		Fenced: func(f observe.Fenced) {
			say(itest.Event{Event: "fenced", ID: f.TransactionalID, TookMS: ms(f.Took)})
		},
	}
}

func exited(code int, err error) itest.Event {
	e := itest.Event{Event: "exit", Code: code, Err: text(err)}
	var fault *millrace.Error
	if errors.As(err, &fault) {
		e.Fault = fault.Code
	}
	return e
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
