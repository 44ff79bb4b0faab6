package itest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/itest/oracle"
)

// TestTimersSurviveKills kills an application that sets timers in both domains, again and again, and once takes its disk away: each
// reminder comes once, and the sessions are those that a replay of the input gives, record for record.
func TestTimersSurviveKills(t *testing.T) {
	on(t, func(t *testing.T, addrs []string) {
		const kills, rate = 4, 1_000
		f := newFleet(t, addrs, "bells", 3, "in", "rung", "over")
		f.args = append(f.args, "-workload", "bells", "-static")
		feed := newFeeder(t, addrs, f.topic("in"), 60, 17)
		feed.value = func(r *rand.Rand, i int64) int32 { return int32(1000 + 3*i + r.Int64N(100)) }
		random := rand.New(rand.NewPCG(17, 1))
		a := f.start("a")
		a.running()
		stop := feed.flow(rate)
		for kill := range kills {
			f.reach("in", f.done("in")+int64(rate/2+random.IntN(rate/2)))
			a.kill()
			a.exit()
			f.live = nil
			if kill == kills/2 {
				if err := os.RemoveAll(f.state("a")); err != nil {
					t.Fatal(err)
				}
			}
			a = f.start("a")
		}
		stop()
		f.reach("in", feed.total())
		f.await("rung", int(feed.total()))
		f.finish()

		logs := f.read(f.topic("in"), f.topic("rung"), f.topic("over"), f.changelog("reminders"), f.changelog("gaps"), f.changelog("sessions"), f.app+"-tasks")
		in, rung, over := logs[0], logs[1], logs[2]
		group := f.committed("in")
		want, sessions, pending := map[string]int64{}, map[string]string{}, 0
		for p := range in.Partitions {
			for _, r := range in.Partitions[p].Records {
				want[fmt.Sprintf("%s %d/%d", r.Key, p, r.Offset)] = 1
			}
			pending += replaySessions(in.Partitions[p].Records, sessions)
		}
		came, ended := map[string]int64{}, map[string]string{}
		for p := range rung.Partitions {
			for _, r := range rung.Partitions[p].Records {
				came[string(r.Key)+" "+string(r.Value)]++
			}
		}
		for p := range over.Partitions {
			for _, r := range over.Partitions[p].Records {
				ended[string(r.Key)] += string(r.Value) + "; "
			}
		}
		many := 0
		for _, s := range sessions {
			many += strings.Count(s, ";")
		}
		t.Logf("%d records, %d sessions", feed.total(), many)
		recorded, records := oracle.TaskCommits(logs[6], in.Topic, len(in.Partitions))
		f.require(oracle.Verdicts{
			oracle.Settled(logs[1:]...),
			oracle.Drained(in, oracle.Offsets(group)),
			oracle.Same("each reminder came once", want, came),
			oracle.Same("the sessions are those of a replay", sessions, ended),
			oracle.Same("pending timers, by set", map[string]int64{"reminders": 0, "gaps": int64(pending), "sessions": int64(pending)},
				map[string]int64{"reminders": living(logs[3]), "gaps": living(logs[4]), "sessions": living(logs[5])}),
			records,
			oracle.Commits(in, group, recorded),
		})
	})
}

// await waits until a topic has n committed records.
func (f *fleet) await(topic string, n int) {
	f.t.Helper()
	ctx := f.ctx()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		have := f.read(f.topic(topic))[0].Len()
		if have >= n {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, i := range f.live {
				f.t.Log(i.tail())
			}
			f.t.Fatalf("%s has %d records of %d", f.topic(topic), have, n)
		}
	}
}

// living is how many rows a changelog's fold has.
func living(l *oracle.Log) int64 {
	rows := map[string]bool{}
	for p := range l.Partitions {
		for _, r := range l.Partitions[p].Records {
			key := fmt.Sprintf("%d %s", p, r.Key)
			if r.Value == nil {
				delete(rows, key)
			} else {
				rows[key] = true
			}
		}
	}
	return int64(len(rows))
}

// replaySessions adds the sessions of a partition, by key, and returns how many are left open. The clock is the greatest time seen;
// sessions end behind the record that advances it.
func replaySessions(records []oracle.Record, sessions map[string]string) (open int) {
	const gap = 300
	type session struct{ began, ends, count int64 }
	now := map[string]*session{}
	end := func(key string) {
		s := now[key]
		sessions[key] += fmt.Sprintf("%d to %d: %d; ", s.began, s.ends, s.count)
		delete(now, key)
	}
	clock := int64(-1)
	for _, r := range records {
		key, at := string(r.Key), int64(int32(binary.BigEndian.Uint32(r.Value)))
		advances := at > clock
		clock = max(clock, at)
		if s := now[key]; s != nil && at >= s.ends {
			end(key)
		}
		s := now[key]
		if s == nil {
			s = &session{began: at, ends: at + gap}
			now[key] = s
		}
		s.began, s.ends, s.count = min(s.began, at), max(s.ends, at+gap), s.count+1
		if advances {
			for key, s := range now {
				if s.ends <= clock {
					end(key)
				}
			}
		}
	}
	return len(now)
}
