package main

import (
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// mistaken is a topology with a mistake that only New or the cluster can find:
//
//	unattached  a processor opens a store that another node has
//	undeclared  a processor opens a store that nobody has
//	join        a stream and a table whose topics may differ in their number of partitions
func (c config) mistaken() (*topology.Topology, error) {
	var (
		in    = topology.NewTopic(c.topic("in"), serde.String(), serde.Int32())
		names = topology.NewTopic(c.topic("names"), serde.String(), serde.Int32())
		out   = topology.NewTopic(c.topic("out"), serde.String(), serde.Int32())
		mine  = store.KeyValue("mine", serde.String(), serde.Int64())
		other = store.KeyValue("other", serde.String(), serde.Int64())
	)
	b := stream.NewBuilder()
	if c.workload == "join" {
		table := stream.TableFrom(b, names, store.KeyValue("names", serde.String(), serde.Int32()))
		stream.Join(stream.From(b, in), table, func(a, b int32) int32 { return a + b }).To(out)
		return b.Build()
	}
	opener := func(spec store.KeyValueSpec[string, int64]) func() processor.Processor[string, int32, string, int32] {
		return func() processor.Processor[string, int32, string, int32] { return &opens{spec: spec} }
	}
	first := stream.Process(stream.From(b, in), opener(mine), mine)
	second := stream.Process(first, opener(other), mine)
	if c.workload == "unattached" {
		second = stream.Process(second, opener(other), other)
	}
	second.To(out)
	return b.Build()
}

// opens is a processor that opens a store and passes its records on.
type opens struct {
	spec store.KeyValueSpec[string, int64]
}

func (o *opens) Init(ctx processor.InitContext) error {
	_, err := o.spec.In(ctx)
	return err
}

func (o *opens) Process(ctx processor.Context[string, int32], r processor.Record[string, int32]) error {
	return ctx.Forward(r)
}
