package changelog_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/devkafka"
	"github.com/millrace-io/millrace/internal/fault"
)

// appTopics are what an application with one store and one repartition needs.
func appTopics(app string) []changelog.TopicSpec {
	return []changelog.TopicSpec{
		{Name: changelog.StoreTopic(app, "counts"), Kind: changelog.ChangelogTopic, Partitions: 3},
		{Name: changelog.ThroughTopic(app, "by-word"), Kind: changelog.RepartitionTopic, Partitions: 3},
		{Name: changelog.TasksTopicName(app), Kind: changelog.TasksTopic, Partitions: 3},
	}
}

func TestTopicsAreCreatedAsTheyMustBe(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		app := name("shop")
		cl := c.client(t)
		specs := appTopics(app)
		first, err := changelog.EnsureTopics(t.Context(), cl, specs)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []map[string]string{
			{"cleanup.policy": "compact", "message.timestamp.type": "CreateTime", "delete.retention.ms": "86400000"},
			{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"},
			{"cleanup.policy": "compact", "segment.bytes": "16777216", "segment.ms": "3600000"},
		} {
			got := c.settings(t, specs[i].Name)
			for k, v := range want {
				if got[k] != v {
					t.Errorf("%s has %s=%q, want %q", specs[i].Name, k, got[k], v)
				}
			}
			topic := first[specs[i].Name]
			if !topic.Created || topic.ID == ([16]byte{}) || topic.Partitions != 3 || topic.MaxMessageBytes < 1_000_000 || topic.DeleteRetention != 24*time.Hour {
				t.Errorf("%+v", topic)
			}
		}
		again, err := changelog.EnsureTopics(t.Context(), cl, specs)
		if err != nil {
			t.Fatal(err)
		}
		for n, topic := range first {
			topic.Created = false
			if again[n] != topic {
				t.Errorf("%+v is now %+v", topic, again[n])
			}
		}
		// The tasks topic follows the widest subtopology; nothing else grows.
		specs[2].Partitions = 5
		grown, err := changelog.EnsureTopics(t.Context(), cl, specs)
		if err != nil {
			t.Fatal(err)
		}
		if n := grown[specs[2].Name]; n.Partitions != 5 || n.ID != first[specs[2].Name].ID {
			t.Errorf("the tasks topic is %+v, want 5 partitions", n)
		}
		specs[2].Partitions = 2
		if _, err := changelog.EnsureTopics(t.Context(), cl, specs); err != nil {
			t.Errorf("a tasks topic with more partitions than needed: %v", err)
		}
	})
}

// Instances that start together create the topics once.
func TestTopicsAreCreatedOnce(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		specs := appTopics(name("shop"))
		var wg sync.WaitGroup
		found := make([]map[string]changelog.Topic, 4)
		for i := range found {
			cl := c.client(t)
			wg.Go(func() {
				topics, err := changelog.EnsureTopics(t.Context(), cl, specs)
				if err != nil {
					t.Error(err)
				}
				for n, topic := range topics {
					topic.Created = false
					topics[n] = topic
				}
				found[i] = topics
			})
		}
		wg.Wait()
		for i := range found {
			if len(found[i]) != 3 || !maps.Equal(found[i], found[0]) {
				t.Errorf("instance %d sees %v, instance 0 %v", i, found[i], found[0])
			}
		}
	})
}

func TestTopicsAreVerified(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		for _, k := range []struct {
			name  string
			code  string
			says  []string
			spec  func(s []changelog.TopicSpec)
			alter [3]string // number of the topic, setting, value
		}{
			{name: "delete policy on a changelog", code: "topic/cleanup-policy", says: []string{"cleanup.policy=delete", "must be compact", "-counts-changelog"}, alter: [3]string{"0", "cleanup.policy", "delete"}},
			{name: "delete policy added", code: "topic/cleanup-policy", says: []string{"compact,delete"}, alter: [3]string{"0", "cleanup.policy", "compact,delete"}},
			{name: "delete policy on the tasks topic", code: "topic/cleanup-policy", alter: [3]string{"2", "cleanup.policy", "delete"}},
			{name: "compacted repartition topic", code: "topic/cleanup-policy", says: []string{"must be delete"}, alter: [3]string{"1", "cleanup.policy", "compact"}},
			{name: "retention of a repartition topic", code: "topic/retention", says: []string{"retention.ms=3600000", "must be -1"}, alter: [3]string{"1", "retention.ms", "3600000"}},
			{name: "retention by size", code: "topic/retention", says: []string{"retention.bytes=1048576"}, alter: [3]string{"1", "retention.bytes", "1048576"}},
			{name: "retention below what was asked", code: "topic/retention", says: []string{"at least 7200000"},
				spec: func(s []changelog.TopicSpec) { s[1].Retention = 2 * time.Hour }, alter: [3]string{"1", "retention.ms", "3600000"}},
			{name: "retention above what was asked", spec: func(s []changelog.TopicSpec) { s[1].Retention = time.Hour }, alter: [3]string{"1", "retention.ms", "7200000"}},
			{name: "other partition count of a changelog", code: "topic/partitions", says: []string{"partitions=3", "must be 4"}, spec: func(s []changelog.TopicSpec) { s[0].Partitions = 4 }},
			{name: "fewer partitions than the repartition topic has", code: "topic/partitions", says: []string{"must be 2"}, spec: func(s []changelog.TopicSpec) { s[1].Partitions = 2 }},
			{name: "harmless settings", alter: [3]string{"0", "max.message.bytes", "2000000"}},
		} {
			t.Run(k.name, func(t *testing.T) {
				specs := appTopics(name("shop"))
				cl := c.client(t)
				if _, err := changelog.EnsureTopics(t.Context(), cl, specs); err != nil {
					t.Fatal(err)
				}
				if k.alter[1] != "" {
					c.set(t, specs[k.alter[0][0]-'0'].Name, k.alter[1], k.alter[2])
				}
				if k.spec != nil {
					k.spec(specs)
				}
				topics, err := changelog.VerifyTopics(t.Context(), cl, specs)
				if k.code == "" {
					if err != nil {
						t.Fatal(err)
					}
					if n := topics[specs[0].Name].MaxMessageBytes; k.alter[1] == "max.message.bytes" && n != 2_000_000 {
						t.Errorf("max message bytes %d", n)
					}
					return
				}
				if fault.Code(err) != k.code || fault.ExitCode(err) != 3 {
					t.Fatalf("got %v, want %s", err, k.code)
				}
				for _, s := range k.says {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%v does not say %q", err, s)
					}
				}
			})
		}
	})
}

func TestMissingTopics(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		app := name("shop")
		here := c.topic(t, 2)
		specs := append(appTopics(app),
			changelog.TopicSpec{Name: "zebra-" + app, Kind: changelog.UserTopic},
			changelog.TopicSpec{Name: here.Name, Kind: changelog.UserTopic},
			changelog.TopicSpec{Name: "apple-" + app, Kind: changelog.UserTopic})
		cl := c.client(t)
		_, err := changelog.EnsureTopics(t.Context(), cl, specs)
		if fault.Code(err) != "topic/missing" || !strings.Contains(err.Error(), `"apple-`+app+", zebra-"+app+`"`) || fault.ExitCode(err) != 4 {
			t.Errorf("%v", err)
		}
		// Nothing was created for an application that cannot start.
		if _, err := changelog.VerifyTopics(t.Context(), cl, specs); err == nil || !strings.Contains(err.Error(), changelog.TasksTopicName(app)) {
			t.Errorf("topics were created all the same: %v", err)
		}
	})
}

func TestReplicationFactor(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		specs := appTopics(name("shop"))
		specs[0].Replication = 7
		_, err := changelog.EnsureTopics(t.Context(), c.client(t), specs)
		if fault.Code(err) != "topic/replication-factor" || !strings.Contains(err.Error(), `"7"`) || !strings.Contains(err.Error(), "ReplicationFactor") {
			t.Errorf("%v", err)
		}
		specs[0].Replication = 1
		topics, err := changelog.EnsureTopics(t.Context(), c.client(t), specs)
		if err != nil {
			t.Fatal(err)
		}
		if n := topics[specs[0].Name].Replication; n != 1 {
			t.Errorf("%d replicas, want 1", n)
		}
	})
}

// What the brokers refuse comes back with the topic's name and something to do.
func TestTopicsNotCreated(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	specs := appTopics(name("shop"))
	c.fake.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: specs[0].Name, Err: kerr.TopicAuthorizationFailed})
	_, err := changelog.EnsureTopics(t.Context(), c.client(t), specs)
	if fault.Code(err) != "topic/not-created" || !errors.Is(err, kerr.TopicAuthorizationFailed) || !strings.Contains(err.Error(), specs[0].Name) {
		t.Errorf("%v", err)
	}
	c.fake.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: specs[0].Name, Err: kerr.TopicAuthorizationFailed})
	_, err = changelog.EnsureTopics(t.Context(), c.client(t), specs)
	if fault.Code(err) != "topic/not-authorized" || !strings.Contains(err.Error(), specs[0].Name) {
		t.Errorf("%v", err)
	}
}

// The broker that is asked for a new topic's settings may not have heard of it yet.
func TestSettingsAreAskedForAgain(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	specs := appTopics(name("shop"))
	unknown := c.fake.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: specs[1].Name, Err: kerr.UnknownTopicOrPartition, Count: 3})
	if _, err := changelog.EnsureTopics(t.Context(), c.client(t), specs); err != nil {
		t.Error(err)
	}
	if unknown.Hits() != 3 {
		t.Errorf("asked %d times", unknown.Hits())
	}
}

// A user's topic whose settings we may not see is no mistake.
func TestUserTopicMayKeepItsSettings(t *testing.T) {
	c := embedded(t, devkafka.Options{Topics: map[string]int32{"lines": 2}})
	c.fake.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: "lines", Err: kerr.TopicAuthorizationFailed})
	topics, err := changelog.EnsureTopics(t.Context(), c.client(t), []changelog.TopicSpec{{Name: "lines", Kind: changelog.UserTopic}})
	if err != nil || topics["lines"].Partitions != 2 || topics["lines"].MaxMessageBytes != 0 {
		t.Errorf("%+v, %v", topics, err)
	}
}

// A topic that was deleted and created anew shows at the next look, not when some cache has aged.
func TestVerifySeesRecreatedTopic(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic := c.topic(t, 1)
		cl := c.client(t)
		spec := []changelog.TopicSpec{{Name: topic.Name, Kind: changelog.ChangelogTopic, Partitions: 1}}
		if _, err := changelog.VerifyTopics(t.Context(), cl, spec); err != nil {
			t.Fatal(err)
		}
		c.recreate(t, topic)
		topics, err := changelog.VerifyTopics(t.Context(), cl, spec)
		if err != nil || topics[topic.Name].ID == topic.ID {
			t.Errorf("id %x, want another than %x; %v", topics[topic.Name].ID, topic.ID, err)
		}
	})
}

func TestRegistry(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		app := name("shop")
		specs := appTopics(app)
		made, err := changelog.EnsureTopics(t.Context(), c.client(t), specs)
		if err != nil {
			t.Fatal(err)
		}
		topics := slices.Collect(maps.Values(made))
		tasks := made[changelog.TasksTopicName(app)]
		members := []changelog.Members{
			{Name: "by-word", Sources: []string{"lines"}},
			{Name: "counts", Stores: []string{"counts"}, Sources: []string{specs[1].Name}},
		}
		register := func(topics []changelog.Topic, members []changelog.Members) ([]changelog.Named, error) {
			return changelog.Register(t.Context(), c.restorer(t, changelog.RestorerConfig{}), tasks, topics, members)
		}
		same := func(what string, got []changelog.Named, err error, want ...changelog.Named) {
			t.Helper()
			if err != nil || len(got) != len(want) {
				t.Fatalf("%s: %v, %v", what, got, err)
			}
			for i := range want {
				if got[i].Name != want[i].Name || !slices.Equal(got[i].Absorbs, want[i].Absorbs) {
					t.Errorf("%s: %+v, want %+v", what, got[i], want[i])
				}
			}
		}

		// Three first starts at once.
		var wg sync.WaitGroup
		for range 3 {
			r := c.restorer(t, changelog.RestorerConfig{})
			wg.Go(func() {
				if _, err := changelog.Register(t.Context(), r, tasks, topics, members); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// Somebody is in the middle of a transaction on the same partition; nobody waits for it.
		open := c.writer(t)
		open.begin(changelog.Record(tasks.Name, 0, changelog.TaskKey("counts", 0), []byte("x"), time.Now()))
		end := c.ends(t, tasks, 0).End
		named, err := register(topics, members)
		same("second start", named, err, changelog.Named{Name: "by-word"}, changelog.Named{Name: "counts"})
		if now := c.ends(t, tasks, 0).End; now != end {
			t.Errorf("a start that has nothing new wrote %d records", now-end)
		}
		open.end(kgo.TryAbort)

		// A store with a smaller name joins: the subtopology keeps the name it has. A stateless part gets a store.
		named, err = register(topics, []changelog.Members{
			{Name: "a-first", Stores: []string{"a-first", "counts"}, Sources: []string{specs[1].Name}},
			{Name: "words", Stores: []string{"words"}, Sources: []string{"lines"}},
		})
		same("after an edit", named, err, changelog.Named{Name: "counts"}, changelog.Named{Name: "by-word"})

		// The parts grow together: the older name stays.
		named, err = register(topics, []changelog.Members{{Name: "all", Stores: []string{"words", "counts"}, Sources: []string{"lines"}}})
		same("merged", named, err, changelog.Named{Name: "by-word", Absorbs: []string{"counts"}})

		// And apart again: nobody can say whose the offsets are.
		_, err = register(topics, []changelog.Members{
			{Name: "one", Stores: []string{"words"}}, {Name: "two", Stores: []string{"counts"}},
		})
		if fault.Code(err) != "registry/ambiguous" || !strings.Contains(err.Error(), "one and two") || fault.ExitCode(err) != 3 {
			t.Errorf("split: %v", err)
		}
	})
}

func TestRegistryRefusesForeignTopics(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		app := name("shop")
		specs := appTopics(app)
		made, err := changelog.EnsureTopics(t.Context(), c.client(t), specs)
		if err != nil {
			t.Fatal(err)
		}
		tasks, counts := made[changelog.TasksTopicName(app)], made[specs[0].Name]
		topics := slices.Collect(maps.Values(made))
		r := c.restorer(t, changelog.RestorerConfig{})

		// Somebody else's records in a topic of that name.
		c.writer(t).txn(kgo.TryCommit, put(counts, 2, "k", "v"))
		_, err = changelog.Register(t.Context(), r, tasks, topics, nil)
		if fault.Code(err) != "registry/foreign-topic" || !strings.Contains(err.Error(), counts.Name) || fault.ExitCode(err) != 3 {
			t.Errorf("%v", err)
		}
		if end := c.ends(t, tasks, 0).End; end != 0 {
			t.Errorf("%d records were registered in spite of the refusal", end)
		}

		// An empty one is taken, and used, and then it is another one.
		c.recreate(t, counts)
		if made, err = changelog.VerifyTopics(t.Context(), c.client(t), specs); err != nil {
			t.Fatal(err)
		}
		topics = slices.Collect(maps.Values(made))
		if _, err = changelog.Register(t.Context(), r, tasks, topics, nil); err != nil {
			t.Fatal(err)
		}
		ours := made[counts.Name]
		c.writer(t).txn(kgo.TryCommit, put(ours, 2, "k", "v"))
		if _, err = changelog.Register(t.Context(), r, tasks, topics, nil); err != nil {
			t.Errorf("our own topic: %v", err)
		}
		c.recreate(t, ours)
		if made, err = changelog.VerifyTopics(t.Context(), c.client(t), specs); err != nil {
			t.Fatal(err)
		}
		_, err = changelog.Register(t.Context(), r, tasks, slices.Collect(maps.Values(made)), nil)
		if fault.Code(err) != "topic/recreated" || !strings.Contains(err.Error(), idText(ours.ID)) {
			t.Errorf("%v", err)
		}
	})
}

func TestTaskRecords(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		tasks := c.topic(t, 2)
		w := c.writer(t)
		record := func(task string, at int64) kgo.Record {
			r := taskRecord
			r.Now = at
			return changelog.Record(tasks.Name, 1, changelog.TaskKey(task, 1), r.Append(nil), time.Now())
		}
		w.txn(kgo.TryCommit, record("counts", 1), record("other", 1), record("gone", 1))
		w.txn(kgo.TryCommit, record("counts", 2), changelog.Record(tasks.Name, 1, changelog.TaskKey("gone", 1), nil, time.Now()))
		w.txn(kgo.TryAbort, record("counts", 3))
		r := c.restorer(t, changelog.RestorerConfig{})
		end := c.ends(t, tasks, 1).End
		for _, k := range []struct {
			from int64
			now  int64
		}{{-1, 2}, {0, 2}, {4, 2}, {5, 0}, {end, 0}} {
			got, err := r.TaskRecords(t.Context(), changelog.Part{Topic: tasks.Name, ID: tasks.ID, Partition: 1, From: k.from, End: end}, "counts/1", "gone/1")
			if err != nil {
				t.Fatal(err)
			}
			rec, ok := got.ByKey["counts/1"]
			if ok != (k.now > 0) || rec.Now != k.now || got.Next != end || got.FromStart != (k.from < 0) {
				t.Errorf("from %d: %+v, want the record of %d and position %d", k.from, got, k.now, end)
			}
			if _, ok := got.ByKey["gone/1"]; ok && k.from < 2 {
				t.Error("a deleted record came back")
			}
			if _, ok := got.ByKey["other/1"]; ok {
				t.Error("a record nobody asked for")
			}
		}
		// What does not decode is not skipped.
		w.txn(kgo.TryCommit, changelog.Record(tasks.Name, 1, changelog.TaskKey("counts", 1), []byte("?"), time.Now()))
		_, err := r.TaskRecords(t.Context(), changelog.Part{Topic: tasks.Name, Partition: 1, From: -1, End: c.ends(t, tasks, 1).End}, "counts/1")
		if fault.Code(err) != "changelog/damaged" {
			t.Errorf("%v", err)
		}
	})
}
