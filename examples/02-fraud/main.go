// Fraud watches payments by card and raises an alarm when one of three rules is broken. It makes its own payments, and
// checks the alarms against those it finds by looking at each card's whole history.
//
//	go run ./examples/02-fraud [-brokers host:port]
package main

import (
	"context"
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

var (
	payments = stream.NewTopic("fraud-payments", serde.String(), serde.JSON[Payment]())
	alerts   = stream.NewTopic("fraud-alerts", serde.String(), serde.JSON[Alert]())
	cards    = store.KeyValue("cards", serde.String(), serde.JSON[Card]())
	profiles = store.KeyValue("profiles", serde.String(), serde.JSON[Profile]())
)

// fraud is the topology: every payment goes through the detector of its card's task.
func fraud() (*stream.Topology, error) {
	b := stream.NewBuilder()
	stream.Process(stream.From(b, payments), newDetector, cards, profiles).To(alerts)
	return b.Build()
}

// detector holds the state of one task: the cards whose payments are in one partition. Its two stores change together
// with the alerts that go out, or not at all.
type detector struct {
	cards    *store.KV[string, Card]
	profiles *store.KV[string, Profile]
}

func newDetector() processor.Processor[string, Payment, string, Alert] { return &detector{} }

func (d *detector) Init(ctx processor.InitContext) (err error) {
	if d.cards, err = cards.In(ctx); err != nil {
		return err
	}
	d.profiles, err = profiles.In(ctx)
	return err
}

func (d *detector) Process(ctx processor.Context[string, Alert], r processor.Record[string, Payment]) error {
	card, _, err := d.cards.Get(r.Key)
	if err != nil {
		return err
	}
	profile, _, err := d.profiles.Get(r.Key)
	if err != nil {
		return err
	}
	for _, broken := range []string{
		card.step(r.Value, r.Time),
		profile.frequent(r.Time),
		profile.unusual(r.Value),
	} {
		if broken == "" {
			continue
		}
		if err := ctx.Forward(processor.With(r, r.Key, Alert{r.Value.ID, broken, meaning[broken]})); err != nil {
			return err
		}
	}
	profile.add(r.Value, r.Time)
	if err := d.cards.Put(r.Key, card); err != nil {
		return err
	}
	return d.profiles.Put(r.Key, profile)
}

const cardsInUse = 2_000

func main() { demo.Main("fraud", fraud, run) }

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	day := generate(60_000, cardsInUse, time.Now().Add(-2*time.Hour))
	want := recompute(day)

	var progress demo.Progress
	app, err := millrace.New("fraud", top,
		millrace.SeedBrokers(kafka.Addrs...),
		millrace.StateDir(kafka.StateDir),
		millrace.Logger(demo.Quiet(os.Stderr)),
		millrace.Observe(progress.Hooks()))
	if err != nil {
		return err
	}

	fmt.Printf("%s payments of %s cards. Alarms, the first few of each kind:\n", demo.Number(int64(len(day))), demo.Number(cardsInUse))
	var seen atomic.Int64
	shown := map[string]int{}
	stop := progress.Show(func() string {
		return fmt.Sprintf("%d alerts of %d expected", seen.Load(), len(want))
	})
	defer stop()
	err = demo.While(ctx, app, func(ctx context.Context) error {
		if err := demo.Send(ctx, kafka, payments, records(day)); err != nil {
			return err
		}
		return demo.Follow(ctx, kafka, alerts, func(r processor.Record[string, Alert]) (bool, error) {
			if shown[r.Value.Rule]++; shown[r.Value.Rule] <= 4 {
				fmt.Printf("  %s  %s  payment %5d  %-8s  %s\n", r.Time.Format(time.TimeOnly), r.Key, r.Value.Payment, r.Value.Rule, r.Value.Why)
			}
			return seen.Add(1) == int64(len(want)), nil
		})
	})
	stop()
	if err != nil {
		return err
	}

	all, err := demo.All(ctx, kafka, alerts)
	if err != nil {
		return err
	}
	if err := compare(all, want); err != nil {
		return err
	}
	fmt.Printf("\nAll %d alerts are those that the histories of the cards show, and no others: %s.\n", len(all), perRule(all))
	return nil
}
