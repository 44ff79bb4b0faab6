package oracle

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/txn"
)

func cluster(t *testing.T, topics ...string) (*Cluster, []string) {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	c, err := Open(fake.ListenAddrs()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, fake.ListenAddrs()
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func writer(t *testing.T, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// TestReadSeesCommittedRecordsOnly writes a committed, an aborted and an open transaction and reads in between.
func TestReadSeesCommittedRecordsOnly(t *testing.T) {
	c, addrs := cluster(t, "t")
	ctx := deadline(t, 20*time.Second)
	cl := writer(t, addrs, kgo.TransactionalID("tx"))
	send := func(value string) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Key: []byte("k"), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	end := func(how kgo.TransactionEndTry) {
		t.Helper()
		// kgo may not know yet that a new topic's records are written, and would abort (docs/design/0004).
		if err := cl.AbortBufferedRecords(ctx); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(ctx, how); err != nil {
			t.Fatal(err)
		}
	}
	read := func(want ...string) *Log {
		t.Helper()
		l, err := c.Read(ctx, "t")
		if err != nil {
			t.Fatal(err)
		}
		if l.Len() != len(want) || len(l.Partitions) != 2 {
			t.Fatalf("%d records in %d partitions, want %v in 2", l.Len(), len(l.Partitions), want)
		}
		for i, r := range l.Partitions[0].Records {
			if string(r.Value) != want[i] {
				t.Fatalf("record %d is %q, want %q", i, r.Value, want[i])
			}
		}
		return l
	}

	read() // an empty topic has an end too
	send("one")
	end(kgo.TryCommit)
	send("two")
	end(kgo.TryAbort) // the log ends in a record nobody sees, and a marker
	if v := Settled(read("one")); !v.OK() {
		t.Error(v)
	}
	if err := c.AwaitSettled(ctx, "t"); err != nil {
		t.Error(err)
	}
	send("three")
	if v := Settled(read("one")); v.OK() {
		t.Error("an open transaction is not seen")
	}
	short, cancel := context.WithTimeout(ctx, 3*pause)
	defer cancel()
	if err := c.AwaitSettled(short, "t"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for an open transaction ends with %v", err)
	}
	end(kgo.TryCommit)
	read("one", "three")
	short, cancel = context.WithTimeout(ctx, 3*pause) // it may yet appear
	defer cancel()
	if _, err := c.Read(short, "absent"); err == nil {
		t.Error("a missing topic reads as an empty one")
	}
}

func TestCommittedOffsets(t *testing.T) {
	c, _ := cluster(t, "t")
	ctx := deadline(t, 20*time.Second)
	id := txn.CommitID{TxnID: "millrace:app:one:0:0", ProducerID: 7, ProducerEpoch: 3, Random: 99, Seq: 5}
	meta := txn.Meta{Commit: id, Guarantee: txn.ExactlyOnce}
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: "t", Partition: 0, At: 12, LeaderEpoch: -1, Metadata: meta.Encode()})
	if err := c.Admin().CommitAllOffsets(ctx, "g", offsets); err != nil {
		t.Fatal(err)
	}
	got, err := c.Committed(ctx, "g", "t", 2)
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Offset != 12 || got[0].ID != commitText(id) || got[0].ID == "" || got[1].Offset != -1 {
		t.Errorf("committed %+v", got)
	}
	if o := Offsets(got); o[0] != 12 || o[1] != -1 {
		t.Errorf("offsets %v", o)
	}
	if err := c.AwaitEmpty(ctx, "g"); err != nil {
		t.Error(err)
	}

	rec := changelog.TaskRecord{Commit: id, Inputs: []changelog.InputOffset{{Topic: "t", Partition: 0, Offset: 12}, {Topic: "u", Partition: 1, Offset: 3}}}
	tasks := &Log{Topic: "app-tasks", Partitions: []Partition{{Records: []Record{
		{Offset: 0, Key: []byte("a/0"), Value: (&changelog.TaskRecord{}).Append(nil)},
		{Offset: 1, Key: []byte("a/0"), Value: rec.Append(nil)},
	}}}}
	said, v := TaskCommits(tasks, "t", 2)
	if !v.OK() {
		t.Fatal(v)
	}
	if said[0] != got[0] || said[1] != got[1] {
		t.Errorf("task records say %+v, group %+v", said, got)
	}
	tasks.Partitions[0].Records[1].Value = []byte("garbage")
	if _, v := TaskCommits(tasks, "t", 2); v.OK() {
		t.Error("a damaged task record is not seen")
	}
}

func TestWitnessSeesWhatIsCommitted(t *testing.T) {
	c, addrs := cluster(t, "t")
	ctx := deadline(t, 20*time.Second)
	w, err := Watch(addrs, "t")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cl := writer(t, addrs)
	for i := range 20 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: int32(i % 2), Value: be32(i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Await(ctx, func(seen []Sighting) bool { return len(seen) == 20 }); err != nil {
		t.Fatal(err)
	}
	l, err := c.Read(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	if v := Witnessed(l, w.Seen()); !v.OK() || v.Seen != 20 {
		t.Error(v)
	}
	short, cancel := context.WithTimeout(ctx, 2*pause)
	defer cancel()
	if err := w.Await(short, func([]Sighting) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for ever ends with %v", err)
	}
}
