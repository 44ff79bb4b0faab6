// Rawcount is what millrace is measured against: the same transactional work written by hand on the Kafka client, without any
// state. For each record of the input it writes one record to the output and, with -changelog, one to a changelog, and the offsets
// go into the same transaction. It uses the client's own transactional group session in one goroutine, or in several with -loops:
// each then has a client, a transaction and a part of the partitions of its own, as a worker of millrace has. It takes and prints
// what keyedcount does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/measure"
)

type config struct {
	brokers, in, out, changelog, group, compression string
	commit, linger                                  time.Duration
	records                                         int64
	loops, bytes                                    int
}

func main() {
	var c config
	flag.StringVar(&c.brokers, "brokers", "127.0.0.1:9092", "seed brokers, host:port, comma separated")
	flag.StringVar(&c.in, "in", "in", "input topic")
	flag.StringVar(&c.out, "out", "out", "output topic")
	flag.StringVar(&c.changelog, "changelog", "", "changelog topic, with as many partitions as the input (none if not given)")
	flag.StringVar(&c.group, "app", "rawcount", "consumer group, and prefix of the transactional ids")
	flag.DurationVar(&c.commit, "commit", 100*time.Millisecond, "commit interval")
	flag.DurationVar(&c.linger, "linger", 5*time.Millisecond, "linger of the producer; millrace's is 5 ms")
	flag.StringVar(&c.compression, "compression", "none", "none or snappy")
	flag.IntVar(&c.loops, "loops", 1, "goroutines, each with a client and a part of the partitions of its own")
	flag.IntVar(&c.bytes, "bytes", 8, "bytes of a value that is written; more than the input's: the input's")
	flag.Int64Var(&c.records, "records", 0, "stop when this many records were processed and committed (0: never)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, c)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "rawcount:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	codec, ok := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "snappy": kgo.SnappyCompression()}[c.compression]
	if !ok {
		return fmt.Errorf("compression %q is none of none, snappy", c.compression)
	}
	if c.loops < 1 {
		return fmt.Errorf("-loops %d is less than one", c.loops)
	}
	share := newShares(c.loops)
	t := &tally{config: c, out: measure.NewOut(os.Stdout)}
	loops := make([]*loop, c.loops)
	for i := range loops {
		session, err := kgo.NewGroupTransactSession(
			kgo.SeedBrokers(strings.Split(c.brokers, ",")...),
			kgo.ConsumerGroup(c.group),
			kgo.ConsumeTopics(c.in),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.HeartbeatInterval(200*time.Millisecond),
			kgo.MetadataMinAge(10*time.Millisecond), // a first record waits for the second look at its topic
			kgo.TransactionalID(fmt.Sprintf("%s-raw-%d", c.group, i)),
			kgo.ProducerLinger(c.linger),
			kgo.ProducerBatchCompression(codec),
			kgo.MaxBufferedRecords(200_000),
			kgo.RecordPartitioner(partitioner(c.changelog)),
			kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { share.add(i, len(p[c.in])) }),
			kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { share.add(i, -len(p[c.in])) }),
			kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { share.add(i, -len(p[c.in])) }),
		)
		if err != nil {
			return err
		}
		defer session.Close()
		loops[i] = &loop{tally: t, session: session}
	}
	select {
	case <-share.all:
	case <-ctx.Done():
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(loops))
	for i, l := range loops {
		wg.Go(func() {
			defer cancel()
			for ctx.Err() == nil && !t.enough() && errs[i] == nil {
				errs[i] = l.epoch(ctx)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t.say("done")
	return nil
}

// shares waits until each loop has partitions, so that a rebalance is not in the measurement.
type shares struct {
	mu    sync.Mutex
	has   []int
	all   chan struct{}
	ready bool
}

func newShares(loops int) *shares { return &shares{has: make([]int, loops), all: make(chan struct{})} }

func (s *shares) add(loop, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has[loop] += n
	for _, n := range s.has {
		if n <= 0 {
			return
		}
	}
	if !s.ready {
		s.ready = true
		close(s.all)
	}
}
