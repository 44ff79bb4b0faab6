package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/txn"
)

// TestStartsOver: a counted application is reset and counts from 1 again, from where it was told to.
func TestStartsOver(t *testing.T) {
	for to, again := range map[string]int{"earliest": 60, "latest": 0, "keep": 0} {
		t.Run(to, func(t *testing.T) {
			w := newWorld(t)
			if err := countedFromOne(w.count(60, 60)); err != nil {
				t.Fatal(err)
			}
			out := w.reset("-to", to)
			if got := strings.Join(w.topics(), " "); got != "totals words" {
				t.Errorf("topics after the reset: %s", got)
			}
			if got := strings.Join(w.files(false), " "); got != "counter/lock" {
				t.Errorf("files after the reset: %s", got)
			}
			offsets := w.offsets()
			if len(offsets) != 2 {
				t.Errorf("offsets after the reset: %q", offsets)
			}
			sum := 0
			for _, o := range offsets {
				var partition, at int
				if _, err := fmt.Sscanf(o, "offset words/%d at %d", &partition, &at); err != nil || !strings.HasSuffix(o, `"`+resetMark+`"`) {
					t.Errorf("offset after the reset: %s", o)
				}
				sum += at
			}
			if sum != 60-again {
				t.Errorf("offsets after the reset: %q", offsets)
			}
			for _, want := range []string{"counter-counts-changelog", "counter-by-word-repartition", "counter-tasks", "[6/6]", `next start of "counter"`} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
			if err := countedFromOne(w.count(9, 9+again)); err != nil {
				t.Error(err)
			}
		})
	}
}

var errStop = errors.New("stopped by the test")

// TestInterrupted: a reset that ended after any of its steps is finished by the same command, with the same end.
func TestInterrupted(t *testing.T) {
	for _, step := range []string{"fence", "offsets", "changelogs", "repartitions", "tasks", "state"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.count(30, 30)
			reached := false
			status, out, errs := w.cmdWith(terminal{}, func(s string) error {
				if s == step {
					reached = true
					return errStop
				}
				return nil
			}, "-app", "counter", "-yes", "-state", w.state)
			if status == 0 || !reached || strings.Contains(out, "Done.") {
				t.Fatalf("status %d\n%s\n%s", status, out, errs)
			}
			if step == "offsets" || step == "changelogs" || step == "repartitions" {
				// Half a state is not counted on.
				stop, ended := w.instance()
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
				}
				if err := stop(); millrace.ExitCode(err) != 3 {
					t.Errorf("an application that is started in the middle: %v", err)
				}
			}
			w.reset()
			if got := strings.Join(w.topics(), " "); got != "totals words" {
				t.Errorf("topics: %s", got)
			}
			if got := strings.Join(w.files(false), " "); got != "counter/lock" {
				t.Errorf("files: %s", got)
			}
			if got := w.offsets(); len(got) != 2 || !strings.Contains(got[0], "words/0 at 0 ") || !strings.Contains(got[1], "words/1 at 0 ") {
				t.Errorf("offsets: %q", got)
			}
			if err := countedFromOne(w.count(3, 33)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRemedyOfOffsetBehind: what the error tells a person to do lets the application start.
func TestRemedyOfOffsetBehind(t *testing.T) {
	w := newWorld(t)
	w.count(30, 30)
	back := kadm.Offsets{}
	for n := range int32(4) {
		back.Add(kadm.Offset{Topic: "counter-by-word-repartition", Partition: n, At: 0, LeaderEpoch: -1})
	}
	if _, err := w.adm.CommitOffsets(t.Context(), "counter", back); err != nil {
		t.Fatal(err)
	}
	stop, ended := w.instance()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
	}
	var refused *millrace.Error
	if err := stop(); !errors.As(err, &refused) || refused.Code != "group/offset-behind" || !strings.Contains(refused.Remedy, "`millrace reset` starts over") {
		t.Fatalf("%v", err)
	}
	w.reset()
	if err := countedFromOne(w.count(3, 33)); err != nil {
		t.Error(err)
	}
}

// TestOldStateOnAnotherHost: a directory that the reset could not reach is refused, and emptied by one that can.
func TestOldStateOnAnotherHost(t *testing.T) {
	w := newWorld(t)
	w.count(30, 30)
	if status, out, errs := w.cmd("-app", "counter", "-yes"); status != 0 || !strings.Contains(out, "delete <its state directory>/counter") {
		t.Fatalf("status %d, %s\n%s", status, errs, out)
	}
	stop, ended := w.instance()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
	}
	if err := stop(); !errors.Is(err, &millrace.Error{Code: "topic/recreated"}) {
		t.Fatalf("%v", err)
	}
	w.reset()
	if err := countedFromOne(w.count(3, 33)); err != nil {
		t.Error(err)
	}
}

// TestOpenTransactionIsFenced: what a dead instance has begun can never be committed, and holds nobody up.
func TestOpenTransactionIsFenced(t *testing.T) {
	w := newWorld(t)
	w.count(30, 30)
	id, err := txn.NewTransactionalID("counter", "dead", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.TransactionalID(id.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	if err := dead.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := dead.ProduceSync(t.Context(), &kgo.Record{Topic: "totals", Key: []byte("k"), Value: make([]byte, 8)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if out := w.reset(); !strings.Contains(out, id.String()) {
		t.Errorf("the fenced id is not named:\n%s", out)
	}
	if err := dead.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
		t.Error("the dead instance could commit")
	}
}

// TestDryRun changes nothing, not even the lock's file.
func TestDryRun(t *testing.T) {
	w := newWorld(t)
	w.count(30, 30)
	before := w.snapshot()
	status, out, errs := w.cmd("-app", "counter", "-state", w.state, "-dry-run")
	if status != 0 || errs != "" {
		t.Fatalf("status %d\n%s\n%s", status, out, errs)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	fields := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{
		"counter-counts-changelog changelog 2", "counter-by-word-repartition repartition 2", "counter-tasks tasks 2", "words 0 ", "words 1 ", " again", "EMPTY STATE DIRECTORY " + w.state, "Nothing was changed",
	} {
		if !strings.Contains(fields, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

// TestConfirmation: only the application's id, typed on a terminal, lets it go on.
func TestConfirmation(t *testing.T) {
	w := newWorld(t)
	w.count(9, 9)
	before := w.snapshot()
	for what, term := range map[string]terminal{
		"nobody there": {in: strings.NewReader("counter\n")}, "another answer": {in: strings.NewReader("yes\n"), person: true},
		"no answer": {in: strings.NewReader(""), person: true},
	} {
		status, out, errs := w.cmdWith(term, nil, "-app", "counter")
		if status != 2 || !strings.HasPrefix(errs, "millrace: reset/not-confirmed: ") || !strings.Contains(out, "counter-tasks") {
			t.Errorf("%s: status %d, %s\n%s", what, status, errs, out)
		}
	}
	if after := w.snapshot(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	status, out, errs := w.cmdWith(terminal{in: strings.NewReader("counter\n"), person: true}, nil, "-app", "counter")
	if status != 0 || !strings.Contains(out, "Done.") {
		t.Errorf("status %d, %s\n%s", status, errs, out)
	}
}

// TestUnregisteredTopicsAreLeft: a name alone proves nothing.
func TestUnregisteredTopicsAreLeft(t *testing.T) {
	w := newWorld(t)
	w.count(9, 9)
	for _, name := range []string{"counter-old-changelog", "counter-other", "counter-x-repartition", "counters-changelog"} {
		if err := w.kafka.CreateTopic(name, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	out := w.reset()
	if got := strings.Join(w.topics(), " "); got != "counter-old-changelog counter-other counter-x-repartition counters-changelog totals words" {
		t.Errorf("topics: %s", got)
	}
	if !strings.Contains(out, "Topic counter-old-changelog was left") || strings.Contains(out, "counter-other") || strings.Contains(out, "counters-changelog") {
		t.Error(out)
	}
	w.reset("-include-unregistered")
	if got := strings.Join(w.topics(), " "); got != "counter-other counters-changelog totals words" {
		t.Errorf("topics: %s", got)
	}
}

// TestNeighbourIsLeft: "counter" and "counter-by" share the prefix, and one's topics may look like the other's.
func TestNeighbourIsLeft(t *testing.T) {
	w := newWorld(t)
	w.count(9, 9)
	want := slices.DeleteFunc(w.topics(), func(n string) bool { return n == "words" || n == "totals" })
	// As the application "counter-by" it would seem that "counter-by-word-repartition" is ours.
	status, out, errs := w.cmd("-app", "counter-by", "-yes", "-include-unregistered")
	if status != 2 || !strings.Contains(errs, "reset/nothing-there") || !strings.Contains(errs, "did you mean counter?") {
		t.Errorf("status %d, %s\n%s", status, errs, out)
	}
	if got := slices.DeleteFunc(w.topics(), func(n string) bool { return n == "words" || n == "totals" }); !slices.Equal(got, want) {
		t.Errorf("topics: %q, before %q", got, want)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.count(9, 9)
	foreign := kadm.Offsets{}
	foreign.Add(kadm.Offset{Topic: "words", Partition: 0, At: 1, LeaderEpoch: -1})
	if _, err := w.adm.CommitOffsets(t.Context(), "billing", foreign); err != nil {
		t.Fatal(err)
	}
	before := w.snapshot()
	for _, c := range []struct {
		args   string
		status int
		says   []string
	}{
		{"-app countre -yes", 2, []string{"reset/nothing-there", `"countre"`, "did you mean counter?"}},
		{"-app zzzzzzzz -yes", 2, []string{"reset/nothing-there", "this cluster has billing, counter"}},
		{"-app billing -yes", 2, []string{"reset/foreign-group", `"billing"`}},
		{"-app counter -brokres x", 2, []string{"cli/usage", "-brokres", "did you mean -brokers?"}},
		{"-app counter -to middle -yes", 2, []string{"cli/usage", `-to "middle"`}},
		{"-app a:b -timeout 0s", 2, []string{`-app "a:b"`, "-timeout 0s"}},
		{"-yes", 2, []string{"cli/usage", "-app is missing"}},
		{"-app counter now", 2, []string{"cli/usage", `"now"`}},
		{"-app counter -timeout soon", 2, []string{"cli/usage", "soon"}},
		{"-app counter", 2, []string{"reset/not-confirmed", "-yes"}},
	} {
		status, out, errs := w.cmd(strings.Fields(c.args)...)
		if status != c.status || strings.Count(errs, "\n") > 2 {
			t.Errorf("%s: status %d\n%s\n%s", c.args, status, out, errs)
		}
		for _, s := range c.says {
			if !strings.Contains(errs, s) {
				t.Errorf("%s: %q is not in %s", c.args, s, errs)
			}
		}
	}
	if after := w.snapshot(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestRefusesTheLiving: members are named, a state directory in use too, and nothing is touched.
func TestRefusesTheLiving(t *testing.T) {
	w := newWorld(t)
	w.produce(9)
	stop, ended := w.instance()
	w.totals(0, 9, ended)
	status, out, errs := w.cmd("-app", "counter", "-yes")
	if status != 4 {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
	for _, want := range []string{"reset/group-active", `"counter"`, "member ", "client millrace-counter-", "host "} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not in %s", want, errs)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	// The group is empty, but a process still has the directory: as one that cannot reach the brokers.
	holder := w.hold()
	before := w.topics()
	status, out, errs = w.cmd("-app", "counter", "-yes", "-state", w.state)
	if status != 3 || !strings.Contains(errs, "state/in-use") || !slices.Equal(before, w.topics()) {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	w.reset()
}

// TestJoinedMeanwhile: somebody who joins between the plan and the offsets is not overrun.
func TestJoinedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.count(9, 9)
	var stop func() error
	status, out, errs := w.cmdWith(terminal{}, func(step string) error {
		if step == "fence" {
			from := w.end("totals")
			w.produce(3)
			var ended <-chan struct{}
			stop, ended = w.instance()
			w.totals(from, 3, ended)
		}
		return nil
	}, "-app", "counter", "-yes")
	if status != 4 || !strings.Contains(errs, "reset/group-active") || !strings.Contains(errs, "client millrace-counter-") {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
	if !slices.Contains(w.topics(), "counter-counts-changelog") {
		t.Error("topics were deleted under a running application")
	}
	if err := stop(); err != nil {
		t.Errorf("the application: %v", err)
	}
}

// TestBrokersRefuse: what they say is passed on, and the same command finishes later.
func TestBrokersRefuse(t *testing.T) {
	w := newWorld(t)
	w.count(9, 9)
	w.kafka.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.GroupAuthorizationFailed, Count: 1})
	status, out, errs := w.cmd("-app", "counter", "-yes", "-state", w.state)
	if status != 4 || !strings.Contains(errs, "reset/step-failed") || !strings.Contains(errs, "GROUP_AUTHORIZATION_FAILED") {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
	w.kafka.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DeleteTopics}, Err: kerr.TopicAuthorizationFailed, Count: 1})
	status, out, errs = w.cmd("-app", "counter", "-yes", "-state", w.state)
	if status != 4 || !strings.Contains(errs, "reset/topic-not-deleted") || !strings.Contains(errs, "counter-counts-changelog") {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
	w.reset()
	if err := countedFromOne(w.count(3, 12)); err != nil {
		t.Error(err)
	}
}

// TestPatient: in a cluster that had no group yet coordinators say for a while that they are not there; that passes, other refusals do not.
func TestPatient(t *testing.T) {
	asked := 0
	answer := func(refusals int, refusal error) func() (int, error) {
		asked = 0
		return func() (int, error) {
			if asked++; asked <= refusals {
				return 0, fmt.Errorf("shard: %w", refusal)
			}
			return 7, nil
		}
	}
	if got, err := patient(t.Context(), answer(2, kerr.CoordinatorNotAvailable)); got != 7 || err != nil || asked != 3 {
		t.Errorf("%d, %v after %d", got, err, asked)
	}
	if _, err := patient(t.Context(), answer(2, kerr.GroupAuthorizationFailed)); !errors.Is(err, kerr.GroupAuthorizationFailed) || asked != 1 {
		t.Errorf("%v after %d", err, asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	busy := answer(1000, kerr.CoordinatorNotAvailable)
	ended := func() (int, error) {
		if asked == 2 {
			cancel()
		}
		return busy()
	}
	if _, err := patient(ctx, ended); !errors.Is(err, kerr.CoordinatorNotAvailable) || asked != 3 {
		t.Errorf("%v after %d", err, asked)
	}
}

func TestTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(null) || isTerminal(file) {
		t.Error("nobody types there")
	}
}

func TestUnreachableBrokers(t *testing.T) {
	w := newWorld(t)
	w.kafka.Close()
	began := time.Now()
	status, _, errs := w.cmd("-app", "counter", "-yes", "-timeout", "1s")
	if status != 4 || !strings.Contains(errs, "cluster/unreachable") || !strings.Contains(errs, "connection refused") {
		t.Errorf("status %d: %s", status, errs)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestInterruptedByASignal(t *testing.T) {
	w := newWorld(t)
	w.count(9, 9)
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs strings.Builder
	args := []string{"reset", "-brokers", strings.Join(w.addrs, ","), "-app", "counter", "-yes", "-state", w.state}
	status := execute(ctx, args, terminal{in: strings.NewReader(""), out: &out, err: &errs}, func(step string) error {
		if step == "offsets" {
			cancel()
		}
		return nil
	})
	if status != 1 || !strings.Contains(errs.String(), "reset/interrupted") || !strings.Contains(errs.String(), "same command again") {
		t.Errorf("status %d, %s\n%s", status, errs.String(), out.String())
	}
	w.reset()
	if err := countedFromOne(w.count(3, 12)); err != nil {
		t.Error(err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"", 0, "reset"},
		{"-h", 0, "version"},
		{"reset -h", 0, "-to keep -yes"},
		{"reset -help", 0, "-dry-run"},
		{"version", 0, "millrace "},
		{"reste", 2, "did you mean `millrace reset`?"},
		{"-what", 2, "cli/usage"},
		{"version now", 2, "cli/usage"},
	} {
		var both strings.Builder
		status := run(t.Context(), strings.Fields(c.args), terminal{in: strings.NewReader(""), out: &both, err: &both})
		if status != c.status || !strings.Contains(both.String(), c.says) {
			t.Errorf("%q: status %d\n%s", c.args, status, both.String())
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"orders", "orders-eu", "payments", "wordcount", "o"}
	for name, want := range map[string]string{
		"oders": "orders", "orders": "orders orders-eu", "paymnets": "payments", "word": "wordcount", "zebra": "", "wordcuont": "wordcount",
	} {
		if got := nearest(name, names); fmt.Sprint(got) != fmt.Sprint(strings.Fields(want)) {
			t.Errorf("nearest to %s: %q, want %q", name, got, want)
		}
	}
}
