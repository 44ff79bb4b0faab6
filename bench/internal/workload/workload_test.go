package workload

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/devkafka"
)

func TestKeys(t *testing.T) {
	for _, i := range []int{0, 7, 10, 99_999, 123_456_789} {
		key := AppendKey(nil, i)
		if len(key) != KeySize || Index(key) != i {
			t.Errorf("%d is %q is %d", i, key, Index(key))
		}
	}
	for _, bad := range []string{"", "k00000000000001", "x000000000000001", "k00000000000000a"} {
		if Index([]byte(bad)) != -1 {
			t.Errorf("%q is a key", bad)
		}
	}
}

func TestDraw(t *testing.T) {
	count := func(dist string) (most, distinct int) {
		n := map[int]int{}
		draw := Spec{Dist: dist, Keys: 1000, Seed: 1}.Draw()
		for range 10_000 {
			k := draw()
			if k < 0 || k >= 1000 {
				t.Fatalf("%s: key %d", dist, k)
			}
			n[k]++
			most = max(most, n[k])
		}
		return most, len(n)
	}
	if most, distinct := count("each"); most != 10 || distinct != 1000 {
		t.Errorf("each: %d keys, the most frequent %d times", distinct, most)
	}
	if most, _ := count("uniform"); most > 50 {
		t.Errorf("uniform: one key %d times", most)
	}
	if most, _ := count("zipf"); most < 500 {
		t.Errorf("zipf: the most frequent key %d times", most)
	}
}

func TestFill(t *testing.T) {
	b, err := devkafka.Start(devkafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	spec := Spec{Dist: "each", Keys: 100, Records: 300, ValueBytes: 20, Partitions: 3, Seed: 1}
	for range 2 { // the second time the topic is there
		if err := Create(ctx, b.Addrs(), spec.Partitions, nil, true, "in"); err != nil {
			t.Fatal(err)
		}
		if n, err := Fill(ctx, b.Addrs(), "in", spec, nil); err != nil || n != 100 {
			t.Fatalf("%d keys, %v", n, err)
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addrs()...), kgo.ConsumeTopics("in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	seen := map[int]int{}
	for n := 0; n < 300; {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		for r := range f.RecordsAll() {
			seen[Index(r.Key)]++
			n++
			if len(r.Value) != 20 {
				t.Fatalf("a value of %d bytes", len(r.Value))
			}
		}
	}
	if len(seen) != 100 || seen[0] != 3 {
		t.Errorf("%d keys, the first %d times", len(seen), seen[0])
	}
}

func TestFillSaysWhatFailed(t *testing.T) {
	b, err := devkafka.Start(devkafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, err = Fill(t.Context(), b.Addrs(), "in", Spec{Dist: "some", Keys: 0, Records: 1, ValueBytes: 1, Partitions: 1}, nil)
	if err == nil || !strings.Contains(err.Error(), `"some"`) || !strings.Contains(err.Error(), "keys") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := Create(ctx, b.Addrs(), 1, nil, false, "there", "there"); err == nil {
		t.Error("a topic was made twice")
	}
	if err := Delete(ctx, b.Addrs(), "nowhere"); err != nil {
		t.Error(err)
	}
}

// TestTables: rows are older than the input they are joined with, a feed keeps its rate, and topics go by the beginning of their name.
func TestTables(t *testing.T) {
	b, err := devkafka.Start(devkafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	spec := Spec{Dist: "each", Keys: 10, Records: 10, ValueBytes: 8, Partitions: 1, Seed: 1, Age: time.Hour}
	if err := Create(ctx, b.Addrs(), 1, nil, false, "app-1-in", "app-1-out", "app-10-in"); err != nil {
		t.Fatal(err)
	}
	if _, err := Fill(ctx, b.Addrs(), "app-1-in", spec, nil); err != nil {
		t.Fatal(err)
	}
	feeding, enough := context.WithTimeout(ctx, 300*time.Millisecond)
	defer enough()
	began := time.Now()
	written, err := Feed(feeding, b.Addrs(), "app-10-in", spec, 1000)
	if most := int(time.Since(began).Milliseconds()) + 1; err != nil || written < 1 || written > most {
		t.Errorf("%d records, at 1000/s at most %d: %v", written, most, err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addrs()...), kgo.ConsumeTopics("app-1-in", "app-10-in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for rows, fed := 0, 0; rows < 10 || fed < written; {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		for r := range f.RecordsAll() {
			if r.Topic == "app-10-in" {
				fed++
				continue
			}
			rows++
			if age := time.Since(r.Timestamp); age < 59*time.Minute {
				t.Fatalf("a row is %s old", age)
			}
		}
	}
	if err := DeletePrefix(ctx, b.Addrs(), "app-1-"); err != nil {
		t.Fatal(err)
	}
	left, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if names := left.Names(); len(names) != 1 || names[0] != "app-10-in" {
		t.Errorf("%v are left", names)
	}
}
