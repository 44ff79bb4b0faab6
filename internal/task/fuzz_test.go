package task

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// FuzzExactlyOnce drives a task through commands that nobody would write down: produce, step, seal, commit, discard,
// condemn, crash, in any order, with records that fail among the others. Whatever happens, what has been committed must
// be what a plain map says about the committed part of the input: for each key the outputs 1, 2, 3, ... once each, and
// that count in the store; a dead letter for each record that fails.
func FuzzExactlyOnce(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4})
	f.Add([]byte{0, 0, 0, 1, 2, 0, 1, 2, 4, 1, 2, 3})
	f.Add([]byte{8, 16, 0, 24, 9, 2, 9, 2, 3, 5, 8, 9, 2, 3, 6, 9, 2, 3})
	f.Add([]byte("produce a lot, step a little, crash often, commit now and then"))
	f.Fuzz(func(t *testing.T, commands []byte) {
		w := newWorld(t)
		for _, c := range commands {
			w.command(c)
		}
		w.finish()
	})
}

// The same with long lives, where there is no fuzzer.
func TestExactlyOnceOverLongLives(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			w := newWorld(t)
			for range 1000 {
				// Produce, feed and step often; end lives seldom.
				c := []byte{0, 0, 0, 0, 7, 7, 1, 1, 2, 3, 3, 4, 5, 6}[rng.IntN(14)]
				if c >= 4 && c <= 6 && rng.IntN(4) > 0 {
					c = 1
				}
				w.command(c | byte(rng.UintN(32))<<3)
			}
			w.finish()
		})
	}
}

// world is everything around the task: the input logs, the group's offsets, the committed outputs, the engine.
type world struct {
	t      *testing.T
	engine store.Engine
	task   *Task
	db     *store.DB

	logs    [2][]topology.Raw
	ends    [2]int64
	fed     [2]int
	group   []int64
	clock   int64
	pending []Out    // of the epoch being filled, and
	flying  [][]Out  // of the sealed ones
	sealed  []*Epoch //
	refused map[Origin]bool

	counts  map[string]uint64
	letters map[Origin]bool
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, engine: store.NewMemory(), group: []int64{0, 0}, clock: -1,
		refused: map[Origin]bool{}, counts: map[string]uint64{}, letters: map[Origin]bool{},
	}
	w.open()
	return w
}

func (w *world) open() {
	b := bench{inputs: 2, policy: processor.DeadLetter("dead"), engine: w.engine, starts: slices.Clone(w.group), start: Start{StreamTime: w.clock}}
	w.task, w.db = b.open(w.t)
	w.fed, w.pending, w.flying, w.sealed = [2]int{}, nil, nil, nil
}

// command does one thing; the upper bits are its argument.
func (w *world) command(c byte) {
	arg := int(c >> 3)
	switch c & 7 {
	case 0:
		w.produce(arg)
	case 1:
		w.step(1 + arg)
	case 2:
		w.seal()
	case 3:
		w.commit()
	case 4:
		w.task.Discard()
		w.pending, w.flying, w.sealed = nil, nil, nil
	case 5:
		w.open() // a crash
	case 6:
		w.refuse(arg)
	case 7:
		w.feed(arg&1, 1+arg>>1)
	}
}

// produce adds a record to a log: a key of four, one of eight fails, and behind one of four comes a control record.
func (w *world) produce(arg int) {
	in := arg & 1
	n := len(w.logs[in])
	r := topology.Raw{
		Offset: w.ends[in], Time: int64((n*7919 + arg*31) % 1000),
		Key: []byte{'a' + byte(arg>>1&3)}, Value: []byte("x"),
	}
	if (n+arg)%8 == 7 {
		r.Value = []byte([]string{"fail", "panic"}[n&1])
	}
	w.logs[in] = append(w.logs[in], r)
	w.ends[in]++
	if arg>>3 == 3 {
		w.ends[in]++
	}
}

// feed enqueues up to n records of a log.
func (w *world) feed(in, n int) {
	from := w.fed[in]
	to := min(from+n, len(w.logs[in]))
	next := w.ends[in]
	if to < len(w.logs[in]) {
		next = w.logs[in][to].Offset
	}
	w.task.Enqueue(Batch{Input: in, Records: w.logs[in][from:to], Next: next, Bytes: to - from})
	w.task.SetEnd(in, w.ends[in])
	w.fed[in] = to
}

func (w *world) step(n int) {
	if _, err := w.task.Step(n, nil); err != nil {
		w.t.Fatal(err)
	}
	for _, o := range w.task.Outputs() {
		o.Key, o.Value = slices.Clone(o.Key), slices.Clone(o.Value)
		w.pending = append(w.pending, o)
	}
}

func (w *world) seal() {
	w.sealed = append(w.sealed, w.task.Seal())
	w.flying = append(w.flying, w.pending)
	w.pending = nil
}

// refuse lets the broker refuse an output that is in flight.
func (w *world) refuse(arg int) {
	var outs []Out
	for _, f := range append(w.flying, w.pending) {
		outs = append(outs, f...)
	}
	if len(outs) == 0 {
		return
	}
	o := outs[arg%len(outs)]
	if o.Sink < 0 {
		return // a refused dead letter ends the task: another test's
	}
	w.task.Discard()
	w.pending, w.flying, w.sealed = nil, nil, nil
	w.task.Condemn(o.Origin, errors.New("refused"))
	w.refused[place(o.Origin)] = true
}

// place is an origin without what does not identify it.
func place(o Origin) Origin { return Origin{Input: o.Input, Offset: o.Offset} }

func (w *world) commit() {
	if len(w.sealed) == 0 {
		return
	}
	e, outs := w.sealed[0], w.flying[0]
	w.sealed, w.flying = w.sealed[1:], w.flying[1:]
	for _, o := range outs {
		if o.Sink < 0 {
			if w.letters[place(o.Origin)] {
				w.t.Fatalf("a second dead letter for %v", o.Origin)
			}
			w.letters[place(o.Origin)] = true
			continue
		}
		key, got := string(o.Key), binary.BigEndian.Uint64(o.Value)
		if want := w.counts[key] + 1; got != want {
			w.t.Fatalf("committed output %s = %d from %v, want %d", key, got, o.Origin, want)
		}
		w.counts[key] = got
	}
	for i, o := range e.Offsets {
		if o.Offset < w.group[i] {
			w.t.Fatalf("offset of input %d goes back from %d to %d", i, w.group[i], o.Offset)
		}
		w.group[i] = o.Offset
	}
	w.clock = e.StreamTime
	if err := w.task.Committed(e, []byte("checkpoint")); err != nil {
		w.t.Fatal(err)
	}
	w.check()
}

// check folds the committed part of the input and compares. A record the broker refused an output of goes to the dead letters
// only if the refusal was known to the task that committed it: after a crash it may well succeed.
func (w *world) check() {
	want := map[string]uint64{}
	for in, log := range w.logs {
		for _, r := range log {
			if r.Offset >= w.group[in] {
				break
			}
			o := Origin{Input: in, Offset: r.Offset}
			fails := string(r.Value) != "x"
			switch {
			case fails && !w.letters[o]:
				w.t.Fatalf("record %v fails and has no dead letter", o)
			case !fails && w.letters[o] && !w.refused[o]:
				w.t.Fatalf("record %v has a dead letter for nothing", o)
			case !w.letters[o]:
				want[string(r.Key)]++
			}
		}
	}
	if !equal(want, w.counts) {
		w.t.Fatalf("committed outputs count %v, the input up to %v says %v", w.counts, w.group, want)
	}
}

func equal(a, b map[string]uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// finish lets everything through and looks at the store.
func (w *world) finish() {
	for in := range w.logs {
		w.feed(in, len(w.logs[in]))
	}
	w.step(1 << 20)
	w.seal()
	for len(w.sealed) > 0 {
		w.commit()
	}
	for in, end := range w.ends {
		if w.group[in] != end {
			w.t.Fatalf("input %d is committed to %d, its log ends at %d", in, w.group[in], end)
		}
	}
	// The engine, without any overlay, holds the same.
	w.open()
	var want []string
	for _, k := range []string{"a", "b", "c", "d"} {
		if n := w.counts[k]; n > 0 {
			want = append(want, fmt.Sprintf("%s = %d", k, n))
		}
	}
	if got := dump(w.t, w.db); !slices.Equal(got, want) {
		w.t.Fatalf("the store holds %v, want %v", got, want)
	}
}
