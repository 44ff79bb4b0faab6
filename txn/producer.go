package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/chaos"
	"github.com/millrace-io/millrace/internal/fault"
)

// Config is what a Producer needs.
type Config struct {
	TransactionalID string
	Group           string
	Client          []kgo.Opt     // seeds, TLS, SASL, logger, hooks, linger, compression: without any transactional option
	Timeout         time.Duration // transaction timeout; 0 is 60 s
	Guarantee       Guarantee     // 0 is ExactlyOnce
	LastTopic       string        // AtLeastOnce: its records are written when all others of the epoch are; they vouch for them
	BufferBytes     int           // what the client may hold of records not yet acknowledged; 0 is 64 MiB
	Log             *slog.Logger  // nil is slog.Default()
	Observer        Observer      // may be empty
	Sequence        *Sequence     // of producers that take turns; nil: one of its own
}

// Observer is told about moments of a transaction's life, on the goroutine that uses the producer. Nil functions are not
// called.
type Observer struct {
	Resolved func(id CommitID, r Result, took time.Duration) // an unknown outcome was resolved
	Renewed  func(txnID string, reason error)                // the client was thrown away
}

const (
	defaultTimeout     = 60 * time.Second
	defaultBufferBytes = 64 << 20
	bufferRecordsMax   = 200_000
	// linger gathers the records of an epoch into few requests; the Flush of a commit does not wait for it. With 0 the client
	// sends a request per few records: 1.4 times less throughput and 2.5 to 4 times the broker's CPU, for no latency.
	linger = 5 * time.Millisecond
	// settleBound is how long an abort may take to reach a state we know, and closeGrace how long a stopping program goes on
	// looking for the outcome of a commit.
	settleBound = 10 * time.Second
	closeGrace  = 5 * time.Second
)

// Producer is the owner of one transactional id. It is used by one goroutine at a time.
type Producer struct {
	c      Config
	client *kgo.Client // nil: the next Begin makes one
	open   *Txn
	loose  bool // what it aborted last may still be open: the broker could not be told
	closed bool
}

// NewProducer makes a producer. Nothing is sent until Begin.
func NewProducer(c Config) (*Producer, error) {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.BufferBytes == 0 {
		c.BufferBytes = defaultBufferBytes
	}
	if c.Guarantee == 0 {
		c.Guarantee = ExactlyOnce
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	bad := func(thing, value, reason, remedy string) (*Producer, error) {
		return nil, &fault.Error{Code: "txn/config", Kind: fault.Config, Thing: thing, Value: value, Reason: reason, Remedy: remedy}
	}
	switch {
	case c.TransactionalID == "" || len(c.TransactionalID) > idBytesMax:
		return bad("transactional id", c.TransactionalID, fmt.Sprintf("it must have 1 to %d bytes", idBytesMax), "name the application and the instance")
	case c.Guarantee != ExactlyOnce && c.Guarantee != AtLeastOnce:
		return bad("guarantee", c.Guarantee.String(), "it is none of the known", "choose exactly-once or at-least-once")
	case c.Group == "":
		return bad("consumer group", "", "it is empty", "name the application")
	case c.Timeout < time.Second:
		return bad("transaction timeout", c.Timeout.String(), "it is below one second", "choose one of at least 10 s")
	case c.BufferBytes < 1<<20:
		return bad("producer buffer", fmt.Sprint(c.BufferBytes), "it is below 1 MiB", "raise the memory limit")
	}
	if c.Sequence == nil {
		c.Sequence = NewSequence()
	}
	if c.Guarantee == ExactlyOnce {
		c.LastTopic = "" // a transaction is there as a whole or not at all
	}
	p := &Producer{c: c}
	if err := kgo.ValidateOpts(p.options()...); err != nil {
		return nil, &fault.Error{Code: "txn/config", Kind: fault.Config, Thing: "client options", Reason: err.Error(), Remedy: "correct the option", Err: err}
	}
	return p, nil
}

// options are the caller's, between the defaults they may override and what a transaction rests on.
func (p *Producer) options() []kgo.Opt {
	opts := []kgo.Opt{kgo.ProducerLinger(linger), kgo.RetryBackoffFn(soon)}
	opts = append(opts, p.c.Client...)
	if p.c.Guarantee == ExactlyOnce {
		opts = append(opts, kgo.TransactionalID(p.c.TransactionalID), kgo.TransactionTimeout(p.c.Timeout))
	}
	return append(opts,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		// No RecordDeliveryTimeout: kgo counts it from the record's timestamp, which here is event time, so that yesterday's
		// records would fail at once and tomorrow's never. The transaction's own context bounds delivery instead.
		kgo.MaxBufferedRecords(bufferRecordsMax),
		kgo.MaxBufferedBytes(p.c.BufferBytes),
		kgo.ConcurrentTransactionsBackoff(5*time.Millisecond),
		// While a broker ends the transaction before, it refuses the first records of the next one with
		// CONCURRENT_TRANSACTIONS, and kgo sends them again after its next look at the metadata, however young the last one is
		// to be: with its default of 5 s, epochs one after another took 450 to 700 ms each on Kafka 4.4.0, with 10 ms 10 to 12.
		kgo.MetadataMinAge(10*time.Millisecond),
	)
}

// Begin makes a client if there is none, initialises the transactional id (which fences whoever had it) and begins a
// transaction; under AtLeastOnce, an epoch of which Commit and Abort say the same and promise less. It tries again, with another client where that helps, until ctx is done or the transaction timeout has
// passed; an error for which IsFatal is true comes at once. The transaction must be ended by one Commit or Abort.
func (p *Producer) Begin(ctx context.Context) (*Txn, error) {
	if p.closed {
		return nil, ErrClosed
	}
	if p.open != nil {
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, p.c.Timeout)
	defer cancel()
	pause := backoff{min: 5 * time.Millisecond, max: time.Second}
	for {
		t, err := p.begin(ctx)
		if err == nil {
			p.open = t
			return t, nil
		}
		e := p.failure(PhaseInit, Classify(PhaseInit, err), err)
		if errors.Is(err, kerr.InvalidTransactionTimeout) {
			e.Err = p.timeoutRefused(ctx, err)
		}
		if e.Action != ActRetry {
			p.renew(e)
		}
		if e.Action == ActFatal || pause.wait(ctx) != nil {
			return nil, e
		}
	}
}

func (p *Producer) begin(ctx context.Context) (*Txn, error) {
	if p.client == nil {
		cl, err := kgo.NewClient(p.options()...)
		if err != nil {
			return nil, err
		}
		p.client = cl
		// kgo decides in BeginTransaction whether its transactions run under KIP-890 part 2, by what brokers it has talked to
		// so far have said. A client that has talked to none would run its first transaction by the older protocol, in which
		// our TxnOffsetCommit is refused. So the id is initialised first.
		if _, _, err := cl.ProducerID(ctx); err != nil {
			return nil, err
		}
	}
	id, epoch := int64(producerAtLeastOnce), int16(-1)
	if p.c.Guarantee == ExactlyOnce {
		if err := p.client.BeginTransaction(); err != nil {
			return nil, err
		}
		var err error
		if id, epoch, err = p.client.ProducerID(ctx); err != nil {
			p.renew(err) // a transaction was begun in this client, and nobody will end it
			return nil, err
		}
	}
	p.loose = false // the id was initialised since
	t := &Txn{
		p:      p,
		client: p.client,
		began:  time.Now(),
		id:     p.c.Sequence.next(p.c.TransactionalID, id, epoch),
		all:    make(chan struct{}, 1),
	}
	// What is not written by then, the coordinator has aborted anyway.
	t.ctx, t.cancel = context.WithTimeout(context.Background(), p.c.Timeout)
	t.target.Store(-1)
	t.promise = t.finished // one method value for all records of the transaction
	return t, nil
}

// Close aborts what is open and closes the client.
func (p *Producer) Close() error {
	if p.closed {
		return nil
	}
	var err error
	if p.open != nil {
		err = p.open.Abort(context.Background(), ErrClosed)
	}
	p.closed = true
	if p.client != nil {
		p.client.Close()
		p.client = nil
	}
	return err
}

// renew throws the client away. What it left open is fenced by the next initialisation of the id.
func (p *Producer) renew(reason error) {
	if p.client == nil {
		return
	}
	p.client.Close()
	p.client = nil
	p.c.Log.Info("transactional client thrown away", "txn", p.c.TransactionalID, "reason", reason)
	if p.c.Observer.Renewed != nil {
		p.c.Observer.Renewed(p.c.TransactionalID, reason)
	}
}

// plain makes a client that has no transactional id and no history.
func (p *Producer) plain() (*kgo.Client, error) {
	opts := append([]kgo.Opt{}, p.c.Client...)
	return kgo.NewClient(append(opts, kgo.DisableClientMetrics())...)
}

// Failure is one record the broker or the client refused.
type Failure struct {
	Record *kgo.Record
	Err    error
}

const failuresMax = 16

// Txn is one transaction.
type Txn struct {
	p      *Producer
	client *kgo.Client
	id     CommitID
	began  time.Time
	ctx    context.Context // of the records: ends with the transaction timeout
	cancel context.CancelFunc
	ended  bool
	watch  func(Moment) // may be nil

	produced    int64         // Produce was called
	last        []*kgo.Record // of those, not yet handed to the client: of Config.LastTopic
	offsetsSent bool          // an offset commit was sent, whatever became of it

	promise func(*kgo.Record, error)
	done    atomic.Int64 // promises that ran
	target  atomic.Int64 // wake whoever waits when done reaches it; -1: nobody waits
	all     chan struct{}
	failed  atomic.Bool
	acked   atomic.Int64

	// Written by the promises, which kgo runs one after another, and read when all have run.
	failures []Failure
	worst    Action
	ends     map[partition]*int64
	lastPart partition
	lastEnd  *int64
}

type partition struct {
	topic string
	num   int32
}

// ID is the commit id of the transaction.
func (t *Txn) ID() CommitID { return t.id }

// Began is when the transaction began.
func (t *Txn) Began() time.Time { return t.began }

// Produce hands a record to the client. r must have Topic, Partition and Timestamp set and must stay untouched until Commit
// or Abort has returned; its Context is overwritten, so a record may be used again. It may block while the client's buffer
// is full, until the transaction timeout at the latest. Errors are tracked: see Failed and Failures.
func (t *Txn) Produce(r *kgo.Record) {
	t.produced++
	if t.p.c.LastTopic != "" && r.Topic == t.p.c.LastTopic {
		t.last = append(t.last, r)
		return
	}
	t.hand(r)
}

func (t *Txn) hand(r *kgo.Record) {
	r.Context = t.ctx
	t.client.Produce(t.ctx, r, t.promise)
}

// Moment is something that Watch tells.
type Moment uint8

// The moments.
const (
	Written Moment = iota // every record is written: what another producer writes from now on comes behind them
	Unknown               // it is not known whether the transaction is committed, and being looked for
)

// Watch makes Commit call f at each Moment, on a goroutine of its own choice; f must not wait. Call it before Commit.
func (t *Txn) Watch(f func(Moment)) { t.watch = f }

func (t *Txn) tell(m Moment) {
	if t.watch != nil {
		t.watch(m)
	}
}

// Produced is the number of records that were given to Produce.
func (t *Txn) Produced() int64 { return t.produced }

// finished is every record's promise.
func (t *Txn) finished(r *kgo.Record, err error) {
	if err == nil && r.Offset < 0 {
		err = ErrNoOffset
	}
	if err == nil {
		t.acked.Add(1)
		if t.lastEnd == nil || t.lastPart.num != r.Partition || t.lastPart.topic != r.Topic {
			t.lastPart = partition{r.Topic, r.Partition}
			end, ok := t.ends[t.lastPart]
			if !ok {
				if t.ends == nil {
					t.ends = make(map[partition]*int64)
				}
				end = new(int64)
				t.ends[t.lastPart] = end
			}
			t.lastEnd = end
		}
		if r.Offset+1 > *t.lastEnd {
			*t.lastEnd = r.Offset + 1
		}
	} else {
		// What kgo says of the records it drops because we abort tells nothing about them.
		if !errors.Is(err, kgo.ErrAborting) && !errors.Is(err, kgo.ErrClientClosed) {
			t.worst = max(t.worst, Classify(PhaseProduce, err))
			if len(t.failures) < failuresMax {
				t.failures = append(t.failures, Failure{Record: r, Err: err})
			}
		}
		t.failed.Store(true)
	}
	if t.done.Add(1) == t.target.Load() {
		select {
		case t.all <- struct{}{}:
		default:
		}
	}
}

// settled waits until every promise has run. Flush alone is not enough: it does not wait for records that were refused
// before they were buffered.
func (t *Txn) settled(ctx context.Context) error {
	target := t.produced - int64(len(t.last))
	t.target.Store(target)
	for t.done.Load() < target {
		select {
		case <-t.all:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Failed reports whether a record of this transaction is known to have failed; it costs one atomic load.
func (t *Txn) Failed() bool { return t.failed.Load() && !chaos.Has(chaos.CommitDespiteFailedProduce) }

// Failures returns the first refused records (at most 16). Valid after Commit or Abort.
func (t *Txn) Failures() []Failure {
	if !t.ended || t.done.Load() < t.produced {
		return nil // still written to
	}
	return t.failures
}

// Ends tells, per topic and partition, the offset after the last record produced in the transaction. Valid after a
// committed Commit.
func (t *Txn) Ends(f func(topic string, partition int32, next int64)) {
	for p, end := range t.ends {
		f(p.topic, p.num, *end)
	}
}
