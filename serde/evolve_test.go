package serde

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/fault"
)

type (
	paymentV1 struct{ Card string }
	paymentV2 struct {
		Card  string
		Cents int64
	}
	paymentV3 struct {
		Card  string
		Cents int64
		From  string // which version it was upgraded from
	}
)

func oneToTwo(p paymentV1) (paymentV2, error) {
	if p.Card == "refused" {
		return paymentV2{}, errors.New("no such card")
	}
	return paymentV2{p.Card, 100}, nil
}

func twoToThree(p paymentV2) (paymentV3, error) {
	return paymentV3{p.Card, p.Cents + 1, "2"}, nil
}

// chained goes 1 -> 2 -> 3, flat goes 1 -> 3 and 2 -> 3.
func chained() Serde[paymentV3] {
	return Evolve(3, JSON[paymentV3](), From(2, Evolve(2, JSON[paymentV2](), From(1, JSON[paymentV1](), oneToTwo)), twoToThree))
}

func flat() Serde[paymentV3] {
	return Evolve(3, JSON[paymentV3](), From(2, JSON[paymentV2](), twoToThree),
		From(1, JSON[paymentV1](), func(p paymentV1) (paymentV3, error) { return paymentV3{p.Card, 7, "1"}, nil }))
}

func TestEvolve(t *testing.T) {
	for _, c := range []struct {
		name    string
		serde   Serde[paymentV3]
		version uint16
		src     string
		want    paymentV3
	}{
		{"today's", chained(), 3, `{"Card":"a","Cents":5,"From":"x"}`, paymentV3{"a", 5, "x"}},
		{"one step", chained(), 2, `{"Card":"a","Cents":5}`, paymentV3{"a", 6, "2"}},
		{"two steps", chained(), 1, `{"Card":"a"}`, paymentV3{"a", 101, "2"}},
		{"straight", flat(), 1, `{"Card":"a"}`, paymentV3{"a", 7, "1"}},
		{"straight from 2", flat(), 2, `{"Card":"a","Cents":5}`, paymentV3{"a", 6, "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.serde.(Versioned[paymentV3]).DecodeVersion([]byte(c.src), c.version)
			if err != nil || got != c.want {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
			d := NewDecoder(c.serde)
			if got, err = d.DecodeVersion([]byte(c.src), c.version); err != nil || got != c.want || d.Version() != 3 {
				t.Errorf("by a decoder of version %d: %+v, %v, want %+v", d.Version(), got, err, c.want)
			}
		})
	}
	want := []Form{{1, "json:paymentV1"}, {2, "json:paymentV2"}, {3, "json:paymentV3"}}
	for _, s := range []Serde[paymentV3]{chained(), flat()} {
		if got := Forms(s); !slices.Equal(got, want) || ID(s) != "json:paymentV3" {
			t.Errorf("forms %v, id %s", got, ID(s))
		}
		roundTrip(t, s, paymentV3{"4711", 9, "now"}, equal)
		if err := Usable(s, StoreValue); err != nil {
			t.Error(err)
		}
	}
	if got := Forms(Int64()); !slices.Equal(got, []Form{{1, "int64"}}) {
		t.Errorf("a codec without Evolve has the forms %v", got)
	}
	gaps := Evolve(9, String(), From(4, Int64(), func(v int64) (string, error) { return strconv.FormatInt(v, 10), nil }))
	if got, err := NewDecoder(gaps).DecodeVersion([]byte{0, 0, 0, 0, 0, 0, 0, 5}, 4); err != nil || got != "5" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEvolveWithNull(t *testing.T) {
	up := func(p *paymentV1) (*paymentV2, error) { return &paymentV2{p.Card, 1}, nil }
	s := Evolve(2, Optional(JSON[paymentV2]()), From(1, Optional(JSON[paymentV1]()), up))
	if n, ok := s.(Nullable[*paymentV2]); !ok || !n.IsNull(nil) || n.IsNull(&paymentV2{}) {
		t.Error("null got lost")
	}
	if _, ok := chained().(Nullable[paymentV3]); ok {
		t.Error("null came from nowhere")
	}
	got, err := NewDecoder(s).DecodeVersion([]byte(`{"Card":"a"}`), 1)
	if err != nil || *got != (paymentV2{"a", 1}) {
		t.Errorf("%v, %v", got, err)
	}
	// The other way round.
	o := Optional(Evolve(2, JSON[paymentV2](), From(1, JSON[paymentV1](), oneToTwo)))
	if got, err = NewDecoder(o).DecodeVersion([]byte(`{"Card":"a"}`), 1); err != nil || *got != (paymentV2{"a", 100}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err = NewDecoder(o).DecodeVersion([]byte(`{"Card":"a"}`), 2); err != nil || *got != (paymentV2{"a", 0}) {
		t.Errorf("%v, %v", got, err)
	}
	if f := Forms(o); !slices.Equal(f, []Form{{1, "optional:json:paymentV1"}, {2, "optional:json:paymentV2"}}) {
		t.Errorf("forms %v", f)
	}
	if err := Usable(o, StoreKey); fault.Code(err) != "serde/place" {
		t.Error(err)
	}
}

// What a value decoded by a Decoder holds on to is its own, for every version.
func TestEvolveKeeps(t *testing.T) {
	d := NewDecoder(Evolve(2, Bytes(), From(1, Bytes(), func(b []byte) ([]byte, error) { return b, nil })))
	for _, version := range []uint16{1, 2} {
		src := []byte("kept")
		v, err := d.DecodeVersion(src, version)
		clear(src)
		if err != nil || string(v) != "kept" {
			t.Errorf("version %d: %q, %v", version, v, err)
		}
	}
}

func TestEvolveRefuses(t *testing.T) {
	same := func(v int64) (int64, error) { return v, nil }
	_, upgrade := NewDecoder(chained()).DecodeVersion([]byte(`{"Card":"refused"}`), 1)
	_, older := NewDecoder(chained()).DecodeVersion([]byte(`not JSON`), 2)
	_, newer := NewDecoder(chained()).DecodeVersion(nil, 4)
	_, gone := NewDecoder(Evolve(3, Int64(), From(2, Int64(), same))).DecodeVersion(nil, 1)
	_, plain := NewDecoder(Int64()).DecodeVersion(nil, 2)
	_, optional := NewDecoder(Optional(Int64())).DecodeVersion(nil, 2)
	misdeclared := func(s Serde[int64]) error {
		_, err1 := s.Append(nil, 1)
		_, err2 := s.Decode(make([]byte, 8))
		_, err3 := NewDecoder(s).DecodeVersion(make([]byte, 8), 1)
		if err := Usable(s, StoreValue); err1 == nil || err2 == nil || err3 == nil {
			t.Errorf("%v, yet it works: %v, %v, %v", err, err1, err2, err3)
		}
		_ = ID(s)
		_ = Forms(s)
		return Usable(s, StoreValue)
	}
	for _, c := range []struct {
		name string
		err  error
		code string
		says string
	}{
		{"upgrade fails", upgrade, "serde/upgrade", "no such card"},
		{"old bytes are damaged", older, "serde/decode", "json:paymentV2"},
		{"written by a newer program", newer, "serde/version", "run that one"},
		{"no way from it", gone, "serde/version", "this program reads version 2 (int64), version 3 (int64)"},
		{"never evolved", plain, "serde/version", `"version 2"`},
		{"never evolved, optional", optional, "serde/version", `"version 2"`},
		{"no codec", misdeclared(Evolve[int64](2, nil)), "serde/evolution", "no serde"},
		{"version 0", misdeclared(Evolve(0, Int64())), "serde/evolution", "begin with 1"},
		{"not older", misdeclared(Evolve(2, Int64(), From(2, Int64(), same))), "serde/evolution", "not older than version 2"},
		{"old version 0", misdeclared(Evolve(2, Int64(), From(0, Int64(), same))), "serde/evolution", "not older"},
		{"twice", misdeclared(Evolve(3, Int64(), From(1, Int64(), same), From(1, Int64(), same))), "serde/evolution", "twice"},
		{"no function", misdeclared(Evolve(2, Int64(), From[int64, int64](1, Int64(), nil))), "serde/evolution", "no function"},
		{"nested with another number", misdeclared(Evolve(4, Int64(), From(3, Evolve(2, Int64(), From(1, Int64(), same)), same))), "serde/evolution", "calls itself version 2"},
		{"today's is evolved", misdeclared(Evolve(3, Evolve(2, Int64(), From(1, Int64(), same)))), "serde/evolution", "already"},
		{"key of a store", Usable(chained(), StoreKey), "serde/place", "key of a store"},
		{"key of a topic", Usable(chained(), TopicKey), "serde/place", "key of a topic"},
		{"value of a topic", Usable(chained(), TopicValue), "serde/place", "no version"},
	} {
		if fault.Code(c.err) != c.code || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%s: %v, want %s that says %s", c.name, c.err, c.code, c.says)
		}
	}
}

func FuzzEvolve(f *testing.F) {
	f.Add([]byte(`{"Card":"a"}`), uint16(1))
	f.Add([]byte(`{"Card":"a","Cents":5}`), uint16(2))
	f.Add([]byte(nil), uint16(65535))
	d := NewDecoder(chained())
	f.Fuzz(func(t *testing.T, src []byte, version uint16) {
		if _, err := d.DecodeVersion(src, version); err != nil && !strings.HasPrefix(fault.Code(err), "serde/") {
			t.Fatal(err)
		}
	})
}

func TestDecodeVersionAllocates(t *testing.T) {
	d := NewDecoder(Evolve(2, Int64(), From(1, Int64(), func(v int64) (int64, error) { return v, nil })))
	src := make([]byte, 8)
	if n := testing.AllocsPerRun(1000, func() { _, _ = d.DecodeVersion(src, 2); _, _ = d.DecodeVersion(src, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
