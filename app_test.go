package millrace_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

var (
	words  = stream.NewTopic("words", serde.String(), serde.String())
	counts = store.KeyValue("counts", serde.String(), serde.Int64())
	totals = stream.NewTopic("totals", serde.String(), serde.Int64())
)

func countWords(t *testing.T) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	stream.GroupByKey(stream.From(b, words)).Count(counts).ToStream().To(totals)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// countNumbers wants values of eight bytes.
func countNumbers(t *testing.T) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	numbers := stream.NewTopic("numbers", serde.String(), serde.Int64())
	stream.GroupByKey(stream.From(b, numbers)).Count(counts).ToStream().To(totals)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// produceTo writes one record that is no number.
func produceTo(t *testing.T, addrs []string, topic string) {
	t.Helper()
	cl := client(t, addrs)
	if err := cl.ProduceSync(context.Background(), &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("not a number")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// broker is an embedded cluster for one test.
func broker(t *testing.T, partitions int32) []string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "words", "totals"),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "1000000000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

func client(t *testing.T, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func produceWords(t *testing.T, addrs []string, n, keys int) {
	t.Helper()
	cl := client(t, addrs, kgo.DefaultProduceTopic("words"))
	for i := range n {
		cl.Produce(context.Background(), &kgo.Record{Key: fmt.Appendf(nil, "k%d", i%keys), Value: []byte("x")}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// readTotals reads committed totals until want records have come, and checks that each key counts 1, 2, 3, ...
func readTotals(t *testing.T, addrs []string, want int) map[string]int64 {
	t.Helper()
	cl := client(t, addrs, kgo.ConsumeTopics("totals"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	last := map[string]int64{}
	for n := 0; n < want; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d totals came", n, want)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			v := int64(binary.BigEndian.Uint64(r.Value))
			if v != last[string(r.Key)]+1 {
				t.Errorf("key %s counts %d after %d", r.Key, v, last[string(r.Key)])
			}
			last[string(r.Key)] = v
		})
	}
	return last
}

// instance starts an application; stop ends it and returns what Run returned.
func instance(t *testing.T, addrs []string, opts ...millrace.Option) (stop func() error) {
	t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	opts = append([]millrace.Option{
		millrace.SeedBrokers(addrs...), millrace.Logger(log), millrace.HeartbeatInterval(100 * time.Millisecond),
		millrace.SessionTimeout(6 * time.Second), millrace.CommitInterval(20 * time.Millisecond),
	}, opts...)
	app, err := millrace.New("counter", countWords(t), opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func TestCount(t *testing.T) {
	for name, state := range map[string]millrace.Option{"memory": millrace.MemoryStores(), "pebble": millrace.StateDir(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			addrs := broker(t, 4)
			produceWords(t, addrs, 10_000, 100)
			stop := instance(t, addrs, state)
			readTotals(t, addrs, 10_000)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			// A second life goes on where the first one ended.
			produceWords(t, addrs, 1_000, 100)
			stop = instance(t, addrs, state)
			got := readTotals(t, addrs, 11_000)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if len(got) != 100 || got["k7"] != 110 {
				t.Errorf("got %d keys, k7 = %d", len(got), got["k7"])
			}
		})
	}
}

// TestScale runs one, two and one instances under load.
func TestScale(t *testing.T) {
	addrs := broker(t, 6)
	running := make(chan string, 100)
	watch := func(name string) millrace.Option {
		return millrace.Observe(observe.Hooks{Task: func(c observe.TaskChange) {
			if c.To == "running" {
				running <- name
			}
		}})
	}
	produceWords(t, addrs, 5_000, 100)
	stopA := instance(t, addrs, millrace.StateDir(t.TempDir()), watch("a"))
	readTotals(t, addrs, 5_000)
	stopB := instance(t, addrs, millrace.StateDir(t.TempDir()), watch("b"))
	for spread := 0; spread < 3; { // b gets half of the tasks
		select {
		case name := <-running:
			if name == "b" {
				spread++
			}
		case <-time.After(60 * time.Second):
			t.Fatalf("the second instance runs %d tasks", spread)
		}
	}
	produceWords(t, addrs, 5_000, 100)
	readTotals(t, addrs, 10_000)
	if err := stopA(); err != nil {
		t.Fatal(err)
	}
	produceWords(t, addrs, 5_000, 100)
	readTotals(t, addrs, 15_000)
	if err := stopB(); err != nil {
		t.Fatal(err)
	}
}

var (
	orders    = stream.NewTopic("words", serde.String(), serde.String())
	customers = stream.NewTopic("customers", serde.String(), serde.String())
	enriched  = stream.NewTopic("totals", serde.String(), serde.String())
	people    = store.KeyValue("people", serde.String(), serde.String())
)

// TestBackPressure joins a long stream with a long table within the least memory: the task has to pause the stream while
// it reads the table, and must not pause the table for good, which it waits for.
func TestBackPressure(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "words", "customers", "totals"),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "1000000000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	addrs := c.ListenAddrs()
	b := stream.NewBuilder()
	table := stream.TableFrom(b, customers, people)
	stream.Join(stream.From(b, orders), table, func(order, customer string) string { return customer }).To(enriched)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}

	const n = 40_000
	base := time.UnixMilli(1_700_000_000_000)
	cl := client(t, addrs)
	produce := func(topic, key, value string, at time.Time) {
		cl.Produce(context.Background(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value), Timestamp: at}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	// Every change of a customer is older than every order: the task reads the whole table while it holds orders back.
	value := strings.Repeat("v", 500)
	for i := range n {
		produce("customers", fmt.Sprint("k", i%10), fmt.Sprint(i, " ", value), base.Add(time.Duration(i)*time.Millisecond))
		produce("words", fmt.Sprint("k", i%10), value, base.Add(time.Hour))
	}
	if err := cl.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	app, err := millrace.New("join", top, millrace.SeedBrokers(addrs...), millrace.Logger(log), millrace.StateDir(t.TempDir()),
		millrace.MemoryLimit(32<<20), millrace.Workers(1), millrace.HeartbeatInterval(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	out := client(t, addrs, kgo.ConsumeTopics("totals"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	deadline, stop := context.WithTimeout(context.Background(), 40*time.Second)
	defer stop()
	for got := 0; got < n; {
		fetches := out.PollFetches(deadline)
		if deadline.Err() != nil {
			t.Fatalf("%d of %d joined records came", got, n)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			got++
			if last := n - 10 + int(r.Key[1]-'0'); !strings.HasPrefix(string(r.Value), fmt.Sprint(last, " ")) {
				t.Errorf("order of %s joined customer %.10s, want %d", r.Key, r.Value, last)
			}
		})
		if t.Failed() {
			return
		}
	}
}
