package task

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// byHand is a graph of a few lines: a source per input, a count by key, and an echo. What the kernel does with it can be
// read off a transcript without knowing package topology. Values are orders to it:
//
//	flaky:N, flaky-panic:N      as fail and panic, the first N times, restarts included
//	fail, panic, error-panic    the node "count" does so, after it has written state and an output
//	swallow                     as too-large, but the error of Emit is lost
//	big:N                       the output's value is N bytes long
//	bytes:N                     the row is N bytes long
//	drop, drop-fail             left out, and counted; the second fails then
//	store-broken                the node returns an error of the state
//	@T                          the event time, where the source has an extractor
type byHand struct {
	host  topology.Host
	rows  *store.Rows
	value [8]byte
	calls map[string]int // of flaky records, by key
}

const (
	nodeSource = iota // of input 0; input 1 has nodeOther
	nodeOther
	nodeCount
	nodeSink
)

func byHandNodes(policy processor.Policy) []topology.NodeInfo {
	return []topology.NodeInfo{
		nodeSource: {Name: "lines", Kind: "source", Policy: policy},
		nodeOther:  {Name: "other", Kind: "source", Policy: policy},
		nodeCount:  {Name: "count", Kind: "process", Policy: policy},
		nodeSink:   {Name: "to-counts", Kind: "sink", Policy: policy},
	}
}

func (g *byHand) Timestamp(source int, r *topology.Raw) (int64, error) {
	text := string(r.Value)
	if n, ok := strings.CutPrefix(text, "@flaky:"); ok {
		if g.calls[string(r.Key)]++; strconv.Itoa(g.calls[string(r.Key)]) <= n {
			return 0, &topology.NodeError{Node: source, Name: "lines", Op: "timestamp", Err: errors.New("not yet")}
		}
		return 1, nil
	}
	if text == "@panic" {
		panic("no time")
	}
	at, err := strconv.ParseInt(strings.TrimPrefix(text, "@"), 10, 64)
	if err != nil {
		return 0, &topology.NodeError{Node: source, Name: "lines", Op: "timestamp", Err: errors.New("no time in the value")}
	}
	return at, nil
}

func (g *byHand) Process(source int, r *topology.Raw, at int64) error {
	g.host.SetNode(nodeSource + source)
	if r.Key == nil {
		return &topology.NodeError{Node: nodeSource + source, Name: "lines", Op: "decode key", Err: errors.New("a null key")}
	}
	g.host.SetNode(nodeCount)
	if string(r.Value) == "drop" {
		g.host.Dropped(nodeCount, "told to")
		return nil
	}
	if string(r.Value) == "drop-fail" {
		g.host.Dropped(nodeCount, "told to")
		return g.failed(errors.New("told to fail"))
	}
	old, _, ok, err := g.rows.Get(r.Key)
	if err != nil {
		return err
	}
	n := uint64(1)
	if ok {
		n = binary.BigEndian.Uint64(old) + 1
	}
	binary.BigEndian.PutUint64(g.value[:], n)
	row := g.value[:]
	order, arg, _ := strings.Cut(string(r.Value), ":")
	size, _ := strconv.Atoi(arg)
	if order == "bytes" {
		row = make([]byte, size)
	}
	if err := g.rows.Put(r.Key, row, at); err != nil {
		return err
	}
	value := g.value[:]
	if order == "big" || order == "swallow" {
		value = make([]byte, size)
	}
	if err := g.host.Emit(0, r.Key, value, at, r.Headers); err != nil && order != "swallow" {
		return err
	}
	switch order {
	case "flaky", "flaky-panic":
		if g.calls[string(r.Key)]++; g.calls[string(r.Key)] > size {
			break
		}
		if order == "flaky-panic" {
			panic("told to panic")
		}
		return g.failed(errors.New("told to fail"))
	case "fail":
		return g.failed(errors.New("told to fail"))
	case "panic":
		panic("told to panic")
	case "error-panic":
		panic(errTold)
	case "store-broken":
		return g.failed(fmt.Errorf("reading: %w", errBroken))
	}
	return nil
}

func (g *byHand) failed(err error) error {
	return &topology.NodeError{Node: nodeCount, Name: "count", Op: "process", Err: err}
}

func (g *byHand) Close() error { return nil }

var errTold = errors.New("told to panic with an error")

// lean is byHand for measuring: it makes no strings.
type lean struct{ byHand }

func (g *lean) Process(source int, r *topology.Raw, at int64) error {
	g.host.SetNode(nodeCount)
	old, _, ok, err := g.rows.Get(r.Key)
	if err != nil {
		return err
	}
	n := uint64(1)
	if ok {
		n = binary.BigEndian.Uint64(old) + 1
	}
	binary.BigEndian.PutUint64(g.value[:], n)
	if err := g.rows.Put(r.Key, g.value[:], at); err != nil {
		return err
	}
	return g.host.Emit(0, r.Key, g.value[:], at, r.Headers)
}

// bench is a task of such a graph with everything a test may turn.
type bench struct {
	inputs    int
	extract   bool
	lean      bool
	policy    processor.Policy
	onError   processor.Policy
	most      int // MaxRecordBytes of the sink
	mostRow   int
	ctx       context.Context
	observer  func(Failure)
	release   func(Batch)
	engine    store.Engine
	starts    []int64
	start     Start
	partition int32
	calls     map[string]int      // what flaky records count in; outlives a restart
	clock     *topology.Watermark // of every input that brings no watermarks
	writers   []int32             // by input: tasks whose watermarks it brings
	strays    bool                // "lines" is a repartition topic
}

var counted = store.KeyValue("counts", serde.String(), serde.String())

func (b bench) open(t testing.TB) (*Task, *store.DB) {
	t.Helper()
	if b.engine == nil {
		b.engine = store.NewMemory()
	}
	db, err := store.Open(b.engine, []store.Binding{{Spec: counted, Prefix: 1}}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if b.calls == nil {
		b.calls = map[string]int{}
	}
	if b.ctx == nil {
		b.ctx = context.Background()
	}
	w := wiring{
		sources: []topology.Source{{Topic: topology.TopicRef{Name: "lines"}, Node: nodeSource, Extractor: b.extract}},
		sinks:   []topology.Sink{{Topic: topology.TopicRef{Name: "by-key", Through: true}, Node: nodeSink}},
		nodes:   byHandNodes(b.policy),
		wire: func(h topology.Host) (graph, error) {
			rows, err := h.Rows("counts")
			if err != nil {
				return nil, err
			}
			if b.lean {
				return &lean{byHand{host: h, rows: rows}}, nil
			}
			return &byHand{host: h, rows: rows, calls: b.calls}, nil
		},
	}
	c := Config{
		Context: b.ctx, ID: processor.TaskID{Subtopology: "counts", Partition: b.partition}, App: "app", DB: db,
		Inputs: []Input{{Source: 0, Topic: "lines", Partition: b.partition}}, SinkPartitions: []int32{3}, OnError: b.onError,
		MaxRecordBytes: []int{b.most}, MaxChangelogBytes: b.mostRow, Observer: b.observer, Release: b.release,
	}
	if b.inputs == 2 {
		w.sources = append(w.sources, topology.Source{Topic: topology.TopicRef{Name: "other"}, Node: nodeOther, Extractor: b.extract})
		c.Inputs = append(c.Inputs, Input{Source: 1, Topic: "other", Partition: b.partition})
	}
	for i := range w.sources {
		s := &w.sources[i]
		s.Watermark, s.Topic.Through = b.clock, b.strays
		if i < len(b.writers) && b.writers[i] > 0 {
			s.InBand, s.Watermark, s.Topic.Through = true, nil, true
		}
	}
	c.Writers, c.MarkEvery = b.writers, 1000
	for i, at := range b.starts {
		c.Inputs[i].Start = at
	}
	if b.start.StreamTime == 0 && b.start.Now == 0 && b.start.State == nil {
		b.start.StreamTime = -1
	}
	task, err := newTask(c, b.start, w)
	if err != nil {
		t.Fatal(err)
	}
	return task, db
}

// raw is a record for a test.
func raw(offset, at int64, key, value string) topology.Raw {
	return topology.Raw{Offset: offset, Time: at, Key: []byte(key), Value: []byte(value)}
}

// put gives a task one batch of records in a row.
func put(t *Task, input int, records ...topology.Raw) {
	last := records[len(records)-1].Offset
	t.Enqueue(Batch{Input: input, Records: records, Next: last + 1, Epoch: 1, Bytes: 100 * len(records)})
}
