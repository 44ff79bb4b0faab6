package main

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/streamtest"
)

// The topology under test is the very one main runs.
func start(t *testing.T, opts ...streamtest.Option) *streamtest.Driver {
	t.Helper()
	top, err := wordCount()
	if err != nil {
		t.Fatal(err)
	}
	return streamtest.New(t, top, opts...)
}

func TestWordsAreCountedInAnyCase(t *testing.T) {
	d := start(t)
	in, out := streamtest.In(d, lines), streamtest.Out(d, totals)

	in.Send("a.txt", "The cat; the HAT.")
	out.Want(out.Record("the", 1), out.Record("cat", 1), out.Record("the", 2), out.Record("hat", 1))

	in.Send("b.txt", "// 42 {}")
	out.Want()

	in.Send("b.txt", "hat")
	out.Want(out.Record("hat", 2))
}

// Whatever happens between two lines, the counts are those of a plain map.
func TestCrashesBetweenLines(t *testing.T) {
	d := start(t, streamtest.Partitions(3), streamtest.CommitEvery(4))
	in := streamtest.In(d, lines)
	random := rand.New(rand.NewPCG(1, 2))
	plain := &text{files: map[string][]string{}}
	for range 120 {
		var words []string
		for range random.IntN(6) {
			words = append(words, []string{"the", "cat", "in", "a", "hat"}[random.IntN(5)])
		}
		file, line := []string{"a", "b", "c"}[random.IntN(3)], strings.Join(words, " ")
		plain.files[file] = append(plain.files[file], line)
		in.Send(file, line)
		switch random.IntN(8) {
		case 0:
			d.Crash()
		case 1:
			d.CrashLosingDisk()
		case 2:
			d.Abort()
		}
	}
	d.Settle()

	want, _ := plain.count()
	got := map[string]int64{}
	for _, r := range streamtest.Out(d, totals).All() {
		if r.Value != got[r.Key]+1 {
			t.Errorf("the count of %q went from %d to %d", r.Key, got[r.Key], r.Value)
		}
		got[r.Key] = r.Value
	}
	if err := compare(got, want); err != nil {
		t.Error("what came out: ", err)
	}
	kept := map[string]int64{}
	for _, e := range streamtest.Store(d, counts).All() {
		kept[e.Key] = e.Value
	}
	if err := compare(kept, want); err != nil {
		t.Error("the store: ", err)
	}
}

func TestCompareSeesADifference(t *testing.T) {
	want := map[string]int64{"cat": 2, "hat": 1}
	for name, got := range map[string]map[string]int64{
		"one too many":    {"cat": 3, "hat": 1},
		"one missing":     {"cat": 2},
		"one that is new": {"cat": 2, "hat": 1, "dog": 1},
	} {
		if err := compare(got, want); err == nil {
			t.Errorf("%s: not seen", name)
		}
	}
	if err := compare(map[string]int64{"cat": 2, "hat": 1}, want); err != nil {
		t.Error(err)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	table(&b, map[string]int64{"cat": 2, "the": 12345, "hat": 2}, 2)
	if got, want := b.String(), "  1  the  12,345\n  2  cat       2\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
