package stream_test

import (
	"testing"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// Keys and values are the reader's to keep and to change, also beside a verb that does not look at values; those of
// SharedBytes are part of the record.
func TestReadersOwnWhatTheyRead(t *testing.T) {
	for _, c := range []struct {
		name   string
		codec  serde.Serde[[]byte]
		shared bool
	}{{"Bytes", serde.Bytes(), false}, {"SharedBytes", serde.SharedBytes(), true}} {
		t.Run(c.name, func(t *testing.T) {
			var key, value []byte
			b := stream.NewBuilder()
			s := stream.From(b, stream.NewTopic("in", c.codec, c.codec))
			stream.GroupByKey(s).Count(store.KeyValue("counts", serde.Bytes(), serde.Int64()))
			s.Peek(func(k, v []byte) { key, value = k, v })
			g, h := wired(t, b)
			h.db.Savepoint()
			raw := &topology.Raw{Key: []byte("key"), Value: []byte("value")}
			if err := g.Process(0, raw, 1); err != nil {
				t.Fatal(err)
			}
			if string(key) != "key" || string(value) != "value" {
				t.Fatalf("read %q and %q", key, value)
			}
			if got := &key[0] == &raw.Key[0]; got != c.shared {
				t.Errorf("the key is part of the record: %v, want %v", got, c.shared)
			}
			if got := &value[0] == &raw.Value[0]; got != c.shared {
				t.Errorf("the value is part of the record: %v, want %v", got, c.shared)
			}
		})
	}
}
