package topology_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

func literal(name string) topology.Topic[string, int64] {
	return topology.NewTopic(name, serde.String(), serde.Int64())
}

func through(name string) topology.ThroughTopic[string, int64] {
	return topology.Through(name, serde.String(), serde.Int64())
}

func kv(name string) store.KeyValueSpec[string, int64] {
	return store.KeyValue(name, serde.String(), serde.Int64())
}

type numberNode = topology.Node[string, int64]

// with adds a processor that has stores.
func with(name string, parents []numberNode, stores ...store.Spec) numberNode {
	return topology.AddProcessor(name, apply(forward), stores, parents[0], parents[1:]...)
}

func nodes(ns ...numberNode) []numberNode { return ns }

// shapes are the topologies whose partition counts testdata/counts asks for.
var shapes = map[string]func(b *topology.Builder){
	"stateless": func(b *topology.Builder) {
		topology.AddSink("", literal("out"), topology.AddSource(b, "", literal("in")))
	},
	"merge": func(b *topology.Builder) {
		topology.AddSink("", literal("out"), with("p", nodes(topology.AddSource(b, "", literal("a")), topology.AddSource(b, "", literal("b")))))
	},
	"merge-with-store": func(b *topology.Builder) {
		with("p", nodes(topology.AddSource(b, "", literal("a")), topology.AddSource(b, "", literal("b"))), kv("s"))
	},
	"join": func(b *topology.Builder) {
		with("table", nodes(topology.AddSource(b, "", literal("b"))), kv("s"))
		with("join", nodes(topology.AddSource(b, "", literal("a"))), kv("s"))
	},
	"chain": func(b *topology.Builder) {
		x := topology.AddThrough(through("x"), with("up", nodes(topology.AddSource(b, "", literal("a")), topology.AddSource(b, "", literal("b")))))
		y := topology.AddThrough(through("y"), with("mid", nodes(x), kv("s")))
		with("down", nodes(y), kv("t"))
	},
	"fixed": func(b *topology.Builder) {
		x := topology.AddThrough(through("x").Partitions(7), topology.AddSource(b, "", literal("a")))
		y := topology.AddThrough(through("y"), x)
		with("down", nodes(y), kv("t"))
	},
	"joined-through": func(b *topology.Builder) {
		with("table", nodes(topology.AddSource(b, "", literal("b"))), kv("s"))
		with("join", nodes(topology.AddThrough(through("x"), topology.AddSource(b, "", literal("a")))), kv("s"))
	},
	"two-throughs": func(b *topology.Builder) {
		with("table", nodes(topology.AddThrough(through("y"), topology.AddSource(b, "", literal("b")))), kv("s"))
		with("join", nodes(topology.AddThrough(through("x"), topology.AddSource(b, "", literal("a")))), kv("s"))
	},
	"through-into-itself": func(b *topology.Builder) {
		up := with("up", nodes(topology.AddSource(b, "", literal("a"))), kv("s"))
		with("down", nodes(topology.AddThrough(through("x"), up)), kv("s"))
	},
	"through-beside-its-feeder": func(b *topology.Builder) {
		x := topology.AddThrough(through("x"), topology.AddSource(b, "", literal("a")))
		y := topology.AddThrough(through("y"), x)
		with("p", nodes(x), kv("s"))
		with("q", nodes(y), kv("s"))
	},
	"transitive": func(b *topology.Builder) { // s joins a with x, t joins x with c: all three must agree
		x := topology.AddThrough(through("x"), topology.AddSource(b, "", literal("src")))
		with("p", nodes(topology.AddSource(b, "", literal("a"))), kv("s"))
		with("q", nodes(x), kv("s"), kv("t"))
		with("r", nodes(topology.AddSource(b, "", literal("c"))), kv("t"))
	},
}

func TestPartitionCounts(t *testing.T) {
	datadriven.RunTest(t, "testdata/counts", func(t *testing.T, d *datadriven.TestData) string {
		f := shapes[d.Cmd]
		if f == nil {
			d.Fatalf(t, "no such shape: %s", d.Cmd)
		}
		b := topology.NewBuilder()
		f(b)
		through, tasks, err := build(t, b).PartitionCounts(func(topic string) (int32, bool) {
			if !d.HasArg(topic) {
				return 0, false
			}
			var n int
			d.ScanArgs(t, topic, &n)
			return int32(n), true
		})
		if err != nil {
			return err.Error() + "\n"
		}
		var lines []string
		for ref, n := range through {
			lines = append(lines, fmt.Sprintf("topic %s: %d\n", ref.Name, n))
		}
		for name, n := range tasks {
			lines = append(lines, fmt.Sprintf("tasks of %s: %d\n", name, n))
		}
		slices.Sort(lines)
		return strings.Join(lines, "")
	})
}
