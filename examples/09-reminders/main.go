// Reminders reminds people at the time they asked for. In the middle of it the application is stopped for two seconds: what has become due
// meanwhile is told as soon as it is back, and nothing is told twice.
//
//	go run ./examples/09-reminders [-brokers host:port]
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/examples/internal/demo"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/timers"
)

// Reminder is what somebody wants to be reminded of, and when. Its id is the record's key; another record with the id moves it, one
// without a value cancels it.
type Reminder struct {
	Text string
	At   time.Time
}

var (
	wanted = stream.NewTopic("reminders-wanted", serde.String(), serde.JSON[Reminder]())
	due    = stream.NewTopic("reminders-due", serde.String(), serde.JSON[Reminder]())

	open   = store.KeyValue("open", serde.String(), serde.JSON[Reminder]())
	alarms = timers.New("alarms", serde.String(), timers.ProcessingTime)
)

func reminders() (*stream.Topology, error) {
	b := stream.NewBuilder()
	stream.ProcessValues(stream.From(b, wanted), newKeeper, open, alarms).To(due)
	return b.Build()
}

type keeper struct {
	open   *store.KV[string, Reminder]
	alarms *timers.Set[string]
}

func newKeeper() processor.Processor[string, Reminder, string, Reminder] { return &keeper{} }

func (k *keeper) Init(ctx processor.InitContext) (err error) {
	if k.open, err = open.In(ctx); err != nil {
		return err
	}
	k.alarms, err = alarms.In(ctx)
	return err
}

func (k *keeper) Process(_ processor.Context[string, Reminder], r processor.Record[string, Reminder]) error {
	old, ok, err := k.open.Get(r.Key)
	if err != nil {
		return err
	}
	if ok {
		if err := k.alarms.Delete(r.Key, old.At); err != nil {
			return err
		}
	}
	if r.NullValue {
		_, _, err := k.open.Delete(r.Key)
		return err
	}
	if err := k.alarms.Set(r.Key, r.Value.At); err != nil {
		return err
	}
	return k.open.Put(r.Key, r.Value)
}

func (k *keeper) OnTimer(ctx processor.Context[string, Reminder], f timers.Fired[string]) error {
	r, _, err := k.open.Delete(f.Key)
	if err != nil {
		return err
	}
	return ctx.Forward(processor.Record[string, Reminder]{Key: f.Key, Value: r}) // its time is now
}

func main() { demo.Main("reminders", reminders, run) }

// down is how long the application is stopped.
const down = 2 * time.Second

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	plan := make(plan)
	began := time.Now().Truncate(time.Millisecond)
	asked := plan.ask(began)
	fmt.Printf("%d reminders within five seconds; some are moved, some cancelled. %d are to come.\n", reminded, len(plan))
	heard := 0
	listen := func(until int) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			if err := demo.Send(ctx, kafka, wanted, asked.records()); err != nil {
				return err
			}
			asked, heard = nil, 0 // Follow begins at the start of the topic
			return demo.Follow(ctx, kafka, due, func(r processor.Record[string, Reminder]) (bool, error) {
				heard++
				return heard == until, nil
			})
		}
	}
	// First a third of them, then all.
	for i, until := range []int{len(plan) / 3, len(plan)} {
		if i > 0 {
			fmt.Printf("  %d came. The application is stopped for %v.\n", until/3, down)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(down):
			}
			fmt.Println("  It starts again.")
		}
		app, err := millrace.New("reminders", top,
			millrace.SeedBrokers(kafka.Addrs...),
			millrace.StateDir(kafka.StateDir),
			millrace.Logger(demo.Quiet(os.Stderr)))
		if err != nil {
			return err
		}
		if err := demo.While(ctx, app, listen(until)); err != nil {
			return err
		}
	}

	all, err := demo.All(ctx, kafka, due)
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b processor.Record[string, Reminder]) int { return a.Time.Compare(b.Time) })
	for _, r := range all {
		late := r.Time.Sub(r.Value.At)
		note := ""
		if late > 200*time.Millisecond {
			note = "   was due while nobody was there"
		}
		fmt.Printf("  %5.2f s  %-12s %5.2f s late%s\n", r.Time.Sub(began).Seconds(), r.Value.Text, late.Seconds(), note)
	}
	if err := plan.compare(all); err != nil {
		return err
	}
	fmt.Printf("\nAll %d came once, none too early, and none that was cancelled.\n", len(all))
	return nil
}
