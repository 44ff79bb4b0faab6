package topology_test

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
	"github.com/millrace-io/millrace/ttl"
)

// mistakes are topologies that Build refuses. What it says is in testdata/mistakes, with lines counted from the first
// line of the function; go test -rewrite writes it anew.
var mistakes = map[string]func(b *topology.Builder){
	"nothing": func(b *topology.Builder) {},
	"duplicate-node": func(b *topology.Builder) {
		src := topology.AddSource(b, "p", numbers)
		topology.AddProcessor("p", apply(forward), nil, src)
	},
	"duplicate-name-later": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("p", apply(forward), nil, src)
		topology.AddSink("", results, src).Named("p")
	},
	"illegal-node-name": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("two\nlines", apply(forward), nil, src)
		topology.AddProcessor("", apply(forward), nil, src).Named("")
		topology.AddProcessor("", apply(forward), nil, src).Named(strings.Repeat("long", 100))
		topology.AddProcessor("", apply(forward), nil, src).Named("\xff")
	},
	"renamed": func(b *topology.Builder) {
		topology.AddSource(b, "", numbers).Named("a").Named("b")
	},
	"nil-supplier": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor[string, int64, string, int64]("p", nil, nil, src)
	},
	"foreign-node": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		other := topology.AddSource(topology.NewBuilder(), "", numbers)
		topology.AddSink("", results, src, other)
	},
	"zero-node-beside-another": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddSink("", results, topology.Node[string, int64]{}, src)
	},
	"timers": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("a", newOf[waker](), []store.Spec{gaps}, src)
		topology.AddProcessor("b", newOf[waker](), []store.Spec{gaps}, src)
		topology.AddProcessor("c", newOf[waker](), []store.Spec{numbery, numbery}, src)
		topology.AddProcessor("d", newOf[waker](), []store.Spec{timers.New("hours", serde.String(), 7)}, src)
		topology.AddProcessor("e", newOf[waker](), []store.Spec{timers.New("rounded", serde.String(), timers.EventTime).CoalesceTo(-time.Second)}, src)
		topology.AddProcessor("f", newOf[waker](), []store.Spec{counts, timers.New("counts", serde.String(), timers.EventTime)}, src)
		topology.AddProcessor("g", newOf[waker](), []store.Spec{timers.New[string]("no-codec", nil, timers.EventTime)}, src)
		topology.AddProcessor("h", newOf[waker](), []store.Spec{timers.New("", serde.String(), timers.EventTime)}, src)
	},
	"retry": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		src.OnError(processor.Retry(0, time.Second, processor.Skip()))
		p := topology.AddProcessor("p", apply(forward), nil, src)
		p.OnError(processor.Retry(3, -time.Second, processor.Skip()))
		p.OnError(processor.Retry(3, time.Second, processor.Policy{}))
		topology.AddSink("", results, p).OnError(processor.Retry(3, time.Second, processor.Retry(2, time.Second, processor.Fail())))
		topology.AddSink("dead", results, p).OnError(processor.Retry(3, time.Second, processor.DeadLetter("no good")))
	},
	"illegal-topic-names": func(b *topology.Builder) {
		named := func(name string) topology.Topic[string, int64] {
			return topology.NewTopic(name, serde.String(), serde.Int64())
		}
		topology.AddSource(b, "one", named(""))
		topology.AddSource(b, "two", named("."))
		topology.AddSource(b, "three", named(".."))
		topology.AddSource(b, "four", named("a/b"))
		topology.AddSource(b, "five", named("größe"))
		src := topology.AddSource(b, "six", named(strings.Repeat("x", 250)))
		topology.AddSource(b, "fine", named(strings.Repeat("x", 249)))
		topology.AddSink("", named("a b"), src)
	},
	"illegal-through": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddThrough(topology.Through("", serde.String(), serde.Int64()), src)
		topology.AddThrough(topology.Through("by word", serde.String(), serde.Int64()), src)
		topology.AddThrough(topology.Through(strings.Repeat("x", 180), serde.String(), serde.Int64()), src)
		topology.AddThrough(topology.Through("zero", serde.String(), serde.Int64()).Partitions(0), src)
		topology.AddThrough(topology.Through("minus", serde.String(), serde.Int64()).Partitions(-4), src)
	},
	"duplicate-through": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		by := topology.Through("by-word", serde.String(), serde.Int64())
		topology.AddThrough(by, src)
		topology.AddThrough(by, src)
	},
	"through-by-itself": func(b *topology.Builder) {
		by := topology.Through("by-word", serde.String(), serde.Int64()).Topic()
		src := topology.AddSource(b, "", by)
		topology.AddSink("", by, src)
	},
	"no-serde": func(b *topology.Builder) {
		src := topology.AddSource(b, "", topology.NewTopic("in", serde.String(), serde.Serde[int64](nil)))
		topology.AddSink("", topology.NewTopic("out", serde.Serde[string](nil), serde.Int64()), src)
	},
	"time-to-live": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		mortal := store.KeyValue("mortal", serde.String(), serde.Int64(), store.WithTTL(ttl.AfterWrite(0)))
		topology.AddProcessor("p", apply(forward), []store.Spec{mortal}, src)
		idle := store.KeyValue("idle", serde.String(), serde.Int64(), store.WithTTL(ttl.AfterAccess(time.Hour).RefreshEvery(2*time.Hour)))
		topology.AddProcessor("q", apply(forward), []store.Spec{idle}, src)
	},
	"store-lacks-function": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("p", apply(forward), []store.Spec{store.Reducing("best", serde.String(), serde.Int64(), nil)}, src)
		counting := store.Aggregator[int64, int64, int64]{New: func() int64 { return 0 }, Result: func(n int64) int64 { return n }}
		topology.AddProcessor("q", apply(forward), []store.Spec{store.Aggregating("count", serde.String(), serde.Int64(), counting)}, src)
	},
	"type-conflict": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddSource(b, "again", topology.NewTopic("numbers", serde.String(), serde.String()))
		topology.AddSink("", topology.NewTopic("numbers-2", serde.String(), serde.Int64()), src)
	},
	"extractor-conflict": func(b *topology.Builder) {
		topology.AddSource(b, "", numbers)
		topology.AddSource(b, "", numbers.TimestampBy(nowhere))
	},
	"read-twice": func(b *topology.Builder) {
		topology.AddSource(b, "a", numbers)
		topology.AddSource(b, "b", numbers)
	},
	"own-internal-topics": func(b *topology.Builder) {
		src := topology.AddSource(b, "", topology.NewTopic("shop-by-word-repartition", serde.String(), serde.Int64()))
		topology.AddSink("", topology.NewTopic("shop-counts-changelog", serde.String(), serde.Int64()), src)
		by := topology.AddThrough(topology.Through("by-word", serde.String(), serde.Int64()), src)
		topology.AddProcessor("p", apply(forward), []store.Spec{counts}, by).
			OnError(processor.DeadLetter("x-counts-changelog"))
	},
	"store-names": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		for _, name := range []string{"", "..", "a/b", "nul\x00", strings.Repeat("x", 175)} {
			topology.AddProcessor("", apply(forward), []store.Spec{store.KeyValue(name, serde.String(), serde.Int64())}, src)
		}
		topology.AddProcessor("", apply(forward), []store.Spec{nil}, src)
		topology.AddProcessor("", apply(forward), []store.Spec{store.KeyValue("bare", serde.String(), serde.Serde[int64](nil))}, src)
	},
	"store-conflict": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("a", apply(forward), []store.Spec{counts}, src)
		topology.AddProcessor("b", apply(forward), []store.Spec{counts}, src)
		topology.AddProcessor("c", apply(forward), []store.Spec{store.KeyValue("counts", serde.String(), serde.String())}, src)
	},
	"policies": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers).OnError(processor.Policy{Action: 9})
		p := topology.AddProcessor("p", apply(forward), nil, src).OnError(processor.Skip()).OnError(processor.Fail())
		topology.AddSink("", results, p).OnError(processor.DeadLetter(""))
		topology.AddSink("", topology.NewTopic("more", serde.String(), serde.Int64()), p).OnError(processor.DeadLetter("dead/letters"))
		topology.AddSink("", topology.NewTopic("most", serde.String(), serde.Int64()), p.Since(b.Mark()).OnError(processor.Skip()))
	},
	"dead-letter-loop": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers).OnError(processor.DeadLetter("numbers"))
		topology.AddSink("", results, src)
		again := topology.AddSource(b, "", results)
		topology.AddProcessor("p", apply(forward), nil, again).OnError(processor.DeadLetter("numbers"))
	},
	"cycle": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddSink("", numbers, src)
	},
	"cycle-over-topics": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		by := topology.AddThrough(topology.Through("by-word", serde.String(), serde.Int64()), src)
		topology.AddSink("", results, by)
		topology.AddSink("", numbers, topology.AddSource(b, "", results))
	},
	"name-clash": func(b *topology.Builder) {
		topology.AddSource(b, "", topology.NewTopic("counts", serde.String(), serde.Int64()))
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("p", apply(forward), []store.Spec{counts}, src)
	},
	"partitions-asked-for": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		x := topology.AddThrough(topology.Through("x", serde.String(), serde.Int64()).Partitions(4), src)
		y := topology.AddThrough(topology.Through("y", serde.String(), serde.Int64()).Partitions(6), src)
		topology.AddProcessor("p", apply(forward), []store.Spec{counts}, x)
		topology.AddProcessor("q", apply(forward), []store.Spec{counts}, y)
	},
	"everything-at-once": func(b *topology.Builder) {
		src := topology.AddSource(b, "", topology.NewTopic("in/out", serde.String(), serde.Int64()))
		topology.AddProcessor[string, int64, string, int64]("p", nil, nil, src)
		p := topology.AddProcessor("p", apply(forward), []store.Spec{nil}, src)
		topology.AddSink("", results, p).OnError(processor.DeadLetter(".."))
	},
}

var counts = store.KeyValue("counts", serde.String(), serde.Int64())

func nowhere(_ string, _ int64, at time.Time) time.Time { return at }

func TestMistakes(t *testing.T) {
	seen := map[string]bool{}
	datadriven.RunTest(t, "testdata/mistakes", func(t *testing.T, d *datadriven.TestData) string {
		name := d.CmdArgs[0].Key
		f := mistakes[name]
		if f == nil {
			d.Fatalf(t, "no such case: %s", name)
		}
		seen[name] = true
		b := topology.NewBuilder()
		f(b)
		_, err := b.Build()
		checkShape(t, err)
		return relative(f, err)
	})
	for name := range mistakes {
		if !seen[name] {
			t.Errorf("%s is not in testdata/mistakes", name)
		}
	}
}

// checkShape asks of every mistake what a person needs to act.
func checkShape(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Error("Build found nothing")
		return
	}
	if fault.ExitCode(err) != 2 {
		t.Errorf("exit code %d, want 2", fault.ExitCode(err))
	}
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var f *fault.Error
		if !errors.As(e, &f) || f.Code == "" || f.Reason == "" || f.Remedy == "" || f.Kind != fault.Config {
			t.Errorf("%v is not a complete *fault.Error of kind Config", e)
		}
	}
}

var lineOfThisFile = regexp.MustCompile(`topology/(mistakes|dry)_test\.go:(\d+)`)

// relative prints an error with lines counted from the beginning of f.
func relative(f any, err error) string {
	_, first := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).FileLine(reflect.ValueOf(f).Pointer())
	text := lineOfThisFile.ReplaceAllStringFunc(fmt.Sprint(err), func(s string) string {
		m := lineOfThisFile.FindStringSubmatch(s)
		line, _ := strconv.Atoi(m[2])
		return fmt.Sprintf("%s_test.go:+%d", m[1], line-first)
	})
	return text + "\n"
}

// The line in a mistake is the line of the call.
func TestMistakeNamesTheLine(t *testing.T) {
	b := topology.NewBuilder()
	_, file, line, _ := runtime.Caller(0)
	topology.AddSource(b, "", topology.NewTopic("a/b", serde.String(), serde.Int64()))
	_, err := b.Build()
	var m *topology.Mistake
	if !errors.As(err, &m) || m.File != file || m.Line != line+1 {
		t.Fatalf("mistake is %+v, want %s:%d", m, file, line+1)
	}
	if want := fmt.Sprintf("topology/mistakes_test.go:%d: topic/illegal-name: ", line+1); !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%q does not begin with %q", err, want)
	}
}

// There is no builder that could collect this one.
func TestZeroNodePanics(t *testing.T) {
	defer func() {
		if err, ok := recover().(error); !ok || fault.Code(err) != "topology/zero-node" {
			t.Errorf("panicked with %v", err)
		}
	}()
	topology.AddSink("", results, topology.Node[string, int64]{})
}

// What looks odd and is allowed.
func TestAllowed(t *testing.T) {
	for name, f := range map[string]func(b *topology.Builder){
		"a topic read after it is written": func(b *topology.Builder) {
			topology.AddSink("", results, topology.AddSource(b, "", numbers))
			topology.AddSource(b, "", results)
		},
		"a topic read twice by the same noun": func(b *topology.Builder) {
			topology.AddSink("", results, topology.AddSource(b, "", numbers))
			topology.AddSink("", topology.NewTopic("more", serde.String(), serde.Int64()), topology.AddSource(b, "", numbers))
		},
		"a topic written by two sinks": func(b *topology.Builder) {
			src := topology.AddSource(b, "", numbers)
			topology.AddSink("", results, src)
			topology.AddSink("", results, src)
		},
		"a store of two nodes, attached twice to one": func(b *topology.Builder) {
			src := topology.AddSource(b, "", numbers)
			topology.AddProcessor("a", apply(forward), []store.Spec{counts, counts}, src)
			topology.AddProcessor("b", apply(forward), []store.Spec{counts}, src)
		},
		"dead letters that do not lead back": func(b *topology.Builder) {
			topology.AddSource(b, "", numbers).OnError(processor.DeadLetter("results"))
			topology.AddSource(b, "", results)
		},
		"a topic named like a changelog of nobody's": func(b *topology.Builder) {
			topology.AddSource(b, "", topology.NewTopic("customer-changelog", serde.String(), serde.Int64()))
		},
	} {
		b := topology.NewBuilder()
		f(b)
		if _, err := b.Build(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Build may be called in between: what it returned stays as it was.
func TestBuildTwice(t *testing.T) {
	b := topology.NewBuilder()
	src := topology.AddSource(b, "", numbers)
	first := build(t, b)
	before := first.String()
	topology.AddSink("", results, src.Named("renamed").OnError(processor.Skip()))
	second := build(t, b)
	if first.String() != before {
		t.Errorf("the first topology changed to\n%s", first)
	}
	if second.String() == before || second.Fingerprint() == first.Fingerprint() {
		t.Error("the second topology is like the first")
	}
}
