package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/measure"
	"github.com/millrace-io/millrace/bench/internal/workload"
)

const (
	rounds      = 2 // how often each key is written
	restoreCase = "1M keys, twice"
	rowBytes    = 100
)

// restores fills a changelog with each app that takes part, kills it, deletes its state directory and starts it again. In turns with
// them a bare loop reads millrace's changelog into Pebble.
func (b *bench) restores(ctx context.Context, f figure) (err error) {
	keys := b.records(1_000_000)
	t := trial{figure: f.name, name: restoreCase, workload: "aggregate",
		spec: workload.Spec{Dist: "each", Keys: keys, Records: rounds * keys, ValueBytes: rowBytes, Partitions: partitions, Seed: 42}}
	if err := b.room(int64(t.spec.Records) * 1000); err != nil {
		return err
	}
	in, err := b.input(ctx, t.spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop(context.WithoutCancel(ctx), t.spec)) }() // the probes are in it then
	var turns []func(context.Context) (program, result, error)
	for _, p := range b.takePart(f, f.programs) {
		j, remove, err := b.fill(ctx, t, p, in)
		if err != nil {
			if err := b.took(ctx, t, p, 1, result{}, err); err != nil {
				return err
			}
			continue
		}
		defer func() {
			if err := remove(); err != nil {
				say("  %v", err)
			}
		}()
		if p.name == "millrace" {
			changelog := j.app + "-rows-changelog"
			for _, how := range []string{"ingest", "batches"} {
				p := program{name: "raw-" + how, title: "bare loop, " + how}
				turns = append(turns, func(ctx context.Context) (program, result, error) {
					r, err := b.restoreBare(ctx, t, p, changelog, how)
					return p, r, err
				})
			}
		}
		turns = append(turns, func(ctx context.Context) (program, result, error) {
			r, err := b.restoreOnce(ctx, t, p, j)
			return p, r, err
		})
	}
	for run := 1; run <= b.runs; run++ {
		for _, turn := range turns {
			turnCtx, cancel := context.WithTimeout(ctx, b.timeout)
			p, r, err := turn(turnCtx)
			cancel()
			if err := b.took(ctx, t, p, run, r, err); err != nil {
				return err
			}
		}
		slices.Reverse(turns)
	}
	return nil
}

// fill lets an app do the whole input, and kills it.
func (b *bench) fill(ctx context.Context, t trial, p program, in string) (j job, remove func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*b.timeout)
	defer cancel()
	if j, remove, err = b.job(ctx, t, p); err != nil {
		return j, nil, err
	}
	j.in, j.stateBytes = in, rowBytes
	say("  %s fills its changelog", p)
	proc, err := b.populate(ctx, t, p, j)
	if err != nil {
		return j, nil, errors.Join(err, remove())
	}
	proc.kill()
	return j, remove, nil
}

// restoreOnce starts an app without its state directory, measures the restore, and kills it again. The restore goes from the first
// line about it to the last that the app prints; an app that prints none is measured from its start to its first answer.
func (b *bench) restoreOnce(ctx context.Context, t trial, p program, j job) (r result, err error) {
	if err := errors.Join(os.RemoveAll(j.state), os.MkdirAll(j.state, 0o700), b.groupEmpty(ctx, j.app)); err != nil {
		return r, err
	}
	r = t.result(p)
	probe, err := newProbe(b.broker.addrs, j, t.spec.Keys)
	if err != nil {
		return r, err
	}
	defer probe.close()
	probe.mark()
	proc, err := b.start(ctx, p, j)
	if err != nil {
		return r, err
	}
	defer proc.kill()
	machine := b.watch(proc.pid())
	var k comeback
	back, err := probe.answer(ctx, proc, &k)
	if err != nil {
		return r, err
	}
	for k.stores < partitions && k.stores > 0 { // one that is done answers before the others are
		if _, err := probe.answer(ctx, proc, &k); err != nil {
			return r, err
		}
	}
	usage, err := measure.Of(proc.pid())
	if err != nil {
		return r, err
	}
	r.Foreign, r.Stolen = machine.others(0)
	r.First = back.Sub(proc.started).Seconds()
	r.Records, r.Restore = k.Tail, k.ended-k.began
	if k.stores == 0 {
		r.Records, r.Restore = int64(t.spec.Records), r.First
	}
	r.Seconds, r.Rate = r.Restore, float64(r.Records)/r.Restore
	r.CPU, r.RSS = usage.CPUSeconds/float64(r.Records)*1e6, usage.RSSMax
	return r, nil
}

// restoreBare reads a changelog into Pebble.
func (b *bench) restoreBare(ctx context.Context, t trial, p program, changelog, how string) (r result, err error) {
	dir := filepath.Join(b.dir, "bare")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r = t.result(p)
	proc, err := start(ctx, p.name, nil, b.program("rawrestore"), "-brokers", b.broker.list(), "-changelog", changelog, "-state", dir, "-how", how)
	if err != nil {
		return r, err
	}
	defer proc.kill()
	machine := b.watch(proc.pid())
	var last measure.Line
	for l := range proc.lines {
		last = l
	}
	<-proc.ended
	if proc.err != nil || last.Event != "restored" {
		return r, proc.failure()
	}
	r.Records, r.Seconds, r.Restore = last.Records, last.Seconds, last.Seconds
	r.Rate, r.CPU, r.RSS = float64(last.Records)/last.Seconds, last.CPUSeconds/float64(last.Records)*1e6, last.RSSMax
	r.Foreign, r.Stolen = machine.others(last.CPUSeconds)
	return r, nil
}

// groupEmpty waits until the group has forgotten its dead member, so that a restart is not a wait for that.
func (b *bench) groupEmpty(ctx context.Context, group string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.broker.addrs...))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	return until(ctx, 100*time.Millisecond, "group "+group+" to be empty", func() (bool, error) {
		d, err := adm.DescribeGroups(ctx, group)
		return err == nil && d[group].Err == nil && len(d[group].Members) == 0, nil
	})
}
