package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/workload"
	"github.com/millrace-io/millrace/devkafka"
)

func TestRateOfARunThatIsCut(t *testing.T) {
	m := &meter{want: 1_000_000}
	at := time.Unix(100, 0)
	began := 0
	m.began = func() { began++ }
	for _, s := range []struct {
		sum   int64
		after time.Duration
	}{{5, 10 * time.Second}, {20, 11 * time.Second}, {100, 13 * time.Second}} {
		m.sum = s.sum
		m.note(at.Add(s.after))
	}
	if got := m.rate(); got != 40 { // 80 records in 2 s, and 100 is all there is
		t.Errorf("%v records/s", got)
	}
	if began != 1 {
		t.Errorf("it began %d times", began)
	}
}

// TestASlowProgramIsCut: what it has done by then counts; one that has done nothing has failed.
func TestASlowProgramIsCut(t *testing.T) {
	kafka, err := devkafka.Start(devkafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b := &bench{config: config{timeout: 20 * time.Second}}
	limit := 300 * time.Millisecond
	slow := program{name: "slow", limit: func(job) time.Duration { return limit }}

	for _, topic := range []string{"some", "none"} {
		if err := workload.Create(ctx, kafka.Addrs(), 1, nil, false, topic); err != nil {
			t.Fatal(err)
		}
	}
	m, err := newMeter(kafka.Addrs(), "none", 1000, 1000, false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if _, err := b.followFor(ctx, slow, job{}, nil, m); !errors.Is(err, errNotDone) {
		t.Errorf("nothing was done, and that is %v", err)
	}

	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...), kgo.DefaultProduceTopic("some"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	writing, enough := context.WithCancel(ctx)
	defer enough()
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				cl.Produce(writing, &kgo.Record{Key: workload.AppendKey(nil, i), Value: []byte{0, 0, 0, 0, 0, 0, 0, 1}}, nil)
			case <-writing.Done():
				return
			}
		}
	}()
	limit = 2 * time.Second
	if m, err = newMeter(kafka.Addrs(), "some", 1000, 1000, false); err != nil {
		t.Fatal(err)
	}
	defer m.close()
	cut, err := b.followFor(ctx, slow, job{}, nil, m)
	if err != nil || cut <= 0 || cut >= 1 || m.rate() <= 0 {
		t.Errorf("cut at %v, %v records/s, %v", cut, m.rate(), err)
	}
	slow.limit = nil
	b.timeout = 0
	dead, cancelNow := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancelNow()
	if cut, err := b.followFor(dead, slow, job{}, nil, m); !errors.Is(err, errNotDone) || cut != 0 {
		t.Errorf("a program without a limit: %v, %v", cut, err)
	}
}

func TestACutRunIsTold(t *testing.T) {
	c := cell{runs: []result{{Cut: 0.4}, {Cut: 0.38}, {Cut: 0.42}}}
	if got := c.count(); !strings.Contains(got, "cut at 40 %") {
		t.Error(got)
	}
	if got := (cell{runs: []result{{}}}).count(); strings.Contains(got, "cut") {
		t.Error(got)
	}
	if got := (cell{failed: []string{"why"}}).count(); !strings.Contains(got, "1 failed: why") {
		t.Error(got)
	}
}
