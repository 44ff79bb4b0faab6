package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/store"
)

// hold makes a worker end its epoch and stand still, so that what it and others hold at that moment can be written down. The worker
// runs what it is given until resume is closed.
type hold struct {
	ready  chan *worker // the worker stands
	work   chan func()
	resume chan struct{}
}

// stand is the worker's part.
func (w *worker) stand(h *hold) {
	w.commit("snapshot")
	w.settle() // an offset commit, or one that went wrong, may still be on its way
	h.ready <- w
	for {
		select {
		case f := <-h.work:
			f()
		case <-h.resume:
			return
		}
	}
}

// TakenSnapshot is what was written.
type TakenSnapshot struct {
	Tasks   []string
	Cut     string
	Took    time.Duration // how long nothing was processed
	Pending int64         // records of repartition topics
}

// SnapshotState is App.SnapshotState.
func (r *Runtime) SnapshotState(ctx context.Context, dir string) (TakenSnapshot, error) {
	if !r.snapping.CompareAndSwap(false, true) {
		return TakenSnapshot{}, r.noSnapshot("snapshot/busy", "another one is being taken", "wait until it is done", nil)
	}
	defer r.snapping.Store(false)
	g := r.group()
	if g == nil || r.State() != stateRunning {
		return TakenSnapshot{}, r.noSnapshot("snapshot/not-running", "it is "+string(r.State()), "take it when all tasks run; the hook State tells", nil)
	}
	s, err := r.newSnap(g, dir)
	if err != nil {
		return TakenSnapshot{}, err
	}
	return s.take(ctx)
}

// snap is a snapshot being taken.
type snap struct {
	r       *Runtime
	dir     string
	cut     string
	linked  bool
	parts   []changelog.SnapshotPart
	through map[string]string // topic -> name
	runs    []*taskRun

	mu   sync.Mutex
	done []snapped
	errs []error
}

type snapped struct {
	tmp string
	m   *changelog.TaskSnapshot
}

func (r *Runtime) newSnap(g *group, dir string) (*snap, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, r.noSnapshot("snapshot/not-written", err.Error(), "name an absolute path", err)
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails: the program would be ended first
	s := &snap{r: r, dir: abs, cut: hex.EncodeToString(id[:]), through: map[string]string{}}
	for _, sub := range r.plan.subs {
		part := changelog.SnapshotPart{Name: sub.name, Tasks: sub.tasks}
		for _, st := range sub.Stores {
			if st.Kind() == store.KindGlobal {
				return nil, r.noSnapshot("snapshot/global-store", fmt.Sprintf("store %q is global: what each task has seen of it is of no common moment", st.Name()), "applications with global state cannot be snapshotted yet", nil)
			}
			part.Stores = append(part.Stores, st.Name())
		}
		for _, src := range sub.Sources {
			t := changelog.SnapshotTopic{Topic: src.Topic.Resolve(r.cfg.App)}
			t.Partitions = r.plan.partitions(t.Topic)
			if src.Topic.Through {
				t.Through, s.linked = src.Topic.Name, true
				s.through[t.Topic] = src.Topic.Name
			}
			part.Inputs = append(part.Inputs, t)
		}
		s.parts = append(s.parts, part)
	}
	s.runs = g.all()
	if all := r.plan.taskCount(); s.linked && len(s.runs) != all {
		return nil, r.noSnapshot("snapshot/not-all-tasks",
			fmt.Sprintf("this instance runs %d of %d tasks, and what is between the parts of the topology belongs to one moment of all of them", len(s.runs), all),
			"stop the other instances for the time of the snapshot", nil)
	}
	return s, nil
}

// take holds all workers, writes the tasks down, and lets the workers go on.
func (s *snap) take(ctx context.Context) (out TakenSnapshot, err error) {
	defer func() {
		for _, d := range s.done {
			_ = os.RemoveAll(d.tmp) // what was finished has another name by now
		}
	}()
	began := time.Now()
	h := &hold{ready: make(chan *worker, len(s.r.workers)), resume: make(chan struct{})}
	let := sync.OnceFunc(func() { close(h.resume) })
	defer let()
	holds := map[*worker]*hold{}
	for _, w := range s.r.workers {
		holds[w] = &hold{ready: h.ready, work: make(chan func()), resume: h.resume}
		w.mail.send(message{hold: holds[w]})
		w.hurry.Store(true)
	}
	for range s.r.workers {
		select {
		case <-h.ready:
		case <-ctx.Done():
			return out, s.r.noSnapshot("snapshot/interrupted", "a worker did not come to the end of its epoch", "try again", ctx.Err())
		case <-s.r.hard.Done():
			return out, s.r.noSnapshot("snapshot/interrupted", "the application is closing", "take it from a running instance", nil)
		}
	}
	// Everything stands. Each worker writes its own tasks: their state is its alone.
	var wg sync.WaitGroup
	for w, h := range holds {
		wg.Add(1)
		select {
		case h.work <- func() { defer wg.Done(); s.write(ctx, w) }:
		case <-s.r.gone.Done():
			wg.Done()
		}
	}
	wg.Wait()
	if len(s.errs) == 0 && len(s.done) != len(s.runs) {
		s.errs = append(s.errs, s.r.noSnapshot("snapshot/interrupted", "tasks came or went meanwhile", "try again", nil))
	}
	if err := errors.Join(s.errs...); err != nil {
		return out, err
	}
	if s.linked {
		if out.Pending, err = s.pending(ctx); err != nil {
			return out, err
		}
	}
	let()
	out.Took, out.Cut = time.Since(began), s.cut
	for _, d := range s.done {
		if err := changelog.FinishSnapshot(s.dir, d.tmp, d.m); err != nil {
			return out, err
		}
		out.Tasks = append(out.Tasks, d.m.Task.String())
	}
	slices.Sort(out.Tasks)
	s.r.log.Info("snapshot", "dir", s.dir, "tasks", len(out.Tasks), "stood", out.Took, "pending", out.Pending)
	return out, nil
}

// write writes the tasks of a worker, on its goroutine.
func (s *snap) write(ctx context.Context, w *worker) {
	for _, run := range w.tasks {
		if ctx.Err() != nil || !slices.Contains(s.runs, run) {
			continue // the count says it
		}
		d, err := s.writeTask(run)
		s.mu.Lock()
		if d.tmp != "" {
			s.done = append(s.done, d)
		}
		if err != nil {
			s.errs = append(s.errs, err)
		}
		s.mu.Unlock()
	}
}

func (s *snap) writeTask(run *taskRun) (d snapped, err error) {
	if run.failed || run.task.Dirty() {
		return d, s.r.noSnapshot("snapshot/interrupted", "task "+run.id.String()+" could not commit", "try again; the log says why", nil)
	}
	name := changelog.SnapshotTask{Subtopology: run.id.Subtopology, Partition: run.id.Partition}
	if d.tmp, err = changelog.PrepareSnapshot(s.dir, name, s.cut); err != nil {
		return d, err
	}
	fingerprint := s.r.cfg.Topology.Fingerprint()
	d.m = &changelog.TaskSnapshot{
		App: s.r.cfg.App, Cluster: s.r.clusterID, Task: name, Cut: s.cut, Taken: s.r.cfg.Clock.Now().UTC(), Fingerprint: hex.EncodeToString(fingerprint[:]),
		StreamTime: run.task.StreamTime(), Now: run.task.Now(), State: run.task.State(), Topology: s.parts, Linked: s.linked,
	}
	positions := run.task.Positions()
	for i, in := range run.inputs {
		d.m.Inputs = append(d.m.Inputs, changelog.SnapshotInput{Topic: in.Topic, Through: s.through[in.Topic], Partition: in.Partition, Offset: positions[i]})
	}
	for _, spec := range run.sub.Stores {
		rows, err := run.db.Rows(spec.Name())
		if err != nil {
			return d, err
		}
		d.m.Stores = append(d.m.Stores, changelog.SnapshotStore{
			Name: spec.Name(), Kind: spec.Kind(), Key: spec.KeyID(), Value: spec.ValueID(), Forms: store.Forms(spec), Prefix: rows.Prefix(), Changelog: run.ends[spec.Name()],
		})
	}
	if len(d.m.Stores) > 0 {
		err = run.db.Snapshot(filepath.Join(d.tmp, changelog.SnapshotRows))
	}
	return d, err
}

// pending copies what is in repartition topics and not processed yet. Nobody writes to them meanwhile.
func (s *snap) pending(ctx context.Context) (n int64, err error) {
	type source struct {
		d     snapped
		input int
	}
	of := map[changelog.TopicPartition]source{}
	var logs []changelog.TopicPartition
	for _, d := range s.done {
		for i, in := range d.m.Inputs {
			if in.Through != "" {
				tp := changelog.TopicPartition{Topic: in.Topic, Partition: in.Partition}
				of[tp] = source{d, i}
				logs = append(logs, tp)
			}
		}
	}
	ends, err := changelog.ListEnds(ctx, s.r.admin, logs)
	if err != nil {
		return 0, s.r.noSnapshot("snapshot/interrupted", "the ends of the repartition topics could not be listed", "try again", err)
	}
	from := map[string]map[int32]kgo.Offset{}
	left := map[changelog.TopicPartition]*changelog.PendingWriter{}
	for tp, src := range of {
		in := &src.d.m.Inputs[src.input]
		if in.Offset >= ends[tp].End {
			continue
		}
		w, err := changelog.NewPendingWriter(src.d.tmp, src.input)
		if err != nil {
			return 0, err
		}
		in.Pending, left[tp] = true, w
		if from[tp.Topic] == nil {
			from[tp.Topic] = map[int32]kgo.Offset{}
		}
		from[tp.Topic][tp.Partition] = kgo.NewOffset().At(max(in.Offset, ends[tp].Start))
	}
	if len(left) == 0 {
		return 0, nil
	}
	cl, err := kgo.NewClient(append(s.r.clientOpts("snapshot"), kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(100*time.Millisecond))...)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	var errs []error
	for len(left) > 0 && len(errs) == 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			errs = append(errs, s.r.noSnapshot("snapshot/interrupted", "the repartition topics were not read to their ends", "try again", ctx.Err()))
			break
		}
		fetches.EachError(func(topic string, p int32, err error) {
			errs = append(errs, fmt.Errorf("read %s/%d: %w", topic, p, err))
		})
		fetches.EachRecord(func(r *kgo.Record) {
			tp := changelog.TopicPartition{Topic: r.Topic, Partition: r.Partition}
			w := left[tp]
			if w == nil {
				return
			}
			if !r.Attrs.IsControl() {
				w.Add(r)
				n++
			}
			if r.Offset+1 >= ends[tp].End {
				delete(left, tp)
				if err := w.Close(); err != nil {
					errs = append(errs, err)
				}
			}
		})
	}
	for _, w := range left {
		_ = w.Close() // they go with the rest
	}
	return n, errors.Join(errs...)
}

func (r *Runtime) noSnapshot(code, reason, remedy string, err error) error {
	return &fault.Error{Code: code, Kind: fault.State, Thing: "snapshot of application", Value: r.cfg.App, Reason: strings.TrimSpace(reason), Remedy: remedy, Err: err}
}
