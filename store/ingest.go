package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sync"
)

// Bulk restores many rows into a DB: it gathers them in bounded memory, the last value of each key only, sorts them, and
// hands them to the engine as whole tables, a run at a time. A later run hides what an earlier one said of the same keys.
//
//	Add, Add, ... -> gathered      Ingest(checkpoint) -> rows durable, then the checkpoint, then durable too
//
// Rows and checkpoint do not become durable together, as they do in DB.Restore: the rows come first, always. A crash in
// between leaves rows that the checkpoint does not claim; they are read and written once more, and since rows are
// absolute values that changes nothing. The checkpoint never claims rows that are not there.
//
// It is used by one goroutine, like the DB, and while it has rows nothing else writes to the DB.
type Bulk struct {
	db     *DB
	engine bulkEngine
	pool   *bulkPool
	tables []bulkTable // by prefix: our local rows, then those of DB.stores
	chunks [][]byte    // rows: key with prefix, then value
	full   int         // chunks before this one have no room
	held   int64       // of the pool
	used   int64       // bytes of chunks, rows and indexes
	hashes []uint64    // of a batch
	closed bool
}

// bulkEngine is an Engine that takes sorted rows as whole tables.
type bulkEngine interface {
	Engine
	// Ingest takes the rows that the function puts, in ascending order and each key once. They are visible when it
	// returns, and durable, all at once, before anything that is applied later is. Key and value are not kept.
	Ingest(rows func(put func(key, value []byte, tombstone bool) error) error) error
	// ingestEnd says that no more Ingest is to come for now.
	ingestEnd()
	pool() *bulkPool
}

// bulkTable are the gathered rows of one store.
type bulkTable struct {
	store *Rows
	rows  []bulkRow
	index []uint64 // hash in the upper half, number of the row and one in the lower; its length is a power of two
	fresh bool     // the engine has no row of the store: a tombstone has nothing to hide
}

// bulkRow says where a row is. It holds no pointer, so that the collector has nothing to follow.
type bulkRow struct {
	lead   uint64 // what the row is sorted by first; set when it is
	chunk  uint32
	offset uint32
	key    uint32 // bytes
	value  uint32 // bytes, or tombstone
	room   uint32 // bytes that may be written over
}

const (
	bulkTombstone  = math.MaxUint32
	bulkChunk      = 256 << 10
	bulkRowBytes   = 32
	bulkIndexSlots = 1 << 12
	bulkLeast      = 2 << 20 // what every Bulk may hold
)

// Bulk begins a bulk restore. It is nil where the engine does not take tables, or where so many are under way that there is no
// memory for another: DB.Restore does the same in small batches.
func (db *DB) Bulk() (*Bulk, error) {
	if db.closed {
		return nil, errClosed()
	}
	if err := db.writeAll(false); err != nil { // what is committed comes before
		return nil, err
	}
	engine, ok := db.engine.(bulkEngine)
	if !ok || !engine.pool().join() {
		return nil, nil
	}
	b := &Bulk{db: db, engine: engine, pool: engine.pool(), held: bulkLeast, tables: make([]bulkTable, 1+len(db.stores))}
	b.tables[0].store = db.local
	for i, r := range db.stores {
		t := &b.tables[1+i]
		t.store = r
		empty, err := db.storeEmpty(r)
		if err != nil {
			b.Close()
			return nil, err
		}
		t.fresh = empty
	}
	return b, nil
}

// storeEmpty reports whether the engine has no row of a store.
func (db *DB) storeEmpty(r *Rows) (bool, error) {
	it, err := db.engine.Iter(r.prefix[:], r.end(), false)
	if err != nil {
		return false, err
	}
	empty := !it.Next()
	return empty, it.Close()
}

// ClearStore deletes the rows of one store, for a restore that begins at its changelog's start: a row whose tombstone
// has left the changelog would stay for ever. It costs nothing where there are none. Durable with the next Flush.
func (db *DB) ClearStore(store string) error {
	if db.closed {
		return errClosed()
	}
	r, err := db.Rows(store)
	if err != nil {
		return err
	}
	if err := db.writeAll(false); err != nil { // it is the engine's rows that are looked at
		return err
	}
	const rowsAtOnce = 5000
	for {
		it, err := db.engine.Iter(r.prefix[:], r.end(), false)
		if err != nil {
			return err
		}
		rows, arena := make([]Mutation, 0, 16), []byte(nil)
		for len(rows) < rowsAtOnce && it.Next() {
			at := len(arena)
			arena = append(arena, it.Key()[len(r.prefix):]...)
			rows = append(rows, Mutation{Key: arena[at:len(arena):len(arena)], Delete: true})
		}
		if err := it.Close(); err != nil {
			return err
		}
		if len(rows) == 0 {
			if r.life != nil {
				r.life.emptied()
			}
			return db.clearLocal(r, localDead, localDue, localIndex)
		}
		if err := db.Restore(store, rows, nil); err != nil {
			return err
		}
	}
}

// Room reports whether rows can be added without going beyond the share of memory. When there is none, Ingest makes it.
// With nothing gathered there is always room.
func (b *Bulk) Room(rows []Mutation) bool {
	if b.empty() {
		return true
	}
	need := int64(bulkChunk) // the rest of a chunk that a row did not fit into
	for i := range rows {
		need += int64(len(rows[i].Key) + len(rows[i].Value) + 2 + bulkRowBytes + 2*16)
		if len(b.db.lives) > 0 || b.db.owes { // a local row with each
			need += int64(len(rows[i].Key) + localKeyBytes + dueBytes + rowHeaderBytes + bulkRowBytes + 2*16)
		}
	}
	return b.reserve(b.used + need)
}

func (b *Bulk) empty() bool {
	for i := range b.tables {
		if len(b.tables[i].rows) > 0 {
			return false
		}
	}
	return true
}

// reserve sees to it that the pool has given out n bytes to b.
func (b *Bulk) reserve(n int64) bool {
	if n <= b.held {
		return true
	}
	more := (n - b.held + bulkChunk - 1) / bulkChunk * bulkChunk
	if !b.pool.take(b.held, more) {
		return false
	}
	b.held += more
	return true
}

// Add gathers changelog rows of one store, as DB.Restore takes them. The slices are not kept. A row that is not in the form of
// a row is an error, and none of the rows counts then.
func (b *Bulk) Add(store string, rows []Mutation) error {
	if b.closed || b.db.closed {
		return errClosed()
	}
	r, err := b.db.Rows(store)
	if err != nil {
		return err
	}
	t := &b.tables[1+slices.Index(b.db.stores, r)]
	b.hashes = b.hashes[:0]
	for i := range rows {
		m := &rows[i]
		if len(m.Key) > KeyBytesMax {
			return tooLong("store/key-too-long", "key of store "+store, len(m.Key), KeyBytesMax)
		}
		if !m.Delete {
			if _, _, err := ParseRow(m.Value); err != nil {
				return fmt.Errorf("restore store %s: %w", store, err)
			}
		}
		b.hashes = append(b.hashes, maphash.Bytes(bulkSeed, m.Key))
	}
	for i := range rows {
		m := rows[i]
		b.db.restoreRow(r, &m, b.putLocal)
		b.put(t, &m, b.hashes[i])
	}
	return nil
}

// putLocal gathers a row of ours.
func (b *Bulk) putLocal(key, value []byte, gone bool) {
	key = key[len(b.db.local.prefix):]
	b.put(&b.tables[0], &Mutation{Key: key, Value: value, Delete: gone}, maphash.Bytes(bulkSeed, key))
}

var bulkSeed = maphash.MakeSeed()

func (b *Bulk) put(t *bulkTable, m *Mutation, hash uint64) {
	if len(t.rows) >= len(t.index)/4*3 {
		b.grow(t)
	}
	mask := uint64(len(t.index) - 1)
	at := hash & mask
	for ; t.index[at] != 0; at = (at + 1) & mask {
		if uint32(t.index[at]>>32) != uint32(hash>>32) {
			continue
		}
		row := &t.rows[uint32(t.index[at])-1]
		if bytes.Equal(b.key(row)[2:], m.Key) {
			b.overwrite(t, row, m)
			return
		}
	}
	t.rows = append(t.rows, bulkRow{key: uint32(len(m.Key) + 2)})
	b.used += bulkRowBytes
	t.index[at] = hash>>32<<32 | uint64(len(t.rows))
	b.place(t, &t.rows[len(t.rows)-1], m)
}

func (b *Bulk) key(row *bulkRow) []byte {
	return b.chunks[row.chunk][row.offset : row.offset+row.key]
}

func (b *Bulk) overwrite(t *bulkTable, row *bulkRow, m *Mutation) {
	switch {
	case m.Delete:
		row.value = bulkTombstone
	case len(m.Value) <= int(row.room):
		row.value = uint32(len(m.Value))
		copy(b.chunks[row.chunk][row.offset+row.key:], m.Value)
	default:
		b.place(t, row, m)
	}
}

// place finds memory for a row and writes it there.
func (b *Bulk) place(t *bulkTable, row *bulkRow, m *Mutation) {
	n := len(m.Key) + 2 + len(m.Value)
	if b.full == len(b.chunks) || len(b.chunks[b.full])+n > cap(b.chunks[b.full]) {
		if b.full < len(b.chunks) {
			b.full++
		}
		if b.full == len(b.chunks) || cap(b.chunks[b.full]) < n {
			// One that is too small for this row is left behind the new one, for later rows.
			b.chunks = slices.Insert(b.chunks, b.full, make([]byte, 0, max(bulkChunk, n)))
		}
		b.used += int64(cap(b.chunks[b.full]))
	}
	c := b.chunks[b.full]
	row.chunk, row.offset = uint32(b.full), uint32(len(c))
	c = append(append(append(c, t.store.prefix[0], t.store.prefix[1]), m.Key...), m.Value...)
	b.chunks[b.full] = c
	row.value, row.room = uint32(len(m.Value)), uint32(len(m.Value))
	if m.Delete {
		row.value = bulkTombstone
	}
}

// grow doubles the index of a table.
func (b *Bulk) grow(t *bulkTable) {
	old := t.index
	t.index = make([]uint64, max(bulkIndexSlots, 2*len(old)))
	b.used += int64(8 * (len(t.index) - len(old)))
	mask := uint64(len(t.index) - 1)
	for i := range t.rows {
		hash := maphash.Bytes(bulkSeed, b.key(&t.rows[i])[2:])
		at := hash & mask
		for t.index[at] != 0 {
			at = (at + 1) & mask
		}
		t.index[at] = hash>>32<<32 | uint64(i+1)
	}
}

// Ingest writes what was gathered, then the checkpoint row, and makes both durable. The memory of the rows is used again.
// When it fails the engine has failed and the DB must be closed.
func (b *Bulk) Ingest(checkpoint []byte) error {
	if b.closed || b.db.closed {
		return errClosed()
	}
	for i := range b.tables {
		t := &b.tables[i]
		if len(t.rows) == 0 {
			continue
		}
		b.sort(t)
		if t.store == b.db.local {
			continue
		}
		// What the DB believes of the engine's rows ends here, as with every restored batch.
		if err := b.db.Restore(t.store.name, nil, nil); err != nil {
			return err
		}
	}
	if err := b.engine.Ingest(b.write); err != nil {
		return err
	}
	b.reset()
	if checkpoint == nil {
		return nil
	}
	if err := b.db.Restore(b.tables[1].store.name, nil, checkpoint); err != nil {
		return err
	}
	return b.db.Flush()
}

func (b *Bulk) write(put func(key, value []byte, tombstone bool) error) error {
	for i := range b.tables {
		t := &b.tables[i]
		for j := range t.rows {
			row := &t.rows[j]
			key := b.key(row)
			var err error
			switch {
			case row.value != bulkTombstone:
				err = put(key, b.chunks[row.chunk][row.offset+row.key:][:row.value], false)
			case !t.fresh:
				err = put(key, nil, true)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sort brings rows into the order of their keys. They are compared by the eight bytes after what all keys begin with,
// which the rows hold themselves; the keys, each somewhere else in memory, are looked at only where those are the same.
func (b *Bulk) sort(t *bulkTable) {
	first := b.key(&t.rows[0])
	common := len(first)
	for i := range t.rows {
		key := b.key(&t.rows[i])
		common = min(common, len(key))
		for n := range common {
			if key[n] != first[n] {
				common = n
				break
			}
		}
	}
	for i := range t.rows {
		t.rows[i].lead = bulkLead(b.key(&t.rows[i])[common:])
	}
	slices.SortFunc(t.rows, func(x, y bulkRow) int {
		if x.lead != y.lead {
			return cmp.Compare(x.lead, y.lead)
		}
		return bytes.Compare(b.key(&x)[common:], b.key(&y)[common:])
	})
}

// bulkLead is the first eight bytes of a key as a number in the same order; shorter keys are filled up with zeros.
func bulkLead(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var buf [8]byte
	copy(buf[:], key)
	return binary.BigEndian.Uint64(buf[:])
}

// reset forgets the rows, which the engine has, and keeps the memory, or what is its share of it by now.
func (b *Bulk) reset() {
	for i := range b.tables {
		t := &b.tables[i]
		if len(t.rows) > 0 {
			t.fresh = false
		}
	}
	if n := b.pool.excess(b.held); n > 0 {
		b.held -= n
		b.chunks = nil
		for i := range b.tables {
			b.tables[i].rows, b.tables[i].index = nil, nil
		}
	}
	b.drop()
}

// drop forgets the rows.
func (b *Bulk) drop() {
	b.chunks = slices.DeleteFunc(b.chunks, func(c []byte) bool { return cap(c) > bulkChunk })
	for i := range b.chunks {
		b.chunks[i] = b.chunks[i][:0]
	}
	b.full, b.used = 0, 0
	if len(b.chunks) > 0 {
		b.used = bulkChunk
	}
	for i := range b.tables {
		t := &b.tables[i]
		clear(t.index)
		t.rows = t.rows[:0]
		b.used += int64(8 * len(t.index))
	}
}

// Discard forgets what was gathered and what was known of the engine: call it when the DB was cleared.
func (b *Bulk) Discard() {
	b.drop()
	for i := range b.tables {
		b.tables[i].fresh = true
	}
}

// Close gives the memory back. What was not ingested is forgotten. Closing twice is harmless.
func (b *Bulk) Close() {
	if b.closed {
		return
	}
	b.closed = true
	b.engine.ingestEnd()
	b.pool.leave(b.held)
	b.chunks, b.tables, b.held = nil, nil, 0
}

// bulkPool is the memory that the bulk restores of a process share. Any goroutine may use it.
type bulkPool struct {
	mu     sync.Mutex
	limit  int64
	used   int64
	active int
}

// join takes what a new Bulk begins with, or says that there is not that much.
func (p *bulkPool) join() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active > 0 && p.used+bulkLeast > p.limit {
		return false
	}
	p.active++
	p.used += bulkLeast
	return true
}

// take gives more to one that holds some already, up to an even share.
func (p *bulkPool) take(held, more int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used+more > p.limit || held+more > p.share() {
		return false
	}
	p.used += more
	return true
}

// excess takes back what one holds beyond its share and returns how much that was.
func (p *bulkPool) excess(held int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := max(0, held-p.share())
	p.used -= n
	return n
}

func (p *bulkPool) share() int64 { return max(bulkLeast, p.limit/int64(p.active)) }

func (p *bulkPool) leave(held int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.used -= held
}
