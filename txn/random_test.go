package txn

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Connections break at random, with requests or with their answers, while epochs are committed: what was committed is in the
// output once. A seed that fails stays in the list.
func TestConnectionsBreakAtRandom(t *testing.T) {
	results := make(map[Result]int)
	for _, seed := range []uint64{1, 2, 3, 4} {
		b := newAny(t)
		w := new(wire)
		p := b.producer(quick, over(w), func(c *Config) {
			c.Client = append(c.Client, kgo.RequestRetries(1)) // give up soon, so that much is unknown
			c.Observer.Resolved = func(_ CommitID, r Result, _ time.Duration) { results[r]++ }
		})
		var mu sync.Mutex
		rng := rand.New(rand.NewPCG(seed, 0))
		breaks := func(k kmsg.Key) bool {
			mu.Lock()
			defer mu.Unlock()
			switch k {
			case kmsg.EndTxn:
				return rng.IntN(2) == 0
			case kmsg.Produce, kmsg.TxnOffsetCommit, kmsg.InitProducerID, kmsg.OffsetFetch:
				return rng.IntN(12) == 0
			}
			return rng.IntN(60) == 0
		}
		w.set(func(k kmsg.Key) bool { return !breaks(k) }, func(k kmsg.Key, _ []byte) bool { return !breaks(k) })
		aborted, lost := 0, 0
		for n := 1; n <= 25; n++ {
			a, l, _ := b.epochs(p, anybody(), n, n)
			aborted, lost = aborted+a, lost+l
		}
		w.set(nil, nil)
		b.wantEpochs(1, 25)
		t.Logf("seed %d: %d aborted, %d lost, resolved so far %v", seed, aborted, lost, results)
	}
	if results[Committed] == 0 || results[Aborted] == 0 {
		t.Errorf("resolved %v; the test is about both", results)
	}
}
