// Package kafkatest gives tests a Kafka cluster: the embedded broker, or a real one in a container.
//
// A real one is the cluster that MILLRACE_TEST_BROKERS lists, else a broker of the image MILLRACE_TEST_KAFKA_IMAGE names (default
// apache/kafka:4.4.0), started once per test process and gone when the process is, however it ends. Without either the test
// fails: what was not tested on Kafka was not tested.
//
// Only tests import it.
package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/devkafka"
)

// The environment variables that choose the real cluster.
const (
	EnvBrokers = "MILLRACE_TEST_BROKERS"     // host:port, comma separated: use this one, start none
	EnvImage   = "MILLRACE_TEST_KAFKA_IMAGE" // image of the container
)

// DefaultImage is the image of a real broker where the environment names none.
const DefaultImage = "apache/kafka:4.4.0"

const remedy = "run `make test`, or `itest/kafka/up.sh` once (it installs an engine and an image where there are none), or set " +
	EnvBrokers + " to a cluster that may be written to"

// Cluster is a running Kafka cluster. Its methods may be called by any goroutine.
type Cluster struct {
	addrs  []string
	broker *container // nil: not ours to pause or kill
}

// Addrs are the seed brokers. They stay the same over Kill and Start.
func (c *Cluster) Addrs() []string { return slices.Clone(c.addrs) }

// Controllable reports whether Pause, Unpause, Kill and Start work: the cluster is a container of this process.
func (c *Cluster) Controllable() bool { return c.broker != nil }

// Embedded starts an embedded broker with its data in memory; it ends with the test.
func Embedded(t testing.TB) *Cluster {
	t.Helper()
	b, err := devkafka.Start(devkafka.Options{MinSessionTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &Cluster{addrs: b.Addrs()}
}

// shared is the real cluster of this process.
var shared struct {
	sync.Mutex
	cluster *Cluster
	err     error
}

// Real returns the real cluster of this test process. Topics, groups and transactional ids are shared with every other test:
// give them names of their own.
func Real(t testing.TB) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		shared.cluster, shared.err = real()
	}
	if shared.err != nil {
		t.Fatalf("no real Kafka: %v; %s", shared.err, remedy)
	}
	return shared.cluster
}

func real() (*Cluster, error) {
	if list := os.Getenv(EnvBrokers); list != "" {
		c := &Cluster{}
		for _, addr := range strings.Split(list, ",") {
			if addr = strings.TrimSpace(addr); addr != "" {
				c.addrs = append(c.addrs, addr)
			}
		}
		if len(c.addrs) == 0 {
			return nil, fmt.Errorf("%s is %q: not a list of host:port", EnvBrokers, list)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := answers(ctx, c.addrs); err != nil {
			return nil, fmt.Errorf("%s is %q: %w", EnvBrokers, list, err)
		}
		return c, nil
	}
	b, err := startContainer(context.Background())
	if err != nil {
		return nil, err
	}
	return &Cluster{addrs: []string{b.addr}, broker: b}, nil
}

// Own starts a real broker in a container for this test alone, whatever MILLRACE_TEST_BROKERS says; it ends with the test. It takes
// about six seconds, so it is for tests that pause or kill it.
func Own(t testing.TB) *Cluster {
	t.Helper()
	b, err := startContainer(t.Context())
	if err != nil {
		t.Fatalf("no broker of its own: %v; %s", err, remedy)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.remove(ctx); err != nil {
			t.Errorf("kafkatest: remove the broker: %v", err)
		}
	})
	return &Cluster{addrs: []string{b.addr}, broker: b}
}

// Pause freezes the broker: connections stay open, nothing is answered.
func (c *Cluster) Pause(t testing.TB) { c.do(t, "pause", (*container).pause) }

// Unpause ends Pause and waits until the broker answers.
func (c *Cluster) Unpause(t testing.TB) { c.do(t, "unpause", (*container).unpause) }

// Kill ends the broker with SIGKILL. Its data stays.
func (c *Cluster) Kill(t testing.TB) { c.do(t, "kill", (*container).kill) }

// Start starts a killed broker on its data and waits until it answers. Groups and transactions need some seconds more: the
// broker waits for its own former session to end.
func (c *Cluster) Start(t testing.TB) { c.do(t, "start", (*container).start) }

func (c *Cluster) do(t testing.TB, what string, f func(*container, context.Context) error) {
	t.Helper()
	if c.broker == nil {
		t.Fatalf("kafkatest: cannot %s a broker that this process did not start (is %s set?)", what, EnvBrokers)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := f(c.broker, ctx); err != nil {
		t.Fatalf("kafkatest: %s the broker: %v", what, err)
	}
}

// answers waits until a cluster lists its brokers, or until ctx is done.
func answers(ctx context.Context, addrs []string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DialTimeout(time.Second), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		m, err := kadm.NewClient(cl).BrokerMetadata(try)
		cancel()
		if err == nil && len(m.Brokers) > 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no answer from %s: %w", strings.Join(addrs, ", "), errors.Join(err, ctx.Err()))
		}
	}
}
