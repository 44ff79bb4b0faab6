package runtime

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/txn"
)

const failuresKnown = 16 // of one transaction; there may have been more

// errBehind is why an epoch is aborted that has nothing wrong with it.
var errBehind = errors.New("runtime: the epoch before it was undone")

// abort undoes the epoch being filled: nothing of it is visible to anybody, and its records will be stepped again. What
// became of the epoch before it is waited for: it says what there is to go back to.
func (w *worker) abort(reason error) {
	w.settle()
	e := w.epoch
	if e == nil {
		return // undone with the one before it
	}
	w.undo(e, reason, w.endTxn(e, reason))
}

// endTxn aborts the epoch's transaction, if it has begun one.
func (w *worker) endTxn(e *epoch, reason error) []txn.Failure {
	if e.txn == nil {
		return nil
	}
	if err := e.txn.Abort(w.rt.hard, reason); err != nil {
		w.rt.log.Warn("abort", "worker", w.id, "err", err)
	}
	return e.txn.Failures()
}

// undo discards an epoch in every task, and with it the one behind it, which rests on it. Then it decides when to try
// again.
func (w *worker) undo(e *epoch, reason error, failures []txn.Failure) {
	undone := []*epoch{e}
	if later := w.epoch; later != nil && later != e {
		w.endTxn(later, errBehind) // not for the reason of the other producer, which may be that somebody has fenced it
		undone = append(undone, later)
	}
	var records int64
	for _, e := range undone {
		records += e.records
		for _, run := range e.tasks {
			run.task.Discard()
			run.kept = nil
			run.stats.outputs = 0
			run.ready = true
			run.keeps(run.task.Retained())
		}
	}
	progress := w.condemn(e, failures)
	w.judge(e, reason, failures)
	w.aborts++
	w.tolerate(reason, progress)
	backoff := min(backoffMin<<min(w.aborts-1, 10), backoffMax)
	if w.aborts == 1 || progress {
		backoff = 0 // the usual reason is a rebalance; a second abort in a row is not usual
	}
	w.notBefore = time.Now().Add(backoff)
	w.rt.log.Info("epoch aborted", "worker", w.id, "records", records, "consecutive", w.aborts, "backoff", backoff, "reason", reason)
	w.rt.hooks.abort(observe.Abort{Worker: w.id, Reason: reason, Kind: abortKind(reason), Consecutive: w.aborts, Backoff: backoff})
	for _, e := range undone {
		w.endEpoch(e)
	}
	w.next = w.number(e.slot) // its Begin ends what the abort may have left open
}

// tolerate stops the application when too many epochs in a row were aborted. Those that had to go, and those that narrow down which
// record was refused, say nothing about the cluster.
func (w *worker) tolerate(reason error, progress bool) {
	most := w.rt.cfg.MaxAborts
	if most == 0 || progress {
		return
	}
	switch abortKind(reason) {
	case abortReleased, abortNotOwned, abortClosing:
		return
	}
	if w.failures++; w.failures < most {
		return
	}
	w.rt.fail(&fault.Error{
		Code: "txn/too-many-aborts", Kind: fault.Cluster, Thing: "worker", Value: strconv.Itoa(w.id),
		Reason: fmt.Sprintf("%d epochs in a row were aborted, as many as MaxConsecutiveAborts allows", w.failures),
		Remedy: "the last cause says what to look at; nothing was lost, and a start goes on from the last commit", Err: reason,
	})
}

// judge stops the application where trying again cannot help.
func (w *worker) judge(e *epoch, reason error, failures []txn.Failure) {
	for _, f := range failures {
		// The epoch was aborted before its commit could say what these mean.
		if txn.Classify(txn.PhaseProduce, f.Err) == txn.ActFatal && !refusesRecord(f.Err) {
			w.rt.fail(&fault.Error{
				Code: "cluster/refused", Kind: fault.Cluster, Thing: "topic", Value: f.Record.Topic, Reason: "the brokers refuse to take records",
				Remedy: "grant WRITE on the topic and on the application's transactional ids", Err: f.Err,
			})
			return
		}
		if txn.IsFenced(&txn.Error{Phase: txn.PhaseProduce, Action: txn.Classify(txn.PhaseProduce, f.Err), Err: f.Err}) {
			reason = errors.Join(reason, &txn.Error{
				TxnID: w.txnID(e.slot), Phase: txn.PhaseProduce, Action: txn.ActFenced, Err: f.Err,
			})
			break
		}
	}
	switch {
	case txn.IsFatal(reason):
		w.rt.fail(reason)
	case txn.IsFenced(reason):
		// A survivor may fence a living instance by mistake: it comes back with another client. Again and again, for
		// the same id, means that two processes use it.
		now := time.Now()
		s := e.slot
		s.fenced = append(slices.DeleteFunc(s.fenced, func(t time.Time) bool { return now.Sub(t) > time.Minute }), now)
		if len(s.fenced) > 3 {
			w.rt.fail(errDuplicate(w.rt, w.txnID(e.slot), reason))
		}
	}
}

// condemn turns refusals of the broker into failures of the records that caused them, so that their policy decides. It
// reports whether the next try is nearer to an end than this one.
//
// A broker refuses batches, not records: all records of a batch fail with the one that is to blame. So a record is
// condemned only when nobody else is suspect; otherwise epochs are made smaller and smaller until that is so.
func (w *worker) condemn(e *epoch, failures []txn.Failure) (progress bool) {
	var suspect *produced
	alone := len(failures) < failuresKnown
	var reason error
	for _, f := range failures {
		p := e.slot.slab.find(f.Record)
		if p == nil || !refusesRecord(f.Err) {
			continue
		}
		if p.run == nil || p.store != "" || p.sink == task.SinkControl {
			w.rt.fail(errOurRecordRefused(p, f.Err))
			continue
		}
		if suspect == nil {
			suspect, reason = p, f.Err
		}
		alone = alone && p.run == suspect.run && p.origin.Input == suspect.origin.Input && p.origin.Offset == suspect.origin.Offset
	}
	switch {
	case suspect == nil:
		return false
	case alone || e.records <= 1:
		suspect.run.task.Condemn(suspect.origin, reason)
		return true
	}
	w.narrow = max(1, e.records/2)
	return true
}

// refusesRecord says whether err is about the record itself, so that sending it again cannot help. CORRUPT_MESSAGE is not:
// what arrived was not what was sent.
func refusesRecord(err error) bool {
	for _, e := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidTimestamp, kerr.InvalidRecord, kerr.UnsupportedForMessageFormat} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// txnID is the name the slot's transactions go by.
func (w *worker) txnID(s *slot) string {
	id, err := txn.NewTransactionalID(w.rt.cfg.App, w.rt.instance, w.id, w.number(s))
	if err != nil {
		return ""
	}
	return id.String()
}

func errDuplicate(r *Runtime, txnID string, cause error) error {
	host, _ := os.Hostname()
	return &fault.Error{
		Code: "group/duplicate-instance", Kind: fault.Cluster, Thing: "instance", Value: r.instance,
		Reason: fmt.Sprintf("process %d on host %s was fenced four times within a minute by another process that uses the transactional id %s", os.Getpid(), host, txnID),
		Remedy: "a copied state directory or a name given twice: give every instance its own", Err: cause,
	}
}

func errOurRecordRefused(p *produced, err error) error {
	thing, value := "record of topic", p.Topic
	if p.store != "" {
		thing, value = "changelog record of store", p.store
	}
	return &fault.Error{
		Code: "changelog/refused", Kind: fault.Record, Thing: thing, Value: value,
		Reason: fmt.Sprintf("the broker refused %d bytes", len(p.Key)+len(p.Value)),
		Remedy: "raise max.message.bytes of the topic, or keep smaller values in the store", Err: err,
	}
}
