package runtime

import (
	"slices"
	"time"

	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/txn"
)

// epoch is the worker's share of the story: everything its tasks do between two commits.
type epoch struct {
	slot    *slot
	claim   *claim
	txn     *txn.Txn // nil until something is handed to the producer
	began   time.Time
	tasks   []*taskRun
	records int64
	outputs int64
	handed  int  // records of the slab that the producer has
	durable bool // committed
}

// slot is one of the two producers that take turns, and the records that it has.
type slot struct {
	producer *txn.Producer
	slab     slab
	fenced   []time.Time // of the last minute
}

// waitingMax is how many outputs may wait for the epoch before theirs to be written.
const waitingMax = 50_000

func (e *epoch) has(run *taskRun) bool { return e != nil && slices.Contains(e.tasks, run) }

// waiting is how many outputs the producer does not have yet.
func (e *epoch) waiting() int { return e.slot.slab.used - e.handed }

// begin starts the transaction of the epoch when the first thing is to be produced.
func (w *worker) begin() error {
	if w.epoch.txn != nil {
		return nil
	}
	if err := w.ensureProducer(w.epoch.slot); err != nil {
		return err
	}
	t, err := w.epoch.slot.producer.Begin(w.rt.hard)
	if err != nil {
		return err
	}
	w.epoch.txn = t
	return nil
}

func (w *worker) ensureProducer(s *slot) error {
	if s.producer != nil {
		return nil
	}
	p, err := w.rt.newProducer(w.id, w.number(s), w.sequence)
	if err != nil {
		return err
	}
	s.producer = p
	return nil
}

func (w *worker) number(s *slot) int {
	if s == &w.slots[0] {
		return 0
	}
	return 1
}

// collect takes a task's outputs into the epoch.
func (w *worker) collect(run *taskRun) {
	outs := run.task.Outputs()
	n := int64(len(outs))
	for i := range outs {
		w.produce(run, &outs[i])
		if outs[i].Sink == task.SinkControl {
			n--
		}
	}
	w.epoch.outputs += n
	run.stats.outputs += n
}

// produce makes a record of an output. It is handed to the producer when it may be.
func (w *worker) produce(run *taskRun, o *task.Out) {
	p := w.epoch.slot.slab.take()
	p.run, p.origin, p.sink = run, o.Origin, o.Sink
	p.Topic, p.Partition = o.Topic, o.Partition
	p.Key, p.Value = o.Key, o.Value
	p.Timestamp = time.UnixMilli(o.Time)
	p.Headers = headers(o.Headers)
	if p.Partition < 0 {
		p.Partition = w.anyPartition(o.Topic)
	}
}

// anyPartition spreads records without a key: one partition per epoch and topic fills batches better than taking turns.
func (w *worker) anyPartition(topic string) int32 {
	n := w.rt.plan.partitions(topic)
	if n <= 1 {
		return 0
	}
	return (w.outbox & 0x7fffffff) % n
}

// mayWrite reports whether records of the epoch may be handed to its producer: all that the epoch before it wrote is
// acknowledged. Two producers have no order between them: the changelog could end with the older value of a key.
func (w *worker) mayWrite() bool {
	f := w.flight
	return f == nil || f.written.Load() && !f.unknown.Load()
}

// handOver gives the producer what it does not have yet. If it fails the epoch is undone, and ok is false.
func (w *worker) handOver() (ok bool) {
	e := w.epoch
	if e.waiting() == 0 {
		return true
	}
	if err := w.begin(); err != nil {
		w.abort(err)
		return false
	}
	for ; e.waiting() > 0; e.handed++ {
		e.txn.Produce(&e.slot.slab.at(e.handed).Record)
	}
	if e.txn.Failed() {
		w.abort(errRefused)
		return false
	}
	return true
}

// endEpoch forgets an epoch; what it produced is no longer referred to by the client.
func (w *worker) endEpoch(e *epoch) {
	e.slot.slab.reset()
	if w.epoch == e {
		w.epoch = nil
		w.outbox++
		w.beat.epochEnded()
	}
}
