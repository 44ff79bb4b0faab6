package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/internal/fault"
)

// Shared is what the Pebble databases of one process have in common: a block cache and a file cache, sized from one
// memory limit. Any goroutine may use it.
type Shared struct {
	memory Memory
	cache  *pebble.Cache
	files  *pebble.FileCache
	leaked atomic.Bool // a database that failed may never give its part of the caches back
	// writing has a place for each database that may write back at a time: not all at once, or their batches add up.
	writing chan struct{}
	bulk    bulkPool

	opening chan struct{} // a place for each database being opened
}

const (
	openFilesMax = 1000
	// openingMax is how many databases are opened at a time. Opening waits for the disk more than it computes: 256 of them took
	// 2.3 s one after the other, 0.9 s eight at a time, and 1.7 s all at once.
	openingMax = 8
)

// NewShared shares out limit bytes among tasks tasks of an instance. A limit below MemoryMin(tasks) is a *fault.Error
// "store/memory-limit" that names the least one.
func NewShared(limit int64, tasks int) (*Shared, error) {
	m, err := ShareOut(limit, tasks)
	if err != nil {
		return nil, err
	}
	return newShared(m), nil
}

func newShared(m Memory) *Shared {
	return &Shared{
		memory: m, writing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/4)),
		cache: pebble.NewCache(m.BlockCache),
		files: pebble.NewFileCache(max(1, runtime.GOMAXPROCS(0)), openFilesMax),
		bulk:  bulkPool{limit: max(bulkLeast, m.Bulk)},

		opening: make(chan struct{}, openingMax),
	}
}

// Memory says how the limit is shared out.
func (s *Shared) Memory() Memory { return s.memory }

// OverlayBytes is the memory that the uncommitted epochs of all tasks together may hold; beyond it a commit is due.
func (s *Shared) OverlayBytes() int64 { return s.memory.Overlay }

// CacheBytes is the read cache of each task, for Options.CacheBytes.
func (s *Shared) CacheBytes() int64 { return s.memory.ReadCache }

// BulkBytes is the memory that the bulk restores under way hold.
func (s *Shared) BulkBytes() int64 {
	s.bulk.mu.Lock()
	defer s.bulk.mu.Unlock()
	return s.bulk.used
}

// OpenPebble opens, or makes, the Pebble database in dir. Cache sizes of o are ignored.
func (s *Shared) OpenPebble(dir string, o PebbleOptions) (Engine, error) {
	s.opening <- struct{}{}
	defer func() { <-s.opening }()
	return openPebble(s, dir, vfs.Default, o)
}

// Close lets the caches go. Every engine must be closed before. If one of them has failed, the caches stay: Pebble
// panics when it is to free what is still referred to.
func (s *Shared) Close() {
	if s.leaked.Load() {
		return
	}
	s.files.Unref()
	s.cache.Unref()
}

// PebbleOptions are the options of a Pebble database. Zero values take the defaults.
type PebbleOptions struct {
	Log *slog.Logger // default slog.Default()
	// BlockCacheBytes and MemTableBytes are for a database of its own, 8 MiB and 4 MiB by default. Up to three memtables
	// come on top of the block cache.
	BlockCacheBytes int64
	MemTableBytes   int64
}

// OpenPebble opens, or makes, a Pebble database in dir with caches of its own.
func OpenPebble(dir string, o PebbleOptions) (Engine, error) {
	return openAlone(dir, vfs.Default, o)
}

func openAlone(dir string, fs vfs.FS, o PebbleOptions) (Engine, error) {
	m := Memory{MemTable: o.MemTableBytes, BlockCache: o.BlockCacheBytes, Bulk: 32 << 20}
	if m.MemTable <= 0 {
		m.MemTable = 4 << 20
	}
	if m.BlockCache <= 0 {
		m.BlockCache = 8 << 20
	}
	m.BlockCache += memTablesUsed * m.MemTable
	s := newShared(m)
	e, err := openPebble(s, dir, fs, o)
	if err != nil {
		s.Close()
		return nil, err
	}
	e.(*pebbleEngine).own = true
	return e, nil
}

// pebbleEngine is a Pebble database without write-ahead log: the changelog is the log. After a crash the database is
// what it was after some earlier Apply, and the checkpoint row in it says which.
//
// The first error of the disk, of a background job, or of damaged data is kept, answered to every later call, and ends
// all writing to the directory (guardFS): Pebble itself would end the process or retry for ever.
// Whatever is already in the directory is what a crash at that moment would have left.
type pebbleEngine struct {
	db     *pebble.DB
	dir    string
	log    *slog.Logger
	shared *Shared
	own    bool // shared is closed with the engine
	closed bool

	readOnly bool // no flush, no lock

	// stats keeps Stats, which any goroutine may call, apart from Close.
	stats sync.RWMutex

	failure atomic.Pointer[fault.Error]
	failed  chan struct{} // closed with the first failure
	once    sync.Once
	broken  atomic.Bool // a panic came out of Pebble: it must not be called again
	guard   *guardFS

	compactions *compactions

	// Pebble stalls a writer without a way out when flushes or compactions lag, so the waiting is done here.
	memTable  int64
	mu        sync.Mutex    // of what follows: one goroutine may apply while another asks for an estimate
	unflushed int64         // estimate of bytes applied since the last flush
	pending   []rowCount    // rows applied since the last flush, by store
	flushes   atomic.Int64  // finished
	seen      int64         // of flushes, by Apply
	progress  chan struct{} // a flush or compaction has finished
}

type rowCount struct {
	prefix uint16
	rows   int64
}

const (
	memTablesWait  = memTablesUsed // in memory: wait for a flush before adding another
	l0SublevelWait = 20            // of level 0: wait for a compaction
	neverStall     = 1 << 20
)

func openPebble(shared *Shared, dir string, fs vfs.FS, o PebbleOptions) (_ Engine, err error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	e := &pebbleEngine{
		dir: dir, log: o.Log.With("dir", dir), failed: make(chan struct{}), progress: make(chan struct{}, 1),
		memTable: shared.memory.MemTable, shared: shared,
	}
	defer e.recovered("open", &err)
	e.guard = &guardFS{FS: fs, engine: e, private: fs == vfs.Default}
	if err := e.guard.prepare(dir); err != nil {
		return nil, e.wrap("open", err)
	}
	opts := &pebble.Options{
		Cache:                       shared.cache,
		FileCache:                   shared.files,
		FS:                          e.guard,
		DisableWAL:                  true,
		FormatMajorVersion:          pebbleFormat,
		MemTableSize:                uint64(shared.memory.MemTable),
		MemTableStopWritesThreshold: neverStall,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       neverStall,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLog{e},
		EventListener:               e.listener(),
	}
	setLevels(opts)
	e.compactions = newCompactions()
	opts.Experimental.CompactionScheduler = e.compactions
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, e.wrap("open", err)
	}
	e.db = db
	if f := e.failure.Load(); f != nil {
		e.abandon()
		return nil, f
	}
	if err := e.removeLeftovers(); err != nil {
		err = e.wrap("open", err)
		e.abandon()
		return nil, err
	}
	e.compactions.begin()
	return e, nil
}

// pebbleFormat is the format of a database's files, tables that are ingested included.
const pebbleFormat = pebble.FormatValueSeparation

func setLevels(o *pebble.Options) {
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
}

// pebbleLog takes Pebble's own messages.
type pebbleLog struct{ e *pebbleEngine }

func (l pebbleLog) Infof(format string, args ...any) {
	l.e.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.e.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf does not return, because Pebble cannot go on, and does not end the process, because others can: the engine is
// failed and never called again. A call of ours ends with that failure; a goroutine of Pebble's ends, its locks let go.
func (l pebbleLog) Fatalf(format string, args ...any) {
	err := l.e.wrap("background work", fmt.Errorf(format, args...))
	l.e.broken.Store(true)
	if calledByUs() {
		panic(err) // caught by recovered
	}
	_ = l.e.guard.unlock() // Pebble itself will not be closed; the failure is known already
	runtime.Goexit()
}

// calledByUs reports whether this goroutine came into Pebble through a method that ends with recovered.
func calledByUs() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "/store.(*pebbleEngine).") || strings.Contains(f.Function, "/store.(*pebbleIter).") ||
			strings.HasSuffix(f.Function, "/store.openPebble") {
			return true
		}
		if !more {
			return false
		}
	}
}

func (e *pebbleEngine) listener() *pebble.EventListener {
	note := func() {
		select {
		case e.progress <- struct{}{}:
		default:
		}
	}
	l := &pebble.EventListener{
		BackgroundError: func(err error) { _ = e.wrap("background work", err) },
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			err := info.Details
			if err == nil {
				err = errors.New("damaged data in " + info.Path)
			}
			_ = e.fail("store/corrupt", "read", err)
		},
		FlushEnd: func(pebble.FlushInfo) {
			e.flushes.Add(1)
			note()
		},
		CompactionEnd: func(pebble.CompactionInfo) { note() },
		DiskSlow: func(info pebble.DiskSlowInfo) {
			// On a goroutine that must not block, which a log handler may.
			go e.log.Warn("the disk is slow", "op", info.OpType.String(), "took", info.Duration)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) { e.log.Warn("writes wait for pebble", "reason", info.Reason) },
	}
	l.EnsureDefaults(pebbleLog{e})
	return l
}

// wrap turns an error of Pebble into one a person can act on, and keeps it.
func (e *pebbleEngine) wrap(op string, err error) error {
	if f := e.failure.Load(); f != nil {
		return f
	}
	var typed *fault.Error
	switch {
	case errors.As(err, &typed):
		return typed
	case diskFull(err):
		return e.fail("store/disk-full", op, err)
	case pebble.IsCorruptionError(err), op == "open" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, pebble.ErrDBNotPristine)):
		return e.fail("store/corrupt", op, err) // also when a file is missing, or the one with the format's version
	case strings.Contains(err.Error(), "format major version"):
		return e.fail("store/newer-format", op, err)
	}
	return e.fail("store/io", op, err)
}

var remedies = map[string]string{
	"store/disk-full":    "free space on the disk; the state is restored from the changelog if need be",
	"store/corrupt":      "delete the directory; the state is restored from the changelog",
	"store/newer-format": "run the version of the program that wrote this directory, or delete it to restore from the changelog",
	"store/io":           "look at the disk; the state is restored from the changelog if need be",
	"store/locked":       "stop the other process, or give each its own state directory",
}

// fail keeps the first failure and returns it.
func (e *pebbleEngine) fail(code, op string, err error) *fault.Error {
	f := &fault.Error{
		Code: code, Kind: fault.State, Thing: "state directory", Value: e.dir, Reason: op + " failed", Remedy: remedies[code], Err: err,
	}
	e.once.Do(func() {
		e.failure.Store(f)
		e.shared.leaked.Store(true)
		close(e.failed)
		e.log.Error("the store is closed to writes", "error", f)
	})
	return e.failure.Load()
}

// IsCorrupt reports whether err says that the data of a state directory is damaged: the directory can only be dropped and
// the state restored from its changelog.
func IsCorrupt(err error) bool {
	return errors.Is(err, &fault.Error{Code: "store/corrupt"}) || errors.Is(err, &fault.Error{Code: "store/row-format"})
}

// recovered turns a panic of Pebble into a failure. It may hold its locks, so it is not called again.
func (e *pebbleEngine) recovered(op string, err *error) {
	if p := recover(); p != nil {
		e.broken.Store(true)
		_ = e.guard.unlock() // the panic is the error that counts
		*err = e.fail("store/corrupt", op, fmt.Errorf("pebble: %v", p))
	}
}

func (e *pebbleEngine) ready() error {
	if f := e.failure.Load(); f != nil {
		return f
	}
	if e.closed {
		return errClosed()
	}
	return nil
}

func (e *pebbleEngine) Get(dst, key []byte) (value []byte, ok bool, err error) {
	if err := e.ready(); err != nil {
		return dst[:0], false, err
	}
	defer e.recovered("read", &err)
	raw, closer, err := e.db.Get(key)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			return dst[:0], false, nil
		}
		return dst[:0], false, e.wrap("read", err)
	}
	value = append(dst[:0], raw...)
	if err := closer.Close(); err != nil {
		return dst[:0], false, e.wrap("read", err)
	}
	return value, true, nil
}

func (e *pebbleEngine) Iter(lower, upper []byte, reverse bool) (it EngineIter, err error) {
	if err := e.ready(); err != nil {
		return nil, err
	}
	defer e.recovered("read", &err)
	// Pebble knows no empty bounds.
	if len(lower) == 0 {
		lower = nil
	}
	if upper != nil && len(upper) == 0 {
		lower, upper = []byte{0}, []byte{0} // nothing is below the empty key
	}
	p, err := e.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, e.wrap("read", err)
	}
	return &pebbleIter{e: e, it: p, reverse: reverse}, nil
}

type pebbleIter struct {
	e       *pebbleEngine
	it      *pebble.Iterator
	reverse bool
	begun   bool
	value   []byte
	err     error
}

func (i *pebbleIter) Next() (ok bool) {
	if i.it == nil || i.err != nil {
		return false
	}
	defer i.e.recovered("read", &i.err)
	there := false
	switch {
	case i.begun && i.reverse:
		there = i.it.Prev()
	case i.begun:
		there = i.it.Next()
	case i.reverse:
		there = i.it.Last()
	default:
		there = i.it.First()
	}
	i.begun = true
	if !there {
		if err := i.it.Error(); err != nil {
			i.err = i.e.wrap("read", err)
		}
		return false
	}
	if i.value, i.err = i.it.ValueAndErr(); i.err != nil {
		i.err = i.e.wrap("read", i.err)
		return false
	}
	return true
}

func (i *pebbleIter) Key() []byte   { return i.it.Key() }
func (i *pebbleIter) Value() []byte { return i.value }

func (i *pebbleIter) Close() (err error) {
	if i.it == nil {
		return i.err
	}
	it := i.it
	i.it = nil
	if i.e.broken.Load() {
		return i.err
	}
	defer i.e.recovered("read", &err)
	if err := it.Close(); err != nil && i.err == nil {
		i.err = i.e.wrap("read", err)
	}
	return i.err
}

func (e *pebbleEngine) Apply(b *Batch) (err error) {
	if err := e.ready(); err != nil {
		return err
	}
	if len(b.Mutations) == 0 {
		return nil
	}
	defer e.recovered("write", &err)
	if err := e.room(); err != nil {
		return err
	}
	size := 16
	for i := range b.Mutations {
		size += len(b.Mutations[i].Key) + len(b.Mutations[i].Value) + 9
	}
	batch := e.db.NewBatchWithSize(size)
	for i := range b.Mutations {
		m := &b.Mutations[i]
		if m.Delete {
			op := batch.DeleteDeferred(len(m.Key))
			copy(op.Key, m.Key)
			err = op.Finish()
		} else {
			op := batch.SetDeferred(len(m.Key), len(m.Value))
			copy(op.Key, m.Key)
			copy(op.Value, m.Value)
			err = op.Finish()
		}
		if err != nil {
			_ = batch.Close() // the batch was not applied; err says why
			return e.wrap("write", err)
		}
	}
	var counts []rowCount
	for i := range b.Mutations {
		counts = countRow(counts, b.Mutations[i].Key, b.Mutations[i].Delete)
	}
	e.counted(int64(batch.Len())+64*int64(batch.Count()), counts)
	if err := e.db.Apply(batch, pebble.NoSync); err != nil {
		return e.wrap("write", err)
	}
	if err := batch.Close(); err != nil {
		return e.wrap("write", err)
	}
	return e.ready() // a commit that went wrong is told through Fatalf
}

// room waits until Pebble has room for another memtable, or has failed.
func (e *pebbleEngine) room() error {
	e.mu.Lock()
	enough := !e.flushed() && e.unflushed < 2*e.memTable
	e.mu.Unlock()
	if enough {
		return nil
	}
	for {
		m := e.db.Metrics()
		if m.MemTable.Count <= memTablesWait && m.Levels[0].Sublevels <= l0SublevelWait {
			e.mu.Lock()
			e.unflushed = min(e.unflushed, e.memTable)
			e.mu.Unlock()
			return nil
		}
		select {
		case <-e.progress:
		case <-e.failed:
			return e.failure.Load()
		}
	}
}

// flushed reports whether a flush has finished since it was last asked, and begins the estimates anew if so. Called with mu
// held.
func (e *pebbleEngine) flushed() bool {
	n := e.flushes.Load()
	if n == e.seen {
		return false
	}
	e.seen, e.unflushed, e.pending = n, 0, e.pending[:0]
	return true
}

func (e *pebbleEngine) Clear() (err error) {
	if err := e.ready(); err != nil {
		return err
	}
	defer e.recovered("clear", &err)
	if err := e.db.DeleteRange([]byte{0}, []byte{0xFF, 0xFF}, pebble.NoSync); err != nil {
		return e.wrap("clear", err)
	}
	e.mu.Lock()
	e.pending = e.pending[:0]
	e.mu.Unlock()
	return e.Flush()
}

func (e *pebbleEngine) Flush() (err error) {
	if err := e.ready(); err != nil {
		return err
	}
	defer e.recovered("flush", &err)
	done, err := e.db.AsyncFlush()
	if err != nil {
		return e.wrap("flush", err)
	}
	select {
	case <-done:
		return e.ready()
	case <-e.failed:
		return e.failure.Load()
	}
}

// EstimateRows adds up what the tables say of themselves and what was applied since the last flush. A row that was
// overwritten counts until a compaction drops its old version.
func (e *pebbleEngine) EstimateRows(lower, upper []byte) (rows int64) {
	if e.ready() != nil {
		return 0
	}
	var err error
	defer e.recovered("read", &err)
	levels, err := e.db.SSTables(pebble.WithProperties(), pebble.WithKeyRangeFilter(lower, upper), pebble.WithApproximateSpanBytes())
	if err != nil {
		_ = e.wrap("read", err)
		return 0
	}
	for _, level := range levels {
		for i := range level {
			t := &level[i]
			if t.Properties == nil || t.Size == 0 {
				continue
			}
			// A delete stands for itself and for the row it hides.
			n := int64(t.Properties.NumEntries) - 2*int64(t.Properties.NumDeletions)
			rows += int64(float64(n) * min(1, float64(t.ApproximateSpanBytes)/float64(t.Size)))
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flushed()
	for _, p := range e.pending {
		if key := []byte{byte(p.prefix >> 8), byte(p.prefix)}; string(key) >= string(lower) && string(key) < string(upper) {
			rows += p.rows
		}
	}
	return max(0, rows)
}

func (e *pebbleEngine) Stats() EngineStats {
	e.stats.RLock()
	defer e.stats.RUnlock()
	if e.ready() != nil {
		return EngineStats{}
	}
	m := e.db.Metrics()
	return EngineStats{DiskBytes: int64(m.DiskSpaceUsage()), CacheHits: m.BlockCache.Hits, CacheMisses: m.BlockCache.Misses}
}

// Close flushes, unless the engine has failed, and closes. It answers with the engine's failure if there is one.
func (e *pebbleEngine) Close() (err error) {
	if e.closed {
		return nil
	}
	var flushErr error
	if !e.readOnly {
		flushErr = e.Flush()
	}
	e.stats.Lock()
	defer e.stats.Unlock()
	e.closed = true
	if e.broken.Load() {
		return e.failure.Load()
	}
	defer e.recovered("close", &err)
	closeErr := e.db.Close()
	unlockErr := e.guard.unlock()
	if f := e.failure.Load(); f != nil {
		return f // what Close itself says then is only what follows from it
	}
	if closeErr != nil {
		e.shared.leaked.Store(true)
	}
	if e.own {
		e.shared.Close()
	}
	if flushErr != nil {
		return flushErr
	}
	if err := errors.Join(closeErr, unlockErr); err != nil {
		return e.wrap("close", err)
	}
	return nil
}

// abandon closes a database that failed while it was opened.
func (e *pebbleEngine) abandon() {
	var err error
	defer e.recovered("close", &err)
	_ = e.db.Close() // the failure that is already known explains it
	_ = e.guard.unlock()
}
