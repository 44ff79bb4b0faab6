package runtime

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/txn"
)

// errRefused is why an epoch is aborted when the broker or the client refused one of its records.
var errRefused = errors.New("runtime: a record of the epoch was refused")

// commit makes everything durable that was stepped so far, and waits for it. If it cannot, the epoch is undone, and ok is
// false.
func (w *worker) commit(reason string) (ok bool) {
	e := w.epoch
	w.settle()
	switch {
	case e == nil:
		return true
	case w.epoch != e: // undone with the one before it
		return false
	case !w.launch(reason):
		return false
	}
	w.settle()
	return e.durable
}

// launch sends the epoch on its way to being durable: seal the tasks, produce their changelog rows and task records, and
// let the committer flush, commit the offsets and end the transaction (docs/design/0004-transactions.md). No other epoch
// may be on its way. If it cannot, the epoch is undone, and ok is false.
func (w *worker) launch(reason string) (ok bool) {
	e := w.epoch
	f := &flight{epoch: e, reason: reason, sealing: time.Now(), done: make(chan struct{})}
	for _, run := range e.tasks {
		if err := run.task.Finish(); err != nil {
			run.failed = true
			w.abort(err)
			w.rt.fail(err)
			return false
		}
		w.collect(run)
	}
	if !w.handOver() {
		return false
	}
	f.sealed = make([]*task.Epoch, len(e.tasks))
	f.figures = make([]sealedStats, len(e.tasks))
	kept := false // a task has something to keep that is neither a row nor an offset
	for i, run := range e.tasks {
		dirty := run.task.Dirty()
		f.sealed[i] = run.task.Seal()
		f.figures[i] = run.stats.seal(run.task)
		kept = kept || dirty && run.sub.records && !bytes.Equal(f.sealed[i].State, run.kept)
		f.rows += f.sealed[i].Rows.Len()
		if err := f.sealed[i].Err; err != nil { // a row that its changelog cannot take
			run.failed = true
			w.abort(err)
			w.rt.fail(err)
			return false
		}
	}
	offsets := w.offsets(f)
	switch {
	case e.txn != nil || f.rows > 0 || kept:
	case e.records == 0: // nothing was stepped after all
		failed := f.apply(nil)
		e.durable = true
		w.endEpoch(e)
		w.broken(failed)
		return true
	default:
		if err := w.ensureProducer(e.slot); err != nil {
			w.abort(err)
			return false
		}
		f.work = func() (txn.Result, error) { return w.commitOffsets(f, offsets) }
		w.send(f)
		return true
	}

	if err := w.begin(); err != nil {
		w.abort(err)
		return false
	}
	f.id, f.wall = e.txn.ID(), w.rt.cfg.Clock.Now()
	for i, run := range e.tasks {
		n, err := w.produceState(run, f.sealed[i], &f.figures[i], f)
		f.bytes += n
		if err != nil {
			w.abort(err)
			w.rt.fail(err)
			return false
		}
	}
	if chaos.Has(chaos.ApplyBeforeCommit) {
		f.refused = w.apply(f)
	}
	e.txn.Watch(func(m txn.Moment) { w.hear(f, m) })
	f.work = func() (txn.Result, error) { return e.txn.Commit(w.rt.hard, e.claim, offsets) }
	w.send(f)
	return true
}

// produceState hands a task's changed rows and its task record to the producer.
func (w *worker) produceState(run *taskRun, sealed *task.Epoch, figures *sealedStats, f *flight) (bytes int64, err error) {
	e := f.epoch
	err = sealed.Rows.Each(func(store string, key, value []byte) error {
		p := e.slot.slab.take()
		p.run, p.store = run, store
		p.Topic, p.Partition = run.changelogs[store], run.id.Partition
		p.Key, p.Value = key, value
		p.Timestamp = f.wall
		bytes += int64(len(key) + len(value))
		figures.row(store, int64(len(key)+len(value)))
		e.txn.Produce(&p.Record)
		return nil
	})
	if err != nil || !run.sub.records {
		return bytes, err
	}
	p := e.slot.slab.take()
	record := changelog.TaskRecord{Commit: f.id, StreamTime: sealed.StreamTime, Now: sealed.Now, Inputs: sealed.Offsets, State: sealed.State}
	run.kept = sealed.State
	p.Topic, p.Partition = w.rt.plan.tasksTopic, run.id.Partition
	p.Key, p.Value = []byte(run.id.String()), record.Append(nil)
	p.Timestamp = f.wall
	e.txn.Produce(&p.Record)
	return bytes + int64(len(p.Value)), nil
}

// offsets are the positions of every input of every task of the epoch.
func (w *worker) offsets(f *flight) []txn.Offset {
	var out []txn.Offset
	for i, s := range f.sealed {
		run := f.epoch.tasks[i]
		for j, in := range s.Offsets {
			out = append(out, txn.Offset{
				Topic: in.Topic, TopicID: w.rt.plan.topicID(in.Topic), Partition: in.Partition,
				Offset: in.Offset, LeaderEpoch: in.LeaderEpoch,
				StreamTime: s.StreamTime, Now: s.Now, Previous: run.previous[j],
			})
		}
	}
	return out
}

// commitOffsets ends an epoch that produced nothing: its records were filtered out, only offsets moved. An ordinary offset
// commit is enough, and a transaction would not do it: kgo ends a transaction that produced nothing without a word to
// the broker. No transaction of the worker may be open meanwhile: the epoch behind this one begins none before this one is
// durable, and what an earlier abort left open is ended first. Called by the committer.
func (w *worker) commitOffsets(f *flight, offsets []txn.Offset) (txn.Result, error) {
	for i := range w.slots {
		if p := w.slots[i].producer; p != nil && p.Loose() {
			ctx, cancel := context.WithTimeout(w.rt.hard, w.rt.cfg.TransactionTimeout)
			err := p.Settle(ctx)
			cancel()
			if err != nil {
				return txn.Aborted, err
			}
		}
	}
	e := f.epoch
	id, err := e.slot.producer.CommitOffsets(w.rt.hard, e.tasks[0].group.cl, e.claim, offsets)
	if err != nil {
		return txn.Aborted, err
	}
	f.id = id
	return txn.Committed, nil
}

// remember notes the commit id the group now holds for every input of the epoch.
func (e *epoch) remember(id txn.CommitID) {
	for _, run := range e.tasks {
		for i := range run.previous {
			run.previous[i] = id
		}
	}
}

// apply moves the committed epoch into the tasks' databases, each with its checkpoint in the same batch.
func (w *worker) apply(f *flight) []failedApply {
	e := f.epoch
	if e.txn == nil {
		return f.apply(nil)
	}
	e.txn.Ends(func(topic string, partition int32, next int64) {
		for _, run := range e.tasks {
			run.noteEnd(topic, partition, next)
		}
	})
	return f.apply(func(i int) []byte {
		if run := e.tasks[i]; run.sub.stateful {
			return run.checkpoint(f.id, f.sealed[i], f.wall)
		}
		return nil
	})
}

// failedApply is a task whose database refused a committed epoch.
type failedApply struct {
	run *taskRun
	err error
}

// apply tells every task that the epoch is committed, each with its checkpoint row.
func (f *flight) apply(checkpoint func(i int) []byte) (failed []failedApply) {
	for i, run := range f.epoch.tasks {
		var row []byte
		if checkpoint != nil {
			row = checkpoint(i)
		}
		if err := run.task.Committed(f.sealed[i], row); err != nil {
			failed = append(failed, failedApply{run, err})
		}
	}
	return failed
}

// broken takes tasks out whose database failed, after the epoch has ended. What was committed is safe in the changelog:
// the task restores again, the worker's other tasks go on.
func (w *worker) broken(failed []failedApply) {
	for _, f := range failed {
		if f.run.gone {
			continue // the commit before this found it out as well
		}
		if w.epoch.has(f.run) { // what it has stepped since rests on what the database does not have
			w.abort(f.err)
		}
		w.rt.log.Error("the task's database failed; restoring it again", "task", f.run.id.String(), "err", f.err)
		w.drop(f.run)
		f.run.group.reopen(f.run, f.err)
	}
}
