package changelog

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ReadRegistry reads what an application has written down about itself, without writing anything. tasks is its tasks topic as it
// is: name, id, partitions. One that nothing was registered in gives an empty registry. The error is a *fault.Error with code
// "changelog/damaged" or "changelog/newer-format" when a record of the registry cannot be understood; ctx bounds how long
// brokers that do not answer are tried.
func ReadRegistry(ctx context.Context, r *Restorer, tasks Topic) (*Registry, error) {
	return readRegistry(ctx, r, tasks)
}

// Topics are the registered topics (changelogs, repartition topics, the tasks topic itself) with the ids they were registered
// with; a topic that was deleted since is still there. The map is the caller's.
func (g *Registry) Topics() map[string][16]byte { return maps.Clone(g.topics) }

// Sources are the topics that a subtopology reads or has read, sorted; repartition topics are among them.
func (g *Registry) Sources() []string {
	var topics []string
	for key := range g.owners {
		if topic, ok := strings.CutPrefix(key, "source/"); ok {
			topics = append(topics, topic)
		}
	}
	slices.Sort(topics)
	return topics
}

// StateDirPath is where LockStateDir keeps an application's part of a state directory. Nothing is looked at or made.
func StateDirPath(root, app string) (string, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return "", stateError("state/unreadable", root, "", "name it by an absolute path", err)
	}
	return filepath.Join(abs, escapeName(app)), nil
}

// Empty removes everything the application keeps here: tasks, the instance's id, and what was put aside. The lock stays, held; removing it too
// would let two processes hold one each. What cannot be removed is named in the error, a *fault.Error; calling it again goes on.
func (d *StateDir) Empty() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return stateError("state/unreadable", d.path, "", "look at the directory's permissions", err)
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.path, e.Name())); err != nil {
			return writeError(filepath.Join(d.path, e.Name()), err)
		}
	}
	return nil
}
