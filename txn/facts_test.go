package txn

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The facts about brokers that the design rests on, in the order in which a takeover meets them. On the cluster that
// MILLRACE_TEST_BROKERS names, else on the embedded broker, where the two disagree in the places named here.
func TestFacts(t *testing.T) {
	b := newAny(t)
	real := b.fake == nil

	if err := CheckCluster(b.ctx, b.cl, time.Minute); err != nil {
		t.Fatal(err)
	}
	p := b.producer()
	b.epochs(p, anybody(), 1, 1)

	// A TxnOffsetCommit made by hand is accepted without AddOffsetsToTxn.
	tx := b.begin(p)
	b.send(tx, "open 0", "open 1")
	if err := p.client.Flush(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := tx.sendOffsets(b.ctx, anybody(), b.at(2, CommitID{})); err != nil {
		t.Fatalf("TxnOffsetCommit without AddOffsetsToTxn: %v", err)
	}

	// While the transaction is open a stable fetch does not answer, an ordinary one shows what was before.
	if _, err := StableOffsets(b.ctx, b.cl, b.group, map[string][]int32{b.in: {0}}); !errors.Is(err, kerr.UnstableOffsetCommit) {
		t.Errorf("a stable OffsetFetch with the transaction open: %v, want UNSTABLE_OFFSET_COMMIT", err)
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = b.group
	rt := kmsg.NewOffsetFetchRequestGroupTopic()
	rt.Topic, rt.Partitions = b.in, []int32{0}
	g.Topics = append(g.Topics, rt)
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(b.ctx, b.cl)
	if err != nil || len(resp.Groups) != 1 || len(resp.Groups[0].Topics) != 1 || resp.Groups[0].Topics[0].Partitions[0].Offset != 1 {
		t.Errorf("an ordinary OffsetFetch with the transaction open: %+v, %v", resp, err)
	}

	// It is listed, under its id.
	open, err := ListOpen(b.ctx, b.cl, b.txnID.App)
	if err != nil || len(open) != 1 || open[0].ID != b.txnID || open[0].State != "Ongoing" || open[0].ProducerID != tx.id.ProducerID {
		t.Errorf("listed: %+v, %v", open, err)
	}

	// Initialising the id by hand ends it: markers included, when it has answered.
	start := time.Now()
	busy := 0
	for {
		init := kmsg.NewPtrInitProducerIDRequest()
		id := b.txnID.String()
		init.TransactionalID, init.TransactionTimeoutMillis, init.ProducerID, init.ProducerEpoch = &id, 10_000, -1, -1
		resp, err := init.RequestWith(b.ctx, b.cl)
		if err != nil {
			t.Fatal(err)
		}
		if err = kerr.ErrorForCode(resp.ErrorCode); err == nil {
			break
		}
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			t.Fatalf("InitProducerID: %v", err)
		}
		busy++
		if err := (&backoff{min: 5 * time.Millisecond, max: 5 * time.Millisecond}).wait(b.ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("InitProducerID succeeded after %s, %d CONCURRENT_TRANSACTIONS before", time.Since(start).Round(time.Millisecond), busy)
	got, err := StableOffsets(b.ctx, b.cl, b.group, map[string][]int32{b.in: {0}})
	if err != nil || got[b.in][0].Offset != 1 {
		t.Errorf("the stable OffsetFetch at once after it: %+v, %v", got, err)
	}
	adm := kadm.NewClient(b.cl)
	ends, err := adm.ListEndOffsets(b.ctx, b.out)
	if err != nil {
		t.Fatal(err)
	}
	stable, err := adm.ListCommittedOffsets(b.ctx, b.out)
	if err != nil {
		t.Fatal(err)
	}
	for num, end := range ends[b.out] {
		if lso := stable[b.out][num]; lso.Offset != end.Offset {
			t.Errorf("partition %d: last stable offset %d, high watermark %d", num, lso.Offset, end.Offset)
		}
	}
	if open, err := ListOpen(b.ctx, b.cl, b.txnID.App); err != nil || len(open) != 0 {
		t.Errorf("still listed: %+v, %v", open, err)
	}

	// What the old holder is told.
	err = tx.sendOffsets(b.ctx, anybody(), b.at(2, CommitID{}))
	if !errors.Is(err, kerr.InvalidProducerEpoch) && !errors.Is(err, kerr.ProducerFenced) {
		t.Errorf("TxnOffsetCommit of the old holder: %v", err)
	}
	err = p.client.EndTransaction(b.ctx, kgo.TryCommit)
	if !errors.Is(err, kerr.ProducerFenced) && (real || !errors.Is(err, kerr.InvalidTxnState)) {
		t.Errorf("EndTxn(commit) of the old holder: %v", err)
	}
	t.Logf("EndTransaction(commit) of the old holder: %v", err)
	t.Logf("EndTransaction(abort) of the old holder: %v", p.client.EndTransaction(b.ctx, kgo.TryAbort))
	if err := tx.Abort(b.ctx, errors.New("fenced")); err != nil {
		t.Error(err)
	}

	// And a new one goes on.
	p = b.producer()
	b.epochs(p, anybody(), 2, 3)
	b.wantEpochs(1, 3)
}

// kgo tells nobody that it sends nothing: this is the trap, seen without our care. If this test fails, kgo has changed and
// the care may go.
func TestKgoEndsNothingWhenOnlyOffsetsWereSent(t *testing.T) {
	b := newAny(t)
	p := b.producer()
	b.epochs(p, anybody(), 1, 1)
	tx := b.begin(p)
	if err := tx.sendOffsets(b.ctx, anybody(), b.at(2, CommitID{})); err != nil {
		t.Fatal(err)
	}
	if err := p.client.EndTransaction(b.ctx, kgo.TryCommit); err != nil {
		t.Fatalf("EndTransaction: %v", err)
	}
	if !b.unstable() {
		t.Error("the transaction is over")
	}
	if err := tx.Abort(b.ctx, nil); err != nil {
		t.Error(err)
	}
	if b.unstable() {
		t.Error("and our Abort did not end it")
	}
	if s := b.stable(); s.Offset != 1 {
		t.Errorf("the group is at %d, want 1", s.Offset)
	}
}

// The other trap, without our care: Flush and EndTransaction say yes, a record is missing.
func TestKgoCommitsDespiteARefusedRecord(t *testing.T) {
	b := newAny(t)
	setTopicConfig(b, b.out, "max.message.bytes", "1000")
	p := b.producer()
	tx := b.begin(p)
	b.send(tx, "small")
	tx.Produce(&kgo.Record{Topic: b.out, Partition: 1, Value: noise(2000), Timestamp: time.UnixMilli(1)})
	if err := p.client.Flush(b.ctx); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	if !tx.Failed() {
		t.Fatal("the record was not refused: this test proves nothing")
	}
	if err := p.client.EndTransaction(b.ctx, kgo.TryCommit); err != nil {
		t.Fatalf("EndTransaction: %v", err)
	}
	tx.end()
	if got := b.committed(); !slices.Equal(got, []string{"small"}) {
		t.Errorf("the output has %d records", len(got))
	}
}

// A record's timestamp is event time, and kgo would count a delivery timeout from it.
func TestRecordsOfAnyTimeAreDelivered(t *testing.T) {
	b := newAny(t)
	setTopicConfig(b, b.out, "message.timestamp.after.max.ms", "9223372036854775807")
	p := b.producer()
	tx := b.begin(p)
	for i, at := range []time.Time{time.UnixMilli(0), time.UnixMilli(1_000_000), time.Now().Add(24 * time.Hour)} {
		tx.Produce(&kgo.Record{Topic: b.out, Partition: 0, Value: []byte{'a' + byte(i)}, Timestamp: at})
	}
	if r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{})); r != Committed {
		t.Fatal(r, err)
	}
	b.wantOutput("a", "b", "c")
	// The same record object again: it still carries the context of its first transaction.
	r := &kgo.Record{Topic: b.out, Partition: 0, Value: []byte("d"), Timestamp: time.UnixMilli(5)}
	for i := range 2 {
		tx := b.begin(p)
		tx.Produce(r)
		if res, err := tx.Commit(context.WithoutCancel(b.ctx), anybody(), b.at(int64(2+i), CommitID{})); res != Committed {
			t.Fatal(res, err)
		}
	}
}
