package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/millrace-io/millrace/bench/internal/measure"
	"github.com/millrace-io/millrace/bench/internal/workload"
)

// trial is one line of a figure: a workload over an input, under some conditions. Several programs are tried with it.
type trial struct {
	figure, name string
	workload     string
	spec         workload.Spec
	guarantee    string        // "": exactly_once
	commit       time.Duration // 0: 100 ms
	memory       int64
	instances    int           // 0: one
	short        bool          // too few records for a rate, or a cost per record
	settled      float64       // part of the input that is behind before the rate is taken; 0: a tenth
	idle         time.Duration // how long to watch the app with nothing to do afterwards
}

// result is one run of one program.
type result struct {
	Figure  string `json:"figure"`
	Case    string `json:"case"`
	Program string `json:"program"`
	Title   string `json:"title"`
	Run     int    `json:"run"`
	Failed  string `json:"failed,omitempty"` // why there are no figures
	Records int64  `json:"records"`

	Cut float64 `json:"cut,omitempty"` // part of the input that was done when the run had to end; 0: all of it

	Rate    float64 `json:"records_per_second,omitempty"`
	First   float64 `json:"first_output_seconds,omitempty"` // since the start of the process
	Seconds float64 `json:"seconds,omitempty"`              // since the start of the process, or of what is measured

	CPU       float64  `json:"cpu_seconds_per_million,omitempty"`
	SteadyCPU float64  `json:"steady_cpu_seconds_per_million,omitempty"` // from the first output on; 0: there was too little after it
	BrokerCPU *float64 `json:"broker_cpu_seconds_per_million,omitempty"` // nil: cannot be known
	RSS       int64    `json:"rss_max,omitempty"`
	Outputs   int64    `json:"outputs,omitempty"`
	Commits   int64    `json:"commits,omitempty"`
	Aborts    int64    `json:"aborts,omitempty"`
	CommitMS  float64  `json:"commit_ms,omitempty"`

	Allocs     float64 `json:"allocs_per_record,omitempty"`
	AllocBytes float64 `json:"bytes_per_record,omitempty"`

	Restore float64   `json:"restore_seconds,omitempty"`
	Idle    *float64  `json:"idle_cores,omitempty"` // processors used with nothing to do
	Latency *latency  `json:"latency,omitempty"`
	Kill    *comeback `json:"kill,omitempty"`
	Memory  *growth   `json:"memory,omitempty"`

	Foreign float64 `json:"foreign_cores"`     // what everybody else on the machine used meanwhile
	Stolen  float64 `json:"stolen_cores"`      // what its host gave to others
	Probe   float64 `json:"probe,omitempty"`   // how fast the machine was just before: rounds of a loop, millions per second
	Started string  `json:"started,omitempty"` // UTC
}

const probeTime = 200 * time.Millisecond

// result begins the result of a run.
func (t trial) result(p program) result {
	return result{Figure: t.figure, Case: t.name, Program: p.name, Title: p.title,
		Probe: measure.Probe(probeTime), Started: time.Now().UTC().Format("2006-01-02 15:04:05")}
}

// job makes the topics and the state directories of a run, and says how to remove them. The job is that of the first instance.
func (b *bench) job(ctx context.Context, t trial, p program) (j job, remove func() error, err error) {
	j = t.wish()
	j.brokers, j.app, j.session = b.broker.list(), b.name(p.name), b.session
	j.out, j.changelog, j.state = j.app+"-out", j.app+"-changelog", filepath.Join(b.dir, j.app)
	remove = func() error {
		ctx := context.WithoutCancel(ctx)
		return errors.Join(os.RemoveAll(j.state), workload.DeletePrefix(ctx, b.broker.addrs, j.app+"-"))
	}
	err = errors.Join(
		os.MkdirAll(j.state, 0o700),
		workload.Create(ctx, b.broker.addrs, j.partitions, nil, false, j.out),
		workload.Create(ctx, b.broker.addrs, j.partitions, map[string]string{"cleanup.policy": "compact"}, false, j.changelog))
	if err != nil {
		return j, nil, errors.Join(err, os.RemoveAll(j.state)) // a topic that was there before is not ours to delete
	}
	return j, remove, nil
}

// wish is the job of a trial, as far as the trial knows it.
func (t trial) wish() job {
	j := job{workload: t.workload, guarantee: t.guarantee, commit: t.commit, memory: t.memory, partitions: t.spec.Partitions, keys: t.spec.Keys, valueBytes: t.spec.ValueBytes, stateBytes: stateBytes}
	if j.guarantee == "" {
		j.guarantee = "exactly_once"
	}
	if j.commit == 0 {
		j.commit = 100 * time.Millisecond
	}
	return j
}

const stateBytes = 200 // of a row of workload aggregate

// start starts an app for a job.
func (b *bench) start(ctx context.Context, p program, j job) (*process, error) {
	path, args := p.command(b.dir, j)
	return start(ctx, p.name, j.environment(), path, args...)
}

// startAll starts the instances of a trial, each with a state directory of its own.
func (b *bench) startAll(ctx context.Context, t trial, p program, j job) (all []*process, err error) {
	for i := range max(1, t.instances) {
		one := j
		if t.instances > 1 {
			one.state = filepath.Join(j.state, strconv.Itoa(i))
			if err := os.MkdirAll(one.state, 0o700); err != nil {
				return all, err
			}
		}
		proc, err := b.start(ctx, p, one)
		if err != nil {
			return all, err
		}
		all = append(all, proc)
	}
	return all, nil
}

// once runs one program over a whole input, on topics of its own.
func (b *bench) once(ctx context.Context, t trial, p program) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	in, err := b.input(ctx, t.spec)
	if err != nil {
		return r, err
	}
	if err := b.room(int64(t.spec.Records) * 3 * int64(t.spec.ValueBytes+workload.KeySize+16)); err != nil {
		return r, err
	}
	j, remove, err := b.job(ctx, t, p)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	j.in = in
	if t.workload == "join" {
		if j.table, err = b.input(ctx, tableOf(t.spec)); err != nil {
			return r, err
		}
	}
	m, err := newMeter(b.broker.addrs, j.out, want(t.workload, t.spec), t.spec.Keys, p.records || !counted(t.workload))
	if err != nil {
		return r, err
	}
	defer m.close()
	m.more, m.settled = j.guarantee != "exactly_once", t.settled

	r = t.result(p)
	brokerBefore, brokerKnown := b.brokerCPU()
	all, err := b.startAll(ctx, t, p, j)
	defer func() {
		for _, proc := range all {
			proc.kill()
		}
	}()
	if err != nil {
		return r, err
	}
	pids := make([]int, len(all))
	for i, proc := range all {
		pids[i] = proc.pid()
	}
	machine := b.watch(pids...)
	usage := func() (u measure.Usage, err error) {
		for _, pid := range pids {
			one, err := measure.Of(pid)
			if err != nil {
				return u, err
			}
			u.CPUSeconds += one.CPUSeconds
			u.RSSMax += one.RSSMax
		}
		return u, nil
	}
	var atFirst measure.Usage
	var doneAtFirst int64
	m.began = func() {
		atFirst, _ = usage() // an app that has ended is told by follow
		doneAtFirst = m.sum
	}
	if r.Cut, err = b.followFor(ctx, p, j, all, m); err != nil {
		return r, err
	}
	done := min(m.sum, m.want)
	records := func(outputs int64) float64 { return float64(outputs) * float64(t.spec.Records) / float64(m.want) }
	million := records(done) / 1e6
	r.Records, r.Rate = int64(records(done)), records(1)*m.rate()
	r.First, r.Seconds = m.first.Sub(all[0].started).Seconds(), m.end.Sub(all[0].started).Seconds()
	atEnd, err := usage()
	if err != nil {
		return r, err
	}
	r.CPU, r.RSS = atEnd.CPUSeconds/million, atEnd.RSSMax
	if after := done - doneAtFirst; after > done/2 {
		r.SteadyCPU = (atEnd.CPUSeconds - atFirst.CPUSeconds) / records(after) * 1e6
	}
	if after, ok := b.brokerCPU(); ok && brokerKnown {
		cost := (after - brokerBefore) / million
		r.BrokerCPU = &cost
	}
	r.Foreign, r.Stolen = machine.others(0)
	if t.idle > 0 {
		if r.Idle, err = watchIdle(ctx, t.idle, pids); err != nil {
			return r, err
		}
	}
	for _, proc := range all {
		last, err := proc.finish(ctx, !p.peer)
		if err != nil {
			return r, err
		}
		r.Commits += last.Commits
		r.Aborts += last.Aborts
		r.CommitMS, r.Allocs, r.AllocBytes = max(r.CommitMS, last.CommitMS), max(r.Allocs, last.Allocs), max(r.AllocBytes, last.AllocBytes)
	}
	if t.short {
		r.Rate, r.CPU, r.SteadyCPU, r.BrokerCPU = 0, 0, 0, nil
	}
	if r.Cut == 0 {
		err = m.settle(ctx)
	}
	r.Outputs = m.seen
	return r, err
}

// followFor ends the run of a slow program when its time is up, and returns which part was done by then; 0 is all. A program that
// has done next to nothing has failed.
func (b *bench) followFor(ctx context.Context, p program, j job, all []*process, m *meter) (cut float64, err error) {
	if p.limit == nil {
		return 0, b.follow(ctx, all, m)
	}
	limit := min(p.limit(j), b.timeout*9/10)
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = b.follow(limited, all, m)
	if errors.Is(err, errNotDone) && ctx.Err() == nil && m.end.Sub(m.first) > limit/4 {
		return float64(m.sum) / float64(m.want), nil
	}
	return 0, err
}

var errNotDone = errors.New("not done in time")

// watchIdle is how much of a processor the processes use with nothing to do. The first second, in which they end what they began,
// is not counted.
func watchIdle(ctx context.Context, d time.Duration, pids []int) (*float64, error) {
	var before float64
	for i, span := range []time.Duration{time.Second, d} {
		select {
		case <-time.After(span):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		total := 0.0
		for _, pid := range pids {
			u, err := measure.Of(pid)
			if err != nil {
				return nil, err
			}
			total += u.CPUSeconds
		}
		if i == 1 {
			cores := (total - before) / d.Seconds()
			return &cores, nil
		}
		before = total
	}
	return nil, nil
}

// counted says that the output of a workload are counts.
func counted(work string) bool {
	return slices.Contains([]string{"count", "aggregate", "repartition"}, work)
}

// tableOf is the table that an input is joined with: each key once, long before.
func tableOf(s workload.Spec) workload.Spec {
	return workload.Spec{Dist: "each", Keys: s.Keys, Records: s.Keys, ValueBytes: 8, Partitions: s.Partitions, Seed: 7, Age: time.Hour}
}

func (b *bench) brokerCPU() (seconds float64, ok bool) {
	if b.broker.pid == 0 {
		return 0, false
	}
	u, err := measure.Of(b.broker.pid)
	return u.CPUSeconds, err == nil
}

// follow polls the meter until all is there, and shows how far it is.
func (b *bench) follow(ctx context.Context, all []*process, m *meter) error {
	said, before := time.Now(), int64(0)
	for {
		done, err := m.poll(ctx, time.Second)
		if done {
			return err
		}
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("%w: %.0f %% of the output are there", errNotDone, 100*float64(m.sum)/float64(m.want))
			}
			return err
		}
		for _, p := range all {
			select {
			case <-p.ended:
				return p.failure()
			default:
			}
			p.drain()
		}
		if since := time.Since(said); since > 5*time.Second {
			say("    %s: %3.0f %%, %.0f records/s", all[0].name, 100*float64(m.sum)/float64(m.want), float64(m.sum-before)/since.Seconds())
			said, before = time.Now(), m.sum
		}
	}
}
