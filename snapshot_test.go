package millrace_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
)

// splitWords counts the words of lines, behind a repartition topic, into the topic out.
func splitWords(t *testing.T, out string) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	split := stream.FlatMapValues(stream.From(b, words), strings.Fields)
	stream.GroupBy(split, func(_, w string) string { return w }, stream.Through("by-word", serde.String(), serde.String())).
		Count(counts).ToStream().To(stream.NewTopic(out, serde.String(), serde.Int64()))
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// start runs an application of any id.
func start(t *testing.T, addrs []string, id string, top *topology.Topology, opts ...millrace.Option) *running {
	t.Helper()
	app, err := millrace.New(id, top, append([]millrace.Option{
		millrace.SeedBrokers(addrs...), millrace.HeartbeatInterval(100 * time.Millisecond), millrace.SessionTimeout(6 * time.Second),
		millrace.CommitInterval(20 * time.Millisecond), millrace.Workers(2), logTo(t.Name()),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{app: app, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = app.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.cancel()
	<-r.done
	if r.err != nil {
		t.Fatal(r.err)
	}
}

// counted reads committed counts of a topic until every key has the wanted one. Each must count on from where it begins.
func counted(t *testing.T, addrs []string, topic string, from, want map[string]int64) (n int64) {
	t.Helper()
	cl := client(t, addrs, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	last := maps.Clone(from)
	for !maps.Equal(last, want) {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%s: have %v, want %v", topic, last, want)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			v := int64(binary.BigEndian.Uint64(r.Value))
			if v != last[string(r.Key)]+1 {
				t.Fatalf("%s: key %s counts %d after %d", topic, r.Key, v, last[string(r.Key)])
			}
			last[string(r.Key)] = v
		})
	}
	return n
}

// snapshotCounts are the rows of a store in a snapshot.
func snapshotCounts(t *testing.T, dir, name string) (map[string]int64, int64) {
	t.Helper()
	s, err := changelog.ReadSnapshot(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	counts, pending := map[string]int64{}, int64(0)
	for _, task := range s.Tasks {
		rows, err := task.OpenRows()
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range task.Stores {
			if st.Name == name {
				err = errors.Join(err, rows.Each(st.Prefix, func(key, value []byte) error {
					v, _, err := store.ParseRow(value)
					counts[string(key)] = int64(binary.BigEndian.Uint64(v))
					return err
				}))
			}
		}
		if rows != nil {
			err = errors.Join(err, rows.Close())
		}
		for i, in := range task.Inputs {
			if in.Pending {
				err = errors.Join(err, task.Pending(i, func(*kgo.Record) error { pending++; return nil }))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return counts, pending
}

// A snapshot is taken under load; the application goes on; another is made from it and comes to the same results, as if it had been
// stopped at that moment: each word is counted once, those on their way between the two parts as well.
func TestForkWordCount(t *testing.T) {
	for _, engine := range []string{"memory", "pebble"} {
		t.Run(engine, func(t *testing.T) {
			_, addrs := fake(t, 3)
			adm := kadm.NewClient(client(t, addrs))
			if _, err := adm.CreateTopic(t.Context(), 3, 1, nil, "again"); err != nil {
				t.Fatal(err)
			}
			state := func() millrace.Option {
				if engine == "memory" {
					return millrace.MemoryStores()
				}
				return millrace.StateDir(t.TempDir())
			}
			want := map[string]int64{}
			cl := client(t, addrs, kgo.DefaultProduceTopic("words"))
			feed := func(lines int) {
				for i := range lines {
					var line []string
					for j := range 20 {
						w := fmt.Sprint("w", (i*7+j*3)%50)
						want[w]++
						line = append(line, w)
					}
					cl.Produce(context.Background(), &kgo.Record{Key: fmt.Append(nil, i), Value: []byte(strings.Join(line, " "))}, nil)
				}
				if err := cl.Flush(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			r := start(t, addrs, "one", splitWords(t, "totals"), state())
			feed(200)
			counted(t, addrs, "totals", map[string]int64{}, want)
			feed(1000) // is being processed
			dir := filepath.Join(t.TempDir(), "snapshot")
			taken, err := r.app.SnapshotState(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(taken.Tasks) != 6 {
				t.Errorf("tasks %v", taken.Tasks)
			}
			feed(100)
			counted(t, addrs, "totals", map[string]int64{}, want)

			var steps []string
			report, err := millrace.ForkState(t.Context(), dir, "two", func(p millrace.ForkProgress) {
				if len(steps) == 0 || steps[len(steps)-1] != p.Step {
					steps = append(steps, p.Step)
				}
			}, millrace.SeedBrokers(addrs...))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(steps, []string{"read", "mark", "topics", "rows", "pending", "records", "offsets", "unmark"}) {
				t.Errorf("steps %v", steps)
			}
			had, pending := snapshotCounts(t, dir, "counts")
			if report.Tasks != 6 || report.Rows != int64(len(had)) || report.Pending != pending || taken.Pending != pending {
				t.Errorf("report %+v; the snapshot has %d rows, %d pending", report, len(had), pending)
			}
			two := start(t, addrs, "two", splitWords(t, "again"), state())
			counted(t, addrs, "again", had, want)
			two.end(t)
			two = start(t, addrs, "two", splitWords(t, "again"), state()) // a second life is a life like any other
			feed(10)
			counted(t, addrs, "again", had, want)
			two.end(t)
			counted(t, addrs, "totals", map[string]int64{}, want)
			r.end(t)

			if _, err := millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(addrs...)); !errors.Is(err, &millrace.Error{Code: "fork/app-exists"}) {
				t.Errorf("the same again: %v", err)
			}
			if _, err := millrace.ForkState(t.Context(), dir, "one", nil, millrace.SeedBrokers(addrs...)); !errors.Is(err, &millrace.Error{Code: "fork/same-app"}) {
				t.Errorf("onto itself: %v", err)
			}
		})
	}
}

var (
	reminders = timers.New("reminders", serde.String(), timers.ProcessingTime)
	seen      = store.List("seen", serde.String(), serde.String())
)

// reminding keeps what came for a key, and tells it an hour later.
type reminding struct {
	reminders *timers.Set[string]
	seen      store.ListState[string, string]
}

func (p *reminding) Init(ctx processor.InitContext) (err error) {
	if p.reminders, err = reminders.In(ctx); err == nil {
		p.seen, err = seen.In(ctx)
	}
	return err
}

func (p *reminding) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	if err := p.seen.Append(r.Key, r.Value); err != nil {
		return err
	}
	if err := p.reminders.Set(r.Key, ctx.Now().Add(time.Hour)); err != nil {
		return err
	}
	return ctx.Forward(processor.Record[string, string]{Key: r.Key, Value: "seen", Time: r.Time})
}

func (p *reminding) OnTimer(ctx processor.Context[string, string], f timers.Fired[string]) error {
	all, err := p.seen.Slice(f.Key)
	if err != nil {
		return err
	}
	if err := p.seen.Clear(f.Key); err != nil {
		return err
	}
	return ctx.Forward(processor.Record[string, string]{Key: f.Key, Value: strings.Join(all, "+")})
}

// Timers and lists survive a fork; both applications tell, each once.
func TestForkTimers(t *testing.T) {
	for _, engine := range []string{"memory", "pebble"} {
		t.Run(engine, func(t *testing.T) {
			o := newOutage(t, 2)
			topology := func() *topology.Topology {
				b := stream.NewBuilder()
				stream.Process(stream.From(b, words), func() processor.Processor[string, string, string, string] { return &reminding{} }, reminders, seen).
					To(stream.NewTopic("totals", serde.String(), serde.String()))
				top, err := b.Build()
				if err != nil {
					t.Fatal(err)
				}
				return top
			}
			state := func() millrace.Option {
				if engine == "memory" {
					return millrace.MemoryStores()
				}
				return millrace.StateDir(t.TempDir())
			}
			hour := millrace.Clock(func() time.Time { return time.UnixMilli(o.now.Load()) })
			got := func(n int) (all []string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				for len(all) < n {
					fetches := o.out.PollFetches(ctx)
					if ctx.Err() != nil {
						t.Fatalf("got %v", all)
					}
					fetches.EachRecord(func(r *kgo.Record) { all = append(all, string(r.Key)+"="+string(r.Value)) })
				}
				slices.Sort(all)
				return all
			}
			r := start(t, o.addrs, "one", topology(), state(), hour)
			o.send(0, "a", "1", "2")
			o.send(1, "b", "3")
			got(3)
			dir := filepath.Join(t.TempDir(), "snapshot")
			if _, err := r.app.SnapshotState(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			r.end(t)
			if _, err := millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(o.addrs...)); err != nil {
				t.Fatal(err)
			}
			r = start(t, o.addrs, "two", topology(), state(), hour)
			o.send(0, "c", "4") // only the fork sees it
			if all := got(1); !slices.Equal(all, []string{"c=seen"}) {
				t.Fatal(all)
			}
			o.now.Add(time.Hour.Milliseconds())
			o.send(1, "d", "5")
			if all := got(4); !slices.Equal(all, []string{"a=1+2", "b=3", "c=4", "d=seen"}) {
				t.Error(all)
			}
			r.end(t)
		})
	}
}

// What is wrong with a snapshot is found before anything is changed; a fork that ends half way leaves what refuses to start.
func TestForkRefusals(t *testing.T) {
	_, addrs := fake(t, 2)
	produceWords(t, addrs, 100, 10)
	r := start(t, addrs, "one", countWords(t), millrace.StateDir(t.TempDir()))
	readTotals(t, addrs, 100)
	dir := filepath.Join(t.TempDir(), "snapshot")
	if _, err := r.app.SnapshotState(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := r.app.SnapshotState(t.Context(), dir); !errors.Is(err, &millrace.Error{Code: "snapshot/exists"}) {
		t.Errorf("twice: %v", err)
	}
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.app.SnapshotState(t.Context(), filepath.Join(blocked, "x")); !errors.Is(err, &millrace.Error{Code: "snapshot/not-written"}) {
		t.Errorf("below a file: %v", err)
	}
	r.end(t)
	if _, err := r.app.SnapshotState(t.Context(), t.TempDir()); !errors.Is(err, &millrace.Error{Code: "snapshot/not-running"}) {
		t.Errorf("closed: %v", err)
	}
	var file string
	s, err := changelog.ReadSnapshot(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(s.Tasks[1].Dir(), changelog.SnapshotFile)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(client(t, addrs))
	topics := func() string {
		all, err := adm.ListTopics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(all.Names(), " ")
	}
	before := topics()
	sst, err := filepath.Glob(filepath.Join(s.Tasks[0].Dir(), changelog.SnapshotRows, "*.sst"))
	if err != nil || len(sst) == 0 {
		t.Fatal(sst, err)
	}
	table, err := os.ReadFile(sst[0])
	if err != nil {
		t.Fatal(err)
	}
	put := func(path string, b []byte) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	flipped := slices.Clone(table)
	flipped[20] ^= 1
	for _, c := range []struct {
		code    string
		damage  func()
		restore func()
	}{
		{"snapshot/incomplete", func() { _ = os.Remove(file) }, func() { put(file, text) }},
		{"snapshot/damaged", func() { put(file, []byte(strings.Replace(string(text), `"now": `, `"now": 1`, 1))) }, func() { put(file, text) }},
		{"snapshot/damaged", func() { put(file, text[:len(text)/2]) }, func() { put(file, text) }},
		{"snapshot/damaged", func() { put(sst[0], table[:len(table)-1]) }, func() { put(sst[0], table) }},
		{"snapshot/damaged", func() { put(sst[0], flipped) }, func() { put(sst[0], table) }},
		{"snapshot/damaged", func() { _ = os.Remove(sst[0]) }, func() { put(sst[0], table) }},
	} {
		c.damage()
		_, err := millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(addrs...))
		if !errors.Is(err, &millrace.Error{Code: c.code}) || millrace.ExitCode(err) != 3 {
			t.Errorf("%s: %v", c.code, err)
		}
		c.restore()
	}
	if _, err := millrace.ForkState(t.Context(), t.TempDir(), "two", nil, millrace.SeedBrokers(addrs...)); !errors.Is(err, &millrace.Error{Code: "snapshot/none"}) {
		t.Errorf("none: %v", err)
	}
	if _, err := millrace.ForkState(t.Context(), dir, "t w o", nil); millrace.ExitCode(err) != 2 {
		t.Errorf("illegal: %v", err)
	}
	if after := topics(); after != before {
		t.Errorf("topics before %s, after %s", before, after)
	}
	if _, err := millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(addrs...)); err != nil {
		t.Fatal(err)
	}

	for _, step := range []string{"rows", "offsets", "unmark"} {
		ctx, cancel := context.WithCancel(t.Context())
		id := "cut-at-" + step
		_, err := millrace.ForkState(ctx, dir, id, func(p millrace.ForkProgress) {
			if p.Step == step {
				cancel()
			}
		}, millrace.SeedBrokers(addrs...))
		cancel()
		if !errors.Is(err, &millrace.Error{Code: "fork/interrupted"}) {
			t.Errorf("%s: %v", step, err)
		}
		if _, err := millrace.ForkState(t.Context(), dir, id, nil, millrace.SeedBrokers(addrs...)); !errors.Is(err, &millrace.Error{Code: "fork/app-exists"}) {
			t.Errorf("%s, again: %v", step, err)
		}
		half := start(t, addrs, id, countWords(t), millrace.MemoryStores())
		<-half.done
		if !errors.Is(half.err, &millrace.Error{Code: "registry/fork-incomplete"}) || millrace.ExitCode(half.err) != 3 {
			t.Errorf("%s: the application said %v", step, half.err)
		}
	}
}
