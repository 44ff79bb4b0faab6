package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/bench/internal/measure"
	"github.com/millrace-io/millrace/observe"
)

// tally counts what is committed, and tells about it.
type tally struct {
	out  *measure.Out
	want int64 // records; 0: no end

	records, commits, aborts, commitNanos atomic.Int64
	began                                 atomic.Int64 // unix nanoseconds
	enough                                chan struct{}
	enoughOnce                            sync.Once
	allocs                                allocations // of the goroutine of report, and of done
	running                               chan struct{}
	runningOnce                           sync.Once
}

func (t *tally) hooks() observe.Hooks {
	return observe.Hooks{
		State: func(c observe.StateChange) {
			if c.To == "running" {
				t.runningOnce.Do(func() {
					t.began.Store(time.Now().UnixNano())
					t.out.Say(measure.Line{Event: "running"})
					close(t.running)
				})
			}
		},
		Restore: func(p observe.RestoreProgress) {
			if p.Done {
				t.out.Say(measure.Line{Event: "restored", Task: p.Task, Store: p.Store, Records: p.Records, Seconds: p.Elapsed.Seconds(), Rebuild: p.Rebuild})
			}
		},
		Commit: func(c observe.Commit) {
			t.commits.Add(1)
			t.commitNanos.Add(int64(c.Took))
			if n := t.records.Add(c.Records); t.want > 0 && n >= t.want {
				t.enoughOnce.Do(func() { close(t.enough) })
			}
		},
		Abort: func(observe.Abort) { t.aborts.Add(1) },
	}
}

// report prints a line each second, from the moment it runs, until ctx is done. The channel is closed when it has ended.
func (t *tally) report(ctx context.Context) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-t.running:
		case <-ctx.Done():
			return
		}
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.allocs.look(t.records.Load())
				t.say("progress")
			case <-ctx.Done():
				return
			}
		}
	}()
	return ended
}

func (t *tally) done() { t.say("done") }

func (t *tally) say(event string) {
	l := measure.Line{Event: event, Records: t.records.Load(), Commits: t.commits.Load(), Aborts: t.aborts.Load()}
	if began := t.began.Load(); began > 0 {
		l.Seconds = time.Since(time.Unix(0, began)).Seconds()
	}
	if l.Commits > 0 {
		l.CommitMS = float64(t.commitNanos.Load()) / float64(l.Commits) / 1e6
	}
	l.CPUSeconds, l.RSSMax = measure.Self()
	if event == "done" {
		l.Allocs, l.AllocBytes = t.allocs.perRecord()
	}
	t.out.Say(l)
}
