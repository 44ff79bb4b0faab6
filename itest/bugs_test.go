package itest

import (
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/chaos"
)

// TestSeededBugsAreCaught is the test of the verifier, and of the situations it is put in: for every mistake others have
// made there is a scenario in which the application, built with the mistake, breaks the promise and the oracle says so;
// built without it, the same scenario ends with everything exact. A scenario that lets a bug pass proves nothing about its
// absence.
func TestSeededBugsAreCaught(t *testing.T) {
	scenarios := map[chaos.Bug]func(*scene){
		chaos.CommitDespiteFailedProduce: (*scene).outputFailsOnce,
		chaos.SkipDiscard:                (*scene).outputFailsOnce,
		chaos.ApplyBeforeCommit:          (*scene).changelogFailsOnce,
		chaos.RewindToLocalOffsets:       (*scene).answerOfCommitIsLost,
		chaos.OffsetsForLostTask:         (*scene).taskIsLostWhileOffsetsAreRetried,
		chaos.RestoreEndBeforeFetch:      (*scene).oldOwnerCommitsDuringTakeover,
	}
	for _, bug := range chaos.Bugs {
		play, ok := scenarios[bug]
		if !ok {
			t.Errorf("no scenario provokes %s", bug)
			continue
		}
		t.Run(string(bug)+"/without", func(t *testing.T) {
			s := newScene(t, "")
			play(s)
			s.require(s.verdict(10))
		})
		t.Run(string(bug)+"/with", func(t *testing.T) {
			s := newScene(t, bug)
			play(s)
			vs := s.verdict(10)
			if vs.Wrong() == 0 {
				for _, i := range s.played {
					t.Log(i.tail())
				}
				t.Fatalf("the oracle sees nothing:\n%s", vs)
			}
			t.Logf("caught:\n%s", vs)
		})
	}
}

// scene is a fleet on a broker that can be made to misbehave.
type scene struct {
	*fleet
	fake *kfake.Cluster
	wire *wire
	feed *feeder

	played []*instance
}

func newScene(t *testing.T, bug chaos.Bug) *scene {
	t.Helper()
	w := &wire{}
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(w.listen), kfake.GroupMinSessionTimeout(500*time.Millisecond),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "86400000"})) // its cleaner is not safe with open transactions
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	f := newFleet(t, fake.ListenAddrs(), "bug", 2, "in", "audit", "out")
	f.env = []string{"MILLRACE_BUG=" + string(bug)}
	f.args = append(f.args, "-workers", "1", "-every", "10", "-session", "2s", "-rebalance", "2s")
	return &scene{fleet: f, fake: fake, wire: w, feed: newFeeder(t, f.addrs, f.topic("in"), 20, 10)}
}

// finish ends a scene whose application goes on.
func (s *scene) finish() {
	s.t.Helper()
	s.feed.feed(200)
	s.reach("in", s.feed.total())
	s.played = s.live
	s.stopAll()
}

// outputFailsOnce: the broker refuses one batch of outputs, for no reason of the records. The epoch must be aborted, undone
// and processed again.
func (s *scene) outputFailsOnce() { s.produceFailsOnce(s.topic("audit")) }

// changelogFailsOnce: the same with a batch of the changelog, which is the last that is sent before the commit.
func (s *scene) changelogFailsOnce() { s.produceFailsOnce(s.changelog("counts")) }

func (s *scene) produceFailsOnce(topic string) {
	a := s.start("a")
	s.feed.feed(400)
	s.reach("in", s.feed.total())
	heard := len(a.history())
	refusal := s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{0}, Err: kerr.InvalidTopicException})
	s.feed.feed(400)
	if err := refusal.Wait(s.ctx(), 1); err != nil {
		s.t.Fatalf("no batch was refused: %v", err)
	}
	if s.right() {
		a.after(heard, "an epoch is aborted", func(e Event) bool { return e.Event == "abort" })
		s.reach("in", s.feed.total())
	}
	s.finish()
}

// answerOfCommitIsLost: EndTxn is applied and its answer is an error. The outcome must be looked up, not guessed.
func (s *scene) answerOfCommitIsLost() {
	a := s.start("a")
	s.feed.feed(400)
	s.reach("in", s.feed.total())
	heard := len(a.history())
	lost := make(chan struct{})
	s.wire.set(func(key int16, response []byte) bool {
		if kmsg.Key(key) != kmsg.EndTxn {
			return true
		}
		select {
		case <-lost:
		default:
			// Version 3 and later: one byte of tags, four of throttling, then the error code.
			binary.BigEndian.PutUint16(response[5:], uint16(kerr.UnknownServerError.Code))
			close(lost)
		}
		return true
	})
	s.feed.feed(400)
	s.awaitChan(lost, "an EndTxn was answered")
	if s.right() {
		if e := a.after(heard, "the outcome is resolved", func(e Event) bool { return e.Event == "resolved" }); !e.Committed {
			s.t.Error("a commit that was applied was found to be aborted")
		}
	}
	s.finish()
}

// taskIsLostWhileOffsetsAreRetried: a's records are on a slow way and its offset commit is answered REBALANCE_IN_PROGRESS for
// so long that half of its tasks are given to b, who processes the same records and commits. When the broker would take a's
// offsets at last, they are no longer a's to commit.
func (s *scene) taskIsLostWhileOffsetsAreRetried() {
	a := s.start("a")
	s.feed.feed(400)
	s.reach("in", s.feed.total())

	arrive := s.slowRecords("a")
	offsets, busy := s.watchOffsets("a", true)
	heard := len(a.history())
	s.feed.feed(400)
	s.awaitChan(offsets, "a commits offsets")
	b := s.start("b")
	b.after(0, "b has committed records that a holds in its epoch", func(e Event) bool { return e.Event == "commit" && e.Records > 0 })
	busy.Store(false)
	arrive()
	s.epochEnds(a, heard)
	s.finish()
}

// oldOwnerCommitsDuringTakeover: a's offsets are in its transaction, its records are on a slow way, and its task is given
// to b; then a's transaction commits after all, as it may. b must restore to the end of the changelog as it is after that,
// not as it was when the task was assigned.
func (s *scene) oldOwnerCommitsDuringTakeover() {
	a := s.start("a")
	s.feed.feed(400)
	s.reach("in", s.feed.total())

	arrive := s.slowRecords("a")
	offsets, _ := s.watchOffsets("a", false)
	heard := len(a.history())
	s.feed.feed(400)
	s.awaitChan(offsets, "a commits offsets")
	b := s.start("b")
	b.after(0, "b is given tasks", func(e Event) bool { return e.Event == "rebalance" && len(e.Assigned) > 0 })
	arrive()
	b.after(0, "b runs a task", func(e Event) bool { return e.Event == "task" && e.To == "running" })
	s.epochEnds(a, heard)
	s.finish()
}

// slowRecords holds up the records of an instance on their way to the broker, until the returned function is called.
func (s *scene) slowRecords(instance string) (arrive func()) {
	var slow atomic.Bool
	slow.Store(true)
	arrived := make(chan struct{})
	s.fake.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		req := r.(*kmsg.ProduceRequest)
		if slow.Load() && req.TransactionID != nil && s.of(instance, *req.TransactionID) {
			s.fake.SleepControl(func() { <-arrived })
		}
		return nil, nil, false
	})
	arrive = sync.OnceFunc(func() {
		slow.Store(false)
		close(arrived)
	})
	s.t.Cleanup(arrive)
	return arrive
}

// watchOffsets tells when an instance first sends offsets in a transaction; as long as busy is true they are not taken, for
// the reason of a rebalance.
func (s *scene) watchOffsets(instance string, refuse bool) (sent <-chan struct{}, busy *atomic.Bool) {
	busy = new(atomic.Bool)
	busy.Store(refuse)
	first := make(chan struct{})
	once := sync.OnceFunc(func() { close(first) })
	s.fake.ControlKey(kmsg.TxnOffsetCommit.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		req := r.(*kmsg.TxnOffsetCommitRequest)
		if !s.of(instance, req.TransactionalID) {
			return nil, nil, false
		}
		once()
		if !busy.Load() {
			return nil, nil, false
		}
		s.fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
		for _, rt := range req.Topics {
			t := kmsg.NewTxnOffsetCommitResponseTopic()
			t.Topic, t.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, kerr.RebalanceInProgress.Code
				t.Partitions = append(t.Partitions, p)
			}
			resp.Topics = append(resp.Topics, t)
		}
		return resp, nil, true
	})
	return first, busy
}

// right reports whether the application is built without a bug.
func (s *scene) right() bool { return s.env[0] == "MILLRACE_BUG=" }

// of reports whether a transactional id belongs to an instance of the application.
func (s *scene) of(instance, id string) bool {
	return strings.HasPrefix(id, "millrace:"+s.app+":"+instance+":")
}

func (s *scene) awaitChan(ch <-chan struct{}, what string) {
	s.t.Helper()
	select {
	case <-ch:
	case <-s.ctx().Done():
		s.t.Fatalf("waited for: %s\n%s", what, s.live[0].tail())
	}
}

// epochEnds waits until i has ended the epoch that was held up, one way or the other: the next it says after having said
// heard events.
func (s *scene) epochEnds(i *instance, heard int) {
	s.t.Helper()
	i.after(heard, "the epoch that was held up ends", func(e Event) bool { return e.Event == "commit" || e.Event == "abort" })
}
