package assign

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/processor"
)

// TestState/RS-1: 128 partitions with one key each, on as many instances as the case says, and then on as many others. A task is a
// partition, so a key's state is where its task is: each task must be with exactly one instance, before and after, and the
// instances of before must not keep what they no longer own.
func TestState(t *testing.T) {
	t.Run("RS-1", func(t *testing.T) {
		for _, c := range [][2]int{{4, 2}, {2, 4}, {2, 2}, {15, 77}, {77, 15}} {
			t.Run(fmt.Sprintf("%d to %d", c[0], c[1]), func(t *testing.T) {
				topics := map[string]int32{"keys": 128}
				catalog := []SubtopologySpec{{Name: "values", Hash: 1, Sources: []string{"keys"}, Stateful: true}}
				g := newSimGroup(topics)
				grow := func(n int) {
					ids := g.ids()
					for i := len(ids); i < n; i++ {
						g.join(member(fmt.Sprintf("m%02d", i), 1, catalog))
					}
					for _, id := range ids[min(n, len(ids)):] {
						delete(g.members, id)
					}
					if _, err := g.settle(); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range c {
					grow(n)
					owners := map[processor.TaskID][]string{}
					for _, m := range g.plan.Members {
						for _, task := range m.Tasks {
							owners[task] = append(owners[task], m.Member)
						}
					}
					for p := range int32(128) {
						if at := owners[processor.TaskID{Subtopology: "values", Partition: p}]; len(at) != 1 {
							t.Errorf("the key of partition %d is with %v of %d", p, at, n)
						}
					}
					if len(owners) != 128 {
						t.Errorf("%d tasks: %v", len(owners), slices.Sorted(maps.Keys(g.members)))
					}
				}
			})
		}
	})
}
