package main

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ours are millrace's app and the bare loops it is measured against.
func (c config) ours() []program {
	return []program{
		bareLoop("raw", "bare loop", "-bytes", "65536"),
		bareLoop("raw-2", "bare loop, 2 goroutines", "-bytes", "65536", "-loops", "2"),
		bareLoop("raw-changelog", "bare loop + changelog"),
		bareLoop("raw-changelog-2", "bare loop + changelog, 2 goroutines", "-loops", "2"),
		c.millrace("millrace", "millrace", "pebble"),
		c.millrace("millrace-memory", "millrace, memory stores", "memory"),
	}
}

// bareLoop writes no changelog under a name without "changelog": it passes records through.
func bareLoop(name, title string, more ...string) program {
	changelog := strings.Contains(name, "changelog")
	return program{
		name: name, title: title, records: true,
		can: func(j job) string {
			switch {
			case j.guarantee != "exactly_once":
				return "knows only transactions"
			case changelog && !slices.Contains([]string{"count", "aggregate"}, j.workload), !changelog && j.workload != "pass":
				return "does not do this work"
			}
			return ""
		},
		command: func(dir string, j job) (string, []string) {
			args := []string{"-brokers", j.brokers, "-in", j.in, "-out", j.out, "-app", j.app, "-commit", j.commit.String()}
			if changelog {
				args = append(args, "-changelog", j.changelog)
			}
			if j.workload == "aggregate" {
				args = append(args, "-bytes", strconv.Itoa(j.stateBytes))
			}
			return filepath.Join(dir, "rawcount"), append(args, more...)
		},
	}
}

func (c config) millrace(name, title, store string) program {
	return program{
		name: name, title: title,
		can: func(job) string { return "" },
		command: func(dir string, j job) (string, []string) {
			args := []string{"-workload", j.workload, "-brokers", j.brokers, "-in", j.in, "-out", j.out, "-app", j.app, "-commit", j.commit.String(),
				"-session", j.session.String(), "-guarantee", j.guarantee, "-store", store, "-compression", "none"}
			add := func(set bool, name, value string) {
				if set {
					args = append(args, name, value)
				}
			}
			add(store == "pebble", "-state", j.state)
			add(j.workload == "join", "-table", j.table)
			add(j.workload == "aggregate", "-state-bytes", strconv.Itoa(j.stateBytes))
			add(j.memory > 0, "-memory-limit", strconv.FormatInt(j.memory, 10))
			add(c.workers > 0, "-workers", strconv.Itoa(c.workers))
			add(j.static != "", "-static", j.static)
			return filepath.Join(dir, "keyedcount"), args
		},
	}
}
