package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/millrace-io/millrace/internal/fault"
)

// Snapshot writes everything that is committed, the checkpoint row included, into dir: a copy that nothing the task does later
// changes. dir is made and must not be there; its parent must. With Pebble the copy shares its files with the database where both are on
// one file system, so it takes as long as a flush and as much room as what is overwritten afterwards. Epochs that were
// not applied are not in it. After an error there may be something in dir, which means nothing; the database is as it was, unless the
// error is one of its own, which every later call returns too.
func (db *DB) Snapshot(dir string) error {
	if err := db.Flush(); err != nil {
		return err
	}
	e, ok := db.engine.(snapshotEngine)
	if !ok {
		return &fault.Error{Code: "store/no-snapshot", Kind: fault.Internal, Thing: "store", Value: fmt.Sprintf("%T", db.engine), Reason: "this engine makes no snapshots"}
	}
	return e.snapshot(dir)
}

// snapshotEngine is an engine whose rows can be copied while they are in use.
type snapshotEngine interface{ snapshot(dir string) error }

// SnapshotRows are the rows of a snapshot, or of a task's database that nobody has open. Nothing is written to the directory.
type SnapshotRows struct {
	engine Engine // only read
}

// OpenSnapshot opens what DB.Snapshot has written.
func OpenSnapshot(dir string) (*SnapshotRows, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, snapshotError("store/snapshot-missing", dir, "there are no rows", "give the directory that the snapshot was written to", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, rowsFile)); err == nil {
		e := NewMemory()
		if err := readRows(filepath.Join(dir, rowsFile), e); err != nil {
			return nil, err
		}
		return &SnapshotRows{e}, nil
	}
	e, err := openPebbleToRead(dir)
	if err != nil {
		return nil, err
	}
	return &SnapshotRows{e}, nil
}

// Checkpoint returns the checkpoint row; ok is false if there is none. The slice is the caller's.
func (s *SnapshotRows) Checkpoint() (row []byte, ok bool, err error) {
	return s.engine.Get(nil, checkpointKey)
}

// Each calls f for every row of the store with that prefix, in the order of keys, and ends with its first error. Keys come without
// the prefix; key and value are valid during the call. Rows whose time to live was over when they were restored are left out: they are
// gone, and only their tombstones are owed.
func (s *SnapshotRows) Each(prefix uint16, f func(key, value []byte) error) error {
	lower := []byte{byte(prefix >> 8), byte(prefix)}
	upper := []byte{byte((prefix + 1) >> 8), byte(prefix + 1)}
	it, err := s.engine.Iter(lower, upper, false)
	if err != nil {
		return err
	}
	for it.Next() {
		value := it.Value()
		if len(value) > 1 && value[1]&rowFlagDead != 0 {
			continue
		}
		if err := f(it.Key()[2:], value); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

// CopyTo puts all rows, the checkpoint row included, into an empty engine.
func (s *SnapshotRows) CopyTo(e Engine) error {
	it, err := s.engine.Iter(nil, nil, false)
	if err != nil {
		return err
	}
	var b Batch
	size := 0
	for it.Next() {
		key, value := append([]byte(nil), it.Key()...), append([]byte{}, it.Value()...)
		b.Set(key, value)
		if size += len(key) + len(value); size >= 1<<20 {
			if err := e.Apply(&b); err != nil {
				return errors.Join(err, it.Close())
			}
			b.Reset()
			size = 0
		}
	}
	if err := it.Close(); err != nil {
		return err
	}
	if err := e.Apply(&b); err != nil {
		return err
	}
	return e.Flush()
}

// Close gives back what OpenSnapshot took.
func (s *SnapshotRows) Close() error { return s.engine.Close() }

// The rows of the memory engine go into one file (docs/format/snapshot.md).
const (
	rowsFile  = "rows"
	rowsMagic = "millrace rows 1\n"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m *memory) snapshot(dir string) (err error) {
	if err := os.Mkdir(dir, dirMode); err != nil {
		return snapshotWriteError(dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, rowsFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return snapshotWriteError(dir, err)
	}
	err = m.writeRows(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return snapshotWriteError(dir, err)
	}
	return nil
}

func (m *memory) writeRows(f io.Writer) error {
	sum := crc32.New(castagnoli)
	buf := bufio.NewWriterSize(f, 1<<16)
	w := io.MultiWriter(buf, sum)
	if _, err := io.WriteString(w, rowsMagic); err != nil {
		return err
	}
	it, err := m.Iter(nil, nil, false)
	if err != nil {
		return err
	}
	defer it.Close()
	var scratch []byte
	n := uint64(0)
	for it.Next() {
		scratch = binary.AppendUvarint(scratch[:0], uint64(len(it.Key())))
		scratch = append(scratch, it.Key()...)
		scratch = binary.AppendUvarint(scratch, uint64(len(it.Value())))
		scratch = append(scratch, it.Value()...)
		if _, err := w.Write(scratch); err != nil {
			return err
		}
		n++
	}
	scratch = binary.AppendUvarint(append(scratch[:0], 0), n)
	if _, err := w.Write(scratch); err != nil {
		return err
	}
	if _, err := buf.Write(binary.BigEndian.AppendUint32(nil, sum.Sum32())); err != nil {
		return err
	}
	return buf.Flush()
}

// readRows reads what writeRows wrote.
func readRows(path string, into Engine) error {
	f, err := os.Open(path)
	if err != nil {
		return snapshotError("store/snapshot-unreadable", path, "", "look at permissions and disk", err)
	}
	defer f.Close()
	damaged := func(reason string) error {
		return snapshotError("store/snapshot-damaged", path, reason, "take another copy of the snapshot, or another snapshot", nil)
	}
	r := &summing{r: bufio.NewReaderSize(f, 1<<16), sum: crc32.New(castagnoli)}
	magic := make([]byte, len(rowsMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != rowsMagic {
		return damaged("it does not begin as one")
	}
	field := func(most uint64) ([]byte, uint64, bool) {
		n, err := binary.ReadUvarint(r)
		if err != nil || n > most {
			return nil, 0, false
		}
		b := make([]byte, n)
		_, err = io.ReadFull(r, b)
		return b, n, err == nil
	}
	var b Batch
	for rows := uint64(0); ; rows++ {
		key, n, ok := field(1 << 20)
		if ok && n == 0 {
			want, err := binary.ReadUvarint(r)
			sum := r.sum.Sum32()
			var tail [4]byte
			if _, terr := io.ReadFull(r.r, tail[:]); err != nil || terr != nil || want != rows {
				return damaged("it ends too early")
			}
			if binary.BigEndian.Uint32(tail[:]) != sum {
				return damaged("its checksum does not match its bytes")
			}
			return into.Apply(&b)
		}
		if !ok {
			return damaged("a row does not decode")
		}
		value, _, ok := field(1 << 30)
		if !ok {
			return damaged("a row does not decode")
		}
		b.Set(key, value)
		if len(b.Mutations) == 1000 {
			if err := into.Apply(&b); err != nil {
				return err
			}
			b.Reset()
		}
	}
}

// summing adds up what is read.
type summing struct {
	r   *bufio.Reader
	sum hash.Hash32
}

func (s *summing) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	return n, err
}

func (s *summing) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b})
	}
	return b, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func snapshotError(code, path, reason, remedy string, err error) *fault.Error {
	return &fault.Error{Code: code, Kind: fault.State, Thing: "snapshot", Value: path, Reason: reason, Remedy: remedy, Err: err}
}

// snapshotWriteError says why a snapshot cannot be written.
func snapshotWriteError(dir string, err error) error {
	reason, remedy := "it cannot be written", "look at permissions and disk"
	switch {
	case diskFull(err):
		reason, remedy = "there is no room", "free some, or write it to a larger disk"
	case errors.Is(err, fs.ErrExist):
		reason, remedy = "it is there already", "write it to a directory of its own"
	}
	return snapshotError("store/snapshot-not-written", dir, reason, remedy, err)
}

// Prefix is the number that the store's rows begin with in the task's database.
func (r *Rows) Prefix() uint16 { return r.number() }

// Verify reads every row there is, ours included.
func (s *SnapshotRows) Verify() error {
	it, err := s.engine.Iter(nil, nil, false)
	if err != nil {
		return err
	}
	for it.Next() {
		_ = it.Value()
	}
	return it.Close()
}
