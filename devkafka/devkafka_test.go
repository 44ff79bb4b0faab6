package devkafka_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/devkafka"
)

func start(t *testing.T, o devkafka.Options) *devkafka.Broker {
	t.Helper()
	b, err := devkafka.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
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

func TestStartAndUse(t *testing.T) {
	b := start(t, devkafka.Options{Brokers: 2, Partitions: 3, Topics: map[string]int32{"lines": 5, "words": 0}})
	if n := len(b.Addrs()); n != 2 {
		t.Fatalf("%d addresses, want 2", n)
	}
	for _, addr := range b.Addrs() {
		host, _, err := net.SplitHostPort(addr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("listens on %s, want loopback only", addr)
		}
	}
	ctx := t.Context()
	adm := kadm.NewClient(client(t, b.Addrs()))
	topics, err := adm.ListTopics(ctx, "lines", "words")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(topics["lines"].Partitions); n != 5 {
		t.Errorf("lines has %d partitions, want 5", n)
	}
	if n := len(topics["words"].Partitions); n != 3 {
		t.Errorf("words has %d partitions, want the default 3", n)
	}
	if err := b.CreateTopic("lines", 1, nil); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Errorf("creating a topic twice: %v", err)
	}
}

// A name that is misspelt must be an error, not a new topic.
func TestTopicsAreNotCreatedByAsking(t *testing.T) {
	b := start(t, devkafka.Options{})
	cl := client(t, b.Addrs(), kgo.UnknownTopicRetries(0))
	err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "lnies", Value: []byte("x")}).FirstErr()
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Fatalf("produce to an unknown topic: %v", err)
	}
}

func TestDirectoryKeepsEverything(t *testing.T) {
	o := devkafka.Options{Dir: t.TempDir(), Topics: map[string]int32{"lines": 2}}
	b, err := devkafka.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	cl := client(t, b.Addrs(), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range 10 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "lines", Partition: 1, Value: []byte(strconv.Itoa(i))}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	adm := kadm.NewClient(cl)
	before, err := adm.ListTopics(t.Context(), "lines")
	if err != nil {
		t.Fatal(err)
	}
	if err := adm.CommitAllOffsets(t.Context(), "readers", kadm.Offsets{"lines": {1: kadm.Offset{Topic: "lines", Partition: 1, At: 7, Metadata: "m"}}}); err != nil {
		t.Fatal(err)
	}
	cl.Close()
	b.Close()

	b = start(t, o)
	adm = kadm.NewClient(client(t, b.Addrs()))
	after, err := adm.ListTopics(t.Context(), "lines")
	if err != nil {
		t.Fatal(err)
	}
	if before["lines"].ID != after["lines"].ID {
		t.Errorf("the topic's id changed over a restart: %v, then %v", before["lines"].ID, after["lines"].ID)
	}
	ends, err := adm.ListEndOffsets(t.Context(), "lines")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := ends.Lookup("lines", 1); o.Offset != 10 {
		t.Errorf("end offset %d after a restart, want 10", o.Offset)
	}
	offsets, err := adm.FetchOffsets(t.Context(), "readers")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := offsets.Lookup("lines", 1); o.At != 7 || o.Metadata != "m" {
		t.Errorf("committed offset %d %q after a restart, want 7 \"m\"", o.At, o.Metadata)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := devkafka.Start(devkafka.Options{Port: l.Addr().(*net.TCPAddr).Port}); err == nil {
		t.Fatal("started on a port that is taken")
	}
}

func TestCleanerIsOff(t *testing.T) {
	b := start(t, devkafka.Options{})
	adm := kadm.NewClient(client(t, b.Addrs()))
	configs, err := adm.DescribeBrokerConfigs(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if c.Key != "log.cleaner.backoff.ms" {
			continue
		}
		ms, err := strconv.ParseInt(c.MaybeValue(), 10, 64)
		if err != nil || time.Duration(ms)*time.Millisecond < 365*24*time.Hour {
			t.Fatalf("the cleaner runs every %s ms", c.MaybeValue())
		}
		return
	}
	t.Fatal("the broker does not say how often its cleaner runs")
}

// TestWhyTheCleanerIsOff shows what the fake's compaction does to state: a key is committed, an open transaction writes it
// again, the log is compacted, the transaction aborts. Kafka keeps the committed value, the fake does not. When this test
// fails, the fake has been mended: the cleaner may be switched on, and this test be turned round.
func TestWhyTheCleanerIsOff(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.CreateTopic("state", 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cl := client(t, c.ListenAddrs(), kgo.TransactionalID("writer"), kgo.DefaultProduceTopic("state"))
	write := func(key, value string) {
		t.Helper()
		if err := cl.ProduceSync(ctx, &kgo.Record{Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	begin := func() {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
	}
	begin()
	write("k", "committed")
	// kgo may not know yet that a new topic's records are written, and would abort (docs/design/0004).
	if err := cl.AbortBufferedRecords(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	begin()
	write("k", "aborted later")
	write("other", "so that k's batch is not the last one")
	c.Compact()
	if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}

	reader := client(t, c.ListenAddrs(), kgo.ConsumeTopics("state"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	end := c.PartitionInfo("state", 0).HighWatermark
	var values []string
	for next := int64(0); next < end; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if !r.Attrs.IsControl() {
				values = append(values, string(r.Value))
			}
		})
	}
	if len(values) != 0 {
		t.Fatalf("the committed value survived compaction: %q", values)
	}
}
