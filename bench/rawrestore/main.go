// Rawrestore is what millrace's restore is measured against: it reads a changelog into Pebble, one database per partition,
// write-ahead log off, and nothing else: with -how batches one batch per fetch, with -how ingest one sorted table per partition. It
// prints one line of JSON (restored) and ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/measure"
)

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "seed brokers, host:port, comma separated")
	topic := flag.String("changelog", "", "changelog to read")
	dir := flag.String("state", "", "directory for the databases; it should not exist")
	how := flag.String("how", "ingest", "ingest or batches")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, strings.Split(*brokers, ","), *topic, *dir, *how)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "rawrestore:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, brokers []string, topic, dir, how string) (err error) {
	if topic == "" || dir == "" {
		return errors.New("-changelog and -state are needed")
	}
	if how != "ingest" && how != "batches" {
		return fmt.Errorf("-how %q is none of ingest, batches", how)
	}
	began := time.Now()
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(50*time.Millisecond),
		kgo.KeepControlRecords(), // or the end of a transaction would never be reached
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	missing := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			missing[o.Partition] = o.Offset
		}
	})
	cache := pebble.NewCache(64 << 20)
	defer cache.Unref()
	into := map[int32]partition{}
	var records int64
	for len(missing) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return err
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if err != nil || len(p.Records) == 0 {
				return
			}
			one := into[p.Partition]
			switch {
			case one != nil:
			case how == "ingest":
				one = &ingest{}
			default:
				one, err = newBatches(sub(dir, p.Partition), cache)
			}
			if err != nil {
				return
			}
			into[p.Partition] = one
			n := int64(0)
			n, err = one.take(p.Records)
			records += n
			if end, ok := missing[p.Partition]; ok && p.Records[len(p.Records)-1].Offset+1 >= end {
				delete(missing, p.Partition)
			}
		})
		if err != nil {
			return err
		}
	}
	if err := finish(into, dir, cache); err != nil {
		return err
	}
	line := measure.Line{Event: "restored", Records: records, Seconds: time.Since(began).Seconds()}
	line.CPUSeconds, line.RSSMax = measure.Self()
	measure.NewOut(os.Stdout).Say(line)
	return nil
}

// partition is one on its way into a database.
type partition interface {
	take(records []*kgo.Record) (n int64, err error)
	finish(dir string, cache *pebble.Cache) error
}

// finish completes all partitions side by side.
func finish(into map[int32]partition, dir string, cache *pebble.Cache) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all error
	for number, one := range into {
		wg.Go(func() {
			err := one.finish(sub(dir, number), cache)
			mu.Lock()
			defer mu.Unlock()
			all = errors.Join(all, err)
		})
	}
	wg.Wait()
	return all
}

func sub(dir string, partition int32) string { return filepath.Join(dir, strconv.Itoa(int(partition))) }

func options(cache *pebble.Cache) *pebble.Options {
	return &pebble.Options{DisableWAL: true, Cache: cache, MemTableSize: 16 << 20, Logger: silent{}, FormatMajorVersion: pebble.FormatNewest}
}

func open(dir string, cache *pebble.Cache) (*pebble.DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return pebble.Open(dir, options(cache))
}

// batches writes each fetch as it comes.
type batches struct{ db *pebble.DB }

func newBatches(dir string, cache *pebble.Cache) (*batches, error) {
	db, err := open(dir, cache)
	return &batches{db}, err
}

// finish writes what is still in memory only: without a write-ahead log it would be lost.
func (w *batches) finish(string, *pebble.Cache) error { return errors.Join(w.db.Flush(), w.db.Close()) }

func (w *batches) take(records []*kgo.Record) (n int64, err error) {
	b := w.db.NewBatchWithSize(len(records) * 48)
	for _, r := range records {
		switch {
		case r.Attrs.IsControl():
			continue
		case r.Value == nil:
			err = b.Delete(r.Key, nil)
		default:
			err = b.Set(r.Key, r.Value, nil)
		}
		if err != nil {
			return n, errors.Join(err, b.Close())
		}
		n++
	}
	return n, b.Commit(pebble.NoSync)
}

// silent drops what Pebble says and makes of its last words what they are.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "rawrestore: "+format+"\n", args...)
	os.Exit(1)
}
