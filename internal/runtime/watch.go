package runtime

import (
	"bytes"
	"context"
	"fmt"
	goruntime "runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/observe"
)

// beat is what a worker tells the watchdog, without a lock: which task it is stepping since when, and how old its epoch is.
type beat struct {
	goroutine atomic.Int64
	stepping  atomic.Pointer[taskRun]
	since     atomic.Int64 // unix nanoseconds the running Step began, 0 when none
	epoch     atomic.Int64 // unix nanoseconds the epoch began, 0 when none
	reported  atomic.Int64 // value of since that was reported already
}

func (b *beat) register()              { b.goroutine.Store(goroutineID()) }
func (b *beat) enter(run *taskRun)     { b.stepping.Store(run); b.since.Store(time.Now().UnixNano()) }
func (b *beat) leave()                 { b.since.Store(0) }
func (b *beat) epochBegan(t time.Time) { b.epoch.Store(t.UnixNano()) }
func (b *beat) epochEnded()            { b.epoch.Store(0) }

// watchdog looks after workers that are inside user code: it makes them stop at the next record when the epoch grows old,
// and reports a handler that takes too long, with its stack. A slow handler never costs the membership: kgo heartbeats
// in the background.
func (r *Runtime) watchdog(ctx context.Context) {
	every := max(10*time.Millisecond, min(r.cfg.CommitInterval, r.cfg.SlowHandler/4, time.Second))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if g := r.group(); g != nil {
			g.checkMember() // an eviction that no callback told us about
		}
		for _, w := range r.workers {
			now := time.Now().UnixNano()
			if began := w.beat.epoch.Load(); began != 0 && time.Duration(now-began) >= r.cfg.CommitInterval {
				w.hurry.Store(true)
			}
			since := w.beat.since.Load()
			if since == 0 || time.Duration(now-since) < r.cfg.SlowHandler || w.beat.reported.Load() == since {
				continue
			}
			w.beat.reported.Store(since)
			run := w.beat.stepping.Load()
			event := observe.SlowHandler{Task: run.id.String(), For: time.Duration(now - since), Stack: stackOf(w.beat.goroutine.Load())}
			r.log.Warn("a record is taking long", "task", event.Task, "for", event.For, "stack", event.Stack)
			r.hooks.slow(event)
		}
	}
}

// goroutineID reads the number of the calling goroutine from its stack, to find it again in a dump of all.
func goroutineID() int64 {
	buf := make([]byte, 64)
	buf = buf[:goruntime.Stack(buf, false)]
	field := bytes.Fields(buf)
	if len(field) < 2 {
		return -1
	}
	id, err := strconv.ParseInt(string(field[1]), 10, 64)
	if err != nil {
		return -1
	}
	return id
}

// stackOf returns the stack of one goroutine.
func stackOf(id int64) string {
	buf := make([]byte, 1<<20)
	buf = buf[:goruntime.Stack(buf, true)]
	head := fmt.Appendf(nil, "goroutine %d [", id)
	for _, part := range bytes.Split(buf, []byte("\n\n")) {
		if bytes.HasPrefix(part, head) {
			return string(part)
		}
	}
	return ""
}
