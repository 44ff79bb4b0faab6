package runtime

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/reach"
	"github.com/millrace-io/millrace/topology"
	"github.com/millrace-io/millrace/txn"
)

// connectTimeout bounds how long a start waits for the first answer of any broker.
const connectTimeout = 12 * time.Second

// clientOpts are what every client of the application has in common.
func (r *Runtime) clientOpts(role string) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.ClientID("millrace-" + r.cfg.App + "-" + r.instance + "-" + role),
		kgo.WithLogger(kgoLog{r.log.With("client", role)}),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.DialTimeout(5 * time.Second),
		kgo.WithHooks(r.stats.client(role)),
	}
	return append(opts, r.cfg.Connection()...)
}

// Connection is how to reach the brokers.
func (c *Config) Connection() []kgo.Opt {
	opts := append([]kgo.Opt(nil), c.Client...)
	opts = append(opts, kgo.SeedBrokers(c.Brokers...))
	if c.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(c.TLS))
	}
	if len(c.SASL) > 0 {
		opts = append(opts, kgo.SASL(c.SASL...))
	}
	return opts
}

// connect makes the admin client and waits until a broker has answered.
func (r *Runtime) connect(ctx context.Context) error {
	watch := &reach.Watch{}
	admin, err := kgo.NewClient(append(r.clientOpts("admin"), kgo.WithHooks(watch))...)
	if err != nil {
		return &fault.Error{Code: "config/client", Kind: fault.Config, Thing: "Kafka client options", Reason: err.Error(),
			Remedy: "look at ClientOptions, TLS and SASL", Err: err}
	}
	r.admin = admin
	r.clusterID, err = reach.Cluster(ctx, admin, watch, r.cfg.Brokers, r.cfg.TLS != nil, connectTimeout)
	return err
}

// survey looks at the cluster and lays the topology over it: user topics must exist, ours are created and verified.
func (r *Runtime) survey(ctx context.Context) error {
	if err := txn.CheckCluster(ctx, r.admin, r.cfg.TransactionTimeout); err != nil {
		return err
	}
	p := &plan{app: r.cfg.App, tasksTopic: changelog.TasksTopicName(r.cfg.App), byTopic: map[string]*subPlan{}, topics: map[string]topicInfo{}}
	users := r.userTopics()
	found, err := r.userTopicsAsTheyAre(ctx, users)
	if err != nil {
		return err
	}
	counts := func(topic string) (int32, bool) {
		t, ok := found[topic]
		return t.Partitions, ok
	}
	throughs, tasks, err := r.cfg.Topology.PartitionCounts(counts)
	if err != nil {
		return err
	}

	specs := users
	widest := int32(1)
	for _, sub := range r.cfg.Topology.Subtopologies() {
		s := &subPlan{Subtopology: sub, name: sub.Name, tasks: tasks[sub.Name], stateful: len(sub.Stores) > 0, changelogs: map[string]string{}}
		for i, src := range sub.Sources {
			topic := src.Topic.Resolve(r.cfg.App)
			if src.Broadcast != "" {
				s.broadcasts = append(s.broadcasts, broadcastInput{source: i, topic: topic, store: src.Broadcast})
				continue
			}
			s.sources, s.reads = append(s.sources, topic), append(s.reads, i)
			p.byTopic[topic] = s
		}
		for _, sink := range sub.Sinks {
			s.sinks = append(s.sinks, sink.Topic.Resolve(r.cfg.App))
		}
		for _, st := range sub.Stores {
			topic := changelog.StoreTopic(r.cfg.App, st.Name())
			s.changelogs[st.Name()] = topic
			specs = append(specs, changelog.TopicSpec{Name: topic, Kind: changelog.ChangelogTopic, Partitions: s.tasks, Replication: r.cfg.ReplicationFactor})
		}
		s.records = s.stateful || sub.Watermarks || r.cfg.OnError.Attempts > 0 || slices.ContainsFunc(sub.Nodes, func(n topology.NodeInfo) bool { return n.Policy.Attempts > 0 })
		if s.records {
			widest = max(widest, s.tasks)
		}
		p.subs = append(p.subs, s)
	}
	for ref, n := range throughs {
		if ref.Global {
			specs = append(specs, changelog.TopicSpec{Name: ref.Resolve(r.cfg.App), Kind: changelog.ChangelogTopic, Partitions: n, Replication: r.cfg.ReplicationFactor})
			continue
		}
		specs = append(specs, changelog.TopicSpec{Name: ref.Resolve(r.cfg.App), Kind: changelog.RepartitionTopic, Partitions: n, Replication: r.cfg.ReplicationFactor})
	}
	specs = append(specs, changelog.TopicSpec{Name: p.tasksTopic, Kind: changelog.TasksTopic, Partitions: widest, Replication: r.cfg.ReplicationFactor})
	r.specs = specs
	topics, err := changelog.EnsureTopics(ctx, r.admin, specs)
	if err != nil {
		return err
	}
	for name, t := range topics {
		p.topics[name] = topicInfo{id: t.ID, partitions: t.Partitions, maxBytes: t.MaxMessageBytes}
		if t.DeleteRetention > 0 {
			r.deleteRetention[name] = t.DeleteRetention
		}
	}
	r.plan = p
	r.found = topics
	return nil
}

// missingTopicGrace is how long a missing topic is looked for: a broker answers CreateTopics before it has told itself, and
// a program that makes its topics and then starts is not to be refused.
const missingTopicGrace = 2 * time.Second

// userTopicsAsTheyAre describes the topics that must exist.
func (r *Runtime) userTopicsAsTheyAre(ctx context.Context, users []changelog.TopicSpec) (map[string]changelog.Topic, error) {
	for began := time.Now(); ; {
		found, err := changelog.EnsureTopics(ctx, r.admin, users)
		if fault.Code(err) != "topic/missing" || time.Since(began) > missingTopicGrace {
			return found, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// userTopics are the topics that must exist: literal sources and sinks, and dead letter topics.
func (r *Runtime) userTopics() []changelog.TopicSpec {
	seen := map[string]bool{}
	var specs []changelog.TopicSpec
	add := func(name string) {
		if name != "" && !seen[name] {
			seen[name] = true
			specs = append(specs, changelog.TopicSpec{Name: name, Kind: changelog.UserTopic})
		}
	}
	addRef := func(ref topology.TopicRef) {
		if !ref.Through {
			add(ref.Name)
		}
	}
	for _, sub := range r.cfg.Topology.Subtopologies() {
		for _, s := range sub.Sources {
			addRef(s.Topic)
		}
		for _, s := range sub.Sinks {
			addRef(s.Topic)
		}
		for _, n := range sub.Nodes {
			add(n.Policy.Topic)
		}
	}
	add(r.cfg.OnError.Topic)
	return specs
}

func (p *plan) topicName(id [16]byte) string {
	for name, t := range p.topics {
		if t.id == id {
			return name
		}
	}
	return fmt.Sprintf("topic with id %x", id)
}

// taskCount is the number of tasks of all subtopologies.
func (p *plan) taskCount() int {
	n := 0
	for _, s := range p.subs {
		n += int(s.tasks)
	}
	return n
}

// maxBytes are the record limits of a subtopology's sinks.
func (p *plan) maxBytes(s *subPlan) (sinks []int, changelogs int) {
	for _, t := range s.sinks {
		sinks = append(sinks, p.topics[t].maxBytes)
	}
	for _, t := range s.changelogs {
		if b := p.topics[t].maxBytes; b > 0 && (changelogs == 0 || b < changelogs) {
			changelogs = b
		}
	}
	return sinks, changelogs
}
