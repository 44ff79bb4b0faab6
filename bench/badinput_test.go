package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/bench/internal/workload"
	"github.com/millrace-io/millrace/devkafka"
)

func parsed(t *testing.T, args ...string) config {
	t.Helper()
	c, err := flags(args)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startDevKafka(t *testing.T) *broker {
	t.Helper()
	kafka, err := devkafka.Start(devkafka.Options{MinSessionTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	return &broker{addrs: kafka.Addrs(), what: "embedded", stop: func() error { return nil }}
}

func TestAMissingBrokerIsToldInOneLine(t *testing.T) {
	t.Parallel()
	_, err := startBroker(bounded(t), "127.0.0.1:1", 0, false, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

func TestWithoutAContainerEngineTheEmbeddedBrokerIsUsed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("KAFKA_IMAGE", "mine:1")
	_, err := startBroker(t.Context(), "", 0, false, t.TempDir())
	if none := (*noContainer)(nil); !errors.As(err, &none) || !strings.Contains(err.Error(), "mine:1") {
		t.Errorf("%v", err)
	}
}

// trials tries some by hand, with programs that need no building.
func trials(t *testing.T, b *bench, programs ...program) {
	t.Helper()
	b.dir, b.inputs, b.skipped, b.stdout, b.ready = t.TempDir(), map[workload.Spec]string{}, map[string][]string{}, new(bytes.Buffer), programs
	f := figure{name: "count", trials: func(config) []trial {
		small := trial{name: "small", workload: "count", spec: workload.Spec{Dist: "each", Keys: 10, Records: 10, ValueBytes: 10, Partitions: 1}}
		large := small
		large.name, large.spec.ValueBytes = "large", 100_000
		return []trial{large, small}
	}}
	for _, p := range programs {
		f.programs = append(f.programs, p.name)
	}
	if err := b.tryAll(bounded(t), f); err != nil {
		t.Fatal(err)
	}
}

// shell is a program that is a line of shell.
func shell(name, line string) program {
	return program{name: name, title: name, can: func(job) string { return "" },
		command: func(string, job) (string, []string) { return "/bin/sh", []string{"-c", line} }}
}

// TestTooLittleDisk: what does not fit is told once, whatever the number of programs and runs; what fits is measured, here by programs
// that end at once, which is told too.
func TestTooLittleDisk(t *testing.T) {
	t.Parallel()
	b := &bench{broker: startDevKafka(t), config: parsed(t, "-disk", "100000", "-prefix", "x", "-runs", "2")}
	trials(t, b, shell("one", "echo it broke >&2; exit 3"), shell("two", "exit 4"))
	if got := b.skipped["count"]; len(got) != 1 || !strings.HasPrefix(got[0], "large: too little disk") {
		t.Errorf("%q", got)
	}
	var failed []string
	for _, r := range b.all {
		failed = append(failed, fmt.Sprintf("%s %s %d: %s", r.Case, r.Program, r.Run, r.Failed))
	}
	if len(failed) != 4 || !strings.Contains(failed[0], "small one 1: one ended too soon (exit status 3): it broke") {
		t.Errorf("%q", failed)
	}
}

// TestAnOldTopic: a run never writes to a topic that was there before, and never deletes it.
func TestAnOldTopic(t *testing.T) {
	t.Parallel()
	b := &bench{broker: startDevKafka(t), config: parsed(t, "-prefix", "x", "-runs", "1")}
	old := "x-one-2-out" // the first name is the input's
	if err := workload.Create(bounded(t), b.broker.addrs, 1, nil, false, old, "x-one-4-out"); err != nil {
		t.Fatal(err)
	}
	trials(t, b, shell("one", "exit 3"))
	if got := b.skipped["count"]; len(got) != 2 || !strings.Contains(got[0], "topic "+old+" is there already") || len(b.all) != 0 {
		t.Errorf("%q %+v", got, b.all)
	}
	exists := (*workload.Exists)(nil)
	if err := workload.Create(bounded(t), b.broker.addrs, 1, nil, false, old); !errors.As(err, &exists) {
		t.Errorf("the old topic is gone: %v", err)
	}
}

func TestAPeerThatCannotBeBuiltIsListed(t *testing.T) {
	t.Parallel()
	b := &bench{config: config{peers: true}, skipped: map[string][]string{}}
	bad := shell("bad", "")
	bad.prepare = func(context.Context, string) error { return cannot{"there is no JDK", "install one"} }
	b.prepare(t.Context(), []program{bad, shell("good", "")})
	if len(b.ready) != 1 || b.ready[0].name != "good" || !b.ready[0].peer {
		t.Errorf("%v", b.ready)
	}
	if len(b.missing) != 1 || b.missing[0] != "bad: there is no JDK; install one" {
		t.Errorf("%q", b.missing)
	}
}

func TestFlagsAreCheckedTogether(t *testing.T) {
	t.Parallel()
	_, err := flags([]string{"-only", "speed", "-programs", "disk", "-runs", "0", "-kill", "much", "-rates", "0", "-commits", "soon", "more"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"speed"`, `"disk"`, "-runs", `-kill: "much"`, `-rates: "0"`, `-commits: "soon"`, `"more"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestImageIsThatOfTheComposeFile(t *testing.T) {
	t.Setenv("KAFKA_IMAGE", "")
	name, err := image("../docker-compose.yml")
	if err != nil || !strings.HasPrefix(name, "apache/kafka:") {
		t.Errorf("%q %v", name, err)
	}
	t.Setenv("KAFKA_IMAGE", "mine:1")
	if name, err := image("nowhere.yml"); err != nil || name != "mine:1" {
		t.Errorf("%q %v", name, err)
	}
}
