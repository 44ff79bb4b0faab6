package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// peers are the other systems that the same work is given to. A peer takes part where its figures say something new: the report of
// all of them everywhere would take a day.
func peers() []program {
	ks := &jvmApp{module: "kstreams", title: "Kafka Streams"}
	flink := &jvmApp{module: "flink", title: "Flink", opens: []string{"java.lang", "java.util"}}
	return []program{
		onJVM(ks, "ks-eos", "Kafka Streams", []string{"pass", "count", "large", "aggregate", "repartition", "join", "start", "latency", "restore"}, smallValues),
		onJVM(ks, "ks-eos-nocache", "Kafka Streams, cache off", []string{"count", "latency"}, smallState, "cache=off"),
		onJVM(ks, "ks-eos-2t", "Kafka Streams, 2 threads", []string{"count"}, smallState, "num.stream.threads=2"),
		onJVM(ks, "ks-alo", "Kafka Streams, at least once", []string{"count"}, smallState, "processing.guarantee=at_least_once"),
		onJVM(flink, "flink-eos-100", "Flink, checkpoint each 100 ms", []string{"count", "latency"}, smallState, "execution.checkpointing.interval=100ms"),
		onJVM(flink, "flink-eos-1000", "Flink, checkpoint each second", []string{"pass", "count", "aggregate", "repartition", "join", "start"}, smallValues, "execution.checkpointing.interval=1s"),
		watermill(),
		unserved("goka", "goka", "github.com/lovoo/goka"),
		unserved("gkes", "go-kafka-event-source", "github.com/aws/go-kafka-event-source/streams"),
		unserved("gmbyapa", "gmbyapa/kstream", "github.com/gmbyapa/kstream/v2"),
		unserved("birdayz", "birdayz/kstreams", "github.com/birdayz/kstreams"),
	}
}

// smallValues and smallState say where a row is left out, so that all of it is done within the hour. With larger values there is
// nothing to see of a peer: its cost is per record.
func smallValues(j job) string {
	if j.valueBytes > 100 {
		return "measured with values of 100 bytes only"
	}
	return ""
}

func smallState(j job) string {
	if j.keys > 100_000 || j.memory > 0 {
		return "measured with few keys only"
	}
	return smallValues(j)
}

// onJVM is a row of a system on the JVM.
func onJVM(app *jvmApp, name, title string, figures []string, can func(job) string, args ...string) program {
	return program{
		name: name, title: title, peer: true, figures: figures, can: can,
		prepare: app.prepare,
		command: func(_ string, j job) (string, []string) { return app.command(j, args...) },
		boot:    10 * time.Second,
		limit: func(j job) time.Duration {
			if j.keys > 2_000_000 { // it takes a while until the state does not fit into memory
				return 90 * time.Second
			}
			return time.Minute
		},
	}
}

// watermill is what the module proxy serves of the Go libraries. It has a go.mod of its own.
func watermill() program {
	return program{
		name: "watermill", title: "Watermill, at least once, no state", peer: true, figures: []string{"pass", "count"},
		can: func(j job) string {
			if !slices.Contains([]string{"pass", "map", "count"}, j.workload) {
				return "has no state"
			}
			return smallState(j)
		},
		prepare: func(ctx context.Context, dir string) error {
			root, err := repository()
			if err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "watermill"), ".")
			cmd.Dir = filepath.Join(root, "bench", "peers", "watermill")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
			if out, err := cmd.CombinedOutput(); err != nil {
				return cannot{"the go command cannot build it: " + goError(string(out), err), "the module proxy must serve its modules"}
			}
			return nil
		},
		command: func(dir string, _ job) (string, []string) { return filepath.Join(dir, "watermill"), nil },
		limit:   func(job) time.Duration { return 20 * time.Second },
	}
}

// unserved is a library of which it is known that its module could not be had when the others were written. The proxy is asked
// again: what the report says is what it answers.
func unserved(name, title, module string) program {
	return program{
		name: name, title: title, peer: true, figures: []string{},
		can: func(job) string { return "is not built" },
		prepare: func(ctx context.Context, dir string) error {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", "list", "-m", module+"@latest")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
			out, err := cmd.CombinedOutput()
			if err != nil {
				return cannot{"its module cannot be had: " + goError(string(out), err), "nothing can be said about it"}
			}
			return cannot{fmt.Sprintf("%s is served, but has no app", strings.TrimSpace(string(out))), "bench/peers/README.md says what one must do"}
		},
		command: func(string, job) (string, []string) { return "", nil },
	}
}

var statusLine = regexp.MustCompile(`(?m)\b([45]\d\d [A-Z][A-Za-z ]+)$`)

// goError is what the go command says is wrong: the answer of the proxy, or else its last line.
func goError(out string, err error) string {
	if m := statusLine.FindStringSubmatch(out); m != nil {
		return m[1]
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if last := scrub(strings.TrimSpace(lines[len(lines)-1])); last != "" {
		return last
	}
	return scrub(err.Error())
}
