// Rules holds payments against limits of their merchants, and the limits are changed while payments come. It makes both itself, and
// checks every verdict against the limit that it says it was held against, and that no card ever meets an older one again.
//
//	go run ./examples/08-rules [-brokers host:port]
package main

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/examples/internal/demo"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

// Payment is one payment. Its card is the record's key.
type Payment struct {
	Number   int
	Merchant string
	Cents    int64
}

// Limit is the most that a payment to a merchant may be. The merchant is the record's key; a tombstone takes the limit back.
type Limit struct {
	Cents  int64
	Change int // number of the change it came with, from 1
}

// Verdict is what became of a payment.
type Verdict struct {
	Payment
	Refused bool
	Limit   Limit // zero: there was none
	Total   int64 // what the card has spent so far, this payment included
}

var (
	payments = stream.NewTopic("rules-payments", serde.String(), serde.JSON[Payment]())
	changes  = stream.NewTopic("rules-limits", serde.String(), serde.JSON[Limit]()) // one partition: every task sees all of it
	verdicts = stream.NewTopic("rules-verdicts", serde.String(), serde.JSON[Verdict]())

	limits = store.Broadcast("limits", serde.String(), serde.JSON[Limit]())
	spent  = store.Value("spent", serde.String(), serde.Int64())
)

// rules is the topology: payments by card, and the limits, which every task has in full.
func rules() (*stream.Topology, error) {
	b := stream.NewBuilder()
	stream.ProcessBroadcast(stream.From(b, payments), changes, newGate, limits, spent).To(verdicts)
	return b.Build()
}

// gate is the two sides of one task. Only ProcessBroadcast has a context that limits can be written with.
type gate struct {
	limits *store.BroadcastState[string, Limit]
	spent  store.ValueState[string, int64]
}

func newGate() processor.BroadcastProcessor[string, Payment, string, Limit, string, Verdict] {
	return &gate{}
}

func (g *gate) Init(ctx processor.InitContext) (err error) {
	if g.limits, err = limits.In(ctx); err != nil {
		return err
	}
	g.spent, err = spent.In(ctx)
	return err
}

func (g *gate) ProcessBroadcast(ctx processor.BroadcastContext[string, Verdict], r processor.Record[string, Limit]) error {
	if r.NullValue {
		_, _, err := g.limits.Delete(ctx, r.Key)
		return err
	}
	return g.limits.Put(ctx, r.Key, r.Value)
}

func (g *gate) Process(ctx processor.Context[string, Verdict], r processor.Record[string, Payment]) error {
	limit, limited, err := g.limits.Get(r.Value.Merchant)
	if err != nil {
		return err
	}
	total, err := g.spent.GetOr(r.Key, 0)
	if err != nil {
		return err
	}
	refused := limited && r.Value.Cents > limit.Cents
	if !refused {
		total += r.Value.Cents
		if err := g.spent.Put(r.Key, total); err != nil {
			return err
		}
	}
	return ctx.Forward(processor.With(r, r.Key, Verdict{r.Value, refused, limit, total}))
}

func main() { demo.Main("rules", rules, run) }

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	app, err := millrace.New("rules", top,
		millrace.SeedBrokers(kafka.Addrs...),
		millrace.StateDir(kafka.StateDir),
		millrace.Logger(demo.Quiet(os.Stderr)))
	if err != nil {
		return err
	}
	fmt.Printf("Payments of %d cards to %s. The limits change while they come:\n\n", cardsInUse, strings.Join(merchants, ", "))
	sent := 0
	err = demo.While(ctx, app, func(ctx context.Context) error {
		for change := 1; change <= len(plan); change++ {
			if err := demo.Send(ctx, kafka, changes, limitsOf(change)); err != nil {
				return err
			}
			began := time.Now()
			older, all, err := untilHeld(ctx, kafka, change, &sent)
			if err != nil {
				return err
			}
			fmt.Printf("  %-52s %4d payments met it, %3d still the one before (%s)\n", plan[change-1].what, all-older, older, time.Since(began).Round(time.Millisecond))
		}
		return nil
	})
	if err != nil {
		return err
	}
	all, err := demo.All(ctx, kafka, verdicts)
	if err != nil {
		return err
	}
	if err := check(all, sent); err != nil {
		return err
	}
	fmt.Printf("\nAll %d verdicts are right for the limits they were held against, no card met an older limit after a newer one,\nand each card has spent what was let through.\n", len(all))
	return nil
}

// untilHeld sends payments, in rounds, until all of a round were held against a change.
func untilHeld(ctx context.Context, kafka *demo.Kafka, change int, sent *int) (older, all int, err error) {
	for {
		from := *sent
		*sent += roundSize
		if err := demo.Send(ctx, kafka, payments, round(from)); err != nil {
			return 0, 0, err
		}
		n, now := 0, 0
		err := demo.Follow(ctx, kafka, verdicts, func(r processor.Record[string, Verdict]) (bool, error) {
			if n++; r.Value.Number >= from && held(r.Value, change) {
				now++
			}
			return n == *sent, nil
		})
		if err != nil {
			return 0, 0, err
		}
		all += roundSize
		if older += roundSize - now; now == roundSize {
			return older, all, nil
		}
	}
}

func limitsOf(change int) iter.Seq2[processor.Record[string, Limit], error] {
	return func(yield func(processor.Record[string, Limit], error) bool) {
		step := plan[change-1]
		r := processor.Record[string, Limit]{Key: step.merchant, Value: Limit{step.cents, change}, NullValue: step.cents < 0, Time: time.Now()}
		yield(r, nil)
	}
}
