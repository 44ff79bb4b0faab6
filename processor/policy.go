package processor

import (
	"strconv"
	"time"
)

// Policy says what happens to a record that cannot be decoded, processed or encoded, and to an output the broker
// refuses. In every case the record's state writes and outputs are rolled back first. The zero Policy inherits: a node
// takes the application's policy (millrace.OnError), which is Fail unless it was set.
type Policy struct {
	Action Action
	Topic  string // of DeadLetter

	// Of Retry. Action and Topic say what happens when it has been tried often enough.
	Attempts int
	Backoff  time.Duration

	retry, nested bool // made by Retry; around another
}

// Action is the kind of a Policy.
type Action uint8

// The actions. Inherit is the zero value.
const (
	Inherit Action = iota
	ActFail
	ActSkip
	ActDeadLetter
	// ActRetry is never the Action of a Policy, which says what comes after the last try. It is what observers are told when there
	// will be another.
	ActRetry
)

// Fail stops the instance: everything before the record is committed, App.Run returns an error that names the record's
// topic, partition, offset and node.
func Fail() Policy { return Policy{Action: ActFail} }

// RetryBackoffMax is the longest pause between two tries of Retry.
const RetryBackoffMax = 5 * time.Minute

// Retry tries the record again, at most n times, and then does what the policy then says. It waits for backoff before the first
// retry and twice as long before each further one, five minutes at most. The record's task waits: what comes behind it in the
// task is held up, in order, and what came before it is committed as usual; other tasks go on. How often it was tried is
// committed too, so a restart does not begin anew, unless it was Fail that came after the last try. Success, or what comes after
// the last try, ends the count. An output that the broker refuses is not tried again: nothing about it would change.
//
// Retry is for causes that pass, such as a service that is not there. It is allowed where bytes do not decode, for the sake of codecs
// that ask a registry; bytes that never will decode hold their task up for nothing.
//
// n is at least 1, backoff is not negative (a pause has at least a millisecond), and then is Fail, Skip or DeadLetter: Build and New
// refuse everything else.
func Retry(n int, backoff time.Duration, then Policy) Policy {
	then.nested = then.retry
	then.Attempts, then.Backoff, then.retry = n, backoff, true
	return then
}

// Mistake says what is wrong with the policy, "" if nothing is.
func (p Policy) Mistake() (reason string) {
	switch {
	case p.Action > ActDeadLetter:
		return "there is no such action"
	case !p.retry && p.Attempts == 0 && p.Backoff == 0:
		return ""
	case p.nested:
		return "Retry stands around another Retry"
	case p.Attempts < 1:
		return "Retry tries " + strconv.Itoa(p.Attempts) + " times"
	case p.Backoff < 0:
		return "Retry waits for " + p.Backoff.String()
	case p.Action == Inherit:
		return "Retry does not say what comes after the last try"
	}
	return ""
}

// Pause is how long to wait before try n, counted from 1.
func (p Policy) Pause(n int) time.Duration {
	d := p.Backoff
	for ; n > 1 && d < RetryBackoffMax; n-- {
		d *= 2
	}
	return min(d, RetryBackoffMax)
}

// Skip drops the record, counts it and goes on.
func Skip() Policy { return Policy{Action: ActSkip} }

// DeadLetter writes the original bytes of the record to topic, in the same transaction, with headers that say where it
// came from and what was wrong (docs/format/deadletter.md), and goes on. The topic must exist.
func DeadLetter(topic string) Policy { return Policy{Action: ActDeadLetter, Topic: topic} }

func (p Policy) String() string {
	if p.retry || p.Attempts > 0 {
		then := p
		then.Attempts, then.Backoff, then.retry, then.nested = 0, 0, false, false
		return "retry " + strconv.Itoa(p.Attempts) + " times from " + p.Backoff.String() + ", then " + then.String()
	}
	switch p.Action {
	case ActFail:
		return "fail"
	case ActSkip:
		return "skip"
	case ActDeadLetter:
		return "dead-letter " + p.Topic
	case ActRetry:
		return "retry"
	default:
		return "inherit"
	}
}
