package topology_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
)

// keeper opens a store in Init.
type keeper struct {
	spec store.KeyValueSpec[string, int64]
	kv   *store.KV[string, int64]
}

func (k *keeper) Init(ctx processor.InitContext) (err error) {
	k.kv, err = k.spec.In(ctx)
	return err
}

func (k *keeper) Process(ctx numberContext, r number) error { return ctx.Forward(r) }

func newKeeper(spec store.KeyValueSpec[string, int64]) func() processor.Processor[string, int64, string, int64] {
	return func() processor.Processor[string, int64, string, int64] { return &keeper{spec: spec} }
}

// reader reads its store in Init, which is allowed: it is empty then, or has been restored.
type reader struct{ keeper }

func (k *reader) Init(ctx processor.InitContext) error {
	if err := k.keeper.Init(ctx); err != nil {
		return err
	}
	_, _, err := k.kv.Get("x")
	return err
}

type panicker struct{ keeper }

func (*panicker) Init(processor.InitContext) error { panic("no config") }

type failing struct{ keeper }

var errNoConfig = errors.New("no config")

func (*failing) Init(processor.InitContext) error { return errNoConfig }

var others = store.KeyValue("others", serde.String(), serde.Int64())

// dryRuns are topologies that Build takes and DryRun does not. What it says is in testdata/dryrun.
var dryRuns = map[string]func(b *topology.Builder){
	"fine": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("a", newKeeper(counts), []store.Spec{counts}, src)
		topology.AddProcessor("b", func() processor.Processor[string, int64, string, int64] { return &reader{keeper{spec: counts}} },
			[]store.Spec{counts}, src)
		topology.AddProcessor("c", apply(forward), nil, src)
	},
	"not-attached": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		a := topology.AddProcessor("a", newKeeper(counts), nil, src)
		topology.AddProcessor("b", newKeeper(counts), []store.Spec{others}, a)
		topology.AddProcessor("c", newKeeper(counts), []store.Spec{counts}, a)
		by := topology.AddThrough(topology.Through("by-word", serde.String(), serde.Int64()), a)
		topology.AddProcessor("d", newKeeper(others), nil, by)
	},
	"opened-as-another": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("a", newKeeper(counts), []store.Spec{store.KeyValue("counts", serde.String(), serde.String())}, src)
	},
	"suppliers": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("nil", func() processor.Processor[string, int64, string, int64] { return nil }, nil, src)
		topology.AddProcessor("nil-pointer", func() processor.Processor[string, int64, string, int64] { return (*keeper)(nil) }, nil, src)
		one := &keeper{spec: counts}
		topology.AddProcessor("shared", func() processor.Processor[string, int64, string, int64] { return one }, []store.Spec{counts}, src)
		topology.AddProcessor("panics", func() processor.Processor[string, int64, string, int64] { panic("at once") }, nil, src)
	},
	"timers": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("fine", newOf[waker](), []store.Spec{timers.New("fine", serde.String(), timers.ProcessingTime)}, src)
		topology.AddProcessor("none attached", newOf[waker](), nil, src)
		topology.AddProcessor("no OnTimer", apply(forward), []store.Spec{counts, gaps}, src)
		topology.AddProcessor("another OnTimer", newOf[deaf](), []store.Spec{timers.New("others", serde.String(), timers.EventTime)}, src)
		topology.AddProcessor("another key", newOf[waker](), []store.Spec{numbery}, src)
		topology.AddProcessor("not attached", newOf[late](), nil, src)
		topology.AddNode(topology.NodeSpec{Kind: "verb", Stores: []store.Spec{timers.New("verbs", serde.String(), timers.EventTime)}},
			func(s *topology.Stage[string, int64]) (func(*processor.Record[string, int64]) error, error) {
				return s.Next(), nil
			}, src)
	},
	"init": func(b *topology.Builder) {
		src := topology.AddSource(b, "", numbers)
		topology.AddProcessor("panics", func() processor.Processor[string, int64, string, int64] { return &panicker{} }, nil, src)
		topology.AddProcessor("fails", func() processor.Processor[string, int64, string, int64] { return &failing{} }, nil, src)
	},
}

// waker has timers, and perhaps the wrong OnTimer for them.
type waker struct{ keeper }

func (*waker) Init(processor.InitContext) error { return nil }

func (*waker) OnTimer(numberContext, timers.Fired[string]) error { return nil }

type deaf struct{ waker }

func (*deaf) OnTimer(numberContext, timers.Fired[int64]) error { return nil }

// late opens timers that were not attached.
type late struct{ waker }

func (*late) Init(ctx processor.InitContext) error {
	_, err := gaps.In(ctx)
	return err
}

var (
	gaps    = timers.New("gaps", serde.String(), timers.EventTime)
	numbery = timers.New("by-number", serde.Int64(), timers.EventTime)
)

func newOf[P any, PP interface {
	*P
	processor.Processor[string, int64, string, int64]
}]() func() processor.Processor[string, int64, string, int64] {
	return func() processor.Processor[string, int64, string, int64] { return PP(new(P)) }
}

func TestDryRun(t *testing.T) {
	datadriven.RunTest(t, "testdata/dryrun", func(t *testing.T, d *datadriven.TestData) string {
		f := dryRuns[d.CmdArgs[0].Key]
		if f == nil {
			d.Fatalf(t, "no such case: %s", d.CmdArgs[0].Key)
		}
		b := topology.NewBuilder()
		f(b)
		err := build(t, b).DryRun()
		if err == nil {
			return "ok\n"
		}
		checkShape(t, err)
		return relative(f, err)
	})
}

func TestDryRunKeepsTheCause(t *testing.T) {
	b := topology.NewBuilder()
	dryRuns["init"](b)
	err := build(t, b).DryRun()
	if !errors.Is(err, errNoConfig) || !errors.Is(err, &fault.Error{Code: "processor/init"}) {
		t.Errorf("error is %v", err)
	}
}

// Outside a dry run an unattached store is an error of Init, with the same code.
func TestWireRefusesUnattachedStore(t *testing.T) {
	b := topology.NewBuilder()
	topology.AddProcessor("a", newKeeper(counts), nil, topology.AddSource(b, "", numbers))
	_, err := build(t, b).Subtopologies()[0].Wire(newHost())
	if !errors.Is(err, &fault.Error{Code: "store/not-attached"}) {
		t.Errorf("error is %v", err)
	}
}
