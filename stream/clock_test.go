package stream_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/timers"
)

// The stage of the cases of event time: what happens on a sensor at a second, and what was told of it, with the clock at that time.
var (
	sensors = stream.NewTopic("sensors", serde.String(), serde.String())
	meters  = stream.NewTopic("meters", serde.String(), serde.String())
	clocked = stream.NewTopic("clocked", serde.String(), serde.String())
	overdue = stream.NewTopic("overdue", serde.String(), serde.String())
	alarms  = timers.New("alarms", serde.String(), timers.EventTime)
)

// second is an event time.
func second(n int) time.Time { return time.UnixMilli(int64(n) * 1000).UTC() }

// withClock tells the clock in the value.
func withClock(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	return ctx.Forward(processor.With(r, r.Key, r.Value+" at "+clockText(ctx.StreamTime())))
}

func clockText(at time.Time) string {
	if at.IsZero() {
		return "none"
	}
	return fmt.Sprint(at.UnixMilli())
}

func telling(s stream.Stream[string, string]) stream.Stream[string, string] {
	return stream.ProcessValues(s, func() processor.Processor[string, string, string, string] {
		return processor.Func[string, string, string, string](withClock)
	})
}

// ways are the modes and engines every case runs in.
func ways(t *testing.T, run func(t *testing.T, between func(*streamtest.Driver), opts ...streamtest.Option)) {
	for _, engine := range []string{"memory", "pebble"} {
		for _, mode := range []string{"straight", "abort", "crash", "lost disk"} {
			if engine == "pebble" && mode != "crash" {
				continue // the clock is kept beside the engines
			}
			t.Run(engine+"/"+mode, func(t *testing.T) {
				var opts []streamtest.Option
				if engine == "pebble" {
					opts = append(opts, streamtest.Pebble())
				}
				run(t, func(d *streamtest.Driver) {
					switch mode {
					case "abort":
						d.Abort()
					case "crash":
						d.Crash()
					case "lost disk":
						d.CrashLosingDisk()
					}
				}, opts...)
			})
		}
	}
}

// script sends "sensor second" pairs, or does "+30s", and compares what is written: "value at clock", a late one with "late " in front.
type clockScript struct {
	t       *testing.T
	d       *streamtest.Driver
	in      map[string]*streamtest.Input[string, string]
	out     *streamtest.Output[string, string]
	late    *streamtest.Output[string, string]
	between func(*streamtest.Driver)
}

func newClockScript(t *testing.T, build func(b *stream.Builder), between func(*streamtest.Driver), opts ...streamtest.Option) *clockScript {
	t.Helper()
	b := stream.NewBuilder()
	build(b)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	d := streamtest.New(t, top, opts...)
	s := &clockScript{t: t, d: d, between: between, in: map[string]*streamtest.Input[string, string]{}}
	s.out = streamtest.Out(d, clocked)
	s.late = streamtest.Out(d, overdue)
	return s
}

// do does one step, and wants exactly these records of it.
func (s *clockScript) do(step string, want ...string) {
	s.t.Helper()
	if by, err := time.ParseDuration(strings.TrimPrefix(step, "+")); err == nil {
		s.d.Advance(by)
	} else {
		var from string
		var at, partition int
		if _, err := fmt.Sscanf(step, "%s %d/%d", &from, &partition, &at); err != nil {
			s.t.Fatal(step, err)
		}
		in := s.in[from]
		if in == nil {
			in = streamtest.In(s.d, map[string]stream.Topic[string, string]{"sensors": sensors, "meters": meters}[from])
			s.in[from] = in
		}
		in.On(partition).SendRecord(processor.Record[string, string]{Key: "k", Value: fmt.Sprint(from, " ", at), Time: second(at)})
	}
	var got []string
	for _, r := range s.out.All() {
		got = append(got, r.Value)
	}
	for _, r := range s.late.All() {
		got = append(got, "late "+r.Value)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("%s:\n got %q\nwant %q", step, got, want)
	}
	s.between(s.d)
}

func TestClock(t *testing.T) {
	t.Run("W-4", func(t *testing.T) {
		ways(t, func(t *testing.T, between func(*streamtest.Driver), opts ...streamtest.Option) {
			s := newClockScript(t, func(b *stream.Builder) {
				in := stream.From(b, sensors.WithClock(stream.BoundedOutOfOrder(20*time.Second))).LateTo(overdue, 0)
				telling(in).To(clocked)
			}, between, opts...)
			s.do("sensors 0/100", "sensors 100 at none")
			s.do("sensors 0/90", "sensors 90 at 79999")
			s.do("sensors 0/80", "sensors 80 at 79999")
			s.do("sensors 0/79", "late sensors 79")
			s.do("sensors 0/150", "sensors 150 at 79999")
			s.do("sensors 0/129", "late sensors 129")
			s.do("sensors 0/130", "sensors 130 at 129999")
		})
	})

	// One silent partition of two; it is idle after 30 s, and what it then brings is late.
	t.Run("W-5", func(t *testing.T) {
		ways(t, func(t *testing.T, between func(*streamtest.Driver), opts ...streamtest.Option) {
			s := newClockScript(t, func(b *stream.Builder) {
				in := stream.From(b, sensors.WithClock(stream.Monotonic()), meters.WithClock(stream.Monotonic())).LateTo(overdue, 0)
				telling(in).To(clocked)
			}, between, opts...)
			s.do("sensors 0/10", "sensors 10 at none")
			s.do("sensors 0/20", "sensors 20 at none")
			s.do("+29s")
			s.do("sensors 0/30", "sensors 30 at none")
			s.do("+31s")
			s.do("sensors 0/40", "sensors 40 at 29999")
			s.do("sensors 0/41", "sensors 41 at 39999")
			s.do("meters 0/5", "late meters 5")
			s.do("sensors 0/50", "sensors 50 at 40999") // it is back, and holds the clock
			s.do("meters 0/60", "meters 60 at 40999")
			s.do("sensors 0/70", "sensors 70 at 49999")
			s.do("sensors 0/71", "sensors 71 at 59999")
		})
	})

	// TM-11, second half: what was late before a crash is late after it.
	t.Run("late-after-restart", func(t *testing.T) {
		for name, topic := range map[string]stream.Topic[string, string]{
			"stream time": sensors, "watermark": sensors.WithClock(stream.Monotonic()),
			"punctuated": sensors.WatermarkBy(func(_, _ string, at time.Time) time.Time { return at.Add(-time.Millisecond) }),
		} {
			t.Run(name, func(t *testing.T) {
				ways(t, func(t *testing.T, between func(*streamtest.Driver), opts ...streamtest.Option) {
					s := newClockScript(t, func(b *stream.Builder) {
						stream.From(b, topic).LateTo(overdue, 10*time.Second).To(clocked)
					}, between, opts...)
					s.do("sensors 0/100", "sensors 100")
					s.do("sensors 0/90", "sensors 90")
					s.do("sensors 0/89", "late sensors 89")
					s.d.Crash()
					s.do("sensors 0/89", "late sensors 89")
					s.d.CrashLosingDisk()
					s.do("sensors 0/89", "late sensors 89")
					s.do("sensors 0/90", "sensors 90")
				})
			})
		}
	})

	// Two upstream tasks, one silent, and a repartition topic of two partitions: each task below hears both.
	t.Run("one hop", func(t *testing.T) {
		ways(t, func(t *testing.T, between func(*streamtest.Driver), opts ...streamtest.Option) {
			by := stream.Through("by-key", serde.String(), serde.String()).Partitions(2)
			s := newClockScript(t, func(b *stream.Builder) {
				in := stream.From(b, sensors.WithClock(stream.Monotonic().Idle(time.Minute)))
				telling(in.Repartition(by).LateTo(overdue, 0)).To(clocked)
			}, between, append(opts, streamtest.TopicPartitions("sensors", 2))...)
			s.do("sensors 0/10", "sensors 10 at none")
			s.do("sensors 0/20", "sensors 20 at none")
			s.do("+61s")
			s.do("sensors 0/30", "sensors 30 at none") // both were idle: nobody moved the clock
			s.do("sensors 0/31", "sensors 31 at 29999")
			s.do("sensors 1/15", "late sensors 15")
			s.do("sensors 0/40", "sensors 40 at 30999")
			s.do("sensors 0/50", "sensors 50 at 30999") // the second is back, at 14999
			s.do("sensors 1/45", "sensors 45 at 30999")
			s.do("sensors 0/60", "sensors 60 at 44999")
			s.do("+61s") // both are idle: the clock stays
			s.do("sensors 1/48", "sensors 48 at 44999")
			s.do("sensors 0/70", "sensors 70 at 47999")
		})
	})

	t.Run("two hops", func(t *testing.T) {
		ways(t, func(t *testing.T, between func(*streamtest.Driver), opts ...streamtest.Option) {
			one := stream.Through("one", serde.String(), serde.String()).Partitions(3)
			two := stream.Through("two", serde.String(), serde.String()).Partitions(2)
			s := newClockScript(t, func(b *stream.Builder) {
				in := stream.From(b, sensors.WithClock(stream.Monotonic()))
				mid := stream.SelectKey(in.Repartition(one), func(k, v string) string { return k + v })
				telling(mid.Repartition(two).LateTo(overdue, 0)).To(clocked)
			}, between, append(opts, streamtest.TopicPartitions("sensors", 2))...)
			s.do("sensors 0/10", "sensors 10 at none")
			s.do("sensors 1/20", "sensors 20 at none")
			s.do("sensors 1/21", "sensors 21 at 9999")
			s.do("sensors 0/30", "sensors 30 at 9999")
			s.do("sensors 1/31", "sensors 31 at 20999")
			s.do("sensors 0/19", "late sensors 19")
			s.do("+31s")
			// The tasks of the middle are back one by one: those that had no record of it are heard first.
			s.do("sensors 0/40", "sensors 40 at 39999")
			s.do("sensors 0/41", "sensors 41 at 39999")
		})
	})

	// A watermark goes downstream behind what the timers up to it have sent, also where an epoch ends between two of them.
	t.Run("behind timers", func(t *testing.T) {
		ways(t, func(t *testing.T, between func(*streamtest.Driver), opts ...streamtest.Option) {
			by := stream.Through("by-key", serde.String(), serde.String())
			s := newClockScript(t, func(b *stream.Builder) {
				rung := stream.ProcessValues(stream.From(b, sensors.WithClock(stream.Monotonic())), newAlarmist, alarms)
				telling(rung.Repartition(by).LateTo(overdue, 0)).To(clocked)
			}, between, opts...)
			s.do("sensors 0/100", "set at none")
			s.do("sensors 0/200", "set at 99999", "rung 101 at 99999", "rung 102 at 99999", "rung 103 at 99999")
			s.do("sensors 0/300", "set at 199999", "rung 201 at 199999", "rung 202 at 199999", "rung 203 at 199999")
		})
	})
}

// alarmist sets three timers for each record.
type alarmist struct{ set *timers.Set[string] }

func newAlarmist() processor.Processor[string, string, string, string] { return &alarmist{} }

func (a *alarmist) Init(ctx processor.InitContext) (err error) {
	a.set, err = alarms.In(ctx)
	return err
}

func (a *alarmist) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	for i := range 3 {
		if err := a.set.Set(r.Key, r.Time.Add(time.Duration(i+1)*time.Second)); err != nil {
			return err
		}
	}
	return ctx.Forward(processor.With(r, r.Key, "set"))
}

func (a *alarmist) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	return ctx.Forward(processor.Record[string, string]{Key: f.Key, Value: fmt.Sprint("rung ", f.At.Unix())})
}
