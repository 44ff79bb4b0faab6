// Package kafka holds what makes a real Kafka for the tests where none can be pulled, and the proof that tests get one.
package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/kafkatest"
)

// roundTrip commits n records in one transaction and reads them back.
func roundTrip(t *testing.T, c *kafkatest.Cluster, topic string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.DefaultProduceTopic(topic), kgo.TransactionalID(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if r, err := kadm.NewClient(cl).CreateTopic(ctx, 2, 1, nil, topic); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		cl.Produce(ctx, kgo.StringRecord(fmt.Sprint(i)), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	// kgo may not know yet that a new topic's records are written, and would abort (docs/design/0004).
	if err := cl.AbortBufferedRecords(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	read(t, c, topic, n)
}

func read(t *testing.T, c *kafkatest.Cluster, topic string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for got := 0; got < n; {
		got += cl.PollFetches(ctx).NumRecords()
		if ctx.Err() != nil {
			t.Fatalf("read %d of %d: %v", got, n, ctx.Err())
		}
	}
}

func silent(c *kafkatest.Cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.Ping(ctx); err == nil {
		return fmt.Errorf("it answers")
	}
	return nil
}

// TestReal: the shared broker does transactions, and is the same one for everybody who asks.
func TestReal(t *testing.T) {
	c := kafkatest.Real(t)
	roundTrip(t, c, fmt.Sprintf("real-%d", time.Now().UnixNano()), 1000)
	if again := kafkatest.Real(t); again != c {
		t.Error("the second test got another cluster")
	}
}

// TestOwn: a paused broker answers nothing and then everything; a killed one comes back on the same address with what was committed.
func TestOwn(t *testing.T) {
	c := kafkatest.Own(t)
	roundTrip(t, c, "before", 1000)
	c.Pause(t)
	if err := silent(c); err != nil {
		t.Fatalf("paused: %v", err)
	}
	c.Unpause(t)
	read(t, c, "before", 1000)
	c.Kill(t)
	if err := silent(c); err != nil {
		t.Fatalf("killed: %v", err)
	}
	c.Start(t)
	read(t, c, "before", 1000)
	roundTrip(t, c, "after", 1000)
}
