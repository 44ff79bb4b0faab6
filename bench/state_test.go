package main

import "testing"

func TestOperation(t *testing.T) {
	for line, want := range map[string]result{
		"BenchmarkValueState/valueGet/pebble-2   \t 20\t 250.0 ns/op\t 16 B/op\t 1 allocs/op": {
			Case: "valueGet", Program: "pebble", Title: "pebble", Records: 20, Rate: 4e6, Allocs: 1, AllocBytes: 16},
		"BenchmarkTable/apply-2 \t 10\t 500 ns/op\t 1500000 rows-applied/s": {
			Case: "put of a row, and its share of a commit of 5,000", Program: "pebble", Title: "pebble", Records: 10, Rate: 2e6},
		"BenchmarkTtlMapState/mapGet/Expire3Percent/OnReadAndWrite/NeverReturnExpired/memory-16 5 1000 ns/op": {
			Case: "mapGet, time to live, OnReadAndWrite", Program: "memory", Title: "memory", Records: 5, Rate: 1e6},
		"BenchmarkTimers/register/memory-2 5 2000 ns/op": {
			Case: "register a timer, 1M pending", Program: "memory", Title: "memory", Records: 5, Rate: 5e5},
	} {
		if got, ok := operation(line); !ok || got != want {
			t.Errorf("%s\n got %+v\nwant %+v", line, got, want)
		}
	}
	for _, line := range []string{"", "PASS", "ok  \tstore\t1s", "BenchmarkX", "goos: linux"} {
		if _, ok := operation(line); ok {
			t.Errorf("%q is no result", line)
		}
	}
}
