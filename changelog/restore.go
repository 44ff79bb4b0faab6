package changelog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/store"
)

// Restorer brings local copies up to their changelogs, many tasks at once, over one client. Tasks may be added and removed
// at any time; what happens to one never holds up another. All methods may be called by any goroutine, but not from
// the functions of its Config.
//
// It fetches read_committed and goes by position, never by records: a log may end in markers, in aborted transactions
// or in holes that compaction left, and then no record ever comes from its last offsets. That is why it sends its own Fetch
// requests instead of polling: kgo keeps the position to itself and drops answers without records, position and all.
//
// Add -> waiting for leader and position -> fetched, queued (at most two answers per partition) -> applied -> Result
//
//	^                                  |
//	+------ rebuild, from log start ---+ (once more from the beginning; loudly)
type Restorer struct {
	config RestorerConfig
	client *kgo.Client

	do   chan func() // what the loop runs next; the loop owns everything below
	done chan struct{}

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	jobs     map[string]*job
	leaders  leaders
	brokers  map[int32]int // requests in flight
	listing  bool          // a ListOffsets is in flight
	reserved int64         // bytes that queued and expected answers hold
	turn     int           // rotates who comes first in a request
}

// RestorerConfig is what a Restorer needs. Zero values take the defaults.
type RestorerConfig struct {
	Client []kgo.Opt // seeds, TLS, SASL, logger, hooks: without any consumer, group or transactional option
	Log    *slog.Logger
	// Progress is told how far each store is: at most every ProgressEvery while it is restored, and once when it is done. May
	// be nil. It is called on the Restorer's own goroutine and must be quick.
	Progress      func(observe.RestoreProgress)
	ProgressEvery time.Duration // default 500 ms
	// Stalled is told when a restore has read everything readable below its end and the last stable offset has stood
	// still for StalledAfter, and again after each further StalledAfter: somebody's transaction is open, and it is time
	// for a fencing pass. May be nil; called like Progress.
	Stalled      func(Stall)
	StalledAfter time.Duration // default 500 ms
	// MaxBytes bounds the fetched and not yet applied bytes, as they came over the wire. Default 32 MiB, at least 2 MiB.
	MaxBytes int64
	// BatchRows and BatchBytes bound one Target.Apply. Defaults 5000 and 1 MiB.
	BatchRows  int
	BatchBytes int
	// GiveUpAfter is how long a missing topic, a log that ends below the asked end, or an undecodable answer is tried again
	// before the task's restore fails. Default 10 s. An unreachable broker is tried for ever.
	GiveUpAfter time.Duration
}

// Stall is a restore that waits for somebody's open transaction.
type Stall struct {
	Task, Store      string
	Topic            string
	Partition        int32
	LastStableOffset int64
	HighWatermark    int64
	For              time.Duration
}

// Request is the restore of one task: all its changelog partitions together, because a rebuild concerns all of them.
type Request struct {
	Task   string // unique among the restores under way
	Parts  []Part
	Target Target
	// WallTime is the checkpoint's, in milliseconds; 0 without a checkpoint. Now is the present. A part that has anything
	// to read and whose checkpoint is older than half of its DeleteRetention is rebuilt: a tombstone may have come and gone.
	WallTime int64
	Now      int64
}

// Part is one partition to read.
type Part struct {
	Store     string // as it shows in progress; progress is silent where it is empty
	Topic     string
	ID        [16]byte // the topic must still have this id; zero: not checked
	Partition int32
	From      int64 // offset of the next record to apply; -1: the log's start
	End       int64 // read until the position is here: the uncommitted end, as ListEnds gives it
	// DeleteRetention is the topic's delete.retention.ms; 0: age is not checked.
	DeleteRetention time.Duration

	uncommitted bool // read everything up to the high watermark, open and aborted transactions too
}

// isolation is the level the part is read at.
func (p *Part) isolation() kgo.IsolationLevel {
	if p.uncommitted {
		return kgo.ReadUncommitted()
	}
	return kgo.ReadCommitted()
}

// Target takes what is read. It is used by one goroutine at a time, and not after the Result has been sent.
type Target interface {
	// Apply takes rows of Parts[part], in log order (the last one of a key wins), and the position after them; rows may
	// be empty where only the position moved. The slices are the Restorer's and are used again. The target may gather rows
	// until Finish. They and their position become durable together, or the rows first: never a position without its rows.
	Apply(part int, rows []store.Mutation, next int64) error
	// Rebuild drops everything of the task, for all parts: what is local cannot be trusted. Every part is read again
	// from its log's start. reason is a *fault.Error.
	Rebuild(reason error) error
	// Finish is called once, when every part has reached its end and before the Result says so. What it does not do is
	// missing: a restore that fails or is removed ends without it.
	Finish() error
}

// Result is how a task's restore ended.
type Result struct {
	Task      string
	Err       error   // nil: every part has reached its end
	Positions []int64 // by part, offset of the next record to apply
	Records   int64   // applied, rows read twice counted twice
	Bytes     int64   // of keys and values
	Took      time.Duration
	Rebuilt   error // why the local copy was dropped, nil if it was not
}

// ErrRestorerClosed is the error of a restore that was under way when its Restorer was closed.
var ErrRestorerClosed = errors.New("changelog: restorer closed")

// ErrRestoreRemoved is the error of a restore that Remove ended.
var ErrRestoreRemoved = errors.New("changelog: restore removed")

// NewRestorer makes a Restorer. Nothing is sent until the first Add.
func NewRestorer(c RestorerConfig) (*Restorer, error) {
	setDefault(&c.ProgressEvery, 500*time.Millisecond)
	setDefault(&c.StalledAfter, 500*time.Millisecond)
	setDefault(&c.GiveUpAfter, 10*time.Second)
	setDefault(&c.MaxBytes, 32<<20)
	setDefault(&c.BatchRows, 5000)
	setDefault(&c.BatchBytes, 1<<20)
	c.MaxBytes = max(c.MaxBytes, 2<<20)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	client, err := kgo.NewClient(append(slices.Clip(c.Client), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		return nil, fmt.Errorf("restore client: %w", err)
	}
	r := &Restorer{
		config:  c,
		client:  client,
		do:      make(chan func()),
		done:    make(chan struct{}),
		jobs:    map[string]*job{},
		leaders: newLeaders(),
		brokers: map[int32]int{},
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	go r.loop()
	return r, nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Client is the client that the Restorer uses, for requests like ListEnds. It is closed with it.
func (r *Restorer) Client() *kgo.Client { return r.client }

// Add begins a restore. The channel gets exactly one Result, when the Target is not touched any more. Cancelling ctx ends
// this restore and no other; what was applied stays, with its positions.
func (r *Restorer) Add(ctx context.Context, q Request) <-chan Result {
	j := newJob(ctx, q)
	if !r.send(func() { r.add(j) }) {
		j.result <- Result{Task: q.Task, Err: ErrRestorerClosed}
	}
	return j.result
}

// Remove ends the restore of a task, if there is one, and returns when its Target is not touched any more.
func (r *Restorer) Remove(task string) {
	gone := make(chan (<-chan struct{}), 1)
	ok := r.send(func() {
		j := r.jobs[task]
		if j == nil {
			gone <- nil
			return
		}
		r.finish(j, ErrRestoreRemoved)
		gone <- j.released
	})
	if !ok {
		return
	}
	if released := <-gone; released != nil {
		<-released
	}
}

// Close ends every restore and closes the client. It returns when no Target is touched any more.
func (r *Restorer) Close() {
	r.cancel(ErrRestorerClosed)
	<-r.done
	r.wg.Wait()
	r.client.Close()
}

// send hands f to the loop; false means the Restorer is closed and f will not run.
func (r *Restorer) send(f func()) bool {
	select {
	case r.do <- f:
		return true
	case <-r.done:
		return false
	}
}

// tickEvery is how often the loop looks at its clocks: back-off, progress, stalls.
const tickEvery = 20 * time.Millisecond

func (r *Restorer) loop() {
	defer close(r.done)
	tick := time.NewTicker(tickEvery)
	tick.Stop()
	ticking := false
	for {
		if active := len(r.jobs) > 0; active != ticking {
			ticking = active
			if active {
				tick.Reset(tickEvery)
			} else {
				tick.Stop()
			}
		}
		select {
		case f := <-r.do:
			f()
		case now := <-tick.C:
			r.watch(now)
		case <-r.ctx.Done():
			for _, j := range r.jobs {
				r.finish(j, ErrRestorerClosed)
			}
			return
		}
		r.schedule(time.Now())
	}
}

func (r *Restorer) add(j *job) {
	switch {
	case r.jobs[j.Task] != nil:
		j.result <- Result{Task: j.Task, Err: fmt.Errorf("changelog: task %s is being restored already", j.Task)}
		return
	case len(j.parts) == 0:
		j.result <- Result{Task: j.Task}
		return
	}
	r.jobs[j.Task] = j
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		j.apply(r)
	}()
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		select {
		case <-j.ctx.Done():
			r.send(func() { r.finish(j, context.Cause(j.ctx)) })
		case <-j.released:
		}
	}()
	if why := j.distrust(); why != nil {
		r.rebuild(j, why)
		return
	}
	for _, p := range j.parts {
		if p.From >= 0 && p.From >= p.End || p.End <= 0 {
			r.reached(p)
		}
	}
	r.maybeDone(j)
}

// distrust says why a task's checkpoint cannot be continued from, or nil.
func (j *job) distrust() *fault.Error {
	age := time.Duration(j.Now-j.WallTime) * time.Millisecond
	for _, p := range j.parts {
		switch {
		case p.From > p.End:
			return rebuildError("changelog/checkpoint-ahead", &p.Part, strconv.FormatInt(p.From, 10),
				"the local copy is beyond the log's end at "+strconv.FormatInt(p.End, 10)+": the log lost records, or is another one")
		case p.From >= 0 && p.From < p.End && j.WallTime > 0 && p.DeleteRetention > 0 && age > p.DeleteRetention/2:
			return rebuildError("changelog/checkpoint-old", &p.Part, age.Round(time.Second).String(),
				"tombstones live for "+p.DeleteRetention.String()+": one that the local copy has not seen may be gone")
		}
	}
	return nil
}

func rebuildError(code string, p *Part, value, reason string) *fault.Error {
	return &fault.Error{
		Code: code, Kind: fault.State, Thing: fmt.Sprintf("%s/%d, store %s", p.Topic, p.Partition, p.Store), Value: value,
		Reason: reason, Remedy: "the local copy is dropped and rebuilt from the log's start",
	}
}

// rebuildsMax is how often one restore may start over before it fails: a log whose start keeps running away from us
// is being deleted faster than it can be read.
const rebuildsMax = 3

// rebuild drops the local copy of a task and begins from its logs' starts.
func (r *Restorer) rebuild(j *job, why *fault.Error) {
	if j.finishing {
		return // whatever was found is about a log that is not needed any more
	}
	if j.rebuilds == rebuildsMax {
		e := *why
		e.Code, e.Remedy = "changelog/unreadable", "something deletes from the log while it is read: see the topic's cleanup.policy"
		r.finish(j, &e)
		return
	}
	j.rebuilds++
	j.rebuilt = why
	j.gen++
	r.config.Log.Warn("local copy dropped, rebuilding from the changelog", "task", j.Task, "reason", why)
	for _, p := range j.parts {
		p.restart()
	}
	j.chunks <- chunk{gen: j.gen, rebuild: why}
	for _, p := range j.parts {
		if p.End <= 0 {
			r.reached(p)
		}
	}
}

// reached notes that a part has everything below its end.
func (r *Restorer) reached(p *part) {
	if p.done {
		return
	}
	p.done = true
	p.applied = max(p.applied, p.End)
	p.pos = p.applied
	r.report(p, time.Now())
}

func (r *Restorer) maybeDone(j *job) {
	if j.gen != j.acknowledged {
		return // the rebuild has not been carried out yet
	}
	for _, p := range j.parts {
		if !p.done {
			return
		}
	}
	if !j.finishing {
		j.finishing = true
		j.chunks <- chunk{gen: j.gen, finish: true}
	}
}

// finished is the loop's part of Target.Finish.
func (r *Restorer) finished(j *job, err error) {
	if err != nil {
		err = fmt.Errorf("restore %s: complete the local copy: %w", j.Task, err)
	}
	r.finish(j, err)
}

// finish ends a task's restore. The result is sent when the applier has let go of the target.
func (r *Restorer) finish(j *job, err error) {
	if r.jobs[j.Task] != j {
		return
	}
	delete(r.jobs, j.Task)
	for _, p := range j.parts {
		r.reserved -= p.held
		p.held = 0
	}
	res := Result{Task: j.Task, Err: err, Records: j.records, Bytes: j.bytes, Took: time.Since(j.began)}
	for _, p := range j.parts {
		res.Positions = append(res.Positions, p.applied)
	}
	if j.rebuilt != nil {
		res.Rebuilt = j.rebuilt
	}
	j.stop()
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		<-j.idle
		close(j.released)
		j.result <- res
	}()
}

// watch looks at the clocks: progress to tell, stalls to report.
func (r *Restorer) watch(now time.Time) {
	for _, j := range r.jobs {
		for _, p := range j.parts {
			if p.done {
				continue
			}
			if now.Sub(p.reported) >= r.config.ProgressEvery {
				r.report(p, now)
			}
			if p.stalled.IsZero() || now.Sub(p.stalled) < time.Duration(p.stalls+1)*r.config.StalledAfter {
				continue
			}
			p.stalls++
			if r.config.Stalled != nil {
				r.config.Stalled(Stall{
					Task: j.Task, Store: p.Store, Topic: p.Topic, Partition: p.Partition,
					LastStableOffset: p.lso, HighWatermark: p.hw, For: now.Sub(p.stalled),
				})
			}
		}
	}
}

func (r *Restorer) report(p *part, now time.Time) {
	p.reported = now
	if r.config.Progress == nil || p.Store == "" {
		return
	}
	r.config.Progress(observe.RestoreProgress{
		Task: p.job.Task, Store: p.Store, Records: p.records, Bytes: p.bytes, Position: max(p.applied, 0), End: p.End,
		Elapsed: now.Sub(p.job.began), Done: p.done, Rebuild: p.job.rebuilds > 0,
	})
}
