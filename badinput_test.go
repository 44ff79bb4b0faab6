package millrace_test

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/processor"
)

var rewrite = flag.Bool("rewrite", false, "rewrite golden files")

// quiet is a logger nobody reads.
var quiet = slog.New(slog.DiscardHandler)

// golden compares text with testdata/<name>, after what differs from run to run was made equal.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s differs; look at it, then rewrite with -rewrite if it is right.\ngot:\n%s\nwant:\n%s", path, text, want)
	}
}

// TestBadConfiguration shows every mistake of a configuration at once, with its name, its value and a remedy.
func TestBadConfiguration(t *testing.T) {
	good := []millrace.Option{millrace.SeedBrokers("localhost:9092"), millrace.MemoryStores()}
	cases := []struct {
		name string
		id   string
		opts []millrace.Option
	}{
		{"empty app id", "", good},
		{"illegal app id", "orders/eu", good},
		{"long app id", strings.Repeat("a", 101), good},
		{"dots", "..", good},
		{"no brokers, no state", "app", nil},
		{"empty broker", "app", append(good, millrace.SeedBrokers(""))},
		{"state twice", "app", append(good, millrace.StateDir("x"))},
		{"commit interval zero", "app", append(good, millrace.CommitInterval(0))},
		{"commit interval negative", "app", append(good, millrace.CommitInterval(-time.Second))},
		{"commit interval too long", "app", append(good, millrace.CommitInterval(30*time.Second))},
		{"transaction timeout zero", "app", append(good, millrace.TransactionTimeout(0))},
		{"heartbeat too slow", "app", append(good, millrace.HeartbeatInterval(5*time.Second))},
		{"session zero", "app", append(good, millrace.SessionTimeout(0))},
		{"workers", "app", append(good, millrace.Workers(0))},
		{"instance name", "app", append(good, millrace.InstanceName("a:b"))},
		{"replication factor zero", "app", append(good, millrace.ReplicationFactor(0))},
		{"memory limit zero", "app", append(good, millrace.MemoryLimit(0))},
		{"memory limit too small", "app", append(good, millrace.MemoryLimit(1<<20))},
		{"dead letter topic", "app", append(good, millrace.OnError(processor.DeadLetter("no good")))},
		{"retry", "app", append(good, millrace.OnError(processor.Retry(0, time.Second, processor.Skip())))},
		{"commit bounds", "app", append(good, millrace.CommitRecords(-1), millrace.CommitBytes(-2))},
		{"pause between commits", "app", append(good, millrace.MinCommitPause(30*time.Second))},
		{"pause between commits negative", "app", append(good, millrace.MinCommitPause(-time.Second))},
		{"aborts negative", "app", append(good, millrace.MaxConsecutiveAborts(-1))},
		{"everything", "a b", []millrace.Option{millrace.CommitInterval(0), millrace.SessionTimeout(-1), millrace.ShutdownTimeout(0)}},
	}
	var b strings.Builder
	for _, c := range cases {
		app, err := millrace.New(c.id, countWords(t), c.opts...)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		if app != nil {
			t.Errorf("%s: an application and an error", c.name)
		}
		if code := millrace.ExitCode(err); code != 2 {
			t.Errorf("%s: exit code %d, want 2", c.name, code)
		}
		checkTyped(t, c.name, err)
		fmt.Fprintf(&b, "# %s\n%v\n\n", c.name, err)
	}
	here := fmt.Sprintf("(%d here)", runtime.GOMAXPROCS(0))
	golden(t, "bad_configuration.txt", strings.ReplaceAll(b.String(), here, "(2 here)"))
	if _, err := millrace.New("app", nil, good...); millrace.ExitCode(err) != 2 {
		t.Errorf("nil topology: %v", err)
	}
}

// checkTyped wants at least one *Error with everything a person needs.
func checkTyped(t *testing.T, name string, err error) {
	t.Helper()
	var e *millrace.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: not a *millrace.Error: %v", name, err)
		return
	}
	if e.Code == "" || e.Thing == "" || e.Remedy == "" {
		t.Errorf("%s: %+v lacks code, thing or remedy", name, *e)
	}
}

// runFails runs an application that has to refuse, and returns the error.
func runFails(t *testing.T, name string, opts ...millrace.Option) error {
	t.Helper()
	opts = append([]millrace.Option{millrace.Logger(quiet), millrace.HeartbeatInterval(100 * time.Millisecond)}, opts...)
	app, err := millrace.New("app", countWords(t), opts...)
	if err != nil {
		t.Fatalf("%s: New: %v", name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	err = app.Run(ctx)
	if err == nil {
		t.Errorf("%s: ran until it was stopped", name)
	}
	return err
}

// cluster is an embedded broker with the topics the count needs, unless told otherwise.
func cluster(t *testing.T, opts ...kfake.Opt) ([]string, *kadm.Client) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "1000000000"})}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs(), kadm.NewClient(client(t, c.ListenAddrs()))
}

// lived runs the count once, so that there is a group, state, a changelog and a registry.
func lived(t *testing.T, addrs []string, opts ...millrace.Option) {
	t.Helper()
	produceWords(t, addrs, 100, 10)
	opts = append([]millrace.Option{millrace.SeedBrokers(addrs...), millrace.Logger(quiet), millrace.CommitInterval(10 * time.Millisecond)}, opts...)
	app, err := millrace.New("app", countWords(t), opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	readTotals(t, addrs, 100)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestBadWorld starts applications on clusters and directories that are not as they must be.
func TestBadWorld(t *testing.T) {
	topics := kfake.SeedTopics(2, "words", "totals")
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	cases := []struct {
		name string
		exit int
		run  func(t *testing.T) error
	}{
		{"nothing listens", 4, func(t *testing.T) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(err)
			must(l.Close())
			return runFails(t, "", millrace.SeedBrokers(l.Addr().String()), millrace.MemoryStores())
		}},
		{"TLS to a plaintext port", 4, func(t *testing.T) error {
			addrs, _ := cluster(t, topics)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores(), millrace.TLS(&tls.Config{InsecureSkipVerify: true}))
		}},
		{"not Kafka at all", 4, func(t *testing.T) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(err)
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
					c.Close()
				}
			}()
			return runFails(t, "", millrace.SeedBrokers(l.Addr().String()), millrace.MemoryStores())
		}},
		{"topics missing", 4, func(t *testing.T) error {
			addrs, _ := cluster(t)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"replication factor above the brokers", 2, func(t *testing.T) error {
			addrs, _ := cluster(t, topics)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores(), millrace.ReplicationFactor(3))
		}},
		{"transaction timeout above the broker's", 2, func(t *testing.T) error {
			addrs, _ := cluster(t, topics)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores(), millrace.TransactionTimeout(time.Hour))
		}},
		{"changelog with other partitions", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			_, err := adm.CreateTopic(ctx, 5, 1, nil, "app-counts-changelog")
			must(err)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"changelog that deletes", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			lived(t, addrs, millrace.MemoryStores())
			policy := "delete"
			_, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "cleanup.policy", Value: &policy}}, "app-counts-changelog")
			must(err)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"changelog created again", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			lived(t, addrs, millrace.MemoryStores())
			_, err := adm.DeleteTopics(ctx, "app-counts-changelog")
			must(err)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"input created again", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			dir := t.TempDir()
			lived(t, addrs, millrace.StateDir(dir))
			_, err := adm.DeleteTopics(ctx, "words")
			must(err)
			_, err = adm.CreateTopic(ctx, 2, 1, nil, "words")
			must(err)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.StateDir(dir))
		}},
		{"input with more partitions", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			dir := t.TempDir()
			lived(t, addrs, millrace.StateDir(dir))
			_, err := adm.CreatePartitions(ctx, 2, "words")
			must(err)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.StateDir(dir))
		}},
		{"somebody else's changelog", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			policy := "compact"
			_, err := adm.CreateTopic(ctx, 2, 1, map[string]*string{"cleanup.policy": &policy}, "app-counts-changelog")
			must(err)
			produceTo(t, addrs, "app-counts-changelog")
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"offsets set back", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			lived(t, addrs, millrace.MemoryStores())
			os := kadm.Offsets{}
			os.Add(kadm.Offset{Topic: "words", Partition: 0, At: 0, LeaderEpoch: -1})
			os.Add(kadm.Offset{Topic: "words", Partition: 1, At: 0, LeaderEpoch: -1})
			must(adm.CommitAllOffsets(ctx, "app", os))
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"offsets set forward", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			lived(t, addrs, millrace.MemoryStores())
			produceWords(t, addrs, 1000, 10)
			ends, err := adm.ListEndOffsets(ctx, "words")
			must(err)
			must(adm.CommitAllOffsets(ctx, "app", ends.Offsets()))
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"input gone below the offset", 3, func(t *testing.T) error {
			addrs, adm := cluster(t, topics)
			lived(t, addrs, millrace.MemoryStores())
			produceWords(t, addrs, 1000, 10)
			ends, err := adm.ListEndOffsets(ctx, "words")
			must(err)
			_, err = adm.DeleteRecords(ctx, ends.Offsets())
			must(err)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.MemoryStores())
		}},
		{"state directory in use", 3, func(t *testing.T) error {
			addrs, _ := cluster(t, topics)
			dir := t.TempDir()
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
			app, err := millrace.New("app", countWords(t), millrace.SeedBrokers(addrs...), millrace.StateDir(dir), millrace.Logger(log), millrace.CommitInterval(10*time.Millisecond))
			must(err)
			run, stop := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- app.Run(run) }()
			defer func() { stop(); <-done }()
			produceWords(t, addrs, 10, 1)
			readTotals(t, addrs, 10)
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.StateDir(dir))
		}},
		{"state directory is a file", 3, func(t *testing.T) error {
			addrs, _ := cluster(t, topics)
			file := filepath.Join(t.TempDir(), "state")
			must(os.WriteFile(file, nil, 0o600))
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.StateDir(file))
		}},
		{"state directory of another cluster", 3, func(t *testing.T) error {
			addrs, _ := cluster(t, topics, kfake.ClusterID("one"))
			dir := t.TempDir()
			lived(t, addrs, millrace.StateDir(dir))
			addrs, _ = cluster(t, topics, kfake.ClusterID("two"))
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.StateDir(dir))
		}},
		{"manifest damaged", 3, func(t *testing.T) error {
			addrs, _ := cluster(t, topics)
			dir := t.TempDir()
			lived(t, addrs, millrace.StateDir(dir))
			manifests, err := filepath.Glob(filepath.Join(dir, "app", "counts", "*", "manifest.json"))
			must(err)
			if len(manifests) == 0 {
				t.Fatal("no manifest")
			}
			must(os.WriteFile(manifests[0], []byte(`{"checksum":"none","manifest":{}}`), 0o600))
			return runFails(t, "", millrace.SeedBrokers(addrs...), millrace.StateDir(dir))
		}},
		{"record that does not decode", 1, func(t *testing.T) error {
			addrs, _ := cluster(t, kfake.SeedTopics(2, "words", "totals", "numbers"))
			produceTo(t, addrs, "numbers")
			app, err := millrace.New("app", countNumbers(t), millrace.SeedBrokers(addrs...), millrace.MemoryStores(), millrace.Logger(quiet))
			must(err)
			run, stop := context.WithTimeout(ctx, 30*time.Second)
			defer stop()
			return app.Run(run)
		}},
	}
	said := make([]string, len(cases))
	t.Run("of", func(t *testing.T) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				err := c.run(t)
				if err == nil {
					return
				}
				checkTyped(t, c.name, err)
				if code := millrace.ExitCode(err); code != c.exit {
					t.Errorf("exit code %d, want %d: %v", code, c.exit, err)
				}
				said[i] = fmt.Sprintf("# %s\n%s\n\n", c.name, steady(err.Error()))
			})
		}
	})
	golden(t, "bad_world.txt", strings.Join(said, ""))
}

// steady replaces what is different in every run.
func steady(s string) string {
	for _, r := range []struct{ re, to string }{
		{`127\.0\.0\.1:\d+`, "HOST:PORT"},
		{`/[^" ]*/(TestBad[^/" ]*|app/)[^" ]*/?\d*/\d*`, "DIR"},
		{`"/tmp/[^"]*"`, `"DIR"`},
		{`[0-9a-f]{32}`, "TOPIC-ID"},
		{`[0-9a-f]{8}-[0-9a-f-]{27}`, "UUID"},
		{`process \d+ on host \S+`, "process PID on host HOST"},
		{`since \S+Z`, "since TIME"},
		{`(words|numbers)/[01]\b`, "$1/P"},
		{`counts/[01]\b`, "counts/P"},
		{`(offset|offsets|at|below) \d+( and \d+| to \d+)?`, "$1 N"},
		{`task counts/P" "\d+"`, `task counts/P" "N"`},
		{`counts/P "\d+"`, `counts/P "N"`},
	} {
		s = regexp.MustCompile(r.re).ReplaceAllString(s, r.to)
	}
	return s
}
