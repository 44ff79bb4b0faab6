package assign

import (
	"fmt"
	"testing"
)

// BenchmarkAssign plans for a group far larger than usual: a leader has the rebalance timeout for it.
func BenchmarkAssign(b *testing.B) {
	topics := map[string]int32{}
	var catalog []SubtopologySpec
	for i := range 10 {
		topic := fmt.Sprintf("t%d", i)
		topics[topic] = 1000
		catalog = append(catalog, SubtopologySpec{Name: "s" + topic, Sources: []string{topic}, Stateful: true})
	}
	grown := func(from, to int) Input {
		g := newSimGroup(topics)
		for i := range to {
			if i == from && i > 0 {
				if _, err := g.settle(); err != nil {
					b.Fatal(err)
				}
			}
			g.join(member(fmt.Sprintf("m%03d", i), 1+i%3, catalog))
		}
		return g.input()
	}
	for _, c := range []struct{ from, to int }{{0, 200}, {199, 200}, {100, 200}} {
		in := grown(c.from, c.to)
		b.Run(fmt.Sprintf("from=%d/to=%d/tasks=10000", c.from, c.to), func(b *testing.B) {
			for b.Loop() {
				Assign(in)
			}
		})
	}
}
