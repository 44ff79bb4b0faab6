package lint

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// rooms is the floor plan: what the packages may import of ours, tests aside. It is a statement of intent: when a build needs a new
// word here, ask first whether the code is in the wrong room.
var rooms = map[string]string{
	// Leaves.
	"serde":               "internal/ordkey",
	"serde/registry":      "",
	"serde/avro":          "serde serde/registry",
	"serde/protobuf":      "serde serde/registry",
	"window":              "",
	"ttl":                 "",
	"observe":             "",
	"observe/prom":        "observe",
	"observe/otel":        "observe",
	"txn":                 "",
	"devkafka":            "",
	"internal/ordkey":     "",
	"internal/invariants": "",
	"internal/reach":      "",

	// State and its way to the topic and back.
	"store":           "serde window ttl internal/ordkey internal/invariants",
	"store/storetest": "store serde",
	"timers":          "store serde internal/ordkey",
	"changelog":       "serde store txn observe",

	// The contract with user code, the graph, the language.
	"processor": "store timers",
	"topology":  "processor store serde timers",
	"stream":    "topology processor store serde window ttl timers",

	// The kernel and what drives it.
	"internal/task":           "topology processor store timers changelog observe window ttl",
	"internal/runtime/assign": "processor",
	"internal/runtime":        "internal/reach internal/runtime/assign internal/task changelog txn topology processor store timers observe query internal/ordkey",
	"streamtest":              "internal/task topology processor store timers serde changelog txn observe",
	"query":                   "store serde observe",
	"dashboard":               "query observe",

	// The door.
	".": "internal/runtime internal/task changelog topology processor store observe observe/prom query txn",

	// Tests and their tools.
	"internal/kafkatest": "devkafka",
	"internal/sim":       "internal/task topology processor store changelog",
	"internal/lint":      "",
}

// everywhere is what every room may import: leaves that nearly everybody needs.
var everywhere = []string{"internal/fault", "internal/chaos", "internal/clock"}

// guests live in the house as its users do: they may import whatever is public, their own, and what is named here.
var guests = map[string]string{
	"cmd":      "internal/reach",
	"examples": "",
	"bench":    "",
	"itest":    "internal/kafkatest",
}

// kits are for tests: no shipped code may depend on them.
var kits = []string{"streamtest", "store/storetest", "internal/kafkatest", "internal/sim"}

// speakers of Kafka's protocol. Everybody else is told about records, offsets and errors by them.
var speakers = []string{
	".", "txn", "changelog", "internal/reach", "internal/runtime", "internal/runtime/assign", // the product
	"devkafka", "internal/kafkatest", // brokers for tests and first tries
}

func guest(room string) (string, bool) {
	for g, may := range guests {
		if room == g || strings.HasPrefix(room, g+"/") {
			return may, true
		}
	}
	return "", false
}

func checkRooms(files []source) (wrong []string) {
	for _, f := range files {
		if f.test {
			continue
		}
		may, isGuest := guest(f.room)
		allowed, known := rooms[f.room]
		leaf := slices.Contains(everywhere, f.room)
		if !isGuest && !known && !leaf {
			wrong = append(wrong, fmt.Sprintf("%s: %s is a new room: say in rooms what it may import", f.path, f.room))
			continue
		}
		for _, p := range f.imports() {
			room, ours := roomOf(p)
			if !ours || room == f.room {
				continue
			}
			public := !strings.Contains("/"+room+"/", "/internal/")
			family := strings.HasPrefix(room, strings.SplitN(f.room, "/", 2)[0]+"/")
			switch {
			case leaf:
				wrong = append(wrong, fmt.Sprintf("%s imports %s: everybody imports %s, so it imports nobody", f.path, room, f.room))
			case slices.Contains(everywhere, room):
			case isGuest && (public || family || slices.Contains(strings.Fields(may), room)):
			case isGuest || !slices.Contains(strings.Fields(allowed), room):
				wrong = append(wrong, fmt.Sprintf("%s imports %s: not on the floor plan (rooms in internal/lint); is the code in the right room?", f.path, room))
			}
		}
	}
	return wrong
}

// checkFloorPlan keeps the plan itself honest: no circles.
func checkFloorPlan([]source) (wrong []string) {
	state := map[string]int{} // 1: being looked at, 2: fine
	var visit func(room string, way []string)
	visit = func(room string, way []string) {
		switch state[room] {
		case 1:
			wrong = append(wrong, fmt.Sprintf("the floor plan has a circle: %s", strings.Join(append(way, room), " -> ")))
			return
		case 2:
			return
		}
		state[room] = 1
		for _, next := range strings.Fields(rooms[room]) {
			if _, ok := rooms[next]; !ok {
				wrong = append(wrong, fmt.Sprintf("the floor plan lets %s import %s, which is not on it", room, next))
			}
			visit(next, append(slices.Clone(way), room))
		}
		state[room] = 2
	}
	for room := range rooms {
		visit(room, nil)
	}
	slices.Sort(wrong)
	return wrong
}

func checkKits(files []source) (wrong []string) {
	for _, f := range files {
		if f.test || slices.Contains(kits, f.room) {
			continue
		}
		for _, p := range f.imports() {
			if room, ours := roomOf(p); ours && slices.Contains(kits, room) || p == "testing" {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: test kits are imported by tests only, or users ship them", f.path, p))
			}
		}
	}
	return wrong
}

func checkPebble(files []source) (wrong []string) {
	for _, f := range files {
		ok := f.room == "store" && (f.test || strings.HasPrefix(path.Base(f.path), "pebble"))
		if _, isGuest := guest(f.room); ok || isGuest && strings.HasPrefix(f.room, "bench") {
			continue
		}
		for _, p := range f.imports() {
			if strings.HasPrefix(p, "github.com/cockroachdb/pebble") {
				wrong = append(wrong, fmt.Sprintf("%s imports Pebble: only store/pebble*.go do; ask store.Engine for what is missing", f.path))
			}
		}
	}
	return wrong
}

func checkSpeakers(files []source) (wrong []string) {
	for _, f := range files {
		if _, isGuest := guest(f.room); f.test || isGuest || slices.Contains(speakers, f.room) {
			continue
		}
		for _, p := range f.imports() {
			if strings.HasPrefix(p, "github.com/twmb/franz-go") && !(strings.HasPrefix(f.room, "serde/") && p == "github.com/twmb/franz-go/pkg/sr") {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: only txn, changelog, internal/runtime and the root's options speak to Kafka", f.path, p))
			}
		}
	}
	return wrong
}
