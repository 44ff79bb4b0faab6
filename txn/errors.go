package txn

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Phase is what was being done when an error came.
type Phase uint8

// The phases of a transaction's life.
const (
	PhaseInit    Phase = iota // InitProducerID
	PhaseProduce              // a record's promise
	PhaseOffsets              // TxnOffsetCommit
	PhaseEnd                  // EndTxn(commit)
	PhasePlain                // OffsetCommit, outside of any transaction
	PhaseFetch                // OffsetFetch
	PhaseAbort                // EndTxn(abort)
)

func (p Phase) String() string {
	return [...]string{"init", "produce", "offsets", "end", "plain commit", "fetch", "abort"}[p]
}

// Action is what an error asks for. Of several errors of one request the greatest counts.
type Action uint8

// The actions.
const (
	// ActRetry: the same request again, after a while.
	ActRetry Action = iota + 1
	// ActRefresh: ask the ownership again, and send again under what it says.
	ActRefresh
	// ActAbort: the transaction is aborted; the client stays.
	ActAbort
	// ActFenced: somebody else initialised the transactional id. Abort, and make another client.
	ActFenced
	// ActRecreate: abort, and make another client. Whatever nobody has classified.
	ActRecreate
	// ActResolve: it is not known whether the transaction was committed; find out.
	ActResolve
	// ActFatal: abort; trying again cannot help before a person has changed something.
	ActFatal
)

func (a Action) String() string {
	return [...]string{"", "retry", "refresh", "abort", "fenced", "recreate", "resolve", "fatal"}[a]
}

// otherwise is the action for everything the table does not name, transport errors included. Plain commits
// and fetches need no new client: no transaction depends on them.
var otherwise = [...]Action{
	PhaseInit:    ActRecreate,
	PhaseProduce: ActRecreate,
	PhaseOffsets: ActRecreate,
	PhaseEnd:     ActResolve,
	PhasePlain:   ActAbort,
	PhaseFetch:   ActRetry,
	PhaseAbort:   ActRecreate,
}

// table says what an error code means, by phase. A retry within the client (kgo retries coordinator moves, retriable produce
// errors and broken connections by itself) has happened before a code arrives here.
//
// PhaseEnd has no entries on purpose. kgo sends EndTxn again after a broken connection, so even a definite refusal may be the
// answer to the second request while the first one was applied: we commit, the answer is lost, a survivor fences us, the
// repeated EndTxn is told PRODUCER_FENCED, and the epoch is committed. To look costs two requests, and is always right.
var table = [...]map[*kerr.Error]Action{
	PhaseInit: {
		kerr.ConcurrentTransactions:             ActRetry,
		kerr.CoordinatorLoadInProgress:          ActRetry,
		kerr.CoordinatorNotAvailable:            ActRetry,
		kerr.NotCoordinator:                     ActRetry,
		kerr.RequestTimedOut:                    ActRetry,
		kerr.NetworkException:                   ActRetry,
		kerr.ThrottlingQuotaExceeded:            ActRetry,
		kerr.TransactionalIDAuthorizationFailed: ActFatal,
		kerr.ClusterAuthorizationFailed:         ActFatal,
		kerr.SaslAuthenticationFailed:           ActFatal,
		kerr.InvalidTransactionTimeout:          ActFatal,
		kerr.UnsupportedVersion:                 ActFatal,
	},
	PhaseProduce: {
		kerr.MessageTooLarge:                    ActAbort,
		kerr.RecordListTooLarge:                 ActAbort,
		kerr.InvalidRecord:                      ActAbort,
		kerr.InvalidTimestamp:                   ActAbort,
		kerr.InvalidTopicException:              ActAbort,
		kerr.UnknownTopicOrPartition:            ActAbort,
		kerr.TransactionAbortable:               ActAbort,
		kerr.PolicyViolation:                    ActAbort,
		kerr.InvalidProducerEpoch:               ActFenced,
		kerr.ProducerFenced:                     ActFenced,
		kerr.TopicAuthorizationFailed:           ActFatal,
		kerr.TransactionalIDAuthorizationFailed: ActFatal,
		kerr.ClusterAuthorizationFailed:         ActFatal,
		kerr.SaslAuthenticationFailed:           ActFatal,
		kerr.UnsupportedVersion:                 ActFatal,
		kerr.UnsupportedForMessageFormat:        ActFatal,
	},
	PhaseOffsets: {
		kerr.ConcurrentTransactions:             ActRetry,
		kerr.CoordinatorLoadInProgress:          ActRetry,
		kerr.CoordinatorNotAvailable:            ActRetry,
		kerr.NotCoordinator:                     ActRetry,
		kerr.RequestTimedOut:                    ActRetry,
		kerr.NetworkException:                   ActRetry,
		kerr.UnknownTopicOrPartition:            ActRetry, // metadata in flight after a topic's creation; a deleted one stays unknown to the bound
		kerr.ThrottlingQuotaExceeded:            ActRetry,
		kerr.IllegalGeneration:                  ActRefresh,
		kerr.RebalanceInProgress:                ActRefresh,
		kerr.StaleMemberEpoch:                   ActRefresh,
		kerr.UnknownMemberID:                    ActAbort,
		kerr.FencedInstanceID:                   ActAbort,
		kerr.FencedMemberEpoch:                  ActAbort,
		kerr.GroupIDNotFound:                    ActAbort,
		kerr.UnknownTopicID:                     ActAbort,
		kerr.OffsetMetadataTooLarge:             ActAbort,
		kerr.InvalidCommitOffsetSize:            ActAbort,
		kerr.TransactionAbortable:               ActAbort,
		kerr.InvalidProducerEpoch:               ActFenced,
		kerr.ProducerFenced:                     ActFenced,
		kerr.TopicAuthorizationFailed:           ActFatal,
		kerr.GroupAuthorizationFailed:           ActFatal,
		kerr.TransactionalIDAuthorizationFailed: ActFatal,
		kerr.ClusterAuthorizationFailed:         ActFatal,
		kerr.SaslAuthenticationFailed:           ActFatal,
		kerr.UnsupportedVersion:                 ActFatal,
		kerr.UnsupportedForMessageFormat:        ActFatal,
		kerr.InvalidGroupID:                     ActFatal,
	},
	PhaseEnd: {},
	PhasePlain: {
		kerr.CoordinatorLoadInProgress:  ActRetry,
		kerr.CoordinatorNotAvailable:    ActRetry,
		kerr.NotCoordinator:             ActRetry,
		kerr.RequestTimedOut:            ActRetry,
		kerr.NetworkException:           ActRetry,
		kerr.UnknownTopicOrPartition:    ActRetry,
		kerr.ThrottlingQuotaExceeded:    ActRetry,
		kerr.IllegalGeneration:          ActRefresh,
		kerr.RebalanceInProgress:        ActRefresh,
		kerr.StaleMemberEpoch:           ActRefresh,
		kerr.TopicAuthorizationFailed:   ActFatal,
		kerr.GroupAuthorizationFailed:   ActFatal,
		kerr.ClusterAuthorizationFailed: ActFatal,
		kerr.SaslAuthenticationFailed:   ActFatal,
		kerr.UnsupportedVersion:         ActFatal,
		kerr.InvalidGroupID:             ActFatal,
	},
	PhaseFetch: {
		kerr.TopicAuthorizationFailed:   ActFatal,
		kerr.GroupAuthorizationFailed:   ActFatal,
		kerr.ClusterAuthorizationFailed: ActFatal,
		kerr.SaslAuthenticationFailed:   ActFatal,
		kerr.UnsupportedVersion:         ActFatal,
		kerr.InvalidGroupID:             ActFatal,
	},
	PhaseAbort: {
		kerr.ProducerFenced:       ActFenced,
		kerr.InvalidProducerEpoch: ActFenced,
	},
}

// Classify says what err, met in phase, asks for. err must not be nil.
func Classify(phase Phase, err error) Action {
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		if a, ok := table[phase][ke]; ok {
			return a
		}
	}
	return otherwise[phase]
}

// Error is what a transaction failed with: where, and what it means. errors.As and errors.Is reach the cause, a *kerr.Error
// when a broker said it.
type Error struct {
	TxnID  string
	Phase  Phase
	Action Action
	Err    error
}

// Error prints "txn <id>: <phase>: <cause> (<action>)".
func (e *Error) Error() string {
	who := "txn"
	if e.TxnID != "" {
		who += " " + e.TxnID
	}
	return fmt.Sprintf("%s: %s: %v (%s)", who, e.Phase, e.Err, e.Action)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// IsFatal reports whether err says that trying again cannot help before a person has changed something: authorization,
// a transaction timeout the broker does not allow, a broker that is too old. When the failure is one of the cluster's
// configuration, the tree holds a *fault.Error with a remedy.
func IsFatal(err error) bool {
	for e := range all(err) {
		if e.Action == ActFatal {
			return true
		}
	}
	return false
}

// IsFenced reports whether err says that somebody else initialised the transactional id.
func IsFenced(err error) bool {
	for e := range all(err) {
		if e.Action == ActFenced || errors.Is(e.Err, kerr.ProducerFenced) || errors.Is(e.Err, kerr.InvalidProducerEpoch) {
			return true
		}
	}
	return false
}

// all yields every *Error of err's tree.
func all(err error) func(yield func(*Error) bool) {
	return func(yield func(*Error) bool) { visit(err, yield) }
}

func visit(err error, yield func(*Error) bool) bool {
	if e, ok := err.(*Error); ok && !yield(e) { //nolint:errorlint // the tree is walked by hand
		return false
	}
	switch u := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		if next := u.Unwrap(); next != nil {
			return visit(next, yield)
		}
	case interface{ Unwrap() []error }:
		for _, next := range u.Unwrap() {
			if !visit(next, yield) {
				return false
			}
		}
	}
	return true
}

// Errors that are not a broker's.
var (
	// ErrProduced: a record of the transaction was refused; Failures has the first.
	ErrProduced = errors.New("txn: a record was refused")
	// ErrNoOffset: the client takes a record for written but cannot say where, as after DUPLICATE_SEQUENCE_NUMBER.
	ErrNoOffset = errors.New("txn: a record was written at an unknown offset")
	// ErrNothingProduced: Commit of a transaction without a record. kgo would end it without telling the broker.
	ErrNothingProduced = errors.New("txn: nothing was produced in the transaction")
	// ErrProducerChanged: the client took another producer id inside the transaction; what it sent before is gone.
	ErrProducerChanged = errors.New("txn: the producer id changed inside the transaction")
	// ErrNoneOwned: an unknown outcome cannot be looked up, since no task of the epoch is owned any more.
	ErrNoneOwned = errors.New("txn: no task of the epoch is owned any more")
	// ErrForeignCommit: an unknown outcome cannot be told, since another owner has committed in between.
	ErrForeignCommit = errors.New("txn: another owner has committed in between")
	// ErrUnstable: offsets cannot be read yet, a transaction that touches them is open. Ask again in 20 ms.
	ErrUnstable = errors.New("txn: an open transaction holds the offsets")
	// ErrBusy: a transaction of this producer is open.
	ErrBusy = errors.New("txn: a transaction is open")
	// ErrEnded: the transaction has been committed or aborted already.
	ErrEnded = errors.New("txn: the transaction has ended")
	// ErrClosed: the producer was closed.
	ErrClosed = errors.New("txn: the producer is closed")
	// ErrShortAnswer: a broker answered for fewer partitions than it was asked about.
	ErrShortAnswer = errors.New("txn: the answer does not name every partition")
)
