package store

import "fmt"

// Rows is one store of one task, untyped: ordered bytes with the overlay merged in. Typed handles (KV) wrap it.
type Rows struct {
	db      *DB
	spec    Spec
	name    string
	prefix  [2]byte
	version uint16 // of the values that are put
	flags   uint8  // of the rows that are put
	life    *life  // nil without a time to live
	added   int64  // rows the overlay adds to those of the engine, as far as it knows
	base    int64  // rows the engine said it had, -1 if it has to be asked
	moved   int64  // rows added to the engine since, as far as is known
	blind   int64  // rows written to the engine since of which it is not known whether they were new
	kept    any    // Keep
	gens    gens   // of collections
}

// Name is the store's name.
func (r *Rows) Name() string { return r.name }

// Keep returns what make made for this store of this task: once, at the first call. It is where a package that gives rows
// their meaning keeps what all handles of a store share.
func (r *Rows) Keep(make func() any) any {
	if r.kept == nil {
		r.kept = make()
	}
	return r.kept
}

// Spec is the store's declaration.
func (r *Rows) Spec() Spec { return r.spec }

// settings takes what a store's declaration says of its rows.
func (r *Rows) settings(spec Spec) error {
	forms := Forms(spec)
	if r.version = forms[len(forms)-1].Version; r.version > 1 {
		r.flags |= rowFlagVersion
	}
	p := spec.settings().ttl
	if err := p.Validate(); err != nil {
		return fmt.Errorf("store %s: %w", r.name, err)
	}
	if p.Enabled() {
		r.life = newLife(r, p)
	}
	return nil
}

func (r *Rows) number() uint16 { return uint16(r.prefix[0])<<8 | uint16(r.prefix[1]) }

// full returns the key with the store's prefix, in memory that the next call overwrites.
func (r *Rows) full(key []byte) []byte {
	r.db.key = append(append(r.db.key[:0], r.prefix[0], r.prefix[1]), key...)
	return r.db.key
}

// Get returns the value (without header) and event time of the row; ok is false when there is none. The value is valid until
// the next call on any Rows of this task.
func (r *Rows) Get(key []byte) (value []byte, time int64, ok bool, err error) {
	return r.get(r.full(key))
}

func (r *Rows) get(full []byte) (value []byte, time int64, ok bool, err error) {
	row, ok, err := r.db.read(full)
	if !ok || err != nil {
		return nil, 0, false, err
	}
	if r.life != nil {
		value, h, ok, err := r.life.read(full, row)
		return value, h.Time, ok, err
	}
	value, time, err = ParseRow(row)
	return value, time, err == nil, err
}

// getRow is get with all that the row's header says.
func (r *Rows) getRow(full []byte) (value []byte, h RowHeader, ok bool, err error) {
	row, ok, err := r.db.read(full)
	if !ok || err != nil {
		return nil, h, false, err
	}
	if r.life != nil {
		return r.life.read(full, row)
	}
	value, h, err = ParseRowHeader(row)
	return value, h, err == nil, err
}

// Put writes a row with its event time (milliseconds). Key and value are copied; value may be one that Get returned. A key
// above KeyBytesMax or a value above ValueBytesMax is an error.
func (r *Rows) Put(key, value []byte, time int64) error { return r.put(r.full(key), value, time) }

func (r *Rows) put(full, value []byte, time int64) error {
	if err := r.check(len(full)-2, len(value)); err != nil {
		return err
	}
	h := RowHeader{Time: time, Version: r.version, flags: r.flags}
	if r.life != nil {
		return r.life.put(full, value, &h)
	}
	r.db.write(r, full, value, &h)
	return nil
}

// putPermanent is put of a row of ours, which no time to live ends, and whose value has no version of the user's.
func (r *Rows) putPermanent(full, value []byte, time int64) error {
	if err := r.check(len(full)-2, len(value)); err != nil {
		return err
	}
	h := RowHeader{Time: time, flags: rowFlagPermanent}
	r.db.write(r, full, value, &h)
	return nil
}

// Delete removes a row; removing an absent row is not an error and leaves no trace in the changelog. To know whether the
// row is absent the engine is asked when the row is not in memory.
func (r *Rows) Delete(key []byte) error { return r.drop(r.full(key)) }

func (r *Rows) drop(full []byte) error {
	if err := r.check(len(full)-2, 0); err != nil {
		return err
	}
	_, ok, err := r.db.read(full)
	if err != nil || !ok {
		return err
	}
	r.db.write(r, full, nil, nil)
	return nil
}

// ApproximateLen estimates the number of rows, dead ones that are not yet removed among them: what the engine estimated once,
// and what is known to have come and gone since. For a store that began empty and was read before it was written (as
// KV.PutIfAbsent, KV.Delete and any read-modify-write do) it is exact. Of rows written blindly it is not known whether they
// were new; when many of them have gathered the engine is asked again, and with Pebble that may count rows twice that were
// overwritten since the last compaction.
func (r *Rows) ApproximateLen() int64 {
	if r.db.closed {
		return 0
	}
	if r.base < 0 || r.blind > 1000+r.base/4 {
		r.ask()
	}
	return max(0, r.base+r.moved+r.added)
}

// ask has the engine estimate the number of rows it has now.
func (r *Rows) ask() {
	if len(r.db.scans) == 0 {
		_ = r.db.writeAll(false) // an estimate without the last rows is one too; the error is told by Apply
	}
	r.recounted(r.db.engine.EstimateRows(r.prefix[:], r.end()))
}

// recounted begins the count of the engine's rows anew; -1 is not known.
func (r *Rows) recounted(base int64) {
	r.base, r.moved, r.blind = base, 0, 0
	r.gens.state, r.gens.clean, r.gens.looked = gensUnknown, false, 0
}

// end is the first key after the store's.
func (r *Rows) end() []byte {
	n := r.number() + 1 // never the last one: Open refuses it
	return []byte{byte(n >> 8), byte(n)}
}
