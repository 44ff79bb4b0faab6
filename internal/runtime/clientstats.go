package runtime

import (
	"cmp"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/observe"
)

// clientStats are the figures of the Kafka clients of one role, over all the clients that had it: those that were thrown away
// count on. It hooks into connections, requests and batches, never into records.
type clientStats struct {
	connects, connectErrors, disconnects atomic.Int64
	requests, requestErrors              atomic.Int64
	written, read                        atomic.Int64
	throttled                            atomic.Int64
	producedRecords, producedBatches     atomic.Int64
	producedBytes                        atomic.Int64
	fetchedRecords, fetchedBatches       atomic.Int64
	fetchedBytes                         atomic.Int64

	mu      sync.Mutex
	latency histogram
}

var (
	_ kgo.HookBrokerConnect       = (*clientStats)(nil)
	_ kgo.HookBrokerDisconnect    = (*clientStats)(nil)
	_ kgo.HookBrokerE2E           = (*clientStats)(nil)
	_ kgo.HookBrokerThrottle      = (*clientStats)(nil)
	_ kgo.HookProduceBatchWritten = (*clientStats)(nil)
	_ kgo.HookFetchBatchRead      = (*clientStats)(nil)
)

func (s *clientStats) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		s.connectErrors.Add(1)
		return
	}
	s.connects.Add(1)
}

func (s *clientStats) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) { s.disconnects.Add(1) }

func (s *clientStats) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	s.requests.Add(1)
	s.written.Add(int64(e.BytesWritten))
	s.read.Add(int64(e.BytesRead))
	if e.Err() != nil {
		s.requestErrors.Add(1)
		return
	}
	switch kmsg.Key(key) {
	case kmsg.Fetch, kmsg.JoinGroup, kmsg.SyncGroup: // the broker answers late on purpose
		return
	}
	s.mu.Lock()
	s.latency.add(e.DurationE2E().Seconds())
	s.mu.Unlock()
}

func (s *clientStats) OnBrokerThrottle(_ kgo.BrokerMetadata, d time.Duration, _ bool) {
	s.throttled.Add(int64(d))
}

func (s *clientStats) OnProduceBatchWritten(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.ProduceBatchMetrics) {
	s.producedRecords.Add(int64(m.NumRecords))
	s.producedBatches.Add(1)
	s.producedBytes.Add(int64(m.CompressedBytes))
}

func (s *clientStats) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	s.fetchedRecords.Add(int64(m.NumRecords))
	s.fetchedBatches.Add(1)
	s.fetchedBytes.Add(int64(m.CompressedBytes))
}

func (s *clientStats) shown(role string) observe.Client {
	c := observe.Client{
		Role: role, Connects: s.connects.Load(), ConnectErrors: s.connectErrors.Load(), Disconnects: s.disconnects.Load(),
		Requests: s.requests.Load(), RequestErrors: s.requestErrors.Load(), WrittenBytes: s.written.Load(), ReadBytes: s.read.Load(),
		Throttled:       time.Duration(s.throttled.Load()),
		ProducedRecords: s.producedRecords.Load(), ProducedBatches: s.producedBatches.Load(), ProducedBytes: s.producedBytes.Load(),
		FetchedRecords: s.fetchedRecords.Load(), FetchedBatches: s.fetchedBatches.Load(), FetchedBytes: s.fetchedBytes.Load(),
	}
	s.mu.Lock()
	c.Latency = s.latency.shown()
	s.mu.Unlock()
	return c
}

// client is the hook for a new client. The clients of all workers have one role.
func (s *stats) client(role string) *clientStats {
	if strings.HasPrefix(role, "worker-") {
		role = "producer"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[role]
	if c == nil {
		c = &clientStats{latency: newHistogram(secondsBounds)}
		s.clients[role] = c
	}
	return c
}

// clientsShown are the figures of all roles, in order. Called with s.mu held.
func (s *stats) clientsShown() []observe.Client {
	out := make([]observe.Client, 0, len(s.clients))
	for role, c := range s.clients {
		out = append(out, c.shown(role))
	}
	slices.SortFunc(out, func(a, b observe.Client) int { return cmp.Compare(a.Role, b.Role) })
	return out
}

// histogram counts values by size. Its owner guards it.
type histogram struct {
	bounds []float64 // shared, never changed
	counts []int64
	sum    float64
}

var (
	secondsBounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	recordsBounds = []float64{1, 10, 100, 1_000, 10_000, 100_000, 1_000_000}
)

func newHistogram(bounds []float64) histogram {
	return histogram{bounds: bounds, counts: make([]int64, len(bounds)+1)}
}

func (h *histogram) add(v float64) {
	i, _ := slices.BinarySearch(h.bounds, v) // a value on a bound belongs below it
	h.counts[i]++
	h.sum += v
}

func (h *histogram) shown() observe.Histogram {
	return observe.Histogram{Bounds: slices.Clone(h.bounds), Counts: slices.Clone(h.counts), Sum: h.sum}
}
