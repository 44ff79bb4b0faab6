package txn

import (
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// BenchmarkEpoch is begin, records, commit; the figure that travels is ms per epoch, with the broker it was taken on.
func BenchmarkEpoch(bb *testing.B) {
	for _, records := range []int{1, 1000} {
		bb.Run(strconv.Itoa(records)+" records", func(bb *testing.B) {
			b := newAny(bb)
			p := b.producer()
			slab := make([]kgo.Record, records)
			value := noise(100)
			own := anybody()
			var prev CommitID
			bb.ReportAllocs()
			n := int64(0)
			for bb.Loop() {
				n++
				tx := b.begin(p)
				for i := range slab {
					slab[i] = kgo.Record{Topic: b.out, Partition: int32(i % 2), Value: value, Timestamp: time.UnixMilli(n)}
					tx.Produce(&slab[i])
				}
				if r, err := tx.Commit(b.ctx, own, b.at(n, prev)); r != Committed {
					bb.Fatal(r, err)
				}
				prev = tx.ID()
			}
			bb.ReportMetric(float64(bb.Elapsed().Microseconds())/float64(n)/1000, "ms/epoch")
		})
	}
}
