package changelog_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/fault"
)

// TestMain turns the test binary into another instance when it is told to: it takes the lock, says so, and waits to be
// killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CHANGELOG_TEST_LOCK"); dir != "" {
		d, err := changelog.LockStateDir(dir, "shop", "")
		if err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		fmt.Println("locked", d.Instance())
		select {}
	}
	os.Exit(m.Run())
}

func lockDir(t *testing.T, root, app, name string) *changelog.StateDir {
	t.Helper()
	d, err := changelog.LockStateDir(root, app, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestStateDirKeepsItsInstance(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b")
	d := lockDir(t, root, "shop", "")
	id := d.Instance()
	if len(id) != 36 {
		t.Errorf("instance id %q", id)
	}
	for _, p := range []string{root, d.Path()} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want 0700", p, info.Mode(), err)
		}
	}
	// Another application may live beside it.
	if other := lockDir(t, root, "shop2", ""); other.Instance() == id {
		t.Error("two applications have the same instance id")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d = lockDir(t, root, "shop", ""); d.Instance() != id {
		t.Errorf("the instance id changed from %s to %s", id, d.Instance())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d = lockDir(t, root, "shop", "east-1"); d.Instance() != "east-1" {
		t.Errorf("instance %q, want the configured name", d.Instance())
	}
}

func TestStateDirNamesItsHolder(t *testing.T) {
	root := t.TempDir()
	lockDir(t, root, "shop", "east-1")
	_, err := changelog.LockStateDir(root, "shop", "east-1")
	host, _ := os.Hostname()
	for _, s := range []string{"state/in-use", fmt.Sprint("process ", os.Getpid()), host, "east-1"} {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("%v does not say %s", err, s)
		}
	}
}

// The lock of a killed process is free at once, and its directory has the same instance.
func TestStateDirOfKilledProcess(t *testing.T) {
	root := t.TempDir()
	other := exec.Command(os.Args[0], "-test.run=none")
	other.Env = append(os.Environ(), "CHANGELOG_TEST_LOCK="+root)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(strings.TrimPrefix(line, "locked "))
	_, err = changelog.LockStateDir(root, "shop", "")
	if fault.Code(err) != "state/in-use" || !strings.Contains(err.Error(), fmt.Sprint("process ", other.Process.Pid)) || !strings.Contains(err.Error(), id) {
		t.Errorf("%v does not name process %d, instance %s", err, other.Process.Pid, id)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	if d := lockDir(t, root, "shop", ""); d.Instance() != id {
		t.Errorf("instance %s after the kill, want %s", d.Instance(), id)
	}
}

func TestStateDirRefuses(t *testing.T) {
	for _, k := range []struct {
		name, code string
		make       func(t *testing.T, root string) string
	}{
		{"a file", "state/not-a-directory", func(t *testing.T, root string) string {
			write(t, filepath.Join(root, "state"), "")
			return filepath.Join(root, "state")
		}},
		{"below a file", "state/not-a-directory", func(t *testing.T, root string) string {
			write(t, filepath.Join(root, "file"), "")
			return filepath.Join(root, "file", "state")
		}},
		{"a symbolic link", "state/symlink", func(t *testing.T, root string) string {
			must(t, os.Mkdir(filepath.Join(root, "real"), 0o700))
			must(t, os.Symlink(filepath.Join(root, "real"), filepath.Join(root, "state")))
			return filepath.Join(root, "state")
		}},
		{"writable by everybody", "state/world-writable", func(t *testing.T, root string) string {
			must(t, os.Mkdir(filepath.Join(root, "state"), 0o700))
			must(t, os.Chmod(filepath.Join(root, "state"), 0o777))
			return filepath.Join(root, "state")
		}},
		{"in a directory everybody may write", "state/world-writable", func(t *testing.T, root string) string {
			must(t, os.Mkdir(filepath.Join(root, "open"), 0o700))
			must(t, os.Chmod(filepath.Join(root, "open"), 0o777))
			return filepath.Join(root, "open", "state")
		}},
		{"application's part is a link", "state/symlink", func(t *testing.T, root string) string {
			must(t, os.Symlink(t.TempDir(), filepath.Join(root, "shop")))
			return root
		}},
		{"lock is a link", "state/symlink", func(t *testing.T, root string) string {
			must(t, os.Mkdir(filepath.Join(root, "shop"), 0o700))
			must(t, os.Symlink("/dev/null", filepath.Join(root, "shop", "lock")))
			return root
		}},
		{"instance damaged", "state/instance-damaged", func(t *testing.T, root string) string {
			must(t, os.Mkdir(filepath.Join(root, "shop"), 0o700))
			write(t, filepath.Join(root, "shop", "instance"), "../../etc")
			return root
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			dir := k.make(t, t.TempDir())
			_, err := changelog.LockStateDir(dir, "shop", "")
			var e *fault.Error
			if !errors.As(err, &e) || e.Code != k.code || e.Kind != fault.State || e.Remedy == "" || e.Value == "" {
				t.Errorf("got %v, want %s", err, k.code)
			}
		})
	}
	// The sticky bit is what makes a shared temporary directory usable.
	shared := t.TempDir()
	must(t, os.Chmod(shared, 0o777|fs.ModeSticky))
	lockDir(t, filepath.Join(shared, "state"), "shop", "")
}

func TestWriteErrorsAreNamed(t *testing.T) {
	for code, errno := range map[string]error{
		"state/disk-full":    &fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC},
		"state/not-writable": &fs.PathError{Op: "open", Path: "p", Err: syscall.EROFS},
	} {
		if err := changelog.WriteErrorForTest("p", errno); fault.Code(err) != code || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
	if err := changelog.WriteErrorForTest("p", syscall.EACCES); fault.Code(err) != "state/not-writable" {
		t.Errorf("%v", err)
	}
}

func TestTaskDirs(t *testing.T) {
	root := t.TempDir()
	d := lockDir(t, root, "shop [1]*?", "") // names a glob would take for something else
	want := []changelog.LocalTask{{"counts", 3}, {"counts", 12}, {"../up", 0}, {"", 1}, {".hidden", 2}, {"a/b", 2}}
	for _, k := range want {
		dir := d.TaskDir(k.Subtopology, k.Partition)
		if rel, err := filepath.Rel(d.Path(), dir); err != nil || strings.HasPrefix(rel, ".") || strings.Count(rel, "/") != 1 {
			t.Errorf("%+v is in %s", k, dir)
		}
		id := identity()
		if _, err := changelog.OpenManifest(dir, id, created); err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.MkdirAll(d.TaskDir("no-manifest", 1), 0o700))
	must(t, os.MkdirAll(filepath.Join(d.Path(), "counts", "x"), 0o700))
	write(t, filepath.Join(d.Path(), "counts", "x", changelog.ManifestFile), "")
	got, err := d.Tasks()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("tasks %v, want %v", got, want)
	}
	for _, k := range want {
		if !slices.Contains(got, k) {
			t.Errorf("%+v is missing in %v", k, got)
		}
	}
}

func FuzzEscapeName(f *testing.F) {
	for _, s := range []string{"counts", "", "..", "a/b", "%", "%2f", "\x00", "Ä", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s := changelog.EscapeNameForTest(name)
		if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\\\x00") {
			t.Errorf("%q becomes %q", name, s)
		}
		if back, ok := changelog.UnescapeNameForTest(s); !ok || back != name {
			t.Errorf("%q becomes %q and comes back as %q", name, s, back)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
