package task

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
)

// Config is what a task needs to live. All fields are required unless they say otherwise.
type Config struct {
	Context context.Context // what user code sees: cancelled at a hard stop
	ID      processor.TaskID
	App     string
	Sub     *topology.Subtopology
	DB      *store.DB
	// Inputs are the partitions the task reads; Source is the index into Sub.Sources. Sources whose topic has fewer
	// partitions than the task's number simply have no input here.
	Inputs []Input
	// SinkPartitions is the partition count of each sink's topic, by sink index.
	SinkPartitions []int32
	// OnError is the policy of nodes that have none; its zero value is Fail.
	OnError processor.Policy
	// MaxRecordBytes, by sink index, is the greatest record, as RecordBytes counts it, that the topic takes; 0 is no
	// limit, and so is an index beyond its end.
	MaxRecordBytes []int
	// MaxChangelogBytes is the same for every changelog; 0 is no limit.
	MaxChangelogBytes int
	// Writers, by source, is the number of tasks that write a topic that brings watermarks (Source.InBand); others are not looked at.
	Writers []int32
	// MarkEvery is how many milliseconds at least are between control records that no record gave a reason for.
	MarkEvery int64
	// Observer is told of failed records, on the goroutine of Step; may be nil. A record that is replayed fails, and is
	// reported, again.
	Observer func(Failure)
	// Release is given every batch the task lets go of, so that its memory can be used again; may be nil.
	Release func(Batch)
}

// Start is where a task goes on from.
type Start struct {
	StreamTime int64 // milliseconds; -1 before any record
	Now        int64 // processing time last persisted
	State      []byte
}

// Task is one task. It is used by one goroutine at a time.
type Task struct {
	c     Config
	w     wiring
	db    *store.DB
	graph graph
	host  *host

	inputs    []input
	through   int         // of inputs, how many are repartition topics
	clock     *eventClock // nil: stream time
	ordinary  int         // inputs that are not broadcast; they come first
	positions []int64     // what Positions returned

	// The record being processed.
	origin  Origin
	node    int  // the node whose user code runs
	user    bool // user code is running: a panic is its own
	undo    undo // what the record started from
	emitErr error

	// The epoch being filled, and the clocks at its front.
	streamTime int64
	now        int64
	records    int64
	emitted    int64 // outputs since Seal
	outs       []Out // outputs nobody took yet
	handed     []Out // what Outputs returned last; its memory is the next outs
	arena      arena
	slabs      slabs
	count      counts

	ahead ahead

	// The epochs behind it, and what the last committed one left.
	sealed    []*Epoch // oldest first
	committed mark

	condemned []condemned

	// Timers. While advancing, those up to the event-time clock are being fired: the clock has moved since the last time
	// none was due.
	alarms    []topology.Alarm
	events    int // of alarms, how many wait for the event-time clock
	advancing bool
	draining  bool       // the inputs have ended
	due       timers.Due // the timer being fired
	retry     retry
	touched   bool // something besides records was done in the epoch being filled
	enders    []topology.Ender
	restored  bool // something was committed before

	enabled map[string]int64 // since when rows expire, as an earlier life said
	tidied  int64            // when tidy last looked; processing time
}

// graph is what a wired subtopology offers. It is *topology.Graph everywhere but in the kernel's own tests.
type graph interface {
	Process(source int, r *topology.Raw, at int64) error
	Timestamp(source int, r *topology.Raw) (int64, error)
	Close() error
}

// wiring is what the kernel needs to know of a subtopology.
type wiring struct {
	sources []topology.Source
	sinks   []topology.Sink
	nodes   []topology.NodeInfo
	topics  []string // of the sinks, as in Kafka
	wire    func(topology.Host) (graph, error)
}

// mark is a point in a task's life that Discard can return to.
type mark struct {
	cursors    []cursor // by input
	streamTime int64
	now        int64
	count      counts
	advancing  bool
	retry      retry
	fronts     [][]byte // by alarm: Queue.Front
	clock      *clockMark
}

// New wires the subtopology and calls every Init. The task starts from s. If it fails nothing is left open; the DB stays
// its owner's in every case.
func New(c Config, s Start) (*Task, error) {
	w := wiring{sources: c.Sub.Sources, sinks: c.Sub.Sinks, nodes: c.Sub.Nodes}
	w.wire = func(h topology.Host) (graph, error) {
		g, err := c.Sub.Wire(h)
		if err != nil {
			return nil, err
		}
		return g, nil
	}
	return newTask(c, s, w)
}

func newTask(c Config, s Start, w wiring) (*Task, error) {
	if len(c.SinkPartitions) != len(w.sinks) {
		return nil, fmt.Errorf("task %s: %d partition counts for %d sinks", c.ID, len(c.SinkPartitions), len(w.sinks))
	}
	for i, sink := range w.sinks {
		if c.SinkPartitions[i] < 1 {
			return nil, fmt.Errorf("task %s: sink topic %s has %d partitions", c.ID, sink.Topic.Resolve(c.App), c.SinkPartitions[i])
		}
		w.topics = append(w.topics, sink.Topic.Resolve(c.App))
	}
	t := &Task{c: c, w: w, db: c.DB, streamTime: s.StreamTime, now: s.Now, node: -1}
	t.arena.from = &t.slabs
	var err error
	if t.ordinary, err = ordinary(c.Inputs); err != nil {
		return nil, fmt.Errorf("task %s: %w", c.ID, err)
	}
	t.inputs = make([]input, len(c.Inputs))
	t.positions = make([]int64, len(c.Inputs))
	for i, in := range c.Inputs {
		if in.Source < 0 || in.Source >= len(w.sources) {
			return nil, fmt.Errorf("task %s: input %s/%d is of source %d, which does not exist", c.ID, in.Topic, in.Partition, in.Source)
		}
		t.inputs[i] = newInput(in, w.sources[in.Source])
		if t.inputs[i].through {
			t.through++
		}
	}
	if t.clock, err = t.newClock(); err != nil {
		return nil, err
	}
	t.host = &host{Context: c.Context, t: t}
	t.restored = s.StreamTime >= 0 || len(s.State) > 0
	if t.graph, err = t.wire(); err != nil {
		return nil, err
	}
	t.ahead = newAhead(t.graph)
	if g, ok := t.graph.(ending); ok {
		t.enders = g.Enders()
	}
	if g, ok := t.graph.(alarmed); ok {
		t.alarms = g.Alarms()
		for i := range t.alarms {
			if t.alarms[i].Queue.EventTime() {
				t.events++
			}
		}
	}
	err = t.resume(s.State)
	if err == nil {
		t.db.SetClocks(t.now, t.streamTime)
		err = t.db.SetTTLEnabledAt(t.enabled)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if t.committed, err = t.mark(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// wire runs the suppliers and Inits of the user, who may panic.
func (t *Task) wire() (g graph, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = t.broken("processor/init-failed", "Init", caught(v))
		}
	}()
	if g, err = t.w.wire(t.host); err != nil && fault.Code(err) == "" {
		err = t.broken("processor/init-failed", "Init", err)
	}
	return g, err
}

// Close closes the processors. The DB stays open: it is its owner's. The task must not be used afterwards.
func (t *Task) Close() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = t.broken("processor/close-failed", "Close", caught(v))
		}
	}()
	if err := t.graph.Close(); err != nil {
		return t.broken("processor/close-failed", "Close", err)
	}
	return nil
}

func (t *Task) broken(code, method string, err error) error {
	return &fault.Error{
		Code: code, Kind: fault.Record, Thing: "task", Value: t.c.ID.String(),
		Reason: method + " of a processor failed", Remedy: "see the cause", Err: err,
	}
}

// ID is the task's name.
func (t *Task) ID() processor.TaskID { return t.c.ID }

// StreamTime is the task's event-time clock in milliseconds, -1 before any record.
func (t *Task) StreamTime() int64 { return t.streamTime }

// Now is the task's processing time in milliseconds: the greatest that Tick told, and never less than what was persisted.
func (t *Task) Now() int64 { return t.now }

// Tick tells the processing time in milliseconds; it never makes the task's clock go back. It reports whether a Step can get
// something done because of it.
func (t *Task) Tick(now int64) (ready bool) {
	if now > t.now {
		t.now = now
		t.db.SetClocks(t.now, t.streamTime)
	}
	return t.Wake() <= t.now || t.untidy()
}

// Wake is the processing time, in milliseconds, from which on a Step can get something done without another record;
// math.MaxInt64 when there is none.
func (t *Task) Wake() int64 {
	if t.retry.until > t.now {
		return t.retry.until
	}
	wake := int64(math.MaxInt64)
	if t.retry.until > 0 {
		wake = t.retry.until
	}
	if _, held := t.resumed(); held || t.Starting() {
		return wake
	}
	if t.clock != nil {
		wake = min(wake, t.wakeClock())
	}
	if t.advancing { // an epoch ended before all timers had fired that the clock has reached
		return min(wake, t.now)
	}
	for i := range t.alarms {
		if q := t.alarms[i].Queue; !q.EventTime() {
			if at, ok, err := q.Head(); err != nil {
				return t.now // the next Step says what is wrong
			} else if ok {
				wake = min(wake, at)
			}
		}
	}
	return wake
}

// Retained is the bytes of queued and retained batches.
func (t *Task) Retained() int64 {
	var n int64
	for i := range t.inputs {
		n += t.inputs[i].bytes
	}
	return n
}

// Replay is the part of Retained that was processed, to the batch, and is kept in case it has to be processed again.
func (t *Task) Replay() int64 {
	var n int64
	for i := range t.inputs {
		in := &t.inputs[i]
		for j := range in.batches {
			if in.first+int64(j) >= in.at.batch {
				break
			}
			n += int64(in.batches[j].Bytes)
		}
	}
	return n
}

// Overlay is the bytes of uncommitted state and outputs.
func (t *Task) Overlay() int64 {
	n := t.db.OverlayBytes() + t.arena.bytes
	for _, e := range t.sealed {
		n += e.arena.bytes
	}
	return n
}

// host is the task as the graph sees it.
type host struct {
	context.Context
	t *Task
}

func (h *host) Rows(name string) (*store.Rows, error) { return h.t.db.Rows(name) }

func (h *host) Restored() bool { return h.t.restored }

func (h *host) TaskID() processor.TaskID { return h.t.c.ID }

func (h *host) StreamTime() time.Time {
	if h.t.streamTime < 0 {
		return time.Time{}
	}
	return time.UnixMilli(h.t.streamTime)
}

func (h *host) Now() time.Time { return time.UnixMilli(h.t.now) }

func (h *host) Origin() processor.Origin { return h.t.where(h.t.origin) }

func (h *host) SetNode(node int) { h.t.node = node }

func (h *host) Emit(sink int, key, value []byte, time int64, headers []processor.Header) error {
	err := h.t.emit(sink, key, value, time, headers)
	if err != nil && h.t.emitErr == nil {
		// User code may lose the error on its way up. The record fails all the same.
		h.t.emitErr = err
	}
	return err
}

// Dropped counts a record that an operator left out on purpose: a null key, say, or one that came too late.
func (h *host) Dropped(node int, reason string) { h.t.count.drop(node, reason) }

// where names an origin for people.
func (t *Task) where(o Origin) processor.Origin {
	if i := o.alarm(); i >= 0 && i < len(t.alarms) {
		return processor.Origin{Topic: "timers " + t.alarms[i].Queue.Name(), Partition: t.c.ID.Partition, Offset: o.Offset}
	}
	if o.Input < 0 || o.Input >= len(t.inputs) {
		return processor.Origin{}
	}
	in := &t.inputs[o.Input]
	return processor.Origin{Topic: in.Topic, Partition: in.Partition, Offset: o.Offset}
}
