package txn

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/fault"
)

func TestTransactionalID(t *testing.T) {
	id, err := NewTransactionalID("word.count-1", "host_7", 12, 1)
	if err != nil || id.String() != "millrace:word.count-1:host_7:12:1" {
		t.Fatalf("%q, %v", id, err)
	}
	if back, ok := ParseTransactionalID(id.String()); !ok || back != id {
		t.Errorf("%+v, %v", back, ok)
	}
	if p := id.Pair(); p.Slot != 0 || p.Pair() != id {
		t.Errorf("%v", p)
	}
	for _, s := range []string{
		"", "millrace", "millrace:", "millrace:a:i:0", "millrace:a:i:0:0:0", "millrace:a::0:0", "millrace::i:0:0", "millrace:a:i:-1:0",
		"millrace:a:i:+1:0", "millrace:a:i:01:0", "millrace:a:i:0:2", "millrace:a:i:0:00", "millrace:a:i:0x1:0", "Millrace:a:i:0:0",
		" millrace:a:i:0:0", "millrace:a b:i:0:0", "millrace:a:i\n:0:0", "millrace:a:i:99999999999999999999:0",
	} {
		if id, ok := ParseTransactionalID(s); ok {
			t.Errorf("%q parses as %+v", s, id)
		}
	}
	for _, bad := range []TransactionalID{{"a:b", "i", 0, 0}, {"a", "i:j", 0, 0}, {"", "i", 0, 0}, {"a", "", 0, 0}, {"a", "i", -1, 0}, {"a", "i", 0, 2}, {"a", "i\x00", 0, 0}, {strings.Repeat("a", 300), "i", 0, 0}} {
		_, err := NewTransactionalID(bad.App, bad.Instance, bad.Worker, bad.Slot)
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != "txn/id" || f.Kind != fault.Config {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func FuzzTransactionalID(f *testing.F) {
	f.Add("millrace:a:i:0:0")
	f.Add("millrace:a:i:00:1")
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := ParseTransactionalID(s); ok {
			if id.String() != s {
				t.Errorf("%q parses as %+v, which is %q", s, id, id)
			}
			if _, err := NewTransactionalID(id.App, id.Instance, id.Worker, id.Slot); err != nil {
				t.Errorf("%q parses, but may not be made: %v", s, err)
			}
		}
	})
}

// goldenMeta is the example of docs/format/commit-metadata.md: a change of it is a change of the format.
const goldenMeta = "millrace1 1d5092f5 1 1700000000000 1700000000123 4001 17 9f3c51d2aa01be77 42 millrace:wordcount:host-1:0:0"

func TestMeta(t *testing.T) {
	golden := Meta{
		Commit:     CommitID{TxnID: "millrace:wordcount:host-1:0:0", ProducerID: 4001, ProducerEpoch: 17, Random: 0x9f3c51d2aa01be77, Seq: 42},
		StreamTime: 1_700_000_000_000, Now: 1_700_000_000_123, Guarantee: ExactlyOnce,
	}
	if got := golden.Encode(); got != goldenMeta {
		t.Errorf("%q, want %q", got, goldenMeta)
	}
	wide := Meta{
		Commit:     CommitID{TxnID: strings.Repeat("x", idBytesMax), ProducerID: math.MinInt64, ProducerEpoch: math.MinInt16, Random: math.MaxUint64, Seq: math.MaxUint64},
		StreamTime: math.MinInt64, Now: math.MinInt64, Guarantee: 255,
	}
	if n := len(wide.Encode()); n > metaBytesMax {
		t.Errorf("the widest has %d bytes, more than %d", n, metaBytesMax)
	}
	for _, m := range []Meta{golden, wide, {}, {Commit: CommitID{ProducerID: -1, ProducerEpoch: -1, TxnID: "with a space"}, StreamTime: -1}} {
		if back, ours, err := ParseMeta(m.Encode()); back != m || !ours || err != nil {
			t.Errorf("%+v came back as %+v, %v, %v", m, back, ours, err)
		}
	}
	for _, foreign := range []string{"", "moved by hand", "millrace", "millrace of the town", "millrace0 x", "millrace-1 x", "{}"} {
		if _, ours, err := ParseMeta(foreign); ours || err != nil {
			t.Errorf("%q is ours: %v, %v", foreign, ours, err)
		}
	}
	for i := range goldenMeta {
		if i <= len(metaMagic) {
			continue // a change there makes it another tool's, or another version's
		}
		for bit := range 7 {
			damaged := []byte(goldenMeta)
			damaged[i] ^= 1 << bit
			if m, ours, err := ParseMeta(string(damaged)); ours && err == nil {
				t.Fatalf("%q reads as %+v", damaged, m)
			}
		}
	}
	for _, s := range []string{"millrace2 whatever comes then", "millrace1 ", "millrace1 00000000 ", goldenMeta[:60]} {
		if _, ours, err := ParseMeta(s); !ours || !errors.Is(err, ErrMeta) {
			t.Errorf("%q: %v, %v", s, ours, err)
		}
	}
}

func FuzzParseMeta(f *testing.F) {
	f.Add(goldenMeta)
	f.Add("millrace2 x")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		m, ours, err := ParseMeta(s)
		if !ours && err != nil {
			t.Errorf("%q is not ours, and an error: %v", s, err)
		}
		if !ours || err != nil {
			return
		}
		if back, _, err := ParseMeta(m.Encode()); err != nil || back != m {
			t.Errorf("%q: %+v came back as %+v, %v", s, m, back, err)
		}
	})
}

// A record costs nothing of our own.
func TestPromiseDoesNotAllocate(t *testing.T) {
	tx := &Txn{all: make(chan struct{}, 1)}
	tx.target.Store(-1)
	records := []*kgo.Record{{Topic: "a", Partition: 0}, {Topic: "a", Partition: 1}, {Topic: "b", Partition: 0}}
	at := int64(0)
	step := func() {
		for _, r := range records {
			r.Offset = at
			tx.finished(r, nil)
		}
		at++
	}
	step()
	if n := testing.AllocsPerRun(2000, step); n != 0 {
		t.Errorf("%v allocations for %d records", n, len(records))
	}
	ends := make(map[string]int64)
	tx.Ends(func(topic string, num int32, next int64) { ends[topic+string(rune('0'+num))] = next })
	if len(ends) != 3 || ends["a0"] != at || ends["a1"] != at || ends["b0"] != at {
		t.Errorf("%v, want %d each", ends, at)
	}
}
