package store

import (
	"bytes"
	"cmp"
	"testing"

	"github.com/millrace-io/millrace/internal/ordkey"
	"github.com/millrace-io/millrace/serde"
)

// FuzzRowKeys holds the keys of keyed state to what they promise: numbers sort, parts come back, the end of a collection is
// found, and no collection's rows are among those of another. Bytes that nobody wrote are an error and nothing worse.
func FuzzRowKeys(f *testing.F) {
	for _, s := range []string{"", "1", "11", "\x00", "\x00\x01", "\x00\xff", "a\x00b", "\xff\xff"} {
		f.Add(s, "1", []byte("ns"), uint64(0), uint64(255))
		f.Add(s, s+"\x00", []byte{0, 1}, uint64(256), uint64(1)<<63)
	}
	f.Fuzz(func(t *testing.T, a, b string, ns []byte, m, n uint64) {
		x, y := appendCompact([]byte("x"), m), appendCompact([]byte("x"), n)
		if bytes.Compare(x, y) != cmp.Compare(m, n) || m != n && (bytes.HasPrefix(x, y) || bytes.HasPrefix(y, x)) {
			t.Fatalf("% x and % x do not sort as %d and %d, or one begins with the other", x, y, m, n)
		}
		if v, rest, err := compact(append(x[1:], 7)); v != m || len(rest) != 1 || err != nil {
			t.Fatalf("%d came back as %d, %v", m, v, err)
		}

		part := func(key string, fixed bool) []byte {
			full := []byte{0, 1, classPart}
			var err error
			if fixed {
				c := newKeyCodec(serde.Int64())
				full, err = c.appendPart(full, int64(len(key)))
			} else {
				c := newKeyCodec(serde.String())
				full, err = c.appendPart(full, key)
			}
			if err != nil {
				t.Fatal(err)
			}
			return ordkey.AppendBytes(full, ns)
		}
		p, q := part(a, false), part(b, false)
		if a != b && (bytes.HasPrefix(p, q) || bytes.HasPrefix(q, p)) {
			t.Fatalf("the rows of %q are among those of %q", a, b)
		}
		if bytes.Compare(p, q) != cmp.Compare(a, b) {
			t.Fatalf("%q and %q do not sort", a, b)
		}
		c := newKeyCodec(serde.String())
		key, rest, err := c.decodePart(p[classAt+1:])
		if key != a || err != nil {
			t.Fatalf("%q came back as %q, %v", a, key, err)
		}
		if got, rest, err := ordkey.Bytes(nil, rest); !bytes.Equal(got, ns) || len(rest) != 0 || err != nil {
			t.Fatalf("namespace % x came back as % x, %v", ns, got, err)
		}
		for _, k := range []struct {
			head  []byte
			width int
		}{{p, 0}, {part(a, true), 8}} {
			if end, err := collectionEnd(appendCompact(appendCompact(bytes.Clone(k.head), m), n), k.width); end != len(k.head) || err != nil {
				t.Fatalf("the collection ends at %d, %v, want %d", end, err, len(k.head))
			}
		}

		// Whatever bytes there are: no panic, and what is read is inside of them.
		wild := append([]byte(a), ns...)
		if _, rest, err := compact(wild); err == nil && len(rest) >= len(wild) {
			t.Fatal("a number of no bytes")
		}
		for _, width := range []int{0, 4} {
			if end, err := collectionEnd(wild, width); err == nil && (end > len(wild) || end < classAt+1) {
				t.Fatalf("the collection ends at %d of %d bytes", end, len(wild))
			}
		}
		_, _, _ = c.decodePart(wild)
		_, _, _ = newFixed().decodePart(wild)
		var gen, from, next, size uint64
		_ = uvarints(wild, &gen, &from, &next, &size)
	})
}

func newFixed() *keyCodec[int32] {
	c := newKeyCodec(serde.Int32())
	return &c
}
