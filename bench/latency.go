package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/bench/internal/measure"
	"github.com/millrace-io/millrace/bench/internal/workload"
)

// latency is what records waited, in milliseconds: from the moment at which a record was due to be sent to the one at which an
// output that covers it was visible to a read_committed consumer.
type latency struct {
	Due   int64   `json:"due"`  // records per second, as asked for
	Sent  float64 `json:"sent"` // records per second
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
	Cores float64 `json:"app_cores"` // that the app used
}

func quantile(f func(latency) float64) metric {
	return func(r result) float64 {
		if r.Latency == nil {
			return 0
		}
		return f(*r.Latency)
	}
}

const tenth = 100 * time.Millisecond

func latencyCase(perSecond int64, commit time.Duration) string {
	return fmt.Sprintf("%dk/s, %s", perSecond/1000, commit)
}

// latencies takes the cases in turns. Peers take part in one of them, and what is not asked for by a mark is run once.
func (b *bench) latencies(ctx context.Context, f figure) error {
	rates, err := numbers(b.rates)
	if err != nil {
		return err
	}
	intervals, err := durations(b.commits)
	if err != nil {
		return err
	}
	for run := 1; run <= b.runs; run++ {
		for _, perSecond := range rates {
			for _, commit := range intervals {
				marked := perSecond == 20_000 && commit <= tenth
				if !marked && (run > 1 || b.quick) {
					continue
				}
				t := trial{figure: f.name, name: latencyCase(int64(perSecond), commit), workload: "count", spec: zipf(1, 100), commit: commit}
				for _, p := range b.takePart(f, f.programs) {
					if p.peer && (!marked || commit != tenth || p.can(t.wish()) != "") {
						continue
					}
					r, err := b.latency(ctx, t, p, int64(perSecond))
					if err := b.took(ctx, t, p, run, r, err); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// settling is how long an app runs before it is measured, unless it says how long it needs.
const settling = 2 * time.Second

// latency measures one app at one rate.
func (b *bench) latency(ctx context.Context, t trial, p program, perSecond int64) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	settle := max(settling, p.boot)
	records := int64(float64(perSecond) * (settle + b.measure + patience).Seconds())
	if err := b.room(records * 3 * 132); err != nil {
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
	tr := newTraffic(b.broker.addrs, j.in, t.spec, perSecond, p.records)
	followed := make(chan error, 1)
	following, stop := context.WithCancel(ctx)
	defer stop()
	go func() { followed <- tr.follow(following, j.out) }()
	sent := make(chan error, 1)
	sending, enough := context.WithCancel(ctx)
	defer enough()
	go func() { sent <- tr.send(sending) }()

	wait := func(what <-chan struct{}, d time.Duration) error {
		after := time.NewTimer(d)
		defer after.Stop()
		for {
			select {
			case <-what:
				return nil
			case <-after.C:
				if what == nil {
					return nil
				}
				return fmt.Errorf("nothing came out within %s", d)
			case err := <-followed:
				return errors.Join(err, errors.New("the output cannot be followed"))
			case err := <-sent:
				return errors.Join(err, errors.New("the input cannot be sent"))
			case _, ok := <-proc.lines:
				if !ok {
					<-proc.ended
					return proc.failure()
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	if err := wait(tr.first, b.timeout); err != nil {
		return r, err
	}
	r.First = time.Since(proc.started).Seconds()
	if err := wait(nil, settle); err != nil {
		return r, err
	}
	before, err := measure.Of(proc.pid())
	if err != nil {
		return r, err
	}
	machine := b.watch(proc.pid())
	from := time.Now()
	if err := wait(nil, b.measure); err != nil {
		return r, err
	}
	to := time.Now()
	after, err := measure.Of(proc.pid())
	if err != nil {
		return r, err
	}
	r.Foreign, r.Stolen = machine.others(0)
	enough()
	if err := <-sent; err != nil {
		return r, err
	}
	if err := wait(tr.complete(), patience); err != nil {
		return r, fmt.Errorf("the app does not keep up with %d records/s: %w", perSecond, err)
	}
	waited, actual := tr.between(from, to)
	if len(waited) == 0 {
		return r, errors.New("no record was due while it was measured")
	}
	span := to.Sub(from).Seconds()
	r.Latency = summary(waited)
	r.Latency.Due, r.Latency.Sent, r.Latency.Cores = perSecond, float64(actual)/span, (after.CPUSeconds-before.CPUSeconds)/span
	r.Records, r.Seconds, r.RSS = int64(len(waited)), span, after.RSSMax
	r.CPU = (after.CPUSeconds - before.CPUSeconds) / float64(len(waited)) * 1e6
	_, err = proc.finish(ctx, !p.peer)
	return r, err
}

// summary sorts the times.
func summary(waited []time.Duration) *latency {
	slices.Sort(waited)
	at := func(q float64) float64 {
		return float64(waited[min(len(waited)-1, int(q*float64(len(waited))))].Microseconds()) / 1000
	}
	return &latency{P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999), Max: at(1)}
}
