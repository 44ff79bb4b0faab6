package itest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// examples are the programs that check themselves while their applications are killed. Each is the program of its directory.
var examples = []struct {
	name string
	args []string
}{
	{"04-fraud", []string{"-payments", "60000"}},
	{"05-sessions", []string{"-rate", "1000"}}, // 12,000 clicks: it must not be over before the kills
	{"06-dedup", nil},
	{"08-rules", []string{"-rate", "600"}},
}

// TestExamplesSurviveKills runs each example in three processes: two with its application, which are killed with SIGKILL and started again in
// turn, and one with everything else, which compares what comes out with what must come out. That one's exit code is the verdict.
// What depends on the wall clock (09-reminders) is in TestTimersSurviveKills, with an oracle that knows when nobody was there.
func TestExamplesSurviveKills(t *testing.T) {
	addrs := realKafka(t)
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			exampleSurvives(t, addrs[0], e.name, e.args)
		})
	}
}

// TestCount100KillsItself: this one kills its application by itself, on a real Kafka as well.
func TestCount100KillsItself(t *testing.T) {
	addrs := realKafka(t)
	out, err := exec.CommandContext(t.Context(), "go", "run", "../examples/07-count100", "-brokers", addrs[0]).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, tailOf(out, 2000))
	}
	t.Logf("%s", tailOf(out, 300))
}

func exampleSurvives(t *testing.T, addr, name string, args []string) {
	dir := t.TempDir()
	file := filepath.Join(dir, "program")
	if out, err := exec.Command("go", "build", "-o", file, "../examples/"+name).CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	rest := exec.Command(file, append([]string{"-brokers", addr, "-part", "rest", "-rate", "4000"}, args...)...)
	var said bytes.Buffer
	rest.Stdout, rest.Stderr = &said, &said
	if err := rest.Start(); err != nil {
		t.Fatal(err)
	}
	judged := make(chan error, 1)
	go func() { judged <- rest.Wait() }()

	over := make(chan struct{})
	var apps sync.WaitGroup
	var kills [2]int
	for i := range kills {
		apps.Go(func() {
			kills[i] = killing(t, over, uint64(i+1), file, append([]string{"-brokers", addr, "-part", "app",
				"-state", filepath.Join(dir, fmt.Sprint("state-", i))}, args...)...)
		})
	}
	var verdict error
	select {
	case verdict = <-judged:
	case <-time.After(2 * patience):
		_ = rest.Process.Kill()
		verdict = fmt.Errorf("it was not over after %v: %w", 2*patience, <-judged)
	}
	close(over)
	apps.Wait()
	if verdict != nil {
		t.Errorf("%v\n%s", verdict, tailOf(said.Bytes(), 2000))
	}
	if n := kills[0] + kills[1]; n < 2 {
		t.Errorf("its application was killed %d times: too few to say anything", n)
	}
	t.Logf("killed %v times", kills)
}

// killing runs the application, kills it some times, each after a while, and lets the last life be. A life that ends by itself, because
// the topics are not there yet, is followed by another.
func killing(t *testing.T, over <-chan struct{}, seed uint64, file string, args ...string) (kills int) {
	const most = 2
	random := rand.New(rand.NewPCG(seed, 1))
	var log bytes.Buffer
	defer func() {
		if t.Failed() {
			t.Logf("what application %d said:\n%s", seed, tailOf(log.Bytes(), 2000))
		}
	}()
	for {
		app := exec.Command(file, args...)
		app.Stdout, app.Stderr = &log, &log
		if err := app.Start(); err != nil {
			t.Error(err)
			return kills
		}
		ended := make(chan error, 1)
		go func() { ended <- app.Wait() }()
		var due <-chan time.Time
		if kills < most {
			due = time.After(2*time.Second + time.Duration(random.Int64N(int64(2*time.Second))))
		}
		select {
		case <-over:
			_ = app.Process.Kill()
			<-ended
			return kills
		case <-due:
			_ = app.Process.Kill()
			<-ended
			kills++
		case <-ended:
			select {
			case <-over:
				return kills
			case <-time.After(200 * time.Millisecond): // the topics are not there yet
			}
		}
	}
}

func tailOf(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
