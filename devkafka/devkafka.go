// Package devkafka is a Kafka broker inside your process: for a first try without anything installed, and for tests. It
// speaks the real protocol, transactions and consumer groups included, keeps its data in a directory if it is given one,
// and listens on the loopback interface only. It is not for production: one machine, one copy, no replication.
package devkafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
)

// Options say what to start. The zero value is one broker on a free port, with its data in memory.
type Options struct {
	// Dir keeps topics, groups and transactions over restarts; it is made if it is not there. Empty: in memory only.
	Dir string
	// Port to listen on; 0 takes a free one. With several brokers they take this and the ports after it.
	Port int
	// Brokers is how many there are, default 1.
	Brokers int
	// Partitions of topics that are created without a number, default 4.
	Partitions int
	// Topics to create, with their partition counts (0: the default). One that is already in Dir stays as it is.
	Topics map[string]int32
	// MinSessionTimeout is the shortest session timeout of a group member, default 6 s as in Kafka.
	MinSessionTimeout time.Duration
	// Log gets the broker's warnings; nil discards them.
	Log *slog.Logger
}

// Broker is a running embedded broker. Its methods may be called by any goroutine.
type Broker struct {
	cluster *kfake.Cluster
}

// cleanerOff is a back-off of the log cleaner that never passes. The fake's compaction looks at records of open
// transactions when it decides what has been replaced: an aborted write would take the committed value with it
// (TestWhyTheCleanerIsOff). Without it compacted topics grow; for a first try and for tests that is nothing.
const cleanerOff = "315360000000" // ten years, in milliseconds

// Start starts a broker. Topics are never created by merely being asked for.
func Start(o Options) (*Broker, error) {
	brokers := max(o.Brokers, 1)
	partitions := o.Partitions
	if partitions <= 0 {
		partitions = 4
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(brokers),
		kfake.DefaultNumPartitions(partitions),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": cleanerOff}),
	}
	if o.Port > 0 {
		ports := make([]int, brokers)
		for i := range ports {
			ports[i] = o.Port + i
		}
		opts = append(opts, kfake.Ports(ports...))
	}
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("devkafka: data directory: %w", err)
		}
		opts = append(opts, kfake.DataDir(o.Dir))
	}
	if o.MinSessionTimeout > 0 {
		opts = append(opts, kfake.GroupMinSessionTimeout(o.MinSessionTimeout))
	}
	if o.Log != nil {
		opts = append(opts, kfake.WithLogger(logger{o.Log}))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, fmt.Errorf("devkafka: %w", err)
	}
	b := &Broker{cluster}
	for _, name := range slices.Sorted(maps.Keys(o.Topics)) {
		err := b.CreateTopic(name, o.Topics[name], nil)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

// Addrs are the addresses to give to clients as seed brokers.
func (b *Broker) Addrs() []string { return b.cluster.ListenAddrs() }

// CreateTopic creates a topic; partitions 0 is the default number, settings are as in Kafka ("cleanup.policy") and may be
// nil. A topic that exists is kerr.TopicAlreadyExists.
func (b *Broker) CreateTopic(name string, partitions int32, settings map[string]string) error {
	if err := b.cluster.CreateTopic(name, partitions, settings); err != nil {
		return fmt.Errorf("devkafka: create topic %q: %w", name, err)
	}
	return nil
}

// Cluster is the fake behind the broker, for tests that make it misbehave.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker and, if it has a directory, writes everything to it.
func (b *Broker) Close() { b.cluster.Close() }

// logger passes on what a person should see; the fake's chatter about every connection is not that.
type logger struct{ log *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	at := slog.LevelWarn
	switch level {
	case kfake.LogLevelError:
		at = slog.LevelError
	case kfake.LogLevelWarn:
	default:
		return
	}
	l.log.Log(context.Background(), at, fmt.Sprintf(format, args...))
}
