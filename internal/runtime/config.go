// Package runtime is the shell around the kernel: it polls, hands batches to workers, commits, takes part in the group,
// restores and shuts down. Everything that can be decided without I/O is decided in internal/task.
package runtime

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/millrace-io/millrace/internal/clock"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
	"github.com/millrace-io/millrace/txn"
)

// Config is everything an application was told. The root package fills it.
type Config struct {
	App      string
	Topology *topology.Topology

	Brokers []string
	TLS     *tls.Config
	SASL    []sasl.Mechanism
	Client  []kgo.Opt

	Instance   string
	Static     bool // the instance name is the group instance id
	Workers    int
	WorkersSet bool

	StateDir          string
	Memory            bool
	MemoryLimit       int64
	ReplicationFactor int
	ReplicationSet    bool
	AcceptOffsets     bool

	Guarantee          txn.Guarantee
	CommitInterval     time.Duration
	CommitRecords      int64         // an epoch's, at most; 0: no bound
	CommitBytes        int64         // uncommitted, at most about; 0: no bound but the memory's
	MinCommitPause     time.Duration // between the end of a commit and the next that only the interval asks for
	MaxAborts          int           // consecutive, that end the instance; 0: none do
	Pipelining         bool          // fill an epoch while the one before it is committed
	TransactionTimeout time.Duration
	SessionTimeout     time.Duration
	HeartbeatInterval  time.Duration
	RebalanceTimeout   time.Duration
	ShutdownTimeout    time.Duration
	SlowHandler        time.Duration

	OnError processor.Policy
	Log     *slog.Logger
	Hooks   []observe.Hooks
	Clock   clock.Clock

	StatsInterval time.Duration // between two calls of Hooks.Stats
	Metrics       Metrics
	// Alongside is started by Run before anything else and ended when all else has; may be nil.
	Alongside func() (end func(), err error)
}

// Metrics is what the root package's listener was told.
type Metrics struct {
	Listen  string // host:port; "" is off
	Remote  bool   // the address may be reachable from elsewhere
	PerTask bool   // series per task
}

// Defaults are the values of everything a program does not set.
func Defaults() Config {
	return Config{
		MemoryLimit:        512 << 20,
		Guarantee:          txn.ExactlyOnce,
		CommitInterval:     100 * time.Millisecond,
		Pipelining:         true,
		TransactionTimeout: 60 * time.Second,
		SessionTimeout:     10 * time.Second,
		HeartbeatInterval:  time.Second,
		RebalanceTimeout:   60 * time.Second,
		ShutdownTimeout:    30 * time.Second,
		SlowHandler:        10 * time.Second,
		StatsInterval:      10 * time.Second,
		OnError:            processor.Fail(),
		Clock:              clock.System{},
	}
}
