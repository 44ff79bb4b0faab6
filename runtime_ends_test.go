package millrace_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// gate is a network between an instance and its brokers that can be cut.
type gate struct {
	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]bool
	tries atomic.Int64 // dials that were refused
	tried chan struct{}
}

func newGate() *gate { return &gate{conns: map[net.Conn]bool{}, tried: make(chan struct{}, 1)} }

func (g *gate) option() millrace.Option {
	return millrace.ClientOptions(kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		g.mu.Lock()
		shut := g.shut
		g.mu.Unlock()
		if shut {
			g.tries.Add(1)
			select {
			case g.tried <- struct{}{}:
			default:
			}
			return nil, errors.New("connection refused by the test")
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			g.mu.Lock()
			g.conns[c] = true
			if g.shut {
				_ = c.Close()
			}
			g.mu.Unlock()
		}
		return c, err
	}))
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	if shut {
		for c := range g.conns {
			_ = c.Close()
		}
		clear(g.conns)
	}
}

// sever cuts all connections, and lets new ones through once so many were refused, or after a second.
func (g *gate) sever(refusals int64) {
	g.set(true)
	defer g.set(false)
	timeout := time.After(time.Second)
	for want := g.tries.Load() + refusals; g.tries.Load() < want; {
		select {
		case <-g.tried:
		case <-timeout:
			return
		}
	}
}

// refused waits until so many more dials were refused.
func (g *gate) refused(t *testing.T, n int64, within time.Duration) {
	t.Helper()
	want := g.tries.Load() + n
	timeout := time.After(within)
	for g.tries.Load() < want {
		select {
		case <-g.tried:
		case <-timeout:
			t.Fatalf("%d dials were refused, want %d", g.tries.Load(), want)
		}
	}
}

// running is an application that was started.
type running struct {
	app    *millrace.App
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func launch(t *testing.T, addrs []string, top *topology.Topology, opts ...millrace.Option) *running {
	t.Helper()
	opts = append([]millrace.Option{
		millrace.SeedBrokers(addrs...), millrace.HeartbeatInterval(100 * time.Millisecond), millrace.SessionTimeout(6 * time.Second),
		millrace.CommitInterval(20 * time.Millisecond), millrace.Workers(1), logTo(t.Name()),
	}, opts...)
	app, err := millrace.New("counter", top, opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{app: app, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = app.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// stop asks for the end and wants it in time.
func (r *running) stop(t *testing.T, within time.Duration) error {
	t.Helper()
	began := time.Now()
	r.cancel()
	return r.ends(t, within-time.Since(began))
}

func (r *running) ends(t *testing.T, within time.Duration) error {
	t.Helper()
	began := time.Now()
	select {
	case <-r.done:
		t.Logf("ended after %s", time.Since(began).Round(time.Millisecond))
		return r.err
	case <-time.After(within):
		t.Fatalf("still running after %s, in state %s", within, r.app.State())
		return nil
	}
}

// TestBrokerAway cuts an instance off under load, more than once, and lets it back.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	_, addrs := fake(t, 4)
	g := newGate()
	w := watch(t, addrs)
	r := launch(t, addrs, countWords(t), millrace.StateDir(t.TempDir()), g.option())
	n := 0
	for round := range 4 {
		produceWords(t, addrs, 1_000, 40)
		n += 1_000
		w.until(n-700, 30*time.Second)
		g.set(true)
		g.refused(t, 3+int64(round), 30*time.Second)
		g.set(false)
	}
	w.until(n, 60*time.Second)
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	w.exact(addrs, n)
}

// TestBrokerAwayWhileRestoring: a task that is being opened waits for brokers.
func TestBrokerAwayWhileRestoring(t *testing.T) {
	_, addrs := fake(t, 2)
	g := newGate()
	produceWords(t, addrs, 500, 20)
	var once sync.Once
	r := launch(t, addrs, countWords(t), millrace.StateDir(t.TempDir()), g.option(), millrace.Observe(observe.Hooks{Task: func(c observe.TaskChange) {
		if c.To == "restoring" {
			once.Do(func() { g.set(true) })
		}
	}}))
	g.refused(t, 12, 30*time.Second)
	g.set(false)
	w := watch(t, addrs)
	w.until(500, 40*time.Second)
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	w.exact(addrs, 500)
}

// blocking is a count whose handler waits for a key, on whoever has a latch.
func blocking(t *testing.T, latch func(ctx context.Context, key string)) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	held := stream.ProcessValues(stream.From(b, words), func() processor.Processor[string, string, string, string] {
		return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
			if latch != nil {
				latch(ctx, r.Key)
			}
			return ctx.Forward(r)
		})
	})
	stream.GroupByKey(held).Count(counts).ToStream().To(totals)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// TestSlowHandlerRevoked: a handler is slower than a hand-over may be. The other instance goes on without it, and what the
// slow one did is not counted twice.
func TestSlowHandlerRevoked(t *testing.T) {
	_, addrs := fake(t, 2)
	free := make(chan struct{})
	inside := make(chan struct{}, 100)
	var stuck atomic.Bool
	latch := func(_ context.Context, key string) {
		if stuck.Load() {
			inside <- struct{}{}
			<-free
		}
	}
	produceWords(t, addrs, 400, 40)
	w := watch(t, addrs)
	slow := launch(t, addrs, blocking(t, latch), millrace.MemoryStores(), millrace.RebalanceTimeout(2*time.Second))
	w.until(400, 30*time.Second)
	stuck.Store(true)
	produceWords(t, addrs, 400, 40)
	<-inside
	s, opt := watchStates()
	other := launch(t, addrs, blocking(t, nil), millrace.MemoryStores(), millrace.RebalanceTimeout(2*time.Second), opt)
	s.wait(t, 1, 30*time.Second)
	// One of the two partitions has moved; its records come although the handler still stands.
	w.until(500, 30*time.Second)
	stuck.Store(false)
	close(free)
	w.until(800, 30*time.Second)
	produceWords(t, addrs, 400, 40)
	w.until(1200, 30*time.Second)
	if err := slow.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	if err := other.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	w.exact(addrs, 1200)
}

// TestFailThenSkip: policy Fail ends the application with the record's name, after everything before it was committed;
// started again with Skip it goes on behind it.
func TestFailThenSkip(t *testing.T) {
	for name, state := range map[string]millrace.Option{"memory": millrace.MemoryStores(), "pebble": millrace.StateDir(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			_, addrs := fake(t, 1)
			top := func() *topology.Topology {
				b := stream.NewBuilder()
				checked := stream.ProcessValues(stream.From(b, words), func() processor.Processor[string, string, string, string] {
					return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
						if r.Value == "poison" {
							return errors.New("I do not take that")
						}
						return ctx.Forward(r)
					})
				})
				stream.GroupByKey(checked).Count(counts).ToStream().To(totals)
				top, err := b.Build()
				if err != nil {
					t.Fatal(err)
				}
				return top
			}
			cl := client(t, addrs, kgo.DefaultProduceTopic("words"))
			var batch []*kgo.Record
			for i := range 300 {
				value := "x"
				if i == 200 {
					value = "poison"
				}
				batch = append(batch, &kgo.Record{Key: fmt.Appendf(nil, "k%d", i%7), Value: []byte(value)})
			}
			if err := cl.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			err := launch(t, addrs, top(), state).ends(t, 60*time.Second)
			var e *millrace.Error
			if !errors.As(err, &e) || e.Code != "record/failed" || e.Value != "words/0@200" {
				t.Fatalf("got %v", err)
			}
			w := watch(t, addrs)
			w.exact(addrs, 200)
			r := launch(t, addrs, top(), state, millrace.OnError(processor.Skip()))
			w.until(299, 30*time.Second)
			if err := r.stop(t, 60*time.Second); err != nil {
				t.Error(err)
			}
			w.exact(addrs, 299)
		})
	}
}

// TestRefusedLate: the limit of a topic is lowered while the application runs, so that only the broker knows. The one record
// that is too large goes to its policy; those that shared a batch with it do not.
func TestRefusedLate(t *testing.T) {
	_, addrs := fake(t, 1)
	b := stream.NewBuilder()
	stream.From(b, words).To(enriched)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var failed []observe.RecordError
	r := launch(t, addrs, top, millrace.MemoryStores(), millrace.OnError(processor.Skip()), millrace.CommitInterval(200*time.Millisecond),
		millrace.Observe(observe.Hooks{Record: func(e observe.RecordError) {
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, e)
		}}))
	out := client(t, addrs, kgo.ConsumeTopics("totals"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	n := 0
	until := func(want int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		for n < want && ctx.Err() == nil {
			out.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				if want := fmt.Sprint(n, " "); !strings.HasPrefix(string(r.Value), want) {
					t.Fatalf("record %d is %.10q", n, r.Value)
				}
				n++
				if n == 150 {
					n++ // the poisoned one is left out
				}
			})
		}
		if n < want {
			t.Fatalf("%d of %d came", n, want)
		}
	}
	send := func(from, to int) {
		cl := client(t, addrs, kgo.DefaultProduceTopic("words"))
		var batch []*kgo.Record
		for i := from; i < to; i++ {
			value := make([]byte, 100) // of random bytes: nothing to compress
			if i == 150 {
				value = make([]byte, 30_000)
			}
			_, _ = rand.Read(value)
			batch = append(batch, &kgo.Record{Key: []byte("k"), Value: append(fmt.Append(nil, i, " "), value...)})
		}
		if err := cl.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	send(0, 100)
	until(100)
	limit := "20000"
	altered, err := kadm.NewClient(client(t, addrs)).AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}}, "totals")
	if err != nil || altered[0].Err != nil {
		t.Fatal(err, altered)
	}
	send(100, 400)
	until(400)
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, f := range failed {
		if f.Offset != 150 {
			t.Errorf("record %d went to its policy: %v", f.Offset, f.Err)
		}
	}
	if len(failed) == 0 {
		t.Error("nothing went to its policy")
	}
}

// TestSmallBatches: a topic takes small batches only, and many small records come at once.
func TestSmallBatches(t *testing.T) {
	limit := "2000"
	_, addrs := fake(t, 1)
	adm := kadm.NewClient(client(t, addrs))
	if _, err := adm.DeleteTopics(context.Background(), "totals"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(context.Background(), 1, 1, map[string]*string{"max.message.bytes": &limit}, "totals"); err != nil {
		t.Fatal(err)
	}
	produceWords(t, addrs, 3_000, 30)
	r := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.Observe(observe.Hooks{Abort: func(a observe.Abort) { t.Error("aborted:", a.Reason) }}))
	w := watch(t, addrs)
	w.until(3_000, 30*time.Second)
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	w.exact(addrs, 3_000)
}

// TestDuplicateInstance: two processes of one name end with at least one of them saying so.
func TestDuplicateInstance(t *testing.T) {
	_, addrs := fake(t, 4)
	a := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.InstanceName("twin"))
	b := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.InstanceName("twin"))
	var gone *running
	n := 0
	timeout := time.After(60 * time.Second)
	for gone == nil {
		produceWords(t, addrs, 40, 40)
		n += 40
		select {
		case <-a.done:
			gone = a
		case <-b.done:
			gone = b
		case <-timeout:
			t.Fatal("both go on")
		default:
		}
	}
	var e *millrace.Error
	if !errors.As(gone.err, &e) || e.Code != "group/duplicate-instance" {
		t.Errorf("ended with %v", gone.err)
	}
	a.cancel()
	b.cancel()
	<-a.done
	<-b.done
	c := launch(t, addrs, countWords(t), millrace.MemoryStores())
	w := watch(t, addrs)
	w.until(n, 60*time.Second)
	if err := c.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	w.exact(addrs, n)
}

// TestDiskFails: one task's database loses its directory. The others go on, and the task comes back once the disk is well.
func TestDiskFails(t *testing.T) {
	_, addrs := fake(t, 3)
	dir := t.TempDir()
	failed := make(chan observe.TaskChange, 1000)
	s, opt := watchStates()
	r := launch(t, addrs, countWords(t), millrace.StateDir(dir), millrace.MemoryLimit(32<<20), opt,
		millrace.Observe(observe.Hooks{Task: func(c observe.TaskChange) {
			if c.To == "failed" {
				failed <- c
			}
		}}))
	n := 0
	long := strings.Repeat("k", 1000)
	more := func() { // each with a key of its own, so that memory runs full
		cl := client(t, addrs, kgo.DefaultProduceTopic("words"))
		var batch []*kgo.Record
		for range 1_500 {
			batch = append(batch, &kgo.Record{Key: fmt.Append(nil, long, n), Value: []byte("x")})
			n++
		}
		if err := cl.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	more()
	w := watch(t, addrs)
	w.until(n, 30*time.Second)
	s.wait(t, 3, 30*time.Second)
	// Its database is moved away and a file takes the place: whatever Pebble creates next fails.
	victims, err := filepath.Glob(filepath.Join(dir, "*", "*", "db"))
	if err != nil || len(victims) == 0 {
		victims = nil
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && filepath.Base(path) == changelog.DatabaseDir {
				victims = append(victims, path)
			}
			return nil
		})
	}
	if len(victims) == 0 {
		t.Fatal("no database under ", dir)
	}
	victim, aside := victims[0], victims[0]+".aside"
	if err := os.Rename(victim, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(victim, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	for tries := 0; len(failed) < 2 && tries < 20; tries++ { // the second time it cannot even be opened
		more()
		if !w.until(n/2, 30*time.Second) { // the others go on
			break
		}
		select {
		case <-r.done:
			t.Fatal("ended: ", r.err)
		default:
		}
	}
	if len(failed) == 0 {
		t.Error("nothing failed")
	}
	if err := os.Remove(victim); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, victim); err != nil {
		t.Fatal(err)
	}
	more()
	w.until(n, 60*time.Second)
	if err := r.stop(t, 30*time.Second); err != nil {
		t.Error(err)
	}
	w.exact(addrs, n)
}

// noLeaks wants every goroutine of the test gone at its end.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { // the first to be registered runs last
		err := goleak.Find(before)
		for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); { // each look takes a while
			err = goleak.Find(before)
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// abandoned is a directory that a worker which was left behind may still write to when the test is over.
func abandoned(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "millrace-abandoned-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestStopInTime: Run returns within the budget, whatever holds it up, and leaves nothing behind.
func TestStopInTime(t *testing.T) {
	const budget = 4 * time.Second
	const slack = 6 * time.Second // a busy machine
	t.Run("brokers gone", func(t *testing.T) {
		_, addrs := fake(t, 4)
		g := newGate()
		produceWords(t, addrs, 500, 40)
		r := launch(t, addrs, countWords(t), millrace.StateDir(abandoned(t)), millrace.ShutdownTimeout(budget), g.option(), millrace.CommitInterval(2*time.Second))
		w := watch(t, addrs)
		w.until(500, 30*time.Second)
		produceWords(t, addrs, 500, 40)
		g.set(true)
		_ = r.stop(t, budget+slack)
	})
	t.Run("brokers gone while joining", func(t *testing.T) {
		noLeaks(t)
		c, addrs := fake(t, 4)
		g := newGate()
		joining := make(chan struct{}, 1)
		c.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			select {
			case joining <- struct{}{}:
			default:
			}
			c.SleepControl(func() { g.set(true) })
			return nil, errors.New("cut"), true
		})
		r := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.ShutdownTimeout(budget), g.option())
		<-joining
		_ = r.stop(t, budget+slack)
	})
	t.Run("hung handler", func(t *testing.T) {
		_, addrs := fake(t, 2)
		free := make(chan struct{})
		inside := make(chan struct{}, 100)
		produceWords(t, addrs, 10, 5)
		r := launch(t, addrs, blocking(t, func(context.Context, string) { inside <- struct{}{}; <-free }), millrace.StateDir(abandoned(t)), millrace.ShutdownTimeout(budget))
		<-inside
		_ = r.stop(t, budget+slack)
		close(free)
	})
	t.Run("handler that listens", func(t *testing.T) {
		_, addrs := fake(t, 2)
		inside := make(chan struct{}, 100)
		produceWords(t, addrs, 10, 5)
		r := launch(t, addrs, blocking(t, func(ctx context.Context, _ string) { inside <- struct{}{}; <-ctx.Done() }), millrace.StateDir(abandoned(t)), millrace.ShutdownTimeout(budget))
		<-inside
		if err := r.stop(t, budget+slack); err != nil {
			t.Log(err)
		}
	})
	t.Run("starting", func(t *testing.T) {
		noLeaks(t)
		_, addrs := fake(t, 2)
		g := newGate()
		g.set(true)
		r := launch(t, addrs, countWords(t), millrace.MemoryStores(), g.option())
		g.refused(t, 1, 30*time.Second)
		if err := r.stop(t, slack); err != nil {
			t.Error(err)
		}
	})
	t.Run("before it starts", func(t *testing.T) {
		_, addrs := fake(t, 2)
		app, err := millrace.New("counter", countWords(t), millrace.SeedBrokers(addrs...), millrace.MemoryStores(), logTo(t.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := app.Close(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		if err := app.Run(ctx); err != nil || ctx.Err() != nil {
			t.Error(err, ctx.Err())
		}
		if err := app.Run(ctx); err == nil {
			t.Error("a second Run")
		}
		for range 2 {
			if err := app.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("restoring", func(t *testing.T) {
		c, addrs := fake(t, 4)
		restoring := make(chan struct{}, 100)
		var hang atomic.Bool
		r := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.ShutdownTimeout(budget), millrace.Observe(observe.Hooks{Task: func(c observe.TaskChange) {
			if c.To == "restoring" {
				hang.Store(true)
				restoring <- struct{}{}
			}
		}}))
		c.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if hang.Load() {
				c.SleepControl(func() {
					for hang.Load() {
						select {
						case <-r.done:
							return
						case <-time.After(10 * time.Millisecond):
						}
					}
				})
			}
			return nil, nil, false
		})
		select {
		case <-restoring:
		case <-r.done:
			t.Fatal(r.err)
		case <-time.After(40 * time.Second):
			t.Fatal("nothing restores")
		}
		if err := r.stop(t, budget+slack); err != nil {
			t.Error(err)
		}
		hang.Store(false)
	})
	t.Run("clean", func(t *testing.T) {
		noLeaks(t)
		_, addrs := fake(t, 4)
		produceWords(t, addrs, 2_000, 40)
		r := launch(t, addrs, countWords(t), millrace.StateDir(abandoned(t)), millrace.ShutdownTimeout(budget))
		w := watch(t, addrs)
		w.until(2_000, 30*time.Second)
		if err := r.stop(t, budget+slack); err != nil {
			t.Error(err)
		}
	})
}

// TestOutcomeLostWhileLeaving: the commit of a hand-over has no known outcome, and nobody can be asked.
func TestOutcomeLostWhileLeaving(t *testing.T) {
	t.Parallel()
	c, addrs := fake(t, 3)
	g := newGate()
	var armed atomic.Bool
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if armed.Load() {
			g.set(true)
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	w := watch(t, addrs)
	produceWords(t, addrs, 300, 30)
	r := launch(t, addrs, countWords(t), millrace.StateDir(t.TempDir()), g.option(), millrace.CommitInterval(400*time.Millisecond),
		millrace.TransactionTimeout(2*time.Second), millrace.ShutdownTimeout(15*time.Second))
	w.until(300, 30*time.Second)
	produceWords(t, addrs, 300, 30)
	armed.Store(true)
	if err := r.stop(t, 25*time.Second); err != nil {
		t.Log(err)
	}
	armed.Store(false)
	g.set(false)
	again := launch(t, addrs, countWords(t), millrace.MemoryStores())
	w.until(600, 40*time.Second)
	if err := again.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	w.exact(addrs, 600)
}

// TestIdleWritesNothing: where no record comes no transaction is begun, however many commit intervals pass.
func TestIdleWritesNothing(t *testing.T) {
	_, addrs := fake(t, 2)
	w := watch(t, addrs)
	var commits atomic.Int64
	r := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.CommitInterval(time.Millisecond),
		millrace.Observe(observe.Hooks{Commit: func(observe.Commit) { commits.Add(1) }}))
	const rounds = 12
	for n := 1; n <= rounds; n++ { // each takes many intervals
		produceWords(t, addrs, 1, 1)
		w.until(n, 30*time.Second)
	}
	if err := r.stop(t, 60*time.Second); err != nil {
		t.Error(err)
	}
	if n := commits.Load(); n != rounds {
		t.Errorf("%d commits of %d records that came one by one", n, rounds)
	}
}
