package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/chaos"
)

// Offset is the committed position of one input partition.
type Offset struct {
	Topic       string
	TopicID     [16]byte // required: brokers from 4.1 address topics by id
	Partition   int32
	Offset      int64
	LeaderEpoch int32 // of the last processed record, -1 unknown
	StreamTime  int64 // goes into the metadata
	Now         int64
	// Previous is the commit id the group held for the partition before this epoch, as it was last fetched or committed; zero
	// if there was none of ours. An unknown outcome is resolved with it: another id than this and ours is another owner's.
	Previous CommitID
}

// sendOffsets puts the offsets into the transaction. The error is an *Error, or wraps the ownership's.
func (t *Txn) sendOffsets(ctx context.Context, own Ownership, offsets []Offset) error {
	meta := metadata{guarantee: t.p.c.Guarantee, id: t.id}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID = t.id.TxnID
	req.Group = t.p.c.Group
	req.ProducerID = t.id.ProducerID
	req.ProducerEpoch = t.id.ProducerEpoch
	index := make(map[string]int)
	for _, o := range offsets {
		i, ok := index[o.Topic]
		if !ok {
			if o.TopicID == ([16]byte{}) {
				return t.offsetsError(ActAbort, fmt.Errorf("txn: the offset of %s/%d has no topic id", o.Topic, o.Partition))
			}
			i = len(req.Topics)
			index[o.Topic] = i
			rt := kmsg.NewTxnOffsetCommitRequestTopic()
			rt.Topic, rt.TopicID = o.Topic, o.TopicID
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = o.Partition, o.Offset, o.LeaderEpoch, meta.of(o)
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	send := func(ctx context.Context, m Member) (Action, error) {
		req.MemberID, req.Generation, req.InstanceID = m.ID, m.Generation, m.InstanceID
		t.offsetsSent = true
		resp, err := req.RequestWith(ctx, t.client)
		if err != nil {
			return Classify(PhaseOffsets, err), err
		}
		w := worst{phase: PhaseOffsets, left: len(offsets)}
		for _, rt := range resp.Topics {
			for _, rp := range rt.Partitions {
				w.see(rt.Topic, rp.Partition, rp.ErrorCode)
			}
		}
		return w.verdict()
	}
	if a, err := authorized(ctx, own, send); err != nil {
		return t.offsetsError(a, err)
	}
	return nil
}

func (t *Txn) offsetsError(a Action, err error) error {
	return t.p.failure(PhaseOffsets, a, err)
}

// CommitOffsets commits offsets outside of a transaction, for an epoch that produced nothing and changed nothing: a
// transaction without a record cannot be committed. Metadata, ownership test and retries are as in Txn.Commit. It is refused
// while a transaction of the producer is open. cl is any client; after an error it is not known whether the offsets were
// committed, and nothing depends on it: the same records lead to the same nothing again.
func (p *Producer) CommitOffsets(ctx context.Context, cl *kgo.Client, own Ownership, offsets []Offset) (CommitID, error) {
	switch {
	case p.closed:
		return CommitID{}, ErrClosed
	case p.open != nil:
		return CommitID{}, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, p.c.Timeout)
	defer cancel()
	id := p.c.Sequence.next(p.c.TransactionalID, -1, -1)
	if _, err := p.sendPlain(ctx, cl, own, id, offsets); err != nil {
		return CommitID{}, err
	}
	return id, nil
}

// sendPlain commits offsets by an ordinary request. sent tells whether a request left, whatever became of it: if none did, then
// nothing was committed.
func (p *Producer) sendPlain(ctx context.Context, cl *kgo.Client, own Ownership, id CommitID, offsets []Offset) (sent bool, err error) {
	meta := metadata{guarantee: p.c.Guarantee, id: id}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = p.c.Group
	index := make(map[string]int)
	for _, o := range offsets {
		i, ok := index[o.Topic]
		if !ok {
			if o.TopicID == ([16]byte{}) {
				return false, p.failure(PhasePlain, ActAbort, fmt.Errorf("txn: the offset of %s/%d has no topic id", o.Topic, o.Partition))
			}
			i = len(req.Topics)
			index[o.Topic] = i
			rt := kmsg.NewOffsetCommitRequestTopic()
			rt.Topic, rt.TopicID = o.Topic, o.TopicID
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = o.Partition, o.Offset, o.LeaderEpoch, meta.of(o)
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	send := func(ctx context.Context, m Member) (Action, error) {
		req.MemberID, req.Generation, req.InstanceID = m.ID, m.Generation, m.InstanceID
		sent = true
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return Classify(PhasePlain, err), err
		}
		w := worst{phase: PhasePlain, left: len(offsets)}
		for _, rt := range resp.Topics {
			for _, rp := range rt.Partitions {
				w.see(rt.Topic, rp.Partition, rp.ErrorCode)
			}
		}
		return w.verdict()
	}
	if a, err := authorized(ctx, own, send); err != nil {
		return sent, p.failure(PhasePlain, a, err)
	}
	return sent, nil
}

// authorized sends until it is done with, asking the ownership before every time.
func authorized(ctx context.Context, own Ownership, send func(context.Context, Member) (Action, error)) (Action, error) {
	pause := backoff{min: 2 * time.Millisecond, max: 50 * time.Millisecond}
	for {
		m, err := own.Authorize()
		if err != nil {
			if !chaos.Has(chaos.OffsetsForLostTask) {
				return ActAbort, err
			}
			m = Member{Generation: -1} // which a broker takes from anybody
		}
		a, err := send(ctx, m)
		if err == nil {
			return 0, nil
		}
		if a != ActRetry && a != ActRefresh {
			return a, err
		}
		if pause.wait(ctx) != nil {
			return ActRecreate, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// metadata encodes once for each run of offsets with the same clocks.
type metadata struct {
	guarantee Guarantee
	id        CommitID
	time, now int64
	last      *string
}

func (m *metadata) of(o Offset) *string {
	if m.last == nil || m.time != o.StreamTime || m.now != o.Now {
		s := Meta{Commit: m.id, StreamTime: o.StreamTime, Now: o.Now, Guarantee: m.guarantee}.Encode()
		m.time, m.now, m.last = o.StreamTime, o.Now, &s
	}
	return m.last
}

// worst looks at every partition's answer and keeps the one that asks for most.
type worst struct {
	phase  Phase
	left   int // partitions not yet answered for
	action Action
	err    error
}

func (w *worst) see(topic string, partition int32, code int16) {
	w.left--
	err := kerr.ErrorForCode(code)
	if err == nil {
		return
	}
	if a := Classify(w.phase, err); a > w.action {
		w.action, w.err = a, fmt.Errorf("%s/%d: %w", topic, partition, err)
	}
}

func (w *worst) verdict() (Action, error) {
	if w.err == nil && w.left != 0 {
		return otherwise[w.phase], ErrShortAnswer
	}
	return w.action, w.err
}

// Stable is a committed offset that no open transaction is about to change.
type Stable struct {
	Offset      int64 // -1: none was committed
	LeaderEpoch int32
	Raw         string // the metadata as it was committed
	Meta        Meta   // what it says, if Ours and Err is nil
	Ours        bool
	Err         error // the metadata is ours and cannot be read
}

// StableOffsets fetches committed offsets, and does not answer for as long as an open transaction holds one of them: the
// error then wraps ErrUnstable, and asking again every 20 ms is right. It is the only OffsetFetch there is: a hand-made one
// that forgets RequireStable sees offsets from before a commit whose markers are on their way. The result has an entry for
// every partition asked for.
func StableOffsets(ctx context.Context, cl *kgo.Client, group string, partitions map[string][]int32) (map[string]map[int32]Stable, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = true
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	want := 0
	for topic, nums := range partitions {
		rt := kmsg.NewOffsetFetchRequestGroupTopic()
		rt.Topic, rt.Partitions = topic, nums
		g.Topics = append(g.Topics, rt)
		want += len(nums)
	}
	if want == 0 {
		return nil, nil // an empty list would ask for everything
	}
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fetchError(group, err)
	}
	if len(resp.Groups) != 1 {
		return nil, fetchError(group, ErrShortAnswer)
	}
	out := make(map[string]map[int32]Stable, len(partitions))
	switch err := kerr.ErrorForCode(resp.Groups[0].ErrorCode); {
	case errors.Is(err, kerr.GroupIDNotFound): // some brokers say this of a group without members and offsets, others say -1
		for topic, nums := range partitions {
			out[topic] = make(map[int32]Stable, len(nums))
			for _, num := range nums {
				out[topic][num] = Stable{Offset: -1, LeaderEpoch: -1}
			}
		}
		return out, nil
	case err != nil:
		return nil, fetchError(group, err)
	}
	for _, rt := range resp.Groups[0].Topics {
		for _, rp := range rt.Partitions {
			if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
				if rp.ErrorCode == kerr.UnstableOffsetCommit.Code {
					err = fmt.Errorf("%w: %w", ErrUnstable, err)
				}
				return nil, fetchError(group, fmt.Errorf("%s/%d: %w", rt.Topic, rp.Partition, err))
			}
			s := Stable{Offset: rp.Offset, LeaderEpoch: rp.LeaderEpoch}
			if rp.Metadata != nil {
				s.Raw = *rp.Metadata
			}
			s.Meta, s.Ours, s.Err = ParseMeta(s.Raw)
			if out[rt.Topic] == nil {
				out[rt.Topic] = make(map[int32]Stable, len(rt.Partitions))
			}
			out[rt.Topic][rp.Partition] = s
		}
	}
	for topic, nums := range partitions {
		for _, num := range nums {
			if _, ok := out[topic][num]; !ok {
				return nil, fetchError(group, fmt.Errorf("%s/%d: %w", topic, num, ErrShortAnswer))
			}
		}
	}
	return out, nil
}

func fetchError(group string, err error) error {
	return fmt.Errorf("fetch offsets of group %s: %w", group, newError("", group, PhaseFetch, Classify(PhaseFetch, err), err))
}
