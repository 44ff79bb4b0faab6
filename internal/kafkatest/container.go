package kafkatest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	typecontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/wait"
)

// container is one broker.
type container struct {
	addr   string
	docker testcontainers.Container
	engine *testcontainers.DockerClient
}

// startContainer starts a broker and waits until it answers.
//
// The broker's advertised address has to be known before it starts, and must stay when it is killed and started: so a free port is
// asked for here, and the same number is used inside and outside of the container.
func startContainer(ctx context.Context) (*container, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()

	// testcontainers' own reaper is one more image to pull. Where the tests themselves run in a container it takes that
	// network's gateway for the host, whose loopback is not ours.
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")
	setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")

	log.SetDefault(quiet{})

	engine, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return nil, fmt.Errorf("no container engine: %w", err)
	}
	if err := sweep(ctx, engine); err != nil {
		engine.Close()
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		engine.Close()
		return nil, err
	}
	image := cmp.Or(os.Getenv(EnvImage), DefaultImage)
	p, err := network.ParsePort(strconv.Itoa(port) + "/tcp")
	if err != nil {
		engine.Close()
		return nil, err
	}
	c, err := testcontainers.Run(ctx, image,
		testcontainers.WithEnv(settings(port)),
		testcontainers.WithLabels(labels()),
		testcontainers.WithExposedPorts(p.String()),
		testcontainers.WithHostConfigModifier(func(hc *typecontainer.HostConfig) {
			hc.PortBindings = network.PortMap{p: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: strconv.Itoa(port)}}}
		}),
		testcontainers.WithWaitStrategy(wait.ForLog("Kafka Server started").WithStartupTimeout(2*time.Minute)),
	)
	b := &container{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), docker: c, engine: engine}
	if c != nil {
		watch(c.GetContainerID())
	}
	if err == nil {
		err = answers(ctx, []string{b.addr})
	}
	if err != nil {
		err = fmt.Errorf("start a broker of image %s: %w%s", image, err, b.lastWords())
		if c != nil {
			late, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			err = errors.Join(err, b.remove(late))
		} else {
			engine.Close()
		}
		return nil, err
	}
	return b, nil
}

// settings are the broker's. Setting one replaces the image's own file as a whole, so all that is needed is here: one node that is
// broker and controller, internal topics with one replica and few partitions (50 of each make the first transaction slow), no
// waiting for more members of a new group, short sessions of the broker with its controller so that it comes back soon after a kill.
func settings(port int) map[string]string {
	return map[string]string{
		"KAFKA_NODE_ID":                                          "1",
		"KAFKA_PROCESS_ROLES":                                    "broker,controller",
		"KAFKA_CONTROLLER_QUORUM_VOTERS":                         "1@localhost:9093",
		"KAFKA_LISTENERS":                                        fmt.Sprintf("PLAINTEXT://:%d,CONTROLLER://:9093,INTERNAL://:9094", port),
		"KAFKA_ADVERTISED_LISTENERS":                             fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,INTERNAL://localhost:9094", port),
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP":                   "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT",
		"KAFKA_INTER_BROKER_LISTENER_NAME":                       "INTERNAL",
		"KAFKA_CONTROLLER_LISTENER_NAMES":                        "CONTROLLER",
		"KAFKA_LOG_DIRS":                                         "/var/lib/kafka/data",
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE":                        "false",
		"KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS":                     "4",
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":                 "1",
		"KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS":             "4",
		"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR":         "1",
		"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":                    "1",
		"KAFKA_SHARE_COORDINATOR_STATE_TOPIC_NUM_PARTITIONS":     "4",
		"KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
		"KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR":            "1",
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":                 "0",
		"KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS":                     "1000",
		"KAFKA_BROKER_SESSION_TIMEOUT_MS":                        "3000",
		"KAFKA_BROKER_HEARTBEAT_INTERVAL_MS":                     "500",
	}
}

func (b *container) pause(ctx context.Context) error {
	_, err := b.engine.ContainerPause(ctx, b.docker.GetContainerID(), client.ContainerPauseOptions{})
	return err
}

func (b *container) unpause(ctx context.Context) error {
	if _, err := b.engine.ContainerUnpause(ctx, b.docker.GetContainerID(), client.ContainerUnpauseOptions{}); err != nil {
		return err
	}
	return answers(ctx, []string{b.addr})
}

func (b *container) kill(ctx context.Context) error {
	_, err := b.engine.ContainerKill(ctx, b.docker.GetContainerID(), client.ContainerKillOptions{Signal: "KILL"})
	if err != nil {
		return err
	}
	waiting := b.engine.ContainerWait(ctx, b.docker.GetContainerID(), client.ContainerWaitOptions{Condition: typecontainer.WaitConditionNotRunning})
	select {
	case <-waiting.Result:
		return nil
	case err := <-waiting.Error:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *container) start(ctx context.Context) error {
	if _, err := b.engine.ContainerStart(ctx, b.docker.GetContainerID(), client.ContainerStartOptions{}); err != nil {
		return err
	}
	if err := answers(ctx, []string{b.addr}); err != nil {
		return fmt.Errorf("%w%s", err, b.lastWords())
	}
	return nil
}

// remove ends the broker and deletes its data.
func (b *container) remove(ctx context.Context) error {
	defer b.engine.Close()
	_, err := b.engine.ContainerRemove(ctx, b.docker.GetContainerID(), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	return err
}

// lastWords is the end of the broker's log, for errors: an image that ends at once otherwise shows as a timeout.
func (b *container) lastWords() string {
	if b.docker == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := b.docker.Logs(ctx)
	if err != nil {
		return ""
	}
	defer r.Close()
	text, _ := io.ReadAll(io.LimitReader(r, 1<<20))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "\nthe broker's log ends with:\n\t" + strings.Join(lines[max(0, len(lines)-15):], "\n\t")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func setDefault(name, value string) {
	if os.Getenv(name) == "" {
		os.Setenv(name, value)
	}
}

// quiet drops testcontainers' progress messages; its errors are returned as well.
type quiet struct{}

func (quiet) Printf(string, ...any) {}
