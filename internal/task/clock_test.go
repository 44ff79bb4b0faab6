package task

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// TestClockModel drives a task through whatever may happen to it, and compares its clock with one that is computed anew from the logs and
// the positions after every command. "lines" makes watermarks, "other" brings those of three tasks.
func TestClockModel(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			m := newClockModel(t, seed)
			for range 600 {
				m.command()
			}
		})
	}
}

// clockModel is the world around a task, and what its clock should be.
type clockModel struct {
	t      *testing.T
	rng    *rand.Rand
	engine store.Engine
	task   *Task
	now    int64
	logs   [2][]topology.Raw
	fed    [2]int
	sealed []*Epoch
	group  *Epoch

	is, was clockState // of the epoch being filled, and as committed
	flying  []clockState
	top     int64 // of all that was committed
	since   int64 // since when "lines" was known to be at its end, -1
	at      int64 // and the position then
	high    int64
}

// clockState is what the model remembers.
type clockState struct {
	clock     int64
	positions [2]int64
	idle      bool // "lines" was found idle, and nothing of it was processed since
}

const (
	modelBound = 50
	modelIdle  = 1000
	modelTasks = 3
)

func newClockModel(t *testing.T, seed uint64) *clockModel {
	m := &clockModel{t: t, rng: rand.New(rand.NewPCG(seed, 4)), engine: store.NewMemory(), top: -1, since: -1}
	m.is.clock, m.was.clock = -1, -1
	m.open()
	return m
}

func (m *clockModel) open() {
	b := bench{
		inputs: 2, engine: m.engine, policy: processor.Skip(), writers: []int32{0, modelTasks},
		clock: &topology.Watermark{Bound: modelBound, Idle: modelIdle, Drift: -1},
	}
	if m.group != nil {
		b.start = Start{StreamTime: m.group.StreamTime, Now: m.group.Now, State: m.group.State}
		for _, o := range m.group.Offsets {
			b.starts = append(b.starts, o.Offset)
		}
	}
	m.task, _ = b.open(m.t)
	m.task.Tick(m.now)
	m.fed, m.sealed, m.flying = [2]int{int(m.was.positions[0]), int(m.was.positions[1])}, nil, nil
	m.is, m.since, m.high = m.was, -1, 0
	m.check("restart")
}

func (m *clockModel) command() {
	switch c := m.rng.IntN(20); {
	case c < 4: // records of "lines": forward on the whole, some far behind, some that fail
		at := int64(len(m.logs[0]))*10 + m.rng.Int64N(200)
		order := "x"
		if m.rng.IntN(6) == 0 {
			order = "fail"
		}
		m.logs[0] = append(m.logs[0], raw(int64(len(m.logs[0])), at, "k", order))
	case c < 5:
		m.logs[1] = append(m.logs[1], raw(int64(len(m.logs[1])), m.rng.Int64N(100), "k", "x"))
	case c < 8:
		r := ControlRecord{
			Partition: m.rng.Int32N(modelTasks + 1), Watermark: int64(len(m.logs[1]))*10 + m.rng.Int64N(100) - 1, Idle: m.rng.IntN(5) == 0,
		}
		m.logs[1] = append(m.logs[1], topology.Raw{Offset: int64(len(m.logs[1])), Headers: []processor.Header{{Key: ClockHeader, Value: r.append(nil)}}})
	case c < 11:
		for i := range m.logs {
			if n := len(m.logs[i]) - m.fed[i]; n > 0 {
				n = 1 + m.rng.IntN(n)
				m.task.Enqueue(Batch{Input: i, Records: m.logs[i][m.fed[i] : m.fed[i]+n : m.fed[i]+n], Next: int64(m.fed[i] + n), Epoch: 1})
				m.fed[i] += n
			}
			m.task.SetEnd(i, int64(m.fed[i])) // nobody is waited for
		}
	case c < 15:
		if _, err := m.task.Step(1, nil); err != nil {
			m.t.Fatal(err)
		}
		m.task.Outputs()
		m.stepped()
	case c < 16:
		m.now += m.rng.Int64N(modelIdle)
		m.task.Tick(m.now)
	case c < 17:
		m.asked()
	case c < 18:
		m.seal()
	case c < 19:
		m.committed()
	case m.rng.IntN(2) == 0:
		m.task.Discard()
		m.sealed, m.flying, m.is, m.since = nil, nil, m.was, -1
		m.check("discard")
	default:
		m.open()
	}
}

// asked tells the end of the log of "lines".
func (m *clockModel) asked() {
	end := int64(len(m.logs[0]))
	m.task.SetHigh(0, end)
	tail := int64(m.fed[0])
	m.high = end
	switch {
	case m.task.Positions()[0] < end:
		m.since = -1
	case m.since < 0 || m.at != tail:
		m.since, m.at = m.now, tail
	case m.now-m.since >= modelIdle:
		m.is.idle = true
	}
}

// stepped computes the clock from the logs: a Step takes control records one by one, and then perhaps a record.
func (m *clockModel) stepped() {
	to := m.task.Positions()
	for ; m.is.positions[1] < to[1]; m.is.positions[1]++ {
		m.raise()
	}
	for _, r := range m.logs[0][m.is.positions[0]:to[0]] {
		if string(r.Value) != "fail" {
			m.is.idle = false
		}
	}
	m.is.positions[0] = to[0]
	m.raise()
	m.check("step")
}

func (m *clockModel) check(what string) {
	m.t.Helper()
	if got := m.task.StreamTime(); got != m.is.clock {
		m.t.Fatalf("after %s at %v: the clock is %d, want %d", what, m.is.positions, got, m.is.clock)
	}
	if m.is.clock < m.top {
		m.t.Fatalf("after %s the clock is %d; %d was committed", what, m.is.clock, m.top)
	}
}

// raise computes the clock anew.
func (m *clockModel) raise() {
	greatest := int64(-1)
	for _, r := range m.logs[0][:m.is.positions[0]] {
		if string(r.Value) != "fail" {
			greatest = max(greatest, r.Time)
		}
	}
	var marks [modelTasks]int64
	var idle [modelTasks]bool
	for i := range marks {
		marks[i] = -1
	}
	for i := range m.logs[1][:m.is.positions[1]] {
		if r := &m.logs[1][i]; IsControl(r) {
			c, err := ParseControl(r)
			if err != nil {
				m.t.Fatal(err)
			}
			if int(c.Partition) < modelTasks {
				marks[c.Partition], idle[c.Partition] = max(marks[c.Partition], c.Watermark), c.Idle
			}
		}
	}
	least := int64(math.MaxInt64)
	if !m.is.idle || int(m.is.positions[0]) < m.fed[0] || int64(m.fed[0]) < m.high {
		own := int64(-1)
		if greatest >= 0 {
			own = max(own, greatest-modelBound-1)
		}
		least = min(least, own)
	}
	all := !strings.Contains(fmt.Sprint(idle), "false")
	if !all || int(m.is.positions[1]) < m.fed[1] {
		in := int64(math.MaxInt64)
		for i := range marks {
			if !idle[i] {
				in = min(in, marks[i])
			}
		}
		if all {
			in = -1 // data behind which all are idle: it holds the clock until it is processed
		}
		least = min(least, in)
	}
	if least != math.MaxInt64 {
		m.is.clock = max(m.is.clock, least)
	}
}

func (m *clockModel) seal() {
	if err := m.task.Finish(); err != nil {
		m.t.Fatal(err)
	}
	m.task.Outputs()
	m.sealed = append(m.sealed, m.task.Seal())
	m.flying = append(m.flying, m.is)
}

func (m *clockModel) committed() {
	if len(m.sealed) == 0 {
		return
	}
	if err := m.task.Committed(m.sealed[0], []byte("checkpoint")); err != nil {
		m.t.Fatal(err)
	}
	m.group, m.was = m.sealed[0], m.flying[0]
	m.group = &Epoch{Offsets: m.group.Offsets, StreamTime: m.group.StreamTime, Now: m.group.Now, State: m.group.State}
	m.sealed, m.flying = m.sealed[1:], m.flying[1:]
	m.top = m.was.clock
}

// A generator of the user's: what it remembers is undone and restored with the rest.
type everyThird struct {
	seen   uint64
	greats int64
}

func (g *everyThird) OnRecord(at time.Time) time.Time {
	if at.UnixMilli() == 666 {
		panic("told to")
	}
	g.seen++
	g.greats = max(g.greats, at.UnixMilli())
	if g.seen%3 != 0 {
		return time.Time{}
	}
	return time.UnixMilli(g.greats)
}

func (g *everyThird) Save(dst []byte) []byte {
	if g.seen == 100 {
		return make([]byte, generatorMax+1)
	}
	return binary.AppendVarint(binary.AppendUvarint(dst, g.seen), g.greats)
}

func (g *everyThird) Load(state []byte) error {
	*g = everyThird{}
	if len(state) == 0 {
		return nil
	}
	var n int
	g.seen, n = binary.Uvarint(state)
	g.greats, _ = binary.Varint(state[n:])
	return nil
}

func customBench(engine store.Engine) bench {
	w := &topology.Watermark{Idle: 1000, Drift: -1, New: func() topology.Generator { return &everyThird{} }}
	return bench{inputs: 1, engine: engine, clock: w, policy: processor.Skip()}
}

func TestClockCustom(t *testing.T) {
	engine := store.NewMemory()
	task, _ := customBench(engine).open(t)
	step := func(want int64) {
		t.Helper()
		if _, err := task.Step(100, nil); err != nil {
			t.Fatal(err)
		}
		task.Outputs()
		if got := task.StreamTime(); got != want {
			t.Errorf("the clock is %d, want %d", got, want)
		}
	}
	put(task, 0, raw(0, 100, "a", "x"), raw(1, 300, "a", "x"))
	step(-1)
	e := task.Seal()
	if err := task.Committed(e, nil); err != nil {
		t.Fatal(err)
	}
	put(task, 0, raw(2, 200, "a", "x"))
	step(300)
	task.Discard()
	if got := task.StreamTime(); got != -1 {
		t.Errorf("after Discard the clock is %d", got)
	}
	step(300) // with its count set back to 2, the third record is the third again

	b := customBench(engine)
	b.starts, b.start = []int64{e.Offsets[0].Offset}, Start{StreamTime: e.StreamTime, State: e.State}
	task, _ = b.open(t)
	put(task, 0, raw(2, 50, "a", "x"), raw(3, 666, "a", "x"), raw(4, 700, "a", "x"))
	step(300) // 300 was kept; the record on which it panics is skipped, and moves nothing
	if s := task.Stats(); s.Skipped != 1 {
		t.Errorf("%d records skipped, want 1", s.Skipped)
	}

	for at := int64(5); at < 105; at++ {
		put(task, 0, raw(at, at, "a", "x"))
	}
	for task.clock.sources[0].gen.(*everyThird).seen != 100 {
		if _, err := task.Step(1, nil); err != nil {
			t.Fatal(err)
		}
	}
	task.Outputs()
	if e := task.Seal(); fault.Code(e.Err) != "clock/generator" {
		t.Errorf("an epoch whose generator keeps too much has error %v", e.Err)
	}
}

// FuzzControlRecord: whatever a log holds, it is a control record that says what it says when it is written again, or an error.
func FuzzControlRecord(f *testing.F) {
	f.Add([]byte{1, 0, 3, 9, 200, 1})
	f.Add([]byte{2, 0, 3, 9, 200, 1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := topology.Raw{Headers: []processor.Header{{Key: ClockHeader, Value: b}}}
		m, err := ParseControl(&r)
		if err != nil {
			return
		}
		r.Headers[0].Value = m.append(nil)
		again, err := ParseControl(&r)
		if err != nil || again != m {
			t.Errorf("%+v comes back as %+v, %v", m, again, err)
		}
	})
}

// A control record of a version to come stops the task; on a topology that has stream time it is passed over, whatever it says.
func TestControlRecordsOfOthers(t *testing.T) {
	newer := topology.Raw{Headers: []processor.Header{{Key: ClockHeader, Value: []byte{9}}}}
	b := bench{inputs: 1, writers: []int32{1}}
	task, _ := b.open(t)
	put(task, 0, newer)
	if _, err := task.Step(10, nil); fault.Code(err) != "task/newer-format" {
		t.Errorf("a newer control record: %v", err)
	}
	stray := bench{inputs: 1, strays: true}
	task, _ = stray.open(t)
	put(task, 0, newer, raw(1, 5, "a", "x"))
	if r, err := task.Step(10, nil); err != nil || r.Records != 1 || task.Positions()[0] != 2 {
		t.Errorf("%+v, %v, at %d", r, err, task.Positions()[0])
	}
	if task.StreamTime() != 5 {
		t.Errorf("stream time is %d", task.StreamTime())
	}
	if outs := task.Outputs(); len(outs) != 1 {
		t.Errorf("%d outputs", len(outs))
	}
}

// A watermark is sent when all timers up to it have fired, and outputs that would be taken for control records are refused.
func TestReservedHeader(t *testing.T) {
	b := bench{inputs: 1, policy: processor.Skip()}
	task, _ := b.open(t)
	headers := []processor.Header{{Key: ClockHeader, Value: []byte{1}}}
	if err := task.emit(0, nil, nil, 1, headers); err == nil {
		t.Error("an output that looks like a control record was taken")
	}
	for _, h := range [][]processor.Header{nil, append(headers, headers...)} {
		if err := task.emit(0, nil, nil, 1, h); err != nil {
			t.Error(err)
		}
	}
	if err := task.emit(0, []byte("k"), nil, 1, headers); err != nil {
		t.Error(err)
	}
}
