package kafkatest

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestEmbedded(t *testing.T) {
	c := Embedded(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := answers(ctx, c.Addrs()); err != nil {
		t.Fatal(err)
	}
	if c.Controllable() {
		t.Error("the embedded broker says it can be killed")
	}
}

// TestNamedCluster: a cluster that the environment names is used as it is, and refused at once if nobody is there.
func TestNamedCluster(t *testing.T) {
	t.Setenv(EnvBrokers, " "+Embedded(t).Addrs()[0]+", ")
	c, err := real()
	if err != nil || len(c.Addrs()) != 1 || c.Controllable() {
		t.Fatalf("%v, %v", c, err)
	}
	t.Setenv(EnvBrokers, ",")
	if _, err := real(); err == nil || !strings.Contains(err.Error(), EnvBrokers) {
		t.Errorf("a list of nothing: %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := answers(ctx, []string{addr}); err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("%v", err)
	}
}

func TestOrphan(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	dead := func(int) bool { return false }
	lives := func(pid int) bool { return pid == 7 }
	young, old := strconv.FormatInt(now.Add(-time.Hour).Unix(), 10), strconv.FormatInt(now.Add(-4*time.Hour).Unix(), 10)
	for _, c := range []struct {
		name              string
		place, pid, since string
		alive             func(int) bool
		want              bool
	}{
		{"its process lives", "here", "7", old, lives, false},
		{"its process is gone", "here", "7", young, dead, true},
		{"no process", "here", "", young, lives, true},
		{"another machine, young", "there", "7", young, dead, false},
		{"another machine, old", "there", "7", old, lives, true},
		{"no age", "there", "7", "", lives, true},
	} {
		l := map[string]string{labelPlace: c.place, labelOwner: c.pid, labelSince: c.since}
		if got := orphan(l, "here", now, c.alive); got != c.want {
			t.Errorf("%s: orphan is %v", c.name, got)
		}
	}
	if !alive(os.Getpid()) || orphan(labels(), place(), time.Now(), alive) {
		t.Error("this process takes its own containers for orphans")
	}
}
