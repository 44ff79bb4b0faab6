package main

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/streamtest"
)

// A thousand events per key, with crashes of all kinds in between, and epochs that end wherever they like: exactly 100, 200, ...
// 1000, in that order, for every key.
func TestExactlyEveryHundredth(t *testing.T) {
	for _, engine := range []string{"memory", "pebble"} {
		t.Run(engine, func(t *testing.T) {
			opts := []streamtest.Option{streamtest.Partitions(3), streamtest.CommitEvery(37)}
			odds := 200
			if engine == "pebble" {
				opts, odds = append(opts, streamtest.Pebble()), 1000
			}
			top, err := count100()
			if err != nil {
				t.Fatal(err)
			}
			d := streamtest.New(t, top, opts...)
			in := streamtest.In(d, events)
			random := rand.New(rand.NewPCG(7, 100))
			names := []string{"a", "b", "c", "d"}
			for range each {
				for _, k := range names {
					in.Send(k, []byte{})
					switch random.IntN(odds) {
					case 0:
						d.Crash()
					case 1:
						d.CrashLosingDisk()
					case 2:
						d.Abort()
					}
				}
			}
			d.Settle()
			var got tally
			for _, r := range streamtest.Out(d, hundreds).All() {
				if err := got.add(r.Key, r.Value); err != nil {
					t.Fatal(err)
				}
			}
			for _, k := range names {
				if got.last[k] != each {
					t.Errorf("%s ended at %d", k, got.last[k])
				}
				if n, _ := streamtest.Store(d, counts).Get(k); n != each {
					t.Errorf("the count of %s is %d", k, n)
				}
			}
		})
	}
}

func TestCompareSeesADifference(t *testing.T) {
	var all []processor.Record[string, int64]
	for k := range keys {
		for n := int64(100); n <= each; n += 100 {
			all = append(all, processor.Record[string, int64]{Key: fmt.Sprintf("key-%03d", k), Value: n})
		}
	}
	if err := compare(all); err != nil {
		t.Error(err)
	}
	for name, wrong := range map[string][]processor.Record[string, int64]{
		"one missing": all[1:], "the last missing": all[:len(all)-1], "one twice": append(all, all[len(all)-1]),
	} {
		if compare(wrong) == nil {
			t.Errorf("%s: not seen", name)
		}
	}
}
