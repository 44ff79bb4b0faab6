package millrace_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace"
)

// TestStorm takes three instances through random faults under load: connections are cut, also at the instant of an EndTxn,
// so that its outcome is unknown; members leave and come back, also while that goes on. The seed is printed, and repeats
// the faults, not the interleaving.
func TestStorm(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c, addrs := fake(t, 6)

	// The next EndTxn loses the connections of everybody who is armed. It is applied all the same.
	var armed atomic.Pointer[gate]
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if g := armed.Swap(nil); g != nil {
			go g.sever(3)
		}
		return nil, nil, false
	})

	const members = 3
	var gates [members]*gate
	var apps [members]*running
	start := func(i int) {
		state := millrace.MemoryStores()
		if i == 0 {
			state = millrace.StateDir(t.TempDir())
		}
		gates[i] = newGate()
		apps[i] = launch(t, addrs, countWords(t), state, gates[i].option(), millrace.ClientOptions(kgo.RequestRetries(1)), millrace.CommitInterval(5*time.Millisecond))
	}
	for i := range members {
		start(i)
	}
	w := watch(t, addrs)
	cl := client(t, addrs, kgo.DefaultProduceTopic("words"))
	n := 0
	more := func(k int) {
		var batch []*kgo.Record
		for range k {
			batch = append(batch, &kgo.Record{Key: fmt.Appendf(nil, "k%d", n%97), Value: []byte("x")})
			n++
		}
		if err := cl.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	more(500)
	w.until(n, 30*time.Second)
	for round := range 40 {
		i := random.IntN(members)
		what := random.IntN(4)
		if starting(apps[i]) || starting(apps[(i+1)%members]) {
			what = -1 // an application that cannot start ends: that is for its supervisor
		}
		switch what {
		case 0:
			armed.Store(gates[i])
		case 1:
			gates[i].sever(random.Int64N(3))
		case 2:
			if err := apps[i].stop(t, 40*time.Second); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			start(i)
		case 3:
			armed.Store(gates[i])
			gates[(i+1)%members].sever(random.Int64N(3))
		}
		more(100 + random.IntN(200))
		if round%5 == 4 && !w.until(n, 60*time.Second) {
			return
		}
		if t.Failed() {
			return
		}
	}
	w.until(n, 60*time.Second)
	for _, a := range apps {
		if err := a.stop(t, 40*time.Second); err != nil {
			t.Error(err)
		}
	}
	w.exact(addrs, n)
}

func starting(r *running) bool {
	s := r.app.State()
	return s == "created" || s == "starting"
}
