package main

import (
	"fmt"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
)

// bells wakes keys, in both domains. Each record sets a timer in processing time, up to 1.5 s from now and with the record's origin as
// its namespace, which goes to <topics>.rung; and it belongs to a session of its key in event time, its value being the time in
// milliseconds, which goes to <topics>.over when nothing has come for sessionGap. The oracle is itest/timers_test.go.
func (c config) bells() (*topology.Topology, error) {
	r := &ringer{
		reminders: timers.New("reminders", serde.String(), timers.ProcessingTime),
		gaps:      timers.New("gaps", serde.String(), timers.EventTime),
		sessions:  store.KeyValue("sessions", serde.String(), serde.JSON[session]()),
	}
	in := topology.NewTopic(c.topic("in"), serde.String(), serde.Int32()).
		TimestampBy(func(_ string, v int32, _ time.Time) time.Time { return time.UnixMilli(int64(v)) })
	text := func(name string) topology.Topic[string, string] {
		return topology.NewTopic(c.topic(name), serde.String(), serde.String())
	}
	b := topology.NewBuilder()
	all := topology.AddProcessor("ring", func() processor.Processor[string, int32, string, string] { own := *r; return &own },
		[]store.Spec{r.reminders, r.gaps, r.sessions}, topology.AddSource(b, "", in))
	only := func(set string) func() processor.Processor[string, string, string, string] {
		return func() processor.Processor[string, string, string, string] {
			return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
				if string(r.Headers[0].Value) != set {
					return nil
				}
				return ctx.Forward(processor.Record[string, string]{Key: r.Key, Value: r.Value, Time: r.Time})
			})
		}
	}
	topology.AddSink("", text("rung"), topology.AddProcessor("reminded", only("reminders"), nil, all))
	topology.AddSink("", text("over"), topology.AddProcessor("ended", only("gaps"), nil, all))
	return b.Build()
}

const sessionGap = 300 // milliseconds

type session struct{ Began, Ends, Count int64 }

type ringer struct {
	reminders, gaps timers.Spec[string]
	sessions        store.KeyValueSpec[string, session]

	remind, end *timers.Set[string]
	open        *store.KV[string, session]
}

func (p *ringer) Init(ctx processor.InitContext) (err error) {
	if p.remind, err = p.reminders.In(ctx); err != nil {
		return err
	}
	if p.end, err = p.gaps.In(ctx); err != nil {
		return err
	}
	p.open, err = p.sessions.In(ctx)
	return err
}

func (p *ringer) Process(ctx processor.Context[string, string], r processor.Record[string, int32]) error {
	o := ctx.Origin()
	after := time.Duration(o.Offset*7919%1500) * time.Millisecond
	if err := p.remind.SetIn(fmt.Sprintf("%d/%d", o.Partition, o.Offset), r.Key, ctx.Now().Add(after)); err != nil {
		return err
	}

	at := int64(r.Value)
	s, open, err := p.open.Get(r.Key)
	if err != nil {
		return err
	}
	if open && at >= s.Ends {
		if err := p.end.Delete(r.Key, time.UnixMilli(s.Ends)); err != nil {
			return err
		}
		if err := p.over(ctx, r.Key, s); err != nil {
			return err
		}
		open = false
	}
	ends := s.Ends
	if !open {
		s = session{Began: at, Ends: at + sessionGap}
	}
	s.Began, s.Ends, s.Count = min(s.Began, at), max(s.Ends, at+sessionGap), s.Count+1
	if open && ends != s.Ends {
		if err := p.end.Delete(r.Key, time.UnixMilli(ends)); err != nil {
			return err
		}
	}
	if err := p.end.Set(r.Key, time.UnixMilli(s.Ends)); err != nil {
		return err
	}
	return p.open.Put(r.Key, s)
}

func (p *ringer) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	if f.Set == "reminders" {
		if ctx.Now().Before(f.At) {
			return fmt.Errorf("%s fired at %v, before %v", f.Namespace, ctx.Now(), f.At)
		}
		return tell(ctx, f.Set, f.Key, f.Namespace)
	}
	s, ok, err := p.open.Delete(f.Key)
	if err != nil {
		return err
	}
	if !ok || s.Ends != f.At.UnixMilli() {
		return fmt.Errorf("the timer of %s is for %v, its session %+v", f.Key, f.At, s)
	}
	return p.over(ctx, f.Key, s)
}

func (p *ringer) over(ctx processor.Context[string, string], key string, s session) error {
	return tell(ctx, "gaps", key, fmt.Sprintf("%d to %d: %d", s.Began, s.Ends, s.Count))
}

// tell forwards what belongs to a set of timers.
func tell(ctx processor.Context[string, string], set, key, value string) error {
	return ctx.Forward(processor.Record[string, string]{Key: key, Value: value, Headers: []processor.Header{{Key: "set", Value: []byte(set)}}})
}
