package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

func TestState(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "lines", "results"),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "1000000000"}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := stream.NewBuilder()
	lines := stream.NewTopic("lines", serde.String(), serde.String())
	stream.GroupByKey(stream.From(b, lines)).Count(store.KeyValue("tally", serde.String(), serde.Int64())).ToStream().
		To(stream.NewTopic("results", serde.String(), serde.Int64()))
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	app, err := millrace.New("shop", top, millrace.SeedBrokers(c.ListenAddrs()...), millrace.StateDir(t.TempDir()), millrace.CommitInterval(20*time.Millisecond),
		millrace.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("results"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	bound, end := context.WithTimeout(t.Context(), 30*time.Second)
	defer end()
	send := func(keys ...string) {
		t.Helper()
		for _, k := range keys {
			r := &kgo.Record{Topic: "lines", Key: []byte(k), Value: []byte("x"), Timestamp: time.UnixMilli(1_700_000_000_000)}
			if err := cl.ProduceSync(bound, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		for n := 0; n < len(keys); {
			fetches := cl.PollFetches(bound)
			if bound.Err() != nil {
				t.Fatal("no results")
			}
			n += fetches.NumRecords()
		}
	}
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	send("a", "b")
	if _, err := app.SnapshotState(bound, one); err != nil {
		t.Fatal(err)
	}
	send("a", "c")
	if _, err := app.SnapshotState(bound, two); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		status int
		says   []string
	}{
		{"state show -from " + one, 0, []string{"application shop on cluster", "1 of 1 tasks", "lines/0  2", "string -> int64"}},
		{"state verify -from " + two, 0, []string{": 3 rows", "is whole"}},
		{"state dump -from " + one, 0, []string{`{"store":"tally","task":"tally/0","key":"a","value":1,"time":"2023-11-14T22:13:20Z"}`, `"key":"b","value":1`}},
		{"state dump -from " + one + " -store none", 2, []string{"is in none of the tasks"}},
		{"state diff -from " + one + " -to " + two, 0, []string{`- {"store":"tally","task":"tally/0","key":"a","value":1`, `+ {"store":"tally","task":"tally/0","key":"a","value":2`, `+ {"store":"tally","task":"tally/0","key":"c","value":1`}},
		{"state diff -from " + one + " -to " + one, 0, []string{"The rows are the same."}},
		{"state diff -from " + one, 2, []string{"-to is missing"}},
		{"state show", 2, []string{"-from is missing"}},
		{"state show -from " + t.TempDir(), 3, []string{"snapshot/none"}},
		{"state fork -from " + one, 2, []string{"-app is missing"}},
		{"state fork -from " + one + " -app copy", 2, []string{"config/brokers"}},
		{"state fork -from " + one + " -app copy -brokers " + c.ListenAddrs()[0], 0, []string{"Made copy from a snapshot of shop: 1 tasks, 2 rows", "unmark"}},
		{"state fork -from " + one + " -app copy -brokers " + c.ListenAddrs()[0], 3, []string{"fork/app-exists"}},
	} {
		var out bytes.Buffer
		if status := run(bound, strings.Fields(c.args), terminal{in: strings.NewReader(""), out: &out, err: &out}); status != c.status {
			t.Errorf("%s: status %d, want %d", c.args, status, c.status)
		}
		for _, s := range c.says {
			if !strings.Contains(out.String(), s) {
				t.Errorf("%s: %q is not in\n%s", c.args, s, out.String())
			}
		}
	}
}
