package changelog_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/devkafka"
	"github.com/millrace-io/millrace/internal/fault"
)

// intercept answers fetches in the broker's place: f fills the answer of one partition, or returns false to let the whole
// request through.
func (c cluster) intercept(f func(from int64, p *kmsg.FetchResponseTopicPartition) bool) {
	c.fake.Cluster().ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.fake.Cluster().KeepControl()
		req := kreq.(*kmsg.FetchRequest)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewFetchResponseTopicPartition()
				rp.Partition = p.Partition
				if !f(p.FetchOffset, &rp) {
					return nil, nil, false
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

// Compaction took everything below the end, and the producer's last batches too: the log simply has nothing more to say
// although its high watermark is far off. No record, no marker, no empty batch.
func TestRestoreEndsInHole(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	c.writer(t).txn(kgo.TryCommit, put(topic, 0, "a", "1"))
	part := c.part(t, "s", topic, 0, -1)
	part.End = 1000
	var empty atomic.Int32
	c.intercept(func(from int64, p *kmsg.FetchResponseTopicPartition) bool {
		if from < 2 {
			return false
		}
		empty.Add(1)
		p.HighWatermark, p.LastStableOffset, p.LogStartOffset = 1000, 1000, 0
		return true
	})
	r := c.restorer(t, changelog.RestorerConfig{})
	target := newMapTarget(1)
	began := time.Now()
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
	if res.Err != nil || res.Positions[0] != 1000 || target.next[0] != 1000 || target.rows[0]["a"] != "1" {
		t.Errorf("%+v, target at %d with %v", res, target.next[0], target.rows[0])
	}
	if took := time.Since(began); took > 5*time.Second { // giving up takes ten
		t.Errorf("took %s", took)
	}
	if n := empty.Load(); n < 2 {
		t.Errorf("believed after %d empty answers", n)
	}
}

// An empty answer proves nothing while a quota or another partition's bytes may be the reason.
func TestRestoreDoesNotTakeThrottlingForTheEnd(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	c.writer(t).txn(kgo.TryCommit, put(topic, 0, "a", "1"))
	part := c.part(t, "s", topic, 0, -1)
	var throttled atomic.Int32
	c.fake.Cluster().ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		if throttled.Add(1) > 5 {
			return nil, nil, false
		}
		c.fake.Cluster().KeepControl()
		req := kreq.(*kmsg.FetchRequest)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		resp.ThrottleMillis = 1
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.HighWatermark, rp.LastStableOffset = part.End, part.End
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	r := c.restorer(t, changelog.RestorerConfig{})
	target := newMapTarget(1)
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
	if res.Err != nil || target.rows[0]["a"] != "1" {
		t.Errorf("%+v, rows %v", res, target.rows[0])
	}
}

// The log was longer a moment ago: committed records are gone, and nobody may take the rest for the state.
func TestRestoreOfTruncatedLog(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	c.writer(t).txn(kgo.TryCommit, put(topic, 0, "a", "1"))
	part := c.part(t, "s", topic, 0, -1)
	part.End += 5
	r := c.restorer(t, changelog.RestorerConfig{GiveUpAfter: 200 * time.Millisecond})
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: newMapTarget(1)}))
	if fault.Code(res.Err) != "changelog/truncated" || fault.ExitCode(res.Err) != 3 {
		t.Errorf("%v", res.Err)
	}
}

// batchOf is a record batch's header with n offsets from first on and nothing sensible behind it.
func batchOf(first int64, n int32, magic byte) []byte {
	b := make([]byte, 61)
	binary.BigEndian.PutUint64(b, uint64(first))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = magic
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	return b
}

// An answer that does not decode is asked for again; nothing behind it is applied before it.
func TestRestoreOfUndecodableRecords(t *testing.T) {
	for _, k := range []struct {
		name    string
		answers int32
		batch   []byte
		code    string
	}{
		{"once", 1, batchOf(0, 10, 2), ""},
		{"often", 1 << 20, batchOf(0, 10, 2), "changelog/corrupt"},
		{"of an old format", 1 << 20, batchOf(0, 10, 1), "changelog/corrupt"},
		{"cut off", 1 << 20, batchOf(0, 10, 2)[:40], "changelog/corrupt"},
	} {
		t.Run(k.name, func(t *testing.T) {
			c := embedded(t, devkafka.Options{})
			topic := c.topic(t, 1)
			w := c.writer(t)
			want := map[string]string{}
			for n := range 20 {
				w.txn(kgo.TryCommit, put(topic, 0, fmt.Sprint("k", n), "v"))
				want[fmt.Sprint("k", n)] = "v"
			}
			part := c.part(t, "s", topic, 0, -1)
			var n atomic.Int32
			c.intercept(func(from int64, p *kmsg.FetchResponseTopicPartition) bool {
				if from > 0 || n.Add(1) > k.answers {
					return false
				}
				p.HighWatermark, p.LastStableOffset, p.RecordBatches = part.End, part.End, k.batch
				return true
			})
			patience := 200 * time.Millisecond
			if k.code == "" {
				patience = time.Minute
			}
			r := c.restorer(t, changelog.RestorerConfig{GiveUpAfter: patience})
			target := newMapTarget(1)
			res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
			if fault.Code(res.Err) != k.code {
				t.Fatalf("%v, want %q", res.Err, k.code)
			}
			if k.code != "" {
				if target.applied != 0 {
					t.Errorf("rows from behind the gap were applied: %v", target.rows[0])
				}
				return
			}
			sameRows(t, "after asking again", target.rows[0], want)
		})
	}
}

// What is fetched and not yet applied stays within the limit, whatever the number of partitions.
func TestRestoreMemoryIsBounded(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	const parts = 12
	topic := c.topic(t, parts)
	w := c.writer(t, kgo.ProducerBatchCompression(kgo.NoCompression()))
	value := string(make([]byte, 100<<10))
	var asked []changelog.Part
	for p := range int32(parts) {
		records := make([]kgo.Record, 10)
		for i := range records {
			records[i] = put(topic, p, fmt.Sprint(i), value)
		}
		w.txn(kgo.TryCommit, records...)
		asked = append(asked, c.part(t, fmt.Sprint(p), topic, p, -1))
	}
	const limit = 2 << 20
	r := c.restorer(t, changelog.RestorerConfig{MaxBytes: limit})
	target := newMapTarget(parts)
	var most int64
	target.onApply = func(int) error {
		most = max(most, r.ReservedForTest())
		return nil
	}
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: asked, Target: target}))
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	// A broker may answer with one batch more than it was allowed.
	if most > limit+1<<20 {
		t.Errorf("%d bytes held, the limit is %d", most, limit)
	}
	if n := r.ReservedForTest(); n != 0 {
		t.Errorf("%d bytes are held after the end", n)
	}
	for p := range target.rows {
		if len(target.rows[p]) != 10 {
			t.Errorf("partition %d has %d rows", p, len(target.rows[p]))
		}
	}
}

// What was written after the end was listed is not what was asked for.
func TestRestoreStopsAtItsEnd(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic := c.topic(t, 1)
		w := c.writer(t)
		w.txn(kgo.TryCommit, put(topic, 0, "a", "1"), put(topic, 0, "b", "1"), put(topic, 0, "a", "2"), put(topic, 0, "c", "1"))
		part := c.part(t, "s", topic, 0, -1)
		part.End = 2 // in the middle of a batch
		r := c.restorer(t, changelog.RestorerConfig{})
		target := newMapTarget(1)
		res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
		if res.Err != nil || res.Positions[0] != 2 || target.next[0] != 2 {
			t.Errorf("%+v, target at %d", res, target.next[0])
		}
		sameRows(t, "up to the end", target.rows[0], map[string]string{"a": "1", "b": "1"})
		part.From, part.End = 2, 4
		if res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target})); res.Err != nil {
			t.Fatal(res.Err)
		}
		sameRows(t, "the rest", target.rows[0], map[string]string{"a": "2", "b": "1", "c": "1"})
	})
}

// A rebuild is decided while an answer of the time before is being applied. 1. The first store applies its last answer; 2. the
// second store's log turns out to have lost its start; 3. the answer of 1 has been applied; 4. the copy is cleared. If 3
// counted, the first store would be done, and empty.
func TestRebuildForgetsWhatIsUnderWay(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	whole, cut := c.topic(t, 1), c.topic(t, 1)
	w := c.writer(t)
	w.txn(kgo.TryCommit, put(whole, 0, "a", "1"))
	w.txn(kgo.TryCommit, put(cut, 0, "x", "1"))
	w.txn(kgo.TryCommit, put(cut, 0, "y", "1"))
	c.deleteRecords(t, cut, 0, 2)

	// Nobody gets to the second log before the first one is being applied.
	closed := c.fake.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: cut.Name, Err: kerr.NotLeaderForPartition, Count: -1})
	decided := make(chan struct{})
	target := newMapTarget(2)
	target.onApply = func(applied int) error {
		if applied == 0 {
			closed.Remove()
			<-decided
		}
		return nil
	}
	r := c.restorer(t, changelog.RestorerConfig{Log: slog.New(&onWarn{slog.DiscardHandler, "local copy dropped", decided})})
	parts := []changelog.Part{c.part(t, "whole", whole, 0, -1), c.part(t, "cut", cut, 0, 0)}
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: parts, Target: target}))
	if res.Err != nil || target.rebuilds != 1 {
		t.Fatalf("%+v, %d rebuilds", res, target.rebuilds)
	}
	sameRows(t, "whole", target.rows[0], map[string]string{"a": "1"})
	sameRows(t, "cut", target.rows[1], map[string]string{"y": "1"})
}

// onWarn closes a channel at the first warning with some words in it.
type onWarn struct {
	slog.Handler
	words string
	seen  chan struct{}
}

func (o *onWarn) Enabled(context.Context, slog.Level) bool { return true }

func (o *onWarn) Handle(_ context.Context, r slog.Record) error {
	if o.words != "" && strings.Contains(r.Message, o.words) {
		o.words = ""
		close(o.seen)
	}
	return nil
}
