package task

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// eventClock makes the task's event-time clock where its sources have watermarks (docs/design/0018-clock.md). Where it is nil the clock is
// stream time, which process raises.
//
//	records of an input --generator--> watermark --+
//	records of an input --generator--> watermark --+-- least that is not idle --> clock --timers--> settled --Finish--> topics below
//	control records of an input --least--> watermark --+
type eventClock struct {
	sources []source // by input, without those that are broadcast
	told    []told   // one for each sink whose topic is told the watermark
	sentAt  int64    // processing time at which it was told something
	settled int64    // the clock when last no timer up to it was left: what has been sent before is not late
	idle    bool     // every input is
	aligned bool     // some input may be held back
	news    bool     // an input has fallen idle, which the epoch has to keep
	err     error    // a generator could not be set back: the next Step says so
}

// source is the part of one input in the clock.
type source struct {
	*topology.Watermark // nil where control records bring them
	gen                 topology.Generator
	limit               int64 // records above it are held back
	high                int64 // how far the broker's log reached when it was last told
	since               int64 // processing time since when it has been known to be read to its end, -1: it is not
	at                  int64 // position at that time

	sourceState
}

// sourceState is what of a source is undone and kept.
type sourceState struct {
	greatest int64 // event time of its records, -1 before the first
	mark     int64 // its watermark, -1 none
	idle     bool  // it has been at its end for long enough, and no record has been processed since
	upstream []upstream
}

// upstream is a task that writes the topic of an input.
type upstream struct {
	mark int64
	idle bool
}

// told is what was last sent to a repartition topic.
type told struct {
	sink     int
	sequence uint64
	mark     int64
	idle     bool
}

// clockMark is a point that Discard returns to.
type clockMark struct {
	sources    []sourceState
	generators [][]byte
	told       []told
}

// promiser is a graph whose records bring watermarks.
type promiser interface{ Promise(source int) int64 }

// newClock makes the clock of a task, nil where it is stream time.
func (t *Task) newClock() (*eventClock, error) {
	c := &eventClock{settled: -1, sentAt: math.MinInt64 / 2}
	any := false
	for i := range t.ordinary {
		in := &t.inputs[i]
		from := &t.w.sources[in.Source]
		s := source{Watermark: from.Watermark, limit: math.MaxInt64, since: -1, sourceState: sourceState{greatest: -1, mark: -1}}
		switch {
		case from.InBand:
			n := 0
			if in.Source < len(t.c.Writers) {
				n = int(t.c.Writers[in.Source])
			}
			if n < 1 {
				return nil, fmt.Errorf("task %s: input %s/%d brings watermarks of %d tasks", t.c.ID, in.Topic, in.Partition, n)
			}
			s.upstream = make([]upstream, n)
			for j := range s.upstream {
				s.upstream[j].mark = -1
			}
		case s.Watermark == nil:
			s.idle = true // a source without a part in the clock
		case s.New != nil:
			if s.gen = s.New(); s.gen == nil {
				return nil, &fault.Error{Code: "clock/generator", Kind: fault.Config, Thing: "clock of", Value: in.Topic,
					Reason: "its function made no generator", Remedy: "return a new Generator for each call"}
			}
		}
		any = any || from.InBand || s.Watermark != nil
		c.aligned = c.aligned || s.Watermark != nil && s.Drift >= 0
		c.sources = append(c.sources, s)
	}
	if !any {
		return nil, nil
	}
	for i, sink := range t.w.sinks {
		if sink.Topic.Through && !sink.Topic.Global {
			c.told = append(c.told, told{sink: i, mark: -1})
		}
	}
	return c, nil
}

// observe moves the clock for the record at the head of an input, which was processed.
func (t *Task) observe(i int) {
	in, s := &t.inputs[i], &t.clock.sources[i]
	if s.Watermark != nil {
		mark := int64(math.MinInt64)
		switch {
		case s.gen != nil:
			t.node, t.user = t.w.sources[in.Source].Node, true
			w := s.gen.OnRecord(time.UnixMilli(in.time).UTC())
			t.user = false
			if !w.IsZero() {
				mark = w.UnixMilli()
			}
		case s.Promised:
			mark = t.graph.(promiser).Promise(in.Source)
		default:
			mark = max(s.greatest, in.time) - s.Bound - 1
		}
		s.greatest = max(s.greatest, in.time)
		if mark <= s.mark && !s.idle {
			return
		}
		s.mark = max(s.mark, mark)
		s.idle = false
		t.raise()
	}
}

// raise makes the clock the least watermark of the inputs that are not idle. It never goes back.
func (t *Task) raise() {
	c := t.clock
	least := int64(math.MaxInt64)
	c.idle = true
	for i := range c.sources {
		if !t.idleInput(i) {
			c.idle = false
			least = min(least, c.sources[i].mark)
		}
	}
	if !c.idle && least > t.streamTime {
		t.streamTime, t.advancing = least, t.events > 0
		t.db.SetClocks(t.now, t.streamTime)
	}
}

// idleInput reports whether an input holds nobody up. It is back as soon as there is something of it, here or at the broker.
func (t *Task) idleInput(i int) bool {
	in, s := &t.inputs[i], &t.clock.sources[i]
	if s.Watermark == nil && s.upstream == nil {
		return true
	}
	return s.idle && in.head == nil && (s.upstream != nil || in.tail >= s.high)
}

// SetHigh says how far the broker's log of an input reaches, its high watermark, when that was asked for or came with records. An
// input is idle when it was told twice, at least its strategy's Idle apart, that there is nothing behind its position, and nothing
// came in between: time in which nobody asked does not count. So it has to be told now and then. Tasks on stream time have no use for it.
func (t *Task) SetHigh(input int, high int64) {
	if t.clock == nil || input >= len(t.clock.sources) {
		return
	}
	in, s := &t.inputs[input], &t.clock.sources[input]
	if high < in.tail {
		return // older than what has come since
	}
	s.high = high
	switch {
	case in.head != nil || in.tail < high:
		s.since = -1
	case s.since < 0 || s.at != in.tail:
		s.since, s.at = t.now, in.tail
	case s.Watermark != nil && s.Idle > 0 && t.now-s.since >= s.Idle && !s.idle:
		s.idle, t.clock.news = true, true
	}
}

// turn does what is due before the records of a Step: inputs may have fallen idle, or be no longer. It reports whether that makes
// something to commit.
func (t *Task) turn() (moved bool, err error) {
	c := t.clock
	if c.err != nil {
		return false, c.err
	}
	was := t.streamTime
	t.raise()
	moved = t.streamTime != was || c.news || !t.Dirty() && t.owed() && t.now-c.sentAt >= t.c.MarkEvery
	t.touched, c.news = t.touched || moved, false
	return moved, nil
}

// owed reports whether some topic below is to be told something.
func (t *Task) owed() bool {
	c := t.clock
	if len(c.told) == 0 {
		return false
	}
	if !t.advancing {
		c.settled = t.streamTime
	}
	return slices.ContainsFunc(c.told, c.owes)
}

func (c *eventClock) owes(to told) bool { return c.settled > to.mark || c.idle != to.idle }

// wakeClock is when a Step is to tell what an epoch without records has not told.
func (t *Task) wakeClock() int64 {
	if t.Dirty() || !t.owed() {
		return math.MaxInt64
	}
	return max(t.now, t.clock.sentAt+t.c.MarkEvery)
}

// Finish ends the work of the epoch being filled, if it has any: nodes do what they do before an epoch ends, and the watermark is put
// among the outputs for the tasks below. Call it before the last Outputs and Seal. After an error the epoch cannot be ended: Discard
// it, and fail the task with the error.
func (t *Task) Finish() error {
	if err := t.endEpoch(); err != nil {
		return err
	}
	if t.clock != nil && t.Dirty() {
		t.advancing = t.advancing && t.eventDue()
		if t.owed() {
			t.tell()
		}
	}
	return nil
}

// eventDue reports whether a timer up to the event-time clock is left.
func (t *Task) eventDue() bool {
	for i := range t.alarms {
		if q := t.alarms[i].Queue; q.EventTime() {
			if at, ok, err := q.Head(); err != nil || ok && at <= t.streamTime {
				return true
			}
		}
	}
	return false
}

// tell puts control records among the outputs, one for each partition of each topic that is to be told something.
func (t *Task) tell() {
	c := t.clock
	if t.records == 0 && !t.Moved() && t.now-c.sentAt < t.c.MarkEvery {
		return // it is there only because time has passed
	}
	for k := range c.told {
		to := &c.told[k]
		if !c.owes(*to) {
			continue
		}
		to.sequence++
		to.mark, to.idle = max(to.mark, c.settled), c.idle
		m := ControlRecord{Partition: t.c.ID.Partition, Sequence: to.sequence, Watermark: to.mark, Idle: to.idle}
		headers := t.arena.headers([]processor.Header{{Key: ClockHeader, Value: m.append(nil)}})
		for p := range t.c.SinkPartitions[to.sink] {
			t.outs = append(t.outs, Out{
				Topic: t.w.topics[to.sink], Partition: p, Headers: headers, Time: max(t.now, 0), Sink: SinkControl,
				Origin: Origin{Input: math.MinInt32, Node: t.w.sinks[to.sink].Node},
			})
		}
	}
	c.sentAt = t.now
}

// SinkControl is Out.Sink of a control record: it came from no record, and counts as none.
const SinkControl = -2

// takeMark takes a control record that has come to the head of an input, if there is one.
func (t *Task) takeMark() (taken bool, err error) {
	for i := range t.ordinary {
		in := &t.inputs[i]
		if !in.through || in.head == nil || !IsControl(in.head) {
			continue
		}
		t.undo.open = false
		var m ControlRecord
		if t.clock != nil && t.clock.sources[i].upstream != nil {
			if m, err = ParseControl(in.head); err != nil {
				return false, &fault.Error{Code: "task/newer-format", Kind: fault.State, Thing: "control record",
					Value:  fmt.Sprintf("%s/%d@%d", in.Topic, in.Partition, in.head.Offset),
					Reason: err.Error(), Remedy: "run the version of millrace that wrote it, or a newer one"}
			}
			t.clock.sources[i].take(m)
		}
		in.advance()
		t.touched = true
		if t.clock != nil {
			t.raise()
		}
		return true, nil
	}
	return false, nil
}

// take notes what a task upstream says.
func (s *source) take(m ControlRecord) {
	if int(m.Partition) >= len(s.upstream) {
		return // the topology had more tasks when it was written
	}
	up := &s.upstream[m.Partition]
	up.mark, up.idle = max(up.mark, m.Watermark), m.Idle
	s.least()
}

// least is the watermark of an input that is told it.
func (s *source) least() {
	least := int64(math.MaxInt64)
	s.idle = true
	for _, up := range s.upstream {
		if !up.idle {
			s.idle = false
			least = min(least, up.mark)
		}
	}
	if !s.idle {
		s.mark = least
	}
}

// held reports whether the head of an input runs too far ahead. It is asked again whenever something has changed.
func (t *Task) held(i int) bool {
	if t.clock == nil || !t.clock.aligned {
		return false
	}
	in, s := &t.inputs[i], &t.clock.sources[i]
	if s.Watermark == nil || s.Drift < 0 || !in.timed {
		return false
	}
	if in.time > s.limit {
		return true
	}
	for j := range t.clock.sources {
		if j != i && in.time > Ahead(t.Floor(j), s.Drift) {
			return true
		}
	}
	return false
}

// Ahead is floor and drift, at most the end of time.
func Ahead(floor, drift int64) int64 {
	if floor > math.MaxInt64-drift {
		return math.MaxInt64
	}
	return floor + drift
}

// Floor is where an input stands, for the alignment of others: the event time of its next record, if that is known, else its watermark.
// math.MaxInt64 holds nobody back: the input is idle, or is empty and was never anything else; math.MinInt64 holds all back: it is not
// known yet what the input has.
func (t *Task) Floor(input int) int64 {
	if t.clock == nil || input >= len(t.clock.sources) || t.idleInput(input) {
		return math.MaxInt64
	}
	in, s := &t.inputs[input], &t.clock.sources[input]
	switch {
	case in.head != nil && in.timed:
		return max(s.mark, in.time)
	case s.mark >= 0:
		return s.mark
	case in.head == nil && s.since >= 0:
		return math.MaxInt64
	}
	return math.MinInt64
}

// Drift is how far an input may run ahead of others of its topic in the same instance, -1 if it may do so by any time.
func (t *Task) Drift(input int) int64 {
	if t.clock == nil || input >= len(t.clock.sources) || t.clock.sources[input].Watermark == nil {
		return -1
	}
	return t.clock.sources[input].Drift
}

// SetLimit says up to which event time records of an input may be processed, for the sake of other tasks. It is for inputs with a Drift.
func (t *Task) SetLimit(input int, limit int64) {
	if t.clock != nil {
		t.clock.sources[input].limit = limit
	}
}

// mark is the clock at the end of an epoch.
func (c *eventClock) mark() (m *clockMark, err error) {
	m = &clockMark{sources: make([]sourceState, len(c.sources)), generators: make([][]byte, len(c.sources)), told: slices.Clone(c.told)}
	for i := range c.sources {
		s := &c.sources[i]
		m.sources[i] = s.sourceState
		m.sources[i].upstream = slices.Clone(s.upstream)
		if s.gen != nil {
			var failed error
			if m.generators[i], failed = saveGenerator(s.gen); failed != nil {
				err = errors.Join(err, failed)
			}
		}
	}
	return m, err
}

// restore sets the clock back.
func (c *eventClock) restore(m *clockMark) {
	for i := range c.sources {
		s := &c.sources[i]
		s.sourceState = m.sources[i]
		s.upstream = slices.Clone(s.upstream)
		s.since = -1
		if s.gen != nil {
			if err := loadGenerator(s.gen, m.generators[i]); err != nil {
				c.err = err
			}
		}
	}
	copy(c.told, m.told)
	c.settled, c.news = -1, false
}

const generatorMax = 4 << 10 // bytes a generator may keep

func saveGenerator(g topology.Generator) (state []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = badGenerator("Save", caught(v))
		}
	}()
	if state = g.Save(nil); len(state) > generatorMax {
		return nil, badGenerator("Save", fmt.Errorf("%d bytes are more than %d", len(state), generatorMax))
	}
	return state, nil
}

func loadGenerator(g topology.Generator, state []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = badGenerator("Load", caught(v))
		}
	}()
	if err := g.Load(state); err != nil {
		return badGenerator("Load", err)
	}
	return nil
}

func badGenerator(method string, err error) error {
	return &fault.Error{Code: "clock/generator", Kind: fault.State, Thing: "generator of a clock", Value: method,
		Reason: err.Error(), Remedy: "correct the generator: Save is small, and Load takes what Save has written", Err: err}
}

const flagIdle = 1

func flags(idle bool) byte {
	if idle {
		return flagIdle
	}
	return 0
}

// keepClock encodes tag 4 of the kernel state.
func (t *Task) keepClock(m *clockMark) []byte {
	b := binary.AppendUvarint(nil, uint64(len(m.sources)))
	for i := range m.sources {
		in, s := &t.inputs[i], &m.sources[i]
		b = appendText(b, in.Topic)
		b = binary.AppendUvarint(b, uint64(in.Partition))
		b = append(b, flags(s.idle))
		b = binary.AppendVarint(b, s.greatest)
		b = binary.AppendVarint(b, s.mark)
		b = appendText(b, string(m.generators[i]))
		b = binary.AppendUvarint(b, uint64(len(s.upstream)))
		for _, up := range s.upstream {
			b = binary.AppendVarint(b, up.mark)
			b = append(b, flags(up.idle))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(m.told)))
	for _, to := range m.told {
		b = appendText(b, t.w.topics[to.sink])
		b = binary.AppendUvarint(b, to.sequence)
		b = binary.AppendVarint(b, to.mark)
		b = append(b, flags(to.idle))
	}
	return b
}

// resumeClock takes up tag 4. What is not there any more is passed over, also all of it by a task that has changed to stream time.
func (t *Task) resumeClock(f *fields) error {
	for range f.uvarint() {
		topic, partition, idle := f.text(), int32(f.uvarint()), f.flag()
		greatest, mark := f.varint(), f.varint()
		state := f.bytes()
		ups := make([]upstream, 0, 8)
		for n := f.uvarint(); n > 0 && !f.bad; n-- {
			ups = append(ups, upstream{mark: f.varint(), idle: f.flag()})
		}
		if f.bad {
			return nil // the caller says so
		}
		if err := t.resumeSource(topic, partition, sourceState{greatest, mark, idle, ups}, state); err != nil {
			return err
		}
	}
	for n := f.uvarint(); n > 0 && !f.bad; n-- {
		topic := f.text()
		was := told{sequence: f.uvarint(), mark: f.varint(), idle: f.flag()}
		if t.clock == nil || f.bad {
			continue
		}
		for k := range t.clock.told {
			if to := &t.clock.told[k]; t.w.topics[to.sink] == topic {
				was.sink = to.sink
				*to = was
			}
		}
	}
	return nil
}

func (t *Task) resumeSource(topic string, partition int32, was sourceState, generator []byte) error {
	if t.clock == nil {
		return nil
	}
	for i := range t.clock.sources {
		in, s := &t.inputs[i], &t.clock.sources[i]
		if in.Topic != topic || in.Partition != partition {
			continue
		}
		switch {
		case s.upstream != nil:
			copy(s.upstream, was.upstream)
			s.least()
		case s.Watermark != nil:
			s.greatest, s.mark, s.idle = was.greatest, was.mark, was.idle && s.Idle > 0
			if s.gen != nil {
				return loadGenerator(s.gen, generator)
			}
		}
	}
	return nil
}

// flag takes a byte of flags.
func (f *fields) flag() (idle bool) {
	if b := f.take(1); b != nil {
		f.bad = f.bad || b[0]&^flagIdle != 0
		return b[0]&flagIdle != 0
	}
	return false
}

// ClockHeader is the one header of a control record (docs/format/clock.md).
const ClockHeader = "millrace.clock"

// ControlRecord is what a task tells the tasks behind a repartition topic.
type ControlRecord struct {
	Partition int32 // of the task
	Sequence  uint64
	Watermark int64 // milliseconds, -1 none yet
	Idle      bool
}

const controlVersion = 1

func (m *ControlRecord) append(dst []byte) []byte {
	dst = append(dst, controlVersion, flags(m.Idle))
	dst = binary.AppendUvarint(dst, uint64(m.Partition))
	dst = binary.AppendUvarint(dst, m.Sequence)
	return binary.AppendVarint(dst, m.Watermark)
}

// IsControl reports whether a record of a repartition topic is a control record.
func IsControl(r *topology.Raw) bool { return r.Key == nil && r.Value == nil && isClock(r.Headers) }

func isClock(headers []processor.Header) bool {
	return len(headers) == 1 && headers[0].Key == ClockHeader
}

// ParseControl reads a control record.
func ParseControl(r *topology.Raw) (m ControlRecord, err error) {
	if !IsControl(r) {
		return m, errors.New("it is not a control record")
	}
	b := r.Headers[0].Value
	if len(b) < 2 || b[0] != controlVersion {
		return m, fmt.Errorf("version %x is not known", b[:min(1, len(b))])
	}
	f := fields{rest: b[1:]}
	m.Idle = f.flag()
	partition := f.uvarint()
	m.Sequence, m.Watermark = f.uvarint(), f.varint()
	if f.bad || partition > math.MaxInt32 || m.Watermark < -1 {
		return m, errors.New("it does not decode")
	}
	m.Partition = int32(partition)
	return m, nil
}

// errReserved is the error of an output that would be taken for a control record.
var errReserved = errors.New("a record without key and value whose only header is " + ClockHeader + " is a control record")
