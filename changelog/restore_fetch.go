package changelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/fault"
)

const (
	fetchWait          = 50 * time.Millisecond // how long a broker may hold a request that has nothing to say
	fetchBytesMax      = 8 << 20               // of one answer
	partitionBytesMax  = 1 << 20               // of one partition in it
	requestsPerBroker  = 2                     // one is being answered while the other's answer is taken apart
	partsPerRequest    = 16
	backoffMin         = 20 * time.Millisecond
	backoffMax         = 2 * time.Second
	emptyAnswersNeeded = 2
)

// source is what one request goes to: the isolation level is the request's, not the partition's.
type source struct {
	broker      int32
	uncommitted bool
}

// schedule sends whatever can be sent now. It runs after everything that happens.
func (r *Restorer) schedule(now time.Time) {
	var unknown []*part // whose position is the log's start
	ready := map[source][]*part{}
	lost := map[string]struct{}{} // topics without a leader for some partition
	for _, task := range slices.Sorted(maps.Keys(r.jobs)) {
		for _, p := range r.jobs[task].parts {
			if p.done || p.asked || p.queued >= chunksPerPart || p.pos >= p.End || now.Before(p.retryAt) {
				continue
			}
			leader, ok := r.leaders.of(p.Topic, p.Partition)
			switch {
			case !ok:
				lost[p.Topic] = struct{}{}
			case p.pos < 0:
				unknown = append(unknown, p)
			default:
				from := source{leader, p.uncommitted}
				ready[from] = append(ready[from], p)
			}
		}
	}
	if len(lost) > 0 && r.leaders.due(now) {
		r.askLeaders(slices.Sorted(maps.Keys(lost)))
	}
	if len(unknown) > 0 && !r.listing {
		r.askStarts(unknown)
	}
	for from, parts := range ready {
		r.turn++
		if n := r.turn % len(parts); n > 0 { // a broker fills its answer in the request's order
			parts = append(parts[n:len(parts):len(parts)], parts[:n]...)
		}
		for len(parts) > 0 && r.brokers[from.broker] < requestsPerBroker {
			limit := min(fetchBytesMax, r.config.MaxBytes-r.reserved)
			if limit < partitionBytesMax {
				break
			}
			var now []*part
			now, parts = oneRequest(parts)
			r.fetch(from, now, limit)
		}
	}
}

// oneRequest parts those that go into one request from the others. A request names a partition once: tasks of one number in several
// subtopologies read the same partition of the tasks topic, and a broker answers one of two, or refuses both.
func oneRequest(parts []*part) (now, later []*part) {
	for _, p := range parts {
		twice := slices.ContainsFunc(now, func(o *part) bool { return o.Topic == p.Topic && o.Partition == p.Partition })
		if twice || len(now) == partsPerRequest {
			later = append(later, p)
			continue
		}
		now = append(now, p)
	}
	return now, later
}

// asked is one partition of a request in flight.
type asked struct {
	part *part
	gen  int
	from int64
}

type topicPartition struct {
	topic     string
	id        [16]byte
	partition int32
}

func (r *Restorer) fetch(from source, parts []*part, limit int64) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(fetchWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = int32(limit)
	if !from.uncommitted {
		req.IsolationLevel = 1
	}
	req.SessionEpoch = -1 // no session: every request says all it wants
	of := make(map[topicPartition]asked, len(parts))
	for _, p := range parts {
		p.asked = true
		id := r.leaders.id(p.Topic)
		k := slices.IndexFunc(req.Topics, func(t kmsg.FetchRequestTopic) bool { return t.Topic == p.Topic })
		if k < 0 {
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = p.Topic, id
			req.Topics = append(req.Topics, t)
			k = len(req.Topics) - 1
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p.Partition, p.pos, partitionBytesMax
		req.Topics[k].Partitions = append(req.Topics[k].Partitions, rp)
		a := asked{p, p.job.gen, p.pos}
		of[topicPartition{topic: p.Topic, partition: p.Partition}] = a
		of[topicPartition{id: id, partition: p.Partition}] = a
	}
	r.brokers[from.broker]++
	r.reserved += limit
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		resp, err := req.RequestWith(r.ctx, r.client.Broker(int(from.broker)))
		r.send(func() {
			r.brokers[from.broker]--
			r.reserved -= limit
			if err == nil {
				err = kerr.ErrorForCode(resp.ErrorCode)
			}
			if err != nil {
				r.leaders.stale(from.broker)
				for _, p := range of {
					r.retry(p, err)
				}
				return
			}
			r.answered(resp, of)
		})
	}()
}

// answered takes an answer apart and hands each partition's bytes to its task.
func (r *Restorer) answered(resp *kmsg.FetchResponse, of map[topicPartition]asked) {
	var total int
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			total += len(resp.Topics[i].Partitions[j].RecordBatches)
		}
	}
	// An empty partition proves something only where nothing else can be the reason: the answer's size limit taken by
	// other partitions, or a quota.
	conclusive := total == 0 && resp.ThrottleMillis == 0
	seen := make(map[*part]bool, len(of))
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			rp := &t.Partitions[j]
			a, ok := of[topicPartition{topic: t.Topic, partition: rp.Partition}]
			if !ok || t.Topic == "" {
				a, ok = of[topicPartition{id: t.TopicID, partition: rp.Partition}]
			}
			if ok && !seen[a.part] {
				seen[a.part] = true
				r.answer(a, rp, conclusive, total == len(rp.RecordBatches))
			}
		}
	}
	for _, a := range of {
		if !seen[a.part] { // not answered at all: ask again
			r.retry(a, errors.New("the broker's answer left it out"))
		}
	}
}

// answer takes one partition's part of an answer. conclusive says that nothing but the log itself can be why it is empty; alone
// that it is the only one with bytes, and so has at least one whole batch unless something is wrong with it.
func (r *Restorer) answer(a asked, rp *kmsg.FetchResponseTopicPartition, conclusive, alone bool) {
	p, j := a.part, a.part.job
	if r.jobs[j.Task] != j || a.gen != j.gen {
		return
	}
	if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			r.outOfRange(a)
		case errors.Is(err, kerr.TopicAuthorizationFailed):
			r.finish(j, topicError(p.Topic, err))
		default:
			r.leaders.forget(p.Topic)
			r.retry(a, err)
		}
		return
	}
	p.asked = false
	p.hw, p.tries = rp.HighWatermark, 0
	readable := rp.LastStableOffset
	if p.uncommitted {
		readable = rp.HighWatermark
	}
	next, whole := nextOffset(rp.RecordBatches, a.from)
	if whole {
		p.empty = 0
		p.moved(readable, next)
		p.pos = next
		p.queued++
		c := chunk{part: p, gen: a.gen, answer: rp, from: a.from, next: next, held: int64(len(rp.RecordBatches))}
		r.reserved += c.held
		p.held += c.held
		j.chunks <- c
		return
	}
	p.moved(readable, a.from)
	switch {
	case len(rp.RecordBatches) > 0 && alone:
		r.undecodable(p, a.from, errors.New("there is no whole record batch of format 2"))
	case len(rp.RecordBatches) > 0:
		// Cut off by the answer's size: next time it comes earlier in the request.
	case readable >= p.End && rp.HighWatermark >= p.End && conclusive:
		// Compaction has left nothing between here and the end. Said twice, because it ends the restore.
		if p.empty++; p.empty >= emptyAnswersNeeded {
			p.queued++
			p.pos = p.End
			j.chunks <- chunk{part: p, gen: a.gen, from: a.from, next: p.End}
		}
	case rp.HighWatermark < p.End:
		// A new leader may learn its high watermark a moment late; a log that lost its end stays short.
		p.empty = 0
		if r.lasting(p) {
			e := rebuildError("changelog/truncated", &p.Part, strconv.FormatInt(rp.HighWatermark, 10),
				"the log ended at "+strconv.FormatInt(p.End, 10)+" a moment ago and ends here now: it lost committed records")
			e.Remedy = "look for an unclean leader election; starting again takes the log as it is now"
			r.finish(j, e)
		}
	default:
		p.empty, p.failing = 0, time.Time{}
	}
}

// nextOffset walks over the whole batches of an answer and returns the offset after the last one. whole is false if there
// is not one whole batch. The records are decoded later, by the task: the next request can be sent meanwhile.
func nextOffset(batches []byte, from int64) (next int64, whole bool) {
	const (
		lengthAt, lengthEnd   = 8, 12 // bytes after it
		deltaAt, header, v2At = 23, 27, 16
	)
	next = from
	for len(batches) >= header {
		n := int64(int32(binary.BigEndian.Uint32(batches[lengthAt:]))) + lengthEnd
		if n < header || n > int64(len(batches)) || batches[v2At] != 2 {
			break
		}
		last := int64(binary.BigEndian.Uint64(batches)) + int64(int32(binary.BigEndian.Uint32(batches[deltaAt:])))
		next, whole = max(next, last+1), true
		batches = batches[n:]
	}
	return next, whole
}

// moved notes the last stable offset, and since when it stands still while everything below it has been fetched.
func (p *part) moved(lso, pos int64) {
	if lso != p.lso || pos < lso || lso >= p.End {
		p.stalled, p.stalls = time.Time{}, 0
	}
	p.lso = lso
	if pos >= lso && lso < p.End && p.stalled.IsZero() {
		p.stalled = time.Now()
	}
}

// lasting reports whether the trouble of a part has lasted for GiveUpAfter, and backs off.
func (r *Restorer) lasting(p *part) bool {
	now := time.Now()
	if p.failing.IsZero() {
		p.failing = now
	}
	p.tries++
	p.retryAt = now.Add(min(backoffMin<<min(p.tries, 10), backoffMax))
	return now.Sub(p.failing) >= r.config.GiveUpAfter
}

// retry is what follows a failed request. Brokers come and go: it is tried for ever, at a distance.
func (r *Restorer) retry(a asked, err error) {
	p, j := a.part, a.part.job
	if r.jobs[j.Task] != j || a.gen != j.gen || !p.asked {
		return
	}
	p.asked = false
	p.tries++
	p.retryAt = time.Now().Add(min(backoffMin<<min(p.tries, 10), backoffMax))
	if p.tries&(p.tries-1) == 0 && p.tries > 1 { // 2, 4, 8, ...: often enough to see, seldom enough to read
		r.config.Log.Warn("restore waits for a broker", "task", j.Task, "topic", p.Topic, "partition", p.Partition, "tries", p.tries, "error", err)
	}
}

// undecodable fails a task's restore when the records from an offset on have not decoded for long enough.
func (r *Restorer) undecodable(p *part, from int64, why error) {
	if r.lasting(p) {
		r.finish(p.job, &fault.Error{
			Code: "changelog/corrupt", Kind: fault.State, Thing: fmt.Sprintf("%s/%d", p.Topic, p.Partition), Value: strconv.FormatInt(from, 10),
			Reason: "the records from this offset on cannot be decoded", Remedy: "look at the broker's disks; another replica may still have them", Err: why,
		})
		return
	}
	r.config.Log.Warn("restore got records that do not decode", "task", p.job.Task, "topic", p.Topic, "partition", p.Partition, "offset", from, "error", why)
}

// refetch asks again for an answer that did not decode. What was fetched behind it must not be applied before it, and is
// not (see apply): the task goes on from what was applied.
func (r *Restorer) refetch(p *part, from int64, why *corruptError) {
	j := p.job
	r.undecodable(p, from, why)
	if r.jobs[j.Task] != j {
		return
	}
	j.gen++
	j.acknowledged = j.gen
	for _, o := range j.parts {
		if !o.done {
			o.asked, o.queued, o.empty, o.pos = false, 0, 0, o.applied
		}
	}
}

// outOfRange finds out on which side of the log the position is.
func (r *Restorer) outOfRange(a asked) {
	p, j := a.part, a.part.job
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		ends, err := ListEnds(r.ctx, r.client, []TopicPartition{{p.Topic, p.Partition}})
		r.send(func() {
			if r.jobs[j.Task] != j || a.gen != j.gen {
				return
			}
			if err != nil {
				r.retry(a, err)
				return
			}
			at := ends[TopicPartition{p.Topic, p.Partition}]
			switch {
			case a.from < at.Start:
				r.rebuild(j, rebuildError("changelog/start-passed", &p.Part, strconv.FormatInt(a.from, 10),
					"the log begins at "+strconv.FormatInt(at.Start, 10)+": records were deleted that the local copy has not seen"))
			case a.from > at.End:
				r.rebuild(j, rebuildError("changelog/checkpoint-ahead", &p.Part, strconv.FormatInt(a.from, 10),
					"the log ends at "+strconv.FormatInt(at.End, 10)+": it lost records, or is another one"))
			default:
				r.retry(a, kerr.OffsetOutOfRange)
			}
		})
	}()
}

// askStarts asks where logs begin.
func (r *Restorer) askStarts(parts []*part) {
	r.listing = true
	want := make([]TopicPartition, len(parts))
	gens := make([]int, len(parts))
	for i, p := range parts {
		want[i], gens[i] = TopicPartition{p.Topic, p.Partition}, p.job.gen
		p.asked = true
	}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		ends, err := ListEnds(r.ctx, r.client, want)
		r.send(func() {
			r.listing = false
			for i, p := range parts {
				a := asked{part: p, gen: gens[i]}
				if r.jobs[p.job.Task] != p.job || a.gen != p.job.gen {
					continue
				}
				at, ok := ends[want[i]]
				if err != nil || !ok {
					r.leaders.forget(p.Topic)
					r.retry(a, fmt.Errorf("list offsets: %w", err))
					continue
				}
				p.asked, p.tries = false, 0
				p.pos = at.Start
				if p.pos >= p.End { // nothing left of it
					p.queued++
					p.pos = p.End
					p.job.chunks <- chunk{part: p, gen: a.gen, next: p.End}
				}
			}
		})
	}()
}

// leaders is who leads which partition, as last heard, and the ids of the topics.
type leaders struct {
	topics map[string]topicMeta
	asking bool
	next   time.Time // not before
	wait   time.Duration
	since  map[string]time.Time // when a topic was first found missing
}

func newLeaders() leaders {
	return leaders{topics: map[string]topicMeta{}, since: map[string]time.Time{}}
}

func (l *leaders) of(topic string, partition int32) (broker int32, ok bool) {
	t := l.topics[topic]
	if int(partition) >= len(t.leaders) || t.leaders[partition] < 0 {
		return 0, false
	}
	return t.leaders[partition], true
}

func (l *leaders) id(topic string) [16]byte { return l.topics[topic].id }

func (l *leaders) forget(topic string) { delete(l.topics, topic) }

// stale forgets every topic that a broker leads a partition of: it did not answer.
func (l *leaders) stale(broker int32) {
	for name, t := range l.topics {
		if slices.Contains(t.leaders, broker) {
			delete(l.topics, name)
		}
	}
}

func (l *leaders) due(now time.Time) bool { return !l.asking && !now.Before(l.next) }

// askLeaders asks for the metadata of topics, and holds their ids against what the tasks expect.
func (r *Restorer) askLeaders(topics []string) {
	l := &r.leaders
	l.asking = true
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		meta, err := describeTopics(ctx, r.client, topics)
		r.send(func() {
			now := time.Now()
			l.asking = false
			l.wait = min(max(2*l.wait, backoffMin), backoffMax)
			l.next = now.Add(l.wait)
			if err != nil {
				r.config.Log.Warn("restore cannot reach the cluster", "error", err)
				return
			}
			complete := true
			for _, name := range topics {
				t := meta.topics[name]
				if t.code == 0 && len(t.leaders) > 0 {
					l.topics[name] = t
					delete(l.since, name)
					complete = complete && !slices.Contains(t.leaders, -1)
					continue
				}
				complete = false
				delete(l.topics, name)
				if _, ok := l.since[name]; !ok {
					l.since[name] = now
				}
			}
			if complete {
				l.wait = 0
			}
			r.checkTopics(now)
		})
	}()
}

// checkTopics fails the tasks whose topics are not what they were.
func (r *Restorer) checkTopics(now time.Time) {
	for _, j := range r.jobs {
		for _, p := range j.parts {
			t, ok := r.leaders.topics[p.Topic]
			since, missing := r.leaders.since[p.Topic]
			switch {
			case p.done:
				continue
			case ok && p.ID == ([16]byte{}):
				p.ID = t.id // from now on it must stay this one
				continue
			case ok && p.ID != ([16]byte{}) && t.id != p.ID && t.id != ([16]byte{}):
				r.finish(j, recreated(p.Topic, t.id, p.ID))
			case ok && int(p.Partition) >= len(t.leaders):
				r.finish(j, &fault.Error{
					Code: "topic/partitions", Kind: fault.Cluster, Thing: "topic " + p.Topic, Value: strconv.Itoa(len(t.leaders)),
					Reason: fmt.Sprintf("partition %d is to be restored", p.Partition), Remedy: "the topic was created anew with fewer partitions: `millrace reset`",
				})
			case missing && now.Sub(since) >= r.config.GiveUpAfter:
				r.finish(j, missingTopics([]string{p.Topic}))
			default:
				continue
			}
			break
		}
	}
}
