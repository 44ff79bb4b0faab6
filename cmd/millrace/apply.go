package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

// apply does what the plan says. Every step may be repeated, and each looks at the cluster anew: between the plan and the answer to the
// question things may have happened. dir is nil where no state directory is to be emptied.
func (r *reset) apply(ctx context.Context, p *plan, dir *changelog.StateDir) error {
	steps := []struct {
		name string
		does string
		run  func(context.Context) (string, error)
	}{
		{"fence", "end open transactions", r.fence},
		{"offsets", "set offsets", func(ctx context.Context) (string, error) { return r.setOffsets(ctx, p) }},
		{"changelogs", "delete changelogs", func(ctx context.Context) (string, error) { return r.deleteTopics(ctx, p, changelog.ChangelogTopic) }},
		{"repartitions", "delete repartition topics", func(ctx context.Context) (string, error) { return r.deleteTopics(ctx, p, changelog.RepartitionTopic) }},
		{"tasks", "delete the tasks topic", func(ctx context.Context) (string, error) { return r.deleteTopics(ctx, p, changelog.TasksTopic) }},
		{"state", "empty the state directory", func(context.Context) (string, error) {
			if dir == nil {
				return "none here", nil
			}
			return dir.Path(), dir.Empty()
		}},
	}
	r.say("")
	for i, s := range steps {
		fmt.Fprintf(r.term.out, "[%d/%d] %s: ", i+1, len(steps), s.does)
		within, cancel := context.WithTimeout(ctx, r.timeout)
		said, err := s.run(within)
		cancel()
		if err != nil {
			r.say("failed")
			return stepFailed(s.does, err)
		}
		r.say("%s", said)
		if r.after != nil {
			if err := r.after(s.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// stepFailed types an error of the brokers; one that is typed already is passed on.
func stepFailed(step string, err error) error {
	var typed *fault.Error
	if errors.As(err, &typed) {
		return err
	}
	return &fault.Error{
		Code: "reset/step-failed", Kind: fault.Cluster, Thing: "step", Value: step, Reason: err.Error(), Err: err,
		Remedy: "look at the brokers and at what this principal may do, then give the same command again: it finishes what is left",
	}
}

// fence ends what dead instances have open. Nobody is live: that is looked at once more.
func (r *reset) fence(ctx context.Context) (string, error) {
	if err := r.refuseMembers(ctx); err != nil {
		return "", err
	}
	fenced, err := txn.FencePass(ctx, r.cl, r.app, func(string) bool { return false })
	if err != nil {
		return "", err
	}
	var open []string
	for _, f := range fenced {
		if f.Open {
			open = append(open, f.ID.String())
		}
	}
	if len(open) == 0 {
		return "there are none", nil
	}
	return strings.Join(open, ", "), nil
}

// setOffsets sets the offsets of the inputs. Those of repartition topics become 0: until the topic is deleted that contradicts the state
// behind it, so that an application which is started in between refuses; afterwards it is where the new topic begins.
func (r *reset) setOffsets(ctx context.Context, p *plan) (string, error) {
	ends, err := r.measure(ctx, p)
	if err != nil {
		return "", err
	}
	// After the fencing: a transaction that was being committed has moved them.
	stable, err := r.stable(ctx, p.inputs)
	if err != nil {
		return "", err
	}
	p.setMoves(ends, func(topic string, n int32) int64 { return stable[topic][n].Offset })
	offsets := kadm.Offsets{}
	set := func(topic string, n int32, at int64) {
		offsets.Add(kadm.Offset{Topic: topic, Partition: n, At: at, LeaderEpoch: -1, Metadata: resetMark})
	}
	for _, m := range p.moves {
		if m.to >= 0 {
			set(m.topic, m.partition, m.to)
		}
	}
	inputs := len(offsets.Sorted())
	for _, t := range p.topics {
		if t.kind == changelog.RepartitionTopic {
			for n := range t.partitions {
				set(t.name, n, 0)
			}
		}
	}
	if len(offsets) == 0 {
		return "there are none", nil
	}
	// A group with members takes no commit from outside: nobody who joined in the meantime is overrun.
	_, err = patient(ctx, func() (kadm.OffsetResponses, error) {
		answer, err := r.adm.CommitOffsets(ctx, r.app, offsets)
		if err == nil {
			err = answer.Error()
		}
		return answer, err
	})
	switch {
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.RebalanceInProgress):
		if active := r.refuseMembers(ctx); active != nil {
			return "", active
		}
		return "", groupActive(r.app, "one that joined a moment ago", err)
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("%d partitions to %s", inputs, p.to), nil
}

// stable fetches committed offsets when no transaction holds them any more.
func (r *reset) stable(ctx context.Context, partitions map[string][]int32) (map[string]map[int32]txn.Stable, error) {
	for {
		stable, err := txn.StableOffsets(ctx, r.cl, r.app, partitions)
		if !errors.Is(err, txn.ErrUnstable) {
			return stable, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// deleteTopics deletes the topics of a kind and waits until they are gone: a start that came too soon would take them for its own.
func (r *reset) deleteTopics(ctx context.Context, p *plan, kind changelog.TopicKind) (string, error) {
	var names []string
	for _, t := range p.topics {
		if t.kind == kind {
			names = append(names, t.name)
		}
	}
	if len(names) == 0 {
		return "there are none", nil
	}
	if err := r.refuseMembers(ctx); err != nil {
		return "", err
	}
	answers, err := r.adm.DeleteTopics(ctx, names...)
	if err != nil {
		return "", err
	}
	for _, a := range answers.Sorted() {
		if a.Err != nil && !errors.Is(a.Err, kerr.UnknownTopicOrPartition) {
			return "", &fault.Error{
				Code: "reset/topic-not-deleted", Kind: fault.Cluster, Thing: "topic", Value: a.Topic, Reason: a.Err.Error(), Err: a.Err,
				Remedy: "allow this principal to delete topics with the application's prefix, and the brokers to delete any (delete.topic.enable); then give the same command again",
			}
		}
	}
	for gone := false; !gone; {
		found, err := r.adm.ListTopics(ctx, names...)
		if err != nil {
			return "", err
		}
		gone = true
		for _, t := range found {
			gone = gone && errors.Is(t.Err, kerr.UnknownTopicOrPartition)
		}
		if !gone {
			select {
			case <-ctx.Done():
				return "", fmt.Errorf("%s: still there: %w", strings.Join(names, ", "), ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if kind == changelog.RepartitionTopic {
		r.dropOffsets(ctx, names, p)
	}
	return strings.Join(names, ", "), nil
}

// dropOffsets removes the group's offsets of topics that are gone. Brokers do it themselves and may say that they know no such topic; an
// offset that stayed is 0, where a new topic begins.
func (r *reset) dropOffsets(ctx context.Context, names []string, p *plan) {
	gone := kadm.TopicsSet{}
	for _, t := range p.topics {
		for _, name := range names {
			for n := range t.partitions {
				if t.name == name {
					gone.Add(name, n)
				}
			}
		}
	}
	_, _ = r.adm.DeleteOffsets(ctx, r.app, gone)
}
