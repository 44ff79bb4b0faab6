package txn

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// quick makes a client give up soon, and not wait between its own retries.
func quick(c *Config) {
	c.Client = append(c.Client, kgo.RetryTimeout(300*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return time.Millisecond }))
}

// over puts a wire between a producer and the cluster.
func over(w *wire) func(*Config) {
	return func(c *Config) { c.Client = append(c.Client, w.dialer()) }
}

// epochs commits epochs from..to as a runtime would: what was aborted is done again, what was lost is looked up. Every epoch
// has two records and moves the offset by one.
func (b *bench) epochs(p *Producer, own Ownership, from, to int) (aborted, lost int, errs []error) {
	b.t.Helper()
	var prev CommitID
	if s := b.stable(); s.Ours {
		prev = s.Meta.Commit
	}
	for n := from; n <= to; {
		tx, err := p.Begin(b.ctx)
		if err != nil {
			errs = append(errs, err)
			if b.ctx.Err() != nil {
				b.t.Fatal(err)
			}
			continue
		}
		b.send(tx, name(n, 0), name(n, 1))
		r, err := tx.Commit(b.ctx, own, b.at(int64(n), prev))
		if err != nil {
			errs = append(errs, err)
		}
		switch r {
		case Committed:
			prev = tx.ID()
			n++
		case Aborted:
			aborted++
		case Lost:
			lost++
			if s := b.stable(); s.Ours && s.Meta.Commit == tx.ID() {
				prev = tx.ID()
				n++
			}
		}
		if len(errs) > 50 {
			b.t.Fatalf("no progress: %v", errs[len(errs)-1])
		}
	}
	return aborted, lost, errs
}

func name(epoch, i int) string { return string(rune('a'+epoch)) + string(rune('0'+i)) }

func (b *bench) wantEpochs(from, to int) {
	b.t.Helper()
	var want []string
	for n := from; n <= to; n++ {
		want = append(want, name(n, 0), name(n, 1))
	}
	b.wantOutput(want...)
	if s := b.stable(); s.Offset != int64(to) {
		b.t.Errorf("the group is at %d, want %d", s.Offset, to)
	}
}

// The answer of EndTxn never comes, and neither does that of any repetition. Whether the first request was applied or not,
// the epoch ends up in the output once.
func TestUnknownOutcome(t *testing.T) {
	for _, c := range []struct {
		name    string
		applied bool
	}{{"applied, answer lost", true}, {"never applied", false}} {
		t.Run(c.name, func(t *testing.T) {
			b := newAny(t)
			w := new(wire)
			var resolved []Result
			p := b.producer(quick, over(w), func(c *Config) {
				c.Observer.Resolved = func(_ CommitID, r Result, _ time.Duration) { resolved = append(resolved, r) }
			})
			b.epochs(p, anybody(), 1, 1)
			var sent atomic.Int64
			w.set(func(k kmsg.Key) bool { return k != kmsg.EndTxn || sent.Add(1) == 1 && c.applied },
				func(k kmsg.Key, _ []byte) bool { return k != kmsg.EndTxn })

			tx := b.begin(p)
			b.send(tx, name(2, 0), name(2, 1))
			r, err := tx.Commit(b.ctx, anybody(), b.at(2, b.stable().Meta.Commit))
			w.set(nil, nil)
			want := Aborted
			if c.applied {
				want = Committed
			}
			if r != want || (err == nil) != c.applied {
				t.Fatalf("Commit: %v, %v, want %v", r, err, want)
			}
			if len(resolved) != 1 || resolved[0] != want {
				t.Errorf("resolved: %v", resolved)
			}
			if sent.Load() < 2 {
				t.Errorf("EndTxn was sent %d times; the test is about repetitions too", sent.Load())
			}
			if r == Aborted {
				b.epochs(p, anybody(), 2, 3)
			} else {
				b.epochs(p, anybody(), 3, 3)
			}
			b.wantEpochs(1, 3)
		})
	}
}

// A definite refusal is no proof either: the first EndTxn was applied, its answer lost, and the second one is told that the
// producer is fenced.
func TestRefusalAfterALostYes(t *testing.T) {
	b := newAny(t)
	w := new(wire)
	p := b.producer(quick, over(w))
	tx := b.begin(p)
	b.send(tx, name(1, 0), name(1, 1))
	var once atomic.Bool
	w.set(nil, func(k kmsg.Key, _ []byte) bool {
		if k != kmsg.EndTxn || !once.CompareAndSwap(false, true) {
			return true
		}
		// The commit may still be on its way to the partitions: then this waits for it.
		if err := Fence(b.ctx, b.cl, b.txnID.String(), b.timeout); err != nil {
			t.Error(err)
		}
		return false
	})
	r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{}))
	if r != Committed || err != nil {
		t.Fatalf("%v, %v: the epoch was committed", r, err)
	}
	b.epochs(p, anybody(), 2, 2)
	b.wantEpochs(1, 2)
}

// Nobody can be asked: none of the epoch's tasks is ours any more.
func TestUnknownOutcomeWithoutATask(t *testing.T) {
	b := newAny(t)
	w := new(wire)
	p := b.producer(quick, over(w))
	tx := b.begin(p)
	b.send(tx, name(1, 0), name(1, 1))
	w.set(func(k kmsg.Key) bool { return k != kmsg.EndTxn }, nil)
	own := anybody()
	own.lost = map[int32]bool{0: true}
	r, err := tx.Commit(b.ctx, own, b.at(1, CommitID{}))
	if r != Lost || !errors.Is(err, ErrNoneOwned) {
		t.Fatalf("%v, %v", r, err)
	}
	if b.unstable() {
		t.Error("the transaction is still open: it was to be fenced all the same")
	}
	w.set(nil, nil)
	b.epochs(p, anybody(), 1, 1)
	b.wantEpochs(1, 1)
}

// Another owner has committed since: what we find is neither ours nor what was there before.
func TestUnknownOutcomeAfterAnotherOwner(t *testing.T) {
	b := newAny(t)
	w := new(wire)
	p := b.producer(quick, over(w))
	tx := b.begin(p)
	b.send(tx, name(1, 0), name(1, 1))
	other := b.producer(func(c *Config) { id := b.txnID; id.Instance = "two"; c.TransactionalID = id.String() })
	var once atomic.Bool
	w.set(func(k kmsg.Key) bool {
		if k == kmsg.EndTxn && once.CompareAndSwap(false, true) {
			// A survivor takes over: it fences us, and commits the same input.
			if err := Fence(b.ctx, b.cl, b.txnID.String(), b.timeout); err != nil {
				t.Error(err)
			}
			b.epochs(other, anybody(), 1, 1)
		}
		return k != kmsg.EndTxn
	}, nil)
	r, err := tx.Commit(b.ctx, anybody(), b.at(1, CommitID{}))
	if r != Lost || !errors.Is(err, ErrForeignCommit) {
		t.Fatalf("%v, %v", r, err)
	}
	b.wantEpochs(1, 1)
}

func TestVerdict(t *testing.T) {
	ours := CommitID{TxnID: "millrace:a:i:0:0", ProducerID: 7, ProducerEpoch: 3, Random: 99, Seq: 12}
	older, oldest, other := ours, ours, ours
	older.Seq, older.ProducerEpoch = 11, 2
	oldest.Seq, oldest.ProducerEpoch, oldest.ProducerID = 2, -1, -1
	other.Random = 98
	foreign := CommitID{TxnID: "millrace:a:j:0:0", ProducerID: 8, Random: 1, Seq: 1}
	at := func(id CommitID) Stable { return Stable{Offset: 5, Ours: true, Meta: Meta{Commit: id}} }
	nothing := Stable{Offset: -1}
	tool := Stable{Offset: 9, Raw: "moved by hand"}
	broken := Stable{Offset: 9, Ours: true, Err: ErrMeta}
	for _, c := range []struct {
		name     string
		previous CommitID
		got      Stable
		want     Result
	}{
		{"ours", older, at(ours), Committed},
		{"ours, none before", CommitID{}, at(ours), Committed},
		{"the one before", older, at(older), Aborted},
		{"one before it, of the same producer", older, at(oldest), Aborted},
		{"one of the same producer, nobody said what was before", CommitID{}, at(older), Aborted},
		{"the one before, another owner's", foreign, at(foreign), Aborted},
		{"nothing before, nothing there", CommitID{}, nothing, Aborted},
		{"nothing of ours before, nothing of ours there", CommitID{}, tool, Aborted},
		{"another owner's", older, at(foreign), Lost},
		{"another owner's, nobody said what was before", CommitID{}, at(foreign), Lost},
		{"same name, another incarnation", older, at(other), Lost},
		{"gone", older, nothing, Lost},
		{"moved by hand", older, tool, Lost},
		{"unreadable", older, broken, Lost},
		{"unreadable, none before", CommitID{}, broken, Lost},
	} {
		r, err := verdict(ours, c.previous, c.got)
		if r != c.want || (err != nil) != (c.want == Lost) {
			t.Errorf("%s: %v, %v, want %v", c.name, r, err, c.want)
		}
	}
}

// The producer is fenced at each of the moments at which it can be, and the epoch is done again by a new client.
func TestFencedByAnotherClient(t *testing.T) {
	for _, c := range []struct {
		name string
		at   kmsg.Key
	}{{"before the records", kmsg.Produce}, {"before the offsets", kmsg.TxnOffsetCommit}, {"before the end", kmsg.EndTxn}} {
		t.Run(c.name, func(t *testing.T) {
			b := newAny(t)
			w := new(wire)
			renewed := 0
			p := b.producer(over(w), func(c *Config) { c.Observer.Renewed = func(string, error) { renewed++ } })
			b.epochs(p, anybody(), 1, 1)
			var once atomic.Bool
			w.set(func(k kmsg.Key) bool {
				if k == c.at && once.CompareAndSwap(false, true) {
					if err := Fence(b.ctx, b.cl, b.txnID.String(), b.timeout); err != nil {
						t.Error(err)
					}
				}
				return true
			}, nil)
			aborted, lost, errs := b.epochs(p, anybody(), 2, 3)
			if aborted != 1 || lost != 0 || renewed != 1 {
				t.Errorf("aborted %d, lost %d, clients thrown away %d; want 1, 0, 1", aborted, lost, renewed)
			}
			// The embedded broker takes an epoch that is one ahead for our own, and says INVALID_TXN_STATE at the end.
			if len(errs) != 1 || !IsFenced(errs[0]) && !errors.Is(errs[0], kerr.InvalidTxnState) {
				t.Errorf("errors: %v", errs)
			}
			b.wantEpochs(1, 3)
		})
	}
}

// Any answer at all to EndTxn, given after it was applied and given instead of applying it: nothing is lost or doubled.
func TestEveryAnswerToEndTxn(t *testing.T) {
	fake := newFake(t)
	for _, e := range everyError() {
		for _, applied := range []bool{true, false} {
			verb := "instead of applying"
			if applied {
				verb = "after applying"
			}
			t.Run(e.Message+" "+verb, func(t *testing.T) {
				b := newBench(t, fake.addrs)
				w := new(wire)
				p := b.producer(quick, over(w))
				b.epochs(p, anybody(), 1, 1)
				var hits atomic.Int64
				if applied {
					w.set(nil, func(k kmsg.Key, frame []byte) bool {
						if k == kmsg.EndTxn && hits.CompareAndSwap(0, 1) {
							setEndTxnCode(frame, e.Code)
						}
						return true
					})
				} else {
					fake.fake.ControlKey(key(kmsg.EndTxn), func(r kmsg.Request) (kmsg.Response, error, bool) {
						req := r.(*kmsg.EndTxnRequest)
						if req.TransactionalID != b.txnID.String() {
							return nil, nil, false
						}
						hits.Add(1)
						resp := req.ResponseKind().(*kmsg.EndTxnResponse)
						resp.ErrorCode = e.Code
						return resp, nil, true
					})
				}
				aborted, lost, errs := b.epochs(p, anybody(), 2, 3)
				if hits.Load() != 1 {
					t.Fatalf("the answer was given %d times", hits.Load())
				}
				// kgo repeats EndTxn for a coordinator that moves and while another transaction ends; everything else is resolved.
				want := 1
				if applied || errors.Is(e, kerr.ConcurrentTransactions) || errors.Is(e, kerr.NotCoordinator) ||
					errors.Is(e, kerr.CoordinatorNotAvailable) || errors.Is(e, kerr.CoordinatorLoadInProgress) {
					want = 0
				}
				if aborted != want || lost != 0 {
					t.Errorf("aborted %d, lost %d, want %d, 0: %v", aborted, lost, want, errs)
				}
				b.wantEpochs(1, 3)
			})
		}
	}
}

// everyError is every error code of Kafka.
func everyError() []*kerr.Error {
	var out []*kerr.Error
	for code := int16(-1); code < 500; code++ {
		if e := kerr.TypedErrorForCode(code); e != nil && e.Code == code {
			out = append(out, e)
		}
	}
	return out
}
