package itest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/millrace-io/millrace/itest/oracle"
)

// illness is one way a record of the poison workload goes wrong: its value, and what is said about it.
type illness struct {
	name  string
	value []byte
	op    string
	code  string
}

var illnesses = []illness{
	{"undecodable", []byte("no number"), "decode value", "record/undecodable"},
	{"handler fails", asked(-1), "process", "record/failed"},
	{"handler panics", asked(-2), "panic", "record/panicked"},
	{"output too large", asked(-3), "too large", "record/too-large"},
	{"output before 1970", asked(-4), "timestamp", "record/bad-timestamp"},
}

func asked(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// healthy reports whether the poison workload can process a record.
func healthy(r oracle.Record) bool {
	return len(r.Value) == 4 && int32(binary.BigEndian.Uint32(r.Value)) >= 0
}

// TestPoisonSkippedOrDeadLettered feeds records that fail in every way, in between good ones. Under Skip and DeadLetter the
// bad ones leave no trace in state or output, the good ones are all there, each bad one is counted once, and its dead
// letter has its original bytes and says where it came from and what was wrong.
func TestPoisonSkippedOrDeadLettered(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		for _, policy := range []string{"skip", "dead-letter"} {
			t.Run(policy, func(t *testing.T) {
				f := newFleet(t, addrs, "poison-"+policy, 3, "in", "audit", "dead")
				feed := newFeeder(t, addrs, f.topic("in"), 20, 7)
				const rounds = 8
				for round := range rounds {
					feed.feed(200)
					for i, ill := range illnesses {
						feed.put(fmt.Sprintf("k%d", (round+i)%20), ill.value)
					}
				}
				feed.feed(100)
				a := f.start("a", "-workload", "poison", "-policy", policy)
				f.reach("in", feed.total())
				f.stopAll()

				said, strange := map[string]int{}, 0
				for _, e := range a.history() {
					if e.Event == "record" {
						said[e.Op]++
						if e.Topic != f.topic("in") || e.Policy != policy || e.Task == "" || e.Node == "" {
							strange++
							if strange == 1 {
								t.Errorf("record event %+v", e)
							}
						}
					}
				}
				want := map[string]int{}
				for _, ill := range illnesses {
					want[ill.op] = rounds
				}
				if !maps.Equal(said, want) {
					t.Errorf("failed records by what they failed in: %v, want %v", said, want)
				}

				logs := f.read(f.topic("in"), f.topic("audit"), f.topic("dead"), f.changelog("counts"))
				in, audit, dead, changes := logs[0], logs[1], logs[2], logs[3]
				cut := in.Upto(oracle.Offsets(f.committed("in")))
				good := cut.Where(healthy)
				fold := oracle.Fold(good, func(n int64, _ []byte) int64 { return n + 1 })
				restored, decodes := oracle.Changelog(changes, rowKey, int64Value)
				f.require(oracle.Verdicts{
					oracle.Settled(audit, dead, changes),
					oracle.Drained(in, oracle.Offsets(f.committed("in"))),
					oracle.Provenance(good, audit),
					oracle.Replay(good, audit, runningCount),
					decodes,
					oracle.Same("the changelog's fold equals the fold of the good input", fold, restored),
					oracle.Same("the store equals the fold of the good input", fold, f.dumped()),
				})
				if policy == "skip" {
					if dead.Len() != 0 {
						t.Errorf("%d dead letters under Skip", dead.Len())
					}
					return
				}
				checkDeadLetters(t, cut.Where(func(r oracle.Record) bool { return !healthy(r) }), dead, f.app)
			})
		}
	})
}

// checkDeadLetters requires exactly one dead letter per bad record, with its bytes and the right headers.
func checkDeadLetters(t *testing.T, bad, dead *oracle.Log, app string) {
	t.Helper()
	type place struct {
		partition int32
		offset    int64
	}
	left := map[place]oracle.Record{}
	for p := range bad.Partitions {
		for _, r := range bad.Partitions[p].Records {
			left[place{int32(p), r.Offset}] = r
		}
	}
	for p := range dead.Partitions {
		for _, r := range dead.Partitions[p].Records {
			h := map[string]string{}
			for _, header := range r.Headers {
				h[header.Key] = string(header.Value)
			}
			partition, _ := strconv.Atoi(h["millrace.dl.partition"])
			offset, _ := strconv.ParseInt(h["millrace.dl.offset"], 10, 64)
			at := place{int32(partition), offset}
			origin, ok := left[at]
			if !ok {
				t.Errorf("a dead letter for %s/%d@%d, which is not bad or has one already", h["millrace.dl.topic"], partition, offset)
				continue
			}
			delete(left, at)
			if !bytes.Equal(origin.Key, r.Key) || !bytes.Equal(origin.Value, r.Value) {
				t.Errorf("the dead letter of @%d holds (%q, %q), the record was (%q, %q)", offset, r.Key, r.Value, origin.Key, origin.Value)
			}
			i := slices.IndexFunc(illnesses, func(ill illness) bool { return bytes.Equal(ill.value, origin.Value) })
			ill := illnesses[i]
			if h["millrace.dl.op"] != ill.op || h["millrace.dl.code"] != ill.code || h["millrace.dl.topic"] != bad.Topic || h["millrace.dl.app"] != app {
				t.Errorf("%s: headers %v", ill.name, h)
			}
		}
	}
	for at := range left {
		t.Errorf("no dead letter for %s/%d@%d", bad.Topic, at.partition, at.offset)
	}
}

// TestPoisonFails requires of policy Fail: everything before the bad record is committed, nothing after it, the process
// exits with 1 and an error that names the record; under another policy the application then goes on behind it.
func TestPoisonFails(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		for _, ill := range illnesses {
			t.Run(ill.name, func(t *testing.T) {
				f := newFleet(t, addrs, "fail", 1, "in", "audit")
				feed := newFeeder(t, addrs, f.topic("in"), 10, 8)
				feed.feed(500)
				feed.put("k1", ill.value)
				feed.feed(300)
				a := f.start("a", "-workload", "poison", "-policy", "fail")
				if code := a.exit(); code != 1 {
					t.Fatalf("exit code %d, want 1\n%s", code, a.tail())
				}
				end := a.history()[len(a.history())-1]
				if end.Event != "exit" || end.Fault != ill.code {
					t.Errorf("ended with %+v, want code %s", end, ill.code)
				}
				for _, want := range []string{f.topic("in"), "500"} {
					if !bytes.Contains([]byte(end.Err), []byte(want)) {
						t.Errorf("the error does not name %s: %s", want, end.Err)
					}
				}
				if done := f.done("in"); done != 500 {
					t.Errorf("%d records are committed, want the 500 before the bad one", done)
				}

				f.live = nil
				f.start("a", "-workload", "poison", "-policy", "skip")
				f.reach("in", feed.total())
				f.finish()
				logs := f.read(f.topic("in"), f.topic("audit"))
				good := logs[0].Where(healthy)
				f.require(oracle.Verdicts{
					oracle.Provenance(good, logs[1]),
					oracle.Replay(good, logs[1], runningCount),
					oracle.Same("the store equals the fold of the good input", oracle.Fold(good, func(n int64, _ []byte) int64 { return n + 1 }), f.dumped()),
				})
			})
		}
	})
}
