package assign

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/millrace-io/millrace/processor"
)

// TestScripts plays groups on paper. Run with -rewrite to write down what happens now, and keep only what you can explain.
//
//	topics a=4 b=4
//	topology v1 since=100        the lines below: name hash source,source [stateless] [tasks=n]
//	join A v1 [workers=n] [capacity=n] [guarantee=n]    a new process: claims nothing, keeps its disk
//	leave A | deaf A | hear A    deaf members miss rebalances and come back with old claims
//	garbled A                    what A tells cannot be read
//	disk A counts/1=100          a local copy
//	claim A gen=3 a/0 a/1        what A says it holds
//	rebalance | settle           one rebalance, or until nothing is withheld
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{simGroup: newSimGroup(map[string]int32{}), versions: map[string]Member{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
	})
}

type script struct {
	*simGroup
	versions map[string]Member
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "topics":
		for _, a := range d.CmdArgs {
			s.topics[a.Key] = int32(number(t, a.Vals[0]))
		}
	case "topology":
		v := Member{Fingerprint: uint64(len(s.versions) + 1), Guarantee: 1}
		for _, a := range d.CmdArgs[1:] {
			v.Since = number(t, a.Vals[0])
		}
		for line := range strings.Lines(d.Input) {
			f := strings.Fields(line)
			spec := SubtopologySpec{Name: f[0], Hash: uint64(number(t, f[1])), Sources: strings.Split(f[2], ","), Stateful: true}
			for _, word := range f[3:] {
				if n, ok := strings.CutPrefix(word, "tasks="); ok {
					spec.Tasks = int32(number(t, n))
				} else {
					spec.Stateful = word != "stateless"
				}
			}
			v.Subtopologies = append(v.Subtopologies, spec)
		}
		s.versions[name] = v
	case "join":
		v, ok := s.versions[d.CmdArgs[1].Key]
		if !ok {
			t.Fatalf("%s: no topology %s", d.Pos, d.CmdArgs[1].Key)
		}
		v.Instance, v.Workers = name, 1
		for _, a := range d.CmdArgs[2:] {
			n := number(t, a.Vals[0])
			switch a.Key {
			case "workers":
				v.Workers = int(n)
			case "capacity":
				v.Capacity = int(n)
			case "guarantee":
				v.Guarantee = uint8(n)
			case "since":
				v.Since = n
			}
		}
		s.join(Joined{ID: name, Member: v})
	case "leave":
		delete(s.members, name)
	case "deaf", "hear":
		s.members[name].deaf = d.Cmd == "deaf"
	case "garbled":
		s.members[name].Err = fmt.Errorf("garbled")
	case "disk":
		for _, a := range d.CmdArgs[1:] {
			sub, n, _ := strings.Cut(a.Key, "/")
			s.members[name].disk[processor.TaskID{Subtopology: sub, Partition: int32(number(t, n))}] = number(t, a.Vals[0])
		}
	case "claim":
		m := s.members[name]
		m.Claims = nil
		for _, a := range d.CmdArgs[1:] {
			if a.Key == "gen" {
				m.Generation = int32(number(t, a.Vals[0]))
				s.generation = max(s.generation, m.Generation)
				continue
			}
			topic, n, _ := strings.Cut(a.Key, "/")
			m.Claims = append(m.Claims, Partition{topic, int32(number(t, n))})
		}
	case "rebalance":
		before := s.owners()
		p, err := s.rebalance()
		if err != nil {
			return err.Error()
		}
		return s.print(p, before)
	case "settle":
		before := s.owners()
		n, err := s.settle()
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%d rebalances\n", n) + s.print(s.plan, before)
	default:
		t.Fatalf("%s: what is %s?", d.Pos, d.Cmd)
	}
	return ""
}

// print shows a plan: per member the number of its tasks, the tasks in short, and which are new to it.
func (s *script) print(p Plan, before map[processor.TaskID]string) string {
	var b strings.Builder
	if p.Refused != nil {
		fmt.Fprintf(&b, "refused %v\n", p.Refused)
	}
	for _, a := range p.Members {
		fmt.Fprintf(&b, "%s %d:%s", a.Member, len(a.Tasks), short(a.Tasks))
		var fresh []processor.TaskID
		for _, t := range a.Tasks {
			if before[t] != a.Member {
				fresh = append(fresh, t)
			}
		}
		switch {
		case len(fresh) == 0:
		case len(fresh) == len(a.Tasks):
			b.WriteString("  (all new)")
		default:
			fmt.Fprintf(&b, "  (new:%s)", short(fresh))
		}
		if len(a.Tasks) == 0 && len(a.Partitions) > 0 {
			fmt.Fprintf(&b, " keeps %v", a.Partitions)
		}
		b.WriteString("\n")
	}
	for _, w := range p.Withheld {
		fmt.Fprintf(&b, "withheld %s from %s to %s\n", w.Task, strings.Join(w.From, ","), w.To)
	}
	for _, u := range p.Unassigned {
		if u.Task.Partition < 0 {
			fmt.Fprintf(&b, "nobody else %s: %s\n", u.Task.Subtopology, u.Reason)
			continue
		}
		fmt.Fprintf(&b, "nobody %s: %s\n", u.Task, u.Reason)
	}
	names := slices.Sorted(maps.Keys(s.versions))
	if len(names) > 1 {
		for _, n := range names {
			if s.versions[n].Fingerprint == p.Winner {
				fmt.Fprintf(&b, "topology %s\n", n)
			}
		}
	}
	return b.String()
}

// short prints tasks as " counts/0-3,5 other/1".
func short(tasks []processor.TaskID) string {
	var b strings.Builder
	for i := 0; i < len(tasks); {
		j := i
		for j+1 < len(tasks) && tasks[j+1].Subtopology == tasks[i].Subtopology && tasks[j+1].Partition == tasks[j].Partition+1 {
			j++
		}
		if i > 0 && tasks[i-1].Subtopology == tasks[i].Subtopology {
			b.WriteString("," + strconv.Itoa(int(tasks[i].Partition)))
		} else {
			b.WriteString(" " + tasks[i].String())
		}
		if j > i {
			b.WriteString("-" + strconv.Itoa(int(tasks[j].Partition)))
		}
		i = j + 1
	}
	return b.String()
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
