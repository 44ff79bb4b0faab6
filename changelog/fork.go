package changelog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

// ForkConfig is how an application is made from a snapshot.
type ForkConfig struct {
	App         string             // the new id
	Snapshot    string             // its directory
	Client      []kgo.Opt          // brokers, and how to reach them
	Replication int                // of the topics; 0 is the brokers' default
	Progress    func(ForkProgress) // called now and then, and at each step; may be nil
	// Rename rewrites what the kernel kept for topics that have other names now.
	Rename func(state []byte, rename func(topic string) (string, bool)) ([]byte, error)
	after  func(step string) error // for tests: called behind each step
}

// ForkProgress is how far a fork is.
type ForkProgress struct {
	Step            string // what is being done
	Task            string // whose rows are written
	Tasks, AllTasks int
	Rows, Bytes     int64
}

// ForkReport is what a fork has done.
type ForkReport struct {
	From        string // application
	Tasks       int
	Rows, Bytes int64
	Pending     int64 // records that were between the parts of the topology
	Topics      []string
}

// Fork makes a new application from a snapshot: its topics with the snapshot's rows, and its group's offsets. Instances of it
// start as if they had been stopped at the moment of the snapshot. It refuses an id that has a group or topics already, before it
// changes anything. While it is under way a record in the registry makes every start refuse; removing it is the last step, so
// that a fork that was interrupted never looks like one that was not: `millrace reset` removes what it left.
//
// Everything is compared and read first: a snapshot that is damaged or not complete leaves no trace. Errors are *fault.Error values.
func Fork(ctx context.Context, c ForkConfig) (report ForkReport, err error) {
	s, err := ReadSnapshot(c.Snapshot, false)
	if err != nil {
		return report, err
	}
	f := &fork{c: c, s: s}
	report.From, report.Tasks = s.Tasks[0].App, len(s.Tasks)
	if c.App == report.From {
		return report, forkRefused("fork/same-app", c.App, "it is the application the snapshot is of", "choose a new id", nil)
	}
	if err := f.readAll(ctx); err != nil {
		return report, err
	}
	if f.cl, err = kgo.NewClient(append(slices.Clone(c.Client), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(100*time.Millisecond))...); err != nil {
		return report, forkRefused("fork/client", c.App, "the Kafka client refuses its options", "look at brokers, TLS and SASL", err)
	}
	defer f.cl.Close()
	f.adm = kadm.NewClient(f.cl)
	f.plan()
	if err := f.refuse(ctx); err != nil {
		return report, err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"mark", f.mark}, {"topics", f.create}, {"rows", f.rows}, {"pending", f.pending}, {"records", f.records}, {"offsets", f.offsets}, {"unmark", f.unmark},
	} {
		f.say(step.name)
		if err = step.run(ctx); err == nil && c.after != nil {
			err = c.after(step.name)
		}
		if err != nil {
			return report, f.broken(step.name, err)
		}
	}
	report.Rows, report.Bytes, report.Pending, report.Topics = f.progress.Rows, f.progress.Bytes, f.moved, f.names
	return report, nil
}

type fork struct {
	c   ForkConfig
	s   *Snapshot
	cl  *kgo.Client
	adm *kadm.Client

	tasks  TopicSpec
	specs  []TopicSpec // the others
	names  []string
	topics map[string]Topic
	commit txn.CommitID
	moved  int64

	mu       sync.Mutex
	failed   error // the first record that was not taken
	progress ForkProgress
}

func (f *fork) say(step string) {
	f.progress.Step = step
	f.tell()
}

func (f *fork) tell() {
	f.progress.AllTasks = len(f.s.Tasks)
	if f.c.Progress != nil {
		f.c.Progress(f.progress)
	}
}

// readAll reads every row and record once: what cannot be read is found before anything is written.
func (f *fork) readAll(ctx context.Context) error {
	f.progress.Step = "read"
	for _, t := range f.s.Tasks {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.progress.Task = t.Task.String()
		f.tell()
		if _, _, err := t.Verify(); err != nil {
			return err
		}
		if _, err := f.c.Rename(t.State, f.renamed); err != nil {
			return err
		}
		f.progress.Tasks++
	}
	f.progress = ForkProgress{}
	return nil
}

// Verify reads all that a task of a snapshot holds.
func (t *TaskSnapshot) Verify() (rows, bytes int64, err error) {
	r, err := t.OpenRows()
	if err != nil {
		return 0, 0, err
	}
	if r != nil {
		err = r.Verify()
		for _, st := range t.Stores {
			if err == nil {
				err = r.Each(st.Prefix, func(key, value []byte) error {
					rows++
					bytes += int64(len(key) + len(value))
					return nil
				})
			}
		}
		if err := errors.Join(err, r.Close()); err != nil {
			return rows, bytes, snapshotError("snapshot/damaged", t.dir, "its rows cannot be read", "take another copy of the snapshot, or another snapshot", err)
		}
	}
	for i, in := range t.Inputs {
		if in.Pending {
			if err := t.Pending(i, func(*kgo.Record) error { return nil }); err != nil {
				return rows, bytes, err
			}
		}
	}
	return rows, bytes, nil
}

// plan says which topics there will be.
func (f *fork) plan() {
	first := f.s.Tasks[0]
	widest := int32(1)
	seen := map[string]bool{}
	add := func(s TopicSpec) {
		if !seen[s.Name] {
			seen[s.Name] = true
			f.specs = append(f.specs, s)
		}
	}
	for _, part := range first.Topology {
		widest = max(widest, part.Tasks)
		for _, name := range part.Stores {
			add(TopicSpec{Name: StoreTopic(f.c.App, name), Kind: ChangelogTopic, Partitions: part.Tasks, Replication: f.c.Replication})
		}
		for _, in := range part.Inputs {
			if in.Through != "" {
				add(TopicSpec{Name: ThroughTopic(f.c.App, in.Through), Kind: RepartitionTopic, Partitions: in.Partitions, Replication: f.c.Replication})
			}
		}
	}
	f.tasks = TopicSpec{Name: TasksTopicName(f.c.App), Kind: TasksTopic, Partitions: widest, Replication: f.c.Replication}
	f.names = []string{f.tasks.Name}
	for _, s := range f.specs {
		f.names = append(f.names, s.Name)
	}
	f.commit = txn.CommitID{TxnID: "millrace:" + f.c.App + ":fork:0:0", ProducerID: -1, Random: rand.Uint64(), Seq: 1}
}

// refuse looks whether the id is free, and whether the inputs are those of the snapshot.
func (f *fork) refuse(ctx context.Context) error {
	found, err := f.adm.ListTopics(ctx)
	if err != nil {
		return f.cluster("the topics cannot be listed", err)
	}
	for name := range found {
		if slices.Contains(f.names, name) || strings.HasPrefix(name, f.c.App+"-") && (strings.HasSuffix(name, "-changelog") || strings.HasSuffix(name, "-repartition")) {
			return forkRefused("fork/app-exists", f.c.App, "there is a topic "+name, "choose another id; `millrace reset` removes what an interrupted fork left", nil)
		}
	}
	groups, err := f.adm.FetchOffsets(ctx, f.c.App)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return f.cluster("the group's offsets cannot be fetched", err)
	}
	described, err := f.adm.DescribeGroups(ctx, f.c.App)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return f.cluster("the group cannot be described", err)
	}
	if len(groups) > 0 || len(described[f.c.App].Members) > 0 {
		return forkRefused("fork/app-exists", f.c.App, "there is a consumer group of that name, with offsets or members", "choose another id", nil)
	}
	for _, part := range f.s.Tasks[0].Topology {
		for _, in := range part.Inputs {
			t, there := found[in.Topic]
			switch {
			case in.Through != "":
			case !there:
				return forkRefused("fork/input-missing", in.Topic, "the snapshot's offsets are of this topic, and there is none on this cluster", "fork on the cluster the snapshot is of", nil)
			case len(t.Partitions) != int(in.Partitions):
				return forkRefused("fork/input-missing", in.Topic, fmt.Sprintf("it has %d partitions and had %d", len(t.Partitions), in.Partitions), "the state belongs to partitions: start a new application", nil)
			}
		}
	}
	cluster, err := f.adm.BrokerMetadata(ctx)
	if err != nil {
		return f.cluster("the brokers do not answer", err)
	}
	if want := f.s.Tasks[0].Cluster; want != "" && cluster.Cluster != want {
		return forkRefused("fork/other-cluster", cluster.Cluster, "the snapshot is of cluster "+want+": its offsets mean nothing here", "name that cluster's brokers", nil)
	}
	return nil
}

func (f *fork) produce(ctx context.Context, r *kgo.Record) error {
	f.cl.Produce(ctx, r, func(r *kgo.Record, err error) {
		if err != nil {
			f.mu.Lock()
			if f.failed == nil {
				f.failed = fmt.Errorf("%s/%d: %w", r.Topic, r.Partition, err)
			}
			f.mu.Unlock()
		}
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *fork) flush(ctx context.Context) error {
	err := f.cl.Flush(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(err, f.failed)
}

// mark makes the tasks topic, and says in it that this is not an application yet.
func (f *fork) mark(ctx context.Context) error {
	var err error
	if f.topics, err = EnsureTopics(ctx, f.cl, []TopicSpec{f.tasks}); err != nil {
		return err
	}
	if !f.topics[f.tasks.Name].Created {
		return forkRefused("fork/app-exists", f.c.App, "somebody else has just made "+f.tasks.Name, "choose another id", nil)
	}
	f.registry(ctx, registryFork, []byte(f.s.Tasks[0].App+" "+f.s.Tasks[0].Cut))
	return f.flush(ctx)
}

func (f *fork) registry(ctx context.Context, key string, value []byte) {
	_ = f.produce(ctx, &kgo.Record{Topic: f.tasks.Name, Key: []byte(key), Value: value, Timestamp: time.Now()}) // flush tells
}

// create makes the other topics, and registers them and the names of subtopologies, so that `millrace reset` finds all of it.
func (f *fork) create(ctx context.Context) error {
	made, err := EnsureTopics(ctx, f.cl, f.specs)
	if err != nil {
		return err
	}
	maps.Copy(f.topics, made)
	for _, name := range f.names {
		f.registry(ctx, registryTopic+name, appendTopicRecord(nil, f.topics[name].ID))
	}
	stores := map[string]bool{}
	for _, t := range f.s.Tasks {
		for _, st := range t.Stores {
			if stores[st.Name] {
				continue
			}
			stores[st.Name] = true
			f.registry(ctx, registryStore+st.Name, appendStoreRecord(nil, storeRecord{st.Kind, clipID(st.Key)}))
			for _, form := range st.Forms {
				f.registry(ctx, registryValue+st.Name+"/"+strconv.Itoa(int(form.Version)), appendValueRecord(nil, clipID(form.ID)))
			}
		}
	}
	for i, part := range f.s.Tasks[0].Topology {
		o := ownerRecord{part.Name, uint64(i + 1)}
		for _, name := range part.Stores {
			f.registry(ctx, registryOwner+"store/"+name, appendOwnerRecord(nil, o))
		}
		for _, in := range part.Inputs {
			f.registry(ctx, registryOwner+"source/"+f.topic(in.Topic, in.Through), appendOwnerRecord(nil, o))
		}
	}
	return f.flush(ctx)
}

// topic is an input's name in the new application.
func (f *fork) topic(topic, through string) string {
	if through != "" {
		return ThroughTopic(f.c.App, through)
	}
	return topic
}

const forkTellEvery = 10_000 // rows

// rows writes the changelogs.
func (f *fork) rows(ctx context.Context) error {
	for _, t := range f.s.Tasks {
		f.progress.Task = t.Task.String()
		r, err := t.OpenRows()
		if err != nil {
			return err
		}
		now := time.Now()
		for _, st := range t.Stores {
			topic := StoreTopic(f.c.App, st.Name)
			if err != nil {
				break
			}
			err = r.Each(st.Prefix, func(key, value []byte) error {
				rec := Record(topic, t.Task.Partition, slices.Clone(key), slices.Clone(value), now)
				if f.progress.Rows++; f.progress.Rows%forkTellEvery == 0 {
					f.tell()
				}
				f.progress.Bytes += int64(len(key) + len(value))
				return f.produce(ctx, &rec)
			})
		}
		if r != nil {
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			return err
		}
		f.progress.Tasks++
		f.tell()
	}
	return f.flush(ctx)
}

// pending puts what was between two subtopologies there again.
func (f *fork) pending(ctx context.Context) error {
	for _, t := range f.s.Tasks {
		for i, in := range t.Inputs {
			if !in.Pending {
				continue
			}
			err := t.Pending(i, func(r *kgo.Record) error {
				r.Topic, r.Partition = f.topic(in.Topic, in.Through), in.Partition
				f.moved++
				return f.produce(ctx, r)
			})
			if err != nil {
				return err
			}
		}
	}
	return f.flush(ctx)
}

// start is where an input begins: a repartition topic is new.
func (in *SnapshotInput) start() int64 {
	if in.Through != "" {
		return 0
	}
	return in.Offset
}

// renamed is the new name of an internal topic of the old application.
func (f *fork) renamed(topic string) (string, bool) {
	for _, part := range f.s.Tasks[0].Topology {
		for _, in := range part.Inputs {
			if in.Through != "" && in.Topic == topic {
				return ThroughTopic(f.c.App, in.Through), true
			}
		}
	}
	return "", false
}

// records writes the task records.
func (f *fork) records(ctx context.Context) error {
	for _, t := range f.s.Tasks {
		state, err := f.c.Rename(t.State, f.renamed)
		if err != nil {
			return err
		}
		rec := TaskRecord{Commit: f.commit, StreamTime: t.StreamTime, Now: t.Now, State: state}
		for _, in := range t.Inputs {
			rec.Inputs = append(rec.Inputs, InputOffset{Topic: f.topic(in.Topic, in.Through), Partition: in.Partition, Offset: in.start(), LeaderEpoch: -1})
		}
		err = f.produce(ctx, &kgo.Record{
			Topic: f.tasks.Name, Partition: t.Task.Partition, Key: TaskKey(t.Task.Subtopology, t.Task.Partition), Value: rec.Append(nil), Timestamp: time.Now(),
		})
		if err != nil {
			return err
		}
	}
	return f.flush(ctx)
}

// offsets commits the group's.
func (f *fork) offsets(ctx context.Context) error {
	offsets := kadm.Offsets{}
	for _, t := range f.s.Tasks {
		meta := txn.Meta{Commit: f.commit, StreamTime: t.StreamTime, Now: t.Now, Guarantee: txn.ExactlyOnce}.Encode()
		for _, in := range t.Inputs {
			offsets.Add(kadm.Offset{Topic: f.topic(in.Topic, in.Through), Partition: in.Partition, At: in.start(), LeaderEpoch: -1, Metadata: meta})
		}
	}
	answer, err := f.adm.CommitOffsets(ctx, f.c.App, offsets)
	if err == nil {
		err = answer.Error()
	}
	return err
}

// unmark makes it an application.
func (f *fork) unmark(ctx context.Context) error {
	f.registry(ctx, registryFork, nil)
	return f.flush(ctx)
}

func (f *fork) cluster(reason string, err error) error {
	return &fault.Error{Code: "fork/cluster", Kind: fault.Cluster, Thing: "application", Value: f.c.App, Reason: reason + "; nothing was changed", Remedy: "look at the brokers and at what this principal may do", Err: err}
}

// broken says that a fork has begun and has not come to its end.
func (f *fork) broken(step string, err error) error {
	var typed *fault.Error
	if step == "mark" && errors.As(err, &typed) && strings.HasPrefix(typed.Code, "fork/") {
		return err
	}
	return &fault.Error{
		Code: "fork/interrupted", Kind: fault.Cluster, Thing: "application", Value: f.c.App, Reason: "step " + step + " did not come to its end: the application refuses to start",
		Remedy: "`millrace reset -app " + f.c.App + "` removes what there is; then fork again", Err: err,
	}
}

func forkRefused(code, value, reason, remedy string, err error) *fault.Error {
	return &fault.Error{Code: code, Kind: fault.State, Thing: "fork", Value: value, Reason: reason + "; nothing was changed", Remedy: remedy, Err: err}
}
