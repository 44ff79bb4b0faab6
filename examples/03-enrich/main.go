// Enrich joins a stream of orders with a table of prices: each order is billed at the price that held when it was made,
// and orders for which there is no price go to a list for somebody to look at.
//
//	go run ./examples/03-enrich [-brokers host:port]
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

// Order is an order for a product, which is the record's key.
type Order struct {
	ID       int64
	Quantity int64
}

// Price is what a product is called and what one piece of it costs.
type Price struct {
	Name  string
	Cents int64
}

// Bill is an order with its price.
type Bill struct {
	Order int64
	Name  string
	Cents int64
}

var (
	orders   = stream.NewTopic("enrich-orders", serde.String(), serde.JSON[Order]())
	prices   = stream.NewTopic("enrich-prices", serde.String(), serde.JSON[Price]())
	current  = store.KeyValue("current-prices", serde.String(), serde.JSON[Price]())
	bills    = stream.NewTopic("enrich-bills", serde.String(), serde.JSON[Bill]())
	unpriced = stream.NewTopic("enrich-unpriced", serde.String(), serde.JSON[Order]())
)

// enrich is the topology. Orders and prices are keyed by product and equally wide, so the prices an order needs are in
// its own task. A price without a value says that the product is no longer sold.
func enrich() (*stream.Topology, error) {
	b := stream.NewBuilder()
	table := stream.TableFrom(b, prices, current)
	in := stream.From(b, orders)

	// Inner: only orders that have a price.
	stream.Join(in, table, bill).To(bills)

	// Left: all orders, with or without one.
	looked := stream.LeftJoin(in, table, func(o Order, _ Price, ok bool) lookup { return lookup{o, ok} })
	missing := looked.Filter(func(_ string, l lookup) bool { return !l.priced })
	stream.MapValues(missing, func(l lookup) Order { return l.order }).To(unpriced)

	return b.Build()
}

func bill(o Order, p Price) Bill { return Bill{o.ID, p.Name, o.Quantity * p.Cents} }

type lookup struct {
	order  Order
	priced bool
}

func main() { demo.Main("enrich", enrich, run) }

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	day := generate(20_000, 60, time.Now().Add(-time.Hour))
	want := day.recompute()

	// Everything is in its topic before the application starts. It then takes records in the order of their times, as
	// they happened: prices and orders of one product, from two topics, in turn.
	if err := demo.Send(ctx, kafka, prices, day.priceRecords()); err != nil {
		return err
	}
	if err := demo.Send(ctx, kafka, orders, day.orderRecords()); err != nil {
		return err
	}

	var progress demo.Progress
	app, err := millrace.New("enrich", top,
		millrace.SeedBrokers(kafka.Addrs...),
		millrace.StateDir(kafka.StateDir),
		millrace.Logger(demo.Quiet(os.Stderr)),
		millrace.Observe(progress.Hooks()))
	if err != nil {
		return err
	}

	fmt.Printf("%s orders and %s prices. Bills:\n", demo.Number(int64(len(day.orders))), demo.Number(int64(len(day.prices))))
	var billed, put atomic.Int64
	stop := progress.Show(func() string {
		return fmt.Sprintf("%s of %s orders billed, %s of %s put aside",
			demo.Number(billed.Load()), demo.Number(int64(len(want.bills))), demo.Number(put.Load()), demo.Number(int64(len(want.unpriced))))
	})
	defer stop()
	err = demo.While(ctx, app, func(ctx context.Context) error {
		err := demo.Follow(ctx, kafka, bills, func(r processor.Record[string, Bill]) (bool, error) {
			n := billed.Add(1)
			if n <= 10 {
				fmt.Printf("  %s  order %5d  %-9s  %8.2f\n", r.Time.Format(time.TimeOnly), r.Value.Order, r.Value.Name, float64(r.Value.Cents)/100)
			} else if n == 11 {
				fmt.Println("  ...")
			}
			return n == int64(len(want.bills)), nil
		})
		if err != nil {
			return err
		}
		return demo.Follow(ctx, kafka, unpriced, func(processor.Record[string, Order]) (bool, error) {
			return put.Add(1) == int64(len(want.unpriced)), nil
		})
	})
	stop()
	if err != nil {
		return err
	}

	gotBills, err := demo.All(ctx, kafka, bills)
	if err != nil {
		return err
	}
	gotUnpriced, err := demo.All(ctx, kafka, unpriced)
	if err != nil {
		return err
	}
	if err := want.compare(gotBills, gotUnpriced); err != nil {
		return err
	}
	fmt.Printf("\nAll %s bills have the price that held at the moment of their order, and the other %s orders had none.\n",
		demo.Number(int64(len(gotBills))), demo.Number(int64(len(gotUnpriced))))
	return nil
}
