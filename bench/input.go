package main

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

const partitions = 4

// input returns a topic with that content. It is filled once, and serves all runs: an app's group is new each time.
func (b *bench) input(ctx context.Context, s workload.Spec) (topic string, err error) {
	if topic, ok := b.inputs[s]; ok {
		return topic, nil
	}
	if err := b.room(int64(s.Records) * int64(s.ValueBytes+workload.KeySize+16)); err != nil {
		return "", err
	}
	topic = b.name(s.Dist)
	if err := workload.Create(ctx, b.broker.addrs, s.Partitions, nil, false, topic); err != nil {
		return "", err
	}
	began := time.Now()
	distinct, err := workload.Fill(ctx, b.broker.addrs, topic, s, nil)
	if err != nil {
		return "", err
	}
	say("  %s: %d records of %d bytes, %d of %d keys, %d partitions, %s", topic, s.Records, s.ValueBytes, distinct, s.Keys, s.Partitions, time.Since(began).Round(time.Millisecond))
	b.inputs[s] = topic
	return topic, nil
}

// drop deletes an input that nobody needs any more.
func (b *bench) drop(ctx context.Context, s workload.Spec) error {
	topic, ok := b.inputs[s]
	if !ok {
		return nil
	}
	delete(b.inputs, s)
	return workload.Delete(ctx, b.broker.addrs, topic)
}

func (b *bench) dropInputs(ctx context.Context) error {
	var topics []string
	for _, t := range b.inputs {
		topics = append(topics, t)
	}
	return workload.Delete(ctx, b.broker.addrs, topics...)
}

// records is a number of records at the scale asked for.
func (c config) records(n int) int { return max(200, int(float64(n)*c.scale)) }

func zipf(records, valueBytes int) workload.Spec {
	return workload.Spec{Dist: "zipf", Keys: 100_000, Records: records, ValueBytes: valueBytes, Partitions: partitions, Seed: 42}
}

func uniform(keys, records int) workload.Spec {
	return workload.Spec{Dist: "uniform", Keys: keys, Records: records, ValueBytes: 100, Partitions: partitions, Seed: 42}
}

// want is how many outputs, or what sum of counts, says that a workload is done.
func want(work string, s workload.Spec) int64 {
	if work != "map" {
		return int64(s.Records)
	}
	draw, even := s.Draw(), int64(0)
	for range s.Records {
		if draw()%2 == 0 {
			even++
		}
	}
	return even
}

func (t trial) String() string { return fmt.Sprintf("%s %s", t.figure, t.name) }
