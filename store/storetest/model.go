package storetest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// Machine is a place where an engine can live, and crash.
type Machine interface {
	// Open opens the engine with what the machine has kept.
	Open(t *testing.T) store.Engine
	// Crash ends the engine that was opened last as a crash of the process or of the machine would. The DB on top of
	// it is closed after this.
	Crash(t *testing.T)
}

var modelStore = store.KeyValue("rows", serde.Bytes(), serde.Bytes())

// Model runs steps random operations against a store.DB and a plain map: puts, deletes, gets, scans with writes in between,
// savepoints and rollbacks, seals, applies, discards, restores, rebuilds, flushes, ticks of a clock that goes fast, and crashes. After a crash the store must
// equal the replay of all that was applied up to its own checkpoint row, and no flushed epoch may be missing. The same
// seed makes the same run.
func Model(t *testing.T, machine Machine, seed uint64, steps int) Report {
	t.Helper()
	m := &model{rnd: rand.New(rand.NewPCG(seed, 1)), machine: machine, history: []snapshot{{rows: map[string]string{}}}}
	m.open(t)
	for range steps {
		m.step(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	m.compare(t)
	must(t, m.db.Close())
	return m.report
}

// Report is what happened in a run of Model, so that a test can tell whether it tried anything.
type Report struct {
	Crashes int
	Behind  int // crashes after which the store was behind what had been applied
}

// snapshot is the state that a checkpoint row stands for.
type snapshot struct {
	checkpoint string
	rows       map[string]string
}

type model struct {
	rnd     *rand.Rand
	machine Machine
	report  Report
	n       int
	clock   int64

	db     *store.DB
	rows   *store.Rows
	sealed []*store.Epoch

	history []snapshot          // applied and not known to be overtaken, oldest first; the last is what the engine must hold
	epochs  []map[string]string // the state after each sealed epoch
	now     map[string]string
	saved   map[string]string
}

func (m *model) committed() map[string]string { return m.history[len(m.history)-1].rows }

func text(value []byte, time int64) string { return fmt.Sprintf("%d:%s", time, value) }

func (m *model) open(t *testing.T) {
	t.Helper()
	cache := []int64{1, 4 << 10, 1 << 20}[m.rnd.IntN(3)]
	db, err := store.Open(m.machine.Open(t), []store.Binding{{Spec: modelStore, Prefix: 7}}, store.Options{CacheBytes: cache})
	must(t, err)
	m.db = db
	m.rows, err = db.Rows("rows")
	must(t, err)

	row, _, err := db.Checkpoint()
	must(t, err)
	at := slices.IndexFunc(m.history, func(s snapshot) bool { return s.checkpoint == string(row) })
	if at < 0 {
		t.Fatalf("the checkpoint after opening is %q: it was never applied, or is older than a flush", row)
	}
	m.history = m.history[:at+1]
	m.dropped()
	if m.rnd.IntN(2) == 0 {
		must(t, m.db.Warm())
	}
	m.compare(t)
}

// dropped is the state after every unapplied epoch is gone.
func (m *model) dropped() {
	m.sealed, m.epochs = nil, nil
	m.now = maps.Clone(m.committed())
	m.saved = maps.Clone(m.committed())
}

func (m *model) key() []byte {
	k := fmt.Sprint(m.rnd.IntN(150))
	if m.rnd.IntN(4) == 0 {
		k += "\x00\xff"
	}
	return []byte(k)
}

func (m *model) value() []byte {
	m.n++
	v := fmt.Appendf(nil, "v%d", m.n)
	if m.rnd.IntN(5) == 0 {
		v = append(v, bytes.Repeat([]byte{'x'}, m.rnd.IntN(400))...)
	}
	if m.rnd.IntN(100) == 0 {
		v = append(v, bytes.Repeat([]byte{'z'}, 1000+m.rnd.IntN(1000))...) // too long for the place a row has at first
	}
	if m.rnd.IntN(400) == 0 {
		v = append(v, bytes.Repeat([]byte{'y'}, 20_000)...)
	}
	return v
}

func (m *model) put(t *testing.T) {
	t.Helper()
	k, v := m.key(), m.value()
	must(t, m.rows.Put(k, v, int64(m.n)))
	m.now[string(k)] = text(v, int64(m.n))
}

func (m *model) delete(t *testing.T) {
	t.Helper()
	k := m.key()
	must(t, m.rows.Delete(k))
	delete(m.now, string(k))
}

func (m *model) step(t *testing.T) {
	t.Helper()
	switch op := m.rnd.IntN(1000); {
	case op < 350:
		m.put(t)
	case op < 500:
		m.delete(t)
	case op < 700:
		k := m.key()
		v, ts, ok, err := m.rows.Get(k)
		must(t, err)
		if want, there := m.now[string(k)]; ok != there || ok && text(v, ts) != want {
			t.Fatalf("get %q: %q %v, want %q %v", k, v, ok, want, there)
		}
	case op < 760:
		m.scan(t)
	case op < 870:
		m.db.Savepoint()
		m.saved = maps.Clone(m.now)
	case op < 900:
		m.db.Rollback()
		m.now = maps.Clone(m.saved)
	case op < 935:
		m.seal(t)
	case op < 971:
		m.apply(t)
	case op < 976:
		m.clock += m.rnd.Int64N(60_000)
		must(t, m.db.Tick(m.clock))
	case op < 980:
		m.db.Discard()
		m.dropped()
	case op < 984:
		must(t, m.db.Flush())
		m.history = m.history[len(m.history)-1:]
	case op < 986:
		must(t, m.db.Close())
		m.history = m.history[len(m.history)-1:] // closing flushes
		m.open(t)
	case op < 993:
		m.report.Crashes++
		last := len(m.history)
		m.machine.Crash(t)
		_ = m.db.Close() // the engine is gone already
		if m.open(t); len(m.history) < last {
			m.report.Behind++
		}
	case op < 996:
		m.restore(t)
	case op < 997:
		m.claim(t)
	case op < 998:
		must(t, m.db.Clear())
		m.history = []snapshot{{rows: map[string]string{}}} // durable when it returns
		m.dropped()
	default:
		must(t, m.db.Warm())
		m.compare(t)
	}
}

func (m *model) seal(t *testing.T) {
	t.Helper()
	dirty := m.db.Dirty()
	e := m.db.Seal()
	if dirty != (e.Len() > 0) {
		t.Fatalf("dirty %v, epoch of %d rows", dirty, e.Len())
	}
	m.changelog(t, e)
	m.sealed = append(m.sealed, e)
	m.epochs = append(m.epochs, maps.Clone(m.now))
	m.saved = maps.Clone(m.now)
}

// changelog checks that the epoch's rows take the state before it to the state after it.
func (m *model) changelog(t *testing.T, e *store.Epoch) {
	t.Helper()
	state := m.committed()
	if n := len(m.epochs); n > 0 {
		state = m.epochs[n-1]
	}
	state = maps.Clone(state)
	seen := map[string]bool{}
	must(t, e.Each(func(name string, key, value []byte) error {
		if name != "rows" || seen[string(key)] {
			t.Fatalf("row %q of %s, seen before: %v", key, name, seen[string(key)])
		}
		seen[string(key)] = true
		if value == nil {
			delete(state, string(key))
			return nil
		}
		v, ts, err := store.ParseRow(value)
		state[string(key)] = text(v, ts)
		return err
	}))
	if len(seen) != e.Len() {
		t.Fatalf("%d rows in an epoch of %d", len(seen), e.Len())
	}
	if !maps.Equal(state, m.now) {
		t.Fatalf("the epoch leads to %v, want %v", state, m.now)
	}
}

func (m *model) apply(t *testing.T) {
	t.Helper()
	if len(m.sealed) == 0 {
		return
	}
	m.n++
	cp := fmt.Sprintf("checkpoint %d", m.n)
	must(t, m.db.Apply(m.sealed[0], []byte(cp)))
	m.history = append(m.history, snapshot{cp, m.epochs[0]})
	m.sealed, m.epochs = m.sealed[1:], m.epochs[1:]
	if len(m.sealed) == 0 && !m.db.Dirty() && m.db.OverlayBytes() != 0 {
		t.Fatalf("nothing is uncommitted, yet the overlay holds %d bytes", m.db.OverlayBytes())
	}
}

func (m *model) restore(t *testing.T) {
	t.Helper()
	m.db.Discard()
	m.dropped()
	var rows []store.Mutation
	for range m.rnd.IntN(50) {
		k := m.key()
		if m.rnd.IntN(4) == 0 {
			rows = append(rows, store.Mutation{Key: k, Delete: true})
			delete(m.now, string(k))
			continue
		}
		v := m.value()
		rows = append(rows, store.Mutation{Key: k, Value: store.AppendRow(nil, v, int64(m.n))})
		m.now[string(k)] = text(v, int64(m.n))
	}
	m.n++
	cp := fmt.Sprintf("restored %d", m.n)
	must(t, m.db.Restore("rows", rows, []byte(cp)))
	m.history = append(m.history, snapshot{cp, maps.Clone(m.now)})
	m.saved = maps.Clone(m.now)
}

// claim replaces the checkpoint by another one that says the same.
func (m *model) claim(t *testing.T) {
	t.Helper()
	m.n++
	cp := fmt.Sprintf("checkpoint %d again", m.n)
	must(t, m.db.SetCheckpoint([]byte(cp)))
	m.history = append(m.history, snapshot{cp, m.committed()})
}

type pair struct {
	key, row string
}

func selection(state map[string]string, lower, upper []byte, reverse bool) (rows []pair) {
	for _, k := range slices.Sorted(maps.Keys(state)) {
		if k >= string(lower) && (upper == nil || k < string(upper)) {
			rows = append(rows, pair{key: k, row: state[k]})
		}
	}
	if reverse {
		slices.Reverse(rows)
	}
	return rows
}

func (m *model) scan(t *testing.T) {
	t.Helper()
	var lower, upper []byte
	if m.rnd.IntN(3) > 0 {
		lower = m.key()
	}
	if m.rnd.IntN(3) > 0 {
		upper = m.key()
	}
	reverse := m.rnd.IntN(2) == 0
	what := fmt.Sprintf("scan [%q,%q) reverse=%v", lower, upper, reverse)
	want := selection(m.now, lower, upper, reverse)
	stop := -1
	if m.rnd.IntN(4) == 0 {
		stop = m.rnd.IntN(20)
	}
	s := m.rows.Scan(lower, upper, reverse)
	i := 0
	for ; i != stop && s.Next(); i++ {
		if i >= len(want) {
			t.Fatalf("%s: row %d is %q, want the end", what, i, s.Key())
		}
		if row := text(s.Value(), s.Time()); string(s.Key()) != want[i].key || row != want[i].row {
			t.Fatalf("%s: row %d is %q %q, want %q %q", what, i, s.Key(), row, want[i].key, want[i].row)
		}
		for range m.rnd.IntN(3) { // whatever is written now must not be seen by this scan
			if m.rnd.IntN(2) == 0 {
				m.put(t)
			} else {
				m.delete(t)
			}
		}
	}
	must(t, s.Close())
	if i != stop && i != len(want) {
		t.Fatalf("%s: %d rows, want %d", what, i, len(want))
	}
}

// compare checks the whole store, and beneath it the checkpoint.
func (m *model) compare(t *testing.T) {
	t.Helper()
	got := map[string]string{}
	s := m.rows.Scan(nil, nil, false)
	for s.Next() {
		got[string(s.Key())] = text(s.Value(), s.Time())
	}
	must(t, s.Close())
	if !maps.Equal(got, m.now) {
		t.Fatalf("the store holds %v, want %v", got, m.now)
	}
	cp, ok, err := m.db.Checkpoint()
	must(t, err)
	if want := m.history[len(m.history)-1].checkpoint; string(cp) != want || ok != (want != "") {
		t.Fatalf("checkpoint %q %v, want %q", cp, ok, want)
	}
}
