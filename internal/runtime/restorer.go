package runtime

import (
	"context"
	"time"

	"github.com/millrace-io/millrace/changelog"
)

// newRestorer makes the client that reads changelogs. A restore that waits for somebody's open transaction asks for a
// fencing pass: a zombie may have begun it after the last one.
func (r *Runtime) newRestorer() error {
	var err error
	r.restorer, err = changelog.NewRestorer(changelog.RestorerConfig{
		Client: r.clientOpts("restore"), Log: r.log, Progress: r.hooks.restore, MaxBytes: r.cfg.MemoryLimit / 16,
		Stalled: func(s changelog.Stall) {
			r.log.Info("a restore waits for an open transaction", "task", s.Task, "topic", s.Topic, "partition", s.Partition,
				"last_stable_offset", s.LastStableOffset, "high_watermark", s.HighWatermark, "for", s.For)
			go r.fenceAgain()
		},
	})
	return err
}

// fenceAgain runs one fencing pass, if none is running.
func (r *Runtime) fenceAgain() {
	g := r.group()
	if g == nil || !r.fencing.CompareAndSwap(false, true) {
		return
	}
	defer r.fencing.Store(false)
	ctx, cancel := context.WithTimeout(r.hard, 5*time.Second)
	defer cancel()
	g.fence(ctx)
}
