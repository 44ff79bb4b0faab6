package oracle

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The world of these tests: an input of 2 partitions whose keys a, b (partition 0) and c (partition 1) come in turns, and
// the outputs a right application makes of it. Each test then damages one of them and requires the check to object.

const perPartition = 25

func input() *Log {
	l := &Log{Topic: "in", Partitions: make([]Partition, 2)}
	for i := range perPartition {
		l.Partitions[0].Records = append(l.Partitions[0].Records, Record{Offset: int64(i), Key: []byte(string("ab"[i%2])), Value: be32(i)})
		l.Partitions[1].Records = append(l.Partitions[1].Records, Record{Offset: int64(i), Key: []byte("c"), Value: be32(i)})
	}
	return end(l)
}

// audit is the running count of each key, with origins, with a hole in the offsets after every third record as
// transaction markers make it.
func audit(in *Log) *Log {
	out := &Log{Topic: "audit", Partitions: make([]Partition, len(in.Partitions))}
	for p := range in.Partitions {
		count := make(map[string]int)
		offset := int64(0)
		for i, r := range in.Partitions[p].Records {
			count[string(r.Key)]++
			out.Partitions[p].Records = append(out.Partitions[p].Records, Record{
				Offset: offset, Key: r.Key, Value: be64(count[string(r.Key)]), Headers: origin(in.Topic, p, r.Offset),
			})
			offset++
			if i%3 == 2 {
				offset++
			}
		}
	}
	return end(out)
}

func every(n int, a *Log) *Log {
	out := &Log{Topic: "out", Partitions: make([]Partition, len(a.Partitions))}
	for p := range a.Partitions {
		for _, r := range a.Partitions[p].Records {
			if binary.BigEndian.Uint64(r.Value)%uint64(n) == 0 {
				out.Partitions[p].Records = append(out.Partitions[p].Records, r)
			}
		}
	}
	return end(out)
}

func end(l *Log) *Log {
	for p := range l.Partitions {
		part := &l.Partitions[p]
		if n := len(part.Records); n > 0 {
			part.Stable = part.Records[n-1].Offset + 2 // a marker
		}
		part.High = part.Stable
	}
	return l
}

func origin(topic string, p int, offset int64) []kgo.RecordHeader {
	return []kgo.RecordHeader{
		{Key: "unrelated", Value: []byte("x")},
		{Key: HeaderTopic, Value: []byte(topic)},
		{Key: HeaderPartition, Value: []byte(strconv.Itoa(p))},
		{Key: HeaderOffset, Value: []byte(strconv.FormatInt(offset, 10))},
	}
}

func be32(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func be64(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func running(n int64, _ []byte) (int64, []byte, bool) {
	return n + 1, binary.BigEndian.AppendUint64(nil, uint64(n+1)), true
}

// damages are what can go wrong with a topic of outputs.
var damages = []struct {
	name string
	do   func(l *Log)
}{
	{"the tail of a partition is missing", func(l *Log) {
		r := &l.Partitions[0].Records
		*r = (*r)[:len(*r)-1]
	}},
	{"a record in the middle is missing", func(l *Log) {
		r := &l.Partitions[1].Records
		*r = slices.Delete(*r, 1, 2)
	}},
	{"everything of a partition is missing", func(l *Log) { l.Partitions[1].Records = nil }},
	{"a record is there twice", func(l *Log) {
		r := &l.Partitions[0].Records
		*r = slices.Insert(*r, 1, (*r)[0])
	}},
	{"a record is there again at the end", func(l *Log) {
		r := &l.Partitions[0].Records
		*r = append(*r, (*r)[0])
	}},
	{"two records of a key have changed places", func(l *Log) {
		r := l.Partitions[1].Records
		r[0], r[1] = r[1], r[0]
	}},
	{"a record is there that nothing asked for", func(l *Log) {
		r := &l.Partitions[1].Records
		*r = append(*r, Record{Offset: 1000, Key: []byte("c"), Value: be64(1000), Headers: origin("in", 1, 1000)})
	}},
}

func TestDamageIsSeen(t *testing.T) {
	checks := []struct {
		name  string
		check func(in, out *Log) *Verdict
		out   func(in *Log) *Log
	}{
		{"Provenance", Provenance, audit},
		{"Replay", func(in, out *Log) *Verdict { return Replay(in, out, running) }, audit},
		{"Milestones", func(in, out *Log) *Verdict { return Milestones(in, out, 5) }, func(in *Log) *Log { return every(5, audit(in)) }},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			in := input()
			if v := c.check(in, c.out(in)); !v.OK() {
				t.Fatalf("a right output is refused:\n%s", v)
			}
			for _, d := range damages {
				out := c.out(in)
				d.do(out)
				v := c.check(in, out)
				if v.OK() || v.Wrong == 0 || len(v.First) == 0 {
					t.Errorf("%s: not seen", d.name)
				} else {
					t.Logf("%s:\n%s", d.name, v)
				}
			}
		})
	}
}

func TestProvenanceRefusesStrangeOrigins(t *testing.T) {
	for name, headers := range map[string][]kgo.RecordHeader{
		"no headers":          nil,
		"another topic":       origin("other", 0, 0),
		"no such partition":   origin("in", 2, 0),
		"negative partition":  origin("in", -1, 0),
		"negative offset":     origin("in", 0, -1),
		"not yet committed":   origin("in", 0, perPartition),
		"headers twice":       append(origin("in", 0, 0), origin("in", 0, 0)...),
		"offset is no number": {{Key: HeaderTopic, Value: []byte("in")}, {Key: HeaderPartition, Value: []byte("0")}, {Key: HeaderOffset, Value: []byte("x")}},
	} {
		in := input()
		out := audit(in)
		out.Partitions[0].Records[0].Headers = headers
		if v := Provenance(in, out); v.Wrong != 2 { // the strange one, and the one it should have been
			t.Errorf("%s: %d differences, want 2\n%s", name, v.Wrong, v)
		}
	}
}

func TestOutputBehindTheCommitIsTooMuch(t *testing.T) {
	in := input()
	out := audit(in)
	cut := in.Upto([]int64{10, perPartition})
	if v := Provenance(cut, out); v.Wrong != perPartition-10 {
		t.Errorf("Provenance: %d differences, want %d\n%s", v.Wrong, perPartition-10, v)
	}
	if v := Replay(cut, out, running); v.Wrong != perPartition-10 {
		t.Errorf("Replay: %d differences, want %d\n%s", v.Wrong, perPartition-10, v)
	}
	if v := Milestones(in.Upto([]int64{9, 25}), every(5, out), 5); v.Wrong != 3 {
		t.Errorf("Milestones: %d differences, want 3 (a's 10, b's 5 and 10)\n%s", v.Wrong, v)
	}
}

func TestReplaySkips(t *testing.T) {
	in := input()
	odd := func(n int64, v []byte) (int64, []byte, bool) {
		return n + 1, v, binary.BigEndian.Uint32(v)%2 == 1
	}
	out := &Log{Topic: "odd", Partitions: make([]Partition, 2)}
	for p := range in.Partitions {
		for i, r := range in.Partitions[p].Records {
			if i%2 == 1 {
				out.Partitions[p].Records = append(out.Partitions[p].Records, Record{Offset: int64(i), Key: r.Key, Value: r.Value})
			}
		}
	}
	if v := Replay(in, end(out), odd); !v.OK() {
		t.Error(v)
	}
	out.Partitions = out.Partitions[:1]
	if v := Replay(in, out, odd); v.OK() {
		t.Error("another partition count is not seen")
	}
}

func TestUpto(t *testing.T) {
	in := input()
	for _, c := range []struct {
		offsets []int64
		want    [2]int
	}{
		{nil, [2]int{0, 0}},
		{[]int64{-1, 0}, [2]int{0, 0}},
		{[]int64{3}, [2]int{3, 0}},
		{[]int64{perPartition, perPartition + 50}, [2]int{perPartition, perPartition}},
	} {
		cut := in.Upto(c.offsets)
		if got := [2]int{len(cut.Partitions[0].Records), len(cut.Partitions[1].Records)}; got != c.want {
			t.Errorf("Upto(%v) has %v records, want %v", c.offsets, got, c.want)
		}
	}
}

func TestPartsAndOtherKeys(t *testing.T) {
	in := input()
	even := in.Where(func(r Record) bool { return r.Offset%2 == 0 })
	if n := even.Len(); n != 2*((perPartition+1)/2) || even.Partitions[1].High != in.Partitions[1].High {
		t.Errorf("%d records of even offset, high watermark %d", n, even.Partitions[1].High)
	}
	for _, r := range even.Partitions[0].Records {
		if r.Offset%2 != 0 {
			t.Errorf("offset %d is even", r.Offset)
		}
	}
	one := in.Rekey(func(Record) []byte { return []byte("one") })
	if n := Fold(one, func(n int, _ []byte) int { return n + 1 })["one"]; n != in.Len() {
		t.Errorf("%d records under the one key, want %d", n, in.Len())
	}
	if string(in.Partitions[1].Records[0].Key) != "c" {
		t.Error("the original got other keys")
	}
}

func TestSettled(t *testing.T) {
	right := func() *Log { return audit(input()) }
	if v := Settled(right()); !v.OK() {
		t.Fatal(v)
	}
	for name, damage := range map[string]func(*Partition){
		"an open transaction":                func(p *Partition) { p.High++ },
		"a record at the last stable offset": func(p *Partition) { p.Records[len(p.Records)-1].Offset = p.Stable },
		"a record after the end":             func(p *Partition) { p.Records[len(p.Records)-1].Offset = p.Stable + 10 },
		"offsets out of order":               func(p *Partition) { p.Records[1].Offset = 0 },
	} {
		l := right()
		damage(&l.Partitions[1])
		if v := Settled(l); v.OK() {
			t.Errorf("%s is not seen", name)
		}
	}
	if v := Settled(); v.OK() || v.Err() == nil {
		t.Error("a check of nothing is OK")
	}
}

func TestDrained(t *testing.T) {
	in := input()
	full := []int64{in.Partitions[0].High, in.Partitions[1].High}
	if v := Drained(in, full); !v.OK() {
		t.Error(v)
	}
	for name, offsets := range map[string][]int64{
		"one record is left":     {perPartition - 1, perPartition},
		"a partition is left":    {perPartition},
		"beyond the end":         {perPartition, full[1] + 1},
		"nothing was committed":  {-1, -1},
		"the last one is behind": {perPartition, perPartition - 1},
	} {
		if v := Drained(in, offsets); v.OK() {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestChangelog(t *testing.T) {
	row := func(n int) []byte { return append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 7}, be64(n)...) }
	key := func(b []byte) (string, error) { return string(b), nil }
	value := func(b []byte) (int64, error) {
		if len(b) != 8 {
			return 0, fmt.Errorf("%d bytes", len(b))
		}
		return int64(binary.BigEndian.Uint64(b)), nil
	}
	l := &Log{Topic: "changelog", Partitions: []Partition{{Records: []Record{
		{Offset: 0, Key: []byte("a"), Value: row(1)},
		{Offset: 1, Key: []byte("b"), Value: row(1)},
		{Offset: 2, Key: []byte("a"), Value: row(2)},
		{Offset: 4, Key: []byte("b")},
		{Offset: 5, Key: []byte("c"), Value: append([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8}, be64(3)...)},
	}}}}
	got, v := Changelog(l, key, value)
	if !v.OK() {
		t.Fatal(v)
	}
	want := map[string]int64{"a": 2, "c": 3}
	if v := Same("fold", want, got); !v.OK() {
		t.Fatal(v)
	}
	for name, bad := range map[string][]byte{
		"no header": {1, 0}, "another version": append([]byte{9}, row(1)[1:]...),
		"short access time": {1, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0}, "short value": row(1)[:12], "empty, not null": {},
	} {
		l.Partitions[0].Records[0].Value = bad
		if _, v := Changelog(l, key, value); v.OK() {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestSame(t *testing.T) {
	want := map[string]int64{"a": 1, "b": 2}
	for name, got := range map[string]map[string]int64{
		"a key is missing":      {"a": 1},
		"a value differs":       {"a": 1, "b": 3},
		"a key is too many":     {"a": 1, "b": 2, "c": 0},
		"another key, as many":  {"a": 1, "c": 2},
		"there is nothing here": nil,
	} {
		if v := Same("state", want, got); v.OK() {
			t.Errorf("%s: not seen", name)
		}
	}
	if v := Same("state", map[string]int64{}, nil); v.Err() == nil {
		t.Error("comparing nothing with nothing is OK")
	}
}

func TestCommits(t *testing.T) {
	in := input()
	right := func() []Commit { return []Commit{{25, "e1"}, {25, "e2"}} }
	if v := Commits(in, right(), right()); !v.OK() {
		t.Fatal(v)
	}
	ahead := right()
	ahead[0].Offset, ahead[0].ID = 26, "e9" // over a marker, with an epoch that stepped nothing
	if v := Commits(in, ahead, right()); !v.OK() {
		t.Errorf("a group that is ahead by no record is refused:\n%s", v)
	}
	for name, damage := range map[string]func(group, tasks []Commit){
		"group ahead by a record": func(g, k []Commit) { k[0].Offset = 24 },
		"group behind":            func(g, k []Commit) { g[1].Offset = 24 },
		"another epoch":           func(g, k []Commit) { g[1].ID = "e3" },
		"no task record":          func(g, k []Commit) { k[1] = Commit{Offset: -1} },
		"no group offset":         func(g, k []Commit) { g[1] = Commit{Offset: -1} },
	} {
		g, k := right(), right()
		damage(g, k)
		if v := Commits(in, g, k); v.OK() {
			t.Errorf("%s: not seen", name)
		}
	}
	if v := Commits(in, right()[:1], right()); v.OK() {
		t.Error("a missing partition is not seen")
	}
}

func TestWitnessed(t *testing.T) {
	final := audit(input())
	see := func() (seen []Sighting) {
		for p := range final.Partitions {
			for _, r := range final.Partitions[p].Records[:10] {
				seen = append(seen, Sighting{"audit", int32(p), r, time.Time{}})
			}
		}
		return seen
	}
	if v := Witnessed(final, append(see(), Sighting{Topic: "another"})); !v.OK() || v.Seen != 20 {
		t.Fatal(v)
	}
	for name, damage := range map[string]func([]Sighting) []Sighting{
		"seen and gone":             func(s []Sighting) []Sighting { s[3].Record.Offset = 3; return s }, // 3 is a marker
		"seen with another value":   func(s []Sighting) []Sighting { s[3].Record.Value = be64(99); return s },
		"seen with another key":     func(s []Sighting) []Sighting { s[3].Record.Key = []byte("z"); return s },
		"there and not seen":        func(s []Sighting) []Sighting { return slices.Delete(s, 3, 4) },
		"seen twice":                func(s []Sighting) []Sighting { return slices.Insert(s, 3, s[3]) },
		"seen in an odd partition":  func(s []Sighting) []Sighting { s[3].Partition = 7; return s },
		"seen behind the final end": func(s []Sighting) []Sighting { s[19].Record.Offset = 5000; return s },
	} {
		if v := Witnessed(final, damage(see())); v.OK() {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestVerdictIsShortAndComplete(t *testing.T) {
	in := input()
	v := Provenance(in, &Log{Topic: "audit", Partitions: make([]Partition, 2)})
	if v.Wrong != 2*perPartition || v.Seen != 2*perPartition {
		t.Errorf("counted %d of %d, want all of %d", v.Wrong, v.Seen, 2*perPartition)
	}
	text := v.Err().Error()
	if lines := strings.Count(text, "\n") + 1; lines != 1+shown+1 {
		t.Errorf("%d lines, want %d:\n%s", lines, 1+shown+1, text)
	}
	for _, want := range []string{"WRONG", "50 of 50", `in/0@0 key "a": not in audit (lost)`, "and 42 more"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := (Verdicts{}).Err(); err == nil {
		t.Error("no verdicts at all are OK")
	}
	if vs := (Verdicts{v, Settled(in)}); vs.Wrong() != v.Wrong || vs.Err() == nil || !strings.Contains(vs.String(), "ok     no open transaction") {
		t.Errorf("verdicts together:\n%s", vs)
	}
}
