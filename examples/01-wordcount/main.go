// Wordcount counts the words of the files it is given, or of the source text of Go's net/http, and then counts them once
// more in a plain map to show that not one is missing and not one is counted twice.
//
//	go run ./examples/01-wordcount [-brokers host:port] [file ...]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/examples/internal/demo"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
)

// The nouns: what the program reads, keeps and writes. Each is declared once, with its types.
var (
	lines  = stream.NewTopic("wordcount-lines", serde.String(), serde.String())
	byWord = stream.Through("by-word", serde.String(), serde.String())
	counts = store.KeyValue("counts", serde.String(), serde.Int64())
	totals = stream.NewTopic("wordcount-totals", serde.String(), serde.Int64())
)

// wordCount is the topology. Lines come in, keyed by file; their words travel through a repartition topic, so that equal
// words meet in one task; each is counted; and every new count goes out.
func wordCount() (*stream.Topology, error) {
	b := stream.NewBuilder()

	words := stream.FlatMapValues(stream.From(b, lines), split)
	stream.GroupBy(words, word, byWord).
		Count(counts).
		ToStream().
		To(totals)

	return b.Build()
}

func split(line string) []string {
	return strings.FieldsFunc(strings.ToLower(line), func(r rune) bool { return !unicode.IsLetter(r) })
}

func word(_, w string) string { return w }

func main() { demo.Main("wordcount", wordCount, run) }

func run(ctx context.Context, kafka *demo.Kafka, top *stream.Topology) error {
	text, err := read(flag.Args())
	if err != nil {
		return err
	}
	want, total := text.count()

	var progress demo.Progress
	app, err := millrace.New("wordcount", top,
		millrace.SeedBrokers(kafka.Addrs...),
		millrace.StateDir(kafka.StateDir),
		millrace.Logger(demo.Quiet(os.Stderr)),
		millrace.Observe(progress.Hooks()))
	if err != nil {
		return err
	}

	fmt.Printf("Counting the %s words of %s lines in %d files.\n", demo.Number(total), demo.Number(text.lines), len(text.files))
	var counted atomic.Int64
	stop := progress.Show(func() string {
		return demo.Number(counted.Load()) + " of " + demo.Number(total) + " words counted"
	})
	defer stop()
	start := time.Now()

	// Beside the application somebody writes the lines, and somebody reads the counts until they add up to the words
	// that were written. Each count of a word must be one more than the last: 1, 2, 3, ...
	got := map[string]int64{}
	err = demo.While(ctx, app, func(ctx context.Context) error {
		if err := demo.Send(ctx, kafka, lines, text.records()); err != nil {
			return err
		}
		return demo.Follow(ctx, kafka, totals, func(r processor.Record[string, int64]) (bool, error) {
			if r.Value != got[r.Key]+1 {
				return true, fmt.Errorf("the count of %q went from %d to %d", r.Key, got[r.Key], r.Value)
			}
			got[r.Key] = r.Value
			return counted.Add(1) == total, nil
		})
	})
	stop()
	if err != nil {
		return err
	}
	took := time.Since(start)

	// The application has stopped. What it wrote last is its final word.
	if got, err = final(ctx, kafka); err != nil {
		return err
	}
	fmt.Println()
	table(os.Stdout, got, 20)
	if err := compare(got, want); err != nil {
		return err
	}
	fmt.Printf("\nAll %s counts equal those of a plain map over the same files (%s words in %.1f s).\n",
		demo.Number(int64(len(got))), demo.Number(total), took.Seconds())
	return nil
}

// final reads the counts as a compacted topic would keep them: the last one of each word.
func final(ctx context.Context, kafka *demo.Kafka) (map[string]int64, error) {
	all, err := demo.All(ctx, kafka, totals)
	if err != nil {
		return nil, err
	}
	last := map[string]int64{}
	for _, r := range all {
		last[r.Key] = r.Value
	}
	return last, nil
}
