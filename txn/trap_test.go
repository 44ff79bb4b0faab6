package txn

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kgo commits a transaction of which a record was refused: Flush and EndTransaction say yes, and the rest becomes visible.
func TestRefusedRecordNeverCommits(t *testing.T) {
	b := newAny(t)
	renewed := 0
	p := b.producer(func(c *Config) { c.Observer.Renewed = func(string, error) { renewed++ } })
	b.epochs(p, anybody(), 1, 1)

	// Refused by the broker, after the client has taken it.
	setTopicConfig(b, b.out, "max.message.bytes", "1000")
	tx := b.begin(p)
	b.send(tx, "small")
	big := &kgo.Record{Topic: b.out, Partition: 1, Value: noise(2000), Timestamp: time.UnixMilli(1)}
	tx.Produce(big)
	r, err := tx.Commit(b.ctx, anybody(), b.at(2, CommitID{}))
	if r != Aborted || !errors.Is(err, ErrProduced) || !errors.Is(err, kerr.MessageTooLarge) {
		t.Fatalf("%v, %v", r, err)
	}
	if f := tx.Failures(); len(f) != 1 || f[0].Record != big || !errors.Is(f[0].Err, kerr.MessageTooLarge) {
		t.Errorf("failures: %+v", f)
	}
	if renewed != 0 {
		t.Errorf("the client was thrown away; nothing was wrong with it")
	}

	// Refused by the client, before it was buffered: Flush does not wait for such a record.
	tx = b.begin(p)
	b.send(tx, "small")
	none := &kgo.Record{Topic: b.out, Partition: 77, Value: []byte("x"), Timestamp: time.UnixMilli(1)}
	tx.Produce(none)
	r, err = tx.Commit(b.ctx, anybody(), b.at(2, CommitID{}))
	if r != Aborted || !errors.Is(err, ErrProduced) {
		t.Fatalf("%v, %v", r, err)
	}
	if f := tx.Failures(); len(f) != 1 || f[0].Record != none {
		t.Errorf("failures: %+v", f)
	}
	b.epochs(p, anybody(), 2, 2)
	b.wantEpochs(1, 2)
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func setTopicConfig(b *bench, topic, name, value string) {
	b.t.Helper()
	rs, err := kadm.NewClient(b.cl).AlterTopicConfigs(b.ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, topic)
	if err == nil {
		_, err = rs.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// kgo takes DUPLICATE_SEQUENCE_NUMBER for a yes. Perhaps it is one, but nobody knows where the record is, and the changelog's
// end would be wrong.
func TestYesWithoutAnOffset(t *testing.T) {
	b := newFake(t)
	p := b.producer()
	b.epochs(p, anybody(), 1, 1)
	answerProduce(b, kerr.DuplicateSequenceNumber, -1)
	tx := b.begin(p)
	b.send(tx, "x")
	if r, err := tx.Commit(b.ctx, anybody(), b.at(2, CommitID{})); r != Aborted || !errors.Is(err, ErrNoOffset) {
		t.Fatalf("%v, %v", r, err)
	}
	b.epochs(p, anybody(), 2, 2)
	b.wantEpochs(1, 2)
}

// A transaction that has offsets and no record: kgo ends it without a word to the broker, and the next commit on the same
// producer would make the offsets true.
func TestOffsetsOfAnAbortedEpochAreNotCommittedLater(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	b.epochs(p, anybody(), 1, 1)

	tx := b.begin(p)
	tx.Produce(&kgo.Record{Topic: b.out, Partition: 77, Timestamp: time.UnixMilli(1)}) // refused, but it gets us as far as the offsets
	if err := tx.sendOffsets(b.ctx, anybody(), b.at(99, CommitID{})); err != nil {
		t.Fatal(err)
	}
	if !b.unstable() {
		t.Fatal("the offsets are not in the transaction: this test proves nothing")
	}
	if err := tx.Abort(b.ctx, errors.New("because")); err != nil {
		t.Fatal(err)
	}
	if b.unstable() {
		t.Error("the offsets are still in the transaction")
	}
	// The next epoch commits another partition only, so that it cannot write over what it must not commit.
	tx = b.begin(p)
	b.send(tx, name(2, 0), name(2, 1))
	other := b.at(7, CommitID{})
	other[0].Partition = 1
	if r, err := tx.Commit(b.ctx, anybody(), other); r != Committed {
		t.Fatal(r, err)
	}
	if s := b.stable(); s.Offset != 1 {
		t.Errorf("the group is at %d: the aborted epoch's offset was committed", s.Offset)
	}
}

func TestNothingProducedIsNotATransaction(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	tx := b.begin(p)
	own := anybody()
	r, err := tx.Commit(b.ctx, own, b.at(1, CommitID{}))
	if r != Aborted || !errors.Is(err, ErrNothingProduced) || own.asked != 0 {
		t.Fatalf("%v, %v, offsets sent %d times", r, err, own.asked)
	}
	if _, err := p.CommitOffsets(b.ctx, b.cl, anybody(), b.at(1, CommitID{})); err != nil {
		t.Fatal(err)
	}
	if s := b.stable(); s.Offset != 1 {
		t.Errorf("the group is at %d, want 1", s.Offset)
	}
}

// kgo takes another producer epoch inside a transaction without telling anybody, when a partition's log start has moved past
// its last write and the broker has forgotten it. What it sent before is then aborted, and committing commits the rest alone.
func TestProducerIDChangedInsideTheTransaction(t *testing.T) {
	b := newFake(t)
	p := b.producer()
	b.epochs(p, anybody(), 1, 1)

	tx := b.begin(p)
	tx.Produce(&kgo.Record{Topic: b.out, Partition: 0, Value: []byte("first part"), Timestamp: time.UnixMilli(1)})
	tx.Produce(&kgo.Record{Topic: b.out, Partition: 1, Value: []byte("second part"), Timestamp: time.UnixMilli(1)})
	if err := p.client.Flush(b.ctx); err != nil {
		t.Fatal(err)
	}
	forgot := answerProduce(b, kerr.UnknownProducerID, 1_000_000)
	tx.Produce(&kgo.Record{Topic: b.out, Partition: 1, Value: []byte("third part"), Timestamp: time.UnixMilli(1)})
	old := p.client
	r, err := tx.Commit(b.ctx, anybody(), b.at(2, CommitID{}))
	if forgot.Load() != 1 || len(tx.Failures()) != 0 {
		t.Fatalf("the broker forgot us %d times, failures %v: this test proves nothing", forgot.Load(), tx.Failures())
	}
	if r != Aborted {
		t.Fatalf("%v, %v", r, err)
	}
	// Whichever is seen first: the offsets under the old epoch are refused, or the pair differs.
	if !errors.Is(err, ErrProducerChanged) && !IsFenced(err) {
		t.Errorf("%v", err)
	}
	if p.client == old {
		t.Error("the client was kept")
	}
	b.epochs(p, anybody(), 2, 2)
	b.wantEpochs(1, 2)
}

// The same, when the offsets were in before the change: only the comparison stands between us and half an epoch.
func TestProducerIDChangedAfterTheOffsets(t *testing.T) {
	b := newFake(t)
	p := b.producer()
	tx := b.begin(p)
	b.send(tx, "first part", "second part")
	if err := tx.sendOffsets(b.ctx, anybody(), b.at(1, CommitID{})); err != nil {
		t.Fatal(err)
	}
	if err := p.client.Flush(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.fake.ControlKey(key(kmsg.TxnOffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		// A broker that takes the offsets whatever the epoch.
		req := r.(*kmsg.TxnOffsetCommitRequest)
		resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewTxnOffsetCommitResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				sp.Partition = rp.Partition
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	answerProduce(b, kerr.UnknownProducerID, 1_000_000)
	tx.Produce(&kgo.Record{Topic: b.out, Partition: 1, Value: []byte("third part"), Timestamp: time.UnixMilli(1)})
	r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{}))
	if r != Aborted || !errors.Is(err, ErrProducerChanged) {
		t.Fatalf("%v, %v", r, err)
	}
	b.epochs(p, anybody(), 1, 1)
	b.wantEpochs(1, 1)
}

// answerProduce makes the broker answer the next produce request with an error and a log start. UNKNOWN_PRODUCER_ID with a
// log start far ahead is a broker that has forgotten the producer.
func answerProduce(b *bench, e *kerr.Error, logStart int64) *atomic.Int64 {
	var times atomic.Int64
	b.fake.ControlKey(key(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		req := r.(*kmsg.ProduceRequest)
		times.Add(1)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode, sp.LogStartOffset = rp.Partition, e.Code, logStart
				sp.BaseOffset = -1
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	return &times
}

// The coordinator has aborted the transaction because it took too long. Under KIP-890 part 2 the old client is of no use
// any more; another one goes on.
func TestTransactionTimedOutOnTheCoordinator(t *testing.T) {
	b := newAny(t) // a real one looks every 10 s
	b.timeout = time.Second
	renewed := 0
	p := b.producer(func(c *Config) { c.Observer.Renewed = func(string, error) { renewed++ } })
	b.epochs(p, anybody(), 1, 1)
	tx := b.begin(p)
	tx.cancel() // the transaction's own deadline would be met first; here the coordinator's clock is the faster one
	tx.ctx, tx.cancel = context.WithCancel(context.Background())
	b.send(tx, "late 0", "late 1")
	if err := p.client.Flush(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := tx.sendOffsets(b.ctx, anybody(), b.at(2, CommitID{})); err != nil {
		t.Fatal(err)
	}
	b.stable() // waits for the coordinator to end it
	r, err := tx.Commit(b.ctx, anybody(), b.at(2, CommitID{}))
	if r != Aborted || err == nil {
		t.Fatalf("%v, %v", r, err)
	}
	if renewed != 1 {
		t.Errorf("%d clients were thrown away, want 1", renewed)
	}
	b.epochs(p, anybody(), 2, 3)
	b.wantEpochs(1, 3)
}

// A transaction that outlives its own timeout gives up by itself.
func TestTransactionOutlivesItsTimeout(t *testing.T) {
	b := newFake(t)
	b.timeout = time.Second
	p := b.producer()
	b.fake.ControlKey(key(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.KeepControl()
		return nil, nil, true // never answered
	})
	tx := b.begin(p)
	b.send(tx, "x")
	r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{}))
	if r != Aborted || err == nil {
		t.Fatalf("%v, %v", r, err)
	}
}

// CONCURRENT_TRANSACTIONS is what a broker says while it ends the transaction before: however often, it is waited for.
func TestConcurrentTransactions(t *testing.T) {
	for _, k := range []kmsg.Key{kmsg.InitProducerID, kmsg.Produce, kmsg.TxnOffsetCommit, kmsg.EndTxn} {
		for _, times := range []int{1, 7, 50} {
			t.Run(k.Name()+"/"+strconv.Itoa(times), func(t *testing.T) {
				b := newFake(t)
				p := b.producer(func(c *Config) {
					c.Client = append(c.Client, kgo.RetryBackoffFn(func(int) time.Duration { return time.Millisecond }))
				})
				f := kfake.Fault{Keys: []kmsg.Key{k}, Err: kerr.ConcurrentTransactions, Count: times}
				if k == kmsg.Produce {
					f.Topic = b.out
				} else {
					f.TxnID = b.txnID.String()
				}
				h := b.fake.Fault(f)
				aborted, lost, errs := b.epochs(p, anybody(), 1, 3)
				if aborted != 0 || lost != 0 {
					t.Errorf("aborted %d, lost %d: %v", aborted, lost, errs)
				}
				if h.Hits() != times {
					t.Errorf("injected %d times, want %d", h.Hits(), times)
				}
				b.wantEpochs(1, 3)
			})
		}
	}
}

// The caller's patience ends: the epoch is aborted, and nothing stays open.
func TestCommitWithACancelledContext(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	b.epochs(p, anybody(), 1, 1)
	tx := b.begin(p)
	b.send(tx, "x", "y")
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	r, err := tx.Commit(ctx, anybody(), b.at(2, CommitID{}))
	if r != Aborted || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, %v", r, err)
	}
	if b.unstable() {
		t.Error("offsets are still in a transaction")
	}
	b.epochs(p, anybody(), 2, 2)
	b.wantEpochs(1, 2)
}

// A context that is cancelled while EndTxn is under way does not change the outcome.
func TestEndTxnIsNotCancelled(t *testing.T) {
	b := newAny(t)
	w := new(wire)
	p := b.producer(over(w))
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	w.set(func(k kmsg.Key) bool {
		if k == kmsg.EndTxn {
			cancel()
		}
		return true
	}, nil)
	tx := b.begin(p)
	b.send(tx, name(1, 0), name(1, 1))
	r, err := tx.Commit(ctx, anybody(), b.at(1, CommitID{}))
	if ctx.Err() == nil || r != Committed || err != nil {
		t.Fatalf("%v, %v, %v", ctx.Err(), r, err)
	}
	b.wantEpochs(1, 1)
}

func TestCloseAbortsWhatIsOpen(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	tx := b.begin(p)
	b.send(tx, "x", "y")
	if err := tx.sendOffsets(b.ctx, anybody(), b.at(1, CommitID{})); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Begin(b.ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("Begin while a transaction is open: %v", err)
	}
	if _, err := p.CommitOffsets(b.ctx, b.cl, anybody(), b.at(1, CommitID{})); !errors.Is(err, ErrBusy) {
		t.Errorf("CommitOffsets while a transaction is open: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if b.unstable() {
		t.Error("offsets are still in a transaction")
	}
	if _, err := p.Begin(b.ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("Begin after Close: %v", err)
	}
	b.wantOutput()
}

// The first transaction of a client on a busy machine may be ended by kgo as an abort, with a nil error: see prepare. The
// window is between two statements of kgo, and a few in ten thousand transactions fall into it, so this looks for the cure and
// not for the illness: between the flush and the end Commit passes the lock under which kgo is still busy.
func TestCommitPassesTheLockOfNewTopics(t *testing.T) {
	b := newFake(t)
	var log saying
	p := b.producer(func(c *Config) { c.Client = append(c.Client, kgo.WithLogger(&log)) })
	b.epochs(p, anybody(), 1, 1)
	flushed, passed, ended := log.find("flushed"), log.find("producer state set to aborting"), log.find("ending transaction")
	if flushed < 0 || passed < flushed || ended < passed {
		t.Errorf("flushed at %d, passed the lock at %d, ended at %d of\n%s", flushed, passed, ended, strings.Join(log.said, "\n"))
	}
	b.wantEpochs(1, 1)
}

// saying is a kgo logger that keeps what was said.
type saying struct {
	mu   sync.Mutex
	said []string
}

func (s *saying) Level() kgo.LogLevel { return kgo.LogLevelDebug }

func (s *saying) Log(_ kgo.LogLevel, msg string, _ ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, msg)
}

// find is the place of the first message that begins so, -1 if there is none.
func (s *saying) find(begin string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.IndexFunc(s.said, func(m string) bool { return strings.HasPrefix(m, begin) })
}
