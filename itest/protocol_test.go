package itest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// faults are the errors a broker may answer with, by request, that an application has to get over by itself.
var faults = []struct {
	key    kmsg.Key
	errs   []*kerr.Error
	rejoin bool // sent when tasks move, not all the time
}{
	{key: kmsg.Produce, errs: []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
		kerr.KafkaStorageError, kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch, kerr.ProducerFenced,
		kerr.InvalidTxnState, kerr.InvalidProducerIDMapping, kerr.ConcurrentTransactions, kerr.TransactionAbortable, kerr.UnknownServerError,
	}},
	{key: kmsg.TxnOffsetCommit, errs: []*kerr.Error{
		kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.RequestTimedOut, kerr.IllegalGeneration,
		kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidTxnState,
		kerr.ConcurrentTransactions, kerr.TransactionAbortable, kerr.UnknownServerError,
	}},
	{key: kmsg.EndTxn, errs: []*kerr.Error{
		kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.ConcurrentTransactions, kerr.RequestTimedOut,
		kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidTxnState, kerr.InvalidProducerIDMapping, kerr.UnknownServerError,
	}},
	{key: kmsg.Fetch, errs: []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.KafkaStorageError, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch,
		kerr.OffsetNotAvailable, kerr.ReplicaNotAvailable, kerr.UnknownServerError,
	}},
	{key: kmsg.Heartbeat, errs: []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.UnknownServerError,
	}},
	{key: kmsg.InitProducerID, rejoin: true, errs: []*kerr.Error{
		kerr.ConcurrentTransactions, kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.UnknownServerError,
	}},
	{key: kmsg.OffsetFetch, rejoin: true, errs: []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.UnstableOffsetCommit, kerr.UnknownServerError,
	}},
	{key: kmsg.JoinGroup, rejoin: true, errs: []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.UnknownMemberID, kerr.UnknownServerError,
	}},
	{key: kmsg.SyncGroup, rejoin: true, errs: []*kerr.Error{
		kerr.NotCoordinator, kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.UnknownServerError,
	}},
	{key: kmsg.ListOffsets, rejoin: true, errs: []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.OffsetNotAvailable, kerr.UnknownServerError,
	}},
	{key: kmsg.FindCoordinator, rejoin: true, errs: []*kerr.Error{kerr.CoordinatorNotAvailable, kerr.UnknownServerError}},
	{key: kmsg.Metadata, rejoin: true, errs: []*kerr.Error{kerr.LeaderNotAvailable, kerr.UnknownServerError}},
	{key: kmsg.ListTransactions, rejoin: true, errs: []*kerr.Error{kerr.CoordinatorLoadInProgress, kerr.UnknownServerError}},
}

// TestProtocolFaults answers one request after the other with every error a broker may have for it, and then loses the
// answer of each kind of request on the way, while two instances work. Nobody ends, nothing stands still, and at the end
// everything is exact.
func TestProtocolFaults(t *testing.T) {
	s := newScene(t, "")
	a, b := s.start("a"), s.start("b")
	for _, i := range []*instance{a, b} {
		i.until("a task", func([]Event) bool { return len(i.tasks()) == 1 })
	}
	var producing atomic.Bool // by the application alone: the feeder waits
	step := func(name string, rejoin bool, hit func(context.Context) error) {
		t.Helper()
		began := time.Now()
		s.feed.feed(50)
		producing.Store(true)
		defer producing.Store(false)
		if rejoin {
			b.stop()
			b = s.start("b")
			b.until("a task", func([]Event) bool { return len(b.tasks()) == 1 })
			s.feed.feed(50)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := hit(ctx); err != nil {
			t.Fatalf("%s: the fault met no request: %v", name, err)
		}
		s.feed.feed(50)
		s.reach("in", s.feed.total())
		for _, i := range []*instance{a, b} {
			if !i.alive() {
				t.Fatalf("%s: an instance ended\n%s", name, i.tail())
			}
		}
		t.Logf("%-60s got over in %v", name, time.Since(began).Round(time.Millisecond))
	}
	fenced := 0
	for _, f := range faults {
		for _, err := range f.errs {
			fault := kfake.Fault{Keys: []kmsg.Key{f.key}, Err: err, TopLevel: topLevel(f.key), When: s.sentBy("")}
			if err == kerr.InvalidProducerEpoch || err == kerr.ProducerFenced {
				// Who is fenced four times in a minute rightly takes it for another process: they share it out.
				fault.When = s.sentBy(string("ab"[fenced%2]))
				fenced++
			}
			handle := s.fake.Fault(fault)
			step(fmt.Sprintf("%s answered %s", f.key.Name(), err.Message), f.rejoin, func(ctx context.Context) error { return handle.Wait(ctx, 1) })
			handle.Remove()
		}
	}
	for _, f := range faults {
		var lost atomic.Bool
		met := make(chan struct{})
		s.wire.set(func(key int16, _ []byte) bool {
			if kmsg.Key(key) != f.key || f.key == kmsg.Produce && !producing.Load() || !lost.CompareAndSwap(false, true) {
				return true
			}
			close(met)
			return false
		})
		step(f.key.Name()+" done, answer lost", f.rejoin, func(ctx context.Context) error {
			select {
			case <-met:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		s.wire.set(nil)
	}
	s.live = []*instance{a, b}
	s.finish()
	s.require(s.verdict(10))
}

// sentBy tells the transactional requests of an instance, or of any if it is empty, from those of others and of the feeder.
// Other requests pass.
func (s *scene) sentBy(instance string) func(kmsg.Request) bool {
	return func(r kmsg.Request) bool {
		id := ""
		switch r := r.(type) {
		case *kmsg.ProduceRequest:
			if r.TransactionID == nil {
				return false
			}
			id = *r.TransactionID
		case *kmsg.TxnOffsetCommitRequest:
			id = r.TransactionalID
		case *kmsg.EndTxnRequest:
			id = r.TransactionalID
		default:
			return true
		}
		return instance == "" || s.of(instance, id)
	}
}

// topLevel says where a response has its error code.
func topLevel(k kmsg.Key) bool {
	switch k {
	case kmsg.Heartbeat, kmsg.EndTxn, kmsg.InitProducerID, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.ListTransactions:
		return true
	}
	return false
}
