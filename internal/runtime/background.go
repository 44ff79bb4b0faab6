package runtime

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

const (
	endsEvery   = time.Second      // how often the ends of partitions without fetches are looked at
	purgeEvery  = 30 * time.Second // how often repartition topics are purged
	verifyEvery = 3 * time.Minute  // how often our topics are looked at
)

// every calls f after each interval, and whenever wake says so (nil: never), until ctx ends.
func every(ctx context.Context, interval time.Duration, wake <-chan struct{}, f func(context.Context)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-wake:
		}
		f(ctx)
	}
}

// watchEnds tells tasks with several inputs how far each input's readable records reach, so that a task neither waits for
// an input that has no more nor overtakes one that has; and tasks with watermarks how far their logs reach, so that they notice which
// inputs are idle. What was fetched says it too; this is for quiet partitions.
func (r *Runtime) watchEnds(ctx context.Context) {
	every(ctx, endsEvery, r.newRuns, func(ctx context.Context) {
		g := r.group()
		if g == nil {
			return
		}
		var runs []*taskRun
		partitions, logs := map[string]map[int32]bool{}, map[string]map[int32]bool{}
		for _, run := range g.all() {
			if len(run.inputs) < 2 && !run.watched() || run.currentState() != taskRunning {
				continue
			}
			runs = append(runs, run)
			for _, k := range run.keys {
				for _, m := range []map[string]map[int32]bool{partitions, logs} {
					if m[k.topic] == nil {
						m[k.topic] = map[int32]bool{}
					}
				}
				partitions[k.topic][k.partition] = true
				logs[k.topic][k.partition] = run.watched()
			}
		}
		if len(runs) == 0 {
			return
		}
		ends, err := r.stableEnds(ctx, partitions)
		var highs map[inputKey]int64
		if err == nil && slices.ContainsFunc(runs, (*taskRun).watched) {
			highs, err = r.listEnds(ctx, logs, false)
		}
		if err != nil {
			if ctx.Err() == nil {
				r.log.Debug("listing ends", "err", err)
			}
			return
		}
		for _, run := range runs {
			for i, k := range run.keys {
				if end, ok := ends[k]; ok {
					high, known := highs[k]
					if !known {
						high = -1
					}
					run.worker.mail.send(message{run: run, end: &knownEnd{i, end, high}})
				}
			}
		}
	})
}

// stableEnds lists last stable offsets: somebody's open transaction must not stop a task that waits for an input.
func (r *Runtime) stableEnds(ctx context.Context, partitions map[string]map[int32]bool) (map[inputKey]int64, error) {
	return r.listEnds(ctx, partitions, true)
}

// listEnds lists last stable offsets, or high watermarks.
func (r *Runtime) listEnds(ctx context.Context, partitions map[string]map[int32]bool, stable bool) (map[inputKey]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	topics := make([]string, 0, len(partitions))
	for t := range partitions {
		topics = append(topics, t)
	}
	list := kadm.NewClient(r.admin).ListEndOffsets
	if stable {
		list = kadm.NewClient(r.admin).ListCommittedOffsets
	}
	listed, err := list(ctx, topics...)
	if err != nil {
		return nil, err
	}
	ends := map[inputKey]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err == nil && partitions[o.Topic][o.Partition] {
			ends[inputKey{o.Topic, o.Partition}] = o.Offset
		}
	})
	return ends, nil
}

// verifyTopics looks at all topics again from time to time: they can be altered, deleted and made anew under a running
// application, and a live client notices none of it.
func (r *Runtime) verifyTopics(ctx context.Context) {
	every(ctx, verifyEvery, r.recheck, func(ctx context.Context) {
		found, err := changelog.VerifyTopics(ctx, r.admin, r.specs)
		if err == nil {
			err = r.plan.compare(found)
		}
		var refused *fault.Error
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.As(err, &refused):
			r.fail(err)
		default:
			r.log.Warn("verifying topics", "err", err)
		}
	})
}

// checkTopicsSoon asks for a verification now.
func (r *Runtime) checkTopicsSoon() {
	select {
	case r.recheck <- struct{}{}:
	default:
	}
}

// compare refuses topics that are not what they were when the application started.
func (p *plan) compare(found map[string]changelog.Topic) error {
	var errs []error
	for name, was := range p.topics {
		is, ok := found[name]
		switch {
		case !ok:
		case is.ID != was.id:
			errs = append(errs, &fault.Error{
				Code: "topic/recreated", Kind: fault.State, Thing: "topic", Value: name,
				Reason: "was deleted and created again while the application ran: its offsets mean something else now",
				Remedy: "`millrace reset` makes the application's state match the new topic",
			})
		case is.Partitions != was.partitions && name != p.tasksTopic:
			errs = append(errs, &fault.Error{
				Code: "topic/partitions-changed", Kind: fault.State, Thing: "topic", Value: name,
				Reason: "its number of partitions changed: keys now go to other partitions than their state",
				Remedy: "stop all instances; an input topic with more partitions needs a new application id, or `millrace reset`",
			})
		}
	}
	return errors.Join(errs...)
}

// purge deletes records of repartition topics that this instance has processed: never above what the group says was
// committed, under the generation it is in, and at most every 30 s.
func (r *Runtime) purge(ctx context.Context) {
	last := map[inputKey]int64{}
	every(ctx, purgeEvery, nil, func(ctx context.Context) {
		g := r.group()
		if g == nil || r.noPurge.Load() {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, purgeEvery/2)
		defer cancel()
		own := map[string][]int32{}
		for _, run := range g.all() {
			for _, in := range run.inputs {
				if run.sub.Sources[in.Source].Topic.Through && run.currentState() == taskRunning {
					own[in.Topic] = append(own[in.Topic], in.Partition)
				}
			}
		}
		if len(own) == 0 || g.heartbeat(ctx) != nil {
			return
		}
		committed, err := txn.StableOffsets(ctx, g.cl, r.cfg.App, own)
		if err != nil {
			return // an open transaction holds one of them: next time
		}
		upTo := kadm.Offsets{}
		for topic, ps := range committed {
			for p, s := range ps {
				if s.Offset > last[inputKey{topic, p}] {
					upTo.Add(kadm.Offset{Topic: topic, Partition: p, At: s.Offset})
				}
			}
		}
		if len(upTo) == 0 {
			return
		}
		deleted, err := kadm.NewClient(r.admin).DeleteRecords(ctx, upTo)
		if err == nil {
			err = deleted.Error()
		}
		if errors.Is(err, kerr.TopicAuthorizationFailed) {
			r.noPurge.Store(true)
			r.log.Warn("repartition topics are not purged: deleting records is not allowed; grant DELETE on them or set retention.ms", "err", err)
			return
		}
		if err != nil {
			r.log.Debug("purging repartition topics", "err", err)
			return
		}
		upTo.Each(func(o kadm.Offset) { last[inputKey{o.Topic, o.Partition}] = o.At })
	})
}

// refreshCheckpoints rewrites the checkpoints of idle tasks, with the same positions and a new wall time, so that a local
// copy that is up to date does not grow too old to be trusted (a tombstone may be gone after delete.retention.ms).
func (r *Runtime) refreshCheckpoints(ctx context.Context) {
	interval := time.Hour
	for _, d := range r.deleteRetention {
		interval = min(interval, max(time.Second, d/8))
	}
	every(ctx, interval, nil, func(ctx context.Context) {
		g := r.group()
		if g == nil || g.heartbeat(ctx) != nil {
			return
		}
		for _, run := range g.all() {
			if run.sub.stateful && run.currentState() == taskRunning {
				run.worker.mail.send(message{run: run, refresh: true})
			}
		}
	})
}
