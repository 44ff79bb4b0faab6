package runtime

import (
	"math/bits"
	"sync"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/task"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/topology"
)

// recordOverhead is what a record costs in memory beyond its key, value and headers.
const recordOverhead = 160

// fetched is the memory of a membership's records on their way in. It goes round: kgo fills its own records, convert makes
// the kernel's of them and gives kgo's back at once, and the kernel's come back when what they led to is committed.
//
// The bytes of keys, values and headers never go round: they belong to whoever refers to them.
type fetched struct {
	kgo recycler[kgo.Record]   // it implements kgo.PoolRecords through GetRecords and PutRecords
	raw recycler[topology.Raw] // lists of the kernel's batches
}

// newFetched returns the memory of a membership, which keeps at most about spare bytes that nobody uses.
func newFetched(spare int64) *fetched {
	f := &fetched{}
	f.kgo.most = int(spare / 2 / int64(unsafe.Sizeof(kgo.Record{})))
	f.raw.most = int(spare / 2 / int64(unsafe.Sizeof(topology.Raw{})))
	return f
}

// GetRecords is kgo.PoolRecords.
func (f *fetched) GetRecords(n int) []kgo.Record { return f.kgo.take(n) }

// PutRecords is kgo.PoolRecords. Records are zeroed when they are recycled. Those of a batch that were fetched and not
// asked for are not; what they hold on to is let go of when the list is used again.
func (f *fetched) PutRecords(records []kgo.Record) { f.kgo.give(records) }

// convert makes a batch of what was fetched, and gives the records themselves back: they must not be used afterwards.
// Control records (the markers that end transactions) are stripped, but they count: the position after the batch is
// beyond them.
func (f *fetched) convert(input int, records []*kgo.Record) *task.Batch {
	last := records[len(records)-1]
	b := &task.Batch{Input: input, Records: f.raw.take(len(records)), Next: last.Offset + 1, Epoch: last.LeaderEpoch}
	for _, r := range records {
		b.Bytes += len(r.Key) + len(r.Value) + recordOverhead
		if !r.Attrs.IsControl() {
			for i := range r.Headers {
				b.Bytes += len(r.Headers[i].Key) + len(r.Headers[i].Value)
			}
			b.Records = append(b.Records, topology.Raw{
				Key: r.Key, Value: r.Value, Headers: ourHeaders(r.Headers), Time: r.Timestamp.UnixMilli(), Offset: r.Offset,
			})
		}
		r.Recycle()
	}
	return b
}

// release takes the list of a batch back that the kernel has let go of.
func (f *fetched) release(b task.Batch) {
	clear(b.Records) // it holds on to what was fetched
	f.raw.give(b.Records)
}

// The two kinds of header are one type by two names: these lines do not compile when they differ.
var _ = processor.Header(kgo.RecordHeader{})

var _ = kgo.RecordHeader(processor.Header{})

// ourHeaders is the same list under our name.
func ourHeaders(hs []kgo.RecordHeader) []processor.Header {
	if len(hs) == 0 {
		return nil
	}
	return unsafe.Slice((*processor.Header)(unsafe.SliceData(hs)), len(hs))
}

// headers is the same list under kgo's name. kgo only reads it.
func headers(hs []processor.Header) []kgo.RecordHeader {
	if len(hs) == 0 {
		return nil
	}
	return unsafe.Slice((*kgo.RecordHeader)(unsafe.SliceData(hs)), len(hs))
}

// recycler keeps lists that nobody uses, by their size. Any goroutine may use it.
type recycler[T any] struct {
	most int // values in all lists

	mu   sync.Mutex
	held int
	free [recyclerSizes][][]T
}

// The sizes of lists are 5, 6, 7 and 8 times each power of two: at most a fifth is wasted, and lists of batches of about
// the same length fit each other.
const recyclerSizes = 4 * 15

// listSize is the least size of a list that n values fit in, and its number; the number may be beyond the last.
func listSize(n int) (size, number int) {
	n = max(n, 5)
	shift := bits.Len(uint(n-1)) - 3
	parts := (n-1)>>shift + 1
	return parts << shift, 4*shift + parts - 5
}

// take returns an empty list with room for n.
func (r *recycler[T]) take(n int) []T {
	size, number := listSize(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := number; i < min(number+4, recyclerSizes); i++ { // up to twice as long
		if last := len(r.free[i]) - 1; last >= 0 {
			list := r.free[i][last]
			r.free[i][last] = nil
			r.free[i] = r.free[i][:last]
			r.held -= cap(list)
			return list
		}
	}
	return make([]T, 0, size)
}

// give takes a list back, with what it holds. Lists that were not made by take, or were cut, are let go.
func (r *recycler[T]) give(list []T) {
	list = list[:cap(list)]
	size, number := listSize(len(list))
	if size != len(list) || number >= recyclerSizes {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held+len(list) > r.most {
		return
	}
	r.held += len(list)
	r.free[number] = append(r.free[number], list[:0])
}
