package streamtest

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
	"github.com/millrace-io/millrace/txn"
)

// running is one task and how far it has been fed.
type running struct {
	id     processor.TaskID
	sub    *topology.Subtopology
	db     *store.DB
	task   *task.Task
	inputs []task.Input
	fed    []int   // records of each input's log that were enqueued
	ends   []int64 // of each input, as the task knows them
}

// start makes every task: its database, restored, and its kernel at the group's offsets.
func (d *Driver) start() error {
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for _, sub := range d.top.Subtopologies() {
		for p := range d.widths[sub.Name] {
			r, err := d.startTask(sub, p)
			if err != nil {
				return fmt.Errorf("task %s/%d: %w", sub.Name, p, err)
			}
			d.tasks = append(d.tasks, r)
		}
	}
	return nil
}

func (d *Driver) startTask(sub *topology.Subtopology, p int32) (*running, error) {
	r := &running{id: processor.TaskID{Subtopology: sub.Name, Partition: p}, sub: sub}
	from, known := d.broker.group[r.id]
	if !known {
		from = position{streamTime: -1, now: d.now}
	}
	var err error
	if r.db, err = d.openState(r, from); err != nil {
		return nil, err
	}
	c := task.Config{
		Context: d.ctx, ID: r.id, App: d.o.app, Sub: sub, DB: r.db, OnError: d.o.onError,
		MaxChangelogBytes: d.o.changelog, Observer: d.observe,
	}
	for _, sink := range sub.Sinks {
		name := sink.Topic.Resolve(d.o.app)
		c.SinkPartitions = append(c.SinkPartitions, int32(len(d.topic(name).parts)))
		c.MaxRecordBytes = append(c.MaxRecordBytes, d.o.maxBytes[name])
	}
	c.Writers = make([]int32, len(sub.Sources))
	for i, src := range sub.Sources {
		c.Writers[i] = d.widths[src.Writer]
		if src.Broadcast != "" {
			continue
		}
		t := d.topic(src.Topic.Resolve(d.o.app))
		if int(p) >= len(t.parts) {
			continue
		}
		in := task.Input{Source: i, Topic: t.name, Partition: p}
		if known {
			in.Start = from.offsets[len(c.Inputs)]
		}
		c.Inputs = append(c.Inputs, in)
	}
	for i, src := range sub.Sources {
		if src.Broadcast != "" {
			c.Inputs = append(c.Inputs, task.Input{Source: i, Topic: src.Topic.Resolve(d.o.app), Broadcast: src.Broadcast})
		}
	}
	r.inputs = c.Inputs
	r.fed, r.ends = make([]int, len(c.Inputs)), make([]int64, len(c.Inputs))
	if r.task, err = task.New(c, task.Start{StreamTime: from.streamTime, Now: max(from.now, d.now), State: from.state}); err != nil {
		return nil, err
	}
	r.task.Tick(d.now)
	return r, nil
}

// feed gives a task what its topics have and it has not seen.
func (d *Driver) feed(r *running) {
	for i, in := range r.inputs {
		part := &d.broker.topics[in.Topic].parts[in.Partition]
		if r.ends[i] == part.end && r.fed[i] == len(part.records) {
			r.task.SetEnd(i, part.end)
			r.task.SetHigh(i, part.end)
			continue
		}
		r.task.Enqueue(task.Batch{Input: i, Records: part.records[r.fed[i]:], Next: part.end, Epoch: 0})
		r.task.SetEnd(i, part.end)
		r.task.SetHigh(i, part.end)
		r.fed[i], r.ends[i] = len(part.records), part.end
	}
}

// run processes all there is, one record of each task in turn.
func (d *Driver) run() {
	d.t.Helper()
	for !d.holding && d.err == nil {
		progress := false
		for _, r := range d.tasks {
			d.feed(r)
			res, err := r.task.Step(1, nil)
			for _, out := range r.task.Outputs() {
				d.txn.add(d.topic(out.Topic), &out, r)
			}
			done := res.Records + res.Timers + res.Moves
			d.stepped += done
			progress = progress || done > 0
			switch {
			case err != nil && d.refused():
				// What came before the bad record cannot be committed as it is. It comes again, and the bad one with it.
				progress, err = true, nil
			case err == nil && d.o.every > 0 && d.stepped >= d.o.every:
				err = d.commit()
			}
			if err != nil {
				d.fail(err)
				return
			}
		}
		if !progress {
			return
		}
	}
}

// fail ends the application. What was processed before the record is committed, as in production.
func (d *Driver) fail(err error) {
	d.t.Helper()
	if d.err == nil {
		d.err = err
		if e := d.commit(); e != nil {
			d.fatalf("committing what came before the failure (%v): %v", err, e)
		}
	}
	if !d.o.allowFail && !d.trying {
		d.fatalf("the application has failed: %v", d.err)
	}
}

func (d *Driver) dirty() bool {
	for _, r := range d.tasks {
		if r.task.Dirty() {
			return true
		}
	}
	return false
}

// discard aborts the epoch.
func (d *Driver) discard() {
	d.txn.abort()
	d.stepped = 0
	for _, r := range d.tasks {
		r.task.Discard()
	}
}

// refused looks for an output the broker does not take; its record is condemned and the epoch aborted.
func (d *Driver) refused() bool {
	for i := range d.txn.records {
		p := &d.txn.records[i]
		if f := d.refuse[p.topic.name]; f != nil && !p.control {
			if err := f(p.record.Key, p.record.Value); err != nil {
				origin, from := p.origin, p.from
				d.discard()
				from.task.Condemn(origin, err)
				return true
			}
		}
	}
	return false
}

// commit ends the epoch of all tasks in one transaction.
func (d *Driver) commit() error {
	if !d.dirty() {
		return nil
	}
	for _, r := range d.tasks {
		if err := r.task.Finish(); err != nil {
			d.discard()
			return err
		}
		for _, out := range r.task.Outputs() {
			d.txn.add(d.topic(out.Topic), &out, r)
		}
	}
	if d.refused() {
		return nil // it is replayed by the next turn of run, or by the next Commit
	}
	type part struct {
		r *running
		e *task.Epoch
	}
	var parts []part
	for _, r := range d.tasks {
		if !r.task.Dirty() {
			continue
		}
		e := r.task.Seal()
		if e.Err != nil {
			d.discard()
			return e.Err
		}
		parts = append(parts, part{r, e})
	}
	d.commits++
	for _, p := range parts {
		if err := d.durable(p.r, p.e); err != nil {
			return err
		}
	}
	d.txn.commit()
	for _, p := range parts {
		if err := p.r.task.Committed(p.e, d.checkpoint(p.r, p.e)); err != nil {
			return err
		}
	}
	d.stepped = 0
	return nil
}

// durable writes an epoch's changelog and offsets.
func (d *Driver) durable(r *running, e *task.Epoch) error {
	pos := position{streamTime: e.StreamTime, now: e.Now, state: e.State, commit: d.commits}
	for _, o := range e.Offsets {
		pos.offsets = append(pos.offsets, o.Offset)
	}
	d.broker.group[r.id] = pos
	var wrote []*changelogTopic
	err := e.Rows.Each(func(name string, key, value []byte) error {
		c := d.broker.changelogs[name]
		c.append(r.id.Partition, key, value)
		if !slices.Contains(wrote, c) {
			wrote = append(wrote, c)
		}
		return nil
	})
	for _, c := range wrote {
		c.parts[r.id.Partition].end++ // the control record of the transaction
	}
	return err
}

// checkpoint is the row that says how much a database holds after an epoch.
func (d *Driver) checkpoint(r *running, e *task.Epoch) []byte {
	c := changelog.Checkpoint{
		Commit: txn.CommitID{TxnID: "streamtest", Seq: d.commits}, WallTime: d.now,
		StreamTime: e.StreamTime, Now: e.Now, Inputs: e.Offsets, State: e.State,
	}
	for _, spec := range r.sub.Stores {
		c.Stores = append(c.Stores, changelog.StoreOffset{Store: spec.Name(), Offset: d.broker.changelogs[spec.Name()].end(r.id.Partition)})
	}
	return c.Append(nil)
}
