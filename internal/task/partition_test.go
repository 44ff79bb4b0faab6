package task

import (
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The vectors are those of Kafka's own test of its murmur2.
func TestMurmur2Vectors(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

// A producer that is not ours must find the same partition for the same key.
func TestPartitionAgreesWithTheClient(t *testing.T) {
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		key := make([]byte, 1+rng.IntN(40))
		for i := range key {
			key[i] = byte(rng.Uint32())
		}
		n := 1 + rng.IntN(64)
		want := theirs.Partition(&kgo.Record{Key: key}, n)
		if got := Partition(key, int32(n)); int(got) != want {
			t.Fatalf("Partition(%x, %d) = %d, the client says %d", key, n, got, want)
		}
	}
}

func TestRecordBytesIsWhatTheWireTakes(t *testing.T) {
	for _, c := range []struct {
		n    int
		want int
	}{{0, 1}, {63, 1}, {64, 2}, {8191, 2}, {8192, 3}, {1 << 20, 4}} {
		if got := lengthBytes(c.n); got != c.want {
			t.Errorf("a length of %d takes %d bytes, want %d", c.n, got, c.want)
		}
	}
	// 61 batch + 21 record + 1+3 key + 2+100 value + 1 header count.
	if got := RecordBytes([]byte("key"), make([]byte, 100), nil); got != 61+21+1+3+2+100+1 {
		t.Errorf("RecordBytes = %d", got)
	}
}
