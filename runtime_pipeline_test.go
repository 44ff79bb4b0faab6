package millrace_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/topology"
)

// stage is a cluster on which the two producers of one worker are watched: every request of theirs is noted, and one can be
// held up.
type stage struct {
	t     *testing.T
	c     *kfake.Cluster
	addrs []string
	w     *watcher
	cl    *kgo.Client // feeds

	mu     sync.Mutex
	acts   []act
	news   chan struct{} // closed at each act
	hold   *hold
	handed map[string]int // words that a handler has seen, by key
	beats  int
	aborts int
}

// act is a request that was about to be handled.
type act struct {
	key    kmsg.Key
	slot   int // -1: not of a transaction
	commit bool
}

// hold stops one request, and may answer it.
type hold struct {
	of      act
	skip    int // that many are let through first
	release chan struct{}
	answer  func(kmsg.Request) kmsg.Response // nil: it is handled
	taken   bool
}

var (
	produce0, produce1 = act{key: kmsg.Produce, slot: 0}, act{key: kmsg.Produce, slot: 1}
	offsets0, offsets1 = act{key: kmsg.TxnOffsetCommit, slot: 0}, act{key: kmsg.TxnOffsetCommit, slot: 1}
	commit0, commit1   = act{key: kmsg.EndTxn, slot: 0, commit: true}, act{key: kmsg.EndTxn, slot: 1, commit: true}
	abort0, abort1     = act{key: kmsg.EndTxn, slot: 0}, act{key: kmsg.EndTxn, slot: 1}
	init0, init1       = act{key: kmsg.InitProducerID, slot: 0}, act{key: kmsg.InitProducerID, slot: 1}
	plainOffsets       = act{key: kmsg.OffsetCommit, slot: -1}
)

// newStage has one partition, so one task, and holds up one request if h is not nil.
func newStage(t *testing.T, h *hold) *stage {
	t.Helper()
	c, addrs := fake(t, 1)
	s := &stage{t: t, c: c, addrs: addrs, news: make(chan struct{}), hold: h, handed: map[string]int{}}
	s.w = watch(t, addrs)
	s.cl = client(t, addrs, kgo.DefaultProduceTopic("words"))
	if h != nil {
		h.release = make(chan struct{})
		t.Cleanup(s.release)
	}
	for _, key := range []kmsg.Key{kmsg.Produce, kmsg.TxnOffsetCommit, kmsg.EndTxn, kmsg.InitProducerID, kmsg.OffsetCommit, kmsg.Heartbeat} {
		c.ControlKey(int16(key), func(r kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			h := s.note(r)
			if h == nil {
				return nil, nil, false
			}
			c.SleepControl(func() { <-h.release })
			if h.answer == nil {
				return nil, nil, false
			}
			return h.answer(r), nil, true
		})
	}
	return s
}

// note writes a request down, and returns the hold that is meant for it.
func (s *stage) note(r kmsg.Request) *hold {
	a := act{slot: -1}
	id := ""
	switch r := r.(type) {
	case *kmsg.ProduceRequest:
		if r.TransactionID == nil {
			return nil
		}
		a.key, id = kmsg.Produce, *r.TransactionID
	case *kmsg.TxnOffsetCommitRequest:
		a.key, id = kmsg.TxnOffsetCommit, r.TransactionalID
	case *kmsg.EndTxnRequest:
		a.key, id, a.commit = kmsg.EndTxn, r.TransactionalID, r.Commit
	case *kmsg.InitProducerIDRequest:
		if r.TransactionalID == nil {
			return nil
		}
		a.key, id = kmsg.InitProducerID, *r.TransactionalID
	case *kmsg.OffsetCommitRequest:
		a.key = kmsg.OffsetCommit
	}
	switch {
	case strings.HasSuffix(id, ":0:0"):
		a.slot = 0
	case strings.HasSuffix(id, ":0:1"):
		a.slot = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := r.(*kmsg.HeartbeatRequest); ok {
		s.beats++
	} else {
		s.acts = append(s.acts, a)
	}
	s.changed()
	h := s.hold
	if h == nil || h.of != a || h.taken {
		return nil
	}
	if h.skip--; h.skip >= 0 {
		return nil
	}
	h.taken = true
	return h
}

func (s *stage) changed() {
	close(s.news)
	s.news = make(chan struct{})
}

// release lets the held request go.
func (s *stage) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.hold.release:
	default:
		close(s.hold.release)
	}
}

// until waits for something to be true of what was noted.
func (s *stage) until(what string, true func() bool) {
	s.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		ok, news := true(), s.news
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-timeout:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("waiting for %s; so far %v", what, s.acts)
		}
	}
}

// held waits until the request that is to be held up is.
func (s *stage) held() {
	s.t.Helper()
	s.until("the request to hold up", func() bool { return s.hold.taken })
}

func (s *stage) saw(a act, n int) {
	s.t.Helper()
	s.until(fmt.Sprint(n, " times ", a), func() bool { return s.count(a) >= n })
}

// idle waits for some heartbeats: time enough to do what is not to be done.
func (s *stage) idle() {
	s.t.Helper()
	s.mu.Lock()
	want := s.beats + 4
	s.mu.Unlock()
	s.until("heartbeats", func() bool { return s.beats >= want })
}

// count is called with the lock held.
func (s *stage) count(a act) (n int) {
	for _, have := range s.acts {
		if have == a {
			n++
		}
	}
	return n
}

// never wants that something was not done so far.
func (s *stage) never(a act, why string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.count(a); n != 0 {
		s.t.Errorf("%v was sent %d times: %s; %v", a, n, why, s.acts)
	}
}

// stepped waits until the handler has seen n words with this key.
func (s *stage) stepped(key string, n int) {
	s.t.Helper()
	s.until(fmt.Sprint(n, " words ", key), func() bool { return s.handed[key] >= n })
}

func (s *stage) feed(key string, n int) {
	s.t.Helper()
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Key: []byte(key), Value: []byte("x")}
	}
	if err := s.cl.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// launch runs an application that counts words, drops "drop", and takes no "poison".
func (s *stage) launch(opts ...millrace.Option) *running {
	s.t.Helper()
	b := stream.NewBuilder()
	seen := stream.ProcessValues(stream.From(b, words), func() processor.Processor[string, string, string, string] {
		return processor.Func[string, string, string, string](func(ctx processor.Context[string, string], r processor.Record[string, string]) error {
			s.mu.Lock()
			s.handed[r.Key]++
			s.changed()
			s.mu.Unlock()
			switch r.Key {
			case "drop":
				return nil
			case "poison":
				return errors.New("I do not take that")
			}
			return ctx.Forward(r)
		})
	})
	stream.GroupByKey(seen).Count(counts).ToStream().To(totals)
	top, err := b.Build()
	if err != nil {
		s.t.Fatal(err)
	}
	return s.run(top, opts...)
}

func (s *stage) run(top *topology.Topology, opts ...millrace.Option) *running {
	return launch(s.t, s.addrs, top, append([]millrace.Option{millrace.MemoryStores(), millrace.Observe(observe.Hooks{
		Abort: func(observe.Abort) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.aborts++
			s.changed()
		},
	})}, opts...)...)
}

// ends stops the application and wants n totals, each once.
func (s *stage) ends(r *running, n int) {
	s.t.Helper()
	s.w.until(n, 30*time.Second)
	if err := r.stop(s.t, 20*time.Second); err != nil {
		s.t.Error(err)
	}
	s.w.exact(s.addrs, n)
}

// refuse answers offsets or records of a transaction with an error.
func refuse(code *kerr.Error) func(kmsg.Request) kmsg.Response {
	return func(r kmsg.Request) kmsg.Response {
		switch r := r.(type) {
		case *kmsg.TxnOffsetCommitRequest:
			resp := r.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
			for _, rt := range r.Topics {
				t := kmsg.NewTxnOffsetCommitResponseTopic()
				t.Topic, t.TopicID = rt.Topic, rt.TopicID
				for _, rp := range rt.Partitions {
					p := kmsg.NewTxnOffsetCommitResponseTopicPartition()
					p.Partition, p.ErrorCode = rp.Partition, code.Code
					t.Partitions = append(t.Partitions, p)
				}
				resp.Topics = append(resp.Topics, t)
			}
			return resp
		case *kmsg.ProduceRequest:
			resp := r.ResponseKind().(*kmsg.ProduceResponse)
			for _, rt := range r.Topics {
				t := kmsg.NewProduceResponseTopic()
				t.Topic, t.TopicID = rt.Topic, rt.TopicID
				for _, rp := range rt.Partitions {
					p := kmsg.NewProduceResponseTopicPartition()
					p.Partition, p.ErrorCode, p.BaseOffset = rp.Partition, code.Code, -1
					t.Partitions = append(t.Partitions, p)
				}
				resp.Topics = append(resp.Topics, t)
			}
			return resp
		case *kmsg.EndTxnRequest:
			resp := r.ResponseKind().(*kmsg.EndTxnResponse)
			resp.ErrorCode = code.Code
			return resp
		}
		return nil
	}
}

// TestPipelineOutputsWait: while records of an epoch are not acknowledged, the next one is stepped, and none of its records
// is sent: between two producers there is no order.
func TestPipelineOutputsWait(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: produce0})
	r := s.launch()
	s.feed("a", 10)
	s.held()
	s.saw(offsets0, 1) // the epoch is sealed
	s.feed("b", 10)
	s.stepped("b", 10)
	s.idle()
	s.never(produce1, "the epoch before it is not written")
	s.release()
	s.ends(r, 20)
	s.saw(commit1, 1)
}

// TestPipelineOffsetsWait: the next epoch sends its records, but neither offsets nor its end before the one before it has
// ended.
func TestPipelineOffsetsWait(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	r := s.launch()
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.saw(produce1, 1)
	s.idle()
	s.never(offsets1, "the epoch before it has not ended")
	s.never(commit1, "the epoch before it has not ended")
	s.release()
	s.ends(r, 20)
}

// TestPipelineAbortTakesBoth: an epoch that is aborted takes the next one with it, and both are done again.
func TestPipelineAbortTakesBoth(t *testing.T) {
	for name, code := range map[string]*kerr.Error{"aborted": kerr.TransactionAbortable, "fenced": kerr.InvalidProducerEpoch} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, &hold{of: offsets0, answer: refuse(code)})
			r := s.launch()
			s.feed("a", 10)
			s.held()
			s.feed("b", 10)
			s.saw(produce1, 1)
			s.never(abort1, "nothing has failed")
			s.release()
			s.saw(abort1, 1)
			s.stepped("b", 20)
			s.stepped("a", 20)
			s.ends(r, 20)
		})
	}
}

// TestPipelineFailureWaits: an epoch that fails while the one before it is on its way waits for it, and is undone alone.
func TestPipelineFailureWaits(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	var refused atomic.Bool
	s.c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		s.c.KeepControl()
		p := r.(*kmsg.ProduceRequest)
		if p.TransactionID == nil || !strings.HasSuffix(*p.TransactionID, ":0:1") || refused.Swap(true) {
			return nil, nil, false
		}
		return refuse(kerr.InvalidTxnState)(r), nil, true
	})
	r := s.launch(millrace.CommitInterval(300 * time.Millisecond))
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.saw(produce1, 1)
	s.feed("c", 10) // its outputs find the failure
	s.stepped("c", 10)
	s.idle()
	s.mu.Lock()
	if !refused.Load() || s.aborts != 0 || s.count(init1) > 1 || s.count(abort1) > 0 {
		t.Errorf("refused: %v, %d aborts, before the epoch before it has ended; %v", refused.Load(), s.aborts, s.acts)
	}
	s.mu.Unlock()
	s.release()
	s.ends(r, 30)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborts != 1 || s.handed["a"] != 10 || s.handed["b"] != 20 {
		t.Errorf("%d aborts; handled %v: only the second epoch was to be done again", s.aborts, s.handed)
	}
}

// TestPipelineFrozenWhileUnknown: nothing is stepped while it is not known whether an epoch is committed.
func TestPipelineFrozenWhileUnknown(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: init0, skip: 1})
	var once atomic.Bool
	s.c.ControlKey(int16(kmsg.EndTxn), func(r kmsg.Request) (kmsg.Response, error, bool) {
		s.c.KeepControl()
		if once.Swap(true) {
			return nil, nil, false
		}
		return refuse(kerr.UnknownServerError)(r), nil, true
	})
	r := s.launch()
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.idle()
	s.mu.Lock()
	if n := s.handed["b"]; n != 0 {
		t.Errorf("%d words were stepped", n)
	}
	s.mu.Unlock()
	s.never(produce1, "the outcome of the epoch before it is not known")
	s.release()
	s.ends(r, 20)
}

// TestPipelineCloseCommitsBoth: a stop commits what is on its way and then what was stepped since.
func TestPipelineCloseCommitsBoth(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	r := s.launch()
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.stepped("b", 10)
	s.saw(produce1, 1)
	r.cancel()
	s.idle()
	s.never(commit1, "the epoch before it has not ended")
	s.release()
	if err := r.ends(t, 20*time.Second); err != nil {
		t.Error(err)
	}
	s.saw(commit1, 1)
	s.w.exact(s.addrs, 20)
}

// TestPipelineRevokeCommitsBoth: a task that is handed over while one epoch is on its way and another has been stepped leaves
// nothing behind.
func TestPipelineRevokeCommitsBoth(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	r := s.launch()
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.saw(produce1, 1)
	other, opt := watchStates()
	second := launch(t, s.addrs, countWords(t), millrace.MemoryStores(), opt)
	s.idle()
	s.release()
	s.w.until(20, 30*time.Second)
	if err := r.stop(t, 20*time.Second); err != nil {
		t.Error(err)
	}
	other.wait(t, 1, 30*time.Second)
	s.feed("a", 5)
	s.w.until(25, 30*time.Second)
	if err := second.stop(t, 20*time.Second); err != nil {
		t.Error(err)
	}
	s.w.exact(s.addrs, 25)
}

// TestPipelinePlainOffsetsWait: an epoch without outputs commits its offsets outside of a transaction only when none of the
// worker is open.
func TestPipelinePlainOffsetsWait(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	r := s.launch()
	s.feed("a", 10)
	s.held()
	s.mu.Lock()
	before := s.count(plainOffsets) // of the start
	s.mu.Unlock()
	s.feed("drop", 10)
	s.stepped("drop", 10)
	s.idle()
	s.mu.Lock()
	if n := s.count(plainOffsets); n != before {
		t.Errorf("offsets were committed while a transaction was open: %v", s.acts)
	}
	s.mu.Unlock()
	s.release()
	s.saw(plainOffsets, before+1)
	s.never(produce1, "there was nothing to send")
	s.ends(r, 10)
}

// TestPipelineFailCommitsWhatCameBefore: a record that meets policy Fail while an epoch is on its way ends the application
// after everything before it.
func TestPipelineFailCommitsWhatCameBefore(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	r := s.launch(millrace.CommitInterval(300 * time.Millisecond))
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.feed("poison", 1)
	s.feed("c", 10)
	s.stepped("poison", 1)
	s.idle()
	s.release()
	var e *millrace.Error
	if err := r.ends(t, 20*time.Second); !errors.As(err, &e) || e.Code != "record/failed" {
		t.Errorf("got %v", err)
	}
	s.w.exact(s.addrs, 20)
	if s.handed["c"] != 0 {
		t.Errorf("%d words behind the failed one were stepped", s.handed["c"])
	}
}

// TestPipelineIsBounded: what may wait for an epoch to be written has an end.
func TestPipelineIsBounded(t *testing.T) {
	t.Parallel()
	const most, all = 55_000, 80_000
	s := newStage(t, &hold{of: produce0})
	r := s.launch(millrace.CommitInterval(3 * time.Second)) // an epoch may last as long
	s.feed("a", 10)
	s.held()
	s.saw(offsets0, 1)
	s.feed("b", all)
	s.stepped("b", 40_000)
	s.idle()
	s.mu.Lock()
	if n := s.handed["b"]; n > most {
		t.Errorf("%d words were stepped while none could be written", n)
	}
	s.mu.Unlock()
	s.release()
	s.ends(r, all+10)
}

// TestPipelineEpochsEnd: while a commit takes long, the next epoch does not grow for ever.
func TestPipelineEpochsEnd(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	r := s.launch() // commits every 20 ms
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.stepped("b", 10)
	s.idle()
	s.feed("c", 10)
	s.idle()
	s.mu.Lock()
	if n := s.handed["c"]; n != 0 {
		t.Errorf("%d words were stepped 20 intervals after the epoch began", n)
	}
	s.mu.Unlock()
	s.release()
	s.ends(r, 30)
}

// TestWithoutPipelining: one producer, and nothing is stepped during a commit.
func TestWithoutPipelining(t *testing.T) {
	t.Parallel()
	s := newStage(t, &hold{of: commit0})
	r := s.launch(millrace.Pipelining(false))
	s.feed("a", 10)
	s.held()
	s.feed("b", 10)
	s.idle()
	s.mu.Lock()
	if n := s.handed["b"]; n != 0 {
		t.Errorf("%d words were stepped", n)
	}
	s.mu.Unlock()
	s.release()
	s.ends(r, 20)
	for _, a := range []act{init1, produce1, offsets1, commit1, abort1} {
		s.never(a, "there is one producer")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.count(abort0); n != 0 {
		t.Errorf("%d aborts", n)
	}
}
