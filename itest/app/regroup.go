package main

import (
	"strconv"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// groups is how many keys the regroup workload counts.
const groups = 300

// regroup is count with a repartition topic in between: a stateless first part notes where each record came from and gives
// it another key, a second part counts by that key.
func (c config) regroup() (*topology.Topology, error) {
	var (
		in      = topology.NewTopic(c.topic("in"), serde.String(), serde.Int32())
		byGroup = topology.Through("by-group", serde.String(), serde.Int32())
		audit   = topology.NewTopic(c.topic("audit"), serde.String(), serde.Int64())
		out     = topology.NewTopic(c.topic("out"), serde.String(), serde.Int64())
		counts  = store.KeyValue(countsName, serde.String(), serde.Int64())
	)
	newMover := func() processor.Processor[string, int32, string, int32] {
		return processor.Func[string, int32, string, int32](func(ctx processor.Context[string, int32], r processor.Record[string, int32]) error {
			moved := processor.With(r, "g"+strconv.Itoa(int(r.Value)%groups), r.Value)
			moved.Headers = origin(ctx.Origin())
			return ctx.Forward(moved)
		})
	}
	newCounter := func() processor.Processor[string, int32, string, int64] {
		return &counter{config: c, spec: counts, keepOrigin: true}
	}
	b := topology.NewBuilder()
	moved := topology.AddThrough(byGroup, topology.AddProcessor("move", newMover, nil, topology.AddSource(b, "", in)))
	counted := topology.AddProcessor("count", newCounter, []store.Spec{counts}, moved)
	topology.AddSink("", audit, counted)
	topology.AddSink("", out, topology.AddProcessor("sieve", c.sieve, nil, counted))
	return b.Build()
}
