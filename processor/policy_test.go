package processor_test

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/processor"
)

func TestRetryPauses(t *testing.T) {
	p := processor.Retry(100, time.Second, processor.Skip())
	for n, want := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 9: 256 * time.Second,
		10: processor.RetryBackoffMax, 11: processor.RetryBackoffMax, 1 << 40: processor.RetryBackoffMax,
	} {
		if got := p.Pause(n); got != want {
			t.Errorf("before try %d: %s, want %s", n, got, want)
		}
	}
	if got := processor.Retry(1, time.Hour, processor.Skip()).Pause(1); got != processor.RetryBackoffMax {
		t.Errorf("an hour: %s", got)
	}
	if got := processor.Retry(3, 0, processor.Skip()).Pause(3); got != 0 {
		t.Errorf("none: %s", got)
	}
}

func TestMistakesOfPolicies(t *testing.T) {
	for _, c := range []struct {
		p    processor.Policy
		says string
	}{
		{processor.Policy{}, ""},
		{processor.Fail(), ""},
		{processor.DeadLetter("dead"), ""},
		{processor.Retry(1, 0, processor.Fail()), ""},
		{processor.Retry(3, time.Second, processor.DeadLetter("dead")), ""},
		{processor.Retry(0, 0, processor.Skip()), "Retry tries 0 times"},
		{processor.Retry(-1, time.Second, processor.Skip()), "Retry tries -1 times"},
		{processor.Retry(1, -time.Second, processor.Skip()), "Retry waits for -1s"},
		{processor.Retry(1, time.Second, processor.Policy{}), "Retry does not say what comes after the last try"},
		{processor.Retry(1, time.Second, processor.Retry(2, time.Minute, processor.Skip())), "Retry stands around another Retry"},
		{processor.Retry(1, time.Second, processor.Retry(0, 0, processor.Skip())), "Retry stands around another Retry"},
		{processor.Retry(1, time.Second, processor.Policy{Action: processor.ActRetry}), "there is no such action"},
		{processor.Policy{Action: processor.ActSkip, Attempts: 3}, ""},
		{processor.Policy{Action: processor.ActSkip, Backoff: time.Second}, "Retry tries 0 times"},
	} {
		if got := c.p.Mistake(); got != c.says {
			t.Errorf("%+v: %q, want %q", c.p, got, c.says)
		}
	}
	if got := processor.Retry(3, time.Second, processor.DeadLetter("dead")).String(); got != "retry 3 times from 1s, then dead-letter dead" {
		t.Error(got)
	}
}
