package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
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
	"github.com/millrace-io/millrace/devkafka"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// world is a cluster with one application, "counter", that counts words behind a repartition topic.
type world struct {
	t     *testing.T
	kafka *devkafka.Broker
	addrs []string
	cl    *kgo.Client
	adm   *kadm.Client
	state string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := devkafka.Start(devkafka.Options{Topics: map[string]int32{"words": 2, "totals": 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addrs()...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &world{t: t, kafka: b, addrs: b.Addrs(), cl: cl, adm: kadm.NewClient(cl), state: filepath.Join(t.TempDir(), "state")}
}

func countWords(t *testing.T) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	words := stream.From(b, stream.NewTopic("words", serde.String(), serde.String()))
	byWord := stream.Through("by-word", serde.String(), serde.String())
	counts := store.KeyValue("counts", serde.String(), serde.Int64())
	stream.GroupBy(words, func(_, word string) string { return word }, byWord).Count(counts).ToStream().
		To(stream.NewTopic("totals", serde.String(), serde.Int64()))
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// instance starts the application; the function ends it and returns what Run returned; the channel is
// closed when Run has returned, by itself too.
func (w *world) instance(opts ...millrace.Option) (stop func() error, ended <-chan struct{}) {
	w.t.Helper()
	opts = append([]millrace.Option{
		millrace.SeedBrokers(w.addrs...), millrace.StateDir(w.state), millrace.HeartbeatInterval(100 * time.Millisecond),
		millrace.SessionTimeout(6 * time.Second), millrace.CommitInterval(20 * time.Millisecond),
		millrace.Logger(slog.New(slog.DiscardHandler)),
	}, opts...)
	app, err := millrace.New("counter", countWords(w.t), opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var result error
	go func() {
		defer close(done)
		result = app.Run(ctx)
	}()
	stop = func() error {
		cancel()
		<-done
		return result
	}
	w.t.Cleanup(func() { _ = stop() })
	return stop, done
}

// count feeds n words of three kinds, runs the application until it has counted want, and stops it. It returns the totals that came.
func (w *world) count(n, want int) []string {
	w.t.Helper()
	from := w.end("totals")
	w.produce(n)
	stop, ended := w.instance()
	got := w.totals(from, want, ended)
	if err := stop(); err != nil {
		w.t.Fatal(err)
	}
	if more := w.end("totals"); len(w.committed("totals", from, more)) != want {
		w.t.Errorf("%d totals came, not %d", len(w.committed("totals", from, more)), want)
	}
	return got
}

func (w *world) produce(n int) {
	w.t.Helper()
	for i := range n {
		if err := w.cl.ProduceSync(w.t.Context(), &kgo.Record{Topic: "words", Value: fmt.Appendf(nil, "w%d", i%3)}).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// end is the end of partition 0.
func (w *world) end(topic string) int64 {
	w.t.Helper()
	ends, err := w.adm.ListEndOffsets(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	o, _ := ends.Lookup(topic, 0)
	return o.Offset
}

// totals waits for that many committed totals from an offset on.
func (w *world) totals(from int64, want int, ended <-chan struct{}) []string {
	w.t.Helper()
	cl := w.reader("totals", from)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	var got []string
	for len(got) < want {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			w.t.Fatalf("%d of %d totals came", len(got), want)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				got = append(got, total(r))
			}
		})
	}
	return got
}

// committed reads the committed records between two offsets.
func (w *world) committed(topic string, from, to int64) []string {
	w.t.Helper()
	cl := w.reader(topic, from)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	for at := from; at < to; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			w.t.Fatalf("%s was read to %d of %d", topic, at, to)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at = r.Offset + 1
			if !r.Attrs.IsControl() {
				got = append(got, total(r))
			}
		})
	}
	return got
}

func (w *world) reader(topic string, from int64) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(from)}}))
	if err != nil {
		w.t.Fatal(err)
	}
	return cl
}

func total(r *kgo.Record) string {
	if len(r.Value) != 8 {
		return ""
	}
	return fmt.Sprintf("%s=%d", r.Key, binary.BigEndian.Uint64(r.Value))
}

// countedFromOne reports whether each word's totals are 1, 2, 3, ...
func countedFromOne(totals []string) error {
	last := map[string]int{}
	for _, s := range totals {
		word, n, _ := strings.Cut(s, "=")
		if last[word]++; fmt.Sprint(last[word]) != n {
			return fmt.Errorf("%s is number %d of its word", s, last[word])
		}
	}
	return nil
}

// cmd runs the command against the world's cluster.
func (w *world) cmd(args ...string) (status int, out, errs string) {
	return w.cmdWith(terminal{}, nil, args...)
}

func (w *world) cmdWith(term terminal, after func(string) error, args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	term.out, term.err = &o, &e
	if term.in == nil {
		term.in = strings.NewReader("")
	}
	args = append([]string{"reset", "-brokers", strings.Join(w.addrs, ",")}, args...)
	status = execute(w.t.Context(), args, term, after)
	return status, o.String(), e.String()
}

// reset runs the command and expects it to succeed.
func (w *world) reset(args ...string) string {
	w.t.Helper()
	status, out, errs := w.cmd(append([]string{"-app", "counter", "-yes", "-state", w.state}, args...)...)
	if status != 0 || errs != "" {
		w.t.Fatalf("status %d\n%s\n%s", status, out, errs)
	}
	return out
}

// topics are the names of all topics.
func (w *world) topics() []string {
	w.t.Helper()
	all, err := w.adm.ListTopics(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return all.Names()
}

// snapshot is everything a reset might change: topics with ids and ends, group offsets with metadata, files with sizes and times.
func (w *world) snapshot() string {
	w.t.Helper()
	var lines []string
	all, err := w.adm.ListTopics(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	ends, err := w.adm.ListEndOffsets(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		lines = append(lines, fmt.Sprintf("topic %s/%d %s ends at %d", o.Topic, o.Partition, all[o.Topic].ID, o.Offset))
	})
	lines = append(lines, w.offsets()...)
	lines = append(lines, w.files(true)...)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// offsets are the group's, with metadata.
func (w *world) offsets() []string {
	w.t.Helper()
	committed, err := w.adm.FetchOffsets(w.t.Context(), "counter")
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	committed.Each(func(o kadm.OffsetResponse) {
		lines = append(lines, fmt.Sprintf("offset %s/%d at %d %q", o.Topic, o.Partition, o.At, o.Metadata))
	})
	slices.Sort(lines)
	return lines
}

func (w *world) files(stat bool) []string {
	w.t.Helper()
	var lines []string
	err := filepath.WalkDir(w.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		line := strings.TrimPrefix(path, w.state+"/")
		if info, err := d.Info(); stat && err == nil {
			line += fmt.Sprintf(" %d %s", info.Size(), info.ModTime())
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return lines
}

// hold takes the state directory as a process would.
func (w *world) hold() *changelog.StateDir {
	w.t.Helper()
	d, err := changelog.LockStateDir(w.state, "counter", "")
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}
