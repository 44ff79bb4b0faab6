package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/topology"
)

// broadcastInput is a topic of which every task of a subtopology reads all.
type broadcastInput struct {
	source int
	topic  string
	store  string
}

// broadcastInputs are those of a task, which stand behind its other inputs.
func (p *plan) broadcastInputs(s *subPlan) []task.Input {
	var in []task.Input
	for _, b := range s.broadcasts {
		in = append(in, task.Input{Source: b.source, Topic: b.topic, Broadcast: b.store, TopicID: p.topicID(b.topic)})
	}
	return in
}

const (
	broadcastWait    = 100 * time.Millisecond // how long a broker may hold a request that has nothing to say
	broadcastGiveUp  = 10 * time.Second       // how long a position outside of the log is looked at again before it is believed
	broadcastStalled = 500 * time.Millisecond // how long a start waits for an open transaction before a fencing pass
)

// broadcasts reads broadcast topics, one reader per topic, for all tasks of the instance. The group knows nothing of them: each task
// has a position of its own, and there is no assignment.
//
// A reader has no position: it reads where the hindmost of its tasks is that has room, and gives what comes to every task that is
// in it. Tasks that have come to the end are all at one place, and then everything is fetched once; a task that comes later
// begins where its last epoch left it, and the others, which have that already, wait for it to catch up. Memory is bounded by
// what the tasks may hold.
type broadcasts struct {
	rt  *Runtime
	ctx context.Context
	end context.CancelFunc
	wg  sync.WaitGroup

	mu      sync.Mutex
	readers map[string]*broadcastReader
}

func newBroadcasts(rt *Runtime) *broadcasts {
	b := &broadcasts{rt: rt, readers: map[string]*broadcastReader{}}
	b.ctx, b.end = context.WithCancel(context.Background())
	return b
}

// subscribe begins to bring a task, which its worker has, what its broadcast topics have from its positions on.
func (b *broadcasts) subscribe(run *taskRun) {
	run.announcers = make([]*broadcastReader, len(run.announced))
	for i, in := range run.announced {
		run.announcers[i] = b.reader(in.Topic)
	}
	for i, in := range run.announced {
		r := run.announcers[i]
		r.mu.Lock()
		if run.ctx.Err() == nil { // else it is being closed, and unsubscribed or about to be
			r.subs = append(r.subs, &subscription{run: run, input: len(run.inputs) + i, next: in.Start, end: -1})
		}
		r.mu.Unlock()
		r.poke()
	}
}

// unsubscribe ends that. The task's context is over.
func (b *broadcasts) unsubscribe(run *taskRun) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.readers {
		r.mu.Lock()
		r.subs = slices.DeleteFunc(r.subs, func(s *subscription) bool { return s.run == run })
		r.mu.Unlock()
	}
}

// close ends all readers.
func (b *broadcasts) close() {
	if b == nil {
		return
	}
	b.end()
	b.wg.Wait()
}

func (b *broadcasts) reader(topic string) *broadcastReader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.readers[topic]
	if r == nil {
		r = &broadcastReader{b: b, rt: b.rt, topic: topic, id: b.rt.plan.topicID(topic), leader: -1, woken: make(chan struct{}, 1)}
		b.readers[topic] = r
		b.wg.Add(1)
		go func() {
			defer b.wg.Done()
			r.run(b.ctx)
		}()
	}
	return r
}

// subscription is one input of one task.
type subscription struct {
	run   *taskRun
	input int
	next  int64 // offset of the next record to be given to the task
	end   int64 // how far the topic went when the task came; -1 not known yet
}

// room reports whether the task may be given more.
func (s *subscription) room(most int64) bool { return s.run.announcing.Load() < most }

// broadcastReader reads one topic.
type broadcastReader struct {
	b     *broadcasts
	rt    *Runtime
	topic string
	id    [16]byte
	woken chan struct{}

	mu   sync.Mutex
	subs []*subscription

	// Of the reader's goroutine.
	client   *kgo.Client
	leader   int32
	tries    int
	empty    int       // answers in a row without anything
	outside  time.Time // since when the brokers say that the position is not in the log
	stalled  time.Time // since when a start waits for an open transaction
	decoding kgo.Decompressor
}

// poke makes a reader look up that has nothing to do.
func (r *broadcastReader) poke() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

func (r *broadcastReader) run(ctx context.Context) {
	r.decoding = kgo.DefaultDecompressor()
	defer func() {
		if r.client != nil {
			r.client.Close()
		}
	}()
	for ctx.Err() == nil {
		at, ok := r.hindmost()
		if !ok {
			select {
			case <-r.woken:
			case <-ctx.Done():
			}
			continue
		}
		err := r.turn(ctx, at)
		if err == nil {
			r.tries = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		var refused *fault.Error
		if errors.As(err, &refused) {
			r.rt.fail(err)
			return
		}
		r.leader = -1
		if r.tries++; r.tries&(r.tries-1) == 0 && r.tries > 1 {
			r.rt.log.Warn("reading a broadcast topic", "topic", r.topic, "tries", r.tries, "err", err)
		}
		select {
		case <-time.After(min(backoffMin<<min(r.tries, 10)/4, backoffMax)):
		case <-ctx.Done():
		}
	}
}

// hindmost is the least position of tasks that have room.
func (r *broadcastReader) hindmost() (at int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.subs {
		if s.room(r.rt.budget.part) && (!ok || s.next < at) {
			at, ok = s.next, true
		}
	}
	return at, ok
}

// turn fetches from a position on, once, and hands out what came.
func (r *broadcastReader) turn(ctx context.Context, at int64) error {
	if r.client == nil {
		client, err := kgo.NewClient(r.rt.clientOpts("broadcast")...)
		if err != nil {
			return err
		}
		r.client = client
	}
	if r.leader < 0 {
		if err := r.findLeader(ctx); err != nil {
			return err
		}
	}
	if err := r.listEnds(ctx); err != nil {
		return err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(broadcastWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = int32(r.rt.budget.part)
	req.IsolationLevel = 1
	req.SessionEpoch = -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = r.topic, r.id
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes = at, int32(r.rt.budget.part)
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, r.client.Broker(int(r.leader)))
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return errors.New("the broker's answer left the topic out")
	}
	rp := &resp.Topics[0].Partitions[0]
	switch err := kerr.ErrorForCode(rp.ErrorCode); {
	case errors.Is(err, kerr.OffsetOutOfRange):
		return r.outOfRange(ctx, at)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return &fault.Error{Code: "cluster/authorization", Kind: fault.Cluster, Thing: "broadcast topic", Value: r.topic,
			Reason: "reading it is not allowed", Remedy: "grant READ and DESCRIBE on the topic", Err: err}
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
		r.rt.checkTopicsSoon()
		return err
	case err != nil:
		return err
	}
	r.outside = time.Time{}
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: at, IsolationLevel: kgo.ReadCommitted(), Topic: r.topic,
	}, rp, r.decoding, nil)
	if fp.Err != nil {
		return fp.Err
	}
	if next > at {
		r.stalled, r.empty = time.Time{}, 0
	} else {
		hole := len(rp.RecordBatches) == 0 && rp.LastStableOffset >= rp.HighWatermark && at < rp.HighWatermark && resp.ThrottleMillis == 0
		if r.empty++; hole && r.empty > 1 {
			next = rp.HighWatermark // compaction has left nothing between here and the end; said twice
		}
		r.waits(at, rp)
	}
	r.handOut(at, fp.Records, next)
	return nil
}

// waits notices that a start waits for somebody's open transaction.
func (r *broadcastReader) waits(at int64, rp *kmsg.FetchResponseTopicPartition) {
	if rp.LastStableOffset >= rp.HighWatermark || at < rp.LastStableOffset {
		r.stalled = time.Time{}
		return
	}
	now := time.Now()
	switch {
	case r.stalled.IsZero():
		r.stalled = now
	case now.Sub(r.stalled) >= broadcastStalled:
		r.stalled = now
		r.mu.Lock()
		starting := slices.ContainsFunc(r.subs, func(s *subscription) bool { return s.next < s.end })
		r.mu.Unlock()
		if starting {
			r.rt.log.Info("tasks that start wait for an open transaction", "topic", r.topic, "last_stable_offset", rp.LastStableOffset, "high_watermark", rp.HighWatermark)
			go r.rt.fenceAgain()
		}
	}
}

// handOut gives records from..next to the tasks that are in there.
func (r *broadcastReader) handOut(from int64, records []*kgo.Record, next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.subs {
		if s.next < from || s.next >= next {
			continue
		}
		i, _ := slices.BinarySearchFunc(records, s.next, func(rec *kgo.Record, at int64) int { return int(rec.Offset - at) })
		b := s.run.group.fetched.announce(s.input, records[i:], next)
		s.next = next
		s.run.queued(int64(b.Bytes))
		s.run.announcing.Add(int64(b.Bytes))
		s.run.worker.mail.send(message{run: s.run, batch: b})
	}
}

// announce makes a batch of records that others get as well: they share keys, values and headers, and nobody changes those.
func (f *fetched) announce(input int, records []*kgo.Record, next int64) *task.Batch {
	b := &task.Batch{Input: input, Records: f.raw.take(len(records)), Next: next, Epoch: -1}
	for _, r := range records {
		b.Records = append(b.Records, topology.Raw{
			Key: r.Key, Value: r.Value, Headers: ourHeaders(r.Headers), Time: r.Timestamp.UnixMilli(), Offset: r.Offset,
		})
		b.Bytes += len(r.Key) + len(r.Value) + recordOverhead
		for i := range r.Headers {
			b.Bytes += len(r.Headers[i].Key) + len(r.Headers[i].Value)
		}
	}
	return b
}

// released takes note of a batch that the kernel has let go of.
func (t *taskRun) released(b task.Batch) {
	if b.Input >= len(t.inputs) {
		t.announcing.Add(-int64(b.Bytes))
		for _, r := range t.announcers { // what one reader has brought took the room of all
			r.poke()
		}
	}
	t.group.fetched.release(b)
}

// listEnds tells tasks that have just come how far the topic goes: to its high watermark, since a transaction that is committed and
// whose marker is on its way counts.
func (r *broadcastReader) listEnds(ctx context.Context) error {
	r.mu.Lock()
	var asking []*subscription
	for _, s := range r.subs {
		if s.end < 0 {
			asking = append(asking, s)
		}
	}
	r.mu.Unlock()
	if len(asking) == 0 {
		return nil
	}
	tp := changelog.TopicPartition{Topic: r.topic}
	ends, err := changelog.ListEnds(ctx, r.client, []changelog.TopicPartition{tp})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range asking {
		if slices.Contains(r.subs, s) {
			s.end = ends[tp].End
			s.run.worker.mail.send(message{run: s.run, end: &knownEnd{input: s.input, end: s.end, high: -1}})
		}
	}
	return nil
}

// outOfRange goes on where the log begins, if the position is before that. What was deleted there is not missed: of a compacted
// topic it is what later records have replaced or taken back; of another it is what its owner has let go of, and a task that
// has read it keeps what it made of it.
func (r *broadcastReader) outOfRange(ctx context.Context, at int64) error {
	tp := changelog.TopicPartition{Topic: r.topic}
	ends, err := changelog.ListEnds(ctx, r.client, []changelog.TopicPartition{tp})
	if err != nil {
		return err
	}
	e := ends[tp]
	if at < e.Start {
		if at > 0 {
			r.rt.log.Info("a broadcast topic begins behind a task's position", "topic", r.topic, "position", at, "start", e.Start)
		}
		r.handOut(at, nil, e.Start)
		return nil
	}
	if r.outside.IsZero() {
		r.outside = time.Now()
	}
	if at > e.End && time.Since(r.outside) >= broadcastGiveUp {
		return &fault.Error{
			Code: "input/truncated", Kind: fault.State, Thing: "broadcast topic", Value: r.topic,
			Reason: fmt.Sprintf("it ends at %d and a task has read it up to %d: the log lost records, or is another one", e.End, at),
			Remedy: "find out what happened to the cluster (an unclean leader election?), then decide with `millrace reset`",
		}
	}
	return kerr.OffsetOutOfRange
}

// findLeader asks for the leader of the topic's partition, and makes sure that it is still the same topic.
func (r *broadcastReader) findLeader(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	listed, err := kadm.NewClient(r.client).ListTopics(ctx, r.topic)
	if err != nil {
		return err
	}
	t := listed[r.topic]
	if errors.Is(t.Err, kerr.TopicAuthorizationFailed) {
		return &fault.Error{Code: "cluster/authorization", Kind: fault.Cluster, Thing: "broadcast topic", Value: r.topic,
			Reason: "describing it is not allowed", Remedy: "grant READ and DESCRIBE on the topic", Err: t.Err}
	}
	if t.Err != nil {
		r.rt.checkTopicsSoon()
		return t.Err
	}
	if id := [16]byte(t.ID); id != r.id && id != [16]byte{} && r.id != [16]byte{} {
		r.rt.checkTopicsSoon() // which says what is wrong
		return fmt.Errorf("topic %s was created anew", r.topic)
	}
	p, ok := t.Partitions[0]
	if !ok || p.Leader < 0 {
		return fmt.Errorf("topic %s has no leader", r.topic)
	}
	r.leader = p.Leader
	return nil
}
