package storetest

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/store"
)

// Task is the state of one task as it is kept in production, without what is around it: a database, and a changelog that is the
// truth about it. It commits, crashes and is restored, from its disk and from the changelog alone.
type Task struct {
	DB *store.DB

	// Restoring, if set, is called with each new DB, before its rows are restored, and Restored afterwards.
	Restoring, Restored func(db *store.DB)

	t       *testing.T
	specs   []store.Spec
	options store.Options
	engine  store.Engine
	fresh   func() Machine
	machine Machine
	mode    Mode
	sealed  []pending
	logs    map[string][]Change
	commits []map[string]int // the ends of the logs after each
}

// Change is one record of a changelog. A nil Value is a tombstone.
type Change struct{ Key, Value []byte }

type pending struct {
	epoch   *store.Epoch
	changes map[string][]Change
}

// Mode says what happens to a task between two steps of a test (spec/state.md, section 10).
type Mode uint8

// The modes: nothing; or commit, crash and restore, with the disk as it is found after a crash, or with a new one.
const (
	Straight Mode = iota
	DiskKept
	DiskLost
)

func (m Mode) String() string { return [...]string{"straight", "disk kept", "disk lost"}[m] }

// Engines are the machines a test runs on, by name.
type Engines map[string]func() Machine

// Cases runs f on each engine in each mode, as sub-tests of t, with a new task that has specs.
func (e Engines) Cases(t *testing.T, specs []store.Spec, f func(t *testing.T, k *Task)) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(e)) {
		for mode := Straight; mode <= DiskLost; mode++ {
			t.Run(name+", "+mode.String(), func(t *testing.T) {
				k := NewTask(t, e[name], store.Options{}, specs...)
				k.mode = mode
				f(t, k)
			})
		}
	}
}

// NewTask opens a task with an empty changelog on a new machine. It is closed when the test ends.
func NewTask(t *testing.T, machine func() Machine, o store.Options, specs ...store.Spec) *Task {
	t.Helper()
	k := &Task{t: t, specs: specs, options: o, fresh: machine, machine: machine(), logs: map[string][]Change{}}
	k.Open()
	t.Cleanup(func() { _ = k.DB.Close() })
	return k
}

// Mode is what Step does.
func (k *Task) Mode() Mode { return k.mode }

// Step ends a step of the test: in Straight mode nothing happens, else a commit, a crash and a restore. Handles have to be
// opened anew.
func (k *Task) Step() {
	k.t.Helper()
	if k.mode != Straight {
		k.Commit()
		k.Crash(k.mode == DiskKept)
	}
}

// Open opens the database of the machine and brings it up to the end of the changelog. NewTask and Crash do it.
func (k *Task) Open() {
	k.t.Helper()
	bindings := make([]store.Binding, len(k.specs))
	for i, s := range k.specs {
		bindings[i] = store.Binding{Spec: s, Prefix: uint16(i + 1)}
	}
	db, err := store.Open(k.open(), bindings, k.options)
	must(k.t, err)
	k.DB, k.sealed = db, nil
	if k.Restoring != nil {
		k.Restoring(db)
	}
	row, ok, err := db.Checkpoint()
	must(k.t, err)
	at := map[string]int{}
	if ok {
		must(k.t, json.Unmarshal(row, &at))
	}
	for _, s := range k.specs {
		log := k.logs[s.Name()]
		if at[s.Name()] > len(log) {
			k.t.Fatalf("the database of %s is at %d, ahead of its changelog, which ends at %d", s.Name(), at[s.Name()], len(log))
		}
		var rows []store.Mutation
		for _, c := range log[at[s.Name()]:] {
			rows = append(rows, store.Mutation{Key: c.Key, Value: c.Value, Delete: c.Value == nil})
		}
		must(k.t, db.Restore(s.Name(), rows, nil))
	}
	must(k.t, db.SetCheckpoint(k.checkpoint()))
	if k.Restored != nil {
		k.Restored(db)
	}
}

func (k *Task) open() store.Engine {
	k.engine = k.machine.Open(k.t)
	return k.engine
}

// Engine is the engine of the database that is open. It is not for writing.
func (k *Task) Engine() store.Engine { return k.engine }

// With changes the declarations that the next Open uses.
func (k *Task) With(specs ...store.Spec) { k.specs = specs }

func (k *Task) checkpoint() []byte {
	at := map[string]int{}
	for name, log := range k.logs {
		at[name] = len(log)
	}
	row, err := json.Marshal(at)
	must(k.t, err)
	return row
}

// Seal ends the epoch being filled. It becomes part of the changelog when it is applied.
func (k *Task) Seal() {
	k.t.Helper()
	p := pending{k.DB.Seal(), map[string][]Change{}}
	must(k.t, p.epoch.Each(func(name string, key, value []byte) error {
		p.changes[name] = append(p.changes[name], Change{slices.Clone(key), slices.Clone(value)})
		return nil
	}))
	k.sealed = append(k.sealed, p)
}

// Apply commits the oldest sealed epoch, if there is one.
func (k *Task) Apply() {
	k.t.Helper()
	if len(k.sealed) == 0 {
		return
	}
	p := k.sealed[0]
	k.sealed = k.sealed[1:]
	for name, changes := range p.changes {
		k.logs[name] = append(k.logs[name], changes...)
	}
	ends := map[string]int{}
	for name, log := range k.logs {
		ends[name] = len(log)
	}
	k.commits = append(k.commits, ends)
	must(k.t, k.DB.Apply(p.epoch, k.checkpoint()))
}

// Commit seals and applies everything, and returns the number of the commit.
func (k *Task) Commit() int {
	k.t.Helper()
	k.Seal()
	for len(k.sealed) > 0 {
		k.Apply()
	}
	return len(k.commits) - 1
}

// Discard drops every epoch that is not applied.
func (k *Task) Discard() {
	k.sealed = nil
	k.DB.Discard()
}

// Crash ends the process and starts it anew, with what the disk has or with a new one.
func (k *Task) Crash(disk bool) {
	k.t.Helper()
	k.machine.Crash(k.t)
	_ = k.DB.Close() // of a process that is dead
	if !disk {
		k.machine = k.fresh()
	}
	k.Open()
}

// Recover is a start from the changelogs as they were after a commit, without a disk. What came after it is gone.
func (k *Task) Recover(commit int) {
	k.t.Helper()
	for name, log := range k.logs {
		k.logs[name] = log[:k.commits[commit][name]]
	}
	k.commits = k.commits[:commit+1]
	k.Crash(false)
}

// Log is the changelog of a store.
func (k *Task) Log(name string) []Change { return k.logs[name] }

// Live is what compaction leaves of the changelog of a store: the last value of each key that is not a tombstone.
func (k *Task) Live(name string) map[string]string {
	live := map[string]string{}
	for _, c := range k.logs[name] {
		if c.Value == nil {
			delete(live, string(c.Key))
		} else {
			live[string(c.Key)] = string(c.Value)
		}
	}
	return live
}

// Physical is what a store's rows are, whether they are shown or not: key and row value. Everything must have been committed.
func (k *Task) Physical(name string) map[string]string {
	k.t.Helper()
	if k.DB.Dirty() || len(k.sealed) > 0 {
		k.t.Fatal("rows that are not committed are in no engine")
	}
	must(k.t, k.DB.Flush())
	i := slices.IndexFunc(k.specs, func(s store.Spec) bool { return s.Name() == name })
	rows := map[string]string{}
	it, err := k.engine.Iter([]byte{0, byte(i + 1)}, []byte{0, byte(i + 2)}, false)
	must(k.t, err)
	for it.Next() {
		rows[string(it.Key()[2:])] = string(it.Value())
	}
	must(k.t, it.Close())
	return rows
}
