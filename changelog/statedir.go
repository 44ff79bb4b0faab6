package changelog

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
)

// StateDir is an application's part of a state directory, held under a lock for as long as the instance lives:
//
//	<state dir>/<app>/lock                            who holds it
//	<state dir>/<app>/instance                        the instance's id, made once
//	<state dir>/<app>/<subtopology>/<partition>/      a task: manifest.json, db/
type StateDir struct {
	path     string
	instance string
	lock     *os.File
}

// Holder is who holds a state directory, as its lock file says.
type Holder struct {
	PID      int       `json:"pid"`
	Host     string    `json:"host"`
	Started  time.Time `json:"started"`
	Instance string    `json:"instance"`
}

const (
	lockFile     = "lock"
	instanceFile = "instance"
	dirMode      = 0o700
	fileMode     = 0o600
)

// LockStateDir makes the directory if it is not there, checks that nobody else can meddle with it and that it can be
// written, takes its lock, and finds out the instance's id: name if it is not empty, else the one kept in the directory.
// Every refusal is a *fault.Error of kind State. The lock goes with the process, however it ends.
func LockStateDir(root, app, name string) (*StateDir, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, stateError("state/unreadable", root, "", "name it by an absolute path", err)
	}
	d := &StateDir{path: filepath.Join(abs, escapeName(app)), instance: name}
	for _, dir := range []string{abs, d.path} {
		if err := makeDir(dir); err != nil {
			return nil, err
		}
		if err := checkDir(dir); err != nil {
			return nil, err
		}
	}
	lock, err := os.OpenFile(filepath.Join(d.path, lockFile), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, writeError(d.path, err)
	}
	d.lock = lock
	if err := flock(lock); err != nil {
		defer lock.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, stateError("state/not-lockable", d.path, "", "keep state on a local file system", err)
		}
		return nil, inUse(d.path, lock)
	}
	if err := d.claim(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// claim is what the holder of the lock does first: know its instance id, and write down who it is. Writing also proves
// that there is room.
func (d *StateDir) claim() error {
	if d.instance == "" {
		id, err := instanceID(filepath.Join(d.path, instanceFile))
		if err != nil {
			return err
		}
		d.instance = id
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	text, err := json.Marshal(Holder{PID: os.Getpid(), Host: host, Started: time.Now().UTC().Truncate(time.Second), Instance: d.instance})
	if err != nil {
		return fmt.Errorf("state lock: %w", err)
	}
	if err := d.lock.Truncate(0); err != nil {
		return writeError(d.path, err)
	}
	if _, err := d.lock.WriteAt(append(text, '\n'), 0); err != nil {
		return writeError(d.path, err)
	}
	if err := d.lock.Sync(); err != nil {
		return writeError(d.path, err)
	}
	return nil
}

// Path is the application's directory.
func (d *StateDir) Path() string { return d.path }

// Instance is the instance's name: the configured one, or the id kept in the directory.
func (d *StateDir) Instance() string { return d.instance }

// TaskDir is the directory of a task. It is not made.
func (d *StateDir) TaskDir(subtopology string, partition int32) string {
	return filepath.Join(d.path, escapeName(subtopology), strconv.Itoa(int(partition)))
}

// LocalTask is a task that has a directory here.
type LocalTask struct {
	Subtopology string
	Partition   int32
}

// Tasks lists the tasks that have a directory with a manifest here, in no particular order: what this instance may
// claim to have state of.
func (d *StateDir) Tasks() ([]LocalTask, error) {
	found, err := filepath.Glob(filepath.Join(escapeGlob(d.path), "*", "*", ManifestFile))
	if err != nil {
		return nil, stateError("state/unreadable", d.path, "", "look at the directory's permissions", err)
	}
	var tasks []LocalTask
	for _, path := range found {
		dir := filepath.Dir(path)
		n, err := strconv.ParseInt(filepath.Base(dir), 10, 32)
		name, ok := unescapeName(filepath.Base(filepath.Dir(dir)))
		if err == nil && ok && n >= 0 {
			tasks = append(tasks, LocalTask{name, int32(n)})
		}
	}
	return tasks, nil
}

// Close gives the lock back.
func (d *StateDir) Close() error { return d.lock.Close() }

// inUse names the holder of a lock.
func inUse(path string, lock *os.File) error {
	e := &fault.Error{
		Code: "state/in-use", Kind: fault.State, Thing: "state directory", Value: path, Reason: "another process holds it",
		Remedy: "stop that process, or give this instance a state directory of its own",
	}
	var h Holder
	text := make([]byte, 4096)
	if n, _ := lock.ReadAt(text, 0); json.Unmarshal(text[:n], &h) == nil && h.PID != 0 {
		e.Reason = fmt.Sprintf("process %d on host %s, instance %s, holds it since %s", h.PID, h.Host, h.Instance, h.Started.Format(time.RFC3339))
	}
	return e
}

// instanceID reads the id in the file, or makes one. The caller holds the lock.
func instanceID(path string) (string, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		id := newUUID()
		return id, writeFile(path, []byte(id+"\n"))
	case err != nil:
		return "", stateError("state/unreadable", path, "", "look at the file's permissions", err)
	}
	id := strings.TrimSpace(string(text))
	if !isUUID(id) {
		return "", stateError("state/instance-damaged", path, "it does not hold an instance id",
			"remove the file: the instance gets a new id", nil)
	}
	return id, nil
}

// newUUID makes a random (version 4) UUID.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: the program would be ended first
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
		default:
			return false
		}
	}
	return true
}

// makeDir makes a directory and its parents for this user alone.
func makeDir(path string) error {
	if err := os.MkdirAll(path, dirMode); err != nil {
		if info, serr := os.Lstat(path); serr == nil && !info.IsDir() || errors.Is(err, syscall.ENOTDIR) {
			return stateError("state/not-a-directory", path, "something else has that name", "name a directory", nil)
		}
		return writeError(path, err)
	}
	return nil
}

// checkDir refuses a directory that others could exchange or write: whoever can, decides what the state is.
func checkDir(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return stateError("state/unreadable", path, "", "look at the directory's permissions", err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return stateError("state/symlink", path, "it is a symbolic link, and what it points to can change under a running instance",
			"name the directory it points to", nil)
	}
	if !info.IsDir() {
		return stateError("state/not-a-directory", path, "something else has that name", "name a directory", nil)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return stateError("state/world-writable", path, "every user may write it", "chmod 700 it", nil)
	}
	if uid, ok := owner(info); ok && uid != os.Geteuid() && os.Geteuid() != 0 {
		return stateError("state/foreign-owner", path, fmt.Sprintf("it belongs to user %d, this process runs as %d", uid, os.Geteuid()),
			"run as the user it belongs to, or chown it", nil)
	}
	parent, err := os.Lstat(filepath.Dir(path))
	if err != nil {
		return stateError("state/unreadable", filepath.Dir(path), "", "look at the directory's permissions", err)
	}
	if parent.Mode().Perm()&0o002 != 0 && parent.Mode()&fs.ModeSticky == 0 {
		return stateError("state/world-writable", filepath.Dir(path), "every user may exchange what is in it, the state directory too",
			"chmod o-w it, or keep state elsewhere", nil)
	}
	return nil
}

// writeFile replaces a file as one step, for this user alone, durable when it returns.
func writeFile(path string, text []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-")
	if err != nil {
		return writeError(dir, err)
	}
	_, err = tmp.Write(text)
	if err == nil {
		err = tmp.Chmod(fileMode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return writeError(path, errors.Join(err, os.Remove(tmp.Name())))
	}
	d, err := os.Open(dir)
	if err != nil {
		return writeError(dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return writeError(dir, err)
	}
	return nil
}

// writeError says why a path cannot be written.
func writeError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return stateError("state/disk-full", path, "there is no room", "free some, or keep state on a larger disk", err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return stateError("state/not-writable", path, "", "let the user of this process write it, or name another directory", err)
	case errors.Is(err, syscall.ENOTDIR):
		return stateError("state/not-a-directory", path, "something else has that name", "name a directory", err)
	case errors.Is(err, syscall.ELOOP):
		return stateError("state/symlink", path, "there is a symbolic link where a file of millrace's should be", "remove it", err)
	default:
		return stateError("state/not-writable", path, "", "look at the disk", err)
	}
}

func stateError(code, path, reason, remedy string, err error) *fault.Error {
	return &fault.Error{Code: code, Kind: fault.State, Thing: "state directory", Value: path, Reason: reason, Remedy: remedy, Err: err}
}

// escapeName makes a name a single, harmless path component: letters, digits, '_', '-' and inner dots stay, every other
// byte becomes %xx. Different names never meet.
func escapeName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	if b.Len() == 0 {
		return "%"
	}
	return b.String()
}

// unescapeName is the way back; ok is false for what escapeName never makes.
func unescapeName(s string) (name string, ok bool) {
	if s == "%" {
		return "", true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), escapeName(b.String()) == s
}

// escapeGlob makes a path match itself only.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
