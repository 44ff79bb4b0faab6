package streamtest

import (
	"testing"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

// A crash loses the last batches of the local engine, so that the tail of the changelog is really needed, and
// CrashLosingDisk loses all of them.
func TestCrashLosesTheEnginesTail(t *testing.T) {
	topic := stream.NewTopic("in", serde.String(), serde.Int64())
	table := store.KeyValue("table", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.TableFrom(b, topic, table)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	d := New(t, top)
	in := In(d, topic)
	for i := range int64(10) {
		in.Send("k", i)
	}
	disk := d.disks[d.tasks[0].id].(*memoryDisk)
	// onDisk is the commit that the disk alone, without the process, holds; 0 if none.
	onDisk := func() uint64 {
		t.Helper()
		late := disk.late
		engine, err := disk.open()
		if err != nil {
			t.Fatal(err)
		}
		disk.late = late
		db, err := store.Open(engine, []store.Binding{{Spec: table, Prefix: 1}}, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		row, ok, err := db.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return 0
		}
		c, err := changelog.ParseCheckpoint(row)
		if err != nil {
			t.Fatal(err)
		}
		return c.Commit.Seq
	}
	if got, want := onDisk(), uint64(10-lateBatches); got != want {
		t.Errorf("the disk holds commit %d, want %d", got, want)
	}
	d.Crash()
	if n, _ := Store(d, table).Get("k"); n != 9 {
		t.Errorf("restored %d, want 9", n)
	}
	if n := len(disk.late); n == 0 || n >= lateBatches {
		t.Errorf("after the restore %d batches are late; those of the process that died are not among them", n)
	}
	if err := disk.write(0); err != nil {
		t.Fatal(err)
	}
	if got := onDisk(); got != 10 {
		t.Errorf("after the restore the disk holds commit %d, want 10", got)
	}
	if err := disk.lose(); err != nil {
		t.Fatal(err)
	}
	if got := onDisk(); got != 0 {
		t.Errorf("the lost disk holds commit %d", got)
	}
}
