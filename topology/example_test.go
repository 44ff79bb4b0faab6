package topology_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/topology"
)

type upper struct{}

func (upper) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	r.Value = strings.ToUpper(r.Value)
	return ctx.Forward(r)
}

func newUpper() processor.Processor[string, string, string, string] { return upper{} }

// The low-level graph: typed handles instead of names of parents.
func Example() {
	var (
		lines  = topology.NewTopic("lines", serde.String(), serde.String())
		byName = topology.Through("by-name", serde.String(), serde.String())
		loud   = topology.NewTopic("loud-lines", serde.String(), serde.String())
	)
	b := topology.NewBuilder()
	src := topology.AddSource(b, "", lines).OnError(processor.Skip())
	up := topology.AddProcessor("upper", newUpper, nil, src)
	topology.AddSink("out", loud, topology.AddThrough(byName, up))

	top, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = top.Describe(os.Stdout, topology.Text)
	// Output:
	// subtopology by-name
	//   by-name: source reads repartition by-name
	//     -> out
	//   out: sink writes loud-lines
	//
	// subtopology lines
	//   lines: source reads lines (on error: skip)
	//     -> upper
	//   upper: process
	//     -> to-by-name
	//   to-by-name: sink writes repartition by-name
}

// Build tells everything that is wrong, each with the line that made it.
func ExampleBuilder_Build() {
	b := topology.NewBuilder()
	src := topology.AddSource(b, "in", topology.NewTopic("no/topic", serde.String(), serde.String()))
	topology.AddProcessor("in", newUpper, nil, src)
	_, err := b.Build()
	fmt.Println(err)
	// Output:
	// topology/example_test.go:57: topic/illegal-name: topic "no/topic": holds '/', and Kafka takes letters, digits, '.', '_' and '-'; declare the topic with a name Kafka takes
	// topology/example_test.go:58: topology/duplicate-node: node "in": the name is taken by the source at topology/example_test.go:57; give one of them another name
}

// A repartition topic is as wide as the widest topic in front of it.
func ExampleTopology_PartitionCounts() {
	b := topology.NewBuilder()
	lines := topology.AddSource(b, "", topology.NewTopic("lines", serde.String(), serde.String()))
	topology.AddProcessor("upper", newUpper, nil, topology.AddThrough(topology.Through("by-name", serde.String(), serde.String()), lines))
	top, err := b.Build()
	if err != nil {
		fmt.Println(err)
		return
	}
	throughs, tasks, err := top.PartitionCounts(func(topic string) (int32, bool) { return 6, topic == "lines" })
	fmt.Println(throughs, tasks, err)
	// Output:
	// map[repartition by-name:6] map[by-name:6 lines:6] <nil>
}
