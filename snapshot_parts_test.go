package millrace_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
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
	"github.com/millrace-io/millrace/topology"
)

// countInto counts the words of a topic into another one.
func countInto(t *testing.T, from, to string) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	in := stream.NewTopic(from, serde.String(), serde.String())
	stream.GroupByKey(stream.From(b, in)).Count(counts).ToStream().To(stream.NewTopic(to, serde.String(), serde.Int64()))
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// ends is where every partition of the cluster ends, as text. A client of its own knows of no earlier answer.
func ends(t *testing.T, addrs []string) string {
	t.Helper()
	adm := kadm.NewClient(client(t, addrs))
	all, err := adm.ListEndOffsets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, name := range all.Offsets().TopicsSet().Topics() {
		if strings.HasPrefix(name, "__") {
			continue
		}
		for p := range int32(len(all[name])) {
			fmt.Fprintf(&out, "%s/%d %d\n", name, p, all[name][p].Offset)
		}
	}
	return out.String()
}

// TestForkOfTwoInstances: two instances write their tasks into one directory, at different moments and under load. With one of them it is
// not complete, and refused; with both a fork counts on, exactly, from what each task was.
func TestForkOfTwoInstances(t *testing.T) {
	_, addrs := fake(t, 4)
	adm := kadm.NewClient(client(t, addrs))
	if _, err := adm.CreateTopic(t.Context(), 4, 1, nil, "again"); err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{}
	cl := client(t, addrs, kgo.DefaultProduceTopic("words"))
	feed := func(n int) {
		t.Helper()
		for i := range n {
			k := fmt.Sprint("k", i%40)
			want[k]++
			cl.Produce(context.Background(), &kgo.Record{Key: []byte(k), Value: []byte("x")}, nil)
		}
		if err := cl.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	feed(400)
	a := start(t, addrs, "one", countWords(t), millrace.StateDir(t.TempDir()))
	counted(t, addrs, "totals", map[string]int64{}, want)
	moved, watching := watchStates()
	b := start(t, addrs, "one", countWords(t), millrace.StateDir(t.TempDir()), watching)
	moved.wait(t, 2, 30*time.Second)
	eventually(t, "both run", func() bool { return a.app.State() == "running" && b.app.State() == "running" })

	dir := filepath.Join(t.TempDir(), "snapshot")
	feed(2000)
	first, err := a.app.SnapshotState(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	feed(2000)
	counted(t, addrs, "totals", map[string]int64{}, want) // all is processed, and transactions are over: what is written now is a fork's
	if _, err := changelog.ReadSnapshot(dir, false); !errors.Is(err, &millrace.Error{Code: "snapshot/incomplete"}) {
		t.Errorf("half of it: %v", err)
	}
	names := func() string {
		all, err := adm.ListTopics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(all.Names(), " ")
	}
	before := names()
	_, err = millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(addrs...))
	if !errors.Is(err, &millrace.Error{Code: "snapshot/incomplete"}) || millrace.ExitCode(err) != 3 {
		t.Errorf("a fork from half of it: %v", err)
	}
	if after := names(); after != before {
		t.Errorf("topics %s, before %s", after, before)
	}
	feed(2000)
	second, err := b.app.SnapshotState(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Tasks) != 2 || len(second.Tasks) != 2 || first.Cut == second.Cut {
		t.Errorf("tasks %v and %v, cuts %s and %s", first.Tasks, second.Tasks, first.Cut, second.Cut)
	}
	feed(200)
	report, err := millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(addrs...))
	if err != nil {
		t.Fatal(err)
	}
	had, _ := snapshotCounts(t, dir, "counts")
	if report.Tasks != 4 || report.Rows != int64(len(had)) {
		t.Errorf("%+v, of %d rows", report, len(had))
	}
	two := start(t, addrs, "two", countInto(t, "words", "again"), millrace.MemoryStores())
	counted(t, addrs, "again", had, want)
	counted(t, addrs, "totals", map[string]int64{}, want)
	two.end(t)
	a.end(t)
	b.end(t)
}

// lister has a list of the name of the counts.
type lister struct {
	list store.ListState[string, string]
}

var countsList = store.List("counts", serde.String(), serde.String())

func (l *lister) Init(ctx processor.InitContext) (err error) {
	l.list, err = countsList.In(ctx)
	return err
}

func (l *lister) Process(_ processor.Context[string, string], r processor.Record[string, string]) error {
	return l.list.Append(r.Key, r.Value)
}

// keptBy gives a task of a snapshot other kernel state, and a checksum that fits.
func keptBy(t *testing.T, dir string, state []byte) (undo func()) {
	t.Helper()
	s, err := changelog.ReadSnapshot(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Tasks[len(s.Tasks)-1].Dir(), changelog.SnapshotFile)
	text, err := os.ReadFile(path)
	var env struct{ Checksum, Manifest json.RawMessage }
	fields := map[string]json.RawMessage{}
	if err = errors.Join(err, json.Unmarshal(text, &env)); err == nil {
		err = json.Unmarshal(env.Manifest, &fields)
	}
	if err != nil {
		t.Fatal(err)
	}
	fields["state"], _ = json.Marshal(state)
	manifest, _ := json.Marshal(fields)
	sum := crc32.Checksum(manifest, crc32.MakeTable(crc32.Castagnoli))
	other := fmt.Appendf(nil, `{"checksum": "crc32c:%08x", "manifest": %s}`, sum, manifest)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, other, 0o600)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(os.Remove(path), os.WriteFile(path, text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForkOtherTopology: a fork does not know the topology that will run on it; the first start does, and refuses state that means something
// else before it writes anything. The right topology goes on from it then.
func TestForkOtherTopology(t *testing.T) {
	_, addrs := fake(t, 2)
	adm := kadm.NewClient(client(t, addrs))
	for name, partitions := range map[string]int32{"again": 2, "wide": 3} {
		if _, err := adm.CreateTopic(t.Context(), partitions, 1, nil, name); err != nil {
			t.Fatal(err)
		}
	}
	produceWords(t, addrs, 100, 10)
	r := start(t, addrs, "one", countWords(t), millrace.MemoryStores())
	had := readTotals(t, addrs, 100)
	dir := filepath.Join(t.TempDir(), "snapshot")
	if _, err := r.app.SnapshotState(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	r.end(t)
	before := ends(t, addrs)
	undo := keptBy(t, dir, []byte{99})
	if _, err := millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(addrs...)); !errors.Is(err, &millrace.Error{Code: "task/newer-format"}) {
		t.Errorf("kernel state of a later version: %v", err)
	}
	if after := ends(t, addrs); after != before {
		t.Errorf("it has written:\n%s\nbefore:\n%s", after, before)
	}
	undo()
	if _, err := millrace.ForkState(t.Context(), dir, "two", nil, millrace.SeedBrokers(addrs...)); err != nil {
		t.Fatal(err)
	}
	before = ends(t, addrs)
	for _, c := range []struct {
		name, code string
		build      func(b *stream.Builder)
	}{
		{"kind", "registry/store-kind", func(b *stream.Builder) {
			stream.Process(stream.From(b, words), func() processor.Processor[string, string, string, string] { return &lister{} }, countsList)
		}},
		{"key codec", "registry/serde", func(b *stream.Builder) {
			in := stream.NewTopic("words", serde.Bytes(), serde.String())
			stream.GroupByKey(stream.From(b, in)).Count(store.KeyValue("counts", serde.Bytes(), serde.Int64()))
		}},
		{"value codec", "registry/serde", func(b *stream.Builder) {
			stream.GroupByKey(stream.From(b, words)).Reduce(func(_, v string) string { return v }, store.KeyValue("counts", serde.String(), serde.String()))
		}},
		{"a source of other partitions", "topic/partitions", func(b *stream.Builder) {
			in := stream.NewTopic("wide", serde.String(), serde.String())
			stream.GroupByKey(stream.From(b, in)).Count(counts)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := stream.NewBuilder()
			c.build(b)
			top, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			two := start(t, addrs, "two", top, millrace.MemoryStores())
			err = two.ends(t, 20*time.Second)
			if !errors.Is(err, &millrace.Error{Code: c.code}) || millrace.ExitCode(err) != 3 {
				t.Errorf("exit code %d: %v", millrace.ExitCode(err), err)
			}
			if after := ends(t, addrs); after != before {
				t.Errorf("it has written:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	two := start(t, addrs, "two", countInto(t, "words", "again"), millrace.MemoryStores())
	produceWords(t, addrs, 30, 10)
	want := map[string]int64{}
	for k, n := range had {
		want[k] = n + 3
	}
	counted(t, addrs, "again", had, want)
	two.end(t)
}
