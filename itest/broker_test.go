package itest

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/kafkatest"
)

// TestBrokerDiesAndPauses lets the broker itself fail under two working instances: it is killed and started again, and it stops
// answering for longer than their sessions, with whatever was on its way left open. Nobody ends; afterwards work goes on and
// everything is exact.
//
// The pauses come last. A broker (4.4.0) that is killed within a second after a pause of several was seen to lose the markers of
// transactions whose abort it had confirmed, with a plain producer too: the logs then hold a transaction that nobody knows, and
// only an administrator's abort ends it.
func TestBrokerDiesAndPauses(t *testing.T) {
	broker := kafkatest.Own(t)
	f := newFleet(t, broker.Addrs(), "broker", 4, "in", "audit", "out")
	feed := newFeeder(t, f.addrs, f.topic("in"), 200, 11)
	a, b := f.start("a"), f.start("b")
	stop := feed.flow(2_000)
	work := func(what string) {
		t.Helper()
		began := time.Now()
		f.reach("in", f.done("in")+2_000)
		t.Logf("%s: 2000 more records committed after %v", what, time.Since(began).Round(time.Millisecond))
		for _, i := range []*instance{a, b} {
			if !i.alive() {
				t.Fatalf("%s: %s ended\n%s", what, i.name, i.tail())
			}
		}
	}
	work("at the start")
	for range 2 {
		broker.Kill(t)
		broker.Start(t)
		work("killed and started")
	}
	for _, pause := range []time.Duration{time.Second, f.session + 2*time.Second} {
		broker.Pause(t)
		wait(t, pause)
		broker.Unpause(t)
		work("paused for " + pause.String())
	}
	stop()
	f.reach("in", feed.total())
	f.finish()
	f.require(f.verdict(100))
}

// wait lets time pass, which is what this test is about.
func wait(t *testing.T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
