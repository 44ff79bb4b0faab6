package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// The contract with an app under test. An app is a program that the harness starts as a process of its own and tells through its
// environment what to do (job.environment); it needs no other help and says nothing. Whether it is done is decided by the meter,
// which reads the output as any consumer would. README.md has the contract for people who write an app.

// job is one piece of work for one app: fresh topics, a fresh group, a fresh state directory.
type job struct {
	workload   string // count, pass, map, aggregate, repartition, join
	brokers    string // host:port, comma separated
	in         string
	table      string // second input, of the join only: one row per key, written before the input and with older timestamps
	out        string
	changelog  string // made by the harness with as many partitions as the input, compacted; an app may leave it alone
	app        string // application id, group and prefix of transactional ids
	state      string // directory, there and empty; each instance of an app has its own
	guarantee  string // exactly_once or at_least_once
	commit     time.Duration
	session    time.Duration
	memory     int64  // bytes the app may use for everything; 0: its default
	static     string // group.instance.id, for restarts in place; empty: none
	partitions int
	keys       int // distinct keys at most
	valueBytes int // of the input
	stateBytes int // of a row of workload aggregate
}

// environment is the job as an app sees it.
func (j job) environment() []string {
	return []string{
		"BENCH_WORKLOAD=" + j.workload,
		"BENCH_BROKERS=" + j.brokers,
		"BENCH_IN=" + j.in,
		"BENCH_TABLE=" + j.table,
		"BENCH_OUT=" + j.out,
		"BENCH_CHANGELOG=" + j.changelog,
		"BENCH_APP=" + j.app,
		"BENCH_STATE=" + j.state,
		"BENCH_GUARANTEE=" + j.guarantee,
		"BENCH_COMMIT_MS=" + strconv.FormatInt(j.commit.Milliseconds(), 10),
		"BENCH_SESSION_MS=" + strconv.FormatInt(j.session.Milliseconds(), 10),
		"BENCH_MEMORY=" + strconv.FormatInt(j.memory, 10),
		"BENCH_STATIC=" + j.static,
		"BENCH_PARTITIONS=" + strconv.Itoa(j.partitions),
		"BENCH_STATE_BYTES=" + strconv.Itoa(j.stateBytes),
	}
}

// program is an app that the harness knows.
type program struct {
	name  string // in results and in -programs; letters, digits and dashes
	title string // in tables
	peer  bool   // it is run only where peers are asked for (-peers)

	// figures are the sections in which a peer takes part; nil: all whose jobs it can do.
	figures []string

	// can says why the program cannot do a job, in a few words ("keeps no state"), or "" if it can.
	can func(j job) string

	// prepare builds the program, once, before anything is measured; nil: nothing to do. What it returns is why the program
	// cannot be measured here: it is listed as such, and the rest is measured.
	prepare func(ctx context.Context, dir string) error

	// command is what to start for a job: a program and its arguments, with dir as prepare got it. The environment of the job is
	// there in any case.
	command func(dir string, j job) (path string, args []string)

	// records says that the output is measured by the number of its records, because the program keeps no counts.
	records bool

	// limit is how long a run of a slow program goes on: what is done by then counts, and is told as cut. nil: a program that has
	// not done all within -timeout has failed.
	limit func(j job) time.Duration

	// boot is how long the program may need from its start until it processes; the latency figures begin after its first output
	// and this much more, so that a JVM has compiled what is hot. 0: two seconds.
	boot time.Duration
}

func (p program) String() string { return p.name }

// cannot is an error of prepare: what is missing here, in one line.
type cannot struct{ what, remedy string }

func (c cannot) Error() string { return fmt.Sprintf("%s; %s", c.what, c.remedy) }
