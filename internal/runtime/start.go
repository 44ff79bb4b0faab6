package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/txn"
)

// offsetsFetched keeps what the group says about each partition; adjustOffsets, called next, decides.
func (g *group) offsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	if !g.checkMember() {
		return nil
	}
	metas := map[inputKey]changelog.FoundInput{}
	for _, grp := range resp.Groups {
		for _, t := range grp.Topics {
			topic := t.Topic
			if topic == "" {
				topic = g.rt.plan.topicName(t.TopicID)
			}
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 {
					continue
				}
				in := changelog.FoundInput{Topic: topic, Partition: p.Partition, Offset: p.Offset}
				if p.Metadata != nil {
					in.Meta, in.Ours, in.MetaErr = txn.ParseMeta(*p.Metadata)
				}
				metas[inputKey{topic, p.Partition}] = in
			}
		}
	}
	g.mu.Lock()
	g.metas = metas
	g.mu.Unlock()
	return nil
}

// adjustOffsets decides where each new partition starts, and nowhere else is that decided: an absent offset becomes a
// concrete one and is committed before this returns. It returns no error of its own (kgo would answer by giving
// everything up): what cannot start stays paused and its task fails.
func (g *group) adjustOffsets(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	if !g.checkMember() {
		return offsets, nil
	}
	g.mu.Lock()
	metas := g.metas
	g.mu.Unlock()
	g.switched(metas)

	var absent []*taskRun
	seen := map[*taskRun]bool{}
	var arrivals []*taskRun
	for topic, ps := range offsets {
		for p := range ps {
			run := g.runOf(topic, p)
			if run == nil || seen[run] {
				continue
			}
			seen[run] = true
			arrivals = append(arrivals, run)
			for _, k := range run.keys {
				if in, ok := metas[k]; ok && in.Offset < 0 {
					absent = append(absent, run)
					break
				}
			}
		}
	}
	var starts map[inputKey]int64
	if len(absent) > 0 {
		var err error
		for tries := 0; ; tries++ {
			if starts, err = g.startAbsent(ctx, absent, metas); err == nil || !passes(err) {
				break
			}
			g.rt.log.Warn("finding where to start", "tries", tries+1, "err", err)
			select {
			case <-time.After(min(backoffMin<<min(tries, 10), backoffMax)):
			case <-ctx.Done():
			}
			if ctx.Err() != nil {
				break
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err() // the session is over; kgo asks again in the next
			}
			for _, run := range absent {
				g.failed(run, err)
			}
		}
	}
	for topic, ps := range offsets {
		for p := range ps {
			at := metas[inputKey{topic, p}].Offset
			if start, ok := starts[inputKey{topic, p}]; ok {
				at = start
			}
			ps[p] = kgo.NewOffset().At(max(0, at)) // where there is none its task has failed, and stays paused
		}
	}
	for _, run := range arrivals {
		for _, k := range run.keys {
			in, ok := metas[k]
			start, known := starts[k]
			if !known {
				start = in.Offset
			}
			if ok && start >= 0 && run.arrived(in, start) {
				go run.open()
			}
		}
	}
	return offsets, nil
}

// startAbsent finds a start for tasks with inputs the group knows nothing of: what their record says if there is one, the
// beginning of the topic otherwise; and commits it.
func (g *group) startAbsent(ctx context.Context, runs []*taskRun, metas map[inputKey]changelog.FoundInput) (map[inputKey]int64, error) {
	var topics []string
	for _, run := range runs {
		for _, k := range run.keys {
			topics = append(topics, k.topic)
		}
	}
	starts, err := kadm.NewClient(g.rt.admin).ListStartOffsets(ctx, topics...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("finding the beginning of %v: %w", topics, err)
	}
	records, err := g.rt.lastRecords(ctx, runs)
	if err != nil {
		return nil, err
	}
	begin := map[inputKey]int64{}
	var commit []txn.Offset
	for _, run := range runs {
		record := records[run.id]
		for _, k := range run.keys {
			in, ok := metas[k]
			if !ok || in.Offset >= 0 {
				continue
			}
			at, streamTime, now := int64(-1), int64(-1), int64(0)
			if record != nil {
				if o, known := record.Input(k.topic, k.partition); known {
					at, streamTime, now = o, record.StreamTime, record.Now
				}
			}
			if at < 0 {
				o, ok := starts.Lookup(k.topic, k.partition)
				if !ok {
					return nil, fmt.Errorf("finding the beginning of %s/%d: not listed", k.topic, k.partition)
				}
				at = o.Offset
			}
			begin[k] = at
			commit = append(commit, txn.Offset{
				Topic: k.topic, TopicID: g.rt.plan.topicID(k.topic), Partition: k.partition,
				Offset: at, LeaderEpoch: -1, StreamTime: streamTime, Now: now,
			})
		}
	}
	// The producer only lends its name to the commit id: no client is made, and the id is not initialised.
	p, err := g.rt.newProducer(0, 1, nil)
	if err != nil {
		return nil, err
	}
	id, err := p.CommitOffsets(ctx, g.cl, g.everything(), commit)
	if err != nil {
		return nil, err
	}
	for _, run := range runs {
		run.begin(id)
	}
	return begin, p.Close()
}

// everything authorizes a commit for whatever is owned at the moment.
func (g *group) everything() *claim {
	c := g.own.claim()
	c.member, _ = g.cl.GroupMetadata()
	return c
}
