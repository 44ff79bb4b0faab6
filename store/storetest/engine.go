// Package storetest is what every store engine must pass. An engine's own tests call Run with a way to open one, and
// Model with a machine that can crash.
package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/store"
)

// Run checks the contract of store.Engine. open returns a new, empty engine; Run closes it.
func Run(t *testing.T, open func(t *testing.T) store.Engine) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, store.Engine)
	}{
		{"an empty engine has nothing", empty},
		{"get gives back what was applied", getBack},
		{"a batch applies in order", batchOrder},
		{"the batch's slices are not kept", batchSlices},
		{"an empty value is a value", emptyValue},
		{"iterating keeps to its bounds, both ways", bounds},
		{"an iterator does not see what is applied later", iteratorSnapshot},
		{"clear removes everything, and writing goes on", clearAll},
		{"many rows in any order come back sorted", sorted},
		{"large rows and long keys", large},
		{"the estimate is near", estimate},
		{"a closed engine says so", closed},
		{"flush is harmless", flush},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := open(t)
			defer func() {
				if err := e.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.run(t, e)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// apply applies "key=value" and "-key" in one batch.
func apply(t *testing.T, e store.Engine, ops ...string) {
	t.Helper()
	var b store.Batch
	for _, op := range ops {
		if op[0] == '-' {
			b.Delete([]byte(op[1:]))
			continue
		}
		k, v, _ := bytes.Cut([]byte(op), []byte("="))
		b.Set(k, v)
	}
	must(t, e.Apply(&b))
}

// expect checks that iterating gives exactly want, as "key=value".
func expect(t *testing.T, e store.Engine, lower, upper string, reverse bool, want ...string) {
	t.Helper()
	var to []byte
	if upper != "" {
		to = []byte(upper)
	}
	it, err := e.Iter([]byte(lower), to, reverse)
	must(t, err)
	expectIter(t, it, want...)
}

func expectIter(t *testing.T, it store.EngineIter, want ...string) {
	t.Helper()
	var got []string
	for it.Next() {
		got = append(got, fmt.Sprintf("%s=%s", it.Key(), it.Value()))
	}
	if it.Next() {
		t.Error("Next after the end")
	}
	must(t, it.Close())
	if !slices.Equal(got, want) {
		t.Errorf("iterated %q, want %q", got, want)
	}
}

func expectGet(t *testing.T, e store.Engine, key, want string, there bool) {
	t.Helper()
	v, ok, err := e.Get(nil, []byte(key))
	must(t, err)
	if ok != there || string(v) != want {
		t.Errorf("get %q: %q %v, want %q %v", key, v, ok, want, there)
	}
}

func empty(t *testing.T, e store.Engine) {
	expectGet(t, e, "a", "", false)
	expect(t, e, "", "", false)
	expect(t, e, "a", "z", true)
	if n := e.EstimateRows([]byte{0}, []byte{0xFF}); n != 0 {
		t.Errorf("%d rows estimated", n)
	}
	must(t, e.Apply(&store.Batch{}))
}

func getBack(t *testing.T, e store.Engine) {
	apply(t, e, "a=1", "b=2")
	expectGet(t, e, "a", "1", true)
	expectGet(t, e, "aa", "", false)
	apply(t, e, "a=3", "-b", "-never")
	expectGet(t, e, "a", "3", true)
	expectGet(t, e, "b", "", false)

	// dst is filled from its start, and its old content does not shine through.
	dst := []byte("something long enough")
	v, ok, err := e.Get(dst, []byte("a"))
	must(t, err)
	if !ok || string(v) != "3" || &v[0] != &dst[0] {
		t.Errorf("get into a buffer: %q %v, in place %v", v, ok, &v[0] == &dst[0])
	}
	v[0] = 'x' // a copy: the engine's row must not change
	expectGet(t, e, "a", "3", true)
}

func batchOrder(t *testing.T, e store.Engine) {
	apply(t, e, "a=1", "a=2", "b=1", "-b", "-c", "c=1")
	expect(t, e, "", "", false, "a=2", "c=1")
}

func batchSlices(t *testing.T, e store.Engine) {
	k, v := []byte("key"), []byte("value")
	var b store.Batch
	b.Set(k, v)
	must(t, e.Apply(&b))
	k[0], v[0] = 'x', 'x'
	b.Reset()
	expect(t, e, "", "", false, "key=value")
}

func emptyValue(t *testing.T, e store.Engine) {
	apply(t, e, "a=")
	expectGet(t, e, "a", "", true)
	expect(t, e, "", "", false, "a=")
}

func bounds(t *testing.T, e store.Engine) {
	apply(t, e, "b=1", "d=2", "f=3")
	for _, c := range []struct {
		lower, upper string
		want         []string
	}{
		{"", "", []string{"b=1", "d=2", "f=3"}},
		{"b", "f", []string{"b=1", "d=2"}},
		{"b\x00", "f\x00", []string{"d=2", "f=3"}},
		{"c", "e", []string{"d=2"}},
		{"d", "d", nil},
		{"e", "c", nil},
		{"g", "", nil},
		{"", "a", nil},
		{"", "b", nil},
		{"f", "", []string{"f=3"}},
		{"a", "b\x00", []string{"b=1"}},
	} {
		expect(t, e, c.lower, c.upper, false, c.want...)
		slices.Reverse(c.want)
		expect(t, e, c.lower, c.upper, true, c.want...)
	}
	for _, lower := range [][]byte{nil, {}, []byte("a")} {
		it, err := e.Iter(lower, []byte{}, false) // an empty upper bound is one; only nil is the end
		must(t, err)
		expectIter(t, it)
	}
}

func iteratorSnapshot(t *testing.T, e store.Engine) {
	var all []string
	for i := range 1000 {
		all = append(all, fmt.Sprintf("k%04d=%d", i, i))
	}
	apply(t, e, all...)
	forward, err := e.Iter(nil, nil, false)
	must(t, err)
	backward, err := e.Iter([]byte("k01"), []byte("k03"), true)
	must(t, err)
	for range 10 {
		if !forward.Next() {
			t.Fatal("too short")
		}
	}
	var later []string
	for i := range 1000 {
		switch i % 3 {
		case 0:
			later = append(later, fmt.Sprintf("-k%04d", i))
		case 1:
			later = append(later, fmt.Sprintf("k%04d=new", i))
		case 2:
			later = append(later, fmt.Sprintf("k%04d+=new", i))
		}
	}
	apply(t, e, later...)
	apply(t, e, "k0001=newer", "-k0002")
	expectIter(t, forward, all[10:]...)
	want := slices.Clone(all[100:300])
	slices.Reverse(want)
	expectIter(t, backward, want...)
	expect(t, e, "", "k0004", false, "k0001=newer", "k0002+=new")
}

func clearAll(t *testing.T, e store.Engine) {
	apply(t, e, "\x00\x00\x01=checkpoint", "\x00\x01a=1", "\xff\xfez=2")
	must(t, e.Clear())
	expect(t, e, "", "", false)
	expectGet(t, e, "\x00\x01a", "", false)
	if n := e.EstimateRows([]byte{0, 0}, []byte{0xFF, 0xFF}); n != 0 {
		t.Errorf("%d rows estimated after Clear", n)
	}
	apply(t, e, "\x00\x01b=3")
	expect(t, e, "", "", false, "\x00\x01b=3")
	must(t, e.Clear())
	must(t, e.Clear())
	expect(t, e, "", "", false)
}

func sorted(t *testing.T, e store.Engine) {
	const n = 5000
	want := make([]string, n)
	var b store.Batch
	for i := range n {
		at := i * 2741 % n // every number once, scattered
		want[at] = fmt.Sprintf("%06d=%d", at, at)
		b.Set(fmt.Appendf(nil, "%06d", at), fmt.Appendf(nil, "%d", at))
		if i%97 == 0 {
			must(t, e.Apply(&b))
			b.Reset()
		}
	}
	must(t, e.Apply(&b))
	expect(t, e, "", "", false, want...)
	for i := 0; i < n; i += 2 {
		apply(t, e, fmt.Sprintf("-%06d", i))
	}
	var odd []string
	for i := 1; i < n; i += 2 {
		odd = append(odd, want[i])
	}
	expect(t, e, "", "", false, odd...)
	slices.Reverse(odd)
	expect(t, e, "", "", true, odd...)
}

func large(t *testing.T, e store.Engine) {
	key := bytes.Repeat([]byte{'k'}, store.KeyBytesMax+2)
	value := bytes.Repeat([]byte("0123456789abcdef"), 8<<16) // 8 MiB, more than a memtable
	var b store.Batch
	b.Set(key, value)
	b.Set([]byte("small"), []byte("row"))
	must(t, e.Apply(&b))
	got, ok, err := e.Get(nil, key)
	must(t, err)
	if !ok || !bytes.Equal(got, value) {
		t.Errorf("a large row came back with %d bytes, %v", len(got), ok)
	}
	expectGet(t, e, "small", "row", true)
	b.Reset()
	b.Set(key, value[:100])
	must(t, e.Apply(&b))
	if got, _, err = e.Get(got, key); err != nil || len(got) != 100 {
		t.Errorf("after shrinking it has %d bytes, %v", len(got), err)
	}
}

func estimate(t *testing.T, e store.Engine) {
	var b store.Batch
	for i := range 3000 {
		b.Set(fmt.Appendf([]byte{0, 1}, "%05d", i), bytes.Repeat([]byte{'v'}, 20))
	}
	for i := range 500 {
		b.Set(fmt.Appendf([]byte{0, 2}, "%05d", i), bytes.Repeat([]byte{'v'}, 20))
	}
	must(t, e.Apply(&b))
	near := func(when string, prefix byte, want int64) {
		t.Helper()
		if n := e.EstimateRows([]byte{0, prefix}, []byte{0, prefix + 1}); n < want*8/10 || n > want*12/10 {
			t.Errorf("%s: %d rows estimated under prefix %d, there are %d", when, n, prefix, want)
		}
	}
	near("unflushed", 1, 3000)
	near("unflushed", 2, 500)
	must(t, e.Flush())
	near("flushed", 1, 3000)
	near("flushed", 2, 500)
}

func closed(t *testing.T, e store.Engine) {
	apply(t, e, "a=1")
	must(t, e.Close())
	if _, _, err := e.Get(nil, []byte("a")); err == nil {
		t.Error("Get on a closed engine gave no error")
	}
	if _, err := e.Iter(nil, nil, false); err == nil {
		t.Error("Iter on a closed engine gave no error")
	}
	var b store.Batch
	b.Set([]byte("a"), nil)
	if err := e.Apply(&b); err == nil {
		t.Error("Apply on a closed engine gave no error")
	}
	if err := e.Flush(); err == nil {
		t.Error("Flush on a closed engine gave no error")
	}
	if err := e.Clear(); err == nil {
		t.Error("Clear on a closed engine gave no error")
	}
	_ = e.Stats() // any goroutine may call it at any time
}

func flush(t *testing.T, e store.Engine) {
	must(t, e.Flush())
	apply(t, e, "a=1")
	must(t, e.Flush())
	must(t, e.Flush())
	apply(t, e, "a=2", "b=1")
	expect(t, e, "", "", false, "a=2", "b=1")
}
