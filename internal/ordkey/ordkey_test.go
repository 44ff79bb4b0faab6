package ordkey

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"testing"
	"time"
)

// orders checks the promise of the package for one pair: the bytes compare as the values do.
func orders(t *testing.T, a, b []byte, want int) {
	t.Helper()
	if got := bytes.Compare(a, b); got != want {
		t.Fatalf("compare(% x, % x) = %d, want %d", a, b, got, want)
	}
}

// apart checks that neither of two different encodings begins with the other.
func apart(t *testing.T, a, b []byte) {
	t.Helper()
	if !bytes.Equal(a, b) && (bytes.HasPrefix(a, b) || bytes.HasPrefix(b, a)) {
		t.Fatalf("% x and % x: one is a prefix of the other", a, b)
	}
}

func FuzzInt64(f *testing.F) {
	for _, v := range []int64{0, 1, -1, math.MinInt64, math.MaxInt64, 255, 256} {
		f.Add(v, -v)
	}
	f.Fuzz(func(t *testing.T, a, b int64) {
		x, y := AppendInt64(nil, a), AppendInt64(nil, b)
		orders(t, x, y, cmp.Compare(a, b))
		if v, rest, err := Int64(append(x, 7)); v != a || len(rest) != 1 || err != nil {
			t.Fatalf("%d came back as %d, %v", a, v, err)
		}
		c, d := int32(a), int32(b)
		p, q := AppendInt32(nil, c), AppendInt32(nil, d)
		orders(t, p, q, cmp.Compare(c, d))
		if v, rest, err := Int32(append(p, 7)); v != c || len(rest) != 1 || err != nil {
			t.Fatalf("%d came back as %d, %v", c, v, err)
		}
		u, w := uint64(a), uint64(b)
		orders(t, AppendUint64(nil, u), AppendUint64(nil, w), cmp.Compare(u, w))
		if v, _, err := Uint64(AppendUint64(nil, u)); v != u || err != nil {
			t.Fatalf("%d came back as %d, %v", u, v, err)
		}
		orders(t, AppendUint32(nil, uint32(a)), AppendUint32(nil, uint32(b)), cmp.Compare(uint32(a), uint32(b)))
		if v, _, err := Uint32(AppendUint32(nil, uint32(a))); v != uint32(a) || err != nil {
			t.Fatalf("%d came back as %d, %v", uint32(a), v, err)
		}
		const year = int64(365 * 24 * 3600 * 1000)
		s, e := time.UnixMilli(a%(200_000*year)), time.UnixMilli(b%(200_000*year))
		orders(t, AppendTime(nil, s), AppendTime(nil, e), s.Compare(e))
		if v, _, err := Time(AppendTime(nil, s)); !v.Equal(s) || err != nil {
			t.Fatalf("%v came back as %v, %v", s, v, err)
		}
	})
}

func FuzzFloat64(f *testing.F) {
	for _, v := range []float64{0, math.Copysign(0, -1), 1, -1, math.Inf(1), math.Inf(-1), math.NaN(), math.SmallestNonzeroFloat64, -math.MaxFloat64} {
		f.Add(v, 1.5)
		f.Add(v, -v)
	}
	f.Fuzz(func(t *testing.T, a, b float64) {
		x, y := AppendFloat64(nil, a), AppendFloat64(nil, b)
		want := cmp.Compare(a, b)
		// cmp.Compare puts NaN first; here it comes last, after +Inf.
		if (a != a) != (b != b) {
			want = -want
		}
		orders(t, x, y, want)
		v, rest, err := Float64(append(x, 7))
		if cmp.Compare(v, a) != 0 || len(rest) != 1 || err != nil {
			t.Fatalf("%v came back as %v, %v", a, v, err)
		}
	})
}

func FuzzBytes(f *testing.F) {
	for _, v := range []string{"", "1", "11", "\x00", "\x00\x00", "\x00\x01", "\x00\xff", "a\x00b", "\xff", "\xff\xff"} {
		f.Add([]byte(v), []byte("1"))
		f.Add([]byte(v), []byte("a\x00"))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, y := AppendBytes(nil, a), AppendBytes(nil, b)
		orders(t, x, y, bytes.Compare(a, b))
		apart(t, x, y)
		if s := AppendString(nil, string(a)); !bytes.Equal(s, x) {
			t.Fatalf("string form % x, bytes form % x", s, x)
		}
		v, rest, err := Bytes([]byte("kept"), append(x, 0, 7))
		if string(v) != "kept"+string(a) || !bytes.Equal(rest, []byte{0, 7}) || err != nil {
			t.Fatalf("%q came back as %q, rest % x, %v", a, v, rest, err)
		}
	})
}

// FuzzComposite holds a key of three parts to the order of its parts.
func FuzzComposite(f *testing.F) {
	f.Add("1", int64(5), "x", "11", int64(5), "x")
	f.Add("1", int64(-5), "x", "1", int64(5), "")
	f.Add("a\x00", int64(0), "", "a", int64(0), "\x00")
	f.Fuzz(func(t *testing.T, a1 string, a2 int64, a3 string, b1 string, b2 int64, b3 string) {
		enc := func(s string, n int64, u string) []byte {
			return AppendString(AppendInt64(AppendString(nil, s), n), u)
		}
		x, y := enc(a1, a2, a3), enc(b1, b2, b3)
		orders(t, x, y, cmp.Or(cmp.Compare(a1, b1), cmp.Compare(a2, b2), cmp.Compare(a3, b3)))
		apart(t, x, y)
		if a1 != b1 && bytes.HasPrefix(y, AppendString(nil, a1)) {
			t.Fatalf("the rows of %q would see a row of %q", a1, b1)
		}
	})
}

// FuzzDecode feeds garbage: a decoder gives an error of its kind or a value that encodes to what it read.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1})
	f.Add([]byte{0})
	f.Add([]byte{1, 0, 2})
	f.Fuzz(func(t *testing.T, src []byte) {
		if v, rest, err := Bytes(nil, src); err == nil {
			if got := append(AppendBytes(nil, v), rest...); !bytes.Equal(got, src) {
				t.Fatalf("% x decodes to %q and encodes to % x", src, v, got)
			}
		} else if !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v", err)
		}
		if _, _, err := Int64(src); (err == nil) != (len(src) >= 8) {
			t.Fatalf("%d bytes: %v", len(src), err)
		}
		if _, _, err := Int32(src); (err == nil) != (len(src) >= 4) {
			t.Fatalf("%d bytes: %v", len(src), err)
		}
	})
}

func TestBool(t *testing.T) {
	orders(t, AppendBool(nil, false), AppendBool(nil, true), -1)
	for _, v := range []bool{false, true} {
		if got, rest, err := Bool(append(AppendBool(nil, v), 9)); got != v || len(rest) != 1 || err != nil {
			t.Errorf("%v came back as %v, %v", v, got, err)
		}
	}
	for _, src := range [][]byte{nil, {2}} {
		if _, _, err := Bool(src); !errors.Is(err, ErrMalformed) {
			t.Errorf("% x: %v", src, err)
		}
	}
}

func TestCutOff(t *testing.T) {
	for n := range 8 {
		src := make([]byte, n)
		_, _, e1 := Uint64(src)
		_, _, e2 := Float64(src)
		_, _, e3 := Time(src)
		for i, err := range []error{e1, e2, e3} {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("decoder %d, %d bytes: %v", i, n, err)
			}
		}
	}
}

func FuzzPrefixEnd(f *testing.F) {
	f.Add([]byte{}, []byte{1})
	f.Add([]byte{1, 0xFF}, []byte{1, 0xFF, 0xFF})
	f.Add([]byte{0xFF, 0xFF}, []byte{0xFF, 0xFF, 3})
	f.Fuzz(func(t *testing.T, prefix, key []byte) {
		end, ok := PrefixEnd(nil, prefix)
		inside := bytes.Compare(key, prefix) >= 0 && (!ok || bytes.Compare(key, end) < 0)
		if inside != bytes.HasPrefix(key, prefix) {
			// Without an end the range is open; that is right only if nothing above the prefix lacks it.
			t.Fatalf("prefix % x end % x: key % x inside=%v", prefix, end, key, inside)
		}
	})
}

// TestFormat holds the bytes to docs/format/ordkey.md: rows on disk have them.
func TestFormat(t *testing.T) {
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"int64 -1", AppendInt64(nil, -1), "\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF"},
		{"int64 1", AppendInt64(nil, 1), "\x80\x00\x00\x00\x00\x00\x00\x01"},
		{"int32 -1", AppendInt32(nil, -1), "\x7F\xFF\xFF\xFF"},
		{"float64 -1", AppendFloat64(nil, -1), "\x40\x0F\xFF\xFF\xFF\xFF\xFF\xFF"},
		{"float64 0", AppendFloat64(nil, math.Copysign(0, -1)), "\x80\x00\x00\x00\x00\x00\x00\x00"},
		{"float64 1", AppendFloat64(nil, 1), "\xBF\xF0\x00\x00\x00\x00\x00\x00"},
		{"string 1", AppendString(nil, "1"), "1\x00\x01"},
		{"string 1 0", AppendString(nil, "1\x00"), "1\x00\xFF\x00\x01"},
		{"no string", AppendString(nil, ""), "\x00\x01"},
		{"time", AppendTime(nil, time.UnixMilli(1000)), "\x80\x00\x00\x00\x00\x00\x03\xE8"},
	} {
		if string(c.got) != c.want {
			t.Errorf("%s is % X, want % X", c.what, c.got, c.want)
		}
	}
}
