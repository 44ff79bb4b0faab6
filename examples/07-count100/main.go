// Count100 says of each key when its count reaches a hundred, two hundred and so on. While it counts, it is killed with SIGKILL, several
// times; what comes out is exactly 100, 200, ..., 1000 for every key, each once.
//
//	go run ./examples/07-count100 [-brokers host:port] [-kills n]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/examples/internal/demo"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

var (
	events   = stream.NewTopic("count100-events", serde.String(), serde.Bytes())
	hundreds = stream.NewTopic("count100-hundreds", serde.String(), serde.Int64())
	counts   = store.KeyValue("counts", serde.String(), serde.Int64())
)

// count100 is the topology: a count per key, of which every hundredth goes out.
func count100() (*stream.Topology, error) {
	b := stream.NewBuilder()
	stream.GroupByKey(stream.From(b, events)).
		Count(counts).
		ToStream().
		Filter(func(_ string, n int64) bool { return n%100 == 0 }).
		To(hundreds)
	return b.Build()
}

const (
	keys    = 200
	each    = 1000 // events per key
	results = keys * each / 100
)

// workerEnv makes the program the one that is killed: brokers, then the state directory.
const workerEnv = "COUNT100_WORKER"

var kills = flag.Int("kills", 3, "how often to kill the application")

func main() {
	if what := os.Getenv(workerEnv); what != "" {
		err := work(what)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(millrace.ExitCode(err))
	}
	demo.Main("count100", count100, run)
}

// work runs the application until somebody kills the process, or its standard input ends: whoever started it is gone then.
func work(what string) error {
	brokers, dir, _ := strings.Cut(what, " ")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	top, err := count100()
	if err != nil {
		return err
	}
	app, err := millrace.New("count100", top,
		millrace.SeedBrokers(strings.Split(brokers, ",")...),
		millrace.StateDir(dir),
		millrace.StaticMembership(), // who comes back under its name is not waited for
		millrace.Logger(demo.Quiet(os.Stderr)))
	if err != nil {
		return err
	}
	return errors.Join(app.Run(ctx), app.Close())
}

func run(ctx context.Context, kafka *demo.Kafka, _ *stream.Topology) error {
	fmt.Printf("%s events of %d keys. The application is a process of its own, and is killed %d times.\n", demo.Number(keys*each), keys, *kills)
	worker, err := launch(ctx, kafka)
	if err != nil {
		return err
	}
	defer func() { worker.kill() }()

	var got tally
	began, killed := time.Now(), 0
	follow, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- demo.Send(follow, kafka, events, records()) }()
	err = demo.Follow(ctx, kafka, hundreds, func(r processor.Record[string, int64]) (bool, error) {
		if err := got.add(r.Key, r.Value); err != nil {
			return true, err
		}
		if killed < *kills && got.seen > results*(killed+1)/(*kills+1) {
			killed++
			worker.kill()
			fmt.Printf("  kill -9 after %d results of %d\n", got.seen, results)
			if worker, err = launch(ctx, kafka); err != nil {
				return true, err
			}
		}
		return got.seen == results, nil
	})
	cancel()
	if err = errors.Join(err, <-sent); err != nil {
		return err
	}
	worker.kill()

	all, err := demo.All(ctx, kafka, hundreds)
	if err != nil {
		return err
	}
	if err := compare(all); err != nil {
		return err
	}
	fmt.Printf("%d results, for every key exactly 100, 200, ..., %d, after %d kills (%.1f s).\n", len(all), each, killed, time.Since(began).Seconds())
	return nil
}

// process is a running application.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func launch(ctx context.Context, kafka *demo.Kafka) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), workerEnv+"="+strings.Join(kafka.Addrs, ",")+" "+kafka.StateDir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &process{cmd, stdin}, cmd.Start()
}

// kill is kill -9: no goodbye, no last commit.
func (p *process) kill() {
	if p == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may be dead already
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

func records() iter.Seq2[processor.Record[string, []byte], error] {
	return func(yield func(processor.Record[string, []byte], error) bool) {
		for range each {
			for k := range keys {
				if !yield(processor.Record[string, []byte]{Key: fmt.Sprintf("key-%03d", k), Value: []byte{}}, nil) {
					return
				}
			}
		}
	}
}

// tally is what came so far: the last result of each key.
type tally struct {
	seen int
	last map[string]int64
}

func (t *tally) add(key string, n int64) error {
	if t.last == nil {
		t.last = map[string]int64{}
	}
	if n != t.last[key]+100 {
		return fmt.Errorf("%s went from %d to %d", key, t.last[key], n)
	}
	t.last[key] = n
	t.seen++
	return nil
}

// compare reports the first key whose results are not 100, 200, ..., 1000.
func compare(all []processor.Record[string, int64]) error {
	var t tally
	for _, r := range all {
		if err := t.add(r.Key, r.Value); err != nil {
			return err
		}
	}
	for k := range keys {
		if key := fmt.Sprintf("key-%03d", k); t.last[key] != each {
			return fmt.Errorf("%s ended at %d", key, t.last[key])
		}
	}
	return nil
}
