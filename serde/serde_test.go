package serde

import (
	"bytes"
	"cmp"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
)

// roundTrip checks that v comes back, that the encoding is appended, and that it is always the same.
func roundTrip[T any](t *testing.T, s Serde[T], v T, same func(a, b T) bool) {
	t.Helper()
	raw, err := s.Append([]byte("kept"), v)
	if err != nil {
		t.Fatalf("%s: append %v: %v", ID(s), v, err)
	}
	if !bytes.HasPrefix(raw, []byte("kept")) {
		t.Fatalf("%s: append overwrote what was there: %q", ID(s), raw)
	}
	again, _ := s.Append(nil, v)
	if !bytes.Equal(raw[4:], again) {
		t.Fatalf("%s: %v is % x and then % x", ID(s), v, raw[4:], again)
	}
	got, err := s.Decode(raw[4:])
	if err != nil || !same(got, v) {
		t.Fatalf("%s: %v came back as %v, %v", ID(s), v, got, err)
	}
	for i := range raw {
		raw[i] = 0xAA
	}
	if !same(got, v) {
		t.Fatalf("%s: the decoded value changed with the bytes it was read from", ID(s))
	}
}

// sorts checks that the store form of two values compares as they do, and comes back.
func sorts[T any](t *testing.T, s Serde[T], a, b T, want int, same func(a, b T) bool) {
	t.Helper()
	o, ok := s.(Ordered[T])
	if !ok {
		t.Fatalf("%s is not Ordered", ID(s))
	}
	x, err1 := o.AppendOrdered(nil, a)
	y, err2 := o.AppendOrdered(nil, b)
	if err1 != nil || err2 != nil || bytes.Compare(x, y) != want {
		t.Fatalf("%s: %v and %v are % x and % x, want %d (%v, %v)", ID(s), a, b, x, y, want, err1, err2)
	}
	if got, err := o.DecodeOrdered(x); err != nil || !same(got, a) {
		t.Fatalf("%s: %v came back as %v, %v", ID(s), a, got, err)
	}
}

func equal[T comparable](a, b T) bool { return a == b }

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

func FuzzNumbers(f *testing.F) {
	for _, v := range []int64{0, 1, -1, math.MinInt64, math.MaxInt64, 1 << 31, -1 << 31} {
		f.Add(v, 1-v, float64(v), 0.5)
	}
	f.Add(int64(1), int64(2), math.Inf(1), math.NaN())
	f.Fuzz(func(t *testing.T, a, b int64, x, y float64) {
		roundTrip(t, Int64(), a, equal)
		sorts(t, Int64(), a, b, cmp.Compare(a, b), equal)
		roundTrip(t, Int32(), int32(a), equal)
		sorts(t, Int32(), int32(a), int32(b), cmp.Compare(int32(a), int32(b)), equal)
		roundTrip(t, Float64(), x, sameBits)
		want := cmp.Compare(x, y)
		if (x != x) != (y != y) {
			want = -want // NaN is last here
		}
		sorts(t, Float64(), x, y, want, func(a, b float64) bool { return cmp.Compare(a, b) == 0 })
		roundTrip(t, Bool(), a > b, equal)
		const span = int64(9e15) // milliseconds that time.Time shows without overflow
		s, e := time.UnixMilli(a%span).UTC(), time.UnixMilli(b%span).UTC()
		roundTrip(t, Time(), s, time.Time.Equal)
		sorts(t, Time(), s, e, s.Compare(e), time.Time.Equal)
		roundTrip(t, Optional(Int64()), &a, func(p, q *int64) bool { return *p == *q })
		sorts(t, Optional(Int64()), &a, &b, cmp.Compare(a, b), func(p, q *int64) bool { return *p == *q })
	})
}

func FuzzText(f *testing.F) {
	f.Add("", "b")
	f.Add("grün", "\xff\xfe is not UTF-8")
	f.Add("a\x00b", "a")
	f.Fuzz(func(t *testing.T, a, b string) {
		roundTrip(t, String(), a, equal)
		roundTrip(t, Bytes(), []byte(a), bytes.Equal)
		roundTrip(t, Optional(String()), &a, func(p, q *string) bool { return *p == *q })
		sorts(t, Optional(String()), &a, &b, strings.Compare(a, b), func(p, q *string) bool { return *p == *q })
	})
}

type payment struct {
	Card   string             `json:"card"`
	Cents  int64              `json:"cents"`
	Tags   map[string]float64 `json:"tags,omitempty"`
	hidden int
}

func FuzzJSON(f *testing.F) {
	f.Add("4711", int64(-5), "a<b>&c", 1.5)
	f.Fuzz(func(t *testing.T, card string, cents int64, tag string, x float64) {
		card, tag = strings.ToValidUTF8(card, "?"), strings.ToValidUTF8(tag, "?")
		if x != x || math.IsInf(x, 0) {
			x = 0
		}
		p := payment{Card: card, Cents: cents, Tags: map[string]float64{tag: x, "z": 1, "a": 2}}
		roundTrip(t, JSON[payment](), p, func(a, b payment) bool {
			return a.Card == b.Card && a.Cents == b.Cents && len(a.Tags) == len(b.Tags) && a.Tags[tag] == b.Tags[tag] && a.hidden == b.hidden
		})
	})
}

// FuzzDecode feeds garbage to every codec: an error of this package, or a value; never a panic, never a payload in the text.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{2})
	f.Add([]byte(`{"card":7}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		check := func(err error) {
			if err != nil && !strings.HasPrefix(fault.Code(err), "serde/") {
				t.Fatalf("% x: %v", src, err)
			}
		}
		_, err := Int32().Decode(src)
		check(err)
		_, err = Int64().Decode(src)
		check(err)
		_, err = Float64().Decode(src)
		check(err)
		_, err = Bool().Decode(src)
		check(err)
		_, err = Time().Decode(src)
		check(err)
		_, err = JSON[payment]().Decode(src)
		check(err)
		_, err = Optional(Int64()).Decode(src)
		check(err)
		for _, s := range []Ordered[int64]{Int64().(Ordered[int64])} {
			_, err = s.DecodeOrdered(src)
			check(err)
		}
	})
}

func TestJavaForms(t *testing.T) {
	raw, _ := Int64().Append(nil, -2)
	if !bytes.Equal(raw, []byte{255, 255, 255, 255, 255, 255, 255, 254}) {
		t.Errorf("int64 -2 is % x", raw)
	}
	raw, _ = Int32().Append(nil, 258)
	if !bytes.Equal(raw, []byte{0, 0, 1, 2}) {
		t.Errorf("int32 258 is % x", raw)
	}
	raw, _ = Float64().Append(nil, -1.5)
	if !bytes.Equal(raw, []byte{0xBF, 0xF8, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("float64 -1.5 is % x", raw)
	}
	raw, _ = JSON[payment]().Append(nil, payment{Card: "<4711>", Cents: 5})
	if string(raw) != `{"card":"<4711>","cents":5}` {
		t.Errorf("JSON is %s", raw)
	}
}

func TestErrorsSayWhatWasExpected(t *testing.T) {
	optional := Optional(String())
	for _, c := range []struct {
		name string
		err  func() error
		want string
	}{
		{"short", func() error { _, err := Int64().Decode([]byte("abc")); return err },
			`serde/length: int64 "3 bytes": expected exactly 8 bytes; check that the writer of these bytes uses the same codec`},
		{"one byte", func() error { _, err := Int32().Decode([]byte("a")); return err },
			`serde/length: int32 "1 byte": expected exactly 4 bytes; check that the writer of these bytes uses the same codec`},
		{"long key", func() error { _, err := Int64().(Ordered[int64]).DecodeOrdered(make([]byte, 9)); return err },
			`serde/length: int64 key "9 bytes": expected exactly 8 bytes; check that the writer of these bytes uses the same codec`},
		{"bool", func() error { _, err := Bool().Decode([]byte{7}); return err },
			`serde/value: bool: its byte is neither 0 nor 1; check that the writer of these bytes uses the same codec`},
		{"year", func() error { _, err := Time().Append(nil, time.Unix(math.MaxInt64/2, 0)); return err },
			`serde/range: time: its milliseconds since 1970 do not fit an int64`},
		{"nil", func() error { _, err := optional.Append(nil, nil); return err },
			`serde/null: optional: nil stands for null, which has no bytes; write a null instead, or a pointer to a value`},
		{"no JSON", func() error { _, err := JSON[payment]().Decode([]byte(`{"card":secret}`)); return err },
			`serde/decode: json:payment "15 bytes": not JSON: the text breaks at byte 9`},
		{"empty JSON", func() error { _, err := JSON[payment]().Decode(nil); return err },
			`serde/decode: json:payment "0 bytes": no bytes are no JSON text`},
		{"other JSON", func() error { _, err := JSON[payment]().Decode([]byte(`{"cents":"secret"}`)); return err },
			`serde/decode: json:payment "18 bytes": field cents at byte 17 does not fit the Go type int64`},
		{"no JSON form", func() error { _, err := JSON[float64]().Append(nil, math.NaN()); return err },
			`serde/encode: json:float64: the value has no JSON form: json: unsupported value: NaN`},
	} {
		err := c.err()
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.name, err, c.want)
		}
	}
}

type plain struct{}

func (plain) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }
func (plain) Decode(src []byte) (string, error)           { return string(src), nil }

func TestID(t *testing.T) {
	for want, got := range map[string]string{
		"string": ID(String()), "bytes": ID(Bytes()), "int32": ID(Int32()), "int64": ID(Int64()), "float64": ID(Float64()),
		"bool": ID(Bool()), "time-ms": ID(Time()), "json:payment": ID(JSON[payment]()), "json:*payment": ID(JSON[*payment]()),
		"json:map[string]int": ID(JSON[map[string]int]()), "optional:int64": ID(Optional(Int64())), "serde.plain": ID(Serde[string](plain{})),
	} {
		if got != want {
			t.Errorf("id %q, want %q", got, want)
		}
	}
}

func TestOptionalIsNull(t *testing.T) {
	n := Optional(Int64()).(Nullable[*int64])
	zero := int64(0)
	if !n.IsNull(nil) || n.IsNull(&zero) {
		t.Errorf("null: nil %v, pointer to zero %v", n.IsNull(nil), n.IsNull(&zero))
	}
}
