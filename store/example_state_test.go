package store_test

import (
	"fmt"
	"maps"
	"time"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

// openTask opens a task's state in memory. In a program the runtime does this, and a node calls the spec's In(ctx) in its Init.
func openTask(specs ...store.Spec) *store.DB {
	var bindings []store.Binding
	for i, s := range specs {
		bindings = append(bindings, store.Binding{Spec: s, Prefix: uint16(i + 1)})
	}
	db, err := store.Open(store.NewMemory(), bindings, store.Options{})
	if err != nil {
		panic(err)
	}
	return db
}

func ExampleValue() {
	last := store.Value("last-login", serde.String(), serde.Time())
	db := openTask(last)
	defer db.Close()
	logins, _ := last.In(db)

	_, ok, _ := logins.Get("ann")
	fmt.Println(ok)
	// The same key in two namespaces: two values.
	_ = logins.NS([]byte("web")).Put("ann", day(3))
	_ = logins.NS([]byte("app")).Put("ann", day(7))
	at, ok, _ := logins.NS([]byte("web")).Get("ann")
	fmt.Println(at.Day(), ok)
	_ = logins.NS([]byte("web")).Clear("ann")
	at, _ = logins.NS([]byte("web")).GetOr("ann", day(1))
	fmt.Println(at.Day())
	// Output:
	// false
	// 3 true
	// 1
}

func ExampleList() {
	recent := store.List("recent", serde.String(), serde.Int64())
	db := openTask(recent)
	defer db.Close()
	payments, _ := recent.In(db)

	_ = payments.Append("ann", 5, 200, 7)
	_ = payments.Append("ann", 300)
	// Elements can be changed while they are looked at.
	all := payments.All("ann")
	for amount := range all.Values() {
		switch {
		case amount < 6:
			_ = all.Delete()
		case amount > 250:
			_ = all.Set(250)
		}
	}
	if all.Err() != nil {
		fmt.Println(all.Err())
	}
	left, _ := payments.Slice("ann")
	fmt.Println(left)
	_ = payments.Replace("ann", []int64{1, 2})
	n, _ := payments.Len("ann")
	fmt.Println(n)
	// Output:
	// [200 7 250]
	// 2
}

func ExampleMap() {
	devices := store.Map("devices", serde.String(), serde.Int64(), serde.String())
	db := openTask(devices)
	defer db.Close()
	names, _ := devices.In(db)

	_ = names.PutAll("ann", maps.All(map[int64]string{20: "phone", -1: "watch", 3: "tablet"}))
	_ = names.Put("bob", 1, "phone")
	// Entries come in the order of their subkeys.
	all := names.All("ann")
	for id, name := range all.Rows() {
		fmt.Println(id, name)
	}
	if all.Err() != nil {
		fmt.Println(all.Err())
	}
	for id := range names.Range("ann", 0, 10).Keys() {
		fmt.Println("from 0 to 10:", id)
	}
	id, name, _, _ := names.Last("ann")
	fmt.Println("last:", id, name)
	_ = names.Clear("ann")
	empty, _ := names.IsEmpty("ann")
	fmt.Println("empty:", empty)
	// Output:
	// -1 watch
	// 3 tablet
	// 20 phone
	// from 0 to 10: 3
	// last: 20 phone
	// empty: true
}

func ExampleReducing() {
	highest := store.Reducing("highest", serde.String(), serde.Int64(), func(old, added int64) int64 { return max(old, added) })
	db := openTask(highest)
	defer db.Close()
	bids, _ := highest.In(db)

	for _, bid := range []int64{10, 25, 15} {
		now, _ := bids.Add("lot 1", bid)
		fmt.Println(now)
	}
	_, ok, _ := bids.Get("lot 2")
	fmt.Println(ok)
	// Output:
	// 10
	// 25
	// 25
	// false
}

func ExampleAggregating() {
	type sum struct{ Total, N float64 }
	average := store.Aggregating("average", serde.String(), serde.JSON[sum](), store.Aggregator[float64, sum, float64]{
		New:    func() sum { return sum{} },
		Add:    func(s sum, v float64) sum { return sum{s.Total + v, s.N + 1} },
		Result: func(s sum) float64 { return s.Total / s.N },
		Merge:  func(a, b sum) sum { return sum{a.Total + b.Total, a.N + b.N} },
	})
	db := openTask(average)
	defer db.Close()
	prices, _ := average.In(db)

	morning, noon := []byte("09:00"), []byte("12:00")
	_ = prices.NS(morning).Add("apples", 1)
	_ = prices.NS(morning).Add("apples", 2)
	_ = prices.NS(noon).Add("apples", 6)
	// Two windows become one.
	_ = prices.Merge("apples", morning, noon)
	v, ok, _ := prices.NS(morning).Get("apples")
	fmt.Println(v, ok)
	_, ok, _ = prices.NS(noon).Get("apples")
	fmt.Println(ok)
	// Output:
	// 3 true
	// false
}

func day(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
