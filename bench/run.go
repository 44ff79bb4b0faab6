package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/bench/internal/workload"
)

const module = "github.com/millrace-io/millrace"

// bench is one call of the harness.
type bench struct {
	config
	dir     string // scratch: binaries and state directories
	broker  *broker
	stdout  io.Writer
	names   int
	ready   []program                // that could be built
	missing []string                 // that could not, and why, a line each
	inputs  map[workload.Spec]string // topics that are filled
	all     []result                 // of this call
	skipped map[string][]string      // by figure: what was not measured, and why, a line each
	failed  []string                 // what went wrong with programs of ours
}

func run(ctx context.Context, c config, stdout io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{config: c, dir: dir, stdout: stdout, inputs: map[workload.Spec]string{}, skipped: map[string][]string{}}
	if err := b.build(ctx); err != nil {
		return err
	}
	say("starting the broker")
	if b.broker, err = b.startBroker(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.broker.stop()) }()
	defer func() { err = errors.Join(err, b.dropInputs(context.WithoutCancel(ctx))) }()

	if err := b.warmUp(ctx); err != nil {
		if old := (*workload.Exists)(nil); !errors.As(err, &old) {
			return fmt.Errorf("warm-up: %w", err)
		}
		say("no warm-up: %v", err)
	}
	now := b.circumstances(ctx)
	began := time.Now()
	for _, f := range b.chosen() {
		say("== %s (%s since the beginning)", f.title, time.Since(began).Round(time.Second))
		if err := f.run(b, ctx, f); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			b.skip(f.name, "%s", firstLine(err)) // all of it: each run tells its own
		}
		if err := b.keep(f, now); err != nil { // after each figure, so that nothing is lost when it is cut short
			return err
		}
	}
	for _, line := range b.missing {
		say("not measured: %s", line)
	}
	fmt.Fprint(stdout, "\n"+b.sections(now).report())
	if b.failed != nil {
		return errors.New(strings.Join(b.failed, "\n"))
	}
	return nil
}

// build makes the programs. Those of others may be impossible here: that is told, and the rest goes on.
func (b *bench) build(ctx context.Context) error {
	say("building the programs")
	build := exec.CommandContext(ctx, "go", "build", "-o", b.dir, module+"/bench/keyedcount", module+"/bench/rawcount", module+"/bench/rawrestore", module+"/bench/broker")
	build.Stderr = os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as they are released
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	b.ready = b.ours()
	if b.peers {
		b.prepare(ctx, peers())
	}
	return nil
}

func (b *bench) prepare(ctx context.Context, all []program) {
	for _, p := range all {
		if !b.wanted(p) {
			continue
		}
		p.peer = true
		if p.prepare != nil {
			if err := p.prepare(ctx, b.dir); err != nil {
				b.miss(p.title, firstLine(err))
				say("%s cannot be measured here: %s", p.title, firstLine(err))
				continue
			}
		}
		b.ready = append(b.ready, p)
	}
}

// miss notes what cannot be measured here. Programs with the same reason share a line.
func (b *bench) miss(title, why string) {
	for i, line := range b.missing {
		if titles, same := strings.CutSuffix(line, ": "+why); same {
			b.missing[i] = titles + "; " + title + ": " + why
			return
		}
	}
	b.missing = append(b.missing, title+": "+why)
}

func (b *bench) wanted(p program) bool {
	return b.programs == "" || slices.Contains(list(b.programs), p.name)
}

// takePart are the programs of a figure, in the order in which the figure names ours, then the peers.
func (b *bench) takePart(f figure, names []string) (all []program) {
	for _, name := range names {
		if i := slices.IndexFunc(b.ready, func(p program) bool { return p.name == name }); i >= 0 && b.wanted(b.ready[i]) {
			all = append(all, b.ready[i])
		}
	}
	for _, p := range b.ready {
		if p.peer && f.peers && (p.figures == nil || slices.Contains(p.figures, f.name)) {
			all = append(all, p)
		}
	}
	return all
}

// startBroker falls back to the embedded broker where there is no container engine: then nothing is written, unless asked for.
func (b *bench) startBroker(ctx context.Context) (*broker, error) {
	got, err := startBroker(ctx, b.brokers, b.brokerPid, b.embedded, b.dir)
	if none := (*noContainer)(nil); errors.As(err, &none) {
		say("%s: measuring on the embedded broker, whose figures are not Kafka's; nothing is written", firstLine(err))
		b.out = ""
		return startEmbedded(filepath.Join(b.dir, "broker"))
	}
	return got, err
}

// warmUp is a run that nobody looks at: the first transaction on a fresh broker waits for Kafka's own topics.
func (b *bench) warmUp(ctx context.Context) error {
	say("warming the broker up")
	t := trial{figure: "warm-up", workload: "count", spec: workload.Spec{Dist: "zipf", Keys: 1000, Records: 1000, ValueBytes: 100, Partitions: partitions, Seed: 1}}
	for _, p := range b.ready {
		if p.name == "raw-changelog" || p.name == "millrace" {
			if _, err := b.once(ctx, t, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// add takes a result, and tells it to whom reads along.
func (b *bench) add(r result) error {
	b.all = append(b.all, r)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(b.stdout, "%s\n", text)
	return err
}

// skip notes what was not measured.
func (b *bench) skip(figure, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	say("  not measured: %s", line)
	if !slices.Contains(b.skipped[figure], line) {
		b.skipped[figure] = append(b.skipped[figure], line)
	}
}

// name makes a name for topics and groups that nobody has.
func (b *bench) name(what string) string {
	b.names++
	return fmt.Sprintf("%s-%s-%d", b.prefix, what, b.names)
}

func (b *bench) program(name string) string { return filepath.Join(b.dir, name) }

func firstLine(err error) string {
	line, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	return line
}
