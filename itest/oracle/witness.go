package oracle

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Sighting is one record a Witness saw, and when.
type Sighting struct {
	Topic     string
	Partition int32
	Record    Record
	At        time.Time
}

// Witness is a read_committed consumer that watches topics while an application runs. What it saw was committed, so it
// must be there at the end too, and nothing may have appeared behind its back. It is safe for concurrent use.
type Witness struct {
	cl   *kgo.Client
	done chan struct{}

	mu      sync.Mutex
	seen    []Sighting
	failed  error
	changed chan struct{} // closed and replaced whenever seen grows
}

// Watch starts a witness of topics, from their beginning. Close it.
func Watch(addrs []string, topics ...string) (*Witness, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...),
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(100*time.Millisecond),
		kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("oracle: %w", err)
	}
	w := &Witness{cl: cl, done: make(chan struct{}), changed: make(chan struct{})}
	go w.watch()
	return w, nil
}

func (w *Witness) watch() {
	defer close(w.done)
	for {
		fs := w.cl.PollFetches(context.Background())
		if fs.IsClientClosed() {
			return
		}
		now := time.Now()
		w.mu.Lock()
		fs.EachError(func(topic string, p int32, err error) {
			if w.failed == nil {
				w.failed = fmt.Errorf("watching %s/%d: %w", topic, p, err)
			}
		})
		fs.EachRecord(func(r *kgo.Record) {
			w.seen = append(w.seen, Sighting{r.Topic, r.Partition, Record{r.Offset, r.Key, r.Value, r.Headers}, now})
		})
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
	}
}

// Seen returns what was seen so far, in the order of arrival. The slice only ever grows; its records are not to be changed.
func (w *Witness) Seen() []Sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[:len(w.seen):len(w.seen)]
}

// Await waits until enough says so of what was seen, or the witness cannot read any more, or ctx is done.
func (w *Witness) Await(ctx context.Context, enough func([]Sighting) bool) error {
	for {
		w.mu.Lock()
		seen, failed, changed := w.seen[:len(w.seen):len(w.seen)], w.failed, w.changed
		w.mu.Unlock()
		if enough(seen) {
			return nil
		}
		if failed != nil {
			return failed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %d records: %w", len(seen), ctx.Err())
		case <-changed:
		}
	}
}

// Close ends the watching.
func (w *Witness) Close() {
	w.cl.Close()
	<-w.done
}

// Witnessed checks what a witness saw of a topic against the topic as it is at the end: each record is still there, with
// the same key and value, and between the first and the last record seen of a partition nothing else is.
func Witnessed(final *Log, seen []Sighting) *Verdict {
	v := &Verdict{Check: "what was seen of " + final.Topic + " on the way is what is there at the end"}
	next := make([]int, len(final.Partitions)) // index of the next record the witness has to see
	for _, s := range seen {
		if s.Topic != final.Topic {
			continue
		}
		v.Seen++
		if int(s.Partition) >= len(final.Partitions) {
			v.wrong("%s/%d@%d: no such partition at the end", s.Topic, s.Partition, s.Record.Offset)
			continue
		}
		records := final.Partitions[s.Partition].Records
		i := next[s.Partition]
		for i < len(records) && records[i].Offset < s.Record.Offset {
			v.wrong("%s/%d@%d: there at the end, not seen before @%d", s.Topic, s.Partition, records[i].Offset, s.Record.Offset)
			i++
		}
		switch {
		case i >= len(records) || records[i].Offset != s.Record.Offset:
			v.wrong("%s/%d@%d: %s was seen and is not there at the end", s.Topic, s.Partition, s.Record.Offset, pair(s.Record.Key, s.Record.Value))
		case !bytes.Equal(records[i].Key, s.Record.Key) || !bytes.Equal(records[i].Value, s.Record.Value):
			v.wrong("%s/%d@%d: %s was seen, %s is there at the end", s.Topic, s.Partition, s.Record.Offset,
				pair(s.Record.Key, s.Record.Value), pair(records[i].Key, records[i].Value))
			i++
		default:
			i++
		}
		next[s.Partition] = i
	}
	return v
}
