package stream_test

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/streamtest"
)

// The nouns of the examples: declared once, with their types.
var (
	texts  = stream.NewTopic("lines", serde.String(), serde.String())
	sales  = stream.NewTopic("sales", serde.String(), serde.Int64()) // by shop
	words  = stream.NewTopic("words", serde.String(), serde.String())
	totals = stream.NewTopic("totals", serde.String(), serde.Int64())
	names  = stream.NewTopic("names", serde.String(), serde.String()) // of shops
	labels = stream.NewTopic("labels", serde.String(), serde.String())
)

// start builds a topology and runs it in memory.
func start(b *stream.Builder) *streamtest.Driver {
	top, err := b.Build()
	if err != nil {
		panic(err)
	}
	return streamtest.New(nil, top)
}

// print prints what is new in a topic.
func print[K cmp.Ordered, V any](d *streamtest.Driver, t stream.Topic[K, V]) {
	for _, r := range streamtest.Out(d, t).All() {
		if r.NullValue {
			fmt.Println(r.Key, "is gone")
			continue
		}
		fmt.Println(r.Key, r.Value)
	}
}

// A complete topology: word count.
func Example() {
	var (
		byWord = stream.Through("by-word", serde.String(), serde.String())
		counts = store.KeyValue("counts", serde.String(), serde.Int64())
	)
	b := stream.NewBuilder()
	words := stream.FlatMapValues(stream.From(b, texts), strings.Fields)
	stream.GroupBy(words, func(_, word string) string { return strings.ToLower(word) }, byWord).
		Count(counts).
		ToStream().
		To(totals)

	d := start(b)
	defer d.Close()
	streamtest.In(d, texts).Send("", "the cat the hat")
	print(d, totals)
	// Output:
	// the 1
	// cat 1
	// the 2
	// hat 1
}

func ExampleFrom() {
	more := stream.NewTopic("more-sales", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.From(b, sales, more).To(totals)

	d := start(b)
	defer d.Close()
	streamtest.In(d, sales).Send("north", 3)
	streamtest.In(d, more).Send("south", 4)
	print(d, totals)
	// Output:
	// north 3
	// south 4
}

// A topic may say where its records' event time comes from.
func ExampleNewTopic() {
	type click struct {
		Page string
		At   int64 // seconds
	}
	clicks := stream.NewTopic("clicks", serde.String(), serde.JSON[click]()).
		TimestampBy(func(_ string, c click, _ time.Time) time.Time { return time.Unix(c.At, 0) })
	pages := stream.NewTopic("pages", serde.String(), serde.String())

	b := stream.NewBuilder()
	stream.MapValues(stream.From(b, clicks), func(c click) string { return c.Page }).To(pages)

	d := start(b)
	defer d.Close()
	streamtest.In(d, clicks).Send("ann", click{"/home", 1_700_000_000})
	r, _ := streamtest.Out(d, pages).Last()
	fmt.Println(r.Value, r.Time)
	// Output:
	// /home 2023-11-14 22:13:20 +0000 UTC
}

func ExampleNewBuilder() {
	b := stream.NewBuilder()
	stream.From(b, sales).To(totals)
	top, err := b.Build()
	if err != nil {
		fmt.Println(err)
	}
	fmt.Print(top)
	// Output:
	// subtopology sales
	//   sales: source reads sales
	//     -> to-totals
	//   to-totals: sink writes totals
}

func ExampleStream_Filter() {
	b := stream.NewBuilder()
	stream.From(b, sales).
		Filter(func(_ string, n int64) bool { return n > 10 }).
		To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("south", 40)
	print(d, totals)
	// Output:
	// south 40
}

func ExampleStream_FilterNot() {
	b := stream.NewBuilder()
	stream.From(b, sales).
		FilterNot(func(shop string, _ int64) bool { return shop == "test" }).
		To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("test", 3)
	in.Send("south", 40)
	print(d, totals)
	// Output:
	// south 40
}

func ExampleStream_Peek() {
	b := stream.NewBuilder()
	stream.From(b, sales).
		Peek(func(shop string, n int64) { fmt.Println("saw", shop, n) }).
		To(totals)

	d := start(b)
	defer d.Close()
	streamtest.In(d, sales).Send("north", 3)
	print(d, totals)
	// Output:
	// saw north 3
	// north 3
}

func ExampleStream_Merge() {
	b := stream.NewBuilder()
	all := stream.From(b, sales)
	small := all.Filter(func(_ string, n int64) bool { return n < 10 })
	large := all.Filter(func(_ string, n int64) bool { return n > 100 })
	small.Merge(large).To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("north", 50)
	in.Send("south", 400)
	print(d, totals)
	// Output:
	// north 3
	// south 400
}

func ExampleStream_Named() {
	b := stream.NewBuilder()
	stream.From(b, sales).
		Filter(func(_ string, n int64) bool { return n > 10 }).Named("large").
		To(totals).Named("out")
	top, _ := b.Build()
	fmt.Print(top)
	// Output:
	// subtopology sales
	//   sales: source reads sales
	//     -> large
	//   large: filter
	//     -> out
	//   out: sink writes totals
}

// OnError stands behind the verb it is for.
func ExampleStream_OnError() {
	b := stream.NewBuilder()
	s := stream.From(b, sales).OnError(processor.DeadLetter("bad-sales")) // what cannot be decoded
	stream.MapValues(s, func(n int64) int64 { return 100 / n }).OnError(processor.Skip()).
		To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.SendRaw([]byte("north"), []byte("three"))
	in.Send("north", 0) // panics, and is skipped
	in.Send("north", 5)
	print(d, totals)
	for _, dead := range streamtest.DeadLetters(d, "bad-sales") {
		fmt.Printf("dead letter: %s\n", dead.Value)
	}
	// Output:
	// north 20
	// dead letter: three
}

func ExampleStream_Repartition() {
	byRegion := stream.Through("by-region", serde.String(), serde.Int64())
	sums := store.KeyValue("sums", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	s := stream.Map(stream.From(b, sales), func(shop string, n int64) (string, int64) {
		return strings.ToUpper(shop[:1]), n
	})
	stream.GroupByKey(s.Repartition(byRegion)).
		Reduce(func(sum, n int64) int64 { return sum + n }, sums).
		ToStream().To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("nowhere", 4)
	print(d, totals)
	// Output:
	// N 3
	// N 7
}

// A Through topic may ask for a number of partitions, and so of tasks behind it.
func ExampleThrough() {
	byShop := stream.Through("by-shop", serde.String(), serde.Int64()).Partitions(12)
	b := stream.NewBuilder()
	stream.From(b, sales).Repartition(byShop).To(totals)
	top, _ := b.Build()
	fmt.Print(top)
	// Output:
	// subtopology by-shop
	//   by-shop: source reads repartition by-shop (12 partitions)
	//     -> to-totals
	//   to-totals: sink writes totals
	//
	// subtopology sales
	//   sales: source reads sales
	//     -> to-by-shop
	//   to-by-shop: sink writes repartition by-shop (12 partitions)
}

func ExampleStream_To() {
	b := stream.NewBuilder()
	stream.From(b, sales).To(totals)

	d := start(b)
	defer d.Close()
	streamtest.In(d, sales).Send("north", 3)
	streamtest.In(d, sales).SendTombstone("north")
	print(d, totals)
	// Output:
	// north 3
	// north is gone
}

func ExampleMap() {
	b := stream.NewBuilder()
	stream.Map(stream.From(b, texts), func(k, line string) (string, int64) {
		return strings.ToUpper(k), int64(len(line))
	}).To(totals)

	d := start(b)
	defer d.Close()
	streamtest.In(d, texts).Send("a", "four")
	print(d, totals)
	// Output:
	// A 4
}

func ExampleMapValues() {
	b := stream.NewBuilder()
	stream.MapValues(stream.From(b, texts), func(line string) int64 { return int64(len(line)) }).To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, texts)
	in.Send("a", "four")
	in.SendTombstone("a") // stays a tombstone: len is not called
	print(d, totals)
	// Output:
	// a 4
	// a is gone
}

func ExampleSelectKey() {
	b := stream.NewBuilder()
	stream.SelectKey(stream.From(b, texts), func(_, line string) string { return line[:1] }).To(words)

	d := start(b)
	defer d.Close()
	streamtest.In(d, texts).Send("a", "four")
	print(d, words)
	// Output:
	// f four
}

func ExampleFlatMap() {
	b := stream.NewBuilder()
	stream.FlatMap(stream.From(b, texts), func(_, line string) []stream.Pair[string, int64] {
		var pairs []stream.Pair[string, int64]
		for _, w := range strings.Fields(line) {
			pairs = append(pairs, stream.Pair[string, int64]{Key: w, Value: int64(len(w))})
		}
		return pairs
	}).To(totals)

	d := start(b)
	defer d.Close()
	streamtest.In(d, texts).Send("", "a cat")
	print(d, totals)
	// Output:
	// a 1
	// cat 3
}

func ExampleFlatMapValues() {
	b := stream.NewBuilder()
	stream.FlatMapValues(stream.From(b, texts), strings.Fields).To(words)

	d := start(b)
	defer d.Close()
	streamtest.In(d, texts).Send("k", "a cat")
	print(d, words)
	// Output:
	// k a
	// k cat
}

// biggest remembers the greatest sale of each shop.
type biggest struct {
	seen *store.KV[string, int64]
}

var records = store.KeyValue("records", serde.String(), serde.Int64())

func newBiggest() processor.Processor[string, int64, string, int64] { return &biggest{} }

func (p *biggest) Init(ctx processor.InitContext) (err error) {
	p.seen, err = records.In(ctx)
	return err
}

func (p *biggest) Process(ctx processor.Context[string, int64], r processor.Record[string, int64]) error {
	last, ok, err := p.seen.Get(r.Key)
	if err != nil {
		return err
	}
	if ok && r.Value <= last {
		return nil
	}
	if err := p.seen.Put(r.Key, r.Value); err != nil {
		return err
	}
	return ctx.Forward(r)
}

func ExampleProcess() {
	b := stream.NewBuilder()
	stream.Process(stream.From(b, sales), newBiggest, records).To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("north", 2)
	in.Send("north", 5)
	print(d, totals)
	// Output:
	// north 3
	// north 5
}

// What ProcessValues makes has the key it had, so it can be grouped without a repartition topic.
func ExampleProcessValues() {
	counts := store.KeyValue("counts", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	records := stream.ProcessValues(stream.From(b, sales), newBiggest, records)
	stream.GroupByKey(records).Count(counts).ToStream().To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("north", 2)
	in.Send("north", 5)
	print(d, totals)
	// Output:
	// north 1
	// north 2
}

func ExampleGroupByKey() {
	counts := store.KeyValue("counts", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.GroupByKey(stream.From(b, sales)).Count(counts).ToStream().To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("north", 4)
	print(d, totals)
	// Output:
	// north 1
	// north 2
}

func ExampleGroupBy() {
	byLength := stream.Through("by-length", serde.Int64(), serde.String())
	counts := store.KeyValue("counts", serde.Int64(), serde.Int64())
	lengths := stream.NewTopic("lengths", serde.Int64(), serde.Int64())
	b := stream.NewBuilder()
	stream.GroupBy(stream.From(b, words), func(_, w string) int64 { return int64(len(w)) }, byLength).
		Count(counts).
		ToStream().To(lengths)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, words)
	in.Send("", "cat")
	in.Send("", "hat")
	print(d, lengths)
	// Output:
	// 3 1
	// 3 2
}

// What fails on the way through the repartition topic goes to a policy of its own.
func ExampleGrouped_OnError() {
	byInitial := stream.Through("by-initial", serde.String(), serde.String())
	counts := store.KeyValue("counts", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.GroupBy(stream.From(b, words), func(_, w string) string { return w[:1] }, byInitial).OnError(processor.Skip()).
		Count(counts).
		ToStream().To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, words)
	in.Send("", "") // no initial: panics, and is skipped
	in.Send("", "hat")
	print(d, totals)
	// Output:
	// h 1
}

func ExampleGrouped_Count() {
	counts := store.KeyValue("counts", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.GroupByKey(stream.From(b, sales)).Count(counts)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("north", 4)
	n, _ := streamtest.Store(d, counts).Get("north")
	fmt.Println(n)
	// Output:
	// 2
}

func ExampleGrouped_Reduce() {
	best := store.KeyValue("best", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.GroupByKey(stream.From(b, sales)).
		Reduce(func(kept, n int64) int64 { return max(kept, n) }, best).
		ToStream().To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 3)
	in.Send("north", 5)
	in.Send("north", 4)
	print(d, totals)
	// Output:
	// north 3
	// north 5
	// north 5
}

func ExampleAggregate() {
	type average struct{ Sum, N int64 }
	averages := store.KeyValue("averages", serde.String(), serde.JSON[average]())
	b := stream.NewBuilder()
	table := stream.Aggregate(stream.GroupByKey(stream.From(b, sales)),
		func() average { return average{} },
		func(a average, n int64) average { return average{a.Sum + n, a.N + 1} },
		averages)
	stream.MapValues(table.ToStream(), func(a average) int64 { return a.Sum / a.N }).To(totals)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 2)
	in.Send("north", 6)
	print(d, totals)
	// Output:
	// north 2
	// north 4
}

func ExampleTableFrom() {
	shops := store.KeyValue("shops", serde.String(), serde.String())
	b := stream.NewBuilder()
	stream.TableFrom(b, names, shops)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, names)
	in.Send("n", "North")
	in.Send("n", "Far North")
	in.Send("s", "South")
	in.SendTombstone("s")
	for _, row := range streamtest.Store(d, shops).All() {
		fmt.Println(row.Key, row.Value)
	}
	// Output:
	// n Far North
}

func ExampleStream_ToTable() {
	latest := store.KeyValue("latest", serde.String(), serde.Int64())
	b := stream.NewBuilder()
	stream.From(b, sales).
		Filter(func(_ string, n int64) bool { return n > 10 }).
		ToTable(latest)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, sales)
	in.Send("north", 20)
	in.Send("north", 30)
	in.Send("north", 4)
	n, _ := streamtest.Store(d, latest).Get("north")
	fmt.Println(n)
	// Output:
	// 30
}

func ExampleTable_ToStream() {
	shops := store.KeyValue("shops", serde.String(), serde.String())
	b := stream.NewBuilder()
	stream.TableFrom(b, names, shops).ToStream().To(labels)

	d := start(b)
	defer d.Close()
	in := streamtest.In(d, names)
	in.Send("n", "North")
	in.SendTombstone("n")
	print(d, labels)
	// Output:
	// n North
	// n is gone
}

func ExampleTable_Named() {
	shops := store.KeyValue("shops", serde.String(), serde.String())
	b := stream.NewBuilder()
	stream.TableFrom(b, names, shops).Named("shop-names").OnError(processor.Skip())
	top, _ := b.Build()
	fmt.Print(top)
	// Output:
	// subtopology shops
	//   store shops: key-value string -> string
	//   names: source reads names (on error: skip)
	//     -> shop-names
	//   shop-names: table [shops] (on error: skip)
}

func ExampleTable_OnError() {
	shops := store.KeyValue("shops", serde.String(), serde.JSON[int]())
	numbers := stream.NewTopic("names", serde.String(), serde.JSON[int]())
	b := stream.NewBuilder()
	stream.TableFrom(b, numbers, shops).OnError(processor.Skip())

	d := start(b)
	defer d.Close()
	streamtest.In(d, numbers).SendRaw([]byte("n"), []byte("not a number"))
	streamtest.In(d, numbers).Send("n", 4)
	n, _ := streamtest.Store(d, shops).Get("n")
	fmt.Println(n)
	// Output:
	// 4
}

func ExampleJoin() {
	shops := store.KeyValue("shops", serde.String(), serde.String())
	b := stream.NewBuilder()
	stream.Join(stream.From(b, sales), stream.TableFrom(b, names, shops), func(n int64, name string) string {
		return fmt.Sprintf("%d in %s", n, name)
	}).To(labels)

	d := start(b)
	defer d.Close()
	streamtest.In(d, sales).Send("n", 3) // nobody knows n yet
	streamtest.In(d, names).Send("n", "North")
	streamtest.In(d, sales).Send("n", 4)
	print(d, labels)
	// Output:
	// n 4 in North
}

func ExampleLeftJoin() {
	shops := store.KeyValue("shops", serde.String(), serde.String())
	b := stream.NewBuilder()
	stream.LeftJoin(stream.From(b, sales), stream.TableFrom(b, names, shops), func(n int64, name string, ok bool) string {
		if !ok {
			name = "an unknown shop"
		}
		return fmt.Sprintf("%d in %s", n, name)
	}).To(labels)

	d := start(b)
	defer d.Close()
	streamtest.In(d, sales).Send("n", 3)
	streamtest.In(d, names).Send("n", "North")
	streamtest.In(d, sales).Send("n", 4)
	print(d, labels)
	// Output:
	// n 3 in an unknown shop
	// n 4 in North
}
