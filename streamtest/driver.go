package streamtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Driver runs one application. It is used by one goroutine.
type Driver struct {
	t      testing.TB
	top    *topology.Topology
	o      options
	ctx    context.Context
	cancel context.CancelFunc
	now    int64  // milliseconds
	dir    string // of the Pebble engines

	broker   broker
	widths   map[string]int32 // tasks by subtopology
	disks    map[processor.TaskID]disk
	prefixes map[string]uint16 // of stores
	registry *changelog.Registry
	tasks    []*running // in order of subtopology, then partition
	txn      transaction
	stepped  int // records since the last commit
	commits  uint64
	holding  bool
	trying   bool // TrySend is asking
	err      error
	failures []observe.RecordError
	refuse   map[string]func(key, value []byte) error
}

// New starts the application on empty topics, with every topic of the topology created. A topology that cannot be
// started ends the test. t may be nil where there is none, in an example: what would end the test panics then.
func New(t testing.TB, top *topology.Topology, opts ...Option) *Driver {
	if t == nil {
		t = noTest{}
	}
	t.Helper()
	o := defaults()
	for _, opt := range opts {
		opt(&o)
	}
	d := &Driver{
		t: t, top: top, o: o, now: o.start.UnixMilli(), refuse: map[string]func(key, value []byte) error{},
		disks: map[processor.TaskID]disk{}, prefixes: map[string]uint16{}, registry: changelog.NewRegistry(),
		broker: broker{
			topics: map[string]*topic{}, changelogs: map[string]*changelogTopic{}, group: map[processor.TaskID]position{},
		},
	}
	if o.pebble {
		d.dir = t.TempDir() // before Cleanup, which has to run before the directory is removed
	}
	t.Cleanup(d.Close)
	if err := d.create(); err != nil {
		d.fatalf("creating topics: %v", err)
	}
	if err := d.register(); err != nil {
		d.fatalf("starting: %v", err)
	}
	if err := d.start(); err != nil {
		d.fatalf("starting: %v", err)
	}
	return d
}

// create makes the topics: those of the user as wide as the options say, Through topics as production makes them.
func (d *Driver) create() error {
	dead := []processor.Policy{d.o.onError}
	for _, s := range d.top.Subtopologies() {
		for _, src := range s.Sources {
			switch {
			case src.Topic.Through:
			case src.Broadcast != "" && d.o.byTopic[src.Topic.Name] == 0:
				d.o.byTopic[src.Topic.Name] = 1
				fallthrough
			default:
				d.topic(src.Topic.Name)
			}
		}
		for _, sink := range s.Sinks {
			if !sink.Topic.Through {
				d.topic(sink.Topic.Name)
			}
		}
		for _, spec := range s.Stores {
			if d.broker.changelogs[spec.Name()] == nil {
				d.broker.changelogs[spec.Name()] = &changelogTopic{}
				d.prefixes[spec.Name()] = uint16(len(d.prefixes) + 1)
			}
		}
		for _, n := range s.Nodes {
			dead = append(dead, n.Policy)
		}
	}
	for _, p := range dead {
		if p.Action == processor.ActDeadLetter {
			d.topic(p.Topic)
		}
	}
	through, widths, err := d.top.PartitionCounts(func(name string) (int32, bool) { return int32(len(d.topic(name).parts)), true })
	if err != nil {
		return err
	}
	for ref, n := range through {
		name := ref.Resolve(d.o.app)
		if d.broker.topics[name] == nil {
			d.broker.topics[name] = newTopic(name, n)
		}
	}
	d.widths = widths
	return nil
}

// topic returns the topic with that name in Kafka, made if need be.
func (d *Driver) topic(name string) *topic {
	t := d.broker.topics[name]
	if t == nil {
		n := d.o.partitions
		if own := d.o.byTopic[name]; own > 0 {
			n = own
		}
		t = newTopic(name, n)
		d.broker.topics[name] = t
	}
	return t
}

// Close closes the processors and stores. A test does it by itself when it ends.
func (d *Driver) Close() {
	d.t.Helper()
	tasks := d.tasks
	d.tasks = nil
	for _, r := range tasks {
		if err := errors.Join(r.task.Close(), r.db.Close()); err != nil {
			d.errorf("closing task %s: %v", r.id, err)
		}
	}
	if d.cancel != nil {
		d.cancel()
	}
}

// Now is what the clock shows.
func (d *Driver) Now() time.Time { return time.UnixMilli(d.now).UTC() }

// Advance moves the clock forward.
func (d *Driver) Advance(by time.Duration) {
	d.t.Helper()
	d.now += by.Milliseconds()
	for _, r := range d.tasks {
		r.task.Tick(d.now)
	}
	d.run()
}

// Together runs f and lets the records that are sent in it wait until it is done: they are processed in the order of
// their event times then, as records are that were in their topics before the application came.
func (d *Driver) Together(f func()) {
	d.t.Helper()
	d.holding = true
	f()
	d.holding = false
	d.run()
}

// Commit ends the epoch: what was processed becomes visible, and what follows from it in other subtopologies is processed.
func (d *Driver) Commit() {
	d.t.Helper()
	d.alive()
	if err := d.commit(); err != nil {
		d.fail(err)
		return
	}
	d.run()
}

// Settle commits until nothing is left to process or to commit.
func (d *Driver) Settle() {
	d.t.Helper()
	d.Commit()
	for d.err == nil && d.dirty() {
		d.Commit()
	}
}

// Abort aborts the epoch, as a broker that is in trouble does: what was not committed is undone and processed again.
func (d *Driver) Abort() {
	d.t.Helper()
	d.alive()
	d.discard()
	d.run()
}

// Crash kills the application and starts it again. Everything that was not committed is gone; processors are made anew
// (the old ones get no Close); the stores come from the local engine, which is up to three commits behind, and the rest
// from the changelog. A failed application is started again too, and meets the same record.
func (d *Driver) Crash() {
	d.t.Helper()
	d.crash(false)
}

// CrashFor is Crash, with the application down for a while: the clock has moved on when it starts again.
func (d *Driver) CrashFor(down time.Duration) {
	d.t.Helper()
	d.now += down.Milliseconds()
	d.crash(false)
}

// CrashLosingDisk is Crash on a machine whose disk is gone: the stores come from the changelog alone.
func (d *Driver) CrashLosingDisk() {
	d.t.Helper()
	d.crash(true)
}

func (d *Driver) crash(losingDisk bool) {
	d.t.Helper()
	d.txn.abort()
	d.cancel()
	for _, r := range d.tasks {
		if err := d.disks[r.id].crash(r.db); err != nil {
			d.fatalf("crashing task %s: %v", r.id, err)
		}
	}
	if losingDisk {
		for _, disk := range d.disks {
			if err := disk.lose(); err != nil {
				d.fatalf("losing a disk: %v", err)
			}
		}
	}
	d.tasks, d.stepped, d.err = nil, 0, nil
	if err := d.start(); err != nil {
		d.fatalf("starting again: %v", err)
	}
	d.run()
}

// Err is why the application has failed, nil while it runs.
func (d *Driver) Err() error { return d.err }

// Failures are the records that went to their policy so far, in order; those of an epoch that was aborted and processed
// again are there as often as they failed.
func (d *Driver) Failures() []observe.RecordError { return slices.Clone(d.failures) }

// Refuse makes the broker refuse the records of a topic that f returns an error for, after their processing has
// succeeded. A nil f ends it.
func (d *Driver) Refuse(topic string, f func(key, value []byte) error) {
	if f == nil {
		delete(d.refuse, topic)
		return
	}
	d.refuse[topic] = f
}

// Dropped is how many records operators left out on purpose since the application was started, by node and reason:
// "orders: null key".
func (d *Driver) Dropped() map[string]int64 {
	drops := map[string]int64{}
	for _, r := range d.tasks {
		for _, drop := range r.task.Stats().Drops {
			drops[drop.Node+": "+drop.Reason] += drop.Count
		}
	}
	return drops
}

// Changelog returns the records of a store's changelog, by partition and offset.
func (d *Driver) Changelog(s store.Spec) []ChangelogRecord {
	d.t.Helper()
	c := d.broker.changelogs[s.Name()]
	if c == nil {
		d.fatalf("the topology has no store %q", s.Name())
		return nil
	}
	var all []ChangelogRecord
	for _, p := range c.parts {
		all = append(all, p.rows...)
	}
	return all
}

func (d *Driver) fatalf(format string, args ...any) {
	d.t.Helper()
	d.t.Fatalf("streamtest: "+format, args...)
}

func (d *Driver) errorf(format string, args ...any) {
	d.t.Helper()
	d.t.Errorf("streamtest: "+format, args...)
}

// noTest stands for the test where there is none.
type noTest struct{ testing.TB }

func (noTest) Helper()                           {}
func (noTest) Cleanup(func())                    {}
func (noTest) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (noTest) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (noTest) TempDir() string {
	panic("streamtest: the Pebble engine needs the temporary directory of a test")
}

// alive ends the test if the application has failed before.
func (d *Driver) alive() {
	d.t.Helper()
	if d.err != nil {
		d.fatalf("the application has failed before: %v", d.err)
	}
}

// known ends the test if the topology has no topic of that name.
func (d *Driver) known(name string) *topic {
	d.t.Helper()
	t := d.broker.topics[name]
	if t == nil {
		d.fatalf("the topology has no topic %q; it has %s", name, strings.Join(sorted(d.broker.topics), ", "))
	}
	return t
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (d *Driver) observe(f task.Failure) {
	d.failures = append(d.failures, observe.RecordError{
		Task: f.Task.String(), Topic: f.Origin.Topic, Partition: f.Origin.Partition, Offset: f.Origin.Offset,
		Node: f.Node, Op: f.Op, Policy: strings.TrimSpace(processor.Policy{Action: f.Action}.String()), Err: f.Err,
	})
}
