package processor

// Policy says what happens to a record that cannot be decoded, processed or encoded, and to an output the broker
// refuses. In every case the record's state writes and outputs are rolled back first. The zero Policy inherits: a node
// takes the application's policy (millrace.OnError), which is Fail unless it was set.
type Policy struct {
	Action Action
	Topic  string // of DeadLetter
}

// Action is the kind of a Policy.
type Action uint8

// The actions. Inherit is the zero value.
const (
	Inherit Action = iota
	ActFail
	ActSkip
	ActDeadLetter
)

// Fail stops the instance: everything before the record is committed, App.Run returns an error that names the record's
// topic, partition, offset and node.
func Fail() Policy { return Policy{Action: ActFail} }

// Skip drops the record, counts it and goes on.
func Skip() Policy { return Policy{Action: ActSkip} }

// DeadLetter writes the original bytes of the record to topic, in the same transaction, with headers that say where it
// came from and what was wrong (docs/format/deadletter.md), and goes on. The topic must exist.
func DeadLetter(topic string) Policy { return Policy{Action: ActDeadLetter, Topic: topic} }

func (p Policy) String() string {
	switch p.Action {
	case ActFail:
		return "fail"
	case ActSkip:
		return "skip"
	case ActDeadLetter:
		return "dead-letter " + p.Topic
	default:
		return "inherit"
	}
}
