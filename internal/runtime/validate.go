package runtime

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/txn"
)

// maxAppID leaves room for "-<store>-changelog" within Kafka's 249 characters of a topic name.
const maxAppID = 100

// Validate checks the configuration without talking to anybody and returns every mistake at once.
func (c *Config) Validate() error {
	var errs []error
	bad := func(code, thing, value, reason, remedy string) {
		errs = append(errs, &fault.Error{Code: code, Kind: fault.Config, Thing: thing, Value: value, Reason: reason, Remedy: remedy})
	}

	c.connection(bad)
	if c.Topology == nil {
		bad("config/topology", "topology", "", "is nil", "pass what Build returned, after looking at its error")
	}
	if c.Instance != "" {
		if reason := illegalName(c.Instance, 200); reason != "" {
			bad("config/instance-name", "instance name", c.Instance, reason, "use letters, digits, '.', '_' or '-'")
		}
	}
	if c.Static && c.Instance == "" && c.Memory {
		bad("config/static-membership", "static membership", "", "needs a name that outlives the process, and memory stores keep none",
			"add millrace.InstanceName, or a state directory, which keeps one")
	}
	if c.Workers < 0 || c.Workers > 1024 || c.WorkersSet && c.Workers == 0 {
		bad("config/workers", "workers", fmt.Sprint(c.Workers), "must be between 1 and 1024",
			fmt.Sprintf("leave it out for one per CPU (%d here)", goruntime.GOMAXPROCS(0)))
	}
	if c.StateDir == "" && !c.Memory {
		bad("config/state-dir", "state directory", "", "none given",
			"add millrace.StateDir(path), a directory that survives restarts, or millrace.MemoryStores()")
	}
	if c.StateDir != "" && c.Memory {
		bad("config/state-dir", "state directory", c.StateDir, "given together with MemoryStores", "choose one of the two")
	}
	if c.ReplicationSet && (c.ReplicationFactor < 1 || c.ReplicationFactor > 1<<15-1) {
		bad("config/replication-factor", "replication factor", fmt.Sprint(c.ReplicationFactor), "must be at least 1",
			"leave it out to take the brokers' default")
	}

	if c.Guarantee != txn.ExactlyOnce && c.Guarantee != txn.AtLeastOnce {
		bad("config/guarantee", "guarantee", fmt.Sprint(uint8(c.Guarantee)), "is none of the two", "use millrace.ExactlyOnce or millrace.AtLeastOnce")
	}
	positive := func(code, thing string, d time.Duration) bool {
		if d <= 0 {
			bad(code, thing, d.String(), "must be greater than zero", "leave it out for the default")
			return false
		}
		return true
	}
	commit := positive("config/commit-interval", "commit interval", c.CommitInterval)
	txn := positive("config/transaction-timeout", "transaction timeout", c.TransactionTimeout)
	if commit && txn && c.CommitInterval >= c.TransactionTimeout/2 {
		bad("config/commit-interval", "commit interval", c.CommitInterval.String(),
			fmt.Sprintf("must be below half of the transaction timeout (%s)", c.TransactionTimeout),
			"shorten the interval or lengthen millrace.TransactionTimeout")
	}
	if txn && c.TransactionTimeout > 1<<31*time.Millisecond {
		bad("config/transaction-timeout", "transaction timeout", c.TransactionTimeout.String(), "does not fit Kafka's 32 bits of milliseconds", "use less than 24 days")
	}
	if c.MinCommitPause < 0 || txn && c.MinCommitPause >= c.TransactionTimeout/2 {
		bad("config/min-commit-pause", "least pause between commits", c.MinCommitPause.String(),
			fmt.Sprintf("must not be negative, and be below half of the transaction timeout (%s)", c.TransactionTimeout), "leave it out for none")
	}
	if c.CommitRecords < 0 || c.CommitBytes < 0 {
		bad("config/commit-bounds", "bound of an epoch", fmt.Sprintf("%d records, %d bytes", c.CommitRecords, c.CommitBytes), "must not be negative",
			"leave it out for none")
	}
	if c.MaxAborts < 0 {
		bad("config/max-aborts", "consecutive aborts", fmt.Sprint(c.MaxAborts), "must not be negative", "leave it out to try again for ever")
	}
	session := positive("config/session-timeout", "session timeout", c.SessionTimeout)
	heartbeat := positive("config/heartbeat-interval", "heartbeat interval", c.HeartbeatInterval)
	if session && heartbeat && c.HeartbeatInterval > c.SessionTimeout/3 {
		bad("config/heartbeat-interval", "heartbeat interval", c.HeartbeatInterval.String(),
			fmt.Sprintf("must be at most a third of the session timeout (%s)", c.SessionTimeout),
			"one lost heartbeat must not cost the membership")
	}
	positive("config/rebalance-timeout", "rebalance timeout", c.RebalanceTimeout)
	positive("config/shutdown-timeout", "shutdown timeout", c.ShutdownTimeout)
	positive("config/slow-handler", "slow handler threshold", c.SlowHandler)

	positive("config/stats-interval", "stats interval", c.StatsInterval)
	if reason, remedy := c.Metrics.refused(); reason != "" {
		bad("config/metrics-listener", "metrics listener", c.Metrics.Listen, reason, remedy)
	}

	if c.MemoryLimit <= 0 {
		bad("config/memory-limit", "memory limit", fmt.Sprint(c.MemoryLimit), "must be greater than zero", "leave it out for 512 MiB")
	}
	if reason := c.OnError.Mistake(); reason != "" {
		bad("policy/retry", "millrace.OnError", c.OnError.String(), reason,
			"use processor.Retry with at least one try, a pause that is not negative, and Fail, Skip or DeadLetter after it")
	}
	if c.OnError.Topic != "" {
		if reason := illegalName(c.OnError.Topic, 249); reason != "" {
			bad("config/dead-letter", "dead letter topic", c.OnError.Topic, reason, "name an existing topic")
		}
	}
	return errors.Join(errs...)
}

// ValidateConnection checks what is needed to talk to the cluster about an application.
func (c *Config) ValidateConnection() error {
	var errs []error
	c.connection(func(code, thing, value, reason, remedy string) {
		errs = append(errs, &fault.Error{Code: code, Kind: fault.Config, Thing: thing, Value: value, Reason: reason, Remedy: remedy})
	})
	return errors.Join(errs...)
}

func (c *Config) connection(bad func(code, thing, value, reason, remedy string)) {
	if reason := illegalName(c.App, maxAppID); reason != "" {
		bad("config/app-id", "application id", c.App, reason,
			"use 1 to 100 letters, digits, '.', '_' or '-': it names the consumer group and is the prefix of topics")
	}
	if len(c.Brokers) == 0 {
		bad("config/brokers", "seed brokers", "", "none given", "add millrace.SeedBrokers(\"host:9092\")")
	}
	for _, b := range c.Brokers {
		if strings.TrimSpace(b) == "" {
			bad("config/brokers", "seed broker", b, "is empty", "name each broker as host:port")
		}
	}
}

// refused says why there can be no listener at the address, and what to do about it.
func (m *Metrics) refused() (reason, remedy string) {
	if m.Listen == "" {
		return "", ""
	}
	host, port, err := net.SplitHostPort(m.Listen)
	if err != nil {
		return "is no host:port", "write it as 127.0.0.1:9600; port 0 takes a free one"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || port != strconv.FormatUint(n, 10) {
		return fmt.Sprintf("has the port %q", port), "use 0 to 65535; 0 takes a free one"
	}
	ip, err := netip.ParseAddr(host)
	if m.Remote || host == "localhost" || err == nil && ip.Unmap().IsLoopback() {
		return "", ""
	}
	return "is not a loopback address: whoever reaches it reads names of topics, sizes and texts of errors, without a password",
		"use 127.0.0.1, or add millrace.MetricsRemote() where the network keeps strangers out"
}

// illegalName says why s cannot be part of Kafka's names, or "".
func illegalName(s string, most int) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > most:
		return fmt.Sprintf("is longer than %d characters", most)
	case s == "." || s == "..":
		return "is not a name"
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return fmt.Sprintf("has the character %q", r)
		}
	}
	return ""
}
