// Dedup lets each event through once in 24 hours. It makes a stream of events some of which come again, soon or after days, and
// compares what comes out with what a plain map of all events lets through.
//
//	go run ./examples/06-dedup [-brokers host:port]
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
	"github.com/millrace-io/millrace/ttl"
)

// Event is one event. Its sender gave it an id, which is the record's key.
type Event struct {
	Number int64 // in the order in which they were sent
	What   string
}

const day = 24 * time.Hour

var (
	events = stream.NewTopic("dedup-events", serde.String(), serde.JSON[Event]())
	once   = stream.NewTopic("dedup-once", serde.String(), serde.JSON[Event]())

	// seen has a row for each id, and nothing in it. By event time the result does not depend on when the program runs: last
	// week's events, read again today, give the same.
	seen = store.KeyValue("seen", serde.String(), serde.Empty(), store.WithTTL(ttl.AfterWrite(day).EventTime()))
)

// dedup is the topology. A duplicate is a read: the row stays as it was, so the day counts from the first sight.
func dedup() (*stream.Topology, error) {
	b := stream.NewBuilder()
	stream.Dedup(stream.From(b, events), seen).To(once)
	return b.Build()
}

func main() { demo.Main("dedup", dedup, run) }

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	week := generate(40_000, time.Now().Add(-7*day))
	want := firsts(week)

	var progress demo.Progress
	app, err := millrace.New("dedup", top,
		millrace.SeedBrokers(kafka.Addrs...),
		millrace.StateDir(kafka.StateDir),
		millrace.Logger(demo.Quiet(os.Stderr)),
		millrace.Observe(progress.Hooks()))
	if err != nil {
		return err
	}

	fmt.Printf("A week of %s events, %s of which are the first of their id within a day.\n",
		demo.Number(int64(len(week))), demo.Number(int64(len(want))))
	var through atomic.Int64
	stop := progress.Show(func() string { return demo.Number(through.Load()) + " let through" })
	defer stop()
	err = demo.While(ctx, app, func(ctx context.Context) error {
		if err := demo.Send(ctx, kafka, events, records(week)); err != nil {
			return err
		}
		return demo.Follow(ctx, kafka, once, func(processor.Record[string, Event]) (bool, error) {
			return through.Add(1) == int64(len(want)), nil
		})
	})
	stop()
	if err != nil {
		return err
	}

	all, err := demo.All(ctx, kafka, once)
	if err != nil {
		return err
	}
	if err := compare(all, want); err != nil {
		return err
	}
	fmt.Printf("%s came through, %s were duplicates: exactly those that a plain map finds.\n",
		demo.Number(int64(len(all))), demo.Number(int64(len(week)-len(all))))
	return nil
}
