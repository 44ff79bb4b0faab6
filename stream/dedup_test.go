package stream_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
	"github.com/millrace-io/millrace/ttl"
)

var (
	seenKeys = store.KeyValue("seen", serde.String(), serde.Empty(), store.WithTTL(ttl.AfterWrite(24*time.Hour)))
	seenIDs  = store.KeyValue("seen", serde.Int64(), serde.Empty())
	numbered = stream.NewTopic("numbered", serde.String(), serde.Int64())
	once     = stream.NewTopic("once", serde.String(), serde.Int64())
)

// A day counts from the first sight: a duplicate does not make it longer, and writes nothing.
func TestDedup(t *testing.T) {
	for _, engine := range []string{"memory", "pebble"} {
		for _, crash := range []string{"straight", "crash", "lost disk"} {
			t.Run(engine+"/"+crash, func(t *testing.T) {
				b := stream.NewBuilder()
				stream.Dedup(stream.From(b, numbered), seenKeys).To(once)
				top, err := b.Build()
				if err != nil {
					t.Fatal(err)
				}
				var opts []streamtest.Option
				if engine == "pebble" {
					opts = append(opts, streamtest.Pebble())
				}
				d := streamtest.New(t, top, append(opts, streamtest.Partitions(1))...)
				in, out := streamtest.In(d, numbered), streamtest.Out(d, once)
				step := func(wait time.Duration, key string, value int64, want string) {
					t.Helper()
					d.Advance(wait)
					in.Send(key, value)
					before := len(d.Changelog(seenKeys))
					d.Settle()
					var got []string
					for _, r := range out.All() {
						got = append(got, fmt.Sprintf("%s=%d", r.Key, r.Value))
					}
					if strings.Join(got, " ") != want {
						t.Errorf("%s %d after %s: %q, want %q", key, value, wait, got, want)
					}
					if n := len(d.Changelog(seenKeys)) - before; want == "" && n > 0 {
						t.Errorf("a duplicate wrote %d changelog records", n)
					}
					switch crash {
					case "crash":
						d.Crash()
					case "lost disk":
						d.CrashLosingDisk()
					}
				}
				step(0, "a", 1, "a=1")
				step(time.Hour, "b", 2, "b=2")
				step(time.Hour, "a", 3, "")
				step(22*time.Hour-time.Millisecond, "a", 4, "") // a millisecond before the day is over
				step(time.Millisecond, "a", 5, "a=5")
				step(30*time.Minute, "b", 6, "")
				step(30*time.Minute, "b", 7, "b=7")
			})
		}
	}
}

func TestDedupBy(t *testing.T) {
	b := stream.NewBuilder()
	stream.DedupBy(stream.From(b, numbered), func(_ string, id int64) int64 { return id }, seenIDs).To(once)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	d := streamtest.New(t, top, streamtest.Partitions(1))
	in, out := streamtest.In(d, numbered), streamtest.Out(d, once)
	for i, id := range []int64{7, 8, 7, 9, 8, 7} {
		in.Send(fmt.Sprint(i), id)
	}
	d.Settle()
	var got []int64
	for _, r := range out.All() {
		got = append(got, r.Value)
	}
	if want := []int64{7, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := d.Dropped()["dedup-seen: duplicate"]; n != 3 {
		t.Errorf("dropped: %v", d.Dropped())
	}
}
