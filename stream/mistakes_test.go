package stream_test

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

// mistakes are topologies that Build refuses. What it says is in testdata/mistakes, with lines counted from the first
// line of the function; go test -rewrite writes it anew.
var mistakes = map[string]func(b *stream.Builder){
	"nil-functions": func(b *stream.Builder) {
		s := stream.From(b, left)
		s.Filter(nil)
		s.FilterNot(nil)
		s.Peek(nil)
		stream.Map[string, string, string, string](s, nil)
		stream.MapValues[string, string, string](s, nil)
		stream.SelectKey[string, string, string](s, nil)
		stream.FlatMap[string, string, string, string](s, nil)
		stream.FlatMapValues[string, string, string](s, nil)
		stream.Process[string, string, string, string](s, nil)
		stream.ProcessValues[string, string, string](s, nil)
		stream.GroupBy(s, nil, stream.Through("t", serde.String(), serde.String()))
		g := stream.GroupByKey(s)
		g.Reduce(nil, textStore("a"))
		stream.Aggregate(g, nil, append1, textStore("b"))
		table := stream.Aggregate(g, func() string { return "" }, nil, textStore("c"))
		stream.Join[string, string, string, string](s, table, nil)
		stream.LeftJoin[string, string, string, string](s, table, nil)
	},
	"rekeyed": func(b *stream.Builder) {
		s := stream.From(b, left)
		table := stream.TableFrom(b, right, textStore("right"))
		moved := stream.SelectKey(s, func(_, v string) string { return v })
		stream.GroupByKey(moved)
		moved.ToTable(textStore("t"))
		stream.Join(moved, table, dash)
		stream.LeftJoin(moved, table, dashOrNull)
		stream.GroupByKey(stream.Map(s, prefix))
		stream.GroupByKey(stream.FlatMap(s, pairs))
		stream.GroupByKey(stream.Process(s, passOn))
		stream.GroupByKey(stream.MapValues(moved.Filter(short), double))
		stream.GroupByKey(stream.FlatMapValues(moved, split))
		stream.GroupByKey(stream.ProcessValues(moved, passOn))
		stream.GroupByKey(s.Merge(s, moved))
		stream.GroupByKey(stream.Join(moved, table, dash).Peek(look))
	},
	"one-store-of-two-verbs": func(b *stream.Builder) {
		g := stream.GroupByKey(stream.From(b, left))
		counts := store.KeyValue("counts", serde.String(), serde.Int64())
		g.Count(counts)
		g.Count(counts)
		stream.From(b, right).ToTable(textStore("counts"))
	},
	"one-through-of-two-verbs": func(b *stream.Builder) {
		through := stream.Through("again", serde.String(), serde.String())
		s := stream.From(b, left)
		s.Repartition(through)
		stream.GroupBy(s, func(_, v string) string { return v }, through)
	},
	"nouns-left-empty": func(b *stream.Builder) {
		var t stream.Topic[string, string]
		var in store.KeyValueSpec[string, int64]
		var through stream.ThroughTopic[string, string]
		stream.GroupByKey(stream.From(b, t)).Count(in)
		stream.From(b, left).Repartition(through)
	},
	"two-builders": func(b *stream.Builder) {
		other := stream.NewBuilder()
		s := stream.From(b, left)
		s.Merge(stream.From(other, right))
		stream.Join(s, stream.TableFrom(other, right, textStore("right")), dash)
	},
	"policies": func(b *stream.Builder) {
		s := stream.From(b, left).OnError(processor.Skip())
		stream.GroupByKey(s).OnError(processor.Skip())
		stream.From(b, left).OnError(processor.Fail())
		s.To(out).OnError(processor.DeadLetter("L"))
	},
	"cycle": func(b *stream.Builder) {
		s := stream.From(b, left)
		byValue(s).Count(store.KeyValue("counts", serde.String(), serde.Int64()))
		s.Filter(short).
			To(left)
	},
	"names": func(b *stream.Builder) {
		s := stream.From(b, left).Named("in")
		s.Filter(short).Named("in")
		s.To(out).Named("\x00")
		s.Peek(look).Named("look").Named("see")
	},
	"topic-names": func(b *stream.Builder) {
		stream.From(b, topic("a b"), topic(".."), topic("ok")).
			To(topic("x-counts-changelog"))
		stream.GroupByKey(stream.From(b, left)).
			Count(store.KeyValue("counts", serde.String(), serde.Int64()))
	},
	"other-types": func(b *stream.Builder) {
		stream.From(b, left)
		stream.TableFrom(b, stream.NewTopic("L", serde.String(), serde.Int64()), store.KeyValue("t", serde.String(), serde.Int64()))
	},
}

func pairs(k, v string) []stream.Pair[string, string] {
	return []stream.Pair[string, string]{{Key: k, Value: v}}
}
func passOn() processor.Processor[string, string, string, string] {
	return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r textRecord) error { return ctx.Forward(r) })
}
func short(_, v string) bool  { return len(v) < 3 }
func double(v string) string  { return v + v }
func split(v string) []string { return []string{v} }
func look(_, _ string)        {}

func TestMistakes(t *testing.T) {
	seen := map[string]bool{}
	datadriven.RunTest(t, "testdata/mistakes", func(t *testing.T, d *datadriven.TestData) string {
		name := d.CmdArgs[0].Key
		f := mistakes[name]
		if f == nil {
			d.Fatalf(t, "no such case: %s", name)
		}
		seen[name] = true
		b := stream.NewBuilder()
		f(b)
		_, err := b.Build()
		if err == nil {
			return "Build found nothing\n"
		}
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			var f *fault.Error
			if !errors.As(e, &f) || f.Code == "" || f.Reason == "" || f.Remedy == "" || f.Kind != fault.Config {
				t.Errorf("%v is not a complete *fault.Error of kind Config", e)
			}
		}
		_, first := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).FileLine(reflect.ValueOf(f).Pointer())
		return lineOfThisFile.ReplaceAllStringFunc(fmt.Sprint(err), func(s string) string {
			line, _ := strconv.Atoi(lineOfThisFile.FindStringSubmatch(s)[1])
			return fmt.Sprintf("mistakes_test.go:+%d", line-first)
		}) + "\n"
	})
	for name := range mistakes {
		if !seen[name] {
			t.Errorf("%s is not in testdata/mistakes", name)
		}
	}
}

var lineOfThisFile = regexp.MustCompile(`stream/mistakes_test\.go:(\d+)`)

// A repartition topic cures each of the verbs that refuse a stream whose key may have changed.
func TestRepartitionCures(t *testing.T) {
	b := stream.NewBuilder()
	moved := stream.SelectKey(stream.From(b, left), func(_, v string) string { return v }).
		Repartition(stream.Through("again", serde.String(), serde.String()))
	table := moved.ToTable(textStore("t"))
	stream.Join(moved, table, dash)
	stream.LeftJoin(moved, table, dashOrNull)
	stream.GroupByKey(moved).Count(store.KeyValue("counts", serde.String(), serde.Int64()))
	if _, err := b.Build(); err != nil {
		t.Error(err)
	}
}

// A zero stream has no builder that could collect the mistake.
func TestZeroStreamPanics(t *testing.T) {
	var s text
	for name, f := range map[string]func(){
		"Filter":      func() { s.Filter(short) },
		"To":          func() { s.To(out) },
		"Repartition": func() { s.Repartition(stream.Through("t", serde.String(), serde.String())) },
		"GroupBy":     func() { stream.GroupBy(s, dash, stream.Through("t", serde.String(), serde.String())) },
		"GroupByKey":  func() { stream.GroupByKey(s) },
		"Join":        func() { stream.Join(s, stream.Table[string, string]{}, dash) },
		"Map":         func() { stream.Map(s, prefix) },
	} {
		func() {
			defer func() {
				if err, ok := recover().(error); !ok || fault.Code(err) != "topology/zero-node" {
					t.Errorf("%s: panicked with %v", name, err)
				}
			}()
			f()
		}()
	}
}
