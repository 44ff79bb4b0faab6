package millrace_test

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

type tallyV2 struct {
	N    int64
	Unit string
}

// countIn counts words in a store of A.
func countIn[A any](t *testing.T, codec serde.Serde[A], add func(A) A, n func(A) int64) *topology.Topology {
	t.Helper()
	b := stream.NewBuilder()
	table := stream.Aggregate(stream.GroupByKey(stream.From(b, words)), func() (zero A) { return zero },
		func(a A, _ string) A { return add(a) }, store.KeyValue("counts", serde.String(), codec))
	stream.MapValues(table.ToStream(), n).To(totals)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// TestSchemas: an application whose store changes its type goes on where it was, with a disk that knows nothing, and one that cannot
// read what there is does not start, whatever its disk knows.
func TestSchemas(t *testing.T) {
	plus := func(v tallyV2) tallyV2 { v.N++; return v }
	n := func(v tallyV2) int64 { return v.N }
	v1 := countIn(t, serde.Int64(), func(v int64) int64 { return v + 1 }, func(v int64) int64 { return v })
	v2 := countIn(t, serde.Evolve(2, serde.JSON[tallyV2](), serde.From(1, serde.Int64(), func(v int64) (tallyV2, error) { return tallyV2{v, "words"}, nil })), plus, n)
	lost := countIn(t, serde.JSON[tallyV2](), plus, n)

	addrs := broker(t, 2)
	disk := t.TempDir()
	life := func(top *topology.Topology, dir string, total int) {
		t.Helper()
		r := launch(t, addrs, top, millrace.StateDir(dir))
		produceWords(t, addrs, 50, 5)
		for key, count := range readTotals(t, addrs, total) {
			if count != int64(total)/5 {
				t.Errorf("key %s is counted to %d of %d", key, count, total/5)
			}
		}
		if err := r.stop(t, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(top *topology.Topology, dir, code string, says ...string) {
		t.Helper()
		r := launch(t, addrs, top, millrace.StateDir(dir))
		err := r.ends(t, time.Minute)
		if err == nil || millrace.ExitCode(err) != 3 || !strings.Contains(err.Error(), code) {
			t.Fatalf("%v (exit %d), want %s", err, millrace.ExitCode(err), code)
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v does not say %s", err, s)
			}
		}
	}
	life(v1, disk, 50)
	for _, dir := range []string{disk, t.TempDir()} {
		refused(lost, dir, "registry/serde", `value of store "counts"`, "int64", "json:tallyV2")
	}
	life(v2, t.TempDir(), 100)
	for _, dir := range []string{disk, t.TempDir()} {
		refused(v1, dir, "registry/value-version", "version 2 (json:tallyV2)", "version 1 (int64)")
		refused(lost, dir, "registry/serde", "version 1 (int64)")
	}
	life(v2, disk, 150)
}
