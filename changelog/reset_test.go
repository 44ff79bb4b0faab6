package changelog_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/devkafka"
	"github.com/millrace-io/millrace/internal/fault"
)

// TestReadRegistry: what was registered can be read by somebody else, who writes nothing.
func TestReadRegistry(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		app := name("shop")
		made, err := changelog.EnsureTopics(t.Context(), c.client(t), appTopics(app))
		if err != nil {
			t.Fatal(err)
		}
		tasks := made[changelog.TasksTopicName(app)]
		r := c.restorer(t, changelog.RestorerConfig{})
		g, err := changelog.ReadRegistry(t.Context(), r, tasks)
		if err != nil || len(g.Topics()) != 0 || len(g.Sources()) != 0 {
			t.Fatalf("before anything was registered: %v, %v", g, err)
		}
		_, err = changelog.Register(t.Context(), r, tasks, slices.Collect(maps.Values(made)), []changelog.Members{
			{Name: "counts", Stores: []string{"counts"}, Sources: []string{"lines", "extras"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		end := c.ends(t, tasks, 0).End
		g, err = changelog.ReadRegistry(t.Context(), r, tasks)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Topics(); len(got) != len(made) {
			t.Errorf("%d topics, want %d", len(got), len(made))
		}
		for _, m := range made {
			if g.Topics()[m.Name] != m.ID {
				t.Errorf("%s has id %x, registered is %x", m.Name, m.ID, g.Topics()[m.Name])
			}
		}
		if got := g.Sources(); !slices.Equal(got, []string{"extras", "lines"}) {
			t.Errorf("sources %q", got)
		}
		if now := c.ends(t, tasks, 0).End; now != end {
			t.Errorf("reading wrote %d records", now-end)
		}
	})
}

func TestReadRegistryOfStrangers(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	tasks := c.topic(t, 1)
	c.writer(t).txn(kgo.TryCommit, put(tasks, 0, "registry/topic/x", "no record of ours"))
	if _, err := changelog.ReadRegistry(t.Context(), c.restorer(t, changelog.RestorerConfig{}), tasks); fault.Code(err) != "changelog/damaged" {
		t.Errorf("%v", err)
	}
}

// TestEmptyStateDir: everything goes but the lock, and another instance is still kept out.
func TestEmptyStateDir(t *testing.T) {
	root := filepath.Join(t.TempDir(), "state")
	path, err := changelog.StateDirPath(root, ".shop")
	if err != nil || filepath.Dir(path) != root {
		t.Fatalf("%s, %v", path, err)
	}
	if _, err := os.Lstat(root); !os.IsNotExist(err) {
		t.Errorf("asking for the path made it: %v", err)
	}
	d := lockDir(t, root, ".shop", "")
	if d.Path() != path {
		t.Errorf("StateDirPath says %s, the lock is in %s", path, d.Path())
	}
	if err := os.MkdirAll(filepath.Join(d.TaskDir("counts", 3), "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing left
		if err := d.Empty(); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(path)
	if err != nil || len(left) != 1 || left[0].Name() != "lock" {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := changelog.LockStateDir(root, ".shop", ""); fault.Code(err) != "state/in-use" {
		t.Errorf("%v", err)
	}
}
