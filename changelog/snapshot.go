package changelog

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// Names in a task's directory of a snapshot.
const (
	SnapshotFile   = "snapshot.json"
	SnapshotRows   = "rows"
	snapshotFormat = 1
)

// TaskSnapshot is one task of a snapshot (docs/format/snapshot.md).
type TaskSnapshot struct {
	Format      int             `json:"format"`
	App         string          `json:"app"`
	Cluster     string          `json:"cluster"`
	Task        SnapshotTask    `json:"task"`
	Cut         string          `json:"cut"`
	Taken       time.Time       `json:"taken"`
	Fingerprint string          `json:"fingerprint"`
	StreamTime  int64           `json:"stream_time"`
	Now         int64           `json:"now"`
	State       []byte          `json:"state,omitempty"`
	Inputs      []SnapshotInput `json:"inputs"`
	Stores      []SnapshotStore `json:"stores"`
	Topology    []SnapshotPart  `json:"topology"`
	Linked      bool            `json:"linked"`
	Files       []SnapshotOf    `json:"files"`

	dir string
}

// SnapshotTask names a task.
type SnapshotTask struct {
	Subtopology string `json:"subtopology"`
	Partition   int32  `json:"partition"`
}

func (t SnapshotTask) String() string { return t.Subtopology + "/" + strconv.Itoa(int(t.Partition)) }

// SnapshotInput is where a task goes on in one input partition.
type SnapshotInput struct {
	Topic     string `json:"topic"`
	Through   string `json:"through,omitempty"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Pending   bool   `json:"pending,omitempty"` // there is a file of what is not processed
}

// SnapshotStore is a store whose rows are in the snapshot.
type SnapshotStore struct {
	Name      string       `json:"name"`
	Kind      store.Kind   `json:"kind"`
	Key       string       `json:"key"`
	Value     string       `json:"value"`
	Forms     []serde.Form `json:"forms"` // of values, that rows may have
	Prefix    uint16       `json:"prefix"`
	Changelog int64        `json:"changelog"` // next offset
}

// SnapshotPart is a subtopology of the application.
type SnapshotPart struct {
	Name   string          `json:"name"`
	Tasks  int32           `json:"tasks"`
	Stores []string        `json:"stores,omitempty"`
	Inputs []SnapshotTopic `json:"inputs"`
}

// SnapshotTopic is a topic a subtopology reads.
type SnapshotTopic struct {
	Topic      string `json:"topic"`
	Through    string `json:"through,omitempty"`
	Partitions int32  `json:"partitions"`
}

// SnapshotOf is a file of a snapshot.
type SnapshotOf struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// Snapshot is a whole directory of tasks, as it was found to be.
type Snapshot struct {
	Dir   string
	Tasks []*TaskSnapshot // in order of subtopology and partition
}

// PrepareSnapshot makes the directory that a task is written into before it is whole. It refuses one that is there already.
func PrepareSnapshot(root string, t SnapshotTask, cut string) (tmp string, err error) {
	final := snapshotDir(root, t)
	if _, err := os.Lstat(final); err == nil {
		return "", snapshotError("snapshot/exists", final, "the task has been written there already", "give every snapshot a directory of its own", nil)
	}
	if err := makeDir(filepath.Dir(final)); err != nil {
		return "", snapshotWrite(final, err)
	}
	tmp = filepath.Join(filepath.Dir(final), ".tmp-"+filepath.Base(final)+"-"+cut)
	if err := os.Mkdir(tmp, dirMode); err != nil {
		return "", snapshotWrite(tmp, err)
	}
	return tmp, nil
}

// FinishSnapshot writes down what the prepared directory holds and gives it its name: from then on the task is in the snapshot.
func FinishSnapshot(root, tmp string, s *TaskSnapshot) error {
	s.Format = snapshotFormat
	err := filepath.WalkDir(tmp, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			rel, _ := filepath.Rel(tmp, path)
			s.Files = append(s.Files, SnapshotOf{filepath.ToSlash(rel), info.Size()})
		}
		return err
	})
	if err != nil {
		return snapshotWrite(tmp, err)
	}
	compact, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if err := writeManifest(filepath.Join(tmp, SnapshotFile), compact); err != nil {
		return snapshotWrite(tmp, err)
	}
	final := snapshotDir(root, s.Task)
	if err := os.Rename(tmp, final); err != nil {
		return snapshotWrite(final, err)
	}
	for _, dir := range []string{filepath.Dir(final), root} {
		d, err := os.Open(dir)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			return snapshotWrite(dir, err)
		}
	}
	return nil
}

func snapshotDir(root string, t SnapshotTask) string {
	return filepath.Join(root, escapeName(t.Subtopology), strconv.Itoa(int(t.Partition)))
}

// ReadSnapshot reads every task's manifest below dir and compares them with each other and with the files that are there. Rows are not
// read. partial takes tasks that are not all there. Errors are *fault.Error values of kind State, joined.
func ReadSnapshot(dir string, partial bool) (*Snapshot, error) {
	s := &Snapshot{Dir: dir}
	found, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*", "*", SnapshotFile))
	if err != nil || len(found) == 0 {
		return nil, snapshotError("snapshot/none", dir, "there is no snapshot", "name the directory that the snapshot was written to", err)
	}
	var errs []error
	for _, path := range found {
		if strings.HasPrefix(filepath.Base(filepath.Dir(path)), ".tmp-") {
			continue
		}
		t, err := readTaskSnapshot(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.Tasks = append(s.Tasks, t)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(s.Tasks) == 0 {
		return nil, snapshotError("snapshot/none", dir, "no task was written to its end", "take the snapshot again, into another directory", nil)
	}
	slices.SortFunc(s.Tasks, func(a, b *TaskSnapshot) int {
		if c := strings.Compare(a.Task.Subtopology, b.Task.Subtopology); c != 0 {
			return c
		}
		return int(a.Task.Partition - b.Task.Partition)
	})
	return s, s.check(partial)
}

func readTaskSnapshot(path string) (*TaskSnapshot, error) {
	const remedy = "take another copy of the snapshot, or another snapshot"
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, snapshotError("snapshot/unreadable", path, "", "look at permissions and disk", err)
	}
	damaged := func(reason string, err error) error {
		return snapshotError("snapshot/damaged", path, reason, remedy, err)
	}
	var env manifestEnvelope
	var compact bytes.Buffer
	if err := json.Unmarshal(file, &env); err != nil {
		return nil, damaged("it is not JSON", err)
	}
	if err := json.Compact(&compact, env.Manifest); err != nil || manifestChecksum(compact.Bytes()) != env.Checksum {
		return nil, damaged("its checksum does not match its text", err)
	}
	var format struct{ Format int }
	if err := json.Unmarshal(env.Manifest, &format); err != nil || format.Format < 1 {
		return nil, damaged("it has no format", err)
	}
	if format.Format > snapshotFormat {
		return nil, snapshotError("snapshot/newer-format", path, "it has format "+strconv.Itoa(format.Format), "run the version of millrace that wrote it, or a newer one", nil)
	}
	t := &TaskSnapshot{dir: filepath.Dir(path)}
	if err := json.Unmarshal(env.Manifest, t); err != nil {
		return nil, damaged("its fields do not decode", err)
	}
	var errs []error
	for _, f := range t.Files {
		info, err := os.Lstat(filepath.Join(t.dir, filepath.FromSlash(f.Path)))
		switch {
		case err != nil:
			errs = append(errs, snapshotError("snapshot/damaged", filepath.Join(t.dir, f.Path), "a file is missing", remedy, err))
		case info.Size() != f.Size:
			errs = append(errs, snapshotError("snapshot/damaged", filepath.Join(t.dir, f.Path), fmt.Sprintf("it has %d bytes and had %d", info.Size(), f.Size), remedy, nil))
		}
	}
	return t, errors.Join(errs...)
}

// check compares the tasks with each other.
func (s *Snapshot) check(partial bool) error {
	var errs []error
	first := s.Tasks[0]
	there := map[SnapshotTask]bool{}
	for _, t := range s.Tasks {
		there[t.Task] = true
		if t.App != first.App || t.Cluster != first.Cluster || t.Fingerprint != first.Fingerprint || !reflect.DeepEqual(t.Topology, first.Topology) {
			errs = append(errs, snapshotError("snapshot/mixed", t.dir,
				fmt.Sprintf("it is of application %q on cluster %q with topology %s; %s is of %q on %q with %s", t.App, t.Cluster, t.Fingerprint, first.Task, first.App, first.Cluster, first.Fingerprint),
				"take the snapshot again, into a directory of its own", nil))
		}
		if t.Linked && t.Cut != first.Cut {
			errs = append(errs, snapshotError("snapshot/cuts", t.dir,
				fmt.Sprintf("it is of another moment than %s, and there are repartition topics between the parts of the topology", first.Task),
				"take the snapshot of all tasks at once, while one instance runs them all", nil))
		}
	}
	var missing []string
	for _, part := range first.Topology {
		for p := range part.Tasks {
			if t := (SnapshotTask{part.Name, p}); !there[t] {
				missing = append(missing, t.String())
			}
		}
	}
	if len(missing) > 0 && !partial {
		errs = append(errs, snapshotError("snapshot/incomplete", s.Dir, "missing are "+strings.Join(missing, ", "),
			"let every instance that runs one of these tasks write its snapshot into this directory", nil))
	}
	return errors.Join(errs...)
}

// OpenRows opens the rows of the task; nil if it has none. The caller closes them.
func (t *TaskSnapshot) OpenRows() (*store.SnapshotRows, error) {
	if len(t.Stores) == 0 {
		return nil, nil
	}
	return store.OpenSnapshot(filepath.Join(t.dir, SnapshotRows))
}

// Dir is where the task is.
func (t *TaskSnapshot) Dir() string { return t.dir }

const pendingMagic = "millrace pending 1\n"

func pendingFile(input int) string { return "pending-" + strconv.Itoa(input) }

// PendingWriter writes what an input has not processed.
type PendingWriter struct {
	f   *os.File
	buf *bufio.Writer
	sum hashed
	n   uint64
	b   []byte
	err error
}

type hashed struct{ crc uint32 }

func (h *hashed) add(b []byte) { h.crc = crc32.Update(h.crc, castagnoli, b) }

// NewPendingWriter begins the file of an input in a prepared directory.
func NewPendingWriter(tmp string, input int) (*PendingWriter, error) {
	f, err := os.OpenFile(filepath.Join(tmp, pendingFile(input)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, snapshotWrite(tmp, err)
	}
	w := &PendingWriter{f: f, buf: bufio.NewWriterSize(f, 1<<16)}
	w.write([]byte(pendingMagic))
	return w, nil
}

func (w *PendingWriter) write(b []byte) {
	w.sum.add(b)
	if _, err := w.buf.Write(b); err != nil && w.err == nil {
		w.err = err
	}
}

// Add writes one record.
func (w *PendingWriter) Add(r *kgo.Record) {
	b := binary.AppendVarint(append(w.b[:0], 1), r.Timestamp.UnixMilli())
	b = appendNullable(appendNullable(b, r.Key), r.Value)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendNullable(appendString(b, h.Key), h.Value)
	}
	w.b = b
	w.n++
	w.write(b)
}

// Close ends the file and makes it durable.
func (w *PendingWriter) Close() error {
	w.write(binary.AppendUvarint([]byte{0}, w.n))
	_, err := w.buf.Write(binary.BigEndian.AppendUint32(nil, w.sum.crc))
	err = errors.Join(w.err, err, w.buf.Flush())
	if err == nil {
		err = w.f.Sync()
	}
	if err = errors.Join(err, w.f.Close()); err != nil {
		return snapshotWrite(w.f.Name(), err)
	}
	return nil
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 0)
	}
	return append(binary.AppendUvarint(dst, uint64(len(b))+1), b...)
}

// Pending calls f for every record that an input had not processed; they are f's to keep.
func (t *TaskSnapshot) Pending(input int, f func(r *kgo.Record) error) error {
	path := filepath.Join(t.dir, pendingFile(input))
	damaged := func() error {
		return snapshotError("snapshot/damaged", path, "its bytes do not decode", "take another copy of the snapshot, or another snapshot", nil)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return snapshotError("snapshot/unreadable", path, "", "look at permissions and disk", err)
	}
	n := len(file) - crcBytes
	if n < len(pendingMagic) || string(file[:len(pendingMagic)]) != pendingMagic || crc32.Checksum(file[:n], castagnoli) != binary.BigEndian.Uint32(file[n:]) {
		return damaged()
	}
	r := bytes.NewReader(file[len(pendingMagic):n])
	bad := false
	num := func() uint64 {
		v, err := binary.ReadUvarint(r)
		bad = bad || err != nil || v > uint64(n)+1
		return v
	}
	take := func(n uint64) []byte {
		if bad || n > uint64(r.Len()) {
			bad = true
			return nil
		}
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		bad = bad || err != nil
		return b
	}
	nullable := func() []byte {
		if n := num(); n > 0 {
			return take(n - 1)
		}
		return nil
	}
	for records := uint64(0); ; records++ {
		more, err := r.ReadByte()
		if err == nil && more == 0 {
			if num() != records || bad || r.Len() > 0 {
				return damaged()
			}
			return nil
		}
		at, terr := binary.ReadVarint(r)
		rec := &kgo.Record{Timestamp: time.UnixMilli(at), Key: nullable(), Value: nullable()}
		for range num() {
			if bad {
				break
			}
			rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: string(take(num())), Value: nullable()})
		}
		if err != nil || terr != nil || more != 1 || bad {
			return damaged()
		}
		if err := f(rec); err != nil {
			return err
		}
	}
}

func snapshotError(code, path, reason, remedy string, err error) *fault.Error {
	return &fault.Error{Code: code, Kind: fault.State, Thing: "snapshot", Value: path, Reason: reason, Remedy: remedy, Err: err}
}

func snapshotWrite(path string, err error) error {
	return snapshotError("snapshot/not-written", path, "", "look at the disk and at who may write there; the application goes on", err)
}
