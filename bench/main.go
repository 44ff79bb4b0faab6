// Bench measures millrace beside bare loops on the Kafka client and beside other systems that do the same work, on one broker, in
// turns, and prints medians and ratios.
//
//	go run ./bench                              every figure but the long ones, on a real broker in a container
//	go run ./bench -brokers 127.0.0.1:9092      on a broker of yours
//	go run ./bench -only count,latency -runs 1  some of it; the other figures of the report stay as they are
//	go run ./bench -peers                       with Kafka Streams, Flink and the Go libraries
//
// Standard output gets a line of JSON for each run and then the tables. The directory -out gets results.json with all runs, RESULTS.md
// with the tables, and a picture for each figure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

type config struct {
	brokers   string
	brokerPid int
	embedded  bool
	only      string
	programs  string
	peers     bool
	quick     bool
	scale     float64
	runs      int
	workers   int
	session   time.Duration
	kill      string
	memoryFor time.Duration
	rates     string
	commits   string
	measure   time.Duration
	timeout   time.Duration
	disk      int64
	prefix    string
	out       string
	asked     string // the command, for the report
}

func flags(args []string) (config, error) {
	c := config{asked: strings.Join(append([]string{"go run ./bench"}, args...), " ")}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&c.brokers, "brokers", "", "use this cluster (host:port, comma separated) instead of a container")
	f.IntVar(&c.brokerPid, "broker-pid", 0, "with -brokers: process whose CPU time is the broker's")
	f.BoolVar(&c.embedded, "embedded", false, "use the embedded broker in a process of its own; its figures are not Kafka's, and go into no file unless -out says so")
	f.StringVar(&c.only, "only", "", "figures to measure, comma separated: "+strings.Join(figureNames(), ", ")+" (default all but memory)")
	f.StringVar(&c.programs, "programs", "", "programs to measure, comma separated (default all that a figure is about)")
	f.BoolVar(&c.peers, "peers", false, "with the other systems, in the figures in which they take part (and only those figures, without -only)")
	f.BoolVar(&c.quick, "quick", false, "a tenth of the records, one run, the main figures; nothing is written unless -out says so")
	f.Float64Var(&c.scale, "scale", 1, "of the number of records and keys; another than 1 is written nowhere unless -out says so")
	f.IntVar(&c.runs, "runs", 3, "repetitions, in turns")
	f.IntVar(&c.workers, "workers", 0, "workers of millrace (0: one per processor)")
	f.DurationVar(&c.session, "session", 6*time.Second, "session timeout: how long a restart waits for the dead instance")
	f.StringVar(&c.kill, "kill", "0.1,1", "of figure kill: GB of state, comma separated; 5 takes some minutes")
	f.DurationVar(&c.memoryFor, "memory-for", 10*time.Minute, "of figure memory: how long")
	f.StringVar(&c.rates, "rates", "1000,20000,100000", "of figure latency: records per second, comma separated")
	f.StringVar(&c.commits, "commits", "10ms,100ms,1s", "of figure latency: commit intervals, comma separated")
	f.DurationVar(&c.measure, "measure", 8*time.Second, "of figure latency: how long it is measured, after the warm-up")
	f.DurationVar(&c.timeout, "timeout", 3*time.Minute, "of one run")
	f.Int64Var(&c.disk, "disk", 0, "bytes of disk that one input and its run may take (0: what is free but for 2 GiB)")
	f.StringVar(&c.prefix, "prefix", "", "of the names of topics and groups (default bench-<time of day>)")
	f.StringVar(&c.out, "out", "bench", "directory for the report; empty: none")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if c.quick {
		c.runs, c.scale, c.measure = 1, c.scale/10, min(c.measure, 4*time.Second)
		if !given["kill"] {
			c.kill = "0.1"
		}
		if !given["rates"] {
			c.rates = "20000"
		}
	}
	if (c.quick || c.embedded || c.scale != 1) && !given["out"] {
		c.out = ""
	}
	if c.prefix == "" {
		c.prefix = "bench-" + time.Now().Format("150405")
	}
	return c, c.check(f.Args())
}

// check tells all mistakes at once.
func (c *config) check(more []string) error {
	var wrong []error
	for _, name := range list(c.only) {
		if !slices.Contains(figureNames(), name) {
			wrong = append(wrong, fmt.Errorf("-only: %q is none of %s", name, strings.Join(figureNames(), ", ")))
		}
	}
	names := c.programNames()
	for _, name := range list(c.programs) {
		if !slices.Contains(names, name) {
			wrong = append(wrong, fmt.Errorf("-programs: %q is none of %s", name, strings.Join(names, ", ")))
		}
	}
	if c.runs < 1 || c.scale <= 0 {
		wrong = append(wrong, errors.New("-runs must be at least 1, -scale more than 0"))
	}
	for _, number := range []struct{ name, value string }{{"kill", c.kill}, {"rates", c.rates}} {
		if _, err := numbers(number.value); err != nil {
			wrong = append(wrong, fmt.Errorf("-%s: %w", number.name, err))
		}
	}
	if _, err := durations(c.commits); err != nil {
		wrong = append(wrong, fmt.Errorf("-commits: %w", err))
	}
	if len(more) > 0 {
		wrong = append(wrong, fmt.Errorf("what is %q?", more))
	}
	return errors.Join(wrong...)
}

// list takes a flag with commas apart; an empty one has nothing in it.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func numbers(s string) (all []float64, err error) {
	for _, one := range list(s) {
		var n float64
		if _, err := fmt.Sscan(one, &n); err != nil || n <= 0 {
			return nil, fmt.Errorf("%q is not a number above 0", one)
		}
		all = append(all, n)
	}
	return all, nil
}

func durations(s string) (all []time.Duration, err error) {
	for _, one := range list(s) {
		d, err := time.ParseDuration(one)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("%q is not a time above 0", one)
		}
		all = append(all, d)
	}
	return all, nil
}

func (c *config) programNames() (names []string) {
	for _, p := range append(c.ours(), peers()...) {
		names = append(names, p.name)
	}
	return names
}

func main() {
	c, err := flags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, c, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// say tells a person what is going on.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
