package prom_test

import (
	"fmt"
	"log"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/observe/prom"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

// A program with a registry of its own exports its application there. One without gives millrace.MetricsListener instead.
func ExampleNew() {
	words := stream.NewTopic("words", serde.String(), serde.String())
	totals := stream.NewTopic("totals", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.GroupByKey(stream.From(b, words)).Count(store.KeyValue("counts", serde.String(), serde.Int64())).ToStream().To(totals)
	top, err := b.Build()
	if err != nil {
		log.Fatal(err)
	}
	app, err := millrace.New("word-count", top, millrace.SeedBrokers("localhost:9092"), millrace.MemoryStores())
	if err != nil {
		log.Fatal(err)
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(prom.New(app))

	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "millrace_memory_limit_bytes" {
			fmt.Println(f.Metric[0].Label[0].GetValue(), f.Metric[0].Gauge.GetValue())
		}
	}
	// Output:
	// word-count 5.36870912e+08
}
