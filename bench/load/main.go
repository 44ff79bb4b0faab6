// Load makes a topic and fills it with the input of a benchmark, for runs by hand:
//
//	go run ./bench/load -brokers 127.0.0.1:9092 -topic in -dist zipf -keys 100000 -records 2000000
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "seed brokers, host:port, comma separated")
	topic := flag.String("topic", "", "topic to make and fill")
	out := flag.String("out", "", "output topic to make, empty (none if not given)")
	again := flag.Bool("again", false, "delete the topics first if they are there")
	s := workload.Spec{}
	flag.StringVar(&s.Dist, "dist", "zipf", "zipf (s=1.01), uniform, or each (every key once per round)")
	flag.IntVar(&s.Keys, "keys", 100_000, "number of keys")
	flag.IntVar(&s.Records, "records", 2_000_000, "number of records")
	flag.IntVar(&s.ValueBytes, "value", 100, "bytes of a value")
	flag.IntVar(&s.Partitions, "partitions", 4, "number of partitions")
	flag.Int64Var(&s.Seed, "seed", 42, "seed of the order of keys")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := load(ctx, strings.Split(*brokers, ","), *topic, *out, *again, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func load(ctx context.Context, brokers []string, topic, out string, again bool, s workload.Spec) error {
	if topic == "" {
		return fmt.Errorf("-topic is missing")
	}
	if err := s.Check(); err != nil {
		return err
	}
	topics := []string{topic}
	if out != "" {
		topics = append(topics, out)
	}
	if err := workload.Create(ctx, brokers, s.Partitions, nil, again, topics...); err != nil {
		return err
	}
	start := time.Now()
	last := start
	distinct, err := workload.Fill(ctx, brokers, topic, s, func(n int) {
		if time.Since(last) > time.Second {
			last = time.Now()
			fmt.Fprintf(os.Stderr, "%d of %d records\n", n, s.Records)
		}
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d records, %d keys, %s\n", topic, s.Records, distinct, time.Since(start).Round(time.Millisecond))
	return nil
}
