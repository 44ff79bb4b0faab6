package streamtest_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/timers"
)

// The stage of the broadcast cases: payments are held against limits, which are changed while payments come.
var (
	payments = stream.NewTopic("payments", serde.String(), serde.Int64()) // account -> amount
	limitsIn = stream.NewTopic("limits", serde.String(), serde.Int64())   // name -> most; null: gone
	verdicts = stream.NewTopic("verdicts", serde.String(), serde.String())
	limits   = store.Broadcast("limits", serde.String(), serde.Int64())
	spent    = store.KeyValue("spent", serde.String(), serde.Int64())
	seen     = store.Value("seen", serde.String(), serde.Int64())
	wake     = timers.New("wake", serde.String(), timers.EventTime)
)

// judge is that processor. Limit "x" is the one for payments. Other names are orders to ProcessBroadcast: "tax" takes its value from what
// every account has spent, "fail" fails, "panic" panics, "timer" sets one, "forward" forwards the rules.
type judge struct {
	limits *store.BroadcastState[string, int64]
	spent  *store.KV[string, int64]
	seen   store.ValueState[string, int64]
	wake   *timers.Set[string]
	task   string
	kept   processor.BroadcastContext[string, string]
}

func (j *judge) Init(ctx processor.InitContext) (err error) {
	j.task = ctx.TaskID().String()
	if j.limits, err = limits.In(ctx); err != nil {
		return err
	}
	if j.spent, err = spent.In(ctx); err != nil {
		return err
	}
	if j.seen, err = seen.In(ctx); err != nil {
		return err
	}
	j.wake, err = wake.In(ctx)
	return err
}

func (j *judge) rules() string {
	var all []string
	scan := j.limits.All()
	for name, most := range scan.Rows() {
		all = append(all, fmt.Sprintf("%s=%d", name, most))
	}
	return strings.Join(all, " ")
}

func (j *judge) ProcessBroadcast(ctx processor.BroadcastContext[string, string], r processor.Record[string, int64]) error {
	j.kept = ctx
	if r.NullValue {
		_, _, err := j.limits.Delete(ctx, r.Key)
		return err
	}
	if err := j.limits.Put(ctx, r.Key, r.Value); err != nil {
		return err
	}
	switch r.Key {
	case "fail":
		return errors.New("told to fail")
	case "panic":
		panic("told to panic")
	case "timer":
		return j.wake.Set("a", r.Time)
	case "forward":
		return ctx.Forward(processor.Record[string, string]{Key: j.task, Value: j.rules()})
	case "tax":
		if err := store.ForEach(j.spent, func(account string, sum int64) error {
			if err := j.spent.Put(account, sum-r.Value); err != nil {
				return err
			}
			return j.spent.Put("bank "+j.task, r.Value)
		}); err != nil {
			return err
		}
		return store.ForEachKey(j.seen, func(account string) error {
			n, _, err := j.seen.Get(account)
			if err != nil {
				return err
			}
			return j.seen.Put(account, n+100)
		})
	}
	return nil
}

func (j *judge) Process(ctx processor.Context[string, string], r processor.Record[string, int64]) error {
	if r.Key == "thief" {
		return j.limits.Put(j.kept, "x", 1_000_000) // the context of another record
	}
	sum, _, err := j.spent.Get(r.Key)
	if err != nil {
		return err
	}
	n, _, err := j.seen.Get(r.Key)
	if err != nil {
		return err
	}
	if err := errors.Join(j.spent.Put(r.Key, sum+r.Value), j.seen.Put(r.Key, n+1), j.wake.Set(r.Key, r.Time.Add(time.Hour))); err != nil {
		return err
	}
	most, ok, err := j.limits.Get("x")
	switch {
	case err != nil:
		return err
	case !ok:
		return ctx.Forward(processor.With(r, r.Key, "no rule"))
	case r.Value > most:
		return ctx.Forward(processor.With(r, r.Key, fmt.Sprintf("above %d", most)))
	}
	return ctx.Forward(processor.With(r, r.Key, "fine"))
}

func (j *judge) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	return ctx.Forward(processor.Record[string, string]{Key: f.Key, Value: "an hour later: " + j.rules()})
}

func judges(policy processor.Policy) (*stream.Topology, error) {
	b := stream.NewBuilder()
	s := stream.ProcessBroadcast(stream.From(b, payments), limitsIn,
		func() processor.BroadcastProcessor[string, int64, string, int64, string, string] { return &judge{} }, limits, spent, seen, wake)
	if policy.Action != processor.Inherit {
		s = s.OnError(policy)
	}
	s.To(verdicts)
	return b.Build()
}

// modes runs f on both engines, straight and with a crash after every step.
func modes(t *testing.T, f func(t *testing.T, opts []streamtest.Option, step func(*streamtest.Driver))) {
	t.Helper()
	for _, engine := range []string{"memory", "pebble"} {
		for _, mode := range []string{"A", "B", "B-disk"} {
			t.Run(engine+"/"+mode, func(t *testing.T) {
				var opts []streamtest.Option
				if engine == "pebble" {
					opts = append(opts, streamtest.Pebble())
				}
				f(t, opts, func(d *streamtest.Driver) {
					switch mode {
					case "B":
						d.Commit()
						d.Crash()
					case "B-disk":
						d.Commit()
						d.CrashLosingDisk()
					}
				})
			})
		}
	}
}

// accounts on four partitions, one each.
var accounts = []string{"a", "b", "c", "d"}

func TestBroadcast(t *testing.T) {
	start := func(t *testing.T, policy processor.Policy, opts ...streamtest.Option) *streamtest.Driver {
		t.Helper()
		top, err := judges(policy)
		if err != nil {
			t.Fatal(err)
		}
		return streamtest.New(t, top, append(opts, streamtest.Partitions(4))...)
	}
	pay := func(d *streamtest.Driver, amount int64) {
		in := streamtest.In(d, payments)
		for i, a := range accounts {
			in.On(i).Send(a, amount)
		}
	}
	verdict := func(t *testing.T, out *streamtest.Output[string, string], want string) {
		t.Helper()
		got := map[string]string{}
		for _, r := range out.All() {
			if got[r.Key] != "" {
				t.Errorf("two verdicts for %s: %q and %q", r.Key, got[r.Key], r.Value)
			}
			got[r.Key] = r.Value
		}
		for _, a := range accounts {
			if got[a] != want {
				t.Errorf("%s: %q, want %q", a, got[a], want)
			}
		}
	}

	t.Run("B-1", func(t *testing.T) {
		modes(t, func(t *testing.T, opts []streamtest.Option, step func(*streamtest.Driver)) {
			d := start(t, processor.Policy{}, opts...)
			rules, out := streamtest.In(d, limitsIn), streamtest.Out(d, verdicts)
			pay(d, 50)
			step(d)
			verdict(t, out, "no rule")
			rules.Send("x", 100)
			step(d)
			pay(d, 101)
			step(d)
			verdict(t, out, "above 100")
			rules.Send("x", 200)
			step(d)
			pay(d, 101)
			step(d)
			verdict(t, out, "fine")
			rules.SendTombstone("x")
			step(d)
			pay(d, 7)
			step(d)
			verdict(t, out, "no rule")
			rules.Send("x", 5)
			step(d)
			rules.Send("y", 6)
			step(d)
			rules.Send("forward", 0)
			step(d)
			said := map[string]string{}
			for _, r := range out.All() {
				said[r.Key] += r.Value
			}
			want := map[string]string{}
			for p := range 4 {
				want[fmt.Sprintf("limits/%d", p)] = "forward=0 x=5 y=6"
			}
			if !maps.Equal(said, want) {
				t.Errorf("the tasks say %v, want %v", said, want)
			}
			d.Advance(2 * time.Hour)
			pay(d, 1)
			step(d)
			woken := map[string]int{} // four payments at one time are one timer
			for _, r := range out.All() {
				if r.Value == "an hour later: forward=0 x=5 y=6" {
					woken[r.Key]++
				}
			}
			if want := map[string]int{"a": 1, "b": 1, "c": 1, "d": 1}; !maps.Equal(woken, want) {
				t.Errorf("woken %v, want %v", woken, want)
			}
		})
	})

	t.Run("B-2", func(t *testing.T) {
		modes(t, func(t *testing.T, opts []streamtest.Option, step func(*streamtest.Driver)) {
			d := start(t, processor.Policy{}, opts...)
			rules := streamtest.In(d, limitsIn)
			in := streamtest.In(d, payments)
			const keys = 500
			for i := range keys {
				in.Send(fmt.Sprintf("account %03d", i), 1000)
			}
			step(d)
			rules.Send("tax", 10)
			step(d)
			rules.Send("tax", 10)
			step(d)
			banks := 0
			for _, e := range streamtest.Store(d, spent).All() {
				switch {
				case strings.HasPrefix(e.Key, "bank"):
					banks++ // written by the first pass while it went on, visited by the second
				case e.Value != 980:
					t.Errorf("%s has %d, want 980", e.Key, e.Value)
				}
			}
			if banks != 4 {
				t.Errorf("%d tasks have been taxed, want 4", banks)
			}
			if n := streamtest.Store(d, spent).Len(); n != keys+4 {
				t.Errorf("%d accounts, want %d", n, keys+4)
			}
		})
	})

	// What a record of the broadcast topic does and how far the topic was read are one epoch, in every task.
	t.Run("once", func(t *testing.T) {
		for _, undo := range []string{"abort", "crash", "crash without disk"} {
			t.Run(undo, func(t *testing.T) {
				d := start(t, processor.Policy{}, streamtest.ManualCommit())
				rules, out := streamtest.In(d, limitsIn), streamtest.Out(d, verdicts)
				pay(d, 1000)
				d.Commit()
				out.All()
				rules.Send("tax", 10)
				rules.Send("forward", 1)
				switch undo {
				case "abort":
					d.Abort()
				case "crash":
					d.Crash()
				default:
					d.CrashLosingDisk()
				}
				d.Commit()
				d.Crash()
				d.Settle()
				if got := len(out.All()); got != 4 {
					t.Errorf("%d results, want one per task", got)
				}
				for _, a := range accounts {
					if sum, _ := streamtest.Store(d, spent).Get(a); sum != 990 {
						t.Errorf("%s has %d, want 990", a, sum)
					}
				}
			})
		}
	})

	// A record that comes while the task is down comes before what else has come.
	t.Run("bootstrap", func(t *testing.T) {
		d := start(t, processor.Policy{})
		out := streamtest.Out(d, verdicts)
		d.Together(func() {
			pay(d, 50)
			streamtest.In(d, limitsIn).Send("x", 49)
		})
		verdict(t, out, "above 49")
	})

	t.Run("errors", func(t *testing.T) {
		for _, order := range []string{"fail", "panic", "timer"} {
			d := start(t, processor.Skip())
			out := streamtest.Out(d, verdicts)
			rules := streamtest.In(d, limitsIn)
			rules.Send(order, 1)
			rules.SendRaw([]byte("x"), []byte("not eight bytes"))
			rules.Send("forward", 2)
			if got := len(d.Failures()); got != 8 {
				t.Fatalf("%s: %d failures, want 8: %v", order, got, d.Failures())
			}
			for i, f := range d.Failures() {
				if f.Topic != "limits" || f.Policy != "skip" {
					t.Errorf("%s: failure %d is %+v", order, i, f)
				}
			}
			if f := d.Failures()[0]; f.Node != "process-broadcast-limits" {
				t.Errorf("%s: the node is %s", order, f.Node)
			}
			if f := d.Failures()[len(d.Failures())-1]; f.Op != "decode value" {
				t.Errorf("the operation is %s", f.Op)
			}
			for _, r := range out.All() {
				if r.Value != "forward=2" {
					t.Errorf("%s left %q", order, r.Value)
				}
			}
		}
	})

	t.Run("write from the other side", func(t *testing.T) {
		d := start(t, processor.Policy{}, streamtest.AllowFailure())
		streamtest.In(d, limitsIn).Send("x", 1)
		err := streamtest.In(d, payments).TrySend("thief", 1)
		if err == nil || !strings.Contains(err.Error(), "outside the call") {
			t.Errorf("the error is %v", err)
		}
	})

	t.Run("two partitions", func(t *testing.T) {
		top, err := judges(processor.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = top.PartitionCounts(func(topic string) (int32, bool) {
			return map[string]int32{"limits": 2, "payments": 4, "verdicts": 1}[topic], true
		})
		if fault.Code(err) != "topic/broadcast-partitions" || !strings.Contains(err.Error(), "a broadcast topic with more than one partition") {
			t.Errorf("the error is %v", err)
		}
		_, tasks, err := top.PartitionCounts(func(topic string) (int32, bool) {
			return map[string]int32{"limits": 1, "payments": 4, "verdicts": 1}[topic], true
		})
		if err != nil || tasks["limits"] != 4 {
			t.Errorf("%v tasks, %v", tasks, err)
		}
	})
}
