package changelog

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/store"
)

// job is one task's restore. Its fields belong to the loop, except what apply uses: Request, chunks, idle.
type job struct {
	Request
	parts []*part

	ctx    context.Context // ends when the caller gives up, or the job is finished
	cancel context.CancelFunc

	chunks   chan chunk    // what to apply next; never full, see newJob
	idle     chan struct{} // closed when apply has returned
	released chan struct{} // closed when the target is not touched any more
	result   chan Result

	gen          int // counts rebuilds; what was asked for an older one is dropped
	acknowledged int // the last rebuild the applier has carried out
	rebuilds     int
	rebuilt      *fault.Error
	began        time.Time
	records      int64
	bytes        int64
	finishing    bool // everything is applied, the target completes it
}

// part is one partition of a job and how far it is.
type part struct {
	Part
	job   *job
	index int

	pos     int64 // to fetch next; -1: the log's start, not yet known
	applied int64 // to apply next
	done    bool
	asked   bool  // a request with it is in flight
	queued  int   // answers handed to apply
	held    int64 // bytes of them

	retryAt time.Time // no request before
	tries   int       // failures in a row
	failing time.Time // since when the same kind of trouble lasts
	empty   int       // answers in a row that prove there is nothing up to the end

	lso, hw  int64
	stalled  time.Time // since when the last stable offset stands still below the end
	stalls   int       // reported
	records  int64
	bytes    int64
	reported time.Time
}

// chunksPerPart is how many answers of one partition may wait to be applied: one being applied, one fetched meanwhile.
const chunksPerPart = 2

// chunk is one partition's answer on its way to the target, or the order to rebuild or to finish.
type chunk struct {
	part    *part
	gen     int
	answer  *kmsg.FetchResponseTopicPartition
	from    int64
	next    int64 // as the batches' headers say
	held    int64
	rebuild *fault.Error
	finish  bool // nothing comes after this
}

func newJob(ctx context.Context, q Request) *job {
	j := &job{
		Request: q,
		// The loop never waits for a task: there is room for every answer that may be under way. A generation ends by one of at
		// most rebuildsMax rebuilds, or by an answer that did not decode, which stands behind all older generations.
		chunks:   make(chan chunk, chunksPerPart*len(q.Parts)*(rebuildsMax+2)+rebuildsMax+1),
		idle:     make(chan struct{}),
		released: make(chan struct{}),
		result:   make(chan Result, 1),
		began:    time.Now(),
	}
	j.ctx, j.cancel = context.WithCancel(ctx)
	for i, p := range q.Parts {
		j.parts = append(j.parts, &part{Part: p, job: j, index: i, pos: p.From, applied: p.From, reported: j.began})
	}
	return j
}

// restart forgets everything about a part but what was asked for.
func (p *part) restart() {
	*p = part{
		Part: p.Part, job: p.job, index: p.index, pos: -1, applied: -1, reported: p.reported,
		held: p.held, records: p.records, bytes: p.bytes,
	}
}

// stop makes apply return after what it is doing now.
func (j *job) stop() {
	j.cancel()
	close(j.chunks)
}

// apply is a job's own goroutine: it decodes answers and hands them to the target, so that tasks neither wait for each other nor
// for the network.
func (j *job) apply(r *Restorer) {
	defer close(j.idle)
	a := applier{target: j.Target, rowsMax: r.config.BatchRows, bytesMax: r.config.BatchBytes, decompressor: kgo.DefaultDecompressor()}
	bad := -1 // a generation of answers in which one did not decode: what came behind it is fetched again
	for c := range j.chunks {
		if j.ctx.Err() != nil || c.gen == bad {
			continue
		}
		if c.rebuild != nil {
			err := j.Target.Rebuild(c.rebuild)
			r.send(func() { r.rebuiltOne(j, c.gen, err) })
			continue
		}
		if c.finish {
			err := j.Target.Finish()
			r.send(func() { r.finished(j, err) })
			continue
		}
		err := a.run(&c)
		if _, corrupt := err.(*corruptError); corrupt {
			bad = c.gen
		}
		records, bytes := a.records, a.bytes
		r.send(func() { r.appliedOne(&c, records, bytes, err) })
	}
}

// rebuiltOne is the loop's part of a rebuild: the target is empty now.
func (r *Restorer) rebuiltOne(j *job, gen int, err error) {
	if r.jobs[j.Task] != j {
		return
	}
	if err != nil {
		r.finish(j, fmt.Errorf("restore %s: clear the local copy: %w", j.Task, err))
		return
	}
	j.acknowledged = gen
	r.maybeDone(j)
}

// appliedOne is the loop's part of an answer's end.
func (r *Restorer) appliedOne(c *chunk, records, bytes int64, err error) {
	p, j := c.part, c.part.job
	if r.jobs[j.Task] != j {
		return // finished: the reservation was given back
	}
	r.reserved -= c.held
	p.held -= c.held
	p.records += records
	p.bytes += bytes
	j.records += records
	j.bytes += bytes
	if c.gen != j.gen {
		return
	}
	p.queued--
	if err != nil {
		if corrupt, ok := err.(*corruptError); ok {
			r.refetch(p, c.from, corrupt)
			return
		}
		r.finish(j, fmt.Errorf("restore %s from %s/%d: %w", p.Store, p.Topic, p.Partition, err))
		return
	}
	p.applied, p.failing = min(c.next, p.End), time.Time{}
	if p.applied >= p.End {
		r.reached(p)
		r.maybeDone(j)
	}
}

// applier decodes answers into rows. Its memory is used again from answer to answer.
type applier struct {
	target       Target
	decompressor kgo.Decompressor
	rowsMax      int
	bytesMax     int
	rows         []store.Mutation
	records      int64 // of the last run
	bytes        int64
}

// corruptError is an answer whose bytes do not make sense; the next one may.
type corruptError struct{ reason error }

func (e *corruptError) Error() string { return "undecodable records: " + e.reason.Error() }

func (e *corruptError) Unwrap() error { return e.reason }

// run applies one answer.
func (a *applier) run(c *chunk) error {
	a.records, a.bytes = 0, 0
	if c.answer == nil { // only the position moved
		return a.flush(c, 0, c.next)
	}
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: c.from, IsolationLevel: c.part.isolation(), Topic: c.part.Topic, Partition: c.part.Partition,
	}, c.answer, a.decompressor, nil)
	if fp.Err != nil {
		return &corruptError{fp.Err}
	}
	if next != c.next {
		return &corruptError{fmt.Errorf("batches say they end at %d, their records at %d", c.next, next)}
	}
	a.rows = a.rows[:0]
	size, at := 0, c.from
	for _, rec := range fp.Records {
		if rec.Offset >= c.part.End {
			break // written after the end was taken: not what was asked for
		}
		a.rows = append(a.rows, mutation(rec))
		size += len(rec.Key) + len(rec.Value)
		at = rec.Offset + 1
		if len(a.rows) >= a.rowsMax || size >= a.bytesMax {
			if err := a.flush(c, size, at); err != nil {
				return err
			}
			size = 0
		}
	}
	end := min(next, c.part.End)
	if len(a.rows) == 0 && at == end {
		return nil
	}
	return a.flush(c, size, end)
}

func (a *applier) flush(c *chunk, size int, next int64) error {
	if c.part.job.ctx.Err() != nil {
		return c.part.job.ctx.Err()
	}
	if err := a.target.Apply(c.part.index, a.rows, next); err != nil {
		return err
	}
	a.records += int64(len(a.rows))
	a.bytes += int64(size)
	clear(a.rows)
	a.rows = a.rows[:0]
	return nil
}
