package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/streamtest"
)

func key(i int) []byte { return fmt.Appendf(nil, "k%015d", i) }

// TestWorkloads: each writes what bench/README.md says.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	number := func(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
	row := func(n uint64, rest string) string { return number(n) + rest + strings.Repeat("\x00", 20-8-len(rest)) }
	for workload, want := range map[string][]string{
		"pass":        {"k000000000000012=ab", "k000000000000013=cd", "k000000000000012=ef"},
		"map":         {"k000000000000012=AB", "k000000000000012=EF"},
		"count":       {"k000000000000012=" + number(1), "k000000000000013=" + number(1), "k000000000000012=" + number(2)},
		"aggregate":   {"k000000000000012=" + row(1, "ab"), "k000000000000013=" + row(1, "cd"), "k000000000000012=" + row(2, "ef")},
		"repartition": {"k000000000000010=" + number(1), "k000000000000010=" + number(2), "k000000000000010=" + number(3)},
		"join":        {"k000000000000012=twelve..ab", "k000000000000012=twelve..ef"},
	} {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			c := config{workload: workload, in: "in", table: "table", out: "out", stateBytes: 20}
			top, err := topo(c)
			if err != nil {
				t.Fatal(err)
			}
			d := streamtest.New(t, top)
			if workload == "join" {
				streamtest.In(d, bytesTopic(c.table)).Send(key(12), []byte("twelve.."))
			}
			in := streamtest.In(d, bytesTopic(c.in))
			in.Send(key(12), []byte("ab"))
			in.Send(key(13), []byte("cd"))
			in.Send(key(12), []byte("ef"))
			var got []string
			for _, r := range streamtest.Out(d, bytesTopic(c.out)).All() {
				got = append(got, string(r.Key)+"="+string(r.Value))
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestAnUnknownWorkloadNamesThoseThereAre(t *testing.T) {
	t.Parallel()
	_, err := topo(config{workload: "sort"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range slices.Sorted(maps.Keys(workloads)) {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not say %s", err, name)
		}
	}
}

// TestAllocationsAreThoseOfTheWarmSpan: what came before the first look, or after the last at which something had been done, is not
// counted.
func TestAllocationsAreThoseOfTheWarmSpan(t *testing.T) {
	var a allocations
	if objects, bytes := a.perRecord(); objects != 0 || bytes != 0 {
		t.Errorf("%v objects, %v bytes of nothing", objects, bytes)
	}
	waste := func(n int) {
		for range n {
			kept = append(kept[:0:0], make([]byte, 1000)...)
		}
	}
	waste(5000)
	a.look(100)
	waste(1000)
	a.look(1100)
	waste(5000)
	a.look(1100) // nothing was done
	objects, bytes := a.perRecord()
	if objects < 0.9 || objects > 2.5 || bytes < 900 || bytes > 2500 {
		t.Errorf("%v objects, %v bytes per record", objects, bytes)
	}
}

var kept []byte
