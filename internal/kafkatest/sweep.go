package kafkatest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// A container must not outlive the test process that started it, even if that dies of SIGKILL or a panic of the runtime. Two things see to
// it: a shell that waits for the end of this process and removes the container, and labels by which the next process finds what
// was left behind all the same (no docker command here, a machine that went down).
const (
	labelTest  = "io.millrace.test"       // "kafka"
	labelPlace = "io.millrace.test.place" // machine and process namespace
	labelOwner = "io.millrace.test.owner" // process id
	labelSince = "io.millrace.test.since" // unix seconds

	maxAge = 3 * time.Hour // of a container of another place, whose process cannot be looked for
)

func labels() map[string]string {
	return map[string]string{
		labelTest:  "kafka",
		labelPlace: place(),
		labelOwner: strconv.Itoa(os.Getpid()),
		labelSince: strconv.FormatInt(time.Now().Unix(), 10),
	}
}

// place names the set of processes among which a process id means something.
func place() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid")
	if len(boot) == 0 {
		host, _ := os.Hostname()
		boot = []byte(host)
	}
	return strings.TrimSpace(string(boot)) + " " + space
}

// watch starts the shell that removes a container when this process is gone. It reads from a pipe that nobody writes to: the read ends
// when the last writer, this process, does. The pipe's end is kept open on purpose.
func watch(id string) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		return // the next process sweeps
	}
	cmd := exec.Command("/bin/sh", "-c", `read -r _; exec "$0" rm -f -v "$1"`, docker, id)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt of the terminal is not for it
	if _, err := cmd.StdinPipe(); err != nil {
		return
	}
	if err := cmd.Start(); err == nil {
		watchers = append(watchers, cmd)
	}
}

// watchers keeps the pipes from being closed by the garbage collector.
var watchers []*exec.Cmd

// sweep removes what dead test processes left behind.
func sweep(ctx context.Context, engine *testcontainers.DockerClient) error {
	list, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", labelTest+"=kafka")})
	if err != nil {
		return fmt.Errorf("look for brokers of earlier tests: %w", err)
	}
	here, now := place(), time.Now()
	for _, c := range list.Items {
		if orphan(c.Labels, here, now, alive) {
			// Another process may be sweeping too: that it is gone already is fine.
			_, _ = engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
	}
	return nil
}

// orphan reports whether the process that started a container is gone.
func orphan(labels map[string]string, here string, now time.Time, alive func(pid int) bool) bool {
	if labels[labelPlace] == here {
		pid, err := strconv.Atoi(labels[labelOwner])
		return err != nil || !alive(pid)
	}
	since, err := strconv.ParseInt(labels[labelSince], 10, 64)
	return err != nil || now.Sub(time.Unix(since, 0)) > maxAge
}

func alive(pid int) bool {
	return pid > 0 && syscall.Kill(pid, 0) != syscall.ESRCH
}
