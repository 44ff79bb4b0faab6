package main

import (
	"math"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// eos is the simple topology of Kafka's EosTest: data is echoed, and for each key the running minimum and the running
// sum go out, one output per input.
func (c config) eos() (*topology.Topology, error) {
	var (
		data  = stream.NewTopic(c.topic("data"), serde.String(), serde.Int32())
		echo  = stream.NewTopic(c.topic("echo"), serde.String(), serde.Int32())
		least = stream.NewTopic(c.topic("min"), serde.String(), serde.Int32())
		total = stream.NewTopic(c.topic("sum"), serde.String(), serde.Int64())
		mins  = store.KeyValue("min", serde.String(), serde.Int32())
		sums  = store.KeyValue("sum", serde.String(), serde.Int64())
	)
	b := stream.NewBuilder()
	in := stream.From(b, data)
	in.To(echo)
	byKey := stream.GroupByKey(in)
	stream.Aggregate(byKey, func() int32 { return math.MaxInt32 }, func(m, v int32) int32 { return min(m, v) }, mins).ToStream().To(least)
	stream.Aggregate(byKey, func() int64 { return 0 }, func(sum int64, v int32) int64 { return sum + int64(v) }, sums).ToStream().To(total)
	return b.Build()
}
