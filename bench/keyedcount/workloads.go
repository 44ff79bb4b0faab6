package main

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// workloads are what the program can do, each written as a user would. bench/README.md says what each must write.
var workloads = map[string]func(config) (*topology.Topology, error){
	"pass":        passThrough,
	"map":         mapFilter,
	"count":       count,
	"aggregate":   aggregate,
	"repartition": repartition,
	"join":        joinTable,
}

func topo(c config) (*topology.Topology, error) {
	build, ok := workloads[c.workload]
	if !ok {
		return nil, flagError{"-workload", c.workload, strings.Join(slices.Sorted(maps.Keys(workloads)), ", ")}
	}
	return build(c)
}

func bytesTopic(name string) stream.Topic[[]byte, []byte] {
	return stream.NewTopic(name, serde.Bytes(), serde.Bytes())
}

func passThrough(c config) (*topology.Topology, error) {
	b := stream.NewBuilder()
	stream.From(b, bytesTopic(c.in)).To(bytesTopic(c.out))
	return b.Build()
}

func mapFilter(c config) (*topology.Topology, error) {
	b := stream.NewBuilder()
	even := stream.From(b, bytesTopic(c.in)).Filter(func(k, _ []byte) bool { return k[len(k)-1]%2 == 0 })
	stream.MapValues(even, bytes.ToUpper).To(bytesTopic(c.out))
	return b.Build()
}

var counts = store.KeyValue("counts", serde.Bytes(), serde.Int64())

// count is written with a processor of its own, which does not look at values, so that they are not even copied.
func count(c config) (*topology.Topology, error) {
	b := topology.NewBuilder()
	src := topology.AddSource(b, "", topology.NewTopic[[]byte, unread](c.in, serde.Bytes(), unreadSerde{}))
	node := topology.AddProcessor("count", newCounter, []store.Spec{counts}, src)
	topology.AddSink("", topology.NewTopic(c.out, serde.Bytes(), serde.Int64()), node)
	return b.Build()
}

type counter struct{ counts *store.KV[[]byte, int64] }

func newCounter() processor.Processor[[]byte, unread, []byte, int64] { return &counter{} }

func (c *counter) Init(ctx processor.InitContext) (err error) {
	c.counts, err = counts.In(ctx)
	return err
}

func (c *counter) Prefetch(w *store.Wanted, key []byte) { c.counts.Want(w, key) }

func (c *counter) Process(ctx processor.Context[[]byte, int64], r processor.Record[[]byte, unread]) error {
	n, _, err := c.counts.Get(r.Key)
	if err != nil {
		return err
	}
	n++
	if err := c.counts.Put(r.Key, n); err != nil {
		return err
	}
	return ctx.Forward(processor.With(r, r.Key, n))
}

// unread is a value that nobody looks at.
type unread struct{}

type unreadSerde struct{}

func (unreadSerde) Append(dst []byte, _ unread) ([]byte, error) { return dst, nil }
func (unreadSerde) Decode([]byte) (unread, error)               { return unread{}, nil }

var rows = store.KeyValue("rows", serde.Bytes(), serde.Bytes())

// aggregate keeps a row of some size for each key: how many there were, and the beginning of the last value.
func aggregate(c config) (*topology.Topology, error) {
	zero := func() []byte { return make([]byte, 8) }
	add := func(row, value []byte) []byte {
		next := make([]byte, max(8, c.stateBytes))
		binary.BigEndian.PutUint64(next, binary.BigEndian.Uint64(row)+1)
		copy(next[8:], value)
		return next
	}
	b := stream.NewBuilder()
	stream.Aggregate(stream.GroupByKey(stream.From(b, bytesTopic(c.in))), zero, add, rows).ToStream().To(bytesTopic(c.out))
	return b.Build()
}

var byGroup = stream.Through("by-group", serde.Bytes(), serde.Bytes())

// repartition makes one key of ten and counts those.
func repartition(c config) (*topology.Topology, error) {
	group := func(k, _ []byte) []byte {
		k = bytes.Clone(k)
		k[len(k)-1] = '0'
		return k
	}
	b := stream.NewBuilder()
	stream.GroupBy(stream.From(b, bytesTopic(c.in)), group, byGroup).Count(counts).ToStream().
		To(stream.NewTopic(c.out, serde.Bytes(), serde.Int64()))
	return b.Build()
}

var table = store.KeyValue("table", serde.Bytes(), serde.Bytes())

func joinTable(c config) (*topology.Topology, error) {
	b := stream.NewBuilder()
	right := stream.TableFrom(b, bytesTopic(c.table), table)
	stream.Join(stream.From(b, bytesTopic(c.in)), right, func(v, row []byte) []byte { return slices.Concat(row, v) }).To(bytesTopic(c.out))
	return b.Build()
}
