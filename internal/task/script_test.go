package task

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// The scripts in testdata are a task's life as a person would tell it. The topology is that of graph_test.go: records of
// "lines" (and "other") are counted by key; each goes on with its count. go test ./internal/task -rewrite writes them
// anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: t}
		datadriven.RunTest(t, path, s.run)
	})
}

// script is what outlives a crash of its task: the engine, and what the group has committed.
type script struct {
	t      *testing.T
	bench  bench
	engine store.Engine
	group  *Epoch // as last committed
	task   *Task
	db     *store.DB
	sealed []*Epoch
	log    strings.Builder
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	s.log.Reset()
	switch d.Cmd {
	case "topology":
		s.topology(d)
	case "enqueue":
		s.enqueue(d)
	case "end":
		in, at := 0, 0
		d.MaybeScanArgs(t, "in", &in)
		d.ScanArgs(t, "at", &at)
		s.task.SetEnd(in, int64(at))
	case "high":
		in, at := 0, 0
		d.MaybeScanArgs(t, "in", &in)
		d.ScanArgs(t, "at", &at)
		s.task.SetHigh(in, int64(at))
	case "limit":
		in, at := 0, 0
		d.MaybeScanArgs(t, "in", &in)
		d.ScanArgs(t, "at", &at)
		s.task.SetLimit(in, int64(at))
	case "finish":
		if err := s.task.Finish(); err != nil {
			fmt.Fprintf(&s.log, "error: %v\n", err)
		}
		s.outputs()
	case "clock":
		s.clock()
	case "tick":
		now := 0
		d.ScanArgs(t, "now", &now)
		if s.task.Tick(int64(now)) {
			s.log.WriteString("a step has something to do\n")
		}
	case "step":
		s.step(d)
	case "outputs":
		s.outputs()
	case "seal":
		e := s.task.Seal()
		s.sealed = append(s.sealed, e)
		s.epoch(e)
	case "committed":
		e := s.sealed[0]
		s.sealed = s.sealed[1:]
		s.group = &Epoch{Offsets: slices.Clone(e.Offsets), StreamTime: e.StreamTime, Now: e.Now, State: e.State}
		if err := s.task.Committed(e, []byte("checkpoint")); err != nil {
			fmt.Fprintf(&s.log, "error: %v\n", err)
		}
	case "discard":
		s.task.Discard()
		s.sealed = nil
	case "condemn":
		o, text := Origin{Node: nodeSink}, "refused"
		var offset int
		d.ScanArgs(t, "offset", &offset)
		d.MaybeScanArgs(t, "in", &o.Input)
		d.MaybeScanArgs(t, "error", &text)
		o.Offset, o.DeadLetter = int64(offset), d.HasArg("dead-letter")
		s.task.Condemn(o, errors.New(text))
	case "crash":
		s.task, s.db, s.sealed = nil, nil, nil
	case "restart":
		s.restart()
	case "state":
		s.state()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return s.log.String()
}

func (s *script) topology(d *datadriven.TestData) {
	*s = script{t: s.t, engine: store.NewMemory()}
	name, policy := d.CmdArgs[0].Key, "inherit"
	s.bench = bench{inputs: 1, calls: map[string]int{}, observer: s.failed, partition: 3}
	switch name {
	case "count":
	case "merge":
		s.bench.inputs = 2
	default:
		d.Fatalf(s.t, "unknown topology %s", name)
	}
	s.bench.extract = d.HasArg("extractor")
	if d.HasArg("bound") {
		w := topology.Watermark{Idle: 30_000, Drift: -1}
		d.ScanArgs(s.t, "bound", &w.Bound)
		d.MaybeScanArgs(s.t, "idle", &w.Idle)
		d.MaybeScanArgs(s.t, "drift", &w.Drift)
		s.bench.clock = &w
	}
	if d.HasArg("in-band") {
		var n int32
		d.ScanArgs(s.t, "in-band", &n)
		s.bench.writers = append(s.bench.writers, n)
	}
	d.MaybeScanArgs(s.t, "policy", &policy)
	s.bench.policy = map[string]processor.Policy{
		"inherit": {}, "fail": processor.Fail(), "skip": processor.Skip(), "dead-letter": processor.DeadLetter("dead"),
		"retry-fail":        processor.Retry(2, 100*time.Millisecond, processor.Fail()),
		"retry-skip":        processor.Retry(2, 100*time.Millisecond, processor.Skip()),
		"retry-dead-letter": processor.Retry(2, 100*time.Millisecond, processor.DeadLetter("dead")),
	}[policy]
	d.MaybeScanArgs(s.t, "max", &s.bench.most)
	d.MaybeScanArgs(s.t, "max-row", &s.bench.mostRow)
	s.restart()
}

// restart opens the engine and begins where the group's commit says.
func (s *script) restart() {
	b := s.bench
	b.engine = s.engine
	if s.group != nil {
		b.start = Start{StreamTime: s.group.StreamTime, Now: s.group.Now, State: s.group.State}
		for _, o := range s.group.Offsets {
			b.starts = append(b.starts, o.Offset)
		}
	}
	s.task, s.db = b.open(s.t)
}

// enqueue takes one record a line: offset, time, key, value. A key "-" is null.
func (s *script) enqueue(d *datadriven.TestData) {
	in, next, leader := 0, 0, 1
	d.MaybeScanArgs(s.t, "in", &in)
	d.MaybeScanArgs(s.t, "leader", &leader)
	b := Batch{Input: in, Epoch: int32(leader), Bytes: 1000}
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		if f[1] == "mark" { // offset, "mark", upstream task, watermark, perhaps "idle"
			m := ControlRecord{Partition: int32(number(f[2])), Watermark: number(f[3]), Idle: len(f) > 4}
			r := topology.Raw{Offset: number(f[0]), Headers: []processor.Header{{Key: ClockHeader, Value: m.append(nil)}}}
			b.Records, b.Next = append(b.Records, r), r.Offset+1
			continue
		}
		r := topology.Raw{Offset: number(f[0]), Time: number(f[1]), Value: []byte(f[3])}
		if f[2] != "-" {
			r.Key = []byte(f[2])
		}
		for _, h := range f[4:] {
			k, v, _ := strings.Cut(h, "=")
			r.Headers = append(r.Headers, processor.Header{Key: k, Value: []byte(v)})
		}
		b.Records = append(b.Records, r)
		b.Next = r.Offset + 1
	}
	if d.HasArg("next") {
		d.ScanArgs(s.t, "next", &next)
		b.Next = int64(next)
	}
	s.task.Enqueue(b)
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func (s *script) step(d *datadriven.TestData) {
	limit := 100
	d.MaybeScanArgs(s.t, "n", &limit)
	r, err := s.task.Step(limit, nil)
	fmt.Fprintf(&s.log, "%d processed", r.Records)
	if r.More {
		s.log.WriteString(", more to do")
	}
	if r.Waiting >= 0 {
		fmt.Fprintf(&s.log, ", waiting for %s", s.task.inputs[r.Waiting].Topic)
	}
	if r.Moves > 0 {
		fmt.Fprintf(&s.log, ", %d moves of the clock", r.Moves)
	}
	if s.task.retry.until > 0 {
		fmt.Fprintf(&s.log, ", parked, wakes at %d", s.task.Wake())
	}
	s.log.WriteString("\n")
	if err != nil {
		fmt.Fprintf(&s.log, "stopped: %v\n", err)
	}
}

func (s *script) failed(f Failure) {
	fmt.Fprintf(&s.log, "%s/%d@%d failed at %s, %s: %s (%s)\n", f.Origin.Topic, f.Origin.Partition, f.Origin.Offset, f.Node, f.Op,
		strings.TrimSpace(processor.Policy{Action: f.Action}.String()), fault.Code(f.Err))
}

func (s *script) outputs() {
	for _, o := range s.task.Outputs() {
		if o.Sink == SinkControl {
			m, err := ParseControl(&topology.Raw{Headers: o.Headers})
			if err != nil {
				s.t.Fatal(err)
			}
			fmt.Fprintf(&s.log, "%s/%d watermark %d of task %d, number %d, idle %v\n", o.Topic, o.Partition, m.Watermark, m.Partition, m.Sequence, m.Idle)
			continue
		}
		fmt.Fprintf(&s.log, "%s/%d %s = %s @ %d", o.Topic, o.Partition, text(o.Key), value(o.Value), o.Time)
		for _, h := range o.Headers {
			fmt.Fprintf(&s.log, "\n    %s: %s", h.Key, h.Value)
		}
		s.log.WriteString("\n")
	}
}

func (s *script) epoch(e *Epoch) {
	fmt.Fprintf(&s.log, "records %d, stream time %d, now %d\n", e.Records, e.StreamTime, e.Now)
	for _, o := range e.Offsets {
		fmt.Fprintf(&s.log, "offset    %s/%d -> %d (leader epoch %d)\n", o.Topic, o.Partition, o.Offset, o.LeaderEpoch)
	}
	err := e.Rows.Each(func(name string, key, row []byte) error {
		if row == nil {
			fmt.Fprintf(&s.log, "changelog %s %s deleted\n", name, key)
			return nil
		}
		v, at, err := store.ParseRow(row)
		fmt.Fprintf(&s.log, "changelog %s %s = %s @ %d\n", name, key, value(v), at)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if len(e.State) > 0 {
		fmt.Fprintf(&s.log, "kernel state %x\n", e.State)
	}
	if e.Err != nil {
		fmt.Fprintf(&s.log, "should not be sent: %v\n", e.Err)
	}
}

// clock prints what the clock is made of.
func (s *script) clock() {
	fmt.Fprintf(&s.log, "clock %d\n", s.task.StreamTime())
	for i := range s.task.clock.sources {
		c, in := &s.task.clock.sources[i], &s.task.inputs[i]
		fmt.Fprintf(&s.log, "%s/%d watermark %d", in.Topic, in.Partition, c.mark)
		if s.task.idleInput(i) {
			s.log.WriteString(", idle")
		}
		for _, up := range c.upstream {
			fmt.Fprintf(&s.log, " [%d", up.mark)
			if up.idle {
				s.log.WriteString(" idle")
			}
			s.log.WriteString("]")
		}
		s.log.WriteString("\n")
	}
}

func (s *script) state() {
	for i, p := range s.task.Positions() {
		fmt.Fprintf(&s.log, "position %s/%d at %d\n", s.task.inputs[i].Topic, s.task.inputs[i].Partition, p)
	}
	fmt.Fprintf(&s.log, "stream time %d, now %d, retained %d bytes, dirty %v, moved %v\n",
		s.task.StreamTime(), s.task.Now(), s.task.Retained(), s.task.Dirty(), s.task.Moved())
	for _, row := range dump(s.t, s.db) {
		fmt.Fprintf(&s.log, "row %s\n", row)
	}
	st := s.task.Stats()
	if st.Skipped+st.DeadLetters > 0 || len(st.Drops) > 0 {
		fmt.Fprintf(&s.log, "of %d records %d skipped, %d dead letters, dropped %v\n", st.Records, st.Skipped, st.DeadLetters, st.Drops)
	}
}

// dump returns the rows of the store as "key = value".
func dump(t testing.TB, db *store.DB) (rows []string) {
	t.Helper()
	r, err := db.Rows("counts")
	if err != nil {
		t.Fatal(err)
	}
	scan := r.Scan(nil, nil, false)
	for scan.Next() {
		rows = append(rows, fmt.Sprintf("%s = %s", scan.Key(), value(scan.Value())))
	}
	if err := scan.Close(); err != nil {
		t.Fatal(err)
	}
	return rows
}

func text(b []byte) string {
	if b == nil {
		return "null"
	}
	return string(b)
}

// value prints a count, or how many bytes there are.
func value(b []byte) string {
	switch {
	case b == nil:
		return "null"
	case len(b) == 8:
		return strconv.FormatUint(binary.BigEndian.Uint64(b), 10)
	case len(b) > 32:
		return fmt.Sprintf("<%d bytes>", len(b))
	}
	return string(b)
}
