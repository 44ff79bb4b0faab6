package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/measure"
)

// broker is the cluster everything runs on.
type broker struct {
	addrs   []string
	what    string // for the report
	pid     int    // of the broker's process; 0: cannot be seen
	dataDir string // where it keeps its data, if that is on this machine
	stop    func() error
}

// noContainer is why no broker could be started in a container.
type noContainer struct{ err error }

func (e *noContainer) Error() string { return e.err.Error() }
func (e *noContainer) Unwrap() error { return e.err }

func (b *broker) list() string { return strings.Join(b.addrs, ",") }

// startBroker connects to brokers if there are any, else starts the embedded one, else a real one in a container.
func startBroker(ctx context.Context, brokers string, pid int, embedded bool, bin string) (*broker, error) {
	switch {
	case brokers != "":
		b := &broker{addrs: strings.Split(brokers, ","), what: "a running cluster", pid: pid, stop: func() error { return nil }}
		if err := b.ready(ctx, 5*time.Second); err != nil {
			return nil, err
		}
		b.what += b.version(ctx)
		return b, nil
	case embedded:
		return startEmbedded(filepath.Join(bin, "broker"))
	default:
		return startContainer(ctx)
	}
}

func startEmbedded(program string) (*broker, error) {
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() error { return errors.Join(in.Close(), cmd.Wait()) }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the embedded broker did not say where it is: %w", err), stop())
	}
	return &broker{addrs: strings.Split(strings.TrimSpace(line), ","), what: "the embedded broker, in a process of its own", pid: cmd.Process.Pid, stop: stop}, nil
}

// startContainer starts one broker in a container that is removed at the end. The image is docker-compose.yml's.
func startContainer(ctx context.Context) (*broker, error) {
	image, err := image("docker-compose.yml")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	if err := l.Close(); err != nil {
		return nil, err
	}
	args := []string{"run", "--detach", "--rm", "--label", "io.millrace.bench=kafka", "--publish", addr + ":" + port}
	for _, s := range []string{
		"NODE_ID=1", "PROCESS_ROLES=broker,controller", "CONTROLLER_QUORUM_VOTERS=1@localhost:29093", "CONTROLLER_LISTENER_NAMES=CONTROLLER",
		"INTER_BROKER_LISTENER_NAME=INTERNAL", "LISTENERS=PLAINTEXT://:" + port + ",INTERNAL://:29094,CONTROLLER://:29093",
		"ADVERTISED_LISTENERS=PLAINTEXT://" + addr + ",INTERNAL://localhost:29094",
		"LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"LOG_DIRS=/var/lib/kafka/data", "AUTO_CREATE_TOPICS_ENABLE=false",
		"OFFSETS_TOPIC_REPLICATION_FACTOR=1", "OFFSETS_TOPIC_NUM_PARTITIONS=4",
		"TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1", "TRANSACTION_STATE_LOG_MIN_ISR=1", "TRANSACTION_STATE_LOG_NUM_PARTITIONS=4",
		"SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR=1", "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR=1",
		"GROUP_INITIAL_REBALANCE_DELAY_MS=0", "GROUP_MIN_SESSION_TIMEOUT_MS=1000", "HEAP_OPTS=-Xms1g -Xmx1g",
	} {
		args = append(args, "--env", "KAFKA_"+s)
	}
	out, err := docker(ctx, append(args, image)...)
	if err != nil {
		return nil, &noContainer{fmt.Errorf("no broker of image %s in a container: %w", image, err)}
	}
	id := strings.TrimSpace(out)
	b := &broker{addrs: []string{addr}, what: image + " in a container, one node, 1 GiB heap", stop: func() error {
		_, err := docker(context.Background(), "rm", "--force", "--volumes", id)
		return err
	}}
	if out, err := docker(ctx, "inspect", "--format", "{{.State.Pid}}", id); err == nil {
		b.pid, _ = strconv.Atoi(strings.TrimSpace(out))
		if _, err := measure.Of(b.pid); err != nil {
			b.pid = 0 // the engine counts its processes elsewhere
		}
	}
	if out, err := docker(ctx, "info", "--format", "{{.DockerRootDir}}"); err == nil {
		b.dataDir = strings.TrimSpace(out)
	}
	if err := b.ready(ctx, 90*time.Second); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func docker(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	out, err := cmd.Output()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		err = fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(string(ended.Stderr)))
	}
	return string(out), err
}

var imageLine = regexp.MustCompile(`(?m)^\s*image:\s*\$\{KAFKA_IMAGE:-([^}]+)\}`)

// image is the one that people start by hand, unless KAFKA_IMAGE says another.
func image(compose string) (string, error) {
	if name := os.Getenv("KAFKA_IMAGE"); name != "" {
		return name, nil
	}
	text, err := os.ReadFile(compose)
	if err != nil {
		return "", fmt.Errorf("%w; run the benchmark in the root of the repository", err)
	}
	m := imageLine.FindStringSubmatch(string(text))
	if m == nil {
		return "", fmt.Errorf("%s names no Kafka image; set KAFKA_IMAGE", compose)
	}
	return m[1], nil
}

// ready waits until the cluster answers.
func (b *broker) ready(ctx context.Context, patience time.Duration) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...), kgo.DialTimeout(time.Second), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return until(ctx, 200*time.Millisecond, "the brokers "+b.list()+" to answer", func() (bool, error) {
		m, err := kadm.NewClient(cl).BrokerMetadata(ctx)
		return err == nil && len(m.Brokers) > 0, nil
	})
}

// version is what the brokers say they speak, for the report.
func (b *broker) version(ctx context.Context) string {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...))
	if err != nil {
		return ""
	}
	defer cl.Close()
	all, err := kadm.NewClient(cl).ApiVersions(ctx)
	if err != nil {
		return ""
	}
	for _, one := range all.Sorted() {
		if one.Err == nil {
			return fmt.Sprintf(", %d brokers, Kafka %s", len(all), one.VersionGuess())
		}
	}
	return ""
}

// until asks at intervals, until the answer is yes.
func until(ctx context.Context, every time.Duration, what string, yes func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := yes(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}
