package changelog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/fault"
)

// TopicKind says who owns a topic and what must hold for it.
type TopicKind uint8

// The kinds.
const (
	UserTopic        TopicKind = iota // must exist; nothing of it is ours to judge
	ChangelogTopic                    // the truth about a store: compacted, nothing else may delete from it
	RepartitionTopic                  // between two subtopologies: never compacted, purged by us alone
	TasksTopic                        // <app>-tasks: compacted; may grow
)

// StoreTopic is the name of a store's changelog.
func StoreTopic(app, store string) string { return app + "-" + store + "-changelog" }

// ThroughTopic is the name of a repartition topic.
func ThroughTopic(app, name string) string { return app + "-" + name + "-repartition" }

// TasksTopicName is the name of the topic of task records and of the registry.
func TasksTopicName(app string) string { return app + "-tasks" }

// TopicSpec is one topic an application needs.
type TopicSpec struct {
	Name string
	Kind TopicKind
	// Partitions that the topic must have: exactly, of a changelog or repartition topic; at least, of the tasks topic. Of a
	// user's topic 0 means any number.
	Partitions int32
	// Replication of a topic that has to be created; 0 is the brokers' default.
	Replication int
	// Retention of a repartition topic; 0 is unlimited, which needs the permission to delete records. A topic that keeps
	// records for a shorter time than this is refused.
	Retention time.Duration
}

// Topic is a topic as it is.
type Topic struct {
	Name            string
	ID              [16]byte
	Partitions      int32
	Replication     int
	MaxMessageBytes int           // the greatest record batch it takes; 0 unknown
	DeleteRetention time.Duration // how long a tombstone outlives its compaction; 0 unknown
	Created         bool          // by this call
}

// settings are what a topic of ours is created with. Everything that matters is written down, so that a broker's
// defaults, now or later, change nothing.
func (s *TopicSpec) settings() [][2]string {
	common := [][2]string{{"message.timestamp.type", "CreateTime"}, {"compression.type", "producer"}}
	switch s.Kind {
	case ChangelogTopic:
		// The active segment is never compacted: 64 MiB bounds what a restore reads in vain.
		return append(common, [2]string{"cleanup.policy", "compact"}, [2]string{"segment.bytes", "67108864"},
			[2]string{"min.cleanable.dirty.ratio", "0.3"}, [2]string{"delete.retention.ms", "86400000"})
	case TasksTopic:
		// A few keys written in every epoch: almost everything is garbage soon.
		return append(common, [2]string{"cleanup.policy", "compact"}, [2]string{"segment.bytes", "16777216"},
			[2]string{"segment.ms", "3600000"}, [2]string{"min.cleanable.dirty.ratio", "0.1"}, [2]string{"delete.retention.ms", "86400000"})
	case RepartitionTopic:
		retention := "-1"
		if s.Retention > 0 {
			retention = strconv.FormatInt(s.Retention.Milliseconds(), 10)
		}
		return append(common, [2]string{"cleanup.policy", "delete"}, [2]string{"segment.bytes", "67108864"},
			[2]string{"retention.ms", retention}, [2]string{"retention.bytes", "-1"})
	default:
		return nil
	}
}

// topicSettleTime bounds the wait for a topic that was just created to have a leader everywhere.
const topicSettleTime = 15 * time.Second

// EnsureTopics creates the topics of ours that are missing and verifies all of them. Instances that start together may all
// call it: what another one has created in between is fine. It returns the topics by name, or every mistake at once, as
// joined *fault.Error values of kind Cluster.
func EnsureTopics(ctx context.Context, cl *kgo.Client, specs []TopicSpec) (map[string]Topic, error) {
	meta, err := describe(ctx, cl, specs)
	if err != nil {
		return nil, err
	}
	var missing []TopicSpec
	var users []string
	for _, s := range specs {
		if t := meta.topics[s.Name]; t.code != kerr.UnknownTopicOrPartition.Code {
			continue
		}
		if s.Kind == UserTopic {
			users = append(users, s.Name)
		} else {
			missing = append(missing, s)
		}
	}
	if len(users) > 0 {
		return nil, missingTopics(users)
	}
	for i := range specs { // before anything is created or grown beside it
		s := &specs[i]
		have := int32(len(meta.topics[s.Name].leaders))
		if s.Kind != UserTopic && s.Kind != TasksTopic && have > 0 && have != s.Partitions {
			_, err := VerifyTopics(ctx, cl, []TopicSpec{*s})
			return nil, err
		}
	}
	created := map[string]bool{}
	if len(missing) > 0 {
		if err := createTopics(ctx, cl, missing, meta.brokers); err != nil {
			return nil, err
		}
		for _, s := range missing {
			created[s.Name] = true
		}
	}
	var grown bool
	for _, s := range specs {
		if have := int32(len(meta.topics[s.Name].leaders)); s.Kind == TasksTopic && have > 0 && have < s.Partitions {
			if err := growTopic(ctx, cl, s); err != nil {
				return nil, err
			}
			grown = true
		}
	}
	if len(created) > 0 || grown {
		if err := awaitTopics(ctx, cl, specs); err != nil {
			return nil, err
		}
	}
	topics, err := VerifyTopics(ctx, cl, specs)
	if err != nil {
		return nil, err
	}
	for name := range created {
		t := topics[name]
		t.Created = true
		topics[name] = t
	}
	return topics, nil
}

// VerifyTopics looks again, without changing anything. Call it every few minutes: topics are altered, deleted and created
// anew under a running application, and a live client notices none of it.
func VerifyTopics(ctx context.Context, cl *kgo.Client, specs []TopicSpec) (map[string]Topic, error) {
	meta, configs, err := describeAll(ctx, cl, specs)
	if err != nil {
		return nil, err
	}
	topics := make(map[string]Topic, len(specs))
	var errs []error
	var missing []string
	for i := range specs {
		s := &specs[i]
		t := meta.topics[s.Name]
		switch {
		case t.code == kerr.UnknownTopicOrPartition.Code:
			missing = append(missing, s.Name)
			continue
		case t.code != 0:
			errs = append(errs, topicError(s.Name, kerr.ErrorForCode(t.code)))
			continue
		}
		c := configs[s.Name]
		errs = append(errs, s.check(&t, c)...)
		topics[s.Name] = Topic{
			Name: s.Name, ID: t.id, Partitions: int32(len(t.leaders)), Replication: t.replicas,
			MaxMessageBytes: c.int("max.message.bytes"),
			DeleteRetention: time.Duration(c.int("delete.retention.ms")) * time.Millisecond,
		}
	}
	if len(missing) > 0 {
		errs = append(errs, missingTopics(missing))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return topics, nil
}

// describeAll gets metadata and settings that agree on what exists: a broker may hear of a new topic after the others.
func describeAll(ctx context.Context, cl *kgo.Client, specs []TopicSpec) (clusterMeta, map[string]settings, error) {
	ctx, cancel := context.WithTimeout(ctx, topicSettleTime)
	defer cancel()
	for {
		meta, err := describe(ctx, cl, specs)
		if err != nil {
			return meta, nil, err
		}
		configs, err := describeSettings(ctx, cl, specs)
		if err != nil {
			return meta, nil, err
		}
		agree := true
		for i := range specs {
			agree = agree && (meta.topics[specs[i].Name].code != 0 || !configs[specs[i].Name].unknown)
		}
		if agree {
			return meta, configs, nil
		}
		select {
		case <-ctx.Done():
			return meta, nil, fmt.Errorf("topic settings: the brokers do not agree on which topics exist: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// check compares one topic with what it must be.
func (s *TopicSpec) check(t *topicMeta, c settings) []error {
	var errs []error
	wrong := func(code, setting, found, wanted, reason, remedy string) {
		errs = append(errs, &fault.Error{
			Code: code, Kind: s.blame(), Thing: "topic " + s.Name, Value: setting + "=" + found,
			Reason: "it must be " + wanted + ": " + reason, Remedy: remedy,
		})
	}
	have := int32(len(t.leaders))
	switch {
	case s.Kind == TasksTopic && have < s.Partitions, s.Kind != TasksTopic && s.Partitions > 0 && have != s.Partitions:
		wrong("topic/partitions", "partitions", strconv.Itoa(int(have)), strconv.Itoa(int(s.Partitions)),
			"keys would be looked for in partitions that do not hold them",
			"give the topic that many partitions, or change the topology to what it has; a changelog's count cannot change while it holds state: `millrace reset`")
	}
	if s.Kind == UserTopic || c.denied {
		return errs
	}
	alter := func(setting, value string) string {
		return "set it back: kafka-configs --alter --topic " + s.Name + " --add-config " + setting + "=" + value
	}
	policy := c.policies()
	switch s.Kind {
	case ChangelogTopic, TasksTopic:
		if !slices.Equal(policy, []string{"compact"}) {
			wrong("topic/cleanup-policy", "cleanup.policy", strings.Join(policy, ","), "compact", "anything else deletes state that is alive",
				alter("cleanup.policy", "compact"))
		}
	case RepartitionTopic:
		if !slices.Equal(policy, []string{"delete"}) {
			wrong("topic/cleanup-policy", "cleanup.policy", strings.Join(policy, ","), "delete", "compaction drops records that have not been processed",
				alter("cleanup.policy", "delete"))
		}
		ms, wanted := c.int("retention.ms"), int(s.Retention.Milliseconds())
		switch {
		case wanted == 0 && ms >= 0:
			wrong("topic/retention", "retention.ms", strconv.Itoa(ms), "-1", "records would be dropped before they are processed", alter("retention.ms", "-1"))
		case wanted > 0 && ms >= 0 && ms < wanted:
			wrong("topic/retention", "retention.ms", strconv.Itoa(ms), "at least "+strconv.Itoa(wanted), "records would be dropped before they are processed",
				alter("retention.ms", strconv.Itoa(wanted)))
		}
		if bytes := c.int("retention.bytes"); bytes >= 0 {
			wrong("topic/retention", "retention.bytes", strconv.Itoa(bytes), "-1", "records would be dropped before they are processed", alter("retention.bytes", "-1"))
		}
	}
	return errs
}

// blame is who has to act when a topic is not as it must be: our own topics are part of the application's state.
func (s *TopicSpec) blame() fault.Kind {
	if s.Kind == UserTopic {
		return fault.Cluster
	}
	return fault.State
}

func createTopics(ctx context.Context, cl *kgo.Client, specs []TopicSpec, brokers int) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = int32(topicSettleTime.Milliseconds())
	for i := range specs {
		s := &specs[i]
		if s.Replication > brokers {
			return replicationError(s.Name, s.Replication, brokers)
		}
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = s.Name, s.Partitions, -1
		if s.Replication > 0 {
			t.ReplicationFactor = int16(s.Replication)
		}
		for _, kv := range s.settings() {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = kv[0], kmsg.StringPtr(kv[1])
			t.Configs = append(t.Configs, c)
		}
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	var errs []error
	for i := range resp.Topics {
		t := &resp.Topics[i]
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case err == nil, errors.Is(err, kerr.TopicAlreadyExists):
		case errors.Is(err, kerr.InvalidReplicationFactor):
			n := 0
			if k := slices.IndexFunc(specs, func(s TopicSpec) bool { return s.Name == t.Topic }); k >= 0 {
				n = specs[k].Replication
			}
			errs = append(errs, replicationError(t.Topic, n, brokers))
		default:
			reason := ""
			if t.ErrorMessage != nil {
				reason = *t.ErrorMessage
			}
			errs = append(errs, &fault.Error{
				Code: "topic/not-created", Kind: fault.Cluster, Thing: "topic", Value: t.Topic, Reason: reason,
				Remedy: "allow the principal to create topics with the application's prefix, or create the topic beforehand", Err: err,
			})
		}
	}
	return errors.Join(errs...)
}

func replicationError(topic string, n, brokers int) error {
	e := &fault.Error{
		Code: "topic/replication-factor", Kind: fault.Config, Thing: "replication factor of topic " + topic, Value: strconv.Itoa(n),
		Reason: fmt.Sprintf("the cluster has %d brokers", brokers), Remedy: "ask for fewer replicas with the option ReplicationFactor",
	}
	if n == 0 {
		e.Value, e.Remedy = "broker default", "set the option ReplicationFactor, or default.replication.factor of the brokers"
	}
	return e
}

func growTopic(ctx context.Context, cl *kgo.Client, s TopicSpec) error {
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.TimeoutMillis = int32(topicSettleTime.Milliseconds())
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = s.Name, s.Partitions
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("add partitions to %s: %w", s.Name, err)
	}
	for i := range resp.Topics {
		// INVALID_PARTITIONS: another instance was quicker; verification will tell if not.
		if err := kerr.ErrorForCode(resp.Topics[i].ErrorCode); err != nil && !errors.Is(err, kerr.InvalidPartitions) {
			return topicError(s.Name, err)
		}
	}
	return nil
}

// awaitTopics waits until every topic of ours has all its partitions and every partition a leader.
func awaitTopics(ctx context.Context, cl *kgo.Client, specs []TopicSpec) error {
	ctx, cancel := context.WithTimeout(ctx, topicSettleTime)
	defer cancel()
	for {
		meta, err := describe(ctx, cl, specs)
		if err != nil {
			return err
		}
		waiting := ""
		for i := range specs {
			t := meta.topics[specs[i].Name]
			if t.code != 0 || int32(len(t.leaders)) < specs[i].Partitions || slices.Contains(t.leaders, -1) {
				waiting = specs[i].Name
			}
		}
		if waiting == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return &fault.Error{
				Code: "topic/unavailable", Kind: fault.Cluster, Thing: "topic", Value: waiting,
				Reason: fmt.Sprintf("it was created, but has not had a leader for every partition within %s", topicSettleTime),
				Remedy: "look at the brokers' health", Err: context.Cause(ctx),
			}
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func missingTopics(names []string) error {
	slices.Sort(names)
	thing := "topic"
	if len(names) > 1 {
		thing = "topics"
	}
	return &fault.Error{
		Code: "topic/missing", Kind: fault.Cluster, Thing: thing, Value: strings.Join(names, ", "),
		Reason: "the cluster does not have it", Remedy: "create what is missing, or correct the name; millrace creates its own topics only",
	}
}

func topicError(name string, err error) error {
	e := &fault.Error{Code: "topic/unavailable", Kind: fault.Cluster, Thing: "topic", Value: name, Remedy: "look at the brokers' health", Err: err}
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		e.Code, e.Remedy = "topic/not-authorized", "allow the principal to describe, read and write the topic"
	}
	if errors.Is(err, kerr.InvalidTopicException) {
		e.Code, e.Remedy = "topic/illegal-name", "use letters, digits, '.', '_' and '-', at most 249 of them"
	}
	return e
}

// clusterMeta is a metadata answer. It is always asked for anew: kadm answers from a cache of 5 s, in which a recreated
// topic still has its old id.
type clusterMeta struct {
	brokers int
	topics  map[string]topicMeta
}

type topicMeta struct {
	code     int16
	id       [16]byte
	leaders  []int32 // by partition; -1 none
	replicas int
}

func describe(ctx context.Context, cl *kgo.Client, specs []TopicSpec) (clusterMeta, error) {
	names := make([]string, len(specs))
	for i := range specs {
		names[i] = specs[i].Name
	}
	return describeTopics(ctx, cl, names)
}

func describeTopics(ctx context.Context, cl *kgo.Client, names []string) (clusterMeta, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(n)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return clusterMeta{}, fmt.Errorf("topic metadata: %w", err)
	}
	m := clusterMeta{brokers: len(resp.Brokers), topics: make(map[string]topicMeta, len(resp.Topics))}
	for i := range resp.Topics {
		rt := &resp.Topics[i]
		if rt.Topic == nil {
			continue
		}
		t := topicMeta{code: rt.ErrorCode, id: rt.TopicID, leaders: make([]int32, len(rt.Partitions))}
		slices.SortFunc(rt.Partitions, func(a, b kmsg.MetadataResponseTopicPartition) int { return cmp.Compare(a.Partition, b.Partition) })
		for j := range rt.Partitions {
			t.leaders[j] = rt.Partitions[j].Leader
			t.replicas = max(t.replicas, len(rt.Partitions[j].Replicas))
		}
		m.topics[*rt.Topic] = t
	}
	return m, nil
}

// settings are a topic's, as described.
type settings struct {
	values  map[string]string
	denied  bool // we may not see them
	unknown bool // the broker has not heard of the topic
}

// int returns a number, 0 if it is not there.
func (s settings) int(name string) int {
	n, err := strconv.Atoi(s.values[name])
	if err != nil {
		return 0
	}
	return n
}

func (s settings) policies() []string {
	var p []string
	for _, f := range strings.Split(s.values["cleanup.policy"], ",") {
		if f = strings.TrimSpace(f); f != "" {
			p = append(p, f)
		}
	}
	slices.Sort(p)
	return p
}

// describeSettings asks for the settings of all topics. A user's topic that may not be described is no mistake: only its
// size limit stays unknown.
func describeSettings(ctx context.Context, cl *kgo.Client, specs []TopicSpec) (map[string]settings, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	kinds := make(map[string]TopicKind, len(specs))
	for i := range specs {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, specs[i].Name
		r.ConfigNames = []string{"cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes", "delete.retention.ms"}
		req.Resources = append(req.Resources, r)
		kinds[specs[i].Name] = specs[i].Kind
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("topic settings: %w", err)
	}
	all := make(map[string]settings, len(specs))
	var errs []error
	for i := range resp.Resources {
		r := &resp.Resources[i]
		s := settings{values: make(map[string]string, len(r.Configs))}
		switch err := kerr.ErrorForCode(r.ErrorCode); {
		case err == nil:
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			s.unknown = true
		case kinds[r.ResourceName] == UserTopic:
			s.denied = true
		default:
			errs = append(errs, topicError(r.ResourceName, err))
		}
		for j := range r.Configs {
			if v := r.Configs[j].Value; v != nil {
				s.values[r.Configs[j].Name] = *v
			}
		}
		all[r.ResourceName] = s
	}
	return all, errors.Join(errs...)
}
