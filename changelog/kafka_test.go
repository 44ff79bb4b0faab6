package changelog_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/devkafka"
)

// cluster is what a test runs against: always the embedded broker, and a real one where MILLRACE_TEST_BROKERS lists it.
type cluster struct {
	addrs []string
	fake  *devkafka.Broker // nil on a real one
}

// eachCluster runs a test on every broker there is. Topics get names of their own: a real broker keeps them.
func eachCluster(t *testing.T, test func(t *testing.T, c cluster)) {
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t, devkafka.Options{Brokers: 2})) })
	if list := os.Getenv("MILLRACE_TEST_BROKERS"); list != "" {
		t.Run("real", func(t *testing.T) { test(t, cluster{addrs: strings.Split(list, ",")}) })
	}
}

func embedded(t testing.TB, o devkafka.Options) cluster {
	t.Helper()
	b, err := devkafka.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return cluster{b.Addrs(), b}
}

func (c cluster) client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// name makes a name nobody else uses.
func name(base string) string { return fmt.Sprintf("%s-%08x", base, rand.Uint32()) }

// topic makes a changelog topic and returns what it is.
func (c cluster) topic(t testing.TB, partitions int32) changelog.Topic {
	t.Helper()
	n := changelog.StoreTopic(name("app"), "counts")
	topics, err := changelog.EnsureTopics(t.Context(), c.client(t), []changelog.TopicSpec{{Name: n, Kind: changelog.ChangelogTopic, Partitions: partitions}})
	if err != nil {
		t.Fatal(err)
	}
	return topics[n]
}

// writer is a transactional producer.
type writer struct {
	t  testing.TB
	cl *kgo.Client
}

func (c cluster) writer(t testing.TB, opts ...kgo.Opt) writer {
	t.Helper()
	return writer{t, c.client(t, append([]kgo.Opt{kgo.TransactionalID(name("writer")), kgo.MaxBufferedRecords(1 << 20)}, opts...)...)}
}

// txn writes records in one transaction and ends it.
func (w writer) txn(commit kgo.TransactionEndTry, records ...kgo.Record) {
	w.t.Helper()
	w.begin(records...)
	w.end(commit)
}

// begin opens a transaction and writes records into it.
func (w writer) begin(records ...kgo.Record) {
	w.t.Helper()
	if err := w.cl.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	var results kgo.ProduceResults
	done := make(chan struct{}, len(records))
	results = make(kgo.ProduceResults, len(records))
	for i := range records {
		w.cl.Produce(w.t.Context(), &records[i], func(r *kgo.Record, err error) {
			results[i] = kgo.ProduceResult{Record: r, Err: err}
			done <- struct{}{}
		})
	}
	if err := w.cl.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	for range records {
		<-done
	}
	if err := results.FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w writer) end(commit kgo.TransactionEndTry) {
	w.t.Helper()
	// kgo may not know yet that a new topic's records are written, and would abort (docs/design/0004).
	if err := w.cl.AbortBufferedRecords(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cl.EndTransaction(w.t.Context(), commit); err != nil {
		w.t.Fatal(err)
	}
}

// put is a changelog record; an empty value is a tombstone.
func put(topic changelog.Topic, partition int32, key, value string) kgo.Record {
	var v []byte
	if value != "" {
		v = []byte(value)
	}
	return changelog.Record(topic.Name, partition, []byte(key), v, time.Now())
}

// ends asks where a log begins and ends.
func (c cluster) ends(t testing.TB, topic changelog.Topic, partition int32) changelog.Ends {
	t.Helper()
	tp := changelog.TopicPartition{Topic: topic.Name, Partition: partition}
	ends, err := changelog.ListEnds(t.Context(), c.client(t), []changelog.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	return ends[tp]
}

// set alters a topic's setting.
func (c cluster) set(t testing.TB, topic, key, value string) {
	t.Helper()
	adm := kadm.NewClient(c.client(t))
	resp, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, topic)
	if err == nil {
		err = resp[0].Err
	}
	if err != nil {
		t.Fatal(err)
	}
	for c.settings(t, topic)[key] != value { // a real broker hears of it a moment later
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// settings are a topic's, as described.
func (c cluster) settings(t testing.TB, topic string) map[string]string {
	t.Helper()
	configs, err := kadm.NewClient(c.client(t)).DescribeTopicConfigs(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, kv := range configs[0].Configs {
		m[kv.Key] = kv.MaybeValue()
	}
	return m
}

// deleteRecords moves a log's start. Kafka does that to topics with the policy delete only: somebody must have meddled.
func (c cluster) deleteRecords(t testing.TB, topic changelog.Topic, partition int32, before int64) {
	t.Helper()
	c.set(t, topic.Name, "cleanup.policy", "compact,delete")
	defer c.set(t, topic.Name, "cleanup.policy", "compact")
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic.Name
	rp := kmsg.NewDeleteRecordsRequestTopicPartition()
	rp.Partition, rp.Offset = partition, before
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), c.client(t))
	if err != nil {
		t.Fatal(err)
	}
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("delete records: error %d", code)
	}
}

// recreate deletes a topic and makes it anew.
func (c cluster) recreate(t testing.TB, topic changelog.Topic) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	req.TopicNames = []string{topic.Name}
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = kmsg.StringPtr(topic.Name)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), c.client(t))
	if err != nil {
		t.Fatal(err)
	}
	if code := resp.Topics[0].ErrorCode; code != 0 {
		t.Fatalf("delete topic: error %d", code)
	}
	for { // a real broker takes a moment to let go of the name
		again, err := changelog.EnsureTopics(t.Context(), c.client(t), []changelog.TopicSpec{{Name: topic.Name, Kind: changelog.ChangelogTopic, Partitions: topic.Partitions}})
		if err == nil && again[topic.Name].ID != topic.ID {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// result waits for the end of a restore.
func result(t testing.TB, ch <-chan changelog.Result) changelog.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case r := <-ch:
		return r
	case <-ctx.Done():
		t.Fatal("the restore did not end")
		return changelog.Result{}
	}
}

func idText(id [16]byte) string { return hex.EncodeToString(id[:]) }
