package demo

import (
	"context"
	"errors"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

var (
	in     = stream.NewTopic("in", serde.String(), serde.String())
	by     = stream.Through("by", serde.String(), serde.String())
	counts = store.KeyValue("counts", serde.String(), serde.Int64())
	out    = stream.NewTopic("out", serde.String(), serde.Int64())
)

func build(t *testing.T) *stream.Topology {
	t.Helper()
	b := stream.NewBuilder()
	stream.GroupBy(stream.From(b, in), func(_, v string) string { return v }, by).Count(counts).ToStream().To(out)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func records(values ...string) iter.Seq2[processor.Record[string, string], error] {
	return func(yield func(processor.Record[string, string], error) bool) {
		for _, v := range values {
			// From long ago: a producer that counts a record's age would refuse it.
			if !yield(processor.Record[string, string]{Key: "k", Value: v, Time: time.Unix(1_500_000_000, 0)}, nil) {
				return
			}
		}
	}
}

func TestAnExampleFromEndToEnd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	top := build(t)
	k, err := Open(ctx, "demo", "", false, top)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()

	// A second run on the same cluster: refused, unless it may delete what the first one left.
	addrs := strings.Join(k.Addrs, ",")
	for round := range 2 {
		if round > 0 {
			if _, err := Open(ctx, "demo", addrs, false, top); err == nil || !strings.Contains(err.Error(), "-again") {
				t.Fatalf("topics of an earlier run: %v", err)
			}
		}
		one, err := Open(ctx, "demo", addrs, true, top)
		if err != nil {
			t.Fatal(err)
		}
		var progress Progress
		app, err := millrace.New("demo", top, millrace.SeedBrokers(one.Addrs...), millrace.StateDir(one.StateDir),
			millrace.Logger(Quiet(t.Output())), millrace.Observe(progress.Hooks()))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = While(ctx, app, func(ctx context.Context) error {
			if err := Send(ctx, one, in, records("a", "", "a", "b")); err != nil {
				return err
			}
			return Follow(ctx, one, out, func(r processor.Record[string, int64]) (bool, error) {
				got = append(got, r.Key)
				return len(got) == 4, nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := progress.Processed(); n != 8 { // four values, once on each side of the repartition topic
			t.Errorf("%d records processed", n)
		}
		all, err := All(ctx, one, out)
		if err != nil || len(all) != 4 {
			t.Errorf("%d records, %v", len(all), err)
		}
		slices.Sort(got)
		if strings.Join(got, ",") != ",a,a,b" {
			t.Errorf("counted %q", got)
		}
		if err := one.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(one.StateDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the state directory is still there: %v", err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := Open(t.Context(), "demo", "127.0.0.1:1", false, build(t))
	if millrace.ExitCode(err) != 4 || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("status %d: %v", millrace.ExitCode(err), err)
	}
}

func TestTheCauseIsTheApplications(t *testing.T) {
	top := build(t)
	k, err := Open(t.Context(), "demo", "", false, top)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	app, err := millrace.New("demo", top, millrace.SeedBrokers(k.Addrs...), millrace.StateDir(os.DevNull), millrace.Logger(Quiet(t.Output())))
	if err != nil {
		t.Fatal(err)
	}
	err = While(t.Context(), app, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if millrace.ExitCode(err) != 3 || errors.Is(err, context.Canceled) {
		t.Errorf("status %d: %v", millrace.ExitCode(err), err)
	}
}

func TestCtrlCIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if err := interrupted(ctx, context.Canceled); errors.Is(err, ErrInterrupted) {
		t.Error("interrupted, and nobody did")
	}
	cancel()
	if err := interrupted(ctx, context.Canceled); !errors.Is(err, ErrInterrupted) {
		t.Error(err)
	}
	if err := interrupted(ctx, os.ErrNotExist); !errors.Is(err, os.ErrNotExist) {
		t.Error("a failure was taken for an interrupt")
	}
}

func TestNumber(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := Number(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
