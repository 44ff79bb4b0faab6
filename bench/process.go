package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/bench/internal/measure"
)

// process is an app under test that runs.
type process struct {
	name    string
	cmd     *exec.Cmd
	started time.Time
	lines   chan measure.Line // what it says; closed at its end
	ended   chan struct{}
	err     error // after ended
	said    tail
}

// start runs a program in a process group of its own, so that what it starts ends with it. It is killed when ctx ends.
func start(ctx context.Context, name string, environment []string, path string, args ...string) (*process, error) {
	p := &process{name: name, lines: make(chan measure.Line, 256), ended: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, path, args...)
	p.cmd.Stderr = &p.said
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Cancel = func() error { return p.signal(syscall.SIGKILL) }
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.read(out)
	return p, nil
}

func (p *process) read(out io.Reader) {
	defer close(p.ended)
	defer close(p.lines)
	scan := bufio.NewScanner(out)
	for scan.Scan() {
		var l measure.Line
		if json.Unmarshal(scan.Bytes(), &l) != nil || l.Event == "" {
			fmt.Fprintf(&p.said, "%s\n", scan.Text())
			continue
		}
		p.lines <- l
	}
	_, _ = io.Copy(io.Discard, out) // after a line too long to be one of ours
	p.err = p.cmd.Wait()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(s syscall.Signal) error { return syscall.Kill(-p.pid(), s) }

// failure is why a process that should have gone on has ended.
func (p *process) failure() error {
	return fmt.Errorf("%s ended too soon (%v): %s", p.name, p.err, p.said.String())
}

// patience is how long an app may take to end when it is told to.
const patience = 10 * time.Second

// finish asks the process to end and waits for it, and kills it when it takes too long. It returns its last line. strict is for
// programs of ours: whatever is not a proper end is an error.
func (p *process) finish(ctx context.Context, strict bool) (last measure.Line, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.signal(syscall.SIGTERM); err != nil {
		return last, fmt.Errorf("%s cannot be told to end: %w", p.name, err)
	}
	for {
		select {
		case l, ok := <-p.lines:
			if ok {
				last = l
				continue
			}
			<-p.ended
			if strict && (p.err != nil || last.Event != "done") {
				return last, p.failure()
			}
			return last, nil
		case <-ctx.Done():
			p.kill()
			if strict {
				return last, fmt.Errorf("%s does not end", p.name)
			}
			return last, nil
		}
	}
}

// kill ends the process as an accident would, and waits until it is gone.
func (p *process) kill() {
	err := p.signal(syscall.SIGKILL)
	for range p.lines {
		continue
	}
	<-p.ended
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		say("kill %s: %v", p.name, err)
	}
}

// drain drops the lines said so far, so that a program never waits for somebody to read them.
func (p *process) drain() {
	for {
		select {
		case _, ok := <-p.lines:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// tail keeps the last part of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*tailBytes {
		t.buf = bytes.Clone(t.buf[len(t.buf)-tailBytes:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf[max(0, len(t.buf)-tailBytes):])
}
