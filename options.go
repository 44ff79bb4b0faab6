package millrace

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/millrace-io/millrace/internal/clock"
	"github.com/millrace-io/millrace/internal/runtime"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/txn"
)

// Option sets one thing about an App. All options are checked together by New.
type Option interface{ apply(*runtime.Config) }

type option func(*runtime.Config)

func (o option) apply(c *runtime.Config) { o(c) }

// --- connection ---

// SeedBrokers names brokers to begin with, as host:port. Required.
func SeedBrokers(addrs ...string) Option {
	return option(func(c *runtime.Config) { c.Brokers = append(c.Brokers, addrs...) })
}

// TLS speaks TLS to the brokers. c is cloned for each connection.
func TLS(t *tls.Config) Option {
	return option(func(c *runtime.Config) { c.TLS = t.Clone() })
}

// SASL authenticates with the first mechanism the broker supports.
func SASL(mechanisms ...sasl.Mechanism) Option {
	return option(func(c *runtime.Config) { c.SASL = append(c.SASL, mechanisms...) })
}

// ClientOptions are added to every Kafka client of the application: dialers, rack ids, client hooks. What millrace itself
// depends on (isolation level, group, transactional id, partitioner, offsets) is set after them and wins.
func ClientOptions(opts ...kgo.Opt) Option {
	return option(func(c *runtime.Config) { c.Client = append(c.Client, opts...) })
}

// --- identity ---

// InstanceName names this instance; it becomes part of its transactional ids, so no two running instances of an
// application may share one. Default: a UUID kept in the state directory. It may not contain ':'.
func InstanceName(name string) Option {
	return option(func(c *runtime.Config) { c.Instance = name })
}

// Workers is the number of goroutines that process records; each commits its tasks in transactions of its own.
// Default GOMAXPROCS.
func Workers(n int) Option {
	return option(func(c *runtime.Config) { c.Workers = n; c.WorkersSet = true })
}

// --- state ---

// StateDir is where local state is kept, a directory only this user may write. Required, unless MemoryStores is given.
func StateDir(dir string) Option {
	return option(func(c *runtime.Config) { c.StateDir = dir })
}

// MemoryStores keeps state in memory only: every start restores it from the changelogs. Same contract, same changelogs.
func MemoryStores() Option {
	return option(func(c *runtime.Config) { c.Memory = true })
}

// MemoryLimit bounds what the application holds: block cache, memtables, uncommitted state, fetched and produced
// records. Default 512 MiB. New refuses less than the topology needs. GOMEMLIMIT is set from it unless it is set already.
func MemoryLimit(bytes int64) Option {
	return option(func(c *runtime.Config) { c.MemoryLimit = bytes })
}

// ReplicationFactor of the topics millrace creates. Default: the brokers' default.
func ReplicationFactor(n int) Option {
	return option(func(c *runtime.Config) { c.ReplicationFactor = n; c.ReplicationSet = true })
}

// AcceptOffsets lets the application start although somebody moved the group's offsets away from what its state says:
// forward leaves the records in between out, backward counts them twice. Without it such a start is refused.
func AcceptOffsets() Option {
	return option(func(c *runtime.Config) { c.AcceptOffsets = true })
}

// StaticMembership makes the instance a static member of the group: its name is the group.instance.id. A process that dies
// and is started again under its name within the session timeout is given its tasks back at once, without a rebalance; the
// other instances see nothing of it. The price is that the group knows a restart from a death, or from a Close, by the session
// timeout alone: Close does not leave the group, and the tasks of an instance that does not come back run nowhere until then.
// SessionTimeout must therefore be longer than a restart takes. Two processes under one name: the one that came first ends
// with group/duplicate-instance. Needs InstanceName or StateDir.
func StaticMembership() Option {
	return option(func(c *runtime.Config) { c.Static = true })
}

// --- commit ---

// Guarantee is what an application promises about every record of its input.
type Guarantee = txn.Guarantee

// The guarantees.
const (
	// ExactlyOnce: every input record is reflected once in state and in what a read_committed consumer sees.
	ExactlyOnce = txn.ExactlyOnce
	// AtLeastOnce: every input record is reflected once or, after a failure, several times, in state and in outputs, which
	// every consumer sees as soon as they are written. No transactions are used.
	AtLeastOnce = txn.AtLeastOnce
)

// ProcessingGuarantee chooses what the application promises. Default ExactlyOnce. All instances of an application promise the same: one
// that does not is refused. To change it, stop all instances, and start them with the other.
func ProcessingGuarantee(g Guarantee) Option {
	return option(func(c *runtime.Config) { c.Guarantee = g })
}

// CommitInterval is how long an epoch is kept open while records flow. Default 100 ms. Shorter lowers latency and raises
// the work of the brokers. It must be below half of the transaction timeout.
func CommitInterval(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.CommitInterval = d })
}

// CommitRecords bounds an epoch by the records in it: with n of them it is committed before its interval is over. Default 0: no bound.
func CommitRecords(n int) Option {
	return option(func(c *runtime.Config) { c.CommitRecords = int64(n) })
}

// CommitBytes bounds an epoch by the state and the outputs that it holds in memory: with about so many bytes a worker commits before
// the interval is over. Default 0: no bound but the share that MemoryLimit leaves for it.
func CommitBytes(n int64) Option {
	return option(func(c *runtime.Config) { c.CommitBytes = n })
}

// MinCommitPause is the least time between the end of a worker's commit and the beginning of the next one that only the commit
// interval asks for. It spares brokers that take long to commit. A bound (CommitRecords, CommitBytes, memory, half of the transaction
// timeout) and a task that has to go do not wait for it. Default 0. It must be below half of the transaction timeout.
func MinCommitPause(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.MinCommitPause = d })
}

// MaxConsecutiveAborts ends the instance when n epochs of a worker in a row were aborted: Run then returns an *Error
// "txn/too-many-aborts" that wraps the last cause. Epochs that were aborted because a task had to go do not count, nor do those that
// find out which record the brokers refuse. Default 0: an aborted epoch is tried again for ever, with pauses of up to 10 s, and shows
// in hooks and metrics.
func MaxConsecutiveAborts(n int) Option {
	return option(func(c *runtime.Config) { c.MaxAborts = n })
}

// Pipelining is whether a worker goes on with the next records while what it did is being committed, through a second
// transactional producer. Default true. Without it a worker stands still for each commit, holds one set of produce buffers
// instead of two, and gives the same results.
func Pipelining(on bool) Option {
	return option(func(c *runtime.Config) { c.Pipelining = on })
}

// TransactionTimeout is how long a broker keeps an open transaction of an instance that went silent and that nobody
// takes over. Default 60 s. At half of it an epoch is committed whatever else happens; it must not exceed the broker's
// transaction.max.timeout.ms.
func TransactionTimeout(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.TransactionTimeout = d })
}

// --- group ---

// SessionTimeout is how long the group waits for a silent member before its tasks are given to others. Default 10 s.
func SessionTimeout(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.SessionTimeout = d })
}

// HeartbeatInterval is how often the member tells the group it is alive, and so how soon it learns of a rebalance.
// Default 1 s; at most a third of the session timeout.
func HeartbeatInterval(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.HeartbeatInterval = d })
}

// RebalanceTimeout is how long members have to hand over their tasks. Default 60 s.
func RebalanceTimeout(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.RebalanceTimeout = d })
}

// ShutdownTimeout is the budget of a graceful stop: commit, flush, leave the group. Default 30 s. What has not been
// committed by then is aborted and will be processed again.
func ShutdownTimeout(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.ShutdownTimeout = d })
}

// --- failures and watching ---

// OnError is the policy of nodes that have none of their own. Default processor.Fail().
func OnError(p processor.Policy) Option {
	return option(func(c *runtime.Config) { c.OnError = p })
}

// Logger receives the application's log. Default slog.Default(). Payloads are never logged.
func Logger(l *slog.Logger) Option {
	return option(func(c *runtime.Config) { c.Log = l })
}

// Observe adds a set of hooks. May be given several times.
func Observe(h observe.Hooks) Option {
	return option(func(c *runtime.Config) { c.Hooks = append(c.Hooks, h) })
}

// StatsInterval is how often hooks that ask for all figures (observe.Hooks.Stats) are called. Default 10 s.
func StatsInterval(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.StatsInterval = d })
}

// MetricsListener serves http://addr/metrics for Prometheus and http://addr/describe (JSON; ?as=text for people) while Run runs, from before
// anything is restored. addr is a loopback address, as "127.0.0.1:9600"; port 0 takes a free one, which MetricsAddr tells. Anything
// else is refused unless MetricsRemote is given. Default: no listener. A program that has a Prometheus registry of its own
// registers prom.New(app) there instead.
func MetricsListener(addr string) Option {
	return option(func(c *runtime.Config) { c.Metrics.Listen = addr })
}

// MetricsRemote lets the metrics listener have an address that other machines reach, as ":9600". There is no password and no TLS: whoever
// gets through reads names of topics and stores, sizes, offsets, and the texts of errors, those of user code included.
func MetricsRemote() Option {
	return option(func(c *runtime.Config) { c.Metrics.Remote = true })
}

// MetricsPerTask has the metrics listener export series for every task instead of sums for each subtopology: about 30 series a
// task, and 8 more for each of its stores.
func MetricsPerTask() Option {
	return option(func(c *runtime.Config) { c.Metrics.PerTask = true })
}

// SlowHandler is how long one call of user code may take before it is reported with its stack. Default 10 s.
func SlowHandler(d time.Duration) Option {
	return option(func(c *runtime.Config) { c.SlowHandler = d })
}

// Clock replaces the wall clock as the source of processing time.
func Clock(now func() time.Time) Option {
	return option(func(c *runtime.Config) { c.Clock = clock.Func(now) })
}
