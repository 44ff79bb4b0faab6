package itest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace-io/millrace/itest/oracle"
)

// fleet is one application under test: its topics, its state directories and its instances, on one cluster.
type fleet struct {
	t       *testing.T
	app     string // application id, also the prefix of its topics
	addrs   []string
	cluster *oracle.Cluster
	dir     string
	args    []string // for every instance
	env     []string
	parts   int
	session time.Duration
	live    []*instance
}

// newFleet makes the topics of an application on a cluster: name is unique in the test run.
func newFleet(t *testing.T, addrs []string, name string, parts int, topics ...string) *fleet {
	t.Helper()
	cluster, err := oracle.Open(addrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	f := &fleet{t: t, app: fmt.Sprintf("%s-%x", name, time.Now().UnixNano()&0xffffff), addrs: addrs, cluster: cluster, dir: t.TempDir(), parts: parts}
	f.session = f.shortestSession()
	f.args = []string{
		"-app", f.app, "-topics", f.app, "-brokers", strings.Join(addrs, ","), "-dump", f.path("dump"),
		"-session", f.session.String(), "-heartbeat", "500ms", "-commit", "100ms",
	}
	if err := os.Mkdir(f.path("dump"), 0o700); err != nil {
		t.Fatal(err)
	}
	if keep := os.Getenv("MILLRACE_ITEST_LOGS"); keep != "" {
		t.Cleanup(func() { f.keepLogs(keep) })
	}
	for _, topic := range topics {
		f.create(topic, parts, nil)
	}
	return f
}

// shortestSession is the session timeout of the instances: as short as the brokers allow, so that the dead are missed soon, and
// long enough for a busy machine.
func (f *fleet) shortestSession() time.Duration {
	f.t.Helper()
	least, usual := 3*time.Second, 6*time.Second
	brokers, err := f.cluster.Admin().ListBrokers(f.ctx())
	if err != nil || len(brokers) == 0 {
		return usual
	}
	configs, err := f.cluster.Admin().DescribeBrokerConfigs(f.ctx(), brokers[0].NodeID)
	if err != nil {
		return usual
	}
	for _, r := range configs {
		for _, c := range r.Configs {
			if c.Key != "group.min.session.timeout.ms" || c.Value == nil {
				continue
			}
			if ms, err := strconv.Atoi(*c.Value); err == nil {
				return max(least, time.Duration(ms)*time.Millisecond)
			}
		}
	}
	return least // the embedded broker, which does not say and allows it
}

// keepLogs copies the instances' logs of a failed test to a directory.
func (f *fleet) keepLogs(dir string) {
	if !f.t.Failed() {
		return
	}
	logs, _ := filepath.Glob(f.path("*.log")) // the pattern is right
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f.app+"-"+filepath.Base(log)), text, 0o600)
		}
		if err != nil {
			f.t.Log(err)
		}
	}
}

// create makes the topic <app>.<name>.
func (f *fleet) create(name string, parts int, configs map[string]*string) {
	f.t.Helper()
	resp, err := f.cluster.Admin().CreateTopic(f.ctx(), int32(parts), 1, configs, f.topic(name))
	if err == nil {
		err = resp.Err
	}
	if err != nil {
		f.t.Fatalf("creating %s: %v", f.topic(name), err)
	}
}

func (f *fleet) topic(name string) string      { return f.app + "." + name }
func (f *fleet) changelog(store string) string { return f.app + "-" + store + "-changelog" }
func (f *fleet) path(name string) string       { return filepath.Join(f.dir, name) }
func (f *fleet) state(name string) string      { return f.path("state-" + name) }

// ctx is bounded by patience.
func (f *fleet) ctx() context.Context {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	f.t.Cleanup(cancel)
	return ctx
}

// start runs an instance on the state directory of its name. extra are arguments, or NAME=value for the environment.
func (f *fleet) start(name string, extra ...string) *instance {
	f.t.Helper()
	args := append([]string{"-instance", name, "-state", f.state(name)}, f.args...)
	env := f.env
	for _, x := range extra {
		if head, _, ok := strings.Cut(x, "="); ok && !strings.HasPrefix(head, "-") {
			env = append(env[:len(env):len(env)], x)
		} else {
			args = append(args, x)
		}
	}
	i := launch(f.t, name, f.path(name+".log"), env, args...)
	f.live = append(f.live, i)
	return i
}

// stopAll ends every instance gracefully, one after the other, and waits until the group is empty.
func (f *fleet) stopAll() {
	f.t.Helper()
	for _, i := range f.live {
		if i.alive() {
			i.stop()
		}
	}
	f.live = nil
	if err := f.cluster.AwaitEmpty(f.ctx(), f.app); err != nil {
		f.t.Fatal(err)
	}
}

// finish ends every instance gracefully. What is in the dumps then is what each task's last owner left behind: a task may be
// handed over in the middle of the end and be taken by nobody any more, so no dump is ever forgotten on the way.
func (f *fleet) finish() {
	f.t.Helper()
	f.settle()
	f.stopAll()
}

// settle waits until every partition's task runs on one of the living instances.
func (f *fleet) settle() {
	f.t.Helper()
	tasks := f.parts
	if slices.Contains(f.args, "regroup") { // which has two subtopologies
		tasks *= 2
	}
	var living []*instance
	for _, i := range f.live {
		if i.alive() {
			living = append(living, i)
		}
	}
	for _, i := range living {
		i.until("all tasks run somewhere", func([]Event) bool {
			n := 0
			for _, other := range living {
				n += len(other.tasks())
			}
			return n == tasks
		})
	}
}

// committed is how many records of topic the group has committed, by partition.
func (f *fleet) committed(topic string) []oracle.Commit {
	f.t.Helper()
	commits, err := f.cluster.Committed(f.ctx(), f.app, f.topic(topic), f.parts)
	if err != nil {
		f.explain()
		f.t.Fatal(err)
	}
	return commits
}

// explain logs what the cluster knows of transactions that are not over: what their coordinator says of them, and in which
// logs they are.
func (f *fleet) explain() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	admin := f.cluster.Admin()
	all, err := admin.ListTransactions(ctx, nil, nil)
	f.t.Logf("transactions: %v", err)
	var ids []string
	for id := range all {
		if strings.HasPrefix(id, "millrace:"+f.app+":") {
			ids = append(ids, id)
		}
	}
	if len(ids) > 0 {
		known, err := admin.DescribeTransactions(ctx, ids...)
		for _, tx := range known {
			f.t.Logf("  %+v %v", tx, err)
		}
	}
	topics, err := admin.ListTopicsWithInternal(ctx)
	f.t.Logf("producers with an open transaction: %v", err)
	for topic, detail := range topics {
		if !strings.HasPrefix(topic, f.app) && topic != "__consumer_offsets" {
			continue
		}
		set := kadm.TopicsSet{}
		for p := range detail.Partitions {
			set.Add(topic, p)
		}
		described, err := admin.DescribeProducers(ctx, set)
		if err != nil {
			f.t.Logf("  %s: %v", topic, err)
		}
		described.EachProducer(func(p kadm.DescribedProducer) {
			if p.CurrentTxnStartOffset >= 0 {
				f.t.Logf("  %s/%d: %+v", p.Topic, p.Partition, p)
			}
		})
	}
}

// done is the sum of the committed offsets of topic.
func (f *fleet) done(topic string) int64 {
	f.t.Helper()
	var sum int64
	for _, c := range f.committed(topic) {
		sum += max(0, c.Offset)
	}
	return sum
}

// reach waits until the group has committed at least n records of topic. It fails if no step forward was made for patience.
func (f *fleet) reach(topic string, n int64) {
	f.t.Helper()
	last, since := int64(-1), time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	said := time.Now()
	for {
		now := f.done(topic)
		if now >= n {
			return
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > patience {
			for _, i := range f.live {
				f.t.Log(i.tail())
			}
			f.explain()
			f.t.Fatalf("%s stands at %d of %d committed records for %v", f.app, now, n, patience)
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			f.t.Logf("%s: %d of %d records committed", f.app, now, n)
		}
		select {
		case <-tick.C:
		case <-f.t.Context().Done():
			f.t.Fatal(f.t.Context().Err())
		}
	}
}

// read reads topics by their full names.
func (f *fleet) read(topics ...string) []*oracle.Log {
	f.t.Helper()
	logs, err := f.cluster.ReadAll(f.ctx(), topics...)
	if err != nil {
		f.t.Fatal(err)
	}
	return logs
}

// dumped is the contents of the store as the instances left them behind when their tasks closed.
func (f *fleet) dumped() map[string]int64 {
	f.t.Helper()
	all := map[string]int64{}
	files, err := filepath.Glob(filepath.Join(f.path("dump"), "*.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.t.Fatal(err)
		}
		rows := map[string]int64{}
		if err := json.Unmarshal(text, &rows); err != nil {
			f.t.Fatalf("%s: %v", file, err)
		}
		for k, n := range rows {
			if _, ok := all[k]; ok {
				f.t.Errorf("key %q is in the stores of two tasks", k)
			}
			all[k] = n
		}
	}
	return all
}

// forgetDumps removes what was dumped so far.
func (f *fleet) forgetDumps() {
	f.t.Helper()
	files, err := filepath.Glob(filepath.Join(f.path("dump"), "*.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			f.t.Fatal(err)
		}
	}
}

// verdict checks everything the count workload left behind. All instances must have been stopped.
func (f *fleet) verdict(every int64) oracle.Verdicts {
	f.t.Helper()
	if err := f.cluster.AwaitSettled(f.ctx(), f.topic("audit"), f.topic("out"), f.changelog("counts"), f.app+"-tasks"); err != nil {
		f.t.Fatal(err)
	}
	logs := f.read(f.topic("in"), f.topic("audit"), f.topic("out"), f.changelog("counts"), f.app+"-tasks")
	in, audit, out, changes, tasks := logs[0], logs[1], logs[2], logs[3], logs[4]
	group := f.committed("in")
	cut := in.Upto(oracle.Offsets(group))
	fold := oracle.Fold(cut, func(n int64, _ []byte) int64 { return n + 1 })
	restored, decodes := oracle.Changelog(changes, rowKey, int64Value)
	recorded, records := oracle.TaskCommits(tasks, in.Topic, len(in.Partitions))
	return oracle.Verdicts{
		oracle.Settled(audit, out, changes, tasks),
		oracle.Drained(in, oracle.Offsets(group)),
		oracle.Provenance(cut, audit),
		oracle.Replay(cut, audit, runningCount),
		oracle.Milestones(cut, out, every),
		decodes,
		oracle.Same("the changelog's fold equals the fold of the input", fold, restored),
		oracle.Same("the store equals the fold of the input", fold, f.dumped()),
		records,
		oracle.Commits(in, group, recorded),
	}
}

// require fails the test with everything that is wrong, and shows what was checked.
func (f *fleet) require(vs oracle.Verdicts) {
	f.t.Helper()
	f.t.Logf("%s:\n%s", f.app, vs)
	if err := vs.Err(); err != nil {
		for _, i := range f.live {
			f.t.Log(i.tail())
		}
		f.t.Fatalf("the promise is broken:\n%v", err)
	}
}

func runningCount(n int64, _ []byte) (int64, []byte, bool) {
	return n + 1, binary.BigEndian.AppendUint64(nil, uint64(n+1)), true
}

// rowKey decodes the key of a row of a store with string keys (docs/format/rows.md).
func rowKey(key []byte) (string, error) { return string(key), nil }

func int64Value(value []byte) (int64, error) {
	if len(value) != 8 {
		return 0, fmt.Errorf("%d bytes, want 8", len(value))
	}
	return int64(binary.BigEndian.Uint64(value)), nil
}

// openTransactions lists the ongoing transactions of the application.
func (f *fleet) openTransactions() kadm.ListedTransactions {
	f.t.Helper()
	all, err := f.cluster.Admin().ListTransactions(f.ctx(), nil, []string{"Ongoing"})
	if err != nil {
		f.t.Fatal(err)
	}
	mine := kadm.ListedTransactions{}
	for id, tx := range all {
		if strings.HasPrefix(id, "millrace:"+f.app+":") {
			mine[id] = tx
		}
	}
	return mine
}

// awaitOpen waits until an instance has an open transaction with records in it: somebody's last stable offset stands
// below its high watermark for it.
func (f *fleet) awaitOpen(instance string) {
	f.t.Helper()
	ctx := f.ctx()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for id := range f.openTransactions() {
			if strings.HasPrefix(id, "millrace:"+f.app+":"+instance+":") {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.t.Fatalf("%s has no open transaction: %v", instance, ctx.Err())
		}
	}
}

// partitionOf is the partition number of a task, from its name.
func partitionOf(t *testing.T, task string) int32 {
	t.Helper()
	_, n, ok := strings.Cut(task, "/")
	p, err := strconv.ParseInt(n, 10, 32)
	if !ok || err != nil {
		t.Fatalf("%q names no task", task)
	}
	return int32(p)
}

func int32Value(value []byte) (int32, error) {
	if len(value) != 4 {
		return 0, fmt.Errorf("%d bytes, want 4", len(value))
	}
	return int32(binary.BigEndian.Uint32(value)), nil
}
