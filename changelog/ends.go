package changelog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/fault"
)

// TopicPartition names one log.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Ends is where a log begins and ends.
type Ends struct {
	Start int64
	End   int64 // the high watermark: open transactions included
}

// endsPatience is how long ListEnds follows leaders that move.
const endsPatience = 10 * time.Second

// ListEnds asks for the start and the uncommitted end of logs. The end is the end of a restore only if it is listed after
// the stable OffsetFetch of the task's inputs (docs/design/0005-restore.md): what an earlier owner commits until then
// would be missed. The last stable offset will not do: a committed transaction whose markers are still under way is
// above it. Leaders that move are followed for 10 s.
//
// It asks the leaders itself: kgo sends ListOffsets by metadata that may be 5 s old, and returns the refusals.
func ListEnds(ctx context.Context, cl *kgo.Client, logs []TopicPartition) (map[TopicPartition]Ends, error) {
	ctx, cancel := context.WithTimeout(ctx, endsPatience)
	defer cancel()
	ends := make(map[TopicPartition]Ends, len(logs))
	for wait := backoffMin; ; wait = min(2*wait, backoffMax) {
		err := listEnds(ctx, cl, logs, ends)
		if err == nil {
			return ends, nil
		}
		var refused *kerr.Error
		if errors.As(err, &refused) && !refused.Retriable && refused != kerr.UnknownServerError {
			return nil, err // it would say the same again; what it cannot explain itself may pass
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// listEnds asks once, for what ends does not hold yet.
func listEnds(ctx context.Context, cl *kgo.Client, logs []TopicPartition, ends map[TopicPartition]Ends) error {
	var names []string
	left := map[string][]int32{}
	for _, tp := range logs {
		if _, ok := ends[tp]; ok || slices.Contains(left[tp.Topic], tp.Partition) {
			continue // a broker refuses a request that names a partition twice; tasks of one number have their records in one
		}
		if left[tp.Topic] == nil {
			names = append(names, tp.Topic)
		}
		left[tp.Topic] = append(left[tp.Topic], tp.Partition)
	}
	if len(names) == 0 {
		return nil
	}
	meta, err := describeTopics(ctx, cl, names)
	if err != nil {
		return err
	}
	var errs []error
	byLeader := map[int32]map[string][]int32{}
	for _, name := range names {
		t := meta.topics[name]
		if err := kerr.ErrorForCode(t.code); err != nil {
			errs = append(errs, fmt.Errorf("list offsets of %s: %w", name, err))
			continue
		}
		for _, p := range left[name] {
			if int(p) >= len(t.leaders) || t.leaders[p] < 0 {
				errs = append(errs, fmt.Errorf("list offsets of %s/%d: %w", name, p, kerr.LeaderNotAvailable))
				continue
			}
			leader := t.leaders[p]
			if byLeader[leader] == nil {
				byLeader[leader] = map[string][]int32{}
			}
			byLeader[leader][name] = append(byLeader[leader][name], p)
		}
	}
	for leader, of := range byLeader {
		const first, last = -2, -1
		starts, err := listOffsets(ctx, cl, leader, of, first)
		if err != nil {
			errs = append(errs, err)
		}
		tops, err := listOffsets(ctx, cl, leader, of, last)
		if err != nil {
			errs = append(errs, err)
		}
		for tp, start := range starts {
			if end, ok := tops[tp]; ok {
				ends[tp] = Ends{Start: start, End: end}
			}
		}
	}
	return errors.Join(errs...)
}

// listOffsets asks one leader about its partitions. What it could not say is an error; the rest is returned all the same.
func listOffsets(ctx context.Context, cl *kgo.Client, leader int32, of map[string][]int32, at int64) (map[TopicPartition]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = 0
	for name, partitions := range of {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = name
		for _, n := range partitions {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp, p.CurrentLeaderEpoch = n, at, -1
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl.Broker(int(leader)))
	if err != nil {
		return nil, fmt.Errorf("list offsets at broker %d: %w", leader, err)
	}
	listed := map[TopicPartition]int64{}
	var errs []error
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				errs = append(errs, fmt.Errorf("list offsets of %s/%d: %w", t.Topic, p.Partition, err))
				continue
			}
			listed[TopicPartition{t.Topic, p.Partition}] = p.Offset
		}
	}
	return listed, errors.Join(errs...)
}

// recreated is the refusal of a topic that is not the one it was.
func recreated(topic string, found, wanted [16]byte) *fault.Error {
	return &fault.Error{
		Code: "topic/recreated", Kind: fault.State, Thing: "topic " + topic, Value: topicID(found),
		Reason: "it was deleted and created anew: its id was " + topicID(wanted) + ", and what is in it now is something else",
		Remedy: "restore the topic from a backup, or start over with `millrace reset`",
	}
}
