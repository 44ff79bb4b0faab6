package streamtest_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/timers"
)

// service is what a handler calls: it is down for as many calls as it is told.
type service struct{ down, calls int }

func (s *service) call() error {
	if s.calls++; s.calls <= s.down {
		return errors.New("the service is down")
	}
	return nil
}

// calling counts words by key, and calls the service for the word "call" after it has counted.
func calling(t *testing.T, s *service, p processor.Policy, opts ...streamtest.Option) (*streamtest.Driver, *streamtest.Input[string, string], *streamtest.Output[string, int64]) {
	t.Helper()
	b := stream.NewBuilder()
	words := stream.From(b, lines)
	stream.Process(words, func() processor.Processor[string, string, string, int64] { return &caller{service: s} }, counts).
		OnError(p).To(totals)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	d := streamtest.New(t, top, append([]streamtest.Option{streamtest.Partitions(1)}, opts...)...)
	return d, streamtest.In(d, lines), streamtest.Out(d, totals)
}

type caller struct {
	service *service
	counts  *store.KV[string, int64]
}

func (c *caller) Init(ctx processor.InitContext) (err error) {
	c.counts, err = counts.In(ctx)
	return err
}

func (c *caller) Process(ctx processor.Context[string, int64], r processor.Record[string, string]) error {
	n, _, err := c.counts.Get(r.Key)
	if err == nil {
		err = c.counts.Put(r.Key, n+1)
	}
	if err == nil {
		err = ctx.Forward(processor.Record[string, int64]{Key: r.Key, Value: n + 1, Time: r.Time})
	}
	if err == nil && r.Value == "call" {
		err = c.service.call()
	}
	return err
}

func policies(d *streamtest.Driver) (all []string) {
	for _, f := range d.Failures() {
		all = append(all, f.Policy)
	}
	return all
}

func TestRetryAdvances(t *testing.T) {
	s := &service{down: 2}
	d, in, out := calling(t, s, processor.Retry(5, time.Second, processor.Fail()))
	in.Send("a", "x")
	in.Send("a", "call")
	in.Send("b", "x")
	out.Want(out.Record("a", 1))
	d.Advance(999 * time.Millisecond)
	out.Want()
	if s.calls != 1 {
		t.Fatalf("%d calls before the pause was over", s.calls)
	}
	d.Advance(time.Millisecond)
	if s.calls != 2 {
		t.Fatalf("%d calls after the pause", s.calls)
	}
	out.Want()
	d.Advance(2 * time.Second) // twice as long
	out.Want(out.Record("a", 2), out.Record("b", 1))
	if got := policies(d); !slices.Equal(got, []string{"retry", "retry"}) {
		t.Errorf("policies %v", got)
	}
}

// The tries are part of what is committed: a crash in between neither forgets them nor the pause.
func TestRetryCrash(t *testing.T) {
	for _, engine := range []string{"memory", "pebble"} {
		for _, disk := range []string{"kept", "lost"} {
			t.Run(engine+"/disk "+disk, func(t *testing.T) {
				s := &service{down: 99}
				var opts []streamtest.Option
				if engine == "pebble" {
					opts = append(opts, streamtest.Pebble())
				}
				d, in, out := calling(t, s, processor.Retry(3, time.Second, processor.Skip()), opts...)
				crash := d.Crash
				if disk == "lost" {
					crash = d.CrashLosingDisk
				}
				in.Send("a", "call")
				in.Send("a", "x")
				for i, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
					d.Commit()
					crash()
					d.Advance(pause - time.Millisecond)
					if s.calls != i+1 {
						t.Fatalf("after %d tries: %d calls", i+1, s.calls)
					}
					d.Advance(time.Millisecond)
				}
				out.Want(out.Record("a", 1)) // the failed one has counted nothing
				if got := policies(d); !slices.Equal(got, []string{"retry", "retry", "retry", "skip"}) {
					t.Errorf("policies %v", got)
				}
			})
		}
	}
}

// What was not committed is not counted: an aborted epoch tries again as if it had not.
func TestRetryAbort(t *testing.T) {
	s := &service{down: 99}
	d, in, out := calling(t, s, processor.Retry(2, time.Second, processor.DeadLetter("dead")), streamtest.ManualCommit())
	in.Send("a", "call")
	for range 5 {
		d.Abort()
	}
	if got := policies(d); !slices.Equal(got, slices.Repeat([]string{"retry"}, 6)) {
		t.Errorf("policies %v", got)
	}
	d.Commit()
	d.Advance(time.Second)
	d.Advance(2 * time.Second)
	d.Settle()
	if n := len(d.Failures()); n != 8 || d.Failures()[7].Policy != "dead-letter" {
		t.Errorf("policies %v", policies(d))
	}
	out.Want()
}

var gaps = timers.New("gaps", serde.String(), timers.ProcessingTime)

// ringer sets a timer for each record; that of key "bad" calls the service.
type ringer struct {
	service *service
	gaps    *timers.Set[string]
}

func (c *ringer) Init(ctx processor.InitContext) (err error) {
	c.gaps, err = gaps.In(ctx)
	return err
}

func (c *ringer) Process(ctx processor.Context[string, int64], r processor.Record[string, string]) error {
	d, err := time.ParseDuration(r.Value)
	if err != nil {
		return err
	}
	return c.gaps.Set(r.Key, ctx.Now().Add(d))
}

func (c *ringer) OnTimer(ctx processor.Context[string, int64], f timers.Fired[string]) error {
	if err := ctx.Forward(processor.Record[string, int64]{Key: f.Key, Value: 1, Time: f.At}); err != nil {
		return err
	}
	if f.Key == "bad" {
		return c.service.call()
	}
	return nil
}

// A timer that fails is tried again before any other fires; records wait as well.
func TestRetryTimer(t *testing.T) {
	for down, want := range map[int][]string{1: {"bad", "good", "later"}, 99: {"good", "later"}} {
		t.Run(fmt.Sprintf("down %d times", down), func(t *testing.T) {
			s := &service{down: down}
			b := stream.NewBuilder()
			stream.Process(stream.From(b, lines), func() processor.Processor[string, string, string, int64] { return &ringer{service: s} }, gaps).
				OnError(processor.Retry(2, time.Second, processor.Skip())).To(totals)
			top, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			d := streamtest.New(t, top, streamtest.Partitions(1))
			in, out := streamtest.In(d, lines), streamtest.Out(d, totals)
			in.Send("bad", "1s")
			in.Send("good", "1s")
			in.Send("later", "1500ms")
			d.Advance(time.Second)
			out.Want()
			d.Commit()
			d.Crash()
			d.Advance(time.Second)
			d.Commit()
			d.CrashLosingDisk()
			d.Advance(2 * time.Second)
			d.Settle()
			var keys []string
			for _, r := range out.All() {
				keys = append(keys, r.Key)
			}
			if !slices.Equal(keys, want) {
				t.Errorf("fired %v, want %v", keys, want)
			}
		})
	}
}
