package millrace_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/observe"
)

// commitLog notes what an instance commits.
type commitLog struct {
	mu   sync.Mutex
	all  []observe.Commit
	ends []time.Time
}

func (c *commitLog) option() millrace.Option {
	return millrace.Observe(observe.Hooks{Commit: func(e observe.Commit) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all, c.ends = append(c.all, e), append(c.ends, time.Now())
	}})
}

func TestCommitRecords(t *testing.T) {
	for _, pipelining := range []bool{true, false} {
		t.Run(fmt.Sprint("pipelining ", pipelining), func(t *testing.T) {
			addrs := broker(t, 2)
			produceWords(t, addrs, 700, 10)
			var c commitLog
			stop := instance(t, addrs, millrace.MemoryStores(), millrace.CommitInterval(100*time.Second), millrace.TransactionTimeout(300*time.Second), millrace.Workers(1), millrace.CommitRecords(7),
				millrace.Pipelining(pipelining), c.option())
			readTotals(t, addrs, 700) // none of them by the interval
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			full := 0
			for _, e := range c.all {
				if e.Records > 7 {
					t.Fatalf("an epoch of %d records", e.Records)
				}
				if e.Reason == "records" {
					full++
				}
			}
			if full != 100 {
				t.Errorf("%d epochs ended because they were full, want 100", full)
			}
		})
	}
}

func TestCommitBytes(t *testing.T) {
	addrs := broker(t, 2)
	produceWords(t, addrs, 20_000, 20_000)
	var c commitLog
	stop := instance(t, addrs, millrace.MemoryStores(), millrace.CommitInterval(100*time.Second), millrace.TransactionTimeout(300*time.Second), millrace.Workers(1), millrace.CommitBytes(64<<10), c.option())
	readTotals(t, addrs, 15_000) // the rest waits for the interval, or for more
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, e := range c.all {
		// A row and an output need more than 20 bytes each; a worker looks up every 1000 records of a task.
		if e.Records > 64<<10/20+2*1000 {
			t.Errorf("an epoch of %d records", e.Records)
		}
	}
}

func TestMinCommitPause(t *testing.T) {
	addrs := broker(t, 2)
	const pause = 200 * time.Millisecond
	var c commitLog
	stop := instance(t, addrs, millrace.MemoryStores(), millrace.CommitInterval(time.Millisecond), millrace.Workers(1), millrace.MinCommitPause(pause), c.option())
	for i := range 6 {
		produceWords(t, addrs, 10, 10)
		readTotals(t, addrs, 10*(i+1))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	by, between := 0, time.Duration(0)
	for i, e := range c.all {
		if i > 0 && e.Reason == "interval" {
			by++
			between += c.ends[i].Add(-e.Took).Sub(c.ends[i-1])
		}
	}
	// An end is noted a little after it was, which adds to one pause what it takes from the other. Of one the whole is allowed for.
	if by < 4 || between < time.Duration(by-1)*pause {
		t.Errorf("%d commits for the interval, and %s between them", by, between)
	}
}

// refusing answers so many commits of offsets with an error that aborts the epoch; fewer than 0, all of them.
func refusing(c *kfake.Cluster, n int) {
	c.ControlKey(int16(kmsg.TxnOffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if n == 0 {
			return nil, nil, false
		}
		n--
		c.KeepControl()
		return refuse(kerr.InvalidCommitOffsetSize)(r), nil, true
	})
}

func TestMaxConsecutiveAborts(t *testing.T) {
	var mu sync.Mutex
	aborts := 0
	count := millrace.Observe(observe.Hooks{Abort: func(observe.Abort) { mu.Lock(); aborts++; mu.Unlock() }})

	t.Run("too many", func(t *testing.T) {
		c, addrs := fake(t, 2)
		refusing(c, -1)
		produceWords(t, addrs, 10, 10)
		r := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.MaxConsecutiveAborts(3), count)
		select {
		case <-r.done:
		case <-time.After(40 * time.Second):
			t.Fatal("it did not end")
		}
		if !errors.Is(r.err, &millrace.Error{Code: "txn/too-many-aborts"}) || millrace.ExitCode(r.err) != 4 ||
			!errors.Is(r.err, kerr.InvalidCommitOffsetSize) || !strings.Contains(r.err.Error(), "3 epochs in a row") {
			t.Fatalf("Run returned %v", r.err)
		}
		if aborts < 3 || aborts > 4 { // one more, of the epoch that was behind the last
			t.Errorf("%d aborts", aborts)
		}
	})
	t.Run("not in a row", func(t *testing.T) {
		c, addrs := fake(t, 2)
		w := watch(t, addrs)
		r := launch(t, addrs, countWords(t), millrace.MemoryStores(), millrace.MaxConsecutiveAborts(3))
		for i := range 3 {
			refusing(c, 2)
			produceWords(t, addrs, 10, 10)
			if !w.until(10*(i+1), 30*time.Second) {
				break
			}
		}
		r.cancel()
		<-r.done
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.exact(addrs, 30)
	})
	t.Run("for ever", func(t *testing.T) {
		c, addrs := fake(t, 2)
		w := watch(t, addrs)
		refusing(c, 4)
		produceWords(t, addrs, 10, 10)
		r := launch(t, addrs, countWords(t), millrace.MemoryStores())
		w.until(10, 40*time.Second)
		r.cancel()
		<-r.done
		if r.err != nil {
			t.Fatal(r.err)
		}
	})
}
