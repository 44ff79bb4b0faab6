package streamtest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/topology"
)

var (
	lines  = stream.NewTopic("lines", serde.String(), serde.String())
	byWord = stream.Through("by-word", serde.String(), serde.String())
	counts = store.KeyValue("counts", serde.String(), serde.Int64())
	totals = stream.NewTopic("totals", serde.String(), serde.Int64())
)

func wordCount() (*topology.Topology, error) {
	b := stream.NewBuilder()
	words := stream.FlatMapValues(stream.From(b, lines), strings.Fields)
	stream.GroupBy(words, func(_, w string) string { return w }, byWord).
		Count(counts).
		ToStream().
		To(totals)
	return b.Build()
}

// words is a driver of wordCount with its ends.
func words(t testing.TB, opts ...streamtest.Option) (*streamtest.Driver, *streamtest.Input[string, string], *streamtest.Output[string, int64]) {
	t.Helper()
	top, err := wordCount()
	if err != nil {
		t.Fatal(err)
	}
	d := streamtest.New(t, top, opts...)
	return d, streamtest.In(d, lines), streamtest.Out(d, totals)
}

func TestWordCount(t *testing.T) {
	d, in, out := words(t)
	in.Send("", "the cat the hat")
	out.Want(out.Record("the", 1), out.Record("cat", 1), out.Record("the", 2), out.Record("hat", 1))
	if n, ok := streamtest.Store(d, counts).Get("the"); !ok || n != 2 {
		t.Errorf("count of the = %d, %v", n, ok)
	}
	if _, ok := streamtest.Store(d, counts).Get("dog"); ok {
		t.Error("there is a count for dog")
	}
}

// The promise: whatever happens between two records, and however long epochs are, committed outputs are the same.
func TestOutputsDoNotDependOnWhatHappensBetween(t *testing.T) {
	text := []string{"the cat", "the hat the dog", "dog", "", "cat cat cat", "a the", "hat dog the a", "a a"}
	between := map[string]func(d *streamtest.Driver, i int){
		"nothing": func(*streamtest.Driver, int) {},
		"abort":   func(d *streamtest.Driver, _ int) { d.Abort() },
		"crash":   func(d *streamtest.Driver, _ int) { d.Crash() },
		"no disk": func(d *streamtest.Driver, _ int) { d.CrashLosingDisk() },
		"all of it": func(d *streamtest.Driver, i int) {
			[]func(){d.Abort, d.Crash, d.CrashLosingDisk, d.Commit}[i%4]()
		},
	}
	for _, partitions := range []int{1, 3} {
		for i, epoch := range []streamtest.Option{streamtest.CommitEvery(1), streamtest.CommitEvery(3), streamtest.ManualCommit(), streamtest.CommitEvery(2)} {
			var want map[string][]int64
			for _, name := range []string{"nothing", "abort", "crash", "no disk", "all of it"} {
				opts := []streamtest.Option{streamtest.Partitions(partitions), epoch}
				if i == 3 && partitions == 1 {
					opts = append(opts, streamtest.Pebble())
				}
				d, in, out := words(t, opts...)
				for i, line := range text {
					in.Send(fmt.Sprint("line-", i), line)
					between[name](d, i)
				}
				d.Settle()
				got := map[string][]int64{}
				for _, r := range out.All() {
					got[r.Key] = append(got[r.Key], r.Value)
				}
				if want == nil {
					want = got
					if !slices.Equal(got["the"], []int64{1, 2, 3, 4, 5}) || len(got) != 5 {
						t.Fatalf("undisturbed: %v", got)
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%d partitions, %s between records: %v, want %v", partitions, name, got, want)
				}
				for _, e := range streamtest.Store(d, counts).All() {
					if n := int64(len(want[e.Key])); e.Value != n {
						t.Errorf("%d partitions, %s: store has %s = %d, want %d", partitions, name, e.Key, e.Value, n)
					}
				}
			}
		}
	}
}

// forgetful keeps in a field what belongs in a store.
type forgetful struct{ n int64 }

func (p *forgetful) Process(ctx processor.Context[string, int64], r processor.Record[string, string]) error {
	p.n++
	return ctx.Forward(processor.With(r, r.Key, p.n))
}

func build(t testing.TB, f func(b *stream.Builder)) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	f(b)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func TestCrashShowsStateInFields(t *testing.T) {
	top := build(t, func(b *stream.Builder) {
		stream.Process(stream.From(b, lines), func() processor.Processor[string, string, string, int64] { return &forgetful{} }).To(totals)
	})
	d := streamtest.New(t, top)
	in, out := streamtest.In(d, lines), streamtest.Out(d, totals)
	in.Send("k", "x")
	d.Crash()
	in.Send("k", "x")
	out.Want(out.Record("k", 1), out.Record("k", 1)) // a 2 was meant
}

// What was not committed is seen in the store and not in the output; an abort or a crash undoes it, and it comes again.
func TestUncommittedIsVisibleInsideOnly(t *testing.T) {
	top := build(t, func(b *stream.Builder) {
		stream.GroupByKey(stream.From(b, lines)).Count(counts).ToStream().To(totals)
	})
	d := streamtest.New(t, top, streamtest.ManualCommit())
	in, out := streamtest.In(d, lines), streamtest.Out(d, totals)
	view := streamtest.Store(d, counts)
	in.Send("k", "x")
	if n, _ := view.Get("k"); n != 1 || !out.Empty() || len(d.Changelog(counts)) != 0 {
		t.Fatalf("before the commit: store %d, output %v, changelog %v", n, out.All(), d.Changelog(counts))
	}
	d.Abort()
	if n, _ := view.Get("k"); n != 1 {
		t.Fatalf("after the replay the store has %d, want 1", n)
	}
	d.Crash()
	d.Commit()
	out.Want(out.Record("k", 1))
	d.Crash()
	if n, _ := view.Get("k"); n != 1 || !out.Empty() {
		t.Fatalf("after the commit and a crash: store %d, output %v", n, out.All())
	}
}

// Changelogs hold the last value of an epoch, and control records take offsets.
func TestChangelog(t *testing.T) {
	top := build(t, func(b *stream.Builder) { stream.TableFrom(b, totals, counts) })
	d := streamtest.New(t, top, streamtest.CommitEvery(2))
	in := streamtest.In(d, totals)
	in.Send("a", 1)
	in.Send("a", 2)
	in.Send("b", 3)
	in.SendTombstone("a")
	var got []string
	for _, r := range d.Changelog(counts) {
		v := "deleted"
		if r.Value != nil {
			value, _, err := store.ParseRow(r.Value)
			if err != nil {
				t.Fatal(err)
			}
			v = fmt.Sprint(binary.BigEndian.Uint64(value))
		}
		got = append(got, fmt.Sprintf("%d/%d %s", r.Partition, r.Offset, v))
	}
	if want := []string{"0/0 2", "0/2 3", "0/3 deleted"}; !slices.Equal(got, want) {
		t.Errorf("changelog %q, want %q", got, want)
	}
	d.CrashLosingDisk()
	if got := streamtest.Store(d, counts).All(); !reflect.DeepEqual(got, []streamtest.Entry[string, int64]{{Key: "b", Value: 3}}) {
		t.Errorf("restored %v", got)
	}
}

// picky fails for some values.
func picky(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	switch r.Value {
	case "bad":
		return errors.New("a bad value")
	case "worse":
		panic("a worse value")
	}
	return ctx.Forward(r)
}

func pickyTopology(t testing.TB, p processor.Policy) *topology.Topology {
	return build(t, func(b *stream.Builder) {
		out := stream.NewTopic("out", serde.String(), serde.String())
		stream.Process(stream.From(b, lines), func() processor.Processor[string, string, string, string] {
			return processor.Func[string, string, string, string](picky)
		}).Named("picky").OnError(p).To(out)
	})
}

var out = stream.NewTopic("out", serde.String(), serde.String())

func TestDeadLetters(t *testing.T) {
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	d := streamtest.New(t, pickyTopology(t, processor.DeadLetter("dead")), streamtest.StartAt(start))
	in, good := streamtest.In(d, lines), streamtest.Out(d, out)
	if streamtest.DeadLetters(d, "dead") != nil {
		t.Error("dead letters before any record")
	}
	in.Send("k", "x")
	in.SendRecord(processor.Record[string, string]{Key: "k", Value: "bad", Headers: []processor.Header{{Key: "trace", Value: []byte("abc")}}})
	in.SendRecord(processor.Record[string, string]{NullKey: true, Value: "worse", Time: start.Add(-time.Hour)})
	in.Send("k", "y")
	good.Want(good.Record("k", "x"), good.Record("k", "y"))

	letters := streamtest.DeadLetters(d, "dead")
	want := []streamtest.DeadLetter{{
		Key: []byte("k"), Value: []byte("bad"), Headers: []processor.Header{{Key: "trace", Value: []byte("abc")}},
		Topic: "lines", Offset: 1, Time: start, App: "test", Task: "lines/0", Node: "picky", Op: "process", Code: "record/failed", Error: "a bad value",
	}, {
		Value: []byte("worse"), Headers: []processor.Header{},
		Topic: "lines", Offset: 2, Time: start.Add(-time.Hour), App: "test", Task: "lines/0", Node: "picky", Op: "panic", Code: "record/panicked", Error: "panic: a worse value",
	}}
	if !reflect.DeepEqual(letters, want) {
		t.Errorf("dead letters\n%+v, want\n%+v", letters, want)
	}
	if f := d.Failures(); len(f) != 2 || f[0].Policy != "dead-letter" || f[1].Node != "picky" {
		t.Errorf("failures %+v", f)
	}
}

// A dead letter belongs to the epoch of its record: none comes of an epoch that was aborted.
func TestDeadLetterIsInTheTransaction(t *testing.T) {
	d := streamtest.New(t, pickyTopology(t, processor.DeadLetter("dead")), streamtest.ManualCommit())
	streamtest.In(d, lines).Send("k", "bad")
	for _, f := range []func(){d.Abort, d.Crash} {
		f()
		if n := len(streamtest.DeadLetters(d, "dead")); n != 0 {
			t.Fatalf("%d dead letters before the commit", n)
		}
	}
	d.Settle()
	if n := len(streamtest.DeadLetters(d, "dead")); n != 1 {
		t.Errorf("%d dead letters, want 1", n)
	}
}

func TestFailStopsTheApplication(t *testing.T) {
	d := streamtest.New(t, pickyTopology(t, processor.Fail()))
	in, good := streamtest.In(d, lines), streamtest.Out(d, out)
	if err := in.TrySend("k", "x"); err != nil {
		t.Fatal(err)
	}
	err := in.TrySend("k", "bad")
	if err == nil || !strings.Contains(err.Error(), "lines/0@1") || !strings.Contains(err.Error(), "picky") || d.Err() != err {
		t.Fatalf("TrySend = %v, Err = %v", err, d.Err())
	}
	good.Want(good.Record("k", "x"))
	// A restart meets the same record.
	if again := d.Try(d.Crash); again == nil || again.Error() != err.Error() {
		t.Errorf("after a restart: %v, want %v", again, err)
	}
}

// fake is a test that must fail.
type fake struct {
	testing.TB
	log string
}

func (f *fake) Helper()        {}
func (f *fake) Cleanup(func()) {}
func (f *fake) Fatalf(format string, args ...any) {
	f.log += fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (f *fake) Errorf(format string, args ...any) { f.log += fmt.Sprintf(format, args...) }

// fails runs f as a test and returns what it complained about.
func fails(t *testing.T, f func(t testing.TB)) string {
	t.Helper()
	x := &fake{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(x)
	}()
	<-done
	return x.log
}

// A failure is reported at the line of the test that met it, not at one of this package's.
func TestFailuresNameTheLineOfTheTest(t *testing.T) {
	const child = "MILLRACE_STREAMTEST_FAIL"
	if os.Getenv(child) != "" {
		_, in, o := words(t)
		in.Send("", "a")
		o.Want()
		o.Want(o.Record("b", 1))
		streamtest.New(t, pickyTopology(t, processor.Fail()), streamtest.App("child"))
		in.On(7)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestFailuresNameTheLineOfTheTest$")
	c.Env = append(os.Environ(), child+"=1")
	text, err := c.CombinedOutput()
	if err == nil {
		t.Fatal("the child passed")
	}
	if n := strings.Count(string(text), "driver_test.go:"); n != 3 || strings.Count(string(text), ".go:") != n {
		t.Errorf("want three failures, all in driver_test.go:\n%s", text)
	}
}

func TestMistakesOfATestAreNamed(t *testing.T) {
	for _, c := range []struct {
		name string
		f    func(t testing.TB)
		want string
	}{
		{"policy Fail", func(t testing.TB) {
			d := streamtest.New(t, pickyTopology(t, processor.Fail()))
			streamtest.In(d, lines).Send("k", "bad")
		}, `record/failed: record "lines/0@0"`},
		{"sending after a failure", func(t testing.TB) {
			d := streamtest.New(t, pickyTopology(t, processor.Fail()), streamtest.AllowFailure())
			streamtest.In(d, lines).Send("k", "bad")
			streamtest.In(d, lines).Send("k", "x")
		}, "has failed before"},
		{"unknown input", func(t testing.TB) {
			d, _, _ := words(t)
			streamtest.In(d, totals)
		}, `does not read topic "totals"`},
		{"unknown output", func(t testing.TB) {
			d, _, _ := words(t)
			streamtest.Out(d, out)
		}, `no topic "out"; it has lines, test-by-word-repartition, totals`},
		{"unknown store", func(t testing.TB) {
			d, _, _ := words(t)
			streamtest.Store(d, store.KeyValue("sums", serde.String(), serde.Int64()))
		}, `no store "sums"`},
		{"unknown partition", func(t testing.TB) {
			_, in, _ := words(t)
			in.On(1)
		}, "no partition 1"},
		{"a difference", func(t testing.TB) {
			_, in, o := words(t)
			in.Send("", "a b")
			o.Want(o.Record("a", 1), o.Record("b", 2), o.Tombstone("c"))
		}, "  a = 1 @ 2026-01-01T00:00:00.000Z\n- b = 2\n+ b = 1 @ 2026-01-01T00:00:00.000Z\n- c = null\n"},
	} {
		if got := fails(t, c.f); !strings.Contains(got, c.want) {
			t.Errorf("%s: the test said %q, want %q", c.name, got, c.want)
		}
	}
}

// The broker refuses an output after its record succeeded: the sink's policy has it, and nothing else is lost.
func TestRefuse(t *testing.T) {
	top := build(t, func(b *stream.Builder) {
		stream.GroupByKey(stream.From(b, lines)).Count(counts).ToStream().To(totals).OnError(processor.DeadLetter("dead"))
	})
	d := streamtest.New(t, top, streamtest.CommitEvery(3))
	in, o := streamtest.In(d, lines), streamtest.Out(d, totals)
	d.Refuse("totals", func(key, _ []byte) error {
		if string(key) == "no" {
			return errors.New("message too large")
		}
		return nil
	})
	for _, k := range []string{"a", "no", "a"} {
		in.Send(k, "x")
	}
	d.Settle()
	o.Want(o.Record("a", 1), o.Record("a", 2))
	letters := streamtest.DeadLetters(d, "dead")
	if len(letters) != 1 || letters[0].Code != "record/refused" || letters[0].Offset != 1 {
		t.Errorf("dead letters %+v", letters)
	}
	if _, ok := streamtest.Store(d, counts).Get("no"); ok {
		t.Error("the refused record left a count")
	}
	d.Refuse("totals", nil)
	in.Send("no", "x")
	d.Settle()
	o.Want(o.Record("no", 1))
}

// What came before a record that fails is committed, also if the broker refuses a part of it at first.
func TestRefusedBeforeAFailure(t *testing.T) {
	top := build(t, func(b *stream.Builder) {
		stream.Process(stream.From(b, lines), func() processor.Processor[string, string, string, string] {
			return processor.Func[string, string, string, string](picky)
		}).To(out).OnError(processor.Skip())
	})
	d := streamtest.New(t, top, streamtest.ManualCommit())
	in, o := streamtest.In(d, lines), streamtest.Out(d, out)
	d.Refuse("out", func(_, value []byte) error {
		if string(value) == "no" {
			return errors.New("message too large")
		}
		return nil
	})
	for _, v := range []string{"x", "no", "y"} {
		in.Send("k", v)
	}
	if err := in.TrySend("k", "bad"); err == nil || !strings.Contains(err.Error(), "lines/0@3") {
		t.Errorf("TrySend = %v", err)
	}
	o.Want(o.Record("k", "x"), o.Record("k", "y"))
}

// A dead letter that is refused too leaves no way out.
func TestRefusedDeadLetterStops(t *testing.T) {
	d := streamtest.New(t, pickyTopology(t, processor.DeadLetter("dead")))
	d.Refuse("dead", func([]byte, []byte) error { return errors.New("no such topic") })
	err := streamtest.In(d, lines).TrySend("k", "bad")
	if err == nil || !strings.Contains(err.Error(), "record/dead-letter-refused") {
		t.Errorf("TrySend = %v", err)
	}
}

func TestTogetherMergesByTime(t *testing.T) {
	other := stream.NewTopic("other", serde.String(), serde.String())
	top := build(t, func(b *stream.Builder) {
		stream.From(b, lines).Merge(stream.From(b, other)).To(out)
	})
	d := streamtest.New(t, top)
	a, z, o := streamtest.In(d, lines), streamtest.In(d, other), streamtest.Out(d, out)
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	d.Together(func() {
		a.SendAt(at(1), "k", "a1")
		a.SendAt(at(5), "k", "a5")
		z.SendAt(at(2), "k", "z2")
		z.SendAt(at(4), "k", "z4")
		if !o.Empty() {
			t.Error("records were processed before all were there")
		}
	})
	o.Want(o.RecordAt(at(1), "k", "a1"), o.RecordAt(at(2), "k", "z2"), o.RecordAt(at(4), "k", "z4"), o.RecordAt(at(5), "k", "a5"))
}

func TestClock(t *testing.T) {
	start := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	top := build(t, func(b *stream.Builder) {
		clock := func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
			return ctx.Forward(processor.With(r, r.Key, ctx.Now().UTC().Format(time.TimeOnly)+" "+ctx.StreamTime().UTC().Format(time.TimeOnly)))
		}
		stream.Process(stream.From(b, lines), func() processor.Processor[string, string, string, string] {
			return processor.Func[string, string, string, string](clock)
		}).To(out)
	})
	d := streamtest.New(t, top, streamtest.StartAt(start))
	in, o := streamtest.In(d, lines), streamtest.Out(d, out)
	in.SendAt(start.Add(time.Hour), "k", "")
	d.Advance(90 * time.Second)
	in.Send("k", "")
	d.Advance(30 * time.Second) // not persisted by anything
	d.Crash()
	in.Send("k", "")
	o.Want(o.Record("k", "00:00:00 01:00:00"), o.Record("k", "00:01:30 01:00:00"), o.Record("k", "00:02:00 01:00:00"))
	if !d.Now().Equal(start.Add(2 * time.Minute)) {
		t.Errorf("Now = %v", d.Now())
	}
}

// Keys meet on the partition that a Java producer would have chosen, through the repartition topic too.
func TestPartitions(t *testing.T) {
	d, in, _ := words(t, streamtest.Partitions(4))
	in.On(3).Send("k", "21 foobar abc")
	through := streamtest.Out(d, byWord.Topic())
	if got := through.All(); len(got) != 3 {
		t.Fatalf("%d records on the repartition topic", len(got))
	}
	where := map[string]int32{}
	for _, r := range d.Changelog(counts) {
		where[string(r.Key[:min(2, len(r.Key))])] = r.Partition
	}
	for key, hash := range map[string]int32{"21": -973932308, "fo": -790332482, "ab": 479470107} {
		if want := (hash & 0x7fffffff) % 4; where[key] != want {
			t.Errorf("%s.. is on partition %d, want %d", key, where[key], want)
		}
	}
}

// Records sent by key go where a producer would put them; null keys take turns.
func TestInputPartitions(t *testing.T) {
	d := streamtest.New(t, pickyTopology(t, processor.DeadLetter("dead")), streamtest.Partitions(4))
	in := streamtest.In(d, lines)
	for _, key := range []string{"21", "foobar", "abc"} {
		in.Send(key, "bad")
	}
	in.SendRaw(nil, []byte("bad"))
	in.SendRaw(nil, []byte("bad"))
	var got []int32
	for _, l := range streamtest.DeadLetters(d, "dead") {
		got = append(got, l.Partition)
	}
	hash := func(h int32) int32 { return (h & 0x7fffffff) % 4 }
	if want := []int32{hash(-973932308), hash(-790332482), hash(479470107), 0, 1}; !slices.Equal(got, want) {
		t.Errorf("partitions %v, want %v", got, want)
	}
}

// What was sent is in the topic: the sender's buffers are its own again, also when the record is processed again.
func TestSendRawCopies(t *testing.T) {
	d := streamtest.New(t, pickyTopology(t, processor.Fail()), streamtest.ManualCommit())
	in, o := streamtest.In(d, lines), streamtest.Out(d, out)
	key, value := []byte("k"), []byte("x")
	in.SendRaw(key, value)
	key[0], value[0] = 'K', 'X'
	d.Abort()
	d.Settle()
	o.Want(o.Record("k", "x"))
}

func TestRawAndDropped(t *testing.T) {
	sums := store.KeyValue("sums", serde.String(), serde.Int64())
	top := build(t, func(b *stream.Builder) {
		stream.GroupByKey(stream.From(b, totals)).Reduce(func(a, b int64) int64 { return a + b }, sums)
	})
	d := streamtest.New(t, top, streamtest.OnError(processor.Skip()))
	in := streamtest.In(d, totals)
	in.SendRaw([]byte("k"), []byte("not eight bytes"))
	in.SendRaw(nil, []byte{0, 0, 0, 0, 0, 0, 0, 1})
	in.Send("k", 2)
	if f := d.Failures(); len(f) != 1 || f[0].Op != "decode value" || f[0].Policy != "skip" {
		t.Errorf("failures %+v", f)
	}
	var n int64
	for _, c := range d.Dropped() {
		n += c
	}
	if n != 1 {
		t.Errorf("dropped %v, want the record with the null key", d.Dropped())
	}
	if got := streamtest.Store(d, sums).All(); len(got) != 1 || got[0].Value != 2 {
		t.Errorf("sums %v", got)
	}
}

func TestLatestAndLast(t *testing.T) {
	d, in, o := words(t)
	in.Send("", "a b a")
	if r, ok := o.Last(); !ok || r.Key != "a" || r.Value != 2 {
		t.Errorf("Last = %v, %v", r, ok)
	}
	if _, ok := o.Last(); ok {
		t.Error("Last a second time")
	}
	if got := o.Latest(); len(got) != 2 || got[0].Key != "b" || got[1].Value != 2 {
		t.Errorf("Latest = %v", got)
	}
	if n := streamtest.Store(d, counts).Len(); n != 2 {
		t.Errorf("Len = %d", n)
	}
}

func TestTooLargeForItsTopic(t *testing.T) {
	d := streamtest.New(t, pickyTopology(t, processor.Skip()), streamtest.MaxRecordBytes("out", 200), streamtest.OnError(processor.Skip()))
	in, o := streamtest.In(d, lines), streamtest.Out(d, out)
	in.Send("k", strings.Repeat("x", 300))
	in.Send("k", "x")
	o.Want(o.Record("k", "x"))
	if f := d.Failures(); len(f) != 1 || f[0].Op != "too large" {
		t.Errorf("failures %+v", f)
	}
}
