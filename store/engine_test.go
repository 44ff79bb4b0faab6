package store_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/store/storetest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// small makes flushes and compactions happen all the time.
var small = store.PebbleOptions{Log: quiet, MemTableBytes: 64 << 10, BlockCacheBytes: 256 << 10}

func TestMemoryEngine(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Engine { return store.NewMemory() })
}

func TestPebbleEngine(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Engine {
		e, err := store.OpenPebble(t.TempDir(), store.PebbleOptions{Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}

// TestPebbleEngineSmall is the suite where every few rows cause a flush.
func TestPebbleEngineSmall(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Engine {
		e, err := store.OpenPebbleOn(vfs.NewMem(), "db", small)
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}

// memoryMachine is a memory engine that outlives its DB: its crash loses what was not applied, and nothing else.
type memoryMachine struct{ store.Engine }

func (m *memoryMachine) Open(*testing.T) store.Engine { return keep{m.Engine} }
func (m *memoryMachine) Crash(*testing.T)             {}

type keep struct{ store.Engine }

func (keep) Close() error { return nil }

func TestModelMemory(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			storetest.Model(t, &memoryMachine{store.NewMemory()}, seed, 3000)
		})
	}
}

// lateMachine is an engine whose write-backs take their time.
type lateMachine struct{ now, next *store.Late }

func (m *lateMachine) Open(*testing.T) store.Engine {
	if m.next != nil {
		m.now, m.next = m.next, nil
	}
	return m.now
}

func (m *lateMachine) Crash(*testing.T) { m.next = m.now.Crash() }

// TestModelWriteBack lets write-backs be under way while anything else happens.
func TestModelWriteBack(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 12
	}
	var sum storetest.Report
	background := 0
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := &lateMachine{now: store.NewLate(rand.New(rand.NewPCG(seed, 3)))}
			r := storetest.Model(t, m, seed, 5000)
			sum.Crashes += r.Crashes
			sum.Behind += r.Behind
			background += m.now.Background
		})
	}
	t.Logf("%d crashes, %d of them lost epochs, %d write-backs", sum.Crashes, sum.Behind, background)
	if sum.Behind < int(seeds) || sum.Behind == sum.Crashes || background < 10*int(seeds) {
		t.Errorf("%d of %d crashes lost epochs, %d write-backs: the test does not try it all", sum.Behind, sum.Crashes, background)
	}
}

// crashMachine is a file system that loses, at a crash, any part of what was not yet synced.
type crashMachine struct {
	fs   *vfs.MemFS
	next *vfs.MemFS
	rnd  *rand.Rand
}

func (m *crashMachine) Open(t *testing.T) store.Engine {
	if m.next != nil {
		m.fs, m.next = m.next, nil
	}
	e, err := store.OpenPebbleOn(m.fs, "db", small)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (m *crashMachine) Crash(*testing.T) {
	m.next = m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[m.rnd.IntN(3)], RNG: m.rnd})
}

// TestModelPebbleCrashes crashes a Pebble store more than a thousand times: each time it must be the replay up to its own
// checkpoint row.
func TestModelPebbleCrashes(t *testing.T) {
	want := 1000
	if testing.Short() {
		want = 100
	}
	var sum storetest.Report
	for seed := uint64(0); sum.Crashes < want; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			r := storetest.Model(t, &crashMachine{fs: vfs.NewCrashableMem(), rnd: rnd}, seed, 5000)
			sum.Crashes += r.Crashes
			sum.Behind += r.Behind
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d crashes, %d of them lost epochs", sum.Crashes, sum.Behind)
	if sum.Behind < want/10 || sum.Behind == sum.Crashes {
		t.Errorf("%d of %d crashes lost epochs: the test does not try both outcomes", sum.Behind, sum.Crashes)
	}
}
