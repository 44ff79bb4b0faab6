package serde

import (
	"bytes"
	"fmt"
	"testing"
)

// Whatever a decoder returns stays what it was: neither the bytes it came from nor the values after it reach into it.
func TestDecoderKeeps(t *testing.T) {
	d, s := NewDecoder(Bytes()), NewDecoder(String())
	src := make([]byte, 0, 2*chunkBytes)
	var got [][]byte
	var text []string
	size := func(i int) int { return []int{0, 1, 16, 100, ownBytes, ownBytes + 1, chunkBytes, chunkBytes + 1}[i%8] }
	for i := range 1000 {
		src = append(src[:0], bytes.Repeat([]byte{byte(i)}, size(i))...)
		b, err := d.Decode(src)
		if err != nil || b == nil {
			t.Fatal(b, err)
		}
		v, err := s.Decode(src)
		if err != nil {
			t.Fatal(err)
		}
		if cap(b) != len(b) && len(b) > 0 {
			t.Fatalf("an append to value %d would reach into the next one", i)
		}
		got, text = append(got, b), append(text, v)
		clear(src)
	}
	for i := range got {
		want := bytes.Repeat([]byte{byte(i)}, size(i))
		if !bytes.Equal(got[i], want) || text[i] != string(want) {
			t.Fatalf("value %d changed", i)
		}
	}
}

func TestDecoderAllocates(t *testing.T) {
	d, s, n := NewDecoder(Bytes()), NewDecoder(String()), NewDecoder(Int64())
	src := make([]byte, 100)
	if got := testing.AllocsPerRun(1000, func() {
		for range 10 {
			_, _ = d.Decode(src)
			_, _ = s.Decode(src)
			_, _ = n.Decode(src[:8])
			_, _ = s.Peek(src)
		}
	}); got > 3 {
		t.Errorf("%v allocations for twenty values of 100 bytes, want at most 3", got)
	}
}

func TestSharedBytes(t *testing.T) {
	d := NewDecoder(SharedBytes())
	record := []byte("key and value")
	v, err := d.DecodeFetched(record[:3])
	if err != nil || string(v) != "key" || &v[0] != &record[0] {
		t.Fatalf("%q, %v: not part of the record", v, err)
	}
	if _ = append(v, "!!!"...); string(record) != "key and value" {
		t.Fatalf("an append wrote into the record: %q", record)
	}
	if v, err = d.Decode(record[:3]); err != nil || &v[0] == &record[0] {
		t.Fatalf("%q, %v: a value from elsewhere must be a copy", v, err)
	}
	if v, err = d.DecodeFetched([]byte{}); err != nil || v == nil || len(v) != 0 {
		t.Fatalf("%v, %v: no bytes are not null", v, err)
	}
	if a, b := ID(SharedBytes()), ID(Bytes()); a != b {
		t.Errorf("stores would tell %s and %s apart", a, b)
	}
}

func BenchmarkDecode(b *testing.B) {
	src := make([]byte, 100)
	for _, c := range []struct {
		name string
		f    func([]byte) ([]byte, error)
	}{
		{"serde", Bytes().Decode},
		{"decoder", NewDecoder(Bytes()).Decode},
		{"shared", NewDecoder(SharedBytes()).DecodeFetched},
	} {
		b.Run(fmt.Sprintf("bytes/%s", c.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.f(src)
			}
		})
	}
}
