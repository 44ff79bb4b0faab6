// Fraud watches the payments of many cards over months, with three rules and state that forgets. It makes its own payments, a million of
// them, some out of order and some far too late, and checks the alerts against those found by looking at each card's whole history.
//
//	go run ./examples/04-fraud [-brokers host:port] [-payments n]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/examples/internal/demo"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/ttl"
)

// Payment is one payment. Its card is the record's key, its moment the record's time.
type Payment struct {
	ID    int64
	Cents int64
}

// Alert says that a payment broke a rule.
type Alert struct {
	Payment int64
	Rule    string
	Why     string
}

const (
	day       = 24 * time.Hour
	tolerated = time.Hour // how far a payment may be behind the others
)

// What is kept of a card. A time to live is for forgetting, not for deciding: the rules compare times themselves, and what they
// look at lives longer than they look back.
var (
	payments = stream.NewTopic("cards-payments", serde.String(), serde.JSON[Payment]())
	alerts   = stream.NewTopic("cards-alerts", serde.String(), serde.JSON[Alert]())
	tooLate  = stream.NewTopic("cards-too-late", serde.String(), serde.JSON[Payment]())

	recent   = store.List("recent", serde.String(), serde.Int64(), store.WithTTL(ttl.AfterWrite(day).EventTime()))
	probes   = store.Value("probes", serde.String(), serde.Int64(), store.WithTTL(ttl.AfterWrite(day).EventTime()))
	profiles = store.Value("profiles", serde.String(), serde.JSON[Profile](), store.WithTTL(ttl.AfterWrite(known+2*tolerated).EventTime()))
)

// fraud is the topology: a payment that comes too late for the rules is put aside, all others go through the detector of their
// card's task.
func fraud() (*stream.Topology, error) {
	b := stream.NewBuilder()
	inTime := stream.From(b, payments).LateTo(tooLate, tolerated)
	stream.Process(inTime, newDetector, recent, probes, profiles).To(alerts)
	return b.Build()
}

// detector holds the state of one task: the cards whose payments are in one partition.
type detector struct {
	recent   store.ListState[string, int64] // when the card paid, within a day
	probes   store.ValueState[string, int64]
	profiles store.ValueState[string, Profile]
}

func newDetector() processor.Processor[string, Payment, string, Alert] { return &detector{} }

func (d *detector) Init(ctx processor.InitContext) (err error) {
	if d.recent, err = recent.In(ctx); err != nil {
		return err
	}
	if d.probes, err = probes.In(ctx); err != nil {
		return err
	}
	d.profiles, err = profiles.In(ctx)
	return err
}

func (d *detector) Process(ctx processor.Context[string, Alert], r processor.Record[string, Payment]) error {
	for _, rule := range []struct {
		name   string
		broken func(card string, p Payment, at time.Time) (bool, error)
	}{{velocity, d.tooOften}, {spike, d.tooMuch}, {probe, d.probed}} {
		broken, err := rule.broken(r.Key, r.Value, r.Time)
		if err != nil {
			return err
		}
		if broken {
			if err := ctx.Forward(processor.With(r, r.Key, Alert{r.Value.ID, rule.name, meaning[rule.name]})); err != nil {
				return err
			}
		}
	}
	return nil
}

// tooOften counts the card's payments of the last minutes. This one is among them, so it is put there first: an alert that only
// looked back would come one payment late.
func (d *detector) tooOften(card string, _ Payment, at time.Time) (bool, error) {
	if err := d.recent.Append(card, at.UnixMilli()); err != nil {
		return false, err
	}
	n := 0
	paid := d.recent.All(card)
	for ms := range paid.Values() {
		if within(time.UnixMilli(ms), at, often) {
			n++
		}
	}
	return n >= many, paid.Err()
}

// tooMuch compares the payment with what the card usually pays. A card that is not known has no usual: its average is not zero, it is
// absent.
func (d *detector) tooMuch(card string, p Payment, at time.Time) (bool, error) {
	profile, _, err := d.profiles.Get(card) // of a card that is not known: nothing, no payments
	if err != nil {
		return false, err
	}
	broken := profile.unusual(p, at)
	return broken, d.profiles.Put(card, profile.with(p, at))
}

// probed looks for a tiny payment shortly before a large one. One alert ends the probe.
func (d *detector) probed(card string, p Payment, at time.Time) (bool, error) {
	switch {
	case p.Cents < tiny:
		return false, d.probes.Put(card, at.UnixMilli())
	case p.Cents <= large:
		return false, nil
	}
	ms, ok, err := d.probes.Get(card)
	if err != nil || !ok || !within(time.UnixMilli(ms), at, soon) {
		return false, err
	}
	return true, d.probes.Clear(card)
}

func main() { demo.Main("cards", fraud, run) }

var howMany = flag.Int("payments", 1_000_000, "how many payments to make")

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	began := time.Now().Add(-span)
	want, n := recompute(generate(*howMany, began)), int64(*howMany)

	var progress demo.Progress
	app, err := millrace.New("cards", top,
		millrace.SeedBrokers(kafka.Addrs...),
		millrace.StateDir(kafka.StateDir),
		millrace.Logger(demo.Quiet(os.Stderr)),
		millrace.Observe(progress.Hooks()))
	if err != nil {
		return err
	}

	fmt.Printf("%s payments of %s cards within %d days. Alerts, the first few of each rule:\n", demo.Number(n), demo.Number(int64(cards(*howMany))), span/day)
	var seen atomic.Int64
	shown := map[string]int{}
	stop := progress.Show(func() string {
		return fmt.Sprintf("%s of %s payments, %s alerts of %s expected", demo.Number(progress.Processed()), demo.Number(n), demo.Number(seen.Load()), demo.Number(int64(len(want.alerts))))
	})
	defer stop()
	start := time.Now()
	err = demo.While(ctx, app, func(ctx context.Context) error {
		if err := demo.Send(ctx, kafka, payments, records(generate(*howMany, began))); err != nil {
			return err
		}
		return demo.Follow(ctx, kafka, alerts, func(r processor.Record[string, Alert]) (bool, error) {
			if shown[r.Value.Rule]++; shown[r.Value.Rule] <= 3 {
				fmt.Printf("  %s  %s  payment %7d  %-8s  %s\n", r.Time.Format(time.DateTime), r.Key, r.Value.Payment, r.Value.Rule, r.Value.Why)
			}
			return seen.Add(1) == int64(len(want.alerts)), nil
		})
	})
	stop()
	if err != nil {
		return err
	}
	took := time.Since(start)

	all, err := demo.All(ctx, kafka, alerts)
	if err != nil {
		return err
	}
	if err := compare(all, want.alerts); err != nil {
		return err
	}
	fmt.Printf("\nAll %s alerts are those that the histories of the cards show, each once, and no others: %s (%.0f s).\n",
		demo.Number(int64(len(all))), perRule(all), took.Seconds())
	return nil
}
