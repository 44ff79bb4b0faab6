package changelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// Registry is what an application has written down about itself in partition 0 of <app>-tasks, before it used
// anything (docs/format/tasks-topic.md): which topics are its own, and what its subtopologies are called.
type Registry struct {
	topics map[string][16]byte
	owners map[string]ownerRecord // by "store/<name>" and "source/<topic>"
	fork   bool                   // somebody is making, or was making, the application from a snapshot
	seq    uint64                 // the greatest number of a name
	stores map[string]storeRecord // by name
	values map[string][]serde.Form
}

// storeRecord is what never changes about a store.
type storeRecord struct {
	kind store.Kind
	key  string // id of the key's codec
}

// NewRegistry returns an empty registry, without a topic: for whoever keeps one in memory.
func NewRegistry() *Registry { return newRegistry() }

// Remember checks the codecs of stores as Register does, and remembers what is new, in memory alone.
func (g *Registry) Remember(stores []store.Spec) error {
	if err := g.checkStores([]Members{{Specs: stores}}); err != nil {
		return err
	}
	for _, s := range stores {
		g.stores[s.Name()] = recordOf(s)
		f := writes(s)
		g.values[s.Name()] = addForm(g.values[s.Name()], serde.Form{Version: f.Version, ID: clipID(f.ID)})
	}
	return nil
}

func newRegistry() *Registry {
	return &Registry{
		topics: map[string][16]byte{}, owners: map[string]ownerRecord{},
		stores: map[string]storeRecord{}, values: map[string][]serde.Form{},
	}
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
	// Specs are the stores, of which kinds and codecs are remembered.
	Specs []store.Spec
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
	registryStore  = registryPrefix + "store/"
	registryValue  = registryPrefix + "value/" // <store>/<version>
	registryFork   = registryPrefix + "fork"   // there while the application is made from a snapshot (fork.go)
)

// Register reads the registry, checks the application's topics and the codecs of its stores against it, finds the names of its
// subtopologies, and writes down what is new, before anything is used. topics are the changelogs, repartition topics and the tasks topic, as
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
	if g.fork {
		return nil, &fault.Error{
			Code: "registry/fork-incomplete", Kind: fault.State, Thing: "tasks topic", Value: tasks.Name,
			Reason: "the application is being made from a snapshot, or that was interrupted: its state is not complete",
			Remedy: "wait until `millrace state fork` is done; if it was interrupted, `millrace reset` removes what there is, and then fork again",
		}
	}
	if err := errors.Join(g.checkTopics(topics, used), g.checkStores(members)); err != nil {
		return nil, err
	}
	named, err := g.names(members)
	if err != nil {
		return nil, err
	}
	records := append(g.additions(topics, members, named), g.storeAdditions(members)...)
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
	g := newRegistry()
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
	*t.g = *newRegistry()
	return nil
}

func (t registryTarget) Finish() error { return nil }

// apply takes one record; later ones of a key replace earlier ones.
func (g *Registry) apply(key string, value []byte) error {
	if key == registryFork {
		g.fork = value != nil
		return nil
	}
	topic, isTopic := strings.CutPrefix(key, registryTopic)
	owner, isOwner := strings.CutPrefix(key, registryOwner)
	name, isStore := strings.CutPrefix(key, registryStore)
	of, isValue := strings.CutPrefix(key, registryValue)
	switch {
	case isStore:
		return g.applyCodec(key, name, "", value)
	case isValue:
		return g.applyCodec(key, "", of, value)
	}
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

// applyCodec takes a record about a store: of the store called name, or, if that is empty, of a form of its values.
func (g *Registry) applyCodec(key, name, of string, value []byte) error {
	var version uint64
	if name == "" {
		slash := strings.LastIndexByte(of, '/')
		var err error
		if version, err = strconv.ParseUint(of[slash+1:], 10, 16); err != nil || slash <= 0 || version == 0 {
			return damaged("registry record "+key, of, "its key names no store and version")
		}
		of = of[:slash]
		g.values[of] = slices.DeleteFunc(g.values[of], func(f serde.Form) bool { return f.Version == uint16(version) })
	}
	if value == nil {
		if name != "" {
			delete(g.stores, name)
		}
		return nil
	}
	r, err := open(value, kindRegistry, "registry record "+key)
	if err != nil {
		return err
	}
	if name != "" {
		kind := r.uvarint("kind")
		if kind > math.MaxUint8 {
			r.fail("kind")
		}
		s := storeRecord{store.Kind(kind), r.string("key codec", idBytesMax)}
		if err := r.done(); err != nil {
			return err
		}
		g.stores[name] = s
		return nil
	}
	f := serde.Form{Version: uint16(version), ID: r.string("value codec", idBytesMax)}
	if err := r.done(); err != nil {
		return err
	}
	g.values[of] = addForm(g.values[of], f)
	return nil
}

func appendStoreRecord(dst []byte, s storeRecord) []byte {
	from := len(dst)
	dst = append(dst, kindRegistry, codecVersion)
	dst = binary.AppendUvarint(dst, uint64(s.kind))
	dst = appendString(dst, s.key)
	return seal(dst, from)
}

func appendValueRecord(dst []byte, id string) []byte {
	from := len(dst)
	dst = append(dst, kindRegistry, codecVersion)
	dst = appendString(dst, id)
	return seal(dst, from)
}

func recordOf(s store.Spec) storeRecord { return storeRecord{s.Kind(), clipID(s.KeyID())} }

// checkStores refuses stores whose rows in the changelog mean something else than the topology says, before any of them is
// read: a disk may be new, and know nothing.
func (g *Registry) checkStores(members []Members) error {
	var errs []error
	refuse := func(code, thing, name, found, reason, remedy string) {
		errs = append(errs, &fault.Error{Code: code, Kind: fault.State, Thing: thing + " of store " + strconv.Quote(name), Value: found, Reason: reason, Remedy: remedy})
	}
	const remedy = "change it back, or give the changed store a new name; `millrace reset` empties the old one"
	for _, m := range members {
		for _, s := range m.Specs {
			if was, known := g.stores[s.Name()]; known {
				if now := recordOf(s); was.kind != now.kind {
					refuse("registry/store-kind", "kind", s.Name(), was.kind.String(), "the topology now says "+now.kind.String(), remedy)
				} else if was.key != now.key {
					refuse("registry/serde", "key", s.Name(), was.key, "the changelog is in this codec, the topology now says "+strconv.Quote(s.KeyID()), remedy)
				}
			}
			for _, p := range compareForms(g.values[s.Name()], store.Forms(s)) {
				code := "registry/serde"
				if p.back {
					code = "registry/value-version"
				}
				refuse(code, "value", s.Name(), p.found, p.reason, p.remedy)
			}
		}
	}
	return errors.Join(errs...)
}

// storeAdditions are the records about stores that are not there yet.
func (g *Registry) storeAdditions(members []Members) (records []kgo.Record) {
	for _, m := range members {
		for _, s := range m.Specs {
			if _, known := g.stores[s.Name()]; !known {
				records = append(records, kgo.Record{Key: []byte(registryStore + s.Name()), Value: appendStoreRecord(nil, recordOf(s))})
			}
			f := writes(s)
			if !slices.ContainsFunc(g.values[s.Name()], func(w serde.Form) bool { return w.Version == f.Version }) {
				key := registryValue + s.Name() + "/" + strconv.Itoa(int(f.Version))
				records = append(records, kgo.Record{Key: []byte(key), Value: appendValueRecord(nil, clipID(f.ID))})
			}
		}
	}
	return records
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
