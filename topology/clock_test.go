package topology_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

func clockTopic(name string) topology.Topic[string, string] {
	return topology.NewTopic(name, serde.String(), serde.String())
}

// join puts sources into one subtopology.
func join(b *topology.Builder, topics ...topology.Topic[string, string]) topology.Node[string, string] {
	var nodes []topology.Node[string, string]
	for _, t := range topics {
		nodes = append(nodes, topology.AddSource(b, "", t))
	}
	newP := func() processor.Processor[string, string, string, string] {
		return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
			return ctx.Forward(r)
		})
	}
	return topology.AddProcessor("", newP, []store.Spec{store.KeyValue("kept", serde.String(), serde.String())}, nodes[0], nodes[1:]...)
}

func TestClockMistakes(t *testing.T) {
	a, c := clockTopic("a"), clockTopic("c")
	mono := topology.Monotonic()
	punctuation := func(string, string, time.Time) time.Time { return time.Time{} }
	for _, test := range []struct {
		name, want string // what the one mistake begins with and has; "" is none
		build      func(b *topology.Builder)
	}{
		{"all strategies", "", func(b *topology.Builder) {
			join(b, a.WithClock(mono.Idle(0)), c.WithClock(topology.BoundedOutOfOrder(time.Second).Align(time.Hour)), clockTopic("d").WatermarkBy(punctuation),
				clockTopic("e").WithClock(topology.Custom("mine", func() topology.Generator { return nil })),
				clockTopic("f").WithClock(topology.Punctuated().Idle(time.Hour)).WatermarkBy(punctuation))
		}},
		{"stream time said and not said", "", func(b *topology.Builder) { join(b, a.WithClock(topology.StreamTime()), c) }},
		{"bound", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(topology.BoundedOutOfOrder(-1))) }},
		{"idle", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(mono.Idle(-time.Second))) }},
		{"align", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(mono.Align(0))) }},
		{"align stream time", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(topology.StreamTime().Align(time.Hour))) }},
		{"idle stream time", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(topology.StreamTime().Idle(time.Hour))) }},
		{"no generator", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(topology.Custom("mine", nil))) }},
		{"no function", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(topology.Punctuated())) }},
		{"two strategies", "clock/illegal", func(b *topology.Builder) { join(b, a.WithClock(mono).WatermarkBy(punctuation)) }},
		{"conflict", "topic/clock-conflict", func(b *topology.Builder) {
			topology.AddSource(b, "", a.WithClock(mono))
			topology.AddSource(b, "", a.WithClock(mono.Idle(0)))
		}},
		{"mixed", "clock/mixed", func(b *topology.Builder) { join(b, a.WithClock(mono), c) }},
		{"beside a repartition topic", "clock/downstream", func(b *topology.Builder) {
			through := topology.AddThrough(topology.Through("t", serde.String(), serde.String()), topology.AddSource(b, "", a.WithClock(mono)))
			topology.AddSink("", clockTopic("out"), through, topology.AddSource(b, "", c))
		}},
		{"behind a sink", "clock/downstream", func(b *topology.Builder) {
			topology.AddSink("", c, topology.AddSource(b, "", a.WithClock(mono)))
			topology.AddSink("", clockTopic("out"), topology.AddSource(b, "", c))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := topology.NewBuilder()
			test.build(b)
			_, err := b.Build()
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "topology/clock_test.go:") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one %s with its line", err, test.want)
			}
		})
	}
}

// Pictures show clocks, and a topology with watermarks is another one to the group.
func TestClockIsDescribed(t *testing.T) {
	build := func(c topology.Clock) *topology.Topology {
		b := topology.NewBuilder()
		through := topology.AddThrough(topology.Through("t", serde.String(), serde.String()), topology.AddSource(b, "", clockTopic("a").WithClock(c)))
		topology.AddSink("", clockTopic("out"), through)
		top, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		return top
	}
	plain, unset := build(topology.StreamTime()), build(topology.Clock{})
	marked := build(topology.BoundedOutOfOrder(20 * time.Second).Idle(time.Minute).Align(time.Hour))
	if strings.Contains(plain.String(), "clock") || plain.Fingerprint() != unset.Fingerprint() {
		t.Errorf("stream time shows:\n%s", plain)
	}
	for _, want := range []string{"(clock: bounded 20s, idle after 1m0s, aligned to 1h0m0s)", "(clock: from the tasks of a)"} {
		if !strings.Contains(marked.String(), want) {
			t.Errorf("%q is not in\n%s", want, marked)
		}
	}
	var json strings.Builder
	if err := marked.Describe(&json, topology.JSON); err != nil || !strings.Contains(json.String(), `"clock": "bounded 20s`) {
		t.Errorf("%v\n%s", err, &json)
	}
	if marked.Fingerprint() == plain.Fingerprint() {
		t.Error("watermarks do not show in the fingerprint")
	}
}

func TestLate(t *testing.T) {
	for _, test := range []struct {
		at, allowed, clock int64
		stream, watermark  bool
	}{
		{10, 0, 9, false, false},
		{10, 0, 10, false, true},
		{10, 0, 11, true, true},
		{10, 5, 15, false, true},
		{10, 5, 16, true, true},
		{0, math.MaxInt64, math.MaxInt64, false, true},
		{math.MaxInt64, math.MaxInt64, 0, false, false},
		{math.MaxInt64, 0, -1, false, false},
	} {
		if got := topology.IsLate(test.at, test.allowed, test.clock, false); got != test.stream {
			t.Errorf("%+v on stream time: %v", test, got)
		}
		if got := topology.IsLate(test.at, test.allowed, test.clock, true); got != test.watermark {
			t.Errorf("%+v with a watermark: %v", test, got)
		}
	}
}
