package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/internal/fault"
)

// pollRecords bounds one poll. Polls are cheap; a bound keeps the time between two AllowRebalance short.
const pollRecords = 10_000

// poll fetches records and hands them to the workers, until ctx ends or the membership breaks. It never waits for user
// code: rebalances go on while it is here, and back-pressure is the pausing of partitions.
func (g *group) poll(ctx context.Context) error {
	for {
		turn, end := context.WithCancel(ctx)
		r := &round{end: end, over: make(chan struct{})}
		g.round.Store(r)
		fetches := g.cl.PollRecords(turn, pollRecords)
		chaos.Pass(chaos.AfterPoll)
		err := g.dispatch(fetches)
		g.cl.AllowRebalance()
		end()
		close(r.over)
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil || fetches.IsClientClosed():
			return nil
		}
		select {
		case <-g.broken:
			return nil
		default:
		}
	}
}

// round is one poll, until all it brought is with the workers.
type round struct {
	end  context.CancelFunc
	over chan struct{}
}

// settlePolls ends the poll that is under way and waits until its records are with the workers: later ones see what is
// paused now.
func (g *group) settlePolls(ctx context.Context) error {
	r := g.round.Load()
	if r == nil {
		return nil
	}
	r.end()
	select {
	case <-r.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *group) dispatch(fetches kgo.Fetches) (err error) {
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if p.Err != nil {
			e := g.fetchError(p)
			if e != nil && err == nil {
				err = e
			}
			if e == nil {
				g.stranded(p)
			}
		}
		if len(p.Records) == 0 {
			return
		}
		run := g.runOf(p.Topic, p.Partition)
		if run == nil {
			return // revoked since it was fetched
		}
		if run.held.Load() && run.again {
			return // polled before its partitions were paused; it will begin again from what is committed
		}
		if run.held.Load() {
			// Its partitions are paused until it runs. Records that come all the same would be lost between here and
			// the kernel: better to begin again from what is committed.
			g.breakUp(fmt.Errorf("records of %s/%d came while task %s was not running", p.Topic, p.Partition, run.id))
			return
		}
		input := run.input(p.Topic, p.Partition)
		batch := g.fetched.convert(input, p.Records)
		run.queued(int64(batch.Bytes))
		run.stats.end(input, p.LastStableOffset)
		run.worker.mail.send(message{run: run, batch: batch, end: nil})
		if (len(run.inputs) > 1 || run.watched()) && p.LastStableOffset >= 0 {
			run.worker.mail.send(message{run: run, end: &knownEnd{input, p.LastStableOffset, p.HighWatermark}})
		}
		g.tighten(run, input)
	})
	return err
}

func (t *taskRun) input(topic string, partition int32) int {
	for i, k := range t.keys {
		if k.partition == partition && k.topic == topic {
			return i
		}
	}
	return -1
}

// fetchError sorts errors of polling: nil where kgo goes on by itself, else the reason to stop.
func (g *group) fetchError(p kgo.FetchTopicPartition) error {
	err := p.Err
	var session *kgo.ErrGroupSession
	var loss *kgo.ErrDataLoss
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, kgo.ErrClientClosed):
		return nil
	case errors.As(err, &session):
		return g.sessionError(session.Err)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return &fault.Error{
			Code: "cluster/authorization", Kind: fault.Cluster, Thing: "topic", Value: p.Topic,
			Reason: "reading it is not allowed", Remedy: "grant READ and DESCRIBE on the topic", Err: err,
		}
	case errors.Is(err, kerr.OffsetOutOfRange):
		if g.runOf(p.Topic, p.Partition) == nil {
			return nil
		}
		return &fault.Error{
			Code: "input/gap", Kind: fault.State, Thing: "input partition", Value: fmt.Sprintf("%s/%d", p.Topic, p.Partition),
			Reason: "the topic no longer holds the next record to process: its retention was faster than this application",
			Remedy: "`millrace reset` moves the group to where the topic begins and says what is left out; raise the retention of the topic", Err: err,
		}
	case errors.As(err, &loss):
		return &fault.Error{
			Code: "input/truncated", Kind: fault.State, Thing: "input partition", Value: fmt.Sprintf("%s/%d", p.Topic, p.Partition),
			Reason: "the log lost records that this application had already processed",
			Remedy: "find out what happened to the cluster (an unclean leader election?), then decide with `millrace reset`", Err: err,
		}
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		g.rt.checkTopicsSoon()
		return nil
	}
	g.rt.log.Warn("fetching", "topic", p.Topic, "partition", p.Partition, "err", err)
	return nil
}

// stranded notices that the committed offset of a partition could not be fetched: kgo has left the partition out of its
// assignment then, for as long as the membership lasts, and the task would wait for ever.
func (g *group) stranded(p kgo.FetchTopicPartition) {
	run := g.runOf(p.Topic, p.Partition)
	if run == nil || !run.awaits(p.Topic, p.Partition) ||
		errors.Is(p.Err, context.Canceled) || errors.Is(p.Err, context.DeadlineExceeded) || errors.Is(p.Err, kgo.ErrClientClosed) {
		return
	}
	g.breakUp(fmt.Errorf("the committed offset of %s/%d could not be fetched: %w", p.Topic, p.Partition, p.Err))
}

// sessionError is an error of the group management: kgo has given everything up and tries again by itself.
func (g *group) sessionError(err error) error {
	switch {
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		return &fault.Error{
			Code: "cluster/authorization", Kind: fault.Cluster, Thing: "group", Value: g.rt.cfg.App,
			Reason: "joining it is not allowed", Remedy: "grant READ on the group", Err: err,
		}
	case errors.Is(err, kerr.InconsistentGroupProtocol):
		return &fault.Error{
			Code: "group/foreign-member", Kind: fault.Cluster, Thing: "group", Value: g.rt.cfg.App,
			Reason: "it has members that do not speak millrace's protocol", Remedy: "the application id is the group id: choose one that no other consumer uses", Err: err,
		}
	case errors.Is(err, kerr.InvalidSessionTimeout):
		return &fault.Error{
			Code: "config/session-timeout", Kind: fault.Config, Thing: "session timeout", Value: g.rt.cfg.SessionTimeout.String(),
			Reason: "the broker does not allow it", Remedy: "stay between group.min.session.timeout.ms and group.max.session.timeout.ms of the brokers", Err: err,
		}
	case errors.Is(err, kerr.FencedInstanceID):
		return &fault.Error{
			Code: "group/duplicate-instance", Kind: fault.Cluster, Thing: "instance", Value: g.rt.instance,
			Reason: "another process took its place in the group", Remedy: "run one process per instance name and state directory", Err: err,
		}
	}
	g.rt.log.Warn("group session", "err", err)
	g.checkMember()
	return nil
}
