package task_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
	"github.com/millrace-io/millrace/ttl"
)

// TestPromise runs one application through whatever may happen to it (commits and aborts at any time, epochs in flight while the next is
// filled, crashes with a disk that is there, behind or gone, refused outputs, short Steps) and once straight through. What was
// committed must be the same: the outputs of each task, in order, and in the end the state.
//
//	left, right, limits --> desk, check --> out, late-1, dead
//	                              |
//	                              +--> moves (repartition, watermarks in-band) --> tail --> out-2, late-2
//
// What a task behind the repartition topic does depends on the order in which the tasks before it were committed, and on the epochs
// that their watermarks end. So its straight run is over the very log that the wild one left.
//
// Time goes by in rounds of two hours. In the first ten minutes come records, about the 45th minute timers in processing time are due,
// after an hour all is calm and inputs become idle. When a try is repeated depends on what happened to the task, but never by so much
// that a record meets another time to live.
func TestPromise(t *testing.T) {
	for seed := range uint64(14) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { promise(t, seed, 4, 60, seed%7 == 6) })
	}
}

func promise(t *testing.T, seed uint64, rounds, actions int, pebble bool) {
	top := promiseTopology(t, seed%2 == 0)
	var wild, straight, below *plant
	wild = newPlant(t, top, rand.New(rand.NewPCG(seed, 11)), pebble)
	straight = newPlant(t, top, nil, false)
	below = newPlant(t, top, nil, false)
	below.replay = wild
	input := rand.New(rand.NewPCG(seed, 12))
	for r := range rounds {
		from := int64(1000+r) * round
		wild.fill(input, from, 25)
		straight.in, below.in = wild.in, wild.in
		for _, at := range []int64{0, 45 * minute, calm, 87 * minute} {
			for _, p := range []*plant{wild, straight, below} {
				n := 0
				if p == wild && at < calm {
					n = actions
				}
				p.phase(from+at, n)
			}
			for k, l := range wild.lines {
				other := straight.lines[k]
				if l.sub == 1 {
					other = below.lines[k]
				}
				same(t, fmt.Sprintf("round %d, minute %d, outputs of %s", r, at/minute, l.id), l.done, other.done)
			}
		}
		for k, l := range wild.lines { // every watermark has arrived, whatever was aborted on its way
			if got, want := l.task.StreamTime(), straight.lines[k].task.StreamTime(); got != want {
				t.Fatalf("round %d: the clock of %s shows %d, straight %d", r, l.id, got, want)
			}
		}
	}
	for k, l := range wild.lines {
		other := straight.lines[k]
		if l.sub == 1 {
			other = below.lines[k]
		}
		want := other.state(gone)
		for _, disk := range []int{kept, late, gone} {
			same(t, fmt.Sprintf("state of %s, disk %d", l.id, disk), l.state(disk), want)
		}
		if len(l.done) == 0 {
			t.Errorf("%s has put out nothing", l.id)
		}
	}
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: number %d is\n%s\nand straight\n%s", what, i, g, w)
		}
	}
}

const (
	minute = int64(60_000)
	round  = 120 * minute
	calm   = 60 * minute
)

// The nouns.
var (
	leftIn   = stream.NewTopic("left", serde.String(), serde.String())
	rightIn  = stream.NewTopic("right", serde.String(), serde.String())
	limitsIn = stream.NewTopic("limits", serde.String(), serde.Int64())
	firstOut = stream.NewTopic("out", serde.String(), serde.String())
	lastOut  = stream.NewTopic("out-2", serde.String(), serde.String())
	late1    = stream.NewTopic("late-1", serde.String(), serde.String())
	late2    = stream.NewTopic("late-2", serde.String(), serde.String())
	moves    = stream.Through("moves", serde.String(), serde.String()).Partitions(2)

	limits    = store.Broadcast("limits", serde.String(), serde.Int64())
	counted   = store.Value("counted", serde.String(), serde.Int64(), store.WithTTL(ttl.AfterWrite(150*time.Minute)))
	looked    = store.Map("looked", serde.String(), serde.String(), serde.Int64(), store.WithTTL(ttl.AfterAccess(150*time.Minute).Buckets(time.Minute)))
	recent    = store.List("recent", serde.String(), serde.String(), store.WithTTL(ttl.AfterWrite(90*time.Minute).EventTime()))
	deskEvent = timers.New("desk-events", serde.String(), timers.EventTime)
	deskWall  = timers.New("desk-walls", serde.String(), timers.ProcessingTime)

	tailRecent = store.List("tail-recent", serde.String(), serde.String(), store.WithTTL(ttl.AfterWrite(70*time.Minute).EventTime().Buckets(time.Minute)))
	tailEvent  = timers.New("tail-events", serde.String(), timers.EventTime)
	tailWall   = timers.New("tail-walls", serde.String(), timers.ProcessingTime)
	tailSum    = store.Partition("tail-sum", serde.Int64())
)

func promiseTopology(t *testing.T, watermarks bool) *topology.Topology {
	left, right := leftIn, rightIn
	if watermarks {
		left = left.WithClock(stream.BoundedOutOfOrder(30 * time.Second).Idle(20 * time.Minute))
		right = right.WithClock(stream.Monotonic().Idle(20 * time.Minute))
	}
	b := stream.NewBuilder()
	again := processor.Retry(30, 50*time.Millisecond, processor.DeadLetter("dead"))
	in := stream.From(b, left, right).LateTo(late1, 2*time.Minute)
	desk := stream.ProcessBroadcast(in, limitsIn, func() processor.BroadcastProcessor[string, string, string, int64, string, string] { return &desk{} },
		limits, counted, looked, recent, deskEvent, deskWall).OnError(again)
	checked := stream.Process(desk, func() processor.Processor[string, string, string, string] { return check{} }).
		OnError(processor.Retry(2, 50*time.Millisecond, processor.DeadLetter("dead")))
	checked.To(firstOut)
	tail := stream.Process(stream.SelectKey(checked, func(k, v string) string { return v[:1] + k }).Repartition(moves).LateTo(late2, time.Minute),
		func() processor.Processor[string, string, string, string] { return &tail{} }, tailRecent, tailEvent, tailWall, tailSum).OnError(again)
	tail.To(lastOut)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func digest(parts ...any) uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, parts...)
	return h.Sum32()
}

// since is how far into its round a time is.
func since(now time.Time) int64 { return now.UnixMilli() % round }

var errNotYet = errors.New("not yet")

// desk does what the letters of a record's value say.
type desk struct {
	limits  *store.BroadcastState[string, int64]
	counted store.ValueState[string, int64]
	looked  store.MapState[string, string, int64]
	recent  store.ListState[string, string]
	events  *timers.Set[string]
	walls   *timers.Set[string]
}

func (p *desk) Init(ctx processor.InitContext) (err error) {
	var errs [6]error
	p.limits, errs[0] = limits.In(ctx)
	p.counted, errs[1] = counted.In(ctx)
	p.looked, errs[2] = looked.In(ctx)
	p.recent, errs[3] = recent.In(ctx)
	p.events, errs[4] = deskEvent.In(ctx)
	p.walls, errs[5] = deskWall.In(ctx)
	return errors.Join(errs[:]...)
}

func (p *desk) ProcessBroadcast(ctx processor.BroadcastContext[string, string], r processor.Record[string, int64]) error {
	if r.Value < 0 {
		_, _, err := p.limits.Delete(ctx, r.Key)
		return err
	}
	if err := p.limits.Put(ctx, r.Key, r.Value); err != nil {
		return err
	}
	if r.Value%7 == 3 && since(ctx.Now()) < 4000 {
		return errNotYet
	}
	if r.Value%3 == 0 {
		return ctx.Forward(processor.Record[string, string]{Key: r.Key, Value: fmt.Sprint("b limit ", r.Value)})
	}
	return nil
}

// tell forwards what there is about a key.
func (p *desk) tell(ctx processor.Context[string, string], key, head string, at time.Time) error {
	n, err := p.counted.GetOr(key, 0)
	if err != nil {
		return err
	}
	list, err := p.recent.Slice(key)
	if err != nil {
		return err
	}
	entries := ""
	for sub, v := range p.looked.All(key).Rows() {
		entries += fmt.Sprint(sub, "=", v, " ")
	}
	length, err := p.recent.Len(key)
	if err != nil {
		return err
	}
	most, _, err := p.limits.Get("x")
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s n=%d list=%d/%d/%x map=%x limit=%d clock=%d", head, n, len(list), length, digest(list), digest(entries), most, ctx.StreamTime().UnixMilli())
	return ctx.Forward(processor.Record[string, string]{Key: key, Value: text, Time: at})
}

func (p *desk) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	n, err := p.counted.GetOr(r.Key, 0)
	if err != nil {
		return err
	}
	hash := int64(digest(r.Key, r.Value, r.Time.UnixMilli()))
	from := ctx.Now().Truncate(time.Duration(round) * time.Millisecond)
	err = errors.Join(p.counted.Put(r.Key, n+1), p.looked.Put(r.Key, fmt.Sprint(hash%5), n), p.recent.Append(r.Key, r.Value))
	for _, order := range r.Value {
		if err != nil {
			return err
		}
		at := r.Time.Add(time.Duration(hash%20-5) * time.Minute)
		switch order {
		case 'M':
			for i := range 40 {
				err = errors.Join(err, p.recent.Append(r.Key, fmt.Sprint(i)), p.looked.Put(r.Key, fmt.Sprint("m", i), n))
			}
		case 'C':
			err = errors.Join(p.recent.Clear(r.Key), p.looked.Clear(r.Key))
		case 'T':
			err = p.events.Set(r.Key, at)
		case 'E':
			err = p.events.SetIn("slow", r.Key, at)
		case 'D':
			err = errors.Join(p.events.Delete(r.Key, at.Truncate(time.Minute)), p.events.Set(r.Key, at.Truncate(time.Minute).Add(time.Minute)))
		case 'W':
			err = p.walls.Set(r.Key, from.Add(40*time.Minute+time.Duration(hash%200)*time.Second))
		case 'V':
			err = p.walls.SetIn("slow", r.Key, from.Add(44*time.Minute+time.Duration(hash%60)*time.Second))
		case 'L':
			err = p.walls.Set(r.Key, from.Add(165*time.Minute)) // in the next round
		}
	}
	if err == nil {
		err = p.tell(ctx, r.Key, "r "+r.Value, r.Time)
	}
	if err == nil && strings.Contains(r.Value, "F") && since(ctx.Now()) < 60_000 {
		err = errNotYet
	}
	return err
}

func (p *desk) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	if err := p.recent.Append(f.Key, "timer"); err != nil {
		return err
	}
	if n, ok, err := p.counted.Get(f.Key); err != nil {
		return err
	} else if ok && f.Namespace != "again" {
		if err := p.counted.Put(f.Key, n+1000); err != nil {
			return err
		}
		if err := p.events.SetIn("again", f.Key, f.At.Add(3*time.Minute)); err != nil {
			return err
		}
	}
	head := fmt.Sprintf("t %s %s %d", f.Set, f.Namespace, f.At.UnixMilli())
	if digest(f.Key, f.At.UnixMilli())%9 == 0 {
		head += " H" // the broker will not take it
	}
	if digest(f.Key, f.At.UnixMilli())%9 == 1 {
		head += " P"
	}
	if err := p.tell(ctx, f.Key, head, f.At); err != nil {
		return err
	}
	if f.Namespace == "slow" && since(ctx.Now())%(45*minute) < 30_000 {
		return errNotYet
	}
	return nil
}

// check fails for some records, always.
type check struct{}

func (check) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	err := ctx.Forward(r)
	if err == nil && strings.Contains(r.Value, "P") {
		err = errors.New("it will not do")
	}
	return err
}

// tail is behind the repartition topic. It sums up in memory.
type tail struct {
	recent store.ListState[string, string]
	events *timers.Set[string]
	walls  *timers.Set[string]
	sum    *store.PartitionState[int64]
	more   int64
}

func (p *tail) Init(ctx processor.InitContext) (err error) {
	var errs [4]error
	p.recent, errs[0] = tailRecent.In(ctx)
	p.events, errs[1] = tailEvent.In(ctx)
	p.walls, errs[2] = tailWall.In(ctx)
	p.sum, errs[3] = tailSum.In(ctx)
	return errors.Join(errs[:]...)
}

func (p *tail) tell(ctx processor.Context[string, string], key, head string, at time.Time) error {
	list, err := p.recent.Slice(key)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s list=%d/%x clock=%d", head, len(list), digest(list), ctx.StreamTime().UnixMilli())
	return ctx.Forward(processor.Record[string, string]{Key: key, Value: text, Time: at})
}

func (p *tail) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	hash := int64(digest(r.Key, r.Value, r.Time.UnixMilli()))
	err := p.recent.Append(r.Key, r.Value)
	if err == nil && hash%3 == 0 {
		err = p.events.Set(r.Key, r.Time.Add(time.Duration(hash%40-10)*time.Minute))
	}
	if err == nil && hash%4 == 0 {
		from := ctx.Now().Truncate(time.Duration(round) * time.Millisecond)
		err = p.walls.Set(r.Key, from.Add(44*time.Minute))
	}
	if err == nil {
		err = p.tell(ctx, r.Key, fmt.Sprintf("r %x", hash), r.Time)
	}
	if err == nil && hash%11 == 0 && since(ctx.Now())%(45*minute) < 20_000 {
		err = errNotYet
	}
	if err == nil {
		p.more++
	}
	return err
}

func (p *tail) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	err := p.tell(ctx, f.Key, fmt.Sprintf("t %s %d", f.Set, f.At.UnixMilli()), f.At)
	if err == nil {
		p.more += 1000
	}
	return err
}

func (p *tail) OnEpoch(processor.Context[string, string]) error {
	if p.more == 0 {
		return nil
	}
	sum, _, err := p.sum.Get()
	if err == nil {
		err = p.sum.Put(sum + p.more)
	}
	p.more = 0
	return err
}

func (p *tail) Forget() { p.more = 0 }

// plant is an application and its cluster: logs and lines, one for each task.
type plant struct {
	t      *testing.T
	top    *topology.Topology
	rng    *rand.Rand // nil: straight
	now    int64
	in     map[string][]topology.Raw // topic/partition, of the user's
	moved  [2][]topology.Raw         // of the repartition topic
	ends   [2]int64
	lines  []*line
	replay *plant // its repartition topic is read
	pebble bool
	cache  int64
}

// The disks of a task that starts again.
const (
	kept = iota
	late
	gone
)

// line is one task and what outlives it.
type line struct {
	p        *plant
	id       processor.TaskID
	sub      int
	top      *topology.Subtopology
	bindings []store.Binding
	inputs   []task.Input

	disk   store.Engine // in memory; of Pebble there is
	dir    string
	copied store.Batch // what was on the disk some time ago
	log    []row       // changelog
	group  *task.Epoch
	kept   []byte // as the runtime does
	record []byte // kernel state in the tasks topic

	task    *task.Task
	db      *store.DB
	engine  store.Engine
	fed     []int
	pending []task.Out
	units   int
	sealed  []flying
	done    []string
}

type row struct {
	store string
	store.Mutation
}

type flying struct {
	e     *task.Epoch
	outs  []task.Out
	dirty bool
	units int
}

// forever is a memory engine that outlives its database.
type forever struct{ store.Engine }

func (*forever) Close() error { return nil }

func newPlant(t *testing.T, top *topology.Topology, rng *rand.Rand, pebble bool) *plant {
	p := &plant{t: t, top: top, rng: rng, pebble: pebble, in: map[string][]topology.Raw{}}
	if pebble {
		p.cache = 16 << 10 // not even the state of one task
	}
	for i, sub := range top.Subtopologies() {
		if len(sub.Sources) == 1 {
			i = 1
		} else {
			i = 0
		}
		for part := range int32(2) {
			l := &line{p: p, id: processor.TaskID{Subtopology: sub.Name, Partition: part}, sub: i, top: sub}
			for k, spec := range sub.Stores {
				l.bindings = append(l.bindings, store.Binding{Spec: spec, Prefix: uint16(k + 1)})
			}
			for k, src := range sub.Sources {
				if src.Broadcast == "" {
					l.inputs = append(l.inputs, task.Input{Source: k, Topic: src.Topic.Resolve("app"), Partition: part})
				}
			}
			for k, src := range sub.Sources {
				if src.Broadcast != "" {
					l.inputs = append(l.inputs, task.Input{Source: k, Topic: src.Topic.Resolve("app"), Broadcast: src.Broadcast})
				}
			}
			p.lines = append(p.lines, l)
			l.open(gone)
		}
	}
	return p
}

// restored is the task's database as a start finds it: what the disk has, and the rest of the changelog.
func (l *line) restored(disk int) *store.DB {
	t := l.p.t
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if l.db != nil {
		check(l.db.Close())
	}
	if disk != kept {
		l.disk, l.dir = &forever{store.NewMemory()}, ""
		if l.p.pebble {
			l.dir = t.TempDir()
		}
	}
	engine := l.disk
	if l.p.pebble {
		var err error
		engine, err = store.OpenPebble(l.dir, store.PebbleOptions{})
		check(err)
	}
	if disk == late {
		check(engine.Apply(&l.copied))
	}
	db, err := store.Open(engine, l.bindings, store.Options{CacheBytes: l.p.cache})
	check(err)
	from := int64(0)
	if b, ok, err := db.Checkpoint(); err != nil {
		t.Fatal(err)
	} else if ok {
		c, err := changelog.ParseCheckpoint(b)
		check(err)
		from = c.Tasks
	}
	if l.group != nil {
		db.SetClocks(max(l.group.Now, l.p.now), l.group.StreamTime)
	}
	for _, b := range l.bindings {
		var rows []store.Mutation
		for _, r := range l.log[from:] {
			if r.store == b.Spec.Name() {
				rows = append(rows, r.Mutation)
			}
		}
		if len(rows) > 0 {
			check(db.Restore(b.Spec.Name(), rows, nil))
		}
	}
	check(db.SetCheckpoint(l.checkpoint(nil)))
	l.db, l.engine = db, engine
	return db
}

// checkpoint says how much of the changelog a disk has, where other things are said of the tasks topic.
func (l *line) checkpoint(state []byte) []byte {
	c := changelog.Checkpoint{Tasks: int64(len(l.log)), State: state}
	return c.Append(nil)
}

// copy remembers what is on the disk.
func (l *line) copy() {
	it, err := l.engine.Iter(nil, nil, false)
	if err != nil {
		l.p.t.Fatal(err)
	}
	l.copied.Reset()
	for it.Next() {
		l.copied.Set(bytes.Clone(it.Key()), bytes.Clone(it.Value()))
	}
	if err := it.Close(); err != nil {
		l.p.t.Fatal(err)
	}
}

// open starts the task.
func (l *line) open(disk int) {
	p := l.p
	l.restored(disk)
	c := task.Config{
		Context: context.Background(), ID: l.id, App: "app", Sub: l.top, DB: l.db, OnError: processor.DeadLetter("dead"), MarkEvery: 1000,
		Inputs: slices.Clone(l.inputs), Writers: make([]int32, len(l.top.Sources)),
	}
	for range l.top.Sinks {
		c.SinkPartitions = append(c.SinkPartitions, 2)
	}
	for i := range c.Writers {
		c.Writers[i] = 2
	}
	start := task.Start{StreamTime: -1, Now: p.now}
	if g := l.group; g != nil {
		start = task.Start{StreamTime: g.StreamTime, Now: max(g.Now, p.now), State: l.record}
		for i, o := range g.Offsets {
			c.Inputs[i].Start = o.Offset
		}
	}
	var err error
	if l.task, err = task.New(c, start); err != nil {
		p.t.Fatal(err)
	}
	l.kept, l.pending, l.sealed, l.units = nil, nil, nil, 0
	l.task.Tick(p.now)
	l.fed = make([]int, len(l.inputs))
	for i, at := range l.task.Positions() {
		log, _ := p.log(l, i)
		l.fed[i], _ = slices.BinarySearchFunc(log, at, func(r topology.Raw, at int64) int { return int(r.Offset - at) })
	}
	l.feed()
}

// log is what an input has, and where it ends.
func (p *plant) log(l *line, input int) ([]topology.Raw, int64) {
	in := l.inputs[input]
	if l.sub == 1 {
		from := p
		if p.replay != nil {
			from = p.replay
		}
		return from.moved[in.Partition], from.ends[in.Partition]
	}
	if p.replay != nil {
		return nil, 0
	}
	log := p.in[fmt.Sprint(in.Topic, "/", in.Partition)]
	return log, int64(len(log))
}

func (l *line) feed() {
	for i := range l.inputs {
		log, end := l.p.log(l, i)
		for l.fed[i] < len(log) {
			n := len(log) - l.fed[i]
			if l.p.rng != nil {
				n = 1 + l.p.rng.IntN(n)
			}
			next := end
			if l.fed[i]+n < len(log) {
				next = log[l.fed[i]+n].Offset
			}
			l.task.Enqueue(task.Batch{Input: i, Records: log[l.fed[i] : l.fed[i]+n : l.fed[i]+n], Next: next, Epoch: 1, Bytes: n})
			l.fed[i] += n
		}
		l.task.SetEnd(i, end)
	}
}

// fill adds the records of a round.
func (p *plant) fill(rng *rand.Rand, from int64, n int) {
	for part := range 2 {
		for _, topic := range []string{"left", "right"} {
			if rng.IntN(5) == 0 {
				continue // it is idle for a round
			}
			at := fmt.Sprint(topic, "/", part)
			for i := range rng.IntN(n) {
				value := ""
				for range rng.IntN(4) {
					value += string("nTEDWVLMCTW"[rng.IntN(11)])
				}
				switch rng.IntN(24) {
				case 0:
					value += "F"
				case 1:
					value += "P"
				case 2:
					value += "H"
				}
				r := topology.Raw{Key: []byte{'a' + byte(rng.IntN(3))}, Value: fmt.Append(nil, value, i), Offset: int64(len(p.in[at]))}
				r.Time = from + int64(i)*20_000 + rng.Int64N(120_000)
				if rng.IntN(8) == 0 {
					r.Time = max(0, r.Time-rng.Int64N(20*minute))
				}
				p.in[at] = append(p.in[at], r)
			}
		}
	}
	for range rng.IntN(4) {
		log := p.in["limits/0"]
		v, _ := serde.Int64().Append(nil, rng.Int64N(100)-20)
		p.in["limits/0"] = append(log, topology.Raw{Key: []byte("xy"[len(log)%2:][:1]), Value: v, Time: from, Offset: int64(len(log))})
	}
}

// phase is a time of a round: n times anything, then on to where nothing is left to do.
func (p *plant) phase(now int64, n int) {
	p.clock(now)
	for _, l := range p.lines {
		l.feed()
		for i := range l.inputs {
			if _, end := p.log(l, i); now%round >= calm { // an abort begins the wait for idle inputs anew
				l.task.SetHigh(i, end)
			}
		}
	}
	for range n {
		p.anything(p.lines[p.rng.IntN(len(p.lines))])
	}
	for quiet := 0; quiet < 2; {
		quiet++
		for _, l := range p.lines {
			if p.skips(l) {
				continue
			}
			l.feed()
			if l.step(1<<20, nil) {
				quiet = 0
			}
			for l.task.Dirty() || len(l.sealed) > 0 {
				quiet = 0
				if l.task.Dirty() && l.seal() {
					continue
				}
				l.commit()
			}
		}
		if quiet == 1 {
			for _, l := range p.lines {
				if wake := l.task.Wake(); wake > p.now && wake-now < 10*minute && !p.skips(l) {
					p.clock(wake)
					quiet = 0
					break
				}
			}
		}
	}
	if p.now > now+10*minute {
		p.t.Fatalf("a phase took %d s: times to live may differ", (p.now-now)/1000)
	}
}

func (p *plant) skips(l *line) bool { return p.replay != nil && l.sub == 0 }

func (p *plant) clock(now int64) {
	p.now = max(p.now, now)
	for _, l := range p.lines {
		l.task.Tick(p.now)
		if err := l.db.Tick(p.now); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *plant) anything(l *line) {
	l.feed()
	switch c := p.rng.IntN(20); {
	case c < 9:
		var interrupt func() bool
		if p.rng.IntN(4) == 0 {
			n := p.rng.IntN(6)
			interrupt = func() bool { n--; return n < 0 }
		}
		l.step(1+p.rng.IntN(12), interrupt)
	case c < 12:
		if len(l.sealed) < 2 {
			l.seal()
		}
	case c < 15:
		l.commit()
	case c < 16:
		l.discard()
	case c < 17:
		if p.rng.IntN(3) == 0 {
			l.open(p.rng.IntN(3)) // a crash
		}
	default:
		p.clock(p.now + p.rng.Int64N(500))
	}
}

// step works on, and takes the outputs.
func (l *line) step(limit int, interrupt func() bool) (worked bool) {
	r, err := l.task.Step(limit, interrupt)
	if err != nil {
		l.p.t.Fatal(err)
	}
	l.take()
	l.units += r.Records + r.Timers
	if r.Records+r.Timers+r.Moves == 0 && interrupt == nil && l.task.Wake() <= l.p.now {
		l.p.t.Fatalf("%s wants to be woken and does nothing", l.id)
	}
	return r.Records+r.Timers+r.Moves > 0
}

func (l *line) take() {
	for _, o := range l.task.Outputs() {
		o.Key, o.Value = bytes.Clone(o.Key), bytes.Clone(o.Value)
		o.Headers = slices.Clone(o.Headers)
		for i := range o.Headers {
			o.Headers[i].Value = bytes.Clone(o.Headers[i].Value)
		}
		l.pending = append(l.pending, o)
	}
}

func (l *line) discard() {
	l.task.Discard()
	l.pending, l.sealed, l.kept, l.units = nil, nil, nil, 0
}

// seal ends the epoch, unless the broker refuses something of it.
func (l *line) seal() bool {
	if err := l.task.Finish(); err != nil {
		l.p.t.Fatal(err)
	}
	l.take()
	for i := range l.pending {
		if o := &l.pending[i]; o.Sink >= 0 && bytes.Contains(o.Value, []byte("H")) {
			origin := o.Origin
			l.discard()
			l.task.Condemn(origin, errors.New("refused"))
			return true
		}
	}
	dirty := l.task.Dirty()
	l.sealed = append(l.sealed, flying{e: l.task.Seal(), outs: l.pending, dirty: dirty, units: l.units})
	l.pending, l.units = nil, 0
	return false
}

// commit makes the oldest epoch durable as the runtime does.
func (l *line) commit() {
	if len(l.sealed) == 0 {
		return
	}
	p, f := l.p, l.sealed[0]
	l.sealed = l.sealed[1:]
	e := f.e
	if !f.dirty && (len(f.outs) > 0 || e.Rows.Len() > 0) {
		p.t.Fatalf("%s: an epoch with %d outputs and %d rows that is not dirty", l.id, len(f.outs), e.Rows.Len())
	}
	whole := len(f.outs) > 0 || e.Rows.Len() > 0 || f.dirty && !bytes.Equal(e.State, l.kept)
	if !whole && p.rng != nil {
		whole = p.rng.IntN(3) == 0 // another task of the worker has something
	}
	var checkpoint []byte
	if whole || f.units > 0 {
		if l.group != nil {
			for i, o := range e.Offsets {
				if o.Offset < l.group.Offsets[i].Offset {
					p.t.Fatalf("%s: the offset of input %d goes back from %d to %d", l.id, i, l.group.Offsets[i].Offset, o.Offset)
				}
			}
		}
		l.group = &task.Epoch{Offsets: slices.Clone(e.Offsets), StreamTime: e.StreamTime, Now: e.Now}
	}
	if whole {
		l.kept, l.record = bytes.Clone(e.State), bytes.Clone(e.State)
		err := e.Rows.Each(func(name string, key, value []byte) error {
			l.log = append(l.log, row{name, store.Mutation{Key: bytes.Clone(key), Value: bytes.Clone(value), Delete: value == nil}})
			return nil
		})
		if err != nil {
			p.t.Fatal(err)
		}
		checkpoint = l.checkpoint(e.State)
		touched := map[int32]bool{}
		for _, o := range f.outs {
			l.put(o, touched)
		}
		for part := range touched {
			p.ends[part]++ // the marker
		}
	}
	if err := l.task.Committed(e, checkpoint); err != nil {
		p.t.Fatal(err)
	}
	if p.rng != nil && p.rng.IntN(6) == 0 {
		l.copy()
	}
}

// put writes an output to its topic.
func (l *line) put(o task.Out, touched map[int32]bool) {
	p := l.p
	if o.Topic == "app-moves-repartition" {
		p.moved[o.Partition] = append(p.moved[o.Partition], topology.Raw{Key: o.Key, Value: o.Value, Headers: o.Headers, Time: o.Time, Offset: p.ends[o.Partition]})
		p.ends[o.Partition]++
		touched[o.Partition] = true
	}
	switch o.Sink {
	case task.SinkControl:
	case -1: // its time is when it was written, and it says how often it was tried
		l.done = append(l.done, fmt.Sprintf("%s %s=%s", o.Topic, o.Key, o.Value))
	default:
		l.done = append(l.done, fmt.Sprintf("%s/%d %s=%s @%d", o.Topic, o.Partition, o.Key, o.Value, o.Time))
	}
}

// state is what a start would find.
func (l *line) state(disk int) (all []string) {
	db := l.restored(disk)
	t := l.p.t
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	each := func(s timers.Spec[string]) {
		set, err := s.In(db)
		fail(err)
		fail(set.Each(func(f timers.Fired[string]) bool {
			add("%s %s/%s %d", f.Set, f.Namespace, f.Key, f.At.UnixMilli())
			return true
		}))
	}
	lists := func(s store.ListSpec[string, string]) {
		list, err := s.In(db)
		fail(err)
		for _, key := range keys(t, list.Keys()) {
			elements, err := list.Slice(key)
			fail(err)
			n, err := list.Len(key)
			fail(err)
			if n != int64(len(elements)) {
				t.Errorf("%s: list of %s has %d elements and says %d", l.id, key, len(elements), n)
			}
			if n > 0 {
				add("%s %s %q", s.Name(), key, elements)
			}
		}
	}
	if l.sub == 1 {
		lists(tailRecent)
		each(tailEvent)
		each(tailWall)
		sum, err := tailSum.In(db)
		fail(err)
		n, _, err := sum.Get()
		fail(err)
		add("sum %d", n)
		return all
	}
	value, err := counted.In(db)
	fail(err)
	for _, key := range keys(t, value.Keys()) {
		n, _, err := value.Get(key)
		fail(err)
		add("counted %s %d", key, n)
	}
	m, err := looked.In(db)
	fail(err)
	for _, key := range keys(t, m.Keys()) {
		for sub, v := range m.All(key).Rows() {
			add("looked %s %s %d", key, sub, v)
		}
	}
	known, err := limits.In(db)
	fail(err)
	scan := known.All()
	for name, n := range scan.Rows() {
		add("limit %s %d", name, n)
	}
	fail(scan.Err())
	lists(recent)
	each(deskEvent)
	each(deskWall)
	return all
}

func keys(t *testing.T, scan *store.KeyScan[string]) (all []string) {
	for key := range scan.Keys() {
		all = append(all, key)
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
