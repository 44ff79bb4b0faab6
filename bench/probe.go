package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/bench/internal/measure"
	"github.com/millrace-io/millrace/bench/internal/workload"
)

// probe sends records with keys that were never used, some hundred a second and all the time, and sees when the first output comes
// of one that was sent after a mark. So it tells when an app works again, without asking it.
type probe struct {
	in, out *kgo.Client
	topic   string
	end     context.CancelFunc
	sending sync.WaitGroup

	mu     sync.Mutex
	next   int // number of the next key
	failed error
	marked int
}

const probesPerSecond = 400

func newProbe(brokers []string, j job, firstKey int) (*probe, error) {
	in, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ProducerLinger(0), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return nil, err
	}
	out, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumeTopics(j.out),
		kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(time.Now().Add(-time.Second).UnixMilli())),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(50*time.Millisecond),
	)
	if err != nil {
		in.Close()
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	p := &probe{in: in, out: out, topic: j.in, end: end, next: firstKey, marked: firstKey}
	p.sending.Go(func() { p.send(ctx) })
	return p, nil
}

func (p *probe) close() {
	p.end()
	p.sending.Wait()
	p.in.Close()
	p.out.Close()
}

func (p *probe) send(ctx context.Context) {
	tick := time.NewTicker(time.Second / probesPerSecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		key := workload.AppendKey(nil, p.next)
		p.next++
		p.mu.Unlock()
		p.in.Produce(ctx, &kgo.Record{Topic: p.topic, Key: key, Value: make([]byte, 100)}, func(_ *kgo.Record, err error) {
			if err != nil && ctx.Err() == nil {
				p.mu.Lock()
				p.failed = err
				p.mu.Unlock()
			}
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// mark returns the time; only outputs of what is sent from now on are an answer.
func (p *probe) mark() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marked = p.next
	return time.Now()
}

// steady waits until an app answers what was just sent.
func (p *probe) steady(ctx context.Context, proc *process) error {
	p.mark()
	_, err := p.answer(ctx, proc, &comeback{})
	return err
}

// answer waits for the first answer. What the app says of its restore goes into k.
func (p *probe) answer(ctx context.Context, proc *process, k *comeback) (at time.Time, err error) {
	for {
		poll, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := p.out.PollFetches(poll)
		cancel()
		p.mu.Lock()
		marked, failed := p.marked, p.failed
		p.mu.Unlock()
		if failed != nil {
			return at, fmt.Errorf("the input cannot be sent: %w", failed)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if workload.Index(r.Key) >= marked && at.IsZero() {
				at = time.Now()
			}
		})
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return at, fmt.Errorf("read the output: %w", e.Err)
			}
		}
		if err := p.listen(proc, k); err != nil {
			return at, err
		}
		if !at.IsZero() {
			return at, nil
		}
		if ctx.Err() != nil {
			return at, fmt.Errorf("the app does not answer: %w", ctx.Err())
		}
	}
}

func (p *probe) listen(proc *process, k *comeback) error {
	for {
		select {
		case l, ok := <-proc.lines:
			if !ok {
				<-proc.ended
				return proc.failure()
			}
			if l.Event == "restored" {
				k.restored(l)
			}
		default:
			return nil
		}
	}
}

// restored takes what an app says of one store of one task.
func (k *comeback) restored(l measure.Line) {
	k.Tail += l.Records
	k.stores++
	if l.Rebuild {
		k.Rebuilt++
	}
	if at := l.At - l.Seconds; k.began == 0 || at < k.began {
		k.began = at
	}
	k.ended = max(k.ended, l.At)
}
