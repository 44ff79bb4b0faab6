package measure

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	id, p, err := parseStat("4711 (a) b (c) S 12 4711 4711 0 -1 4194560 1 2 3 4 250 150 7 8 20 0 9 0 1 2 3\n")
	if err != nil || id != 4711 || p.parent != 12 || p.cpu != 4 {
		t.Errorf("%d %+v %v", id, p, err)
	}
	for _, bad := range []string{"", "1 name S 1", "1 (x) S 1 2", "1 (x) S a 4711 4711 0 -1 4194560 1 2 3 4 250 150 7"} {
		if _, _, err := parseStat(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParseMachine(t *testing.T) {
	busy, stolen, ok := parseMachine("cpu  100 200 300 400 500 600 700 800 0 0")
	if !ok || busy != 19 || stolen != 8 {
		t.Errorf("%v %v %v", busy, stolen, ok)
	}
	if _, _, ok := parseMachine("intr 1 2 3 4 5 6 7 8 9"); ok {
		t.Error("took another line for the processors'")
	}
}

func TestThisProcess(t *testing.T) {
	cpu, rss := Self()
	if rss < 1<<20 || cpu < 0 {
		t.Errorf("%v s, %d bytes", cpu, rss)
	}
	u, err := Of(os.Getpid())
	if err != nil || u.RSSMax < 1<<20 {
		t.Errorf("%+v %v", u, err)
	}
	if _, err := Of(1 << 30); err == nil {
		t.Error("a process that is not there has a usage")
	}
}

func TestProbe(t *testing.T) {
	if v := Probe(5 * time.Millisecond); v < 1 {
		t.Errorf("%v million rounds a second", v)
	}
}

// TestATreeOfProcesses: what a shell has started counts too, and a process that has ended is an error.
func TestATreeOfProcesses(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "cat; true")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var tree []int
	for deadline := time.Now().Add(10 * time.Second); len(tree) < 2 && time.Now().Before(deadline); {
		if tree, _, err = below(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if len(tree) != 2 {
		t.Errorf("the shell and its child are %v", tree)
	}
	all, err := Resident(cmd.Process.Pid)
	if alone := statusField(cmd.Process.Pid, "VmRSS:"); err != nil || alone == 0 || all <= alone {
		t.Errorf("%d bytes, the shell alone has %d: %v", all, alone, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := Resident(cmd.Process.Pid); err == nil {
		t.Error("a process that has ended has memory")
	}
}

func TestLines(t *testing.T) {
	var b bytes.Buffer
	NewOut(&b).Say(Line{Event: "done", Records: 3, Seconds: 1.23456})
	got := b.String()
	if !strings.HasPrefix(got, `{"event":"done","at":`) || !strings.HasSuffix(got, `"records":3,"seconds":1.235}`+"\n") {
		t.Error(got)
	}
}
