// Package itest proves millrace end to end, through its public API, on an embedded broker and on real Kafka: real
// processes of one binary (itest/app) are run, killed, frozen and restarted, and the oracle decides whether the promise
// was kept. docs/design/0008-verification.md says what is proven where.
package itest

import "time"

// Event is one moment of the application under test: itest/app prints them as JSON lines, the tests wait for them.
type Event struct {
	Event string    `json:"event"` // "start", "state", "task", "restored", "rebalance", "commit", "abort", "record", "slow", "resolved", "fenced", "holding", "released", "exit"
	At    time.Time `json:"at"`

	Pid      int    `json:"pid,omitempty"`
	Instance string `json:"instance,omitempty"`

	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	Task string `json:"task,omitempty"`
	Err  string `json:"err,omitempty"`

	Store    string `json:"store,omitempty"`
	Records  int64  `json:"records,omitempty"`
	Position int64  `json:"position,omitempty"`
	End      int64  `json:"end,omitempty"`
	Rebuild  bool   `json:"rebuild,omitempty"`

	Generation int32    `json:"generation,omitempty"`
	Assigned   []string `json:"assigned,omitempty"`
	Revoked    []string `json:"revoked,omitempty"`
	Lost       []string `json:"lost,omitempty"`

	Worker    int    `json:"worker,omitempty"`
	Outputs   int64  `json:"outputs,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Committed bool   `json:"committed,omitempty"`

	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition,omitempty"`
	Offset    int64  `json:"offset,omitempty"`
	Node      string `json:"node,omitempty"`
	Op        string `json:"op,omitempty"`
	Policy    string `json:"policy,omitempty"`

	Code  int    `json:"code,omitempty"`
	Fault string `json:"fault,omitempty"` // code of the *millrace.Error
	ID    string `json:"id,omitempty"`

	TookMS float64 `json:"took_ms,omitempty"`
}
