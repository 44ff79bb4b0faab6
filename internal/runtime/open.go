package runtime

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/txn"
)

// open brings a task from its assignment to its worker: wait for the earlier incarnation, find out which source is true,
// restore, wire. It runs on a goroutine of its own: a restoring task never holds up a running one.
func (t *taskRun) open() {
	err := t.prepare()
	if err == nil && t.hand() {
		t.rt.broadcasts.subscribe(t)
		return
	}
	t.giveBack(err)
}

// giveBack ends an incarnation that did not come to run. A refusal stops the application, since a person has to look at
// it; what time may heal is tried again.
func (t *taskRun) giveBack(err error) {
	wanted := t.ctx.Err() == nil
	again := wanted && (passes(err) || t.failures > 0 && diskFailed(err))
	if wanted && !again {
		t.group.failed(t, err)
	}
	t.close()
	if again {
		t.rt.log.Warn("a task cannot be opened yet", "task", t.id.String(), "tries", t.failures+1, "err", err)
		t.group.reopen(t, err)
	}
}

// passes reports whether an error of opening a task is one of brokers that come and go. Refusals are typed.
func passes(err error) bool {
	var refused *fault.Error
	var path *fs.PathError
	var said *kerr.Error
	switch {
	case errors.As(err, &refused), errors.As(err, &path), txn.IsFatal(err):
		return false
	case errors.As(err, &said):
		return said.Retriable || errors.Is(said, kerr.UnknownServerError) || errors.Is(said, kerr.UnstableOffsetCommit)
	}
	return true
}

// diskFailed reports whether an error is of a task's database: restoring it into a new one may help.
func diskFailed(err error) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Kind == fault.State && strings.HasPrefix(f.Code, "store/")
}

func (t *taskRun) prepare() error {
	if t.prev != nil {
		select {
		case <-t.prev:
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
	t.setState(taskRestoring, nil)
	if t.sub.stateful {
		if err := t.openDB(); err != nil {
			return err
		}
	} else if err := t.openEmpty(); err != nil {
		return err
	}
	t.stats.db.Store(t.db)
	found := t.foundAtStart()
	var parts []changelog.Part
	if t.sub.records {
		var err error
		if parts, err = t.look(found); err != nil {
			return err
		}
	}
	decision := changelog.Decide(found)
	switch {
	case decision.Action == changelog.Refuse:
		return decision.Err
	case decision.Alarm:
		t.rt.log.Warn(decision.Say, "task", t.id.String())
	case decision.Say != "":
		t.rt.log.Info(decision.Say, "task", t.id.String())
	}
	for i, k := range t.keys {
		if decision.Inputs[i] < 0 {
			decision.Inputs[i] = t.start[k]
		}
	}
	if t.sub.stateful {
		if err := t.restore(found, decision, parts); err != nil {
			return err
		}
	}
	return t.wire(decision)
}

// foundAtStart is what the group said about the task's inputs.
func (t *taskRun) foundAtStart() *changelog.Found {
	f := &changelog.Found{
		Task: t.id.String(), Group: t.rt.cfg.App, Stateful: t.sub.stateful, TasksEnd: -1,
		AcceptOffsets: t.rt.cfg.AcceptOffsets, Guarantee: t.rt.cfg.Guarantee,
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.previous = make([]txn.CommitID, len(t.keys))
	for i, k := range t.keys {
		in := t.found[k]
		f.Inputs = append(f.Inputs, in)
		t.previous[i] = in.Meta.Commit
		if in.Offset < 0 {
			t.previous[i] = t.began
		}
	}
	return f
}

// look lists the ends of everything the task restores from, and reads its record. It comes after the stable fetch of its
// offsets: what an earlier owner committed until then is below these ends.
func (t *taskRun) look(f *changelog.Found) ([]changelog.Part, error) {
	if row, ok, err := t.db.Checkpoint(); err != nil {
		return nil, err
	} else if ok {
		c, err := changelog.ParseCheckpoint(row)
		if err != nil {
			return nil, err
		}
		f.Checkpoint = &c
	}
	ends := t.earlyEnds
	if ends == nil {
		var err error
		if ends, err = t.listEnds(t.ctx); err != nil {
			return nil, err
		}
	}
	p := t.rt.plan
	var parts []changelog.Part
	for _, s := range t.sub.Stores {
		topic := t.changelogs[s.Name()]
		e := ends[changelog.TopicPartition{Topic: topic, Partition: t.id.Partition}]
		f.Changelogs = append(f.Changelogs, changelog.FoundChangelog{Store: s.Name(), Start: e.Start, End: e.End})
		part := changelog.Part{
			Store: s.Name(), Topic: topic, ID: p.topicID(topic), Partition: t.id.Partition, From: -1, End: e.End,
			DeleteRetention: t.rt.deleteRetention[topic],
		}
		if f.Checkpoint != nil {
			if at, ok := f.Checkpoint.Store(s.Name()); ok {
				part.From = at
			}
		}
		parts = append(parts, part)
	}
	e := ends[changelog.TopicPartition{Topic: p.tasksTopic, Partition: t.id.Partition}]
	f.TasksEnd = e.End
	from := int64(-1)
	if f.Checkpoint != nil {
		from = f.Checkpoint.Tasks
	}
	if from > e.End {
		from = -1 // a checkpoint ahead of Kafka: Decide will say so
	}
	keys := []string{string(changelog.TaskKey(t.id.Subtopology, t.id.Partition))}
	for _, name := range t.sub.absorbs {
		keys = append(keys, string(changelog.TaskKey(name, t.id.Partition)))
	}
	records, err := t.rt.restorer.TaskRecords(t.ctx, changelog.Part{
		Topic: p.tasksTopic, ID: p.topicID(p.tasksTopic), Partition: t.id.Partition, From: from, End: e.End,
	}, keys...)
	if err != nil {
		return nil, err
	}
	t.tasksEnd = records.Next
	if r, ok := records.ByKey[keys[0]]; ok {
		f.Record = &r
	} else if f.Checkpoint != nil && !records.FromStart {
		if r, ok := f.Checkpoint.Record(); ok {
			f.Record = &r
		}
	}
	for _, key := range keys[1:] {
		f.Record = absorb(f.Record, records.ByKey[key])
	}
	return parts, nil
}

// absorb adds the inputs of a subtopology that has become part of this one to its record.
func absorb(r *changelog.TaskRecord, other changelog.TaskRecord) *changelog.TaskRecord {
	if r == nil || len(other.Inputs) == 0 {
		return r
	}
	for _, in := range other.Inputs {
		if _, known := r.Input(in.Topic, in.Partition); !known {
			r.Inputs = append(r.Inputs, in)
		}
	}
	return r
}

func (t *taskRun) listEnds(ctx context.Context) (map[changelog.TopicPartition]changelog.Ends, error) {
	logs := []changelog.TopicPartition{{Topic: t.rt.plan.tasksTopic, Partition: t.id.Partition}}
	for _, topic := range t.changelogs {
		logs = append(logs, changelog.TopicPartition{Topic: topic, Partition: t.id.Partition})
	}
	return changelog.ListEnds(ctx, t.rt.admin, logs)
}

// listEndsEarly is a seeded bug: the ends are listed before the offsets are fetched.
func (t *taskRun) listEndsEarly() {
	if ends, err := t.listEnds(t.ctx); err == nil && chaos.Has(chaos.RestoreEndBeforeFetch) {
		t.earlyEnds = ends
	}
}

// restore brings the local copy up to the ends.
func (t *taskRun) restore(f *changelog.Found, d changelog.Decision, parts []changelog.Part) error {
	base := f.Checkpoint
	now := t.rt.cfg.Clock.Now().UnixMilli()
	if d.Action == changelog.RebuildLocal {
		if err := t.db.Clear(); err != nil {
			return err
		}
		base = nil
		for i := range parts {
			parts[i].From = -1
		}
	}
	names := make([]string, len(parts))
	for i := range parts {
		names[i] = parts[i].Store
	}
	t.db.SetClocks(max(now, d.Now), d.StreamTime) // what has expired is not restored
	target := changelog.NewDBTarget(t.db, names, base, now)
	defer target.Close()
	target.Expect(recordsToRead(f, parts))
	request := changelog.Request{Task: t.id.String(), Parts: parts, Target: target, Now: now}
	if base != nil {
		request.WallTime = base.WallTime
	}
	began := time.Now()
	result := <-t.rt.restorer.Add(t.ctx, request)
	if result.Err != nil {
		return result.Err
	}
	if d.OnRecords != nil && result.Records > 0 {
		return errors.Join(d.OnRecords, t.db.Clear())
	}
	if result.Rebuilt != nil {
		t.rt.log.Warn("the local copy could not be trusted and was rebuilt from the changelog", "task", t.id.String(), "reason", result.Rebuilt)
	}
	for i, name := range names {
		t.ends[name] = result.Positions[i]
	}
	t.rt.log.Info("restored", "task", t.id.String(), "records", result.Records, "bytes", result.Bytes, "took", time.Since(began))

	// From here on the copy says what it is: everything up to the group's offsets.
	c := target.Checkpoint()
	c.WallTime, c.StreamTime, c.Now, c.State, c.Tasks, c.Inputs = now, d.StreamTime, d.Now, d.State, t.tasksEnd, nil
	if f.Record != nil {
		c.Commit = d.Commit
	}
	for i, k := range t.keys {
		c.Inputs = append(c.Inputs, changelog.InputOffset{Topic: k.topic, Partition: k.partition, Offset: d.Inputs[i], LeaderEpoch: -1})
	}
	if err := t.db.SetCheckpoint(c.Append(nil)); err != nil {
		return err
	}
	return t.db.Warm()
}

// recordsToRead is how many records there are to restore from at most: offsets, of which compaction and markers take some.
func recordsToRead(f *changelog.Found, parts []changelog.Part) (n int64) {
	for i := range parts {
		n += max(0, parts[i].End-max(parts[i].From, f.Changelogs[i].Start))
	}
	return n
}

// wire makes the kernel of the task.
func (t *taskRun) wire(d changelog.Decision) error {
	p := t.rt.plan
	inputs := slices.Clone(t.inputs)
	for i := range inputs {
		inputs[i].Start = d.Inputs[i]
	}
	t.announced = p.broadcastInputs(t.sub)
	inputs = append(inputs, t.announced...)
	counts := make([]int32, len(t.sub.sinks))
	for i, topic := range t.sub.sinks {
		counts[i] = p.partitions(topic)
	}
	sinkBytes, changelogBytes := p.maxBytes(t.sub)
	k, err := task.New(task.Config{
		Context: t.rt.hard, ID: t.id, App: t.rt.cfg.App, Sub: t.sub.Subtopology, DB: t.db, Inputs: inputs,
		SinkPartitions: counts, Writers: p.writers(t.sub), MarkEvery: markEvery.Milliseconds(), OnError: t.rt.cfg.OnError, MaxRecordBytes: sinkBytes, MaxChangelogBytes: changelogBytes,
		Observer: t.observe, Release: t.released,
	}, task.Start{StreamTime: d.StreamTime, Now: max(d.Now, t.rt.cfg.Clock.Now().UnixMilli()), State: d.State})
	if err != nil {
		return fmt.Errorf("task %s: %w", t.id, err)
	}
	t.task = k
	t.hold()
	for i := range t.announced {
		t.announced[i].Start = k.Positions()[len(t.inputs)+i]
	}
	t.rt.stats.wired(t.stats, d.Inputs, k.StreamTime())
	return nil
}

func (t *taskRun) observe(f task.Failure) {
	policy := strings.TrimSpace(processor.Policy{Action: f.Action}.String())
	t.rt.log.Warn("a record failed", "task", f.Task.String(), "topic", f.Origin.Topic, "partition", f.Origin.Partition,
		"offset", f.Origin.Offset, "node", f.Node, "op", f.Op, "policy", policy, "err", f.Err)
	t.rt.hooks.record(observe.RecordError{
		Task: f.Task.String(), Topic: f.Origin.Topic, Partition: f.Origin.Partition, Offset: f.Origin.Offset,
		Node: f.Node, Op: f.Op, Policy: policy, Err: f.Err,
	})
}

// reopen restores a task again whose database failed, after a pause that grows with each failure. The kernel's fetched
// records are gone with it, so its partitions are read again from the committed offsets.
func (g *group) reopen(old *taskRun, cause error) {
	g.mu.Lock()
	if g.runs[old.id] != old {
		g.mu.Unlock()
		return
	}
	run := newTaskRun(g, old.id, old.sub, old.incarnation, old.freed)
	run.failures = old.failures + 1
	run.begun, run.again = true, true
	g.runs[run.id], g.previous[run.id] = run, run.freed
	for _, k := range run.keys {
		g.byInput[k] = run
	}
	g.rt.place(run)
	g.mu.Unlock()
	g.cl.PauseFetchPartitions(run.partitions())
	go run.openAgain(cause)
}

func (t *taskRun) openAgain(cause error) {
	t.setState(taskFailed, cause)
	pause := min(backoffMin<<min(t.failures, 10), backoffMax)
	select {
	case <-time.After(pause):
	case <-t.ctx.Done():
		t.close()
		return
	}
	if err := t.seek(); err != nil {
		t.giveBack(err)
		return
	}
	t.open()
}

// seek fetches the committed offsets and points the consumer at them.
func (t *taskRun) seek() error {
	// The partitions were paused while a poll may have been under way. Its records belong to the time before: were they
	// delivered after the consumer was pointed back, they would leave a gap.
	if err := t.group.settlePolls(t.ctx); err != nil {
		return err
	}
	for {
		committed, err := txn.StableOffsets(t.ctx, t.group.cl, t.rt.cfg.App, t.partitions())
		if errors.Is(err, txn.ErrUnstable) {
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-t.ctx.Done():
				return t.ctx.Err()
			}
		}
		if err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, k := range t.keys {
			s := committed[k.topic][k.partition]
			if s.Offset < 0 {
				return &fault.Error{Code: "group/offset-gone", Kind: fault.State, Thing: "committed offset of", Value: fmt.Sprintf("%s/%d", k.topic, k.partition),
					Reason: "the group lost it while the application ran", Remedy: "start the application again: it goes on from its own record"}
			}
			t.start[k] = s.Offset
			t.found[k] = changelog.FoundInput{Topic: k.topic, Partition: k.partition, Offset: s.Offset, Meta: s.Meta, Ours: s.Ours, MetaErr: s.Err}
		}
		t.group.seek(t)
		return nil
	}
}

// lastRecords reads the records of tasks whose group offsets are missing.
func (r *Runtime) lastRecords(ctx context.Context, runs []*taskRun) (map[processor.TaskID]*changelog.TaskRecord, error) {
	out := map[processor.TaskID]*changelog.TaskRecord{}
	byPartition := map[int32][]*taskRun{}
	for _, run := range runs {
		if run.sub.stateful {
			byPartition[run.id.Partition] = append(byPartition[run.id.Partition], run)
		}
	}
	for partition, runs := range byPartition {
		tp := changelog.TopicPartition{Topic: r.plan.tasksTopic, Partition: partition}
		ends, err := changelog.ListEnds(ctx, r.admin, []changelog.TopicPartition{tp})
		if err != nil {
			return nil, err
		}
		var keys []string
		for _, run := range runs {
			keys = append(keys, string(changelog.TaskKey(run.id.Subtopology, partition)))
		}
		records, err := r.restorer.TaskRecords(ctx, changelog.Part{
			Topic: tp.Topic, ID: r.plan.topicID(tp.Topic), Partition: partition, From: -1, End: ends[tp].End,
		}, keys...)
		if err != nil {
			return nil, err
		}
		for i, run := range runs {
			if rec, ok := records.ByKey[keys[i]]; ok {
				out[run.id] = &rec
			}
		}
	}
	return out, nil
}

// hash is the identity of what a subtopology reads and owns: who declares the same may take over its tasks.
func (s *subPlan) hash() uint64 {
	h := fnv.New64a()
	for _, topic := range s.sources {
		fmt.Fprintf(h, "source %q\n", topic)
	}
	for _, b := range s.broadcasts {
		fmt.Fprintf(h, "broadcast %q %q\n", b.topic, b.store)
	}
	for _, st := range s.Stores {
		fmt.Fprintf(h, "store %q %d %q %q\n", st.Name(), st.Kind(), st.KeyID(), st.ValueID())
	}
	return h.Sum64()
}

// openEmpty makes the database of a task without stores.
func (t *taskRun) openEmpty() error {
	db, err := store.Open(store.NewMemory(), nil, store.Options{})
	t.db = db
	return err
}
