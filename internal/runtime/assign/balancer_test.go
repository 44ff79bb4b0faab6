package assign

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/processor"
)

// table is who reads what, as the clients' callbacks say. It notes every moment at which two read the same.
type table struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	reads   map[Partition]string
	echoes  map[string]Echo
	plans   []Plan
	wrong   []string
}

func newTable() *table {
	return &table{changed: make(chan struct{}), reads: map[Partition]string{}, echoes: map[string]Echo{}}
}

func (w *table) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *table) assigned(who string, ps map[string][]int32) {
	w.change(func() {
		for topic, list := range ps {
			for _, n := range list {
				p := Partition{topic, n}
				if other, taken := w.reads[p]; taken && other != who {
					w.wrong = append(w.wrong, fmt.Sprintf("%s goes to %s while %s reads it", p, who, other))
				}
				w.reads[p] = who
			}
		}
	})
}

func (w *table) revoked(who string, ps map[string][]int32) {
	w.change(func() {
		for topic, list := range ps {
			for _, n := range list {
				if p := (Partition{topic, n}); w.reads[p] == who {
					delete(w.reads, p)
				}
			}
		}
	})
}

// until waits for a condition and reports what it last said if that never comes.
func (w *table) until(t *testing.T, what string, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		w.mu.Lock()
		err, next := ok(), w.changed
		wrong := w.wrong
		w.mu.Unlock()
		if len(wrong) > 0 {
			t.Fatalf("%s: %s", what, strings.Join(wrong, "\n"))
		}
		if err == nil {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// shares counts tasks per member and fails if a partition is read by nobody or a task is torn apart. Called with the lock held.
func (w *table) shares(catalog []SubtopologySpec) (map[string]int, error) {
	n := map[string]int{}
	for _, s := range catalog {
		for i := range s.Tasks {
			who := w.reads[Partition{s.Sources[0], i}]
			for _, topic := range s.Sources {
				switch r := w.reads[Partition{topic, i}]; {
				case r == "":
					return nil, fmt.Errorf("%s/%d is read by nobody", topic, i)
				case r != who:
					return nil, fmt.Errorf("%s/%d is read by %s, %s/%d by %s", s.Sources[0], i, who, topic, i, r)
				}
			}
			n[who]++
		}
	}
	return n, nil
}

type groupClient struct {
	*kgo.Client
	name string
}

func (w *table) start(t *testing.T, addrs []string, name string, member Member, catalog []SubtopologySpec) *groupClient {
	t.Helper()
	member.Instance = name
	b := &Balancer{
		Local:   func() Member { return member },
		Catalog: func() []SubtopologySpec { return catalog },
		Observed: func(e Echo) {
			w.change(func() { w.echoes[name] = e })
		},
		Planned: func(p Plan) {
			w.change(func() { w.plans = append(w.plans, p) })
		},
	}
	var topics []string
	for _, s := range catalog {
		topics = append(topics, s.Sources...)
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(addrs...), kgo.ConsumerGroup("g"), kgo.ConsumeTopics(topics...), kgo.Balancers(b),
		kgo.DisableAutoCommit(), kgo.HeartbeatInterval(50*time.Millisecond), kgo.SessionTimeout(10*time.Second), kgo.RebalanceTimeout(10*time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) { w.assigned(name, ps) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) { w.revoked(name, ps) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) { w.revoked(name, ps) }),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &groupClient{cl, name}
}

func startBroker(t *testing.T, topics map[string]int32) []string {
	t.Helper()
	opts := []kfake.Opt{kfake.NumBrokers(1)}
	for topic, n := range topics {
		opts = append(opts, kfake.SeedTopics(n, topic))
	}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

var pair = []SubtopologySpec{
	{Name: "join", Hash: 1, Sources: []string{"orders", "payments"}, Stateful: true, Tasks: 6},
	{Name: "log", Hash: 2, Sources: []string{"log"}, Tasks: 3},
}

// TestGroup runs real members against a broker: one, three, two. No partition is ever read by two, and both inputs of a task are
// always with one.
func TestGroup(t *testing.T) {
	addrs := startBroker(t, map[string]int32{"orders": 6, "payments": 6, "log": 3})
	w := newTable()
	me := Member{Workers: 2, Guarantee: 1, Fingerprint: 7, Since: 1}
	share := func(want map[string]int) func() error {
		return func() error {
			n, err := w.shares(pair)
			if err == nil && !maps.Equal(n, want) {
				err = fmt.Errorf("tasks are shared %v, not %v", n, want)
			}
			if err != nil {
				return err
			}
			for who := range want {
				if e := w.echoes[who]; e.Err != nil || len(e.Instances) != len(want) || e.Withheld != 0 {
					return fmt.Errorf("%s knows of %v, %d withheld, %v", who, e.Instances, e.Withheld, e.Err)
				}
			}
			return nil
		}
	}
	w.start(t, addrs, "a", me, pair)
	w.until(t, "one member", share(map[string]int{"a": 9}))
	b := w.start(t, addrs, "b", me, pair)
	w.start(t, addrs, "c", me, pair)
	w.until(t, "three members", share(map[string]int{"a": 3, "b": 3, "c": 3}))

	w.mu.Lock()
	before := maps.Clone(w.reads)
	w.mu.Unlock()
	b.Close()
	w.until(t, "two members", func() error {
		n, err := w.shares(pair)
		if err != nil {
			return err
		}
		if n["a"]+n["c"] != 9 || n["a"] < 4 || n["c"] < 4 {
			return fmt.Errorf("tasks are shared %v", n)
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, who := range w.reads {
		if was := before[p]; was != "b" && was != who {
			t.Errorf("%s moved from %s to %s when b left", p, was, who)
		}
	}
	if e := w.echoes["a"]; e.Lives("b") || !e.Lives("c") || e.Instances[0].Workers != 2 {
		t.Errorf("a knows of %v", e.Instances)
	}
}

// TestGroupRefusesMixedGuarantees: the second member is told why it gets nothing; the first keeps what it has.
func TestGroupRefusesMixedGuarantees(t *testing.T) {
	addrs := startBroker(t, map[string]int32{"orders": 6, "payments": 6, "log": 3})
	w := newTable()
	w.start(t, addrs, "a", Member{Workers: 1, Guarantee: 1, Fingerprint: 7, Since: 1}, pair)
	w.until(t, "one member", func() error { _, err := w.shares(pair); return err })
	w.start(t, addrs, "b", Member{Workers: 1, Guarantee: 2, Fingerprint: 7, Since: 1}, pair)
	w.until(t, "refusal", func() error {
		for _, who := range []string{"a", "b"} {
			if e := w.echoes[who]; e.Refused == nil || fault.Code(e.Refused) != "group/mixed-guarantees" {
				return fmt.Errorf("%s was told %v", who, e.Refused)
			}
		}
		n, err := w.shares(pair)
		if err == nil && n["a"] != 9 {
			err = fmt.Errorf("tasks are shared %v", n)
		}
		return err
	})
}

// TestGroupUpgrade: the second member has another version of one subtopology. It gets its half of what both declare alike, and the
// rest when the first one leaves.
func TestGroupUpgrade(t *testing.T) {
	addrs := startBroker(t, map[string]int32{"orders": 6, "payments": 6, "log": 3})
	w := newTable()
	old := w.start(t, addrs, "a", Member{Workers: 1, Guarantee: 1, Fingerprint: 7, Since: 1}, pair)
	w.until(t, "one member", func() error { _, err := w.shares(pair); return err })
	next := slices.Clone(pair)
	next[1].Hash = 3
	w.start(t, addrs, "b", Member{Workers: 1, Guarantee: 1, Fingerprint: 8, Since: 2}, next)
	w.until(t, "both", func() error {
		n, err := w.shares(pair)
		if err == nil && n["a"] != 5 {
			err = fmt.Errorf("tasks are shared %v", n)
		}
		for i := range int32(3) {
			if r := w.reads[Partition{"log", i}]; r != "a" {
				err = fmt.Errorf("log/%d is read by %q", i, r)
			}
		}
		if e := w.echoes["a"]; e.Winner != 8 {
			err = fmt.Errorf("a takes %x for the newest", e.Winner)
		}
		return err
	})
	old.Close()
	w.until(t, "the new one alone", func() error {
		n, err := w.shares(next)
		if err == nil && n["b"] != 9 {
			err = fmt.Errorf("tasks are shared %v", n)
		}
		return err
	})
}

func metadata(t *testing.T, b *Balancer, interests []string, current map[string][]int32) (kmsg.ConsumerMemberMetadata, Member) {
	t.Helper()
	raw := b.JoinGroupMetadata(interests, current, 5)
	if again := b.JoinGroupMetadata(interests, current, 5); !bytes.Equal(raw, again) {
		t.Errorf("two joins say different things:\n%x\n%x", raw, again)
	}
	var meta kmsg.ConsumerMemberMetadata
	if err := meta.ReadFrom(raw); err != nil {
		t.Fatal(err)
	}
	m, err := parseMember(meta.UserData)
	if err != nil {
		t.Fatal(err)
	}
	return meta, m
}

// TestJoinGroupMetadata: every source is declared even before the client has found it, and the copy of a task that runs is not
// mentioned, since its position moves all the time.
func TestJoinGroupMetadata(t *testing.T) {
	at := int64(100)
	b := &Balancer{
		Local: func() Member {
			at++ // a task that runs goes on
			return Member{Workers: 1, Positions: []Position{
				{processor.TaskID{Subtopology: "join", Partition: 1}, at},
				{processor.TaskID{Subtopology: "join", Partition: 2}, 50},
			}}
		},
		Catalog: func() []SubtopologySpec { return pair },
	}
	meta, m := metadata(t, b, []string{"orders"}, map[string][]int32{"payments": {1, 0}, "orders": {1, 0}})
	if want := []string{"log", "orders", "payments"}; !slices.Equal(meta.Topics, want) {
		t.Errorf("topics %v", meta.Topics)
	}
	if len(meta.OwnedPartitions) != 2 || meta.OwnedPartitions[0].Topic != "orders" || !slices.Equal(meta.OwnedPartitions[0].Partitions, []int32{0, 1}) || meta.Generation != 5 {
		t.Errorf("claims %v of generation %d", meta.OwnedPartitions, meta.Generation)
	}
	if len(m.Positions) != 1 || m.Positions[0].Offset != 50 {
		t.Errorf("positions %v", m.Positions)
	}
}

// TestParseSyncAssignment: what the leader says is remembered for the next join; words that cannot be read leave the assignment
// standing and nobody taken for dead.
func TestParseSyncAssignment(t *testing.T) {
	var got Echo
	b := &Balancer{
		Local:    func() Member { return Member{Workers: 1} },
		Catalog:  func() []SubtopologySpec { return pair },
		Observed: func(e Echo) { got = e },
	}
	sync := func(words []byte) (map[string][]int32, error) {
		a := kmsg.NewConsumerMemberAssignment()
		topic := kmsg.NewConsumerMemberAssignmentTopic()
		topic.Topic, topic.Partitions = "log", []int32{0, 2}
		a.Topics, a.UserData = append(a.Topics, topic), words
		return b.ParseSyncAssignment(a.AppendTo(nil))
	}
	e := sampleEcho()
	ps, err := sync(appendEcho(nil, &e))
	if err != nil || !slices.Equal(ps["log"], []int32{0, 2}) || got.Generation != 42 || got.Err != nil {
		t.Fatalf("%v, %v, %+v", ps, err, got)
	}
	if _, m := metadata(t, b, nil, nil); !slices.Equal(m.Promised, e.Promised) || !slices.Equal(m.Known, e.Versions) {
		t.Errorf("the next join tells of %v and %v", m.Promised, m.Known)
	}
	ps, err = sync([]byte("garbage"))
	if err != nil || !slices.Equal(ps["log"], []int32{0, 2}) || got.Err == nil || got.Instances != nil {
		t.Fatalf("%v, %v, %+v", ps, err, got)
	}
	if _, m := metadata(t, b, nil, nil); len(m.Promised) != 0 || !slices.Equal(m.Known, e.Versions) {
		t.Errorf("the join after garbage tells of %v and %v", m.Promised, m.Known)
	}
	if _, err := b.ParseSyncAssignment([]byte{0}); err == nil {
		t.Error("half an assignment was read")
	}
}

// TestForeignMember: a member of another kind under our protocol name does not stop the group.
func TestForeignMember(t *testing.T) {
	b := &Balancer{Local: func() Member { return Member{Workers: 1, Guarantee: 1} }, Catalog: func() []SubtopologySpec { return pair }}
	foreign := kmsg.NewConsumerMemberMetadata()
	foreign.Version, foreign.Topics, foreign.UserData, foreign.Generation = 3, []string{"log"}, []byte("hello"), 4
	o := kmsg.NewConsumerMemberMetadataOwnedPartition()
	o.Topic, o.Partitions = "log", []int32{1}
	foreign.OwnedPartitions = append(foreign.OwnedPartitions, o)
	var plan Plan
	b.Planned = func(p Plan) { plan = p }
	lead, topics, err := b.MemberBalancer([]kmsg.JoinGroupResponseMember{
		{MemberID: "us", ProtocolMetadata: b.JoinGroupMetadata(nil, nil, -1)},
		{MemberID: "foreign", ProtocolMetadata: foreign.AppendTo(nil)},
		{MemberID: "nonsense", ProtocolMetadata: []byte{9}},
	})
	if err != nil || len(topics) != 3 {
		t.Fatalf("%v, %v", topics, err)
	}
	sync := lead.Balance(map[string]int32{"orders": 6, "payments": 6, "log": 3}).IntoSyncAssignment()
	if len(sync) != 3 || len(plan.Instances) != 1 {
		t.Fatalf("%v\n%v", sync, plan)
	}
	for _, a := range plan.Members {
		want := map[string]int{"us": 14, "foreign": 1, "nonsense": 0}[a.Member]
		if len(a.Partitions) != want {
			t.Errorf("%s gets %v", a.Member, a.Partitions)
		}
	}
}
