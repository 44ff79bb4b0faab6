package oracle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/txn"
)

// pause is how long to wait before asking a cluster the same question again.
const pause = 50 * time.Millisecond

// Cluster reads what the checks need. It is safe for concurrent use.
type Cluster struct {
	addrs []string
	cl    *kgo.Client
	adm   *kadm.Client
}

// Open makes a Cluster of the brokers' addresses. Close it.
func Open(addrs ...string) (*Cluster, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return nil, fmt.Errorf("oracle: %w", err)
	}
	return &Cluster{addrs: addrs, cl: cl, adm: kadm.NewClient(cl)}, nil
}

// Close closes the clients.
func (c *Cluster) Close() { c.adm.Close() }

// Admin is a client for questions of the tests' own.
func (c *Cluster) Admin() *kadm.Client { return c.adm }

// Ends returns the last stable offset and the high watermark of each partition of topic.
func (c *Cluster) Ends(ctx context.Context, topic string) (stable, high []int64, err error) {
	for {
		stable, high, err = c.ends(ctx, topic)
		if err == nil || !retriable(err) {
			return stable, high, err
		}
		if waited := wait(ctx, pause); waited != nil {
			return nil, nil, fmt.Errorf("%w (last answer: %w)", waited, err)
		}
	}
}

func (c *Cluster) ends(ctx context.Context, topic string) (stable, high []int64, err error) {
	committed, err := c.adm.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	end, err := c.adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(committed.Error(), end.Error()); err != nil {
		return nil, nil, fmt.Errorf("ends of %s: %w", topic, err)
	}
	n := len(end[topic])
	if n == 0 {
		return nil, nil, fmt.Errorf("ends of %s: the topic has no partitions", topic)
	}
	stable, high = make([]int64, n), make([]int64, n)
	for p := range n {
		e, ok := end.Lookup(topic, int32(p))
		s, ok2 := committed.Lookup(topic, int32(p))
		if !ok || !ok2 {
			return nil, nil, fmt.Errorf("ends of %s: no answer for partition %d", topic, p)
		}
		stable[p], high[p] = s.Offset, e.Offset
	}
	return stable, high, nil
}

// AwaitSettled waits until no transaction is open on the topics. If ctx ends first the error says what is open.
func (c *Cluster) AwaitSettled(ctx context.Context, topics ...string) error {
	for _, topic := range topics {
		for {
			stable, high, err := c.Ends(ctx, topic)
			if err != nil {
				return err
			}
			open := ""
			for p := range stable {
				if stable[p] != high[p] {
					open = fmt.Sprintf("%s/%d is open at %d of %d", topic, p, stable[p], high[p])
				}
			}
			if open == "" {
				break
			}
			if err := wait(ctx, pause); err != nil {
				return fmt.Errorf("%s: %w", open, err)
			}
		}
	}
	return nil
}

// Read reads a topic with isolation level read_committed from its beginning to what is stable now.
func (c *Cluster) Read(ctx context.Context, topic string) (*Log, error) {
	stable, high, err := c.Ends(ctx, topic)
	if err != nil {
		return nil, err
	}
	l := &Log{Topic: topic, Partitions: make([]Partition, len(stable))}
	from := make(map[int32]kgo.Offset)
	for p := range stable {
		l.Partitions[p] = Partition{Stable: stable[p], High: high[p]}
		if stable[p] > 0 {
			from[int32(p)] = kgo.NewOffset().AtStart()
		}
	}
	if err := c.drop(ctx, topic, l, from); err != nil || len(from) == 0 {
		return l, err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.addrs...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // a log ends in markers: only with them the end is ever seen
		kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("oracle: %w", err)
	}
	defer cl.Close()
	for len(from) > 0 {
		fs := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("reading %s: %d partitions did not reach their end: %w", topic, len(from), err)
		}
		var failed error
		fs.EachError(func(t string, p int32, err error) { failed = fmt.Errorf("reading %s/%d: %w", t, p, err) })
		if failed != nil {
			return nil, failed
		}
		fs.EachRecord(func(r *kgo.Record) {
			part := &l.Partitions[r.Partition]
			if r.Offset+1 >= part.Stable {
				delete(from, r.Partition)
			}
			// What was committed after we asked for the end belongs to the next reading.
			if r.Attrs.IsControl() || r.Offset >= part.Stable {
				return
			}
			part.Records = append(part.Records, Record{Offset: r.Offset, Key: r.Key, Value: r.Value, Headers: r.Headers})
		})
	}
	return l, nil
}

// drop takes partitions out of from that hold nothing any more, because their records were deleted.
func (c *Cluster) drop(ctx context.Context, topic string, l *Log, from map[int32]kgo.Offset) error {
	start, err := c.adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return fmt.Errorf("start of %s: %w", topic, err)
	}
	for p := range from {
		if s, ok := start.Lookup(topic, p); ok && s.Err == nil && s.Offset >= l.Partitions[p].Stable {
			delete(from, p)
		}
	}
	return nil
}

// ReadAll reads several topics.
func (c *Cluster) ReadAll(ctx context.Context, topics ...string) ([]*Log, error) {
	logs := make([]*Log, len(topics))
	for i, topic := range topics {
		var err error
		if logs[i], err = c.Read(ctx, topic); err != nil {
			return nil, err
		}
	}
	return logs, nil
}

// Committed returns what the group has committed for a topic of n partitions, waiting for offsets in open transactions
// to be decided (the fetch is a stable one). A partition without a committed offset has offset -1.
func (c *Cluster) Committed(ctx context.Context, group, topic string, n int) ([]Commit, error) {
	for {
		commits, err := c.committed(ctx, group, topic, n)
		if err == nil || !retriable(err) {
			return commits, err
		}
		if waited := wait(ctx, pause); waited != nil {
			return nil, fmt.Errorf("%w (last answer: %w)", waited, err)
		}
	}
}

func (c *Cluster) committed(ctx context.Context, group, topic string, n int) ([]Commit, error) {
	answer, err := c.adm.FetchOffsets(kadm.RequireStable(ctx), group)
	if err == nil {
		err = answer.Error()
	}
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // that one has committed nothing yet
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	commits := make([]Commit, n)
	for p := range commits {
		o, ok := answer.Lookup(topic, int32(p))
		if !ok {
			commits[p].Offset = -1
			continue
		}
		commits[p].Offset = o.At
		if m, ours, err := txn.ParseMeta(o.Metadata); ours && err == nil {
			commits[p].ID = commitText(m.Commit)
		}
	}
	return commits, nil
}

// Offsets are the offsets of commits, for Log.Upto.
func Offsets(commits []Commit) []int64 {
	offsets := make([]int64, len(commits))
	for i, c := range commits {
		offsets[i] = c.Offset
	}
	return offsets
}

// AwaitEmpty waits until the group has no members.
func (c *Cluster) AwaitEmpty(ctx context.Context, group string) error {
	for {
		groups, err := c.adm.DescribeGroups(ctx, group)
		g, ok := groups[group]
		if err == nil && ok && g.Err == nil && len(g.Members) == 0 {
			return nil
		}
		if err := wait(ctx, pause); err != nil {
			return fmt.Errorf("group %s still has %d members (%s): %w", group, len(g.Members), g.State, err)
		}
	}
}

// TaskCommits returns what the last records of a tasks topic say about a topic of n partitions.
func TaskCommits(tasks *Log, topic string, n int) ([]Commit, *Verdict) {
	v := &Verdict{Check: tasks.Topic + " decodes"}
	commits := make([]Commit, n)
	for p := range commits {
		commits[p].Offset = -1
	}
	for p := range tasks.Partitions {
		for _, r := range tasks.Partitions[p].Records {
			if r.Value == nil || !changelog.IsTaskKey(r.Key) {
				continue // a task that is gone, or the registry
			}
			v.Seen++
			rec, err := changelog.ParseTaskRecord(r.Value)
			if err != nil {
				v.wrong("%s/%d@%d key %q: %v", tasks.Topic, p, r.Offset, r.Key, err)
				continue
			}
			for _, in := range rec.Inputs {
				if in.Topic == topic && int(in.Partition) < n {
					commits[in.Partition] = Commit{Offset: in.Offset, ID: commitText(rec.Commit)}
				}
			}
		}
	}
	return commits, v
}

func commitText(id txn.CommitID) string {
	if id == (txn.CommitID{}) {
		return ""
	}
	return fmt.Sprintf("%s/%d/%d/%x/%d", id.TxnID, id.ProducerID, id.ProducerEpoch, id.Random, id.Seq)
}

// retriable reports whether a broker's error may go away by itself.
func retriable(err error) bool {
	var e *kerr.Error
	return errors.As(err, &e) && e.Retriable
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
