package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

// comeback is a restart after a kill -9, in seconds.
type comeback struct {
	Back    float64 `json:"back"`         // from the kill to the next committed output
	Start   float64 `json:"start"`        // from the start of the new process to it
	State   int64   `json:"state_bytes"`  // on disk, when it was killed
	Tail    int64   `json:"tail_records"` // of the changelog, read again
	Session float64 `json:"session"`      // timeout, in seconds: how long Kafka believes the dead
	Rebuilt int64   `json:"rebuilt"`      // stores that were read from the start

	stores       int     // that were restored, as the app says
	began, ended float64 // of the restore, unix seconds
}

func comebackOf(f func(comeback) float64) metric {
	return func(r result) float64 {
		if r.Kill == nil {
			return 0
		}
		return f(*r.Kill)
	}
}

// bytesPerKey is what a key of workload aggregate takes on disk, about: the row, the key, what the store adds.
const bytesPerKey = stateBytes + workload.KeySize + 20

// kills fills the state of an app, kills it, and starts it again in place.
func (b *bench) kills(ctx context.Context, f figure) error {
	sizes, err := numbers(b.kill)
	if err != nil {
		return err
	}
	for _, gb := range sizes {
		keys := b.records(int(gb * 1e9 / bytesPerKey))
		spec := workload.Spec{Dist: "each", Keys: keys, Records: keys, ValueBytes: 100, Partitions: partitions, Seed: 42}
		for _, static := range []bool{false, true} {
			t := trial{figure: f.name, name: fmt.Sprintf("%v GB", gb), workload: "aggregate", spec: spec}
			if static {
				t.name += ", static"
			}
			wish := t.wish()
			if static {
				wish.static = "0"
			}
			for _, p := range b.takePart(f, f.programs) {
				if why := p.can(wish); why != "" {
					b.skip(f.name, "%s, %s: %s", t.name, p.title, why)
					continue
				}
				if err := b.killed(ctx, t, p, static, gb); err != nil {
					if err := b.took(ctx, t, p, 1, result{}, err); err != nil {
						return err
					}
				}
				if err := b.drop(ctx, spec); err != nil { // the probes are in it now
					return err
				}
			}
		}
	}
	return nil
}

// killed fills the state once and kills the app as often as there are runs.
func (b *bench) killed(ctx context.Context, t trial, p program, static bool, gb float64) (err error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout+time.Duration(gb*float64(2*time.Minute)))
	defer cancel()
	if err := b.room(int64(gb * 5e9)); err != nil { // input, output, changelog, state, and its compactions
		return err
	}
	in, err := b.input(ctx, t.spec)
	if err != nil {
		return err
	}
	j, remove, err := b.job(ctx, t, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	j.in = in
	if static {
		j.static = "0"
	}
	proc, err := b.populate(ctx, t, p, j)
	if err != nil {
		return err
	}
	defer func() { proc.kill() }()

	probe, err := newProbe(b.broker.addrs, j, t.spec.Keys)
	if err != nil {
		return err
	}
	defer probe.close()
	for run := 1; run <= b.runs; run++ {
		if err := probe.steady(ctx, proc); err != nil {
			return err
		}
		r := t.result(p)
		k := &comeback{Session: b.session.Seconds()}
		r.Kill = k
		if k.State, err = size(j.state); err != nil {
			return err
		}
		proc.kill()
		gone := probe.mark()
		if proc, err = b.start(ctx, p, j); err != nil {
			return err
		}
		machine := b.watch(proc.pid())
		back, err := probe.answer(ctx, proc, k)
		if err != nil {
			return err
		}
		k.Back, k.Start = back.Sub(gone).Seconds(), back.Sub(proc.started).Seconds()
		r.Records, r.Seconds = int64(t.spec.Records), k.Back
		r.Foreign, r.Stolen = machine.others(0)
		if err := b.took(ctx, t, p, run, r, nil); err != nil {
			return err
		}
	}
	return nil
}

// populate starts an app and lets it do a whole input.
func (b *bench) populate(ctx context.Context, t trial, p program, j job) (*process, error) {
	m, err := newMeter(b.broker.addrs, j.out, int64(t.spec.Records), t.spec.Keys, p.records)
	if err != nil {
		return nil, err
	}
	defer m.close()
	proc, err := b.start(ctx, p, j)
	if err != nil {
		return nil, err
	}
	if err := b.follow(ctx, []*process{proc}, m); err != nil {
		proc.kill()
		return nil, err
	}
	return proc, nil
}

// size is how much the files below a directory hold. Files that go away meanwhile are not there.
func size(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return ignoreGone(err)
	})
	return bytes, err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
