package main

import (
	"context"
	"errors"
	"time"

	"github.com/millrace-io/millrace/bench/internal/measure"
	"github.com/millrace-io/millrace/bench/internal/workload"
)

// growth is the memory of an app over time.
type growth struct {
	Limit   int64   `json:"limit"`
	Samples []int64 `json:"samples"` // resident bytes, each second
	Growth  float64 `json:"growth"`  // the median of the last third over that of the second
}

const (
	memoryCase  = "10M keys, 256 MiB"
	memoryLimit = 256 * mib
	memoryRate  = 50_000 // records per second: each key comes about three times in ten minutes
)

// memories runs each program once, for long.
func (b *bench) memories(ctx context.Context, f figure) error {
	t := trial{figure: f.name, name: memoryCase, workload: "count", memory: memoryLimit}
	t.spec = workload.Spec{Dist: "each", Keys: b.records(10_000_000), ValueBytes: 100, Partitions: partitions, Seed: 42, Records: 1}
	for _, p := range b.takePart(f, f.programs) {
		r, err := b.memoryOf(ctx, t, p)
		if err := b.took(ctx, t, p, 1, r, err); err != nil {
			return err
		}
	}
	return nil
}

// memoryOf feeds an app at a fixed rate and looks at its memory.
func (b *bench) memoryOf(ctx context.Context, t trial, p program) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.memoryFor+b.timeout)
	defer cancel()
	if err := b.room(int64(b.memoryFor.Seconds()) * memoryRate * 330); err != nil {
		return r, err
	}
	j, remove, err := b.job(ctx, t, p)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	j.in = j.app + "-in"
	if err := workload.Create(ctx, b.broker.addrs, j.partitions, nil, false, j.in); err != nil {
		return r, err
	}
	r = t.result(p)
	proc, err := b.start(ctx, p, j)
	if err != nil {
		return r, err
	}
	defer proc.kill()
	machine := b.watch(proc.pid())
	sending, enough := context.WithCancel(ctx)
	defer enough()
	sent := make(chan error, 1)
	count := 0
	go func() {
		var err error
		count, err = workload.Feed(sending, b.broker.addrs, j.in, t.spec, memoryRate)
		sent <- err
	}()

	r.Memory = &growth{Limit: memoryLimit}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := time.NewTimer(b.memoryFor)
	defer end.Stop()
	began := time.Now()
	for over := false; !over; {
		select {
		case <-tick.C:
			now, err := measure.Resident(proc.pid())
			if err != nil {
				return r, err
			}
			r.Memory.Samples = append(r.Memory.Samples, now)
			if len(r.Memory.Samples)%15 == 0 {
				say("    %s after %s: %s", p, time.Since(began).Round(time.Second), megabytes(float64(now)))
			}
		case _, ok := <-proc.lines:
			if !ok {
				<-proc.ended
				return r, proc.failure()
			}
		case err := <-sent:
			return r, errors.Join(err, errors.New("the input cannot be sent"))
		case <-end.C:
			over = true
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
	enough()
	if err := <-sent; err != nil {
		return r, err
	}
	// What was sent must come out: an app that falls behind has not held so many keys.
	m, err := newMeter(b.broker.addrs, j.out, int64(count), t.spec.Keys, p.records)
	if err != nil {
		return r, err
	}
	defer m.close()
	if err := b.follow(ctx, []*process{proc}, m); err != nil {
		return r, err
	}
	usage, err := measure.Of(proc.pid())
	if err != nil {
		return r, err
	}
	r.Foreign, r.Stolen = machine.others(0)
	r.Records, r.Seconds, r.RSS = int64(count), time.Since(began).Seconds(), usage.RSSMax
	r.CPU = usage.CPUSeconds / float64(count) * 1e6
	r.Memory.Growth = grown(r.Memory.Samples)
	_, err = proc.finish(ctx, !p.peer)
	return r, err
}

// grown compares the last third with the second; the first is when tables and caches fill.
func grown(samples []int64) float64 {
	third := len(samples) / 3
	if third == 0 {
		return 0
	}
	middle := func(all []int64) float64 {
		v := make([]float64, len(all))
		for i, n := range all {
			v[i] = float64(n)
		}
		mid, _, _ := median(v)
		return mid
	}
	return middle(samples[2*third:]) / middle(samples[third:2*third])
}

// lines are the samples of the runs, in MiB.
func (s section) lines() (all []line) {
	for _, r := range s.Runs {
		if r.Memory == nil || len(r.Memory.Samples) < 2 {
			continue
		}
		l := line{name: r.Title}
		for i, v := range r.Memory.Samples {
			l.x, l.y = append(l.x, float64(i)), append(l.y, float64(v)/mib)
		}
		all = append(all, l)
	}
	return all
}
