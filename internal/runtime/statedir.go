package runtime

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/internal/runtime/assign"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
)

// stateDir is this instance's local state: under a lock on disk, or nothing but a name with the memory engine.
type stateDir struct {
	disk *changelog.StateDir // nil with the memory engine

	mu   sync.Mutex
	have map[processor.TaskID]int64 // local copies and how far they reach, as last known
}

// positionFile is a hint for the assignment, beside the manifest: how far the copy reached when it was closed. It decides
// nothing about the state itself; that is the checkpoint's part.
const positionFile = "position.json"

type positionHint struct {
	Version int   `json:"version"`
	Offset  int64 `json:"offset"` // sum over the stores of the next changelog offset
}

func (r *Runtime) openStateDir() error {
	r.dir = &stateDir{have: map[processor.TaskID]int64{}}
	if r.cfg.Memory {
		r.instance = r.cfg.Instance
		if r.instance == "" {
			r.instance = randomName()
		}
		return nil
	}
	disk, err := changelog.LockStateDir(r.cfg.StateDir, r.cfg.App, r.cfg.Instance)
	if err != nil {
		return err
	}
	r.dir.disk, r.instance = disk, disk.Instance()
	local, err := disk.Tasks()
	if err != nil {
		return err
	}
	for _, t := range local {
		id := processor.TaskID{Subtopology: t.Subtopology, Partition: t.Partition}
		r.dir.have[id] = readPosition(disk.TaskDir(t.Subtopology, t.Partition))
	}
	return nil
}

func (r *Runtime) closeStateDir() {
	if r.dir != nil && r.dir.disk != nil {
		if err := r.dir.disk.Close(); err != nil {
			r.log.Warn("unlocking the state directory", "err", err)
		}
		r.dir.disk = nil
	}
}

// positions are the local copies this instance can offer.
func (d *stateDir) positions(p *plan) []assign.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []assign.Position
	for _, s := range p.subs {
		for n := range s.tasks {
			id := processor.TaskID{Subtopology: s.name, Partition: n}
			if at, ok := d.have[id]; ok {
				out = append(out, assign.Position{Task: id, Offset: at})
			}
		}
	}
	return out
}

// taskDir is one task's directory while it is open.
type taskDir struct {
	dir  *stateDir
	id   processor.TaskID
	path string
}

// notePosition remembers how far a copy reaches that is being closed.
func (t *taskDir) notePosition(ends map[string]int64) {
	hint := positionHint{Version: 1}
	for _, n := range ends {
		hint.Offset += n
	}
	t.dir.mu.Lock()
	t.dir.have[t.id] = hint.Offset
	t.dir.mu.Unlock()
	if t.path == "" {
		return
	}
	if text, err := json.Marshal(hint); err == nil {
		_ = os.WriteFile(filepath.Join(t.path, positionFile), append(text, '\n'), 0o600) // a hint: losing it costs nothing but a worse placement
	}
}

func readPosition(dir string) int64 {
	var hint positionHint
	text, err := os.ReadFile(filepath.Join(dir, positionFile))
	if err != nil || json.Unmarshal(text, &hint) != nil || hint.Version != 1 {
		return 0
	}
	return hint.Offset
}

// openDB opens the database of a task with state, after its manifest has been compared with what the task is now.
func (t *taskRun) openDB() error {
	var engine store.Engine
	bindings := make([]store.Binding, 0, len(t.sub.Stores))
	if t.rt.dir.disk == nil {
		for i, s := range t.sub.Stores {
			bindings = append(bindings, store.Binding{Spec: s, Prefix: uint16(i + 1)})
		}
		engine = store.NewMemory()
	} else {
		path := t.rt.dir.disk.TaskDir(t.id.Subtopology, t.id.Partition)
		manifest, err := changelog.OpenManifest(path, t.identity(), t.rt.cfg.Clock.Now())
		if err != nil {
			return err
		}
		bindings = manifest.Bindings(t.sub.Stores)
		if engine, err = t.openPebble(path); err != nil {
			return err
		}
		t.dir = &taskDir{dir: t.rt.dir, id: t.id, path: path}
	}
	db, err := store.Open(engine, bindings, store.Options{CacheBytes: t.rt.shared.CacheBytes()})
	if err != nil {
		return errors.Join(err, engine.Close())
	}
	t.db = db
	return t.dropRetired()
}

// openPebble opens the database; one that cannot be opened is set aside and made anew from the changelog, which is the
// truth. It is kept for whoever wants to know what happened.
func (t *taskRun) openPebble(path string) (store.Engine, error) {
	dir := filepath.Join(path, changelog.DatabaseDir)
	engine, err := t.rt.shared.OpenPebble(dir, store.PebbleOptions{Log: t.rt.log})
	if err == nil || fault.Code(err) != "store/corrupt" {
		return engine, err
	}
	aside := fmt.Sprintf("%s.corrupt-%d", dir, t.rt.cfg.Clock.Now().UnixMilli())
	t.rt.log.Error("the task's database is damaged: it is set aside and rebuilt from the changelog", "task", t.id.String(), "aside", aside, "err", err)
	if err := os.Rename(dir, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return t.rt.shared.OpenPebble(dir, store.PebbleOptions{Log: t.rt.log})
}

// identity is what the task's manifest must say.
func (t *taskRun) identity() changelog.Identity {
	id := changelog.Identity{
		App: t.rt.cfg.App, Cluster: t.rt.clusterID, Task: t.id.String(),
		Fingerprint: t.rt.cfg.Topology.Fingerprint(), Stores: t.sub.Stores,
	}
	for _, in := range t.inputs {
		id.Topics = append(id.Topics, t.rt.plan.topic(in.Topic))
	}
	for _, topic := range t.changelogs {
		id.Topics = append(id.Topics, t.rt.plan.topic(topic))
	}
	return id
}

// dropRetired takes stores that the topology no longer has out of the checkpoint: what it says of their changelogs is not
// kept up from here on, and must not be believed should they come back.
func (t *taskRun) dropRetired() error {
	row, ok, err := t.db.Checkpoint()
	if err != nil || !ok {
		return err
	}
	c, err := changelog.ParseCheckpoint(row)
	if err != nil {
		return err
	}
	var kept []changelog.StoreOffset
	for _, s := range c.Stores {
		if _, live := t.changelogs[s.Store]; live {
			kept = append(kept, s)
		}
	}
	if len(kept) == len(c.Stores) {
		return nil
	}
	c.Stores = kept
	if err := t.db.Restore(t.sub.Stores[0].Name(), nil, c.Append(nil)); err != nil {
		return err
	}
	return t.db.Flush()
}

// randomName names an instance that keeps nothing.
func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: the program would be ended first
	return fmt.Sprintf("memory-%x", b)
}
