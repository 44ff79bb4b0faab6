package ttl_test

import (
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/ttl"
)

func TestExpired(t *testing.T) {
	for _, c := range []struct {
		ts, life, now int64
		want          bool
	}{
		{0, 100, 99, false}, {0, 100, 100, true}, {0, 100, 101, true}, {50, 100, 149, false}, {50, 100, 150, true},
		{10, math.MaxInt64, 50, false}, {10, math.MaxInt64, math.MaxInt64 - 1, false}, {math.MaxInt64, 1, 5, false},
		{-100, 100, -1, false}, {-100, 100, 0, true}, {math.MinInt64, 1, 0, true}, {math.MinInt64, math.MaxInt64, -2, false},
	} {
		if got := ttl.Expired(c.ts, c.life, c.now); got != c.want {
			t.Errorf("Expired(%d, %d, %d) = %v", c.ts, c.life, c.now, got)
		}
	}
}

func FuzzArithmetic(f *testing.F) {
	f.Add(int64(0), int64(100), int64(100), int64(7))
	f.Add(int64(math.MaxInt64-3), int64(math.MaxInt64), int64(50), int64(1000))
	f.Add(int64(math.MinInt64), int64(1), int64(-1), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, ts, life, now, width int64) {
		if life <= 0 || width <= 0 {
			return
		}
		sum := new(big.Int).Add(big.NewInt(ts), big.NewInt(life))
		if sum.Cmp(big.NewInt(math.MaxInt64)) > 0 {
			sum.SetInt64(math.MaxInt64)
		}
		if got := ttl.Deadline(ts, life); got != sum.Int64() {
			t.Fatalf("Deadline(%d, %d) = %d, want %s", ts, life, got, sum)
		}
		if got, want := ttl.Expired(ts, life, now), sum.Cmp(big.NewInt(now)) <= 0; got != want {
			t.Fatalf("Expired(%d, %d, %d) = %v", ts, life, now, got)
		}
		end, deadline := ttl.Bucket(ts, width), ts
		if end < deadline || end != math.MaxInt64 && (end%width != 0 || uint64(end)-uint64(deadline) >= uint64(width)) {
			t.Fatalf("Bucket(%d, %d) = %d", ts, width, end)
		}
	})
}

func TestPolicy(t *testing.T) {
	p := ttl.AfterAccess(1500 * time.Microsecond).RefreshEvery(time.Millisecond).EventTime().ReturnExpiredIfNotCleanedUp().Buckets(time.Second)
	if !p.Enabled() || p.Life() != 2 || !p.OnRead() || p.Refresh() != 1 || !p.ByEventTime() || !p.Once() || p.Width() != 1000 || p.Cleanup() != ttl.Buckets {
		t.Errorf("%+v", p)
	}
	if p := ttl.AfterWrite(math.MaxInt64); p.Validate() != nil || p.Life() <= 0 || p.OnRead() || p.Once() || p.ByEventTime() {
		t.Errorf("%+v", p)
	}
	if ttl.Disabled().Enabled() || ttl.Disabled().Validate() != nil {
		t.Error("Disabled")
	}
}

func TestValidate(t *testing.T) {
	for name, p := range map[string]ttl.Policy{
		"zero":          ttl.AfterWrite(0),
		"negative":      ttl.AfterAccess(-time.Second),
		"refresh":       ttl.AfterAccess(time.Second).RefreshEvery(-1),
		"refresh write": ttl.AfterWrite(time.Second).RefreshEvery(1),
		"refresh long":  ttl.AfterAccess(time.Second).RefreshEvery(time.Second),
		"width":         ttl.AfterWrite(time.Second).Buckets(0),
		"rows":          ttl.AfterWrite(time.Second).Sweep(0),
	} {
		if err := p.Validate(); fault.Code(err) != "store/ttl" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, p := range []ttl.Policy{
		ttl.AfterWrite(1), ttl.AfterWrite(time.Hour).NoCleanup(), ttl.AfterAccess(time.Hour).RefreshEvery(time.Minute), ttl.AfterWrite(time.Second).Sweep(1),
	} {
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
}
