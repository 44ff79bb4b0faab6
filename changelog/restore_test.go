package changelog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
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
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/store"
)

// mapTarget is a local copy in a map per part. It checks what a Target may rely on.
type mapTarget struct {
	mu       sync.Mutex
	rows     []map[string]string
	next     []int64
	rebuilds int
	finished int
	applied  int
	onApply  func(applied int) error // called before each Apply
	busy     atomic.Int32
}

func newMapTarget(parts int) *mapTarget {
	m := &mapTarget{next: make([]int64, parts)}
	for range parts {
		m.rows = append(m.rows, map[string]string{})
	}
	return m
}

func (m *mapTarget) Apply(part int, rows []store.Mutation, next int64) error {
	if m.busy.Add(1) != 1 {
		return errors.New("two goroutines in one target")
	}
	defer m.busy.Add(-1)
	if m.onApply != nil {
		if err := m.onApply(m.applied); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied++
	if next < m.next[part] {
		return fmt.Errorf("part %d went back from %d to %d", part, m.next[part], next)
	}
	m.next[part] = next
	for _, r := range rows {
		if r.Delete {
			delete(m.rows[part], string(r.Key))
		} else {
			m.rows[part][string(r.Key)] = string(r.Value)
		}
	}
	return nil
}

func (m *mapTarget) Finish() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finished++
	return nil
}

func (m *mapTarget) Rebuild(error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rebuilds++
	for i := range m.rows {
		m.rows[i] = map[string]string{}
		m.next[i] = 0
	}
	return nil
}

// restorer makes one that is closed with the test.
func (c cluster) restorer(t testing.TB, config changelog.RestorerConfig) *changelog.Restorer {
	t.Helper()
	config.Client = append(config.Client, kgo.SeedBrokers(c.addrs...))
	r, err := changelog.NewRestorer(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// part asks for everything of a log.
func (c cluster) part(t testing.TB, store string, topic changelog.Topic, partition int32, from int64) changelog.Part {
	t.Helper()
	return changelog.Part{
		Store: store, Topic: topic.Name, ID: topic.ID, Partition: partition, From: from, End: c.ends(t, topic, partition).End,
		DeleteRetention: topic.DeleteRetention,
	}
}

// fold writes a history of transactions, some of them aborted, with overwritten and deleted keys, and returns what must be
// left of it.
func fold(w writer, topic changelog.Topic, partition int32, txns int) map[string]string {
	w.t.Helper()
	want := map[string]string{}
	for n := range txns {
		records := make([]kgo.Record, 0, 20)
		abort := n%3 == 2
		for i := range 20 {
			key, value := fmt.Sprintf("k%03d", (n*7+i)%100), fmt.Sprintf("v%d.%d.%d", partition, n, i)
			if (n+i)%5 == 0 {
				value = ""
			}
			records = append(records, put(topic, partition, key, value))
			switch {
			case abort:
			case value == "":
				delete(want, key)
			default:
				want[key] = value
			}
		}
		w.txn(kgo.TransactionEndTry(!abort), records...)
	}
	return want
}

func sameRows(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %d rows, want %d; contents differ", what, len(got), len(want))
	}
}

// Two stores of four tasks at once: every copy equals the fold of what was committed, aborted writes never show, deleted
// keys are gone.
func TestRestoreManyTasksAtOnce(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topics := []changelog.Topic{c.topic(t, 4), c.topic(t, 4)}
		w := c.writer(t)
		r := c.restorer(t, changelog.RestorerConfig{})
		type task struct {
			target *mapTarget
			want   []map[string]string
			done   <-chan changelog.Result
			ends   []int64
		}
		var tasks []task
		for p := range int32(4) {
			k := task{target: newMapTarget(2)}
			var parts []changelog.Part
			for s, topic := range topics {
				k.want = append(k.want, fold(w, topic, p, 9+int(p)+s))
				part := c.part(t, fmt.Sprint("store", s), topic, p, -1)
				parts = append(parts, part)
				k.ends = append(k.ends, part.End)
			}
			k.done = r.Add(t.Context(), changelog.Request{Task: fmt.Sprint("counts/", p), Parts: parts, Target: k.target})
			tasks = append(tasks, k)
		}
		for p, k := range tasks {
			res := result(t, k.done)
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			for s := range topics {
				sameRows(t, fmt.Sprint("task ", p, " store ", s), k.target.rows[s], k.want[s])
				if res.Positions[s] != k.ends[s] || k.target.next[s] != k.ends[s] {
					t.Errorf("task %d store %d ends at %d, the target at %d, want %d", p, s, res.Positions[s], k.target.next[s], k.ends[s])
				}
			}
		}
	})
}

// The last 1000 offsets of the log are aborted: no record is ever delivered from there, and the restore ends all the same,
// at once.
func TestRestoreEndsBehindAbortedTail(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic := c.topic(t, 1)
		w := c.writer(t)
		w.txn(kgo.TryCommit, put(topic, 0, "a", "1"))
		for range 10 {
			records := make([]kgo.Record, 99) // and a marker
			for i := range records {
				records[i] = put(topic, 0, "a", "never")
			}
			w.txn(kgo.TryAbort, records...)
		}
		part := c.part(t, "s", topic, 0, -1)
		if part.End != 1002 {
			t.Fatalf("the log ends at %d, want 1002", part.End)
		}
		r := c.restorer(t, changelog.RestorerConfig{})
		for _, from := range []int64{-1, 2, 500, 1001} {
			part.From = from
			target := newMapTarget(1)
			began := time.Now()
			res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
			if res.Err != nil || res.Positions[0] != part.End {
				t.Fatalf("from %d: ended at %v, %v", from, res.Positions, res.Err)
			}
			if took := time.Since(began); took > 5*time.Second { // giving up takes ten
				t.Errorf("from %d: took %s", from, took)
			}
			if from < 0 && target.rows[0]["a"] != "1" || from >= 0 && len(target.rows[0]) != 0 {
				t.Errorf("from %d: rows %v", from, target.rows[0])
			}
		}
	})
}

// An open transaction holds the last stable offset below the end. What it wrote may be committed the next moment, so the
// restore waits for it, says so, and gets it.
func TestRestoreGoesToHighWatermark(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		for _, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
			topic := c.topic(t, 1)
			w, open := c.writer(t), c.writer(t)
			w.txn(kgo.TryCommit, put(topic, 0, "k", "before"))
			open.begin(put(topic, 0, "k", "open"))
			part := c.part(t, "s", topic, 0, -1)
			stalled := make(chan changelog.Stall, 100)
			r := c.restorer(t, changelog.RestorerConfig{StalledAfter: 50 * time.Millisecond, Stalled: func(s changelog.Stall) { stalled <- s }})
			target := newMapTarget(1)
			done := r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target})
			for range 3 { // it keeps saying so
				select {
				case s := <-stalled:
					if s.LastStableOffset != 2 || s.HighWatermark != 3 || s.Topic != topic.Name || s.Task != "t" {
						t.Fatalf("stall %+v, want last stable offset 2 and high watermark 3", s)
					}
				case res := <-done:
					t.Fatalf("ended below the high watermark: %+v", res)
				}
			}
			open.end(commit)
			res := result(t, done)
			if res.Err != nil || res.Positions[0] < part.End {
				t.Fatalf("%+v", res)
			}
			want := "open"
			if commit == kgo.TryAbort {
				want = "before"
			}
			if got := target.rows[0]["k"]; got != want {
				t.Errorf("k = %q, want %q", got, want)
			}
		}
	})
}

// A restore that is interrupted anywhere and goes on from its position ends with the same rows.
func TestRestoreResumes(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic := c.topic(t, 1)
		want := fold(c.writer(t), topic, 0, 30)
		part := c.part(t, "s", topic, 0, -1)
		target := newMapTarget(1)
		stop := errors.New("interrupted")
		rounds := 0
		for {
			target.applied = 0
			target.onApply = func(applied int) error {
				if applied == 2 {
					return stop
				}
				return nil
			}
			r := c.restorer(t, changelog.RestorerConfig{BatchRows: 30})
			res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
			r.Close()
			part.From = target.next[0]
			rounds++
			if res.Err == nil {
				break
			}
			if !errors.Is(res.Err, stop) {
				t.Fatal(res.Err)
			}
		}
		if rounds < 3 {
			t.Errorf("interrupted %d times only", rounds-1)
		}
		sameRows(t, "resumed", target.rows[0], want)
		if target.next[0] != part.End {
			t.Errorf("position %d, want %d", target.next[0], part.End)
		}
	})
}

// Records deleted from the log that the copy has not seen: it cannot be continued.
func TestRestoreRebuildsWhenTheLogStartPassedIt(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic, other := c.topic(t, 1), c.topic(t, 1)
		w := c.writer(t)
		w.txn(kgo.TryCommit, put(topic, 0, "gone", "x"), put(topic, 0, "a", "1"))
		w.txn(kgo.TryCommit, put(topic, 0, "gone", ""))
		w.txn(kgo.TryCommit, put(topic, 0, "a", "2"), put(topic, 0, "b", "3"))
		w.txn(kgo.TryCommit, put(other, 0, "o", "4"))
		target := newMapTarget(2)
		target.rows[0]["gone"] = "x"
		target.rows[1]["o"] = "4"
		c.deleteRecords(t, topic, 0, 5)
		var progress []observe.RestoreProgress
		r := c.restorer(t, changelog.RestorerConfig{Progress: func(p observe.RestoreProgress) { progress = append(progress, p) }})
		// The second store is complete; it is rebuilt with the first.
		parts := []changelog.Part{c.part(t, "s", topic, 0, 2), c.part(t, "o", other, 0, 2)}
		res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: parts, Target: target}))
		r.Close()
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		if code := fault.Code(res.Rebuilt); code != "changelog/start-passed" {
			t.Errorf("rebuilt because of %q (%v)", code, res.Rebuilt)
		}
		sameRows(t, "rebuilt", target.rows[0], map[string]string{"a": "2", "b": "3"})
		sameRows(t, "its neighbour", target.rows[1], map[string]string{"o": "4"})
		last := progress[len(progress)-1]
		if !last.Done || !last.Rebuild {
			t.Errorf("last progress %+v does not tell of the rebuild", last)
		}
	})
}

// What the request alone gives away: a position beyond the end, a checkpoint older than tombstones live.
func TestRestoreDistrustsCheckpoint(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	c.writer(t).txn(kgo.TryCommit, put(topic, 0, "a", "1"), put(topic, 0, "b", "2"))
	r := c.restorer(t, changelog.RestorerConfig{})
	day := (24 * time.Hour).Milliseconds()
	for _, k := range []struct {
		name     string
		from     int64
		age      int64
		rebuilds int
		code     string
	}{
		{"young", 1, day / 3, 0, ""},
		{"old", 1, day/2 + 1, 1, "changelog/checkpoint-old"},
		{"old, but nothing to read", 3, 10 * day, 0, ""},
		{"beyond the end", 4, 0, 1, "changelog/checkpoint-ahead"},
	} {
		target := newMapTarget(1)
		target.rows[0]["old"] = "o"
		res := result(t, r.Add(t.Context(), changelog.Request{
			Task: "t", Parts: []changelog.Part{c.part(t, "s", topic, 0, k.from)}, Target: target, Now: 100 * day, WallTime: 100*day - k.age,
		}))
		if res.Err != nil || target.rebuilds != k.rebuilds || fault.Code(res.Rebuilt) != k.code {
			t.Errorf("%s: %d rebuilds, %q, %v; want %d, %q", k.name, target.rebuilds, fault.Code(res.Rebuilt), res.Err, k.rebuilds, k.code)
		}
		if _, kept := target.rows[0]["old"]; kept != (k.rebuilds == 0) {
			t.Errorf("%s: the old row is there: %v", k.name, kept)
		}
	}
}

// Everything in the log was deleted: there is nothing to read and the end is reached.
func TestRestoreOfEmptiedLog(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic := c.topic(t, 1)
		c.writer(t).txn(kgo.TryCommit, put(topic, 0, "a", "1"))
		c.deleteRecords(t, topic, 0, 2)
		r := c.restorer(t, changelog.RestorerConfig{})
		for _, from := range []int64{-1, 0} {
			target := newMapTarget(1)
			res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{c.part(t, "s", topic, 0, from)}, Target: target}))
			if res.Err != nil || res.Positions[0] != 2 || len(target.rows[0]) != 0 {
				t.Errorf("from %d: %+v, rows %v", from, res, target.rows[0])
			}
		}
	})
}

// A topic of the same name is not the same topic.
func TestRestoreRefusesRecreatedTopic(t *testing.T) {
	eachCluster(t, func(t *testing.T, c cluster) {
		topic := c.topic(t, 1)
		w := c.writer(t)
		w.txn(kgo.TryCommit, put(topic, 0, "a", "1"), put(topic, 0, "b", "1"))
		part := c.part(t, "s", topic, 0, 1)
		r := c.restorer(t, changelog.RestorerConfig{})
		if res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: newMapTarget(1)})); res.Err != nil {
			t.Fatal(res.Err)
		}
		c.recreate(t, topic)
		anew := topic
		anew.ID = [16]byte{}
		c.writer(t).txn(kgo.TryCommit, put(anew, 0, "c", "2"), put(anew, 0, "d", "2"))
		target := newMapTarget(1)
		// r has read the old topic and knows its id: it must find out by itself.
		res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
		if fault.Code(res.Err) != "topic/recreated" || !strings.Contains(res.Err.Error(), idText(topic.ID)) {
			t.Errorf("%v", res.Err)
		}
		if target.applied != 0 {
			t.Error("rows of the new topic were applied to the old state")
		}
	})
}

// A task whose target fails, one that is removed, and one whose caller gives up: the others notice nothing.
func TestRestoreTasksAreIndependent(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 4)
	w := c.writer(t)
	var want []map[string]string
	for p := range int32(4) {
		want = append(want, fold(w, topic, p, 12))
	}
	r := c.restorer(t, changelog.RestorerConfig{BatchRows: 10})
	full := errors.New("disk full")
	held := make(chan struct{})
	reached := make(chan struct{}, 2)
	targets := make([]*mapTarget, 4)
	done := make([]<-chan changelog.Result, 4)
	gaveUp, giveUp := context.WithCancelCause(t.Context())
	for p := range int32(4) {
		targets[p] = newMapTarget(1)
		ctx := t.Context()
		switch p {
		case 0:
			targets[p].onApply = func(n int) error {
				if n == 3 {
					return full
				}
				return nil
			}
		case 1, 2:
			targets[p].onApply = func(n int) error {
				if n == 3 {
					reached <- struct{}{}
					<-held
				}
				return nil
			}
			if p == 2 {
				ctx = gaveUp
			}
		}
		done[p] = r.Add(ctx, changelog.Request{Task: fmt.Sprint(p), Parts: []changelog.Part{c.part(t, "s", topic, p, -1)}, Target: targets[p]})
	}
	if res := result(t, done[0]); !errors.Is(res.Err, full) {
		t.Errorf("task 0: %v", res.Err)
	}
	// Tasks 1 and 2 are in the middle of Apply: 3 ends while they are stuck.
	<-reached
	<-reached
	if res := result(t, done[3]); res.Err != nil {
		t.Errorf("task 3: %v", res.Err)
	}
	sameRows(t, "task 3", targets[3].rows[0], want[3])

	enough := errors.New("enough")
	giveUp(enough)
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		r.Remove("1")
	}()
	select {
	case <-removed:
		t.Error("Remove returned while the target was in use")
	case <-done[2]:
		t.Error("the result came while the target was in use")
	case res := <-r.Add(t.Context(), changelog.Request{Task: "4", Parts: []changelog.Part{c.part(t, "s", topic, 3, -1)}, Target: newMapTarget(1)}):
		if res.Err != nil { // a whole other restore came and went meanwhile
			t.Error(res.Err)
		}
	}
	close(held)
	<-removed
	if res := result(t, done[1]); !errors.Is(res.Err, changelog.ErrRestoreRemoved) {
		t.Errorf("task 1: %v", res.Err)
	}
	if res := result(t, done[2]); !errors.Is(res.Err, enough) {
		t.Errorf("task 2: %v", res.Err)
	}
	if targets[1].finished+targets[2].finished != 0 {
		t.Error("a restore that did not reach its end was finished")
	}
	// What was removed goes on later from where it was.
	for p := range int32(3) {
		targets[p].onApply = nil
		res := result(t, r.Add(t.Context(), changelog.Request{Task: fmt.Sprint(p), Parts: []changelog.Part{c.part(t, "s", topic, p, targets[p].next[0])}, Target: targets[p]}))
		if res.Err != nil {
			t.Error(res.Err)
		}
		sameRows(t, fmt.Sprint("task ", p), targets[p].rows[0], want[p])
	}
}

func TestRestoreCloseEndsEverything(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	open := c.writer(t)
	open.begin(put(topic, 0, "a", "1"))
	r := c.restorer(t, changelog.RestorerConfig{})
	q := changelog.Request{Task: "t", Parts: []changelog.Part{c.part(t, "s", topic, 0, -1)}, Target: newMapTarget(1)}
	done := r.Add(t.Context(), q)
	if res := result(t, r.Add(t.Context(), q)); res.Err == nil {
		t.Error("the same task twice")
	}
	r.Close()
	if res := result(t, done); !errors.Is(res.Err, changelog.ErrRestorerClosed) {
		t.Errorf("%v", res.Err)
	}
	if res := result(t, r.Add(t.Context(), q)); !errors.Is(res.Err, changelog.ErrRestorerClosed) {
		t.Errorf("after Close: %v", res.Err)
	}
	r.Remove("t")
	r.Close()
	open.end(kgo.TryAbort)
}

// Finish is a part of the restore: while it lasts the restore is not over, its error is the restore's, and Remove waits.
func TestRestoreFinish(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	c.writer(t).txn(kgo.TryCommit, put(topic, 0, "a", "1"))
	r := c.restorer(t, changelog.RestorerConfig{})
	q := changelog.Request{Task: "t", Parts: []changelog.Part{c.part(t, "s", topic, 0, -1)}}

	broken := errors.New("broken")
	q.Target = &finishing{mapTarget: newMapTarget(1), err: broken, begun: make(chan struct{})}
	if res := result(t, r.Add(t.Context(), q)); !errors.Is(res.Err, broken) {
		t.Errorf("%v", res.Err)
	}

	slow := &finishing{mapTarget: newMapTarget(1), begun: make(chan struct{}), hold: make(chan struct{})}
	q.Target = slow
	done := r.Add(t.Context(), q)
	<-slow.begun
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		r.Remove("t")
	}()
	other := q
	other.Task, other.Target = "other", newMapTarget(1)
	if res := result(t, r.Add(t.Context(), other)); res.Err != nil { // a whole other restore comes and goes meanwhile
		t.Error(res.Err)
	}
	select {
	case <-removed:
		t.Error("Remove returned while the target was in use")
	case <-done:
		t.Error("the result came while the target was in use")
	default:
	}
	close(slow.hold)
	<-removed
	if res := result(t, done); res.Err != nil && !errors.Is(res.Err, changelog.ErrRestoreRemoved) {
		t.Errorf("%v", res.Err)
	}
}

type finishing struct {
	*mapTarget
	err   error
	begun chan struct{}
	hold  chan struct{} // until it is closed; nil: no time at all
}

func (f *finishing) Finish() error {
	close(f.begun)
	if f.hold != nil {
		<-f.hold
	}
	return f.err
}

// Brokers come and go, leaders move, answers fail: the restore takes longer, nothing else.
func TestRestoreSurvivesBrokerTrouble(t *testing.T) {
	c := embedded(t, devkafka.Options{Brokers: 3})
	topic := c.topic(t, 3)
	w := c.writer(t)
	var parts []changelog.Part
	var want []map[string]string
	for p := range int32(3) {
		want = append(want, fold(w, topic, p, 12))
		parts = append(parts, c.part(t, fmt.Sprint(p), topic, p, -1))
	}
	fake := c.fake.Cluster()
	fake.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: 2},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.KafkaStorageError, Count: 2},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.UnknownServerError, TopLevel: true, Count: 1},
		kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.LeaderNotAvailable, Count: 1},
	)
	target := newMapTarget(3)
	target.onApply = func(n int) error {
		if n%4 == 1 {
			fake.ShufflePartitionLeaders()
		}
		return nil
	}
	r := c.restorer(t, changelog.RestorerConfig{BatchRows: 10})
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: parts, Target: target}))
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	if target.finished != 1 {
		t.Errorf("the target was finished %d times", target.finished)
	}
	for p := range want {
		sameRows(t, fmt.Sprint("partition ", p), target.rows[p], want[p])
	}
}

func TestRestoreOfMissingTopic(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	r := c.restorer(t, changelog.RestorerConfig{GiveUpAfter: 100 * time.Millisecond})
	res := result(t, r.Add(t.Context(), changelog.Request{
		Task: "t", Parts: []changelog.Part{{Store: "s", Topic: "not-there", From: -1, End: 10}}, Target: newMapTarget(1),
	}))
	if fault.Code(res.Err) != "topic/missing" {
		t.Errorf("%v", res.Err)
	}
}

// Progress never runs ahead of what was applied, never goes back without a rebuild, and ends with Done.
func TestRestoreProgress(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 1)
	w := c.writer(t)
	for n := range 20 {
		w.txn(kgo.TryCommit, put(topic, 0, fmt.Sprint("k", n), "v"), put(topic, 0, "x", "y"))
	}
	var told []observe.RestoreProgress
	target := newMapTarget(1)
	r := c.restorer(t, changelog.RestorerConfig{BatchRows: 2, ProgressEvery: time.Nanosecond, Progress: func(p observe.RestoreProgress) {
		target.mu.Lock()
		next := target.next[0]
		target.mu.Unlock()
		if p.Position > next {
			t.Errorf("progress says %d, applied is %d", p.Position, next)
		}
		told = append(told, p)
	}})
	part := c.part(t, "s", topic, 0, -1)
	res := result(t, r.Add(t.Context(), changelog.Request{Task: "t", Parts: []changelog.Part{part}, Target: target}))
	r.Close()
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	last := told[len(told)-1]
	if !last.Done || last.Remaining() != 0 || last.Records != 40 || last.Bytes == 0 || last.Task != "t" || last.Store != "s" || last.Rebuild {
		t.Errorf("last progress %+v", last)
	}
	for i := 1; i < len(told); i++ {
		if told[i].Position < told[i-1].Position || told[i-1].Done {
			t.Errorf("progress %+v after %+v", told[i], told[i-1])
		}
	}
}
