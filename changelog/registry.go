package changelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/store"
)

// Registry is what an application has written down about itself in partition 0 of <app>-tasks, before it used
// anything (docs/format/tasks-topic.md): which topics are its own, and what its subtopologies are called.
type Registry struct {
	topics map[string][16]byte
	owners map[string]ownerRecord // by "store/<name>" and "source/<topic>"
	seq    uint64                 // the greatest number of a name
}

// ownerRecord says to which subtopology a store or source belongs. Names are numbered in the order they were first used.
type ownerRecord struct {
	name string
	seq  uint64
}

// Members are what makes up a subtopology, for finding the name it had before.
type Members struct {
	Name    string   // what it would be called if it were new
	Stores  []string // names
	Sources []string // topics, as in Kafka
}

// Named is the name a subtopology keeps.
type Named struct {
	Name string
	// Absorbs are the names of subtopologies that have become part of this one. Their task records hold offsets of inputs
	// that are its now.
	Absorbs []string
}

const (
	registryPrefix = "registry/"
	registryTopic  = registryPrefix + "topic/"
	registryOwner  = registryPrefix + "owner/"
)

// Register reads the registry, checks the application's topics against it, finds the names of its subtopologies, and
// writes down what is new, before anything is used. topics are the changelogs, repartition topics and the tasks topic, as
// EnsureTopics returned them; tasks is the last one again. The names come back in the order of members. Instances that start
// together write the same. Refusals are *fault.Error values, joined.
func Register(ctx context.Context, r *Restorer, tasks Topic, topics []Topic, members []Members) ([]Named, error) {
	// The order matters. An instance that registers a topic does so before its first record; so if the ends are listed
	// first, whatever is found in a topic of ours is in the registry that is read afterwards.
	used, err := listUsed(ctx, r, topics)
	if err != nil {
		return nil, err
	}
	g, err := readRegistry(ctx, r, tasks)
	if err != nil {
		return nil, err
	}
	if err := g.checkTopics(topics, used); err != nil {
		return nil, err
	}
	named, err := g.names(members)
	if err != nil {
		return nil, err
	}
	records := g.additions(topics, members, named)
	now := time.Now()
	for i := range records {
		records[i].Topic, records[i].Partition, records[i].Timestamp = tasks.Name, 0, now
	}
	out := make([]*kgo.Record, len(records))
	for i := range records {
		out[i] = &records[i]
	}
	if err := r.client.ProduceSync(ctx, out...).FirstErr(); err != nil {
		return nil, fmt.Errorf("register topics in %s: %w", tasks.Name, err)
	}
	return named, nil
}

// listUsed finds the topics that have ever held anything.
func listUsed(ctx context.Context, r *Restorer, topics []Topic) (map[string]bool, error) {
	var logs []TopicPartition
	for _, t := range topics {
		for p := range t.Partitions {
			logs = append(logs, TopicPartition{t.Name, p})
		}
	}
	ends, err := ListEnds(ctx, r.client, logs)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for tp, e := range ends {
		if e.End > 0 {
			used[tp.Topic] = true
		}
	}
	return used, nil
}

// readRegistry reads the whole of partition 0. It reads uncommitted: registry records are in no transaction, and a dead
// instance's open one must not hold up a start.
func readRegistry(ctx context.Context, r *Restorer, tasks Topic) (*Registry, error) {
	tp := TopicPartition{tasks.Name, 0}
	ends, err := ListEnds(ctx, r.client, []TopicPartition{tp})
	if err != nil {
		return nil, err
	}
	g := &Registry{topics: map[string][16]byte{}, owners: map[string]ownerRecord{}}
	res := <-r.Add(ctx, Request{
		Task: fmt.Sprintf("<%s registry %d>", tasks.Name, taskReads.Add(1)), Target: registryTarget{g},
		Parts: []Part{{Topic: tasks.Name, ID: tasks.ID, From: -1, End: ends[tp].End, uncommitted: true}},
	})
	if res.Err != nil {
		return nil, fmt.Errorf("read the registry in %s: %w", tasks.Name, res.Err)
	}
	return g, nil
}

type registryTarget struct{ g *Registry }

func (t registryTarget) Apply(_ int, rows []store.Mutation, _ int64) error {
	for i := range rows {
		if err := t.g.apply(string(rows[i].Key), rows[i].Value); err != nil {
			return err
		}
	}
	return nil
}

func (t registryTarget) Rebuild(error) error {
	*t.g = Registry{topics: map[string][16]byte{}, owners: map[string]ownerRecord{}}
	return nil
}

func (t registryTarget) Finish() error { return nil }

// apply takes one record; later ones of a key replace earlier ones.
func (g *Registry) apply(key string, value []byte) error {
	topic, isTopic := strings.CutPrefix(key, registryTopic)
	owner, isOwner := strings.CutPrefix(key, registryOwner)
	if !isTopic && !isOwner {
		return nil // a task's, or of a newer version that knows more
	}
	if value == nil {
		delete(g.topics, topic)
		delete(g.owners, owner)
		return nil
	}
	r, err := open(value, kindRegistry, "registry record "+key)
	if err != nil {
		return err
	}
	if isTopic {
		var id [16]byte
		binary.BigEndian.PutUint64(id[:8], r.fixed64("topic id"))
		binary.BigEndian.PutUint64(id[8:], r.fixed64("topic id"))
		if err := r.done(); err != nil {
			return err
		}
		g.topics[topic] = id
		return nil
	}
	o := ownerRecord{seq: r.uvarint("sequence"), name: r.string("subtopology", nameBytesMax)}
	if err := r.done(); err != nil {
		return err
	}
	g.owners[owner] = o
	g.seq = max(g.seq, o.seq)
	return nil
}

func appendTopicRecord(dst []byte, id [16]byte) []byte {
	from := len(dst)
	dst = append(dst, kindRegistry, codecVersion)
	dst = append(dst, id[:]...)
	return seal(dst, from)
}

func appendOwnerRecord(dst []byte, o ownerRecord) []byte {
	from := len(dst)
	dst = append(dst, kindRegistry, codecVersion)
	dst = binary.AppendUvarint(dst, o.seq)
	dst = appendString(dst, o.name)
	return seal(dst, from)
}

// checkTopics refuses topics that hold something and are not ours, and topics that were ours once.
func (g *Registry) checkTopics(topics []Topic, used map[string]bool) error {
	var errs []error
	for _, t := range topics {
		id, known := g.topics[t.Name]
		switch {
		case !known && used[t.Name]:
			errs = append(errs, &fault.Error{
				Code: "registry/foreign-topic", Kind: fault.State, Thing: "topic", Value: t.Name,
				Reason: "it holds records, but this application has not registered it: it may belong to another one",
				Remedy: "choose another application id, or delete the topic if nobody needs it",
			})
		case known && id != t.ID && id != ([16]byte{}) && t.ID != ([16]byte{}):
			errs = append(errs, recreated(t.Name, t.ID, id))
		}
	}
	return errors.Join(errs...)
}

// names finds the name of every subtopology. Stores say it where they can: they own bytes. A subtopology with no known
// store goes by its sources.
func (g *Registry) names(members []Members) ([]Named, error) {
	named := make([]Named, len(members))
	users := map[string][]string{} // by kept name, the current names that claim it
	for i, m := range members {
		known := g.known("store/", m.Stores)
		if len(known) == 0 {
			known = g.known("source/", m.Sources)
		}
		named[i].Name = m.Name
		if len(known) > 0 {
			named[i].Name = known[0]
			named[i].Absorbs = known[1:]
		}
		for _, n := range append([]string{named[i].Name}, named[i].Absorbs...) {
			users[n] = append(users[n], m.Name)
		}
	}
	var errs []error
	for _, n := range slices.Sorted(maps.Keys(users)) {
		if len(users[n]) > 1 {
			slices.Sort(users[n])
			errs = append(errs, &fault.Error{
				Code: "registry/ambiguous", Kind: fault.State, Thing: "subtopology", Value: n,
				Reason: "the parts " + strings.Join(users[n], " and ") + " of the topology were one, and only one of them can keep its offsets and state",
				Remedy: "keep them connected, or give the stores and repartition topics of one of them new names",
			})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return named, nil
}

// known lists the recorded names of members, oldest first.
func (g *Registry) known(prefix string, members []string) []string {
	var found []ownerRecord
	for _, m := range members {
		if o, ok := g.owners[prefix+m]; ok && !slices.ContainsFunc(found, func(f ownerRecord) bool { return f.name == o.name }) {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b ownerRecord) int {
		if a.seq != b.seq {
			if a.seq < b.seq {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.name
	}
	return names
}

// additions are the records that say what the registry does not say yet.
func (g *Registry) additions(topics []Topic, members []Members, named []Named) []kgo.Record {
	var records []kgo.Record
	for _, t := range topics {
		if id, ok := g.topics[t.Name]; !ok || id == ([16]byte{}) && t.ID != id {
			records = append(records, kgo.Record{Key: []byte(registryTopic + t.Name), Value: appendTopicRecord(nil, t.ID)})
		}
	}
	seqs := map[string]uint64{}
	for _, o := range g.owners {
		seqs[o.name] = o.seq
	}
	fresh := make([]string, 0, len(named))
	for _, n := range named {
		if _, ok := seqs[n.Name]; !ok {
			fresh = append(fresh, n.Name)
		}
	}
	slices.Sort(fresh) // the same numbers in every instance
	for i, n := range fresh {
		seqs[n] = g.seq + uint64(i) + 1
	}
	for i, m := range members {
		o := ownerRecord{named[i].Name, seqs[named[i].Name]}
		var keys []string
		for _, s := range m.Stores {
			keys = append(keys, "store/"+s)
		}
		for _, s := range m.Sources {
			keys = append(keys, "source/"+s)
		}
		for _, k := range keys {
			if g.owners[k] != o {
				records = append(records, kgo.Record{Key: []byte(registryOwner + k), Value: appendOwnerRecord(nil, o)})
			}
		}
	}
	return records
}
