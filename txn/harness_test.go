package txn

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// bench is a cluster with an input topic, an output topic and a group, and the tools to look at them from outside.
type bench struct {
	t       testing.TB
	ctx     context.Context
	fake    *kfake.Cluster // nil against a real cluster
	addrs   []string
	in, out string
	inID    [16]byte
	group   string
	txnID   TransactionalID
	timeout time.Duration
	cl      *kgo.Client
}

// newFake starts a broker in this process.
func newFake(t testing.TB, opts ...kfake.Opt) *bench {
	t.Helper()
	fake, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(2),
		// Its cleaner drops committed data under open transactions.
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "86400000"}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	b := newBench(t, fake.ListenAddrs())
	b.fake = fake
	return b
}

// newAny uses the cluster that MILLRACE_TEST_BROKERS names, or starts a broker in this process.
func newAny(t testing.TB) *bench {
	t.Helper()
	if addrs := os.Getenv("MILLRACE_TEST_BROKERS"); addrs != "" {
		return newBench(t, strings.Split(addrs, ","))
	}
	return newFake(t)
}

func newBench(t testing.TB, addrs []string) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	unique := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	b := &bench{
		t: t, ctx: ctx, addrs: addrs, in: "in-" + unique, out: "out-" + unique, group: "g-" + unique, timeout: 20 * time.Second,
	}
	var err error
	if b.txnID, err = NewTransactionalID("app-"+unique, "one", 0, 0); err != nil {
		t.Fatal(err)
	}
	b.cl = b.client()
	made, err := kadm.NewClient(b.cl).CreateTopics(ctx, 2, 1, nil, b.in, b.out)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Error(); err != nil {
		t.Fatal(err)
	}
	b.inID = made[b.in].ID
	return b
}

func (b *bench) opts() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(b.addrs...),
		kgo.RetryTimeout(5 * time.Second),
		kgo.DialTimeout(2 * time.Second),
	}
}

func (b *bench) client(opts ...kgo.Opt) *kgo.Client {
	b.t.Helper()
	cl, err := kgo.NewClient(append(b.opts(), opts...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(cl.Close)
	return cl
}

func (b *bench) producer(change ...func(*Config)) *Producer {
	b.t.Helper()
	c := Config{
		TransactionalID: b.txnID.String(), Group: b.group, Client: b.opts(), Timeout: b.timeout,
		Log: slog.New(slog.NewTextHandler(testWriter{b.t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, f := range change {
		f(&c)
	}
	p, err := NewProducer(c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = p.Close() })
	return p
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (b *bench) begin(p *Producer) *Txn {
	b.t.Helper()
	t, err := p.Begin(b.ctx)
	if err != nil {
		b.t.Fatalf("Begin: %v", err)
	}
	return t
}

// send produces the values, alternating between the output's two partitions.
func (b *bench) send(t *Txn, values ...string) {
	for i, v := range values {
		t.Produce(&kgo.Record{Topic: b.out, Partition: int32(i % 2), Value: []byte(v), Timestamp: time.UnixMilli(1_700_000_000_000)})
	}
}

// at is the offset of input partition 0; prev is the commit id it held before.
func (b *bench) at(offset int64, prev CommitID) []Offset {
	return []Offset{{
		Topic: b.in, TopicID: b.inID, Partition: 0, Offset: offset, LeaderEpoch: -1, StreamTime: offset * 10, Now: offset * 100, Previous: prev,
	}}
}

// committed reads the output as its consumers do, to the high watermark.
func (b *bench) committed() []string {
	b.t.Helper()
	return b.read(b.out)
}

func (b *bench) read(topic string) []string {
	b.t.Helper()
	ends, err := kadm.NewClient(b.cl).ListEndOffsets(b.ctx, topic)
	if err != nil {
		b.t.Fatal(err)
	}
	left := make(map[int32]int64)
	at := map[string]map[int32]kgo.Offset{topic: {}}
	for num, o := range ends[topic] {
		if o.Err != nil {
			b.t.Fatal(o.Err)
		}
		if o.Offset > 0 {
			left[num] = o.Offset
			at[topic][num] = kgo.NewOffset().At(0)
		}
	}
	if len(left) == 0 {
		return nil
	}
	cl := b.client(kgo.ConsumePartitions(at), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(100*time.Millisecond))
	defer cl.Close()
	var values []string
	for len(left) > 0 {
		fs := cl.PollFetches(b.ctx)
		if err := fs.Err0(); err != nil {
			b.t.Fatalf("reading %s, left %v: %v", topic, left, err)
		}
		fs.EachError(func(topic string, num int32, err error) { b.t.Fatalf("reading %s/%d: %v", topic, num, err) })
		fs.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				values = append(values, string(r.Value))
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return values
}

// stable is what the group holds for input partition 0, waiting out an open transaction.
func (b *bench) stable() Stable {
	b.t.Helper()
	for {
		got, err := StableOffsets(b.ctx, b.cl, b.group, map[string][]int32{b.in: {0}})
		if err == nil {
			return got[b.in][0]
		}
		if IsFatal(err) || b.ctx.Err() != nil { // else it is unstable, or the topic is too new for the broker asked
			b.t.Fatal(err)
		}
		(&backoff{min: 20 * time.Millisecond, max: 20 * time.Millisecond}).wait(b.ctx)
	}
}

// unstable reports whether an open transaction holds the offset now.
func (b *bench) unstable() bool {
	b.t.Helper()
	_, err := StableOffsets(b.ctx, b.cl, b.group, map[string][]int32{b.in: {0}})
	if err != nil && !errors.Is(err, ErrUnstable) {
		b.t.Fatal(err)
	}
	return err != nil
}

// wantOutput asserts that the output holds exactly these values, each once.
func (b *bench) wantOutput(want ...string) {
	b.t.Helper()
	got := make(map[string]int)
	for _, v := range b.committed() {
		got[v]++
	}
	for _, v := range want {
		if got[v] != 1 {
			b.t.Errorf("value %q is in the output %d times, want once", v, got[v])
		}
		delete(got, v)
	}
	for v, n := range got {
		b.t.Errorf("value %q is in the output %d times, want never", v, n)
	}
}

// owner is an Ownership for tests: by default a committer outside of any group protocol, who owns everything.
type owner struct {
	mu        sync.Mutex
	member    Member
	err       error
	lost      map[int32]bool
	asked     int
	authorize func(n int) (Member, error)
}

func anybody() *owner { return &owner{member: Member{Generation: -1}} }

func (o *owner) Authorize() (Member, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.authorize != nil {
		return o.authorize(o.asked)
	}
	return o.member, o.err
}

func (o *owner) Owned(_ string, num int32) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.lost[num]
}

// join makes a member of the group that owns the input, and returns the client and what it may commit with.
func (b *bench) join() (*kgo.Client, Member) {
	b.t.Helper()
	assigned := make(chan struct{}, 16)
	cl := b.client(kgo.ConsumerGroup(b.group), kgo.ConsumeTopics(b.in), kgo.DisableAutoCommit(),
		kgo.HeartbeatInterval(50*time.Millisecond),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { assigned <- struct{}{} }))
	polled, stop := context.WithCancel(b.ctx)
	b.t.Cleanup(stop)
	go func() {
		for polled.Err() == nil {
			cl.PollFetches(polled)
		}
	}()
	select {
	case <-assigned:
	case <-b.ctx.Done():
		b.t.Fatal("no assignment")
	}
	return cl, memberOf(cl)
}

func memberOf(cl *kgo.Client) Member {
	id, gen := cl.GroupMetadata()
	return Member{ID: id, Generation: gen}
}

// key is shorthand for a request key.
func key(k kmsg.Key) int16 { return k.Int16() }
