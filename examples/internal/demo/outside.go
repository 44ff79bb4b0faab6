package demo

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/stream"
)

// outside is the world around an application: it creates topics and writes into them.
type outside struct {
	client *kgo.Client
	admin  *kadm.Client
}

const (
	partitions = 4                // of the topics an example creates
	patience   = 60 * time.Second // with a topic into which nothing comes any more
)

func connect(addrs []string) (*outside, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(addrs...),
		kgo.MaxBufferedRecords(20_000),
		// No RecordDeliveryTimeout: it counts from a record's timestamp, and some examples write about an hour ago.
		kgo.RetryTimeout(patience/4),
	)
	if err != nil {
		return nil, err
	}
	return &outside{client, kadm.NewClient(client)}, nil
}

func (o *outside) close() { o.client.Close() }

// create makes the topics the topology reads and writes. Those the application owns it makes itself.
func (o *outside) create(ctx context.Context, top *stream.Topology) error {
	wide, single := topics(top), broadcast(top)
	wide = slices.DeleteFunc(wide, func(name string) bool { return slices.Contains(single, name) })
	answers, err := o.admin.CreateTopics(ctx, partitions, -1, nil, wide...)
	if err == nil && len(single) > 0 {
		var more kadm.CreateTopicResponses
		more, err = o.admin.CreateTopics(ctx, 1, -1, nil, single...)
		maps.Copy(answers, more)
	}
	if err != nil {
		return fmt.Errorf("create the topics of the example: %w", unreachable(o.client, err))
	}
	for _, name := range append(wide, single...) {
		switch err := answers[name].Err; {
		case errors.Is(err, kerr.TopicAlreadyExists):
			return fmt.Errorf("topic %s is there already, from an earlier run: add -again to delete it and everything else that run left in the cluster", name)
		case err != nil:
			return fmt.Errorf("create topic %s: %w", name, err)
		}
	}
	return nil
}

// forget deletes what an earlier run left in the cluster: the topics of the topology, those of the application, its group.
func (o *outside) forget(ctx context.Context, app string, top *stream.Topology) error {
	names := append(topics(top), app+"-tasks")
	for _, s := range top.Subtopologies() {
		for _, st := range s.Stores {
			names = append(names, app+"-"+st.Name()+"-changelog")
		}
		for _, src := range s.Sources {
			if src.Topic.Through {
				names = append(names, src.Topic.Resolve(app))
			}
		}
	}
	answers, err := o.admin.DeleteTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("delete the topics of an earlier run: %w", unreachable(o.client, err))
	}
	for _, a := range answers {
		if a.Err != nil && !errors.Is(a.Err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("delete topic %s: %w", a.Topic, a.Err)
		}
	}
	if _, err := o.admin.DeleteGroup(ctx, app); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return fmt.Errorf("delete group %s: %w", app, err)
	}
	// A deletion is acknowledged before every part of the cluster has heard of it.
	return poll(ctx, func() (bool, error) {
		there, err := o.admin.ListTopics(ctx)
		return err == nil && !slices.ContainsFunc(names, there.Has), err
	})
}

// unreachable names the brokers in an error that is about not finding any.
func unreachable(c *kgo.Client, err error) error {
	seeds, _ := c.OptValue(kgo.SeedBrokers).([]string)
	return &fault.Error{Code: "cluster/unreachable", Kind: fault.Cluster, Thing: "brokers", Value: strings.Join(seeds, ","),
		Remedy: "check the address; docker compose up -d starts a broker", Err: err}
}

func topics(top *stream.Topology) []string {
	var names []string
	for _, s := range top.Subtopologies() {
		for _, src := range s.Sources {
			if !src.Topic.Through {
				names = append(names, src.Topic.Name)
			}
		}
		for _, sink := range s.Sinks {
			if !sink.Topic.Through {
				names = append(names, sink.Topic.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// broadcast are the topics that every task reads all of: they have one partition.
func broadcast(top *stream.Topology) []string {
	var names []string
	for _, s := range top.Subtopologies() {
		for _, src := range s.Sources {
			if src.Broadcast != "" && !src.Topic.Through {
				names = append(names, src.Topic.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func poll(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Send writes records to a topic and returns when the brokers have them all.
func Send[K, V any](ctx context.Context, k *Kafka, t stream.Topic[K, V], records iter.Seq2[processor.Record[K, V], error]) error {
	failed := make(chan error, 1)
	client := k.client.client
	began, sent := time.Now(), 0
	for r, err := range records {
		if err != nil {
			return err
		}
		if err := pace(ctx, began, sent); err != nil {
			return err
		}
		sent++
		// Empty is not null: nil would be.
		out := &kgo.Record{Topic: t.Ref().Name, Timestamp: r.Time}
		if out.Key, err = t.Key().Append([]byte{}, r.Key); err != nil {
			return err
		}
		if !r.NullValue {
			if out.Value, err = t.Value().Append([]byte{}, r.Value); err != nil {
				return err
			}
		}
		client.Produce(ctx, out, func(_ *kgo.Record, err error) {
			if err == nil {
				return
			}
			select {
			case failed <- err:
			default: // the first one is enough
			}
		})
	}
	flush, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Flush(flush); err != nil {
		return fmt.Errorf("write to %s: %w", t.Ref().Name, err)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("write to %s: %w", t.Ref().Name, err)
	default:
		return nil
	}
}

// pace waits until it is time for the next record after so many.
func pace(ctx context.Context, began time.Time, sent int) error {
	if rate <= 0 {
		return nil
	}
	early := time.Until(began.Add(time.Duration(sent) * time.Second / time.Duration(rate)))
	if early < 10*time.Millisecond {
		return nil
	}
	timer := time.NewTimer(early)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Follow reads the committed records of a topic from its start and hands them to f, until f says that it has seen enough. A
// topic into which nothing comes for a minute is an error.
func Follow[K, V any](ctx context.Context, k *Kafka, t stream.Topic[K, V], f func(processor.Record[K, V]) (enough bool, err error)) error {
	client, err := reader(k, t.Ref().Name)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		wait, cancel := context.WithTimeout(ctx, patience)
		fetches := client.PollFetches(wait)
		timedOut := wait.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if timedOut {
			return fmt.Errorf("nothing came into %s for %v", t.Ref().Name, patience)
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s: %w", t.Ref().Name, err)
		}
		for in := range fetches.RecordsAll() {
			r, err := decode(t, in)
			if err != nil {
				return err
			}
			if enough, err := f(r); enough || err != nil {
				return err
			}
		}
	}
}

// All returns the records that are committed in a topic now.
func All[K, V any](ctx context.Context, k *Kafka, t stream.Topic[K, V]) ([]processor.Record[K, V], error) {
	name := t.Ref().Name
	ends, err := k.client.admin.ListCommittedOffsets(ctx, name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("find the end of %s: %w", name, err)
	}
	missing := map[int32]int64{} // partition -> end
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			missing[o.Partition] = o.Offset
		}
	})
	// Without them a partition that ends in the mark of a transaction, as ours do, never seems to be read to its end.
	client, err := reader(k, name, kgo.KeepControlRecords())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var all []processor.Record[K, V]
	for len(missing) > 0 {
		fetches := client.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		for in := range fetches.RecordsAll() {
			if end, ok := missing[in.Partition]; ok && in.Offset+1 >= end {
				delete(missing, in.Partition)
			}
			if in.Attrs.IsControl() {
				continue
			}
			r, err := decode(t, in)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
	}
	return all, nil
}

func reader(k *Kafka, topic string, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(opts,
		kgo.SeedBrokers(k.Addrs...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(200*time.Millisecond),
	)...)
}

func decode[K, V any](t stream.Topic[K, V], in *kgo.Record) (r processor.Record[K, V], err error) {
	r.NullKey, r.NullValue, r.Time = in.Key == nil, in.Value == nil, in.Timestamp
	if !r.NullKey {
		r.Key, err = t.Key().Decode(in.Key)
	}
	if !r.NullValue && err == nil {
		r.Value, err = t.Value().Decode(in.Value)
	}
	if err != nil {
		err = fmt.Errorf("record %s/%d@%d: %w", in.Topic, in.Partition, in.Offset, err)
	}
	return r, err
}
