package assign

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
)

func sampleMember() Member {
	return Member{
		Instance: "cart-1", Address: "10.0.0.7:7400", Workers: 4, Capacity: 200, Guarantee: 1,
		Fingerprint: 0x1122334455667788, Since: 1_700_000_000_000,
		Known: []Version{{Fingerprint: 7, Since: 9}, {Fingerprint: 5, Since: 3}},
		Subtopologies: []SubtopologySpec{
			{Name: "counts", Hash: 0xfeed, Sources: []string{"app-by-word-repartition"}, Stateful: true, Tasks: 12},
			{Name: "lines", Hash: 0xbeef, Sources: []string{"a", "b"}},
		},
		Positions: []Position{{processor.TaskID{Subtopology: "counts", Partition: 0}, 1}, {processor.TaskID{Subtopology: "counts", Partition: 11}, 1 << 40}, {processor.TaskID{Subtopology: "other", Partition: 3}, 77}},
		Promised:  []processor.TaskID{{Subtopology: "counts", Partition: 4}, {Subtopology: "lines", Partition: 0}},
	}
}

func sampleEcho() Echo {
	return Echo{
		Generation: 42, Winner: 5, Versions: []Version{{Fingerprint: 5, Since: 3}},
		Instances: []Instance{{Name: "cart-1", Address: "h:1", Workers: 4}, {Name: "cart-2", Workers: 1}},
		Withheld:  3, Unassigned: 1, Promised: []processor.TaskID{{Subtopology: "counts", Partition: 4}},
		Refused: &fault.Error{Code: "group/mixed-guarantees", Kind: fault.Config, Thing: "instances", Value: "a; b", Reason: "because", Remedy: "do"},
	}
}

func TestMemberRoundTrip(t *testing.T) {
	for _, m := range []Member{sampleMember(), {Workers: 1}} {
		got, err := parseMember(appendMember(nil, &m))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v\nbecame %+v\n%v", m, got, err)
		}
	}
}

func TestEchoRoundTrip(t *testing.T) {
	for _, e := range []Echo{sampleEcho(), {Generation: -1}} {
		got, err := parseEcho(appendEcho(nil, &e))
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%+v\nbecame %+v\n%v", e, got, err)
		}
	}
}

// TestMemberBytes holds the layout to the page that draws it.
func TestMemberBytes(t *testing.T) {
	m := Member{
		Instance: "i", Workers: 2, Guarantee: 1, Fingerprint: 0xf1, Since: 256, Known: []Version{{0xf0, 1}},
		Subtopologies: []SubtopologySpec{{Name: "s", Hash: 0xab, Sources: []string{"t"}, Stateful: true, Tasks: 3}},
		Positions:     []Position{{processor.TaskID{Subtopology: "s", Partition: 2}, 300}},
		Promised:      []processor.TaskID{{Subtopology: "s", Partition: 1}},
	}
	want := "01 01 01 02 00 00000000000000f1 0000000000000100 01 69 00" +
		" 01 00000000000000f0 0000000000000001" +
		" 01 01 73 00000000000000ab 01 03 01 01 74" +
		" 01 01 73 01 02 ac02" +
		" 01 01 73 01 01"
	if got := hex.EncodeToString(appendMember(nil, &m)); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got  %s\nwant %s", got, strings.ReplaceAll(want, " ", ""))
	}
}

// TestMemberBytesDoNotDependOnOrder: the brokers take other bytes for another member, and start a rebalance.
func TestMemberBytesDoNotDependOnOrder(t *testing.T) {
	m := sampleMember()
	want := appendMember(nil, &m)
	r := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		r.Shuffle(len(m.Known), func(i, j int) { m.Known[i], m.Known[j] = m.Known[j], m.Known[i] })
		r.Shuffle(len(m.Subtopologies), func(i, j int) {
			m.Subtopologies[i], m.Subtopologies[j] = m.Subtopologies[j], m.Subtopologies[i]
		})
		r.Shuffle(len(m.Positions), func(i, j int) { m.Positions[i], m.Positions[j] = m.Positions[j], m.Positions[i] })
		r.Shuffle(len(m.Promised), func(i, j int) { m.Promised[i], m.Promised[j] = m.Promised[j], m.Promised[i] })
		if got := appendMember(nil, &m); !bytes.Equal(got, want) {
			t.Fatalf("other bytes for the same member:\n%x\n%x", got, want)
		}
	}
}

// TestVersions: a later version may append fields, and says from which version on it can be read.
func TestVersions(t *testing.T) {
	m := sampleMember()
	good := appendMember(nil, &m)
	later := append([]byte{2, 1}, good[2:]...)
	later = append(later, "a field of version 2"...)
	if got, err := parseMember(later); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("version 2, readable by 1: %+v, %v", got, err)
	}
	for _, head := range [][]byte{{2, 2}, {0, 0}, {1, 0}, {0, 1}} {
		if _, err := parseMember(append(head, good[2:]...)); err == nil {
			t.Errorf("%v was read", head)
		}
	}
}

// TestCutShort cuts both kinds of user data at every byte.
func TestCutShort(t *testing.T) {
	m, e := sampleMember(), sampleEcho()
	member, echo := appendMember(nil, &m), appendEcho(nil, &e)
	for n := range member {
		if _, err := parseMember(member[:n]); err == nil {
			t.Errorf("%d of %d bytes of a member were read", n, len(member))
		}
	}
	for n := range echo {
		if _, err := parseEcho(echo[:n]); err == nil {
			t.Errorf("%d of %d bytes of an echo were read", n, len(echo))
		}
	}
}

// TestCountsAreBounded: a count that the bytes cannot hold allocates nothing.
func TestCountsAreBounded(t *testing.T) {
	head := []byte{1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if _, err := parseMember(append(bytes.Clone(head), 0, 0, 0, 0)); err != nil {
		t.Fatalf("the smallest member: %v", err)
	}
	for _, tail := range []string{
		"\xff\xff\x03",                  // versions
		"\x00\xff\xff\x03",              // subtopologies
		"\x00\x00\xff\xff\x03",          // groups of positions
		"\x00\x00\x01\x01s\xff\xff\x03", // positions
		"\x00\x00\x00\xff\xff\x03",      // groups of promises
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		if _, err := parseMember(append(bytes.Clone(head), tail...)); err == nil {
			t.Errorf("%q was read", tail)
		}
	}
	if _, err := parseMember(make([]byte, maxUserData+1)); err == nil {
		t.Error("more than the limit was read")
	}
}

func TestLives(t *testing.T) {
	e := sampleEcho()
	if !e.Lives("cart-1") || !e.Lives("cart-2") || e.Lives("cart-3") || e.Lives("") {
		t.Errorf("%v", e.Instances)
	}
}

// FuzzMember: whatever a member sends, reading it ends in an error or in a member that is written and read again as itself; and a
// plan can be made with it.
func FuzzMember(f *testing.F) {
	m := sampleMember()
	f.Add(appendMember(nil, &m))
	f.Add(appendMember(nil, &Member{}))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMember(data)
		if err != nil {
			return
		}
		again, err := parseMember(appendMember(nil, &m))
		if err != nil {
			t.Fatalf("%+v is read and cannot be read again: %v", m, err)
		}
		if b := appendMember(nil, &again); !bytes.Equal(b, appendMember(nil, &m)) {
			t.Fatalf("%x\n%x", b, appendMember(nil, &m))
		}
		good := sampleMember()
		in := Input{Topics: map[string]int32{"a": 2, "b": 2, "app-by-word-repartition": 3}, Members: []Joined{
			{ID: "good", Member: good, Generation: 3, Claims: []Partition{{"a", 0}, {"b", 0}, {"app-by-word-repartition", 1}}},
			{ID: "strange", Member: m, Generation: 3, Claims: []Partition{{"a", 1}, {"app-by-word-repartition", 1}}},
		}}
		p := Assign(in)
		given := map[Partition]bool{}
		for _, a := range p.Members {
			for _, tp := range a.Partitions {
				if given[tp] {
					t.Fatalf("%s twice in %+v", tp, p)
				}
				given[tp] = true
			}
		}
	})
}

// FuzzEcho is FuzzMember for what leaders send.
func FuzzEcho(f *testing.F) {
	e := sampleEcho()
	f.Add(appendEcho(nil, &e))
	f.Add(appendEcho(nil, &Echo{}))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEcho(data)
		if err != nil {
			return
		}
		again, err := parseEcho(appendEcho(nil, &e))
		if err != nil {
			t.Fatalf("%+v is read and cannot be read again: %v", e, err)
		}
		if b := appendEcho(nil, &again); !bytes.Equal(b, appendEcho(nil, &e)) {
			t.Fatalf("%x\n%x", b, appendEcho(nil, &e))
		}
	})
}
