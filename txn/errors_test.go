package txn

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/fault"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files of testdata")

var phases = []Phase{PhaseInit, PhaseProduce, PhaseOffsets, PhaseEnd, PhasePlain, PhaseFetch, PhaseAbort}

// The whole table, every phase and every code Kafka has, as a file to read.
func TestTable(t *testing.T) {
	var got bytes.Buffer
	fmt.Fprintf(&got, "%-50s", "code")
	for _, p := range phases {
		fmt.Fprintf(&got, " %-12s", p)
	}
	got.WriteString("\n")
	row := func(name string, err error) {
		fmt.Fprintf(&got, "%-50s", name)
		for _, p := range phases {
			fmt.Fprintf(&got, " %-12s", Classify(p, err))
		}
		got.WriteString("\n")
	}
	row("a broken connection", io.EOF)
	row("the client was closed", kgo.ErrClientClosed)
	for _, e := range everyError() {
		row(e.Message, fmt.Errorf("wrapped: %w", e))
	}
	lines := strings.Split(got.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	text := strings.Join(lines, "\n")
	const file = "testdata/errors.txt"
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("the table has changed; look at the difference, and if it is meant run go test ./txn -run TestTable -rewrite\n%s", text)
	}
}

// Each code Kafka has, in answer to a produce request, an offset commit or the initialisation of the id: the producer does
// what the table says, and nothing is lost or doubled.
func TestEveryErrorIsSurvived(t *testing.T) {
	fake := newFake(t)
	for _, c := range []struct {
		phase Phase
		key   kmsg.Key
	}{{PhaseInit, kmsg.InitProducerID}, {PhaseProduce, kmsg.Produce}, {PhaseOffsets, kmsg.TxnOffsetCommit}} {
		for _, e := range everyError() {
			if e == kerr.DuplicateSequenceNumber && c.phase == PhaseProduce {
				continue // kgo takes it for a yes: TestYesWithoutAnOffset
			}
			t.Run(c.phase.String()+"/"+e.Message, func(t *testing.T) {
				b := newBench(t, fake.addrs)
				b.fake = fake.fake
				renewed := 0
				p := b.producer(quick, func(c *Config) { c.Observer.Renewed = func(string, error) { renewed++ } })
				if c.phase != PhaseInit {
					b.epochs(p, anybody(), 1, 1)
				}
				f := kfake.Fault{Keys: []kmsg.Key{c.key}, Err: e, TxnID: b.txnID.String()}
				if c.phase == PhaseProduce {
					f.TxnID, f.Topic, f.Partitions = "", b.out, []int32{0} // the other one's record is written
				}
				h := b.fake.Fault(f)
				own := anybody()
				from := 2
				if c.phase == PhaseInit {
					from = 1
				}
				aborted, lost, errs := b.epochs(p, own, from, 3)
				if h.Hits() != 1 {
					t.Fatalf("the error was answered %d times", h.Hits())
				}
				b.wantEpochs(1, 3)
				if lost != 0 {
					t.Errorf("lost %d epochs: %v", lost, errs)
				}

				action := Classify(c.phase, e)
				again := action == ActRetry || action == ActRefresh
				if c.phase == PhaseProduce {
					again = aborted == 0 // kgo decides which refused records it sends again
					if again && !kerr.IsRetriable(e) && e != kerr.ConcurrentTransactions {
						t.Errorf("the epoch was committed although a record was refused")
					}
				}
				switch {
				case c.phase == PhaseInit && action == ActFatal:
					if len(errs) != 1 || !IsFatal(errs[0]) || aborted != 0 {
						t.Errorf("aborted %d, errors %v; want one that is fatal, from Begin", aborted, errs)
					}
				case c.phase == PhaseInit || again:
					if aborted != 0 || len(errs) != 0 {
						t.Errorf("aborted %d, errors %v; want neither", aborted, errs)
					}
					if c.phase == PhaseOffsets && own.asked < 2+1 && !errors.Is(e, kerr.NotCoordinator) && !errors.Is(e, kerr.CoordinatorNotAvailable) && !errors.Is(e, kerr.CoordinatorLoadInProgress) {
						t.Errorf("sent again without asking the ownership: it was asked %d times for two epochs", own.asked)
					}
				default:
					if aborted != 1 || len(errs) != 1 || !errors.Is(errs[0], e) {
						t.Errorf("aborted %d, errors %v; want 1 for %v", aborted, errs, e)
					}
					if len(errs) == 1 && (IsFatal(errs[0]) != (action == ActFatal)) {
						t.Errorf("fatal: %v, want %v: %v", IsFatal(errs[0]), action == ActFatal, errs[0])
					}
					want := 0
					if action > ActAbort {
						want = 1
					}
					if c.phase == PhaseOffsets && action == ActAbort {
						want = renewed // if no record was written yet, the id is fenced to be rid of the offsets
					}
					if renewed != want {
						t.Errorf("%d clients were thrown away, want %d for %v", renewed, want, action)
					}
				}
			})
		}
	}
}

func TestIsFencedAndIsFatalLookThroughTheTree(t *testing.T) {
	fenced := newError("id", "g", PhaseOffsets, ActFenced, kerr.ProducerFenced)
	fatal := newError("id", "g", PhaseOffsets, ActFatal, fmt.Errorf("in/0: %w", kerr.GroupAuthorizationFailed))
	plain := newError("id", "g", PhaseOffsets, ActAbort, kerr.UnknownMemberID)
	for _, c := range []struct {
		err           error
		fenced, fatal bool
	}{
		{fenced, true, false},
		{fatal, false, true},
		{plain, false, false},
		{fmt.Errorf("more: %w", errors.Join(plain, fenced)), true, false},
		{errors.Join(errors.New("x"), fmt.Errorf("more: %w", fatal)), false, true},
		{newError("id", "g", PhaseEnd, ActResolve, kerr.InvalidProducerEpoch), true, false},
		{errors.New("x"), false, false},
		{nil, false, false},
	} {
		if IsFenced(c.err) != c.fenced || IsFatal(c.err) != c.fatal {
			t.Errorf("%v: fenced %v, fatal %v", c.err, IsFenced(c.err), IsFatal(c.err))
		}
	}
	var f *fault.Error
	if !errors.As(error(fatal), &f) || f.Code != "txn/denied" || f.Value != "g" || f.Remedy == "" {
		t.Errorf("%v", fatal)
	}
	if !errors.Is(fatal, kerr.GroupAuthorizationFailed) {
		t.Errorf("the cause is out of reach: %v", fatal)
	}
}

func TestTransactionTimeoutAboveTheBrokersLimit(t *testing.T) {
	b := newFake(t, kfake.BrokerConfigs(map[string]string{"transaction.max.timeout.ms": "5000", "log.cleaner.backoff.ms": "86400000"}))
	_, err := b.producer().Begin(b.ctx)
	var f *fault.Error
	if !IsFatal(err) || !errors.As(err, &f) || f.Code != "txn/timeout" {
		t.Fatalf("%v", err)
	}
	for _, value := range []string{"20s", "5s"} {
		if !strings.Contains(err.Error(), value) {
			t.Errorf("%q does not say %s", err, value)
		}
	}
	if err := CheckCluster(b.ctx, b.cl, 20*time.Second); !errors.Is(err, &fault.Error{Code: "txn/timeout"}) {
		t.Errorf("CheckCluster: %v", err)
	}
	if err := CheckCluster(b.ctx, b.cl, 5*time.Second); err != nil {
		t.Errorf("CheckCluster: %v", err)
	}
	// The fencer has no use for a timeout, and finds one the broker takes.
	if err := Fence(b.ctx, b.cl, b.txnID.String(), time.Minute); err != nil {
		t.Errorf("Fence: %v", err)
	}
}

func TestCheckCluster(t *testing.T) {
	if err := CheckCluster(newAny(t).ctx, newAny(t).cl, time.Minute); err != nil {
		t.Errorf("a good cluster: %v", err)
	}
	b := newFake(t)
	b.fake.ControlKey(key(kmsg.ApiVersions), func(r kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.KeepControl()
		resp := r.ResponseKind().(*kmsg.ApiVersionsResponse)
		resp.Version = r.GetVersion()
		for k := int16(0); k < 70; k++ {
			a := kmsg.NewApiVersionsResponseApiKey()
			a.ApiKey, a.MaxVersion = k, 4
			resp.ApiKeys = append(resp.ApiKeys, a)
		}
		f := kmsg.NewApiVersionsResponseFinalizedFeature()
		f.Name, f.MaxVersionLevel = "transaction.version", 1
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, f)
		return resp, nil, true
	})
	err := CheckCluster(b.ctx, b.client(), time.Minute)
	for _, code := range []string{"cluster/transaction-version", "cluster/api-version"} {
		if !errors.Is(err, &fault.Error{Code: code}) {
			t.Errorf("%v does not have %s", err, code)
		}
	}
	if fault.ExitCode(err) != 4 {
		t.Errorf("exit code %d, want 4", fault.ExitCode(err))
	}
	gone, cancel := context.WithCancel(b.ctx)
	cancel()
	if err := CheckCluster(gone, b.cl, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("asked with a context that is done: %v", err)
	}
}

func TestNewProducerRefuses(t *testing.T) {
	good := Config{TransactionalID: "millrace:a:i:0:0", Group: "a", Timeout: time.Minute}
	for _, c := range []struct {
		thing  string
		change func(*Config)
	}{
		{"transactional id", func(c *Config) { c.TransactionalID = "" }},
		{"transactional id", func(c *Config) { c.TransactionalID = strings.Repeat("x", 301) }},
		{"consumer group", func(c *Config) { c.Group = "" }},
		{"transaction timeout", func(c *Config) { c.Timeout = time.Millisecond }},
		{"producer buffer", func(c *Config) { c.BufferBytes = 1 }},
		{"client options", func(c *Config) { c.Client = []kgo.Opt{kgo.MetadataMaxAge(time.Millisecond)} }},
	} {
		conf := good
		c.change(&conf)
		_, err := NewProducer(conf)
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != "txn/config" || f.Thing != c.thing || f.Kind != fault.Config {
			t.Errorf("%s: %v", c.thing, err)
		}
	}
	if _, err := NewProducer(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
}
