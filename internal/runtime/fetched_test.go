package runtime

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/topology"
)

// Lists that go round are long enough, nobody else's, and not more than the bound.
func TestRecycler(t *testing.T) {
	r := recycler[*int]{most: 5000}
	out := map[**int]bool{}
	var lists [][]*int
	for i := range 2000 {
		n := []int{0, 1, 7, 100, 100, 1000, 1000, 4000, 1 << 17}[i%9]
		list := r.take(n)
		if len(list) != 0 || cap(list) < n {
			t.Fatalf("asked for %d, got %d of %d", n, len(list), cap(list))
		}
		full := list[:cap(list)]
		for j := range full {
			full[j] = new(int)
		}
		if n > 0 {
			if out[&full[0]] {
				t.Fatal("a list was given out twice")
			}
			out[&full[0]] = true
		}
		if lists = append(lists, full); len(lists) > 3 {
			if gone := lists[0]; len(gone) > 0 {
				delete(out, &gone[0])
			}
			r.give(lists[0][:0])
			lists = lists[1:]
		}
		if r.held > r.most {
			t.Fatalf("%d values are kept, the bound is %d", r.held, r.most)
		}
	}
	for n := range 100_000 {
		size, number := listSize(n)
		if size < n || n >= 5 && size*4 > n*5+4 {
			t.Fatalf("%d values get a list of %d", n, size)
		}
		if again, same := listSize(size); again != size || same != number {
			t.Fatalf("a list of %d is number %d, and %d when it comes back", size, number, same)
		}
		if number > 0 && number < recyclerSizes {
			if _, before := listSize(size + 1); before != number+1 {
				t.Fatalf("after list %d of %d values comes list %d", number, size, before)
			}
		}
	}
	list := r.take(1000)[:1]
	first := &list[0]
	r.give(list)
	if again := r.take(1000)[:1]; &again[0] != first {
		t.Error("a list of the same length was not used again")
	}
}

// What the kernel is handed has all that came, markers of transactions aside, and nothing of it is in memory that kgo or
// the next batch will use.
func TestConvert(t *testing.T) {
	f := newFetched(1 << 20)
	at := time.UnixMilli(1234)
	fetch := func(first int64, n int) (records []*kgo.Record) {
		list := f.GetRecords(n)[:n]
		for i := range list {
			list[i] = kgo.Record{Key: []byte{byte(first), byte(i)}, Value: []byte{1}, Offset: first + int64(i), Timestamp: at, LeaderEpoch: 5}
			if i%2 == 0 {
				list[i].Headers = []kgo.RecordHeader{{Key: "h", Value: []byte{byte(i)}}}
			}
			records = append(records, &list[i])
		}
		return records
	}
	check := func(raws []topology.Raw, first int64, n int) {
		t.Helper()
		if len(raws) != n {
			t.Fatalf("%d records, want %d", len(raws), n)
		}
		for i, r := range raws {
			if r.Key[0] != byte(first) || r.Key[1] != byte(i) || r.Offset != first+int64(i) || r.Time != 1234 {
				t.Fatalf("record %d is %+v", i, r)
			}
			if i%2 == 0 && (len(r.Headers) != 1 || r.Headers[0].Key != "h" || r.Headers[0].Value[0] != byte(i)) || i%2 == 1 && r.Headers != nil {
				t.Fatalf("headers of record %d are %v", i, r.Headers)
			}
		}
	}
	records := fetch(10, 4)
	a := f.convert(2, records)
	for i := range records {
		*records[i] = kgo.Record{Key: []byte("another fetch")} // as kgo does once it has the list again
	}
	b := f.convert(2, fetch(100, 3))
	check(a.Records, 10, 4)
	check(b.Records, 100, 3)
	if a.Input != 2 || a.Next != 14 || a.Epoch != 5 || a.Bytes < 4*3 {
		t.Errorf("%+v", a)
	}
	held := a.Records
	f.release(*a)
	for i := range held {
		if held[i].Key != nil {
			t.Fatal("a list that waits to be used again holds on to what was fetched")
		}
	}
	c := f.convert(0, fetch(20, 4))
	check(b.Records, 100, 3)
	check(c.Records, 20, 4)
	if &a.Records[0] != &c.Records[0] {
		t.Error("the list that was let go of was not used again")
	}
}
