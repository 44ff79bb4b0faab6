// Command app is the application the end-to-end tests run, kill, freeze and restart: one binary, a workload chosen by a
// flag. It says what happens to it in JSON lines on standard output, one per moment, and logs on standard error.
// SIGTERM ends it gracefully.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/itest"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// config is what the tests say about a run.
type config struct {
	workload string
	topics   string // prefix of the topics' names: <topics>.in, <topics>.out, ...
	dump     string // directory in which a stopping task leaves the contents of its store
	hold     string // file a handler waits for when it meets the key "hold"
	every    int64

	app, brokers, instance, state string
	memory                        bool
	memoryLimit                   int64
	workers                       int
	policy                        string
	accept, tls, static           bool
	pipelining                    bool
	guarantee                     string
	replication                   int

	session, heartbeat, rebalance, commit, transaction, shutdown time.Duration
}

func main() {
	c := config{}
	flag.StringVar(&c.workload, "workload", "count", "count, regroup, poison, eos, bells or one of the mistaken ones")
	flag.StringVar(&c.topics, "topics", "t", "prefix of the topics' names")
	flag.StringVar(&c.dump, "dump", "", "directory for the contents of stores, written when a task closes")
	flag.StringVar(&c.hold, "hold", "", `file to wait for in the handler at key "hold"`)
	flag.Int64Var(&c.every, "every", 100, "count: which counts go to the output")
	flag.StringVar(&c.app, "app", "itest", "application id")
	flag.StringVar(&c.brokers, "brokers", "", "comma separated addresses")
	flag.StringVar(&c.instance, "instance", "", "instance name")
	flag.StringVar(&c.state, "state", "", "state directory")
	flag.BoolVar(&c.memory, "memory", false, "memory stores")
	flag.Int64Var(&c.memoryLimit, "memory-limit", 0, "memory limit in bytes")
	flag.IntVar(&c.workers, "workers", 0, "workers")
	flag.BoolVar(&c.pipelining, "pipelining", true, "go on while an epoch is committed")
	flag.StringVar(&c.policy, "policy", "", "fail, skip or dead-letter")
	flag.BoolVar(&c.tls, "tls", false, "speak TLS to the brokers")
	flag.BoolVar(&c.accept, "accept-offsets", false, "accept offsets that were moved")
	flag.BoolVar(&c.static, "static", false, "static membership")
	flag.StringVar(&c.guarantee, "guarantee", "", "exactly_once or at_least_once")
	flag.IntVar(&c.replication, "replication", 0, "replication factor of internal topics")
	flag.DurationVar(&c.session, "session", 0, "session timeout")
	flag.DurationVar(&c.heartbeat, "heartbeat", 0, "heartbeat interval")
	flag.DurationVar(&c.rebalance, "rebalance", 0, "rebalance timeout")
	flag.DurationVar(&c.commit, "commit", 0, "commit interval")
	flag.DurationVar(&c.transaction, "transaction", 0, "transaction timeout")
	flag.DurationVar(&c.shutdown, "shutdown", 0, "shutdown timeout")
	flag.Parse()
	os.Exit(run(c))
}

func run(c config) int {
	say(itest.Event{Event: "start", Pid: os.Getpid(), Instance: c.instance})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := c.serve(ctx)
	code := millrace.ExitCode(err)
	say(exited(code, err))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

func (c config) serve(ctx context.Context) error {
	top, err := c.build()
	if err != nil {
		return err
	}
	app, err := millrace.New(c.app, top, c.options()...)
	if err != nil {
		return err
	}
	return errors.Join(app.Run(ctx), app.Close())
}

func (c config) build() (*topology.Topology, error) {
	switch c.workload {
	case "count":
		return c.count()
	case "bells":
		return c.bells()
	case "regroup":
		return c.regroup()
	case "poison":
		return c.poison()
	case "eos":
		return c.eos()
	case "unattached", "undeclared", "join":
		return c.mistaken()
	default:
		return nil, fmt.Errorf("no workload %q", c.workload)
	}
}

// options gives millrace what was set and leaves it its defaults for the rest.
func (c config) options() []millrace.Option {
	opts := []millrace.Option{
		millrace.Observe(hooks()),
		millrace.Logger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))),
	}
	if c.brokers != "" {
		opts = append(opts, millrace.SeedBrokers(strings.Split(c.brokers, ",")...))
	}
	if c.instance != "" {
		opts = append(opts, millrace.InstanceName(c.instance))
	}
	if c.state != "" {
		opts = append(opts, millrace.StateDir(c.state))
	}
	if c.memory {
		opts = append(opts, millrace.MemoryStores())
	}
	if c.memoryLimit != 0 {
		opts = append(opts, millrace.MemoryLimit(c.memoryLimit))
	}
	if c.workers != 0 {
		opts = append(opts, millrace.Workers(c.workers))
	}
	if !c.pipelining {
		opts = append(opts, millrace.Pipelining(false))
	}
	if c.tls {
		opts = append(opts, millrace.TLS(&tls.Config{InsecureSkipVerify: true})) //nolint:gosec // a test of the handshake alone
	}
	if c.accept {
		opts = append(opts, millrace.AcceptOffsets())
	}
	if c.static {
		opts = append(opts, millrace.StaticMembership())
	}
	switch c.guarantee {
	case "":
	case "exactly_once":
		opts = append(opts, millrace.ProcessingGuarantee(millrace.ExactlyOnce))
	case "at_least_once":
		opts = append(opts, millrace.ProcessingGuarantee(millrace.AtLeastOnce))
	default:
		opts = append(opts, millrace.ProcessingGuarantee(0))
	}
	if c.replication != 0 {
		opts = append(opts, millrace.ReplicationFactor(c.replication))
	}
	for _, d := range []struct {
		value  time.Duration
		option func(time.Duration) millrace.Option
	}{
		{c.session, millrace.SessionTimeout},
		{c.heartbeat, millrace.HeartbeatInterval},
		{c.rebalance, millrace.RebalanceTimeout},
		{c.commit, millrace.CommitInterval},
		{c.transaction, millrace.TransactionTimeout},
		{c.shutdown, millrace.ShutdownTimeout},
	} {
		if d.value != 0 {
			opts = append(opts, d.option(d.value))
		}
	}
	switch c.policy {
	case "fail":
		opts = append(opts, millrace.OnError(processor.Fail()))
	case "skip":
		opts = append(opts, millrace.OnError(processor.Skip()))
	case "dead-letter":
		opts = append(opts, millrace.OnError(processor.DeadLetter(c.topic("dead"))))
	}
	return opts
}

func (c config) topic(name string) string { return c.topics + "." + name }
