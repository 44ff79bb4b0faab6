// Keyedcount is millrace's app in the benchmark. Unless -workload says otherwise it counts the records of each key and writes the
// new count for every record: the same key, and the count as 8 bytes, big-endian. It runs until SIGTERM, or until -records were
// processed and committed, and prints lines of JSON (running, progress, restored, done).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/bench/internal/measure"
)

type config struct {
	workload, table                                              string
	stateBytes                                                   int
	brokers, in, out, app, state, guarantee, engine, compression string
	static                                                       string
	commit, session                                              time.Duration
	workers                                                      int
	records, memory                                              int64
	verbose                                                      bool
	cpuProfile, heapProfile                                      string
}

func main() {
	var c config
	flag.StringVar(&c.workload, "workload", "count", "pass, map, count, aggregate, repartition or join")
	flag.StringVar(&c.table, "table", "table", "second input, of -workload join")
	flag.IntVar(&c.stateBytes, "state-bytes", 200, "of a row of -workload aggregate")
	flag.StringVar(&c.brokers, "brokers", "127.0.0.1:9092", "seed brokers, host:port, comma separated")
	flag.StringVar(&c.in, "in", "in", "input topic")
	flag.StringVar(&c.out, "out", "out", "output topic; it must exist")
	flag.StringVar(&c.app, "app", "keyedcount", "application id")
	flag.StringVar(&c.state, "state", "", "state directory")
	flag.DurationVar(&c.commit, "commit", 100*time.Millisecond, "commit interval")
	flag.DurationVar(&c.session, "session", 0, "session timeout (0: the default)")
	flag.StringVar(&c.guarantee, "guarantee", "exactly_once", "exactly_once or at_least_once")
	flag.StringVar(&c.static, "static", "", "group.instance.id, which makes it a static member of that instance name (not given: a dynamic one)")
	flag.StringVar(&c.engine, "store", "pebble", "pebble or memory")
	flag.IntVar(&c.workers, "workers", 0, "workers (0: one per processor)")
	flag.Int64Var(&c.records, "records", 0, "stop when this many records were processed and committed (0: never)")
	flag.Int64Var(&c.memory, "memory-limit", 0, "memory limit in bytes (0: the default)")
	flag.StringVar(&c.compression, "compression", "", "of what is written: none, snappy, lz4 or zstd (the client's default if not given)")
	flag.BoolVar(&c.verbose, "v", false, "log everything, not only warnings")
	flag.StringVar(&c.cpuProfile, "cpuprofile", "", "write a CPU profile of the whole run to this file")
	flag.StringVar(&c.heapProfile, "memprofile", "", "write a profile of all allocations to this file at the end")
	flag.Parse()
	err := run(c)
	code := millrace.ExitCode(err)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.As(err, new(flagError)) {
			code = 2
		}
	}
	os.Exit(code)
}

// flagError is a flag with a value that is not known.
type flagError struct{ name, value, known string }

func (e flagError) Error() string {
	return fmt.Sprintf("flag %s: %q is none of %s", e.name, e.value, e.known)
}

func run(c config) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	top, err := topo(c)
	if err != nil {
		return err
	}
	t := &tally{out: measure.NewOut(os.Stdout), want: c.records, enough: make(chan struct{}), running: make(chan struct{})}
	opts, err := c.options()
	if err != nil {
		return err
	}
	app, err := millrace.New(c.app, top, append(opts, millrace.Observe(t.hooks()))...)
	if err != nil {
		return err
	}
	if c.cpuProfile != "" {
		f, err := os.Create(c.cpuProfile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-t.enough:
			cancel()
		case <-ctx.Done():
		}
	}()
	reporting := t.report(ctx)
	err = app.Run(ctx)
	cancel()
	<-reporting
	if err == nil {
		t.done()
	}
	if c.heapProfile != "" {
		err = errors.Join(err, writeHeapProfile(c.heapProfile))
	}
	return err
}

func (c config) options() ([]millrace.Option, error) {
	level := slog.LevelWarn
	if c.verbose {
		level = slog.LevelDebug
	}
	opts := []millrace.Option{
		millrace.SeedBrokers(strings.Split(c.brokers, ",")...),
		millrace.CommitInterval(c.commit),
		millrace.Logger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))),
	}
	switch c.guarantee {
	case "exactly_once":
	case "at_least_once":
		opts = append(opts, millrace.ProcessingGuarantee(millrace.AtLeastOnce))
	default:
		return nil, flagError{"-guarantee", c.guarantee, "exactly_once, at_least_once"}
	}
	if c.static != "" {
		opts = append(opts, millrace.InstanceName(c.static), millrace.StaticMembership())
	}
	switch c.engine {
	case "pebble":
	case "memory":
		opts = append(opts, millrace.MemoryStores())
	default:
		return nil, flagError{"-store", c.engine, "pebble, memory"}
	}
	if c.state != "" {
		opts = append(opts, millrace.StateDir(c.state))
	}
	if c.session != 0 {
		opts = append(opts, millrace.SessionTimeout(c.session), millrace.HeartbeatInterval(min(c.session/3, time.Second)))
	}
	if c.workers != 0 {
		opts = append(opts, millrace.Workers(c.workers))
	}
	if c.memory != 0 {
		opts = append(opts, millrace.MemoryLimit(c.memory))
	}
	codec, known := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}[c.compression]
	switch {
	case known:
		opts = append(opts, millrace.ClientOptions(kgo.ProducerBatchCompression(codec)))
	case c.compression != "":
		return nil, flagError{"-compression", c.compression, "none, snappy, lz4, zstd"}
	}
	return opts, nil
}

func writeHeapProfile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	runtime.GC()
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}
