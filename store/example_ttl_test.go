package store_test

import (
	"fmt"
	"time"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/ttl"
)

// The payments of the last day: each element of a list has its own time to live.
func ExampleWithTTL() {
	recent := store.List("recent", serde.String(), serde.Int64(), store.WithTTL(ttl.AfterWrite(24*time.Hour)))

	// What the runtime does.
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: recent, Prefix: 1}}, store.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	hour := time.Hour.Milliseconds()
	db.SetClocks(0, -1)

	// What a processor does.
	payments, err := recent.In(db)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = payments.Append("alice", 100)
	db.SetClocks(20*hour, -1)
	_ = payments.Append("alice", 250)
	db.SetClocks(24*hour, -1)
	all, _ := payments.Slice("alice")
	fmt.Println(all)
	// Output: [250]
}
