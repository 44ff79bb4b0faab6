package itest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every single wait of these tests.
const patience = 90 * time.Second

// theBinary builds the application under test, once per test run, with the crash points and seeded bugs compiled in.
var theBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "millrace-itest-")
	if err != nil {
		return "", err
	}
	cleanups = append(cleanups, func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "app")
	if out, err := exec.Command("go", "build", "-tags", "chaos", "-o", file, "./app").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./app: %w\n%s", err, out)
	}
	return file, nil
})

// cleanups run when all tests are over.
var cleanups []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
	os.Exit(code)
}

// instance is one process of the application.
type instance struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	log  string // file with its standard error

	mu      sync.Mutex
	events  []Event
	changed chan struct{} // closed and replaced when events grows, closed for good at the end
	ended   bool
	state   *os.ProcessState
}

// launch starts a process. It is killed when the test ends, if it still lives then.
func launch(t *testing.T, name, log string, env []string, args ...string) *instance {
	t.Helper()
	file, err := theBinary()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	i := &instance{t: t, name: name, log: log, cmd: exec.Command(file, args...), changed: make(chan struct{})}
	i.cmd.Env = append(os.Environ(), env...)
	i.cmd.Stderr = stderr
	stdout, err := i.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e Event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				i.heard(e)
			}
		}
		_ = i.cmd.Wait() // how it ended is read from the state
		i.finish()
	}()
	t.Cleanup(func() {
		i.kill()
		<-over
	})
	return i
}

func (i *instance) heard(e Event) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.events = append(i.events, e)
	close(i.changed)
	i.changed = make(chan struct{})
}

func (i *instance) finish() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended, i.state = true, i.cmd.ProcessState
	close(i.changed)
}

// signal sends a signal; a process that is gone is not an error.
func (i *instance) signal(s syscall.Signal) {
	if err := i.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		i.t.Errorf("%s: %v: %v", i.name, s, err)
	}
}

func (i *instance) kill()      { i.signal(syscall.SIGKILL) }
func (i *instance) freeze()    { i.signal(syscall.SIGSTOP) }
func (i *instance) thaw()      { i.signal(syscall.SIGCONT) }
func (i *instance) terminate() { i.signal(syscall.SIGTERM) }

// history returns what was heard so far.
func (i *instance) history() []Event {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.events[:len(i.events):len(i.events)]
}

// until waits until enough says so of everything heard so far; it is asked again from time to time too, as it may look at
// other instances. It fails the test if the process ends before, or patience does.
func (i *instance) until(what string, enough func([]Event) bool) []Event {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		i.mu.Lock()
		events, changed, ended := i.events[:len(i.events):len(i.events)], i.changed, i.ended
		i.mu.Unlock()
		if enough(events) {
			return events
		}
		if ended {
			i.t.Fatalf("%s ended before: %s\n%s", i.name, what, i.tail())
		}
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			i.t.Fatalf("%s: waited %v for: %s\n%s", i.name, patience, what, i.tail())
		}
	}
}

// after waits for an event that is said after the first n of the history, and returns it.
func (i *instance) after(n int, what string, is func(Event) bool) Event {
	i.t.Helper()
	var found Event
	i.until(what, func(events []Event) bool {
		at := slices.IndexFunc(events[min(n, len(events)):], is)
		if at >= 0 {
			found = events[min(n, len(events))+at]
		}
		return at >= 0
	})
	return found
}

// running waits until the instance has said that its application runs.
func (i *instance) running() {
	i.t.Helper()
	i.after(0, "state running", func(e Event) bool { return e.Event == "state" && e.To == "running" })
}

// tasks are the tasks that run here, by what was heard so far.
func (i *instance) tasks() []string {
	state := map[string]string{}
	for _, e := range i.history() {
		if e.Event == "task" {
			state[e.Task] = e.To
		}
	}
	var names []string
	for task, s := range state {
		if s == "running" {
			names = append(names, task)
		}
	}
	slices.Sort(names)
	return names
}

// exit waits for the end of the process and returns its exit code, or the signal that killed it as a negative number.
func (i *instance) exit() int {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	for {
		i.mu.Lock()
		changed, ended, state := i.changed, i.ended, i.state
		i.mu.Unlock()
		if ended {
			status := state.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				return -int(status.Signal())
			}
			return status.ExitStatus()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			i.t.Fatalf("%s: waited %v for its end\n%s", i.name, patience, i.tail())
		}
	}
}

func (i *instance) alive() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.ended
}

// stop ends the process gracefully and requires that it was graceful.
func (i *instance) stop() {
	i.t.Helper()
	i.terminate()
	if code := i.exit(); code != 0 {
		i.t.Fatalf("%s: exit code %d after SIGTERM\n%s", i.name, code, i.tail())
	}
}

// tail is the end of what the process said, for failures.
func (i *instance) tail() string {
	const lines = 25
	var b strings.Builder
	events := i.history()
	fmt.Fprintf(&b, "last events of %s:\n", i.name)
	for _, e := range events[max(0, len(events)-lines):] {
		text, _ := json.Marshal(e)
		fmt.Fprintf(&b, "  %s\n", text)
	}
	if log, err := os.ReadFile(i.log); err == nil {
		all := strings.Split(strings.TrimSpace(string(log)), "\n")
		fmt.Fprintf(&b, "last lines of its log:\n  %s\n", strings.Join(all[max(0, len(all)-lines):], "\n  "))
	}
	return b.String()
}
