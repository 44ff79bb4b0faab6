// Watermill is a workload of the benchmark on the library of that name, as its Kafka guide shows it: a subscriber in a group, a
// handler for each message, a publisher that waits for the broker's answer. It is at least once. The library has no state, so the
// counts are in a map and are lost with the process: what it does is less than what the others do.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "watermill:", err)
		os.Exit(1)
	}
	fmt.Println(`{"event":"done"}`)
}

func run(ctx context.Context) error {
	handlers := map[string]message.HandlerFunc{"pass": pass, "map": upper, "count": newCounter().count}
	handler, ok := handlers[os.Getenv("BENCH_WORKLOAD")]
	if !ok {
		return fmt.Errorf("BENCH_WORKLOAD is %q, which is none of pass, map, count", os.Getenv("BENCH_WORKLOAD"))
	}
	brokers := strings.Split(os.Getenv("BENCH_BROKERS"), ",")
	commit, err := milliseconds("BENCH_COMMIT_MS")
	if err != nil {
		return err
	}
	session, err := milliseconds("BENCH_SESSION_MS")
	if err != nil {
		return err
	}
	log := watermill.NewSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))

	in := kafka.DefaultSaramaSubscriberConfig()
	in.Version = sarama.V2_8_0_0 // the library's own is older than what Kafka 4 understands
	in.Consumer.Offsets.Initial = sarama.OffsetOldest
	in.Consumer.IsolationLevel = sarama.ReadCommitted
	in.Consumer.Offsets.AutoCommit.Interval = commit
	if session > 0 {
		in.Consumer.Group.Session.Timeout = session
		in.Consumer.Group.Heartbeat.Interval = min(session/3, 3*time.Second)
	}
	subscriber, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers: brokers, ConsumerGroup: os.Getenv("BENCH_APP"), Unmarshaler: kafka.DefaultMarshaler{}, OverwriteSaramaConfig: in,
	}, log)
	if err != nil {
		return err
	}
	out := kafka.DefaultSaramaSyncPublisherConfig()
	out.Version = sarama.V2_8_0_0
	out.Producer.Compression = sarama.CompressionNone
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers, Marshaler: keyed{}, OverwriteSaramaConfig: out}, log)
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 5 * time.Second}, log)
	if err != nil {
		return err
	}
	router.AddHandler("bench", os.Getenv("BENCH_IN"), subscriber, os.Getenv("BENCH_OUT"), publisher, handler)
	return errors.Join(router.Run(ctx), publisher.Close())
}

func milliseconds(name string) (time.Duration, error) {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is %q, which is no number from 0", name, os.Getenv(name))
	}
	return time.Duration(n) * time.Millisecond, nil
}

// keyed writes messages with the key of the one they come from, and without the library's headers.
type keyed struct{}

func (keyed) Marshal(topic string, m *message.Message) (*sarama.ProducerMessage, error) {
	key, ok := kafka.MessageKeyFromCtx(m.Context())
	if !ok {
		return nil, errors.New("a message without a key")
	}
	return &sarama.ProducerMessage{Topic: topic, Key: sarama.ByteEncoder(key), Value: sarama.ByteEncoder(m.Payload)}, nil
}

// from is an output of m: its context has the key.
func from(m *message.Message, payload []byte) []*message.Message {
	o := message.NewMessage("", payload)
	o.SetContext(m.Context())
	return []*message.Message{o}
}

func pass(m *message.Message) ([]*message.Message, error) { return from(m, m.Payload), nil }

func upper(m *message.Message) ([]*message.Message, error) {
	key, _ := kafka.MessageKeyFromCtx(m.Context())
	if len(key) == 0 || key[len(key)-1]&1 == 1 {
		return nil, nil
	}
	up := make([]byte, len(m.Payload))
	for i, c := range m.Payload {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		up[i] = c
	}
	return from(m, up), nil
}

// counter counts keys in memory. The router calls it for several partitions at once.
type counter struct {
	mu     sync.Mutex
	counts map[string]uint64
}

func newCounter() *counter { return &counter{counts: map[string]uint64{}} }

func (c *counter) count(m *message.Message) ([]*message.Message, error) {
	key, _ := kafka.MessageKeyFromCtx(m.Context())
	c.mu.Lock()
	c.counts[string(key)]++
	n := c.counts[string(key)]
	c.mu.Unlock()
	return from(m, binary.BigEndian.AppendUint64(nil, n)), nil
}
