package topology_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// pictured is a topology with everything in it that a picture shows.
func pictured(b *topology.Builder) {
	src := topology.AddSource(b, "", literal("lines")).OnError(processor.Skip())
	split := topology.AddProcessor("split", apply(forward), nil, src)
	by := topology.AddThrough(through("by-word").Partitions(4), split)
	count := with("count", nodes(by), kv("counts")).OnError(processor.DeadLetter("dead"))
	topology.AddSink("", literal("totals"), count)
	topology.AddSink("", literal("totals"), count, by)
	with("users", nodes(topology.AddSource(b, "", literal("users"))), kv("users"))
	with("enrich", nodes(topology.AddSource(b, "", literal("clicks"))), kv("users"))
}

func TestDescribe(t *testing.T) {
	b := topology.NewBuilder()
	pictured(b)
	top := build(t, b)
	datadriven.RunTest(t, "testdata/describe", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		if err := top.Describe(&out, topology.Format(d.Cmd)); err != nil {
			return err.Error() + "\n"
		}
		// Lines of this file move.
		return regexp.MustCompile(`_test\.go:\d+`).ReplaceAllString(out.String(), "_test.go:1")
	})
	var out strings.Builder
	if err := top.Describe(&out, topology.JSON); err != nil || !json.Valid([]byte(out.String())) {
		t.Errorf("JSON is not valid: %v", err)
	}
	if top.String() == "" {
		t.Error("String is empty")
	}
}

// The fingerprint is the same in every process and for ever: it is in the metadata of running groups.
func TestFingerprint(t *testing.T) {
	print := func(f func(b *topology.Builder)) [16]byte {
		b := topology.NewBuilder()
		f(b)
		return build(t, b).Fingerprint()
	}
	first := print(pictured)
	if again := print(pictured); again != first {
		t.Errorf("%x and then %x", first, again)
	}
	base := func(b *topology.Builder) { with("p", nodes(topology.AddSource(b, "", literal("in"))), kv("s")) }
	same := map[string]func(b *topology.Builder){
		"policy": func(b *topology.Builder) {
			with("p", nodes(topology.AddSource(b, "", literal("in"))), kv("s")).OnError(processor.Skip())
		},
		"code": func(b *topology.Builder) {
			topology.AddProcessor("p", apply(func(numberContext, number) error { return nil }), []store.Spec{kv("s")}, topology.AddSource(b, "", literal("in")))
		},
	}
	for name, f := range same {
		if print(f) != print(base) {
			t.Errorf("another %s changes the fingerprint", name)
		}
	}
	different := map[string]func(b *topology.Builder){
		"topic": func(b *topology.Builder) { with("p", nodes(topology.AddSource(b, "", literal("in2"))), kv("s")) },
		"codec": func(b *topology.Builder) {
			topology.AddProcessor("p", func() processor.Processor[string, string, string, string] { return nil }, []store.Spec{kv("s")},
				topology.AddSource(b, "", topology.NewTopic("in", serde.String(), serde.String())))
		},
		"store name": func(b *topology.Builder) { with("p", nodes(topology.AddSource(b, "", literal("in"))), kv("s2")) },
		"store type": func(b *topology.Builder) {
			with("p", nodes(topology.AddSource(b, "", literal("in"))), store.KeyValue("s", serde.String(), serde.String()))
		},
		"node name": func(b *topology.Builder) { with("q", nodes(topology.AddSource(b, "", literal("in"))), kv("s")) },
		"edge": func(b *topology.Builder) {
			with("p", nodes(with("o", nodes(topology.AddSource(b, "", literal("in"))))), kv("s"))
		},
		"extractor": func(b *topology.Builder) {
			with("p", nodes(topology.AddSource(b, "", literal("in").TimestampBy(nowhere))), kv("s"))
		},
	}
	for name, f := range different {
		if print(f) == print(base) {
			t.Errorf("another %s does not change the fingerprint", name)
		}
	}
}

func TestSubtopologies(t *testing.T) {
	b := topology.NewBuilder()
	pictured(b)
	subs := build(t, b).Subtopologies()
	var names []string
	for _, s := range subs {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "counts lines users" {
		t.Fatalf("subtopologies are %s", got)
	}
	users := subs[2]
	if len(users.Sources) != 2 || len(users.Stores) != 1 || users.Stores[0].Name() != "users" || len(users.Nodes) != 4 {
		t.Errorf("users is %+v", users)
	}
	if ref := subs[0].Sources[0].Topic; ref.Resolve("app") != "app-by-word-repartition" || ref != subs[1].Sinks[0].Topic {
		t.Errorf("through topic is %+v and %+v", ref, subs[1].Sinks[0].Topic)
	}
	if n := subs[0].Nodes[subs[0].Sources[0].Node]; n.Name != "by-word" || n.Kind != "source" {
		t.Errorf("source node is %+v", n)
	}
}

func TestCheckApp(t *testing.T) {
	b := topology.NewBuilder()
	src := topology.AddSource(b, "", literal("shop-tasks"))
	by := topology.AddThrough(through("by-word"), src)
	with("count", nodes(by), kv("counts"))
	top := build(t, b)
	if err := top.CheckApp("wordcount"); err != nil {
		t.Errorf("wordcount: %v", err)
	}
	err := top.CheckApp("shop")
	if err == nil || strings.Count(err.Error(), "topic/internal") != 1 || !strings.Contains(err.Error(), "the application's task topic") {
		t.Errorf("shop: %v", err)
	}
	b = topology.NewBuilder()
	with("p", nodes(topology.AddSource(b, "", numbers))).OnError(processor.DeadLetter("shop-tasks"))
	if err := build(t, b).CheckApp("shop"); fault.Code(err) != "topic/internal" {
		t.Errorf("dead letters to the task topic: %v", err)
	}
	err = top.CheckApp(strings.Repeat("x", 240))
	if err == nil || strings.Count(err.Error(), "topic/illegal-name") != 2 { // the repartition topic and the changelog
		t.Errorf("long id: %v", err)
	}
	if fault.ExitCode(err) != 2 {
		t.Errorf("exit code %d", fault.ExitCode(err))
	}
}
