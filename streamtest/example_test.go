package streamtest_test

import (
	"fmt"
	"time"

	"github.com/millrace-io/millrace/streamtest"
)

// A topology is sent records and its output read; the state is there to look at.
func Example() {
	top, err := wordCount()
	if err != nil {
		panic(err)
	}
	d := streamtest.New(nil, top) // in a test: New(t, top)
	defer d.Close()
	in, out := streamtest.In(d, lines), streamtest.Out(d, totals)

	in.Send("", "the cat the hat")
	for _, r := range out.All() {
		fmt.Println(r.Key, r.Value)
	}
	n, ok := streamtest.Store(d, counts).Get("the")
	fmt.Println("in the store:", n, ok)
	// Output:
	// the 1
	// cat 1
	// the 2
	// hat 1
	// in the store: 2 true
}

// After a crash the state comes back from the local engine and the changelog; what was not committed is processed again.
func ExampleDriver_Crash() {
	top, err := wordCount()
	if err != nil {
		panic(err)
	}
	d := streamtest.New(nil, top, streamtest.ManualCommit())
	defer d.Close()
	in, out := streamtest.In(d, lines), streamtest.Out(d, totals)

	in.Send("", "cat cat")
	d.Crash() // before anything was committed
	d.Settle()
	d.CrashLosingDisk()
	in.Send("", "cat")
	d.Settle()
	for _, r := range out.All() {
		fmt.Println(r.Key, r.Value)
	}
	// Output:
	// cat 1
	// cat 2
	// cat 3
}

// The clock is in the test's hand. Records carry its time unless they have their own.
func ExampleDriver_Advance() {
	top, err := wordCount()
	if err != nil {
		panic(err)
	}
	d := streamtest.New(nil, top, streamtest.StartAt(time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC)))
	defer d.Close()
	in, out := streamtest.In(d, lines), streamtest.Out(d, totals)

	in.Send("", "morning")
	d.Advance(12 * time.Hour)
	in.Send("", "evening")
	for _, r := range out.All() {
		fmt.Println(streamtest.Format(r))
	}
	// Output:
	// morning = 1 @ 2026-05-01T08:00:00.000Z
	// evening = 1 @ 2026-05-01T20:00:00.000Z
}
