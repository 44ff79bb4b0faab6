package millrace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace"
	"github.com/millrace-io/millrace/observe"
	"github.com/millrace-io/millrace/observe/prom"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/timers"
	"github.com/millrace-io/millrace/topology"
	"github.com/millrace-io/millrace/ttl"
)

// watched runs an application that the test looks at; stop ends it and returns what Run returned.
func watched(t *testing.T, addrs []string, top *topology.Topology, opts ...millrace.Option) (app *millrace.App, stop func() error) {
	t.Helper()
	opts = append([]millrace.Option{
		millrace.SeedBrokers(addrs...), millrace.Logger(quiet), millrace.HeartbeatInterval(100 * time.Millisecond),
		millrace.SessionTimeout(6 * time.Second), millrace.CommitInterval(20 * time.Millisecond),
	}, opts...)
	app, err := millrace.New("counter", top, opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return app, stop
}

// tally counts what its hook is told, and says when so many records are committed.
type tally struct {
	n, records, outputs, rows, bytes int64
	want                             int64
	reached                          chan struct{}
}

// newTally is for one worker: its hook is called by that worker's goroutine alone.
func newTally(want int64) *tally { return &tally{want: want, reached: make(chan struct{})} }

func (c *tally) hook() millrace.Option {
	return millrace.Observe(observe.Hooks{Commit: func(e observe.Commit) {
		c.n++
		c.outputs += e.Outputs
		c.rows += e.ChangelogRows
		c.bytes += e.Bytes
		was := c.records
		if c.records += e.Records; was < c.want && c.records >= c.want {
			close(c.reached)
		}
	}})
}

func (c *tally) wait(t *testing.T) {
	t.Helper()
	select {
	case <-c.reached:
	case <-time.After(40 * time.Second):
		t.Fatalf("%d records were not committed", c.want)
	}
}

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(40 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 40 s", what)
		}
	}
}

func get(t *testing.T, url string) (body []byte, header http.Header) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, error %v", url, resp.Status, err)
	}
	return body, resp.Header
}

// scrape reads /metrics as Prometheus does.
func scrape(t *testing.T, app *millrace.App) map[string]*dto.MetricFamily {
	t.Helper()
	body, _ := get(t, "http://"+app.MetricsAddr()+"/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// sum adds up the series of a family that have all these labels, as name=value; -1 if there are none.
func sum(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	total := -1.0
	for _, m := range families["millrace_"+name].GetMetric() {
		found := 0
		for _, l := range m.Label {
			if slices.Contains(labels, l.GetName()+"="+l.GetValue()) {
				found++
			}
		}
		if found == len(labels) {
			total = max(0, total) + m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return total
}

// changelogOf reads the changelog of counts, and returns how many records it has and the bytes of their keys and values.
func changelogOf(t *testing.T, addrs []string, want int64) (records, size int64) {
	t.Helper()
	cl := client(t, addrs, kgo.ConsumeTopics("counter-counts-changelog"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for records < want {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d changelog records came", records, want)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			records++
			size += int64(len(r.Key) + len(r.Value))
		})
	}
	return records, size
}

// TestFiguresOfAKnownRun counts a thousand records in one epoch and compares every figure that is determined by that with what is in
// Kafka.
func TestFiguresOfAKnownRun(t *testing.T) {
	for name, state := range map[string]millrace.Option{"memory": millrace.MemoryStores(), "pebble": millrace.StateDir(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			addrs := broker(t, 4)
			produceWords(t, addrs, 1000, 100)
			var seen atomic.Int64
			b := stream.NewBuilder()
			stream.GroupByKey(stream.From(b, words).Peek(func(string, string) { seen.Add(1) })).Count(counts).ToStream().To(totals)
			top, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			// One worker, and no commit before the end: one epoch.
			app, stop := watched(t, addrs, top, state, millrace.Workers(1), millrace.CommitInterval(25*time.Second), millrace.MetricsListener("127.0.0.1:0"))
			eventually(t, "1000 records processed", func() bool { return seen.Load() == 1000 })
			if s := app.Snapshot(); s.Subtopologies[0].Records != 0 || s.Workers[0].Committed() != 0 {
				t.Errorf("%d records count in %d epochs, and none is committed", s.Subtopologies[0].Records, s.Workers[0].Committed())
			}
			eventually(t, "the overlay shows", func() bool { return app.Snapshot().Memory.Overlay > 0 })
			if f := scrape(t, app); sum(f, "tasks", "state=running") != 4 || sum(f, "records_total") != 0 || sum(f, "input_buffer_bytes") <= 0 {
				t.Errorf("before the commit: %v tasks run, %v records, %v bytes of them", sum(f, "tasks", "state=running"), sum(f, "records_total"), sum(f, "input_buffer_bytes"))
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}

			s := app.Snapshot()
			records, size := changelogOf(t, addrs, 100)
			sub, w := s.Subtopologies[0], s.Workers[0]
			if len(s.Subtopologies) != 1 || len(s.Workers) != 1 || len(s.Tasks) != 0 || s.State != "closed" || s.Generation != -1 {
				t.Fatalf("after the end: %+v", s)
			}
			if sub.Name != "counts" || sub.Tasks != 4 || sub.Records != 1000 || sub.Outputs != 1000 || sub.Skipped+sub.DeadLetters+sub.Late+sub.Retries != 0 {
				t.Errorf("subtopology %+v", sub)
			}
			if st := sub.Stores[0]; st.Name != "counts" || st.ChangelogRecords != records || records != 100 || st.ChangelogBytes != size {
				t.Errorf("store %+v; in its changelog are %d records of %d bytes", st, records, size)
			}
			if w.Records != 1000 || w.Outputs != 1000 || w.ChangelogRows != 100 || w.Committed() != 1 || w.Commits[0].Name != "closing" || w.Aborted() != 0 {
				t.Errorf("worker %+v", w)
			}
			if w.Epochs.Count() != 1 || w.CommitTime.Count() != 1 || w.EpochRecords.Sum != 1000 {
				t.Errorf("histograms %+v %+v %+v", w.Epochs, w.CommitTime, w.EpochRecords)
			}
			if sub.CacheHits+sub.CacheMisses < 1000 {
				t.Errorf("%d hits and %d misses of 1000 reads", sub.CacheHits, sub.CacheMisses)
			}
			for _, c := range s.Clients {
				switch {
				case c.Requests == 0 || c.Connects == 0 || c.WrittenBytes == 0 || c.ReadBytes == 0:
					t.Errorf("client %+v", c)
				case c.Role == "group" && c.FetchedRecords < 1000, c.Role == "producer" && c.ProducedRecords != 1000+100+4: // four task records
					t.Errorf("client %s fetched %d and produced %d records", c.Role, c.FetchedRecords, c.ProducedRecords)
				}
			}
		})
	}
}

// TestFiguresAddUp takes snapshots from all sides while an application works, in small epochs, and once it is done.
func TestFiguresAddUp(t *testing.T) {
	const n, keys, partitions = 20_000, 50, 4
	addrs := broker(t, partitions)
	produceWords(t, addrs, n, keys)
	told := make(chan observe.Snapshot, 1)
	var tellings atomic.Int64
	done := newTally(n)
	app, stop := watched(t, addrs, countWords(t), millrace.StateDir(t.TempDir()), millrace.Workers(1), done.hook(),
		millrace.MetricsListener("127.0.0.1:0"), millrace.StatsInterval(10*time.Millisecond),
		millrace.Observe(observe.Hooks{Stats: func(s observe.Snapshot) {
			select {
			case <-told: // the newest is enough
			default:
			}
			told <- s
			if s.State == "running" {
				tellings.Add(1)
			}
		}}))
	failures := make(chan error, 2)
	for range 2 {
		go func() {
			var last observe.Snapshot
			for {
				s := app.Snapshot()
				if err := addsUp(&last, &s); err != nil {
					failures <- err
					return
				}
				select {
				case <-done.reached:
					failures <- nil
					return
				default:
				}
				last = s
			}
		}()
	}
	done.wait(t)
	for range 2 {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}

	eventually(t, "the hook is told now and then", func() bool { return tellings.Load() >= 3 })

	// An idle application answers, and knows how far behind it is.
	eventually(t, "no lag", func() bool {
		s := app.Snapshot()
		lag := int64(0)
		for i := range s.Tasks {
			n, ok := s.Tasks[i].Lag()
			if !ok {
				return false
			}
			lag += n
		}
		return len(s.Tasks) == partitions && lag == 0
	})
	s := app.Snapshot()
	if err := addsUp(nil, &s); err != nil {
		t.Error(err)
	}
	if s.Subtopologies[0].Records != n || s.Subtopologies[0].Stores[0].Rows != keys || s.State != "running" || s.LastError != nil {
		t.Errorf("in the end: %+v", s)
	}
	for _, task := range s.Tasks {
		if task.State != "running" || task.Worker != 0 || task.Clock <= 0 || task.ClockLag < 0 || task.DiskBytes <= 0 || task.TableBytes <= 0 || task.Stores[0].Restore == nil {
			t.Errorf("task %+v", task)
		}
	}
	f := scrape(t, app)
	for name, want := range map[string]float64{
		"records_total": n, "outputs_total": n, "store_rows": keys, "lag_records": 0, "tasks": partitions, "tasks_parked": 0, "workers": 1, "aborts_total": -1,
		"memory_limit_bytes": 512 << 20, "overlay_bytes": 0, "records_dropped_total": -1, "app_state": 1, "restore_remaining_records": 0,
	} {
		if got := sum(f, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	d := app.Describe().String()
	for _, part := range []string{"application counter", "counts/3", "running", "words/0", "subtopology counts", "memory:", "exactly-once"} {
		if !strings.Contains(d, part) {
			t.Errorf("the description has no %q:\n%s", part, d)
		}
	}

	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if s := <-told; s.State != "closed" || s.Subtopologies[0].Records != n {
		t.Errorf("the last figures are of state %s and %d records", s.State, s.Subtopologies[0].Records)
	}
	s = app.Snapshot()
	st := s.Subtopologies[0].Stores[0]
	if s.Workers[0].Committed() != done.n || s.Workers[0].Outputs != done.outputs || st.ChangelogRecords != done.rows || s.Workers[0].Epochs.Count() != done.n {
		t.Errorf("the hook was told of %+v, the figures are %+v and %+v", done, s.Workers[0], st)
	}
	if records, size := changelogOf(t, addrs, st.ChangelogRecords); records != st.ChangelogRecords || size != st.ChangelogBytes {
		t.Errorf("%d changelog records of %d bytes are counted, there are %d of %d", st.ChangelogRecords, st.ChangelogBytes, records, size)
	}
}

// addsUp compares figures that come from several places, and with those of an earlier snapshot, if there is one.
func addsUp(before, s *observe.Snapshot) error {
	var workers, subs, tasks, positions, outputs, rows, changelog, hist int64
	for i := range s.Workers {
		w := &s.Workers[i]
		workers, outputs, rows = workers+w.Records, outputs+w.Outputs, rows+w.ChangelogRows
		if w.Committed() != w.Epochs.Count() {
			return fmt.Errorf("%d commits, %d epochs", w.Committed(), w.Epochs.Count())
		}
		hist += int64(w.EpochRecords.Sum)
	}
	for _, sub := range s.Subtopologies {
		subs, outputs = subs+sub.Records, outputs-sub.Outputs
		for _, st := range sub.Stores {
			changelog += st.ChangelogRecords
		}
	}
	for _, task := range s.Tasks {
		tasks += task.Records
		for _, in := range task.Inputs {
			positions += max(0, in.Position)
		}
	}
	switch {
	case workers != subs || hist != subs || outputs != 0 || rows != changelog:
		return fmt.Errorf("workers committed %d records (epochs: %d), tasks %d; the outputs differ by %d; %d changelog records, %d rows", workers, hist, subs, outputs, changelog, rows)
	case tasks != positions:
		return fmt.Errorf("tasks processed %d records up to positions that add up to %d", tasks, positions)
	case before != nil && len(before.Subtopologies) > 0 && before.Subtopologies[0].Records > subs:
		return fmt.Errorf("%d records, and before %d", subs, before.Subtopologies[0].Records)
	}
	return nil
}

// TestRestoreCanBeWatched holds a restore up and reads by HTTP how far it is.
func TestRestoreCanBeWatched(t *testing.T) {
	addrs := broker(t, 2)
	produceWords(t, addrs, 1000, 100)
	done := newTally(1000)
	first, stop := watched(t, addrs, countWords(t), millrace.MemoryStores(), millrace.Workers(1), done.hook())
	done.wait(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if addr := first.MetricsAddr(); addr != "" {
		t.Errorf("a listener nobody asked for: %s", addr)
	}
	written := first.Snapshot().Subtopologies[0].Stores[0]

	told, goOn := make(chan observe.RestoreProgress, 10), make(chan struct{})
	app, stop := watched(t, addrs, countWords(t), millrace.MemoryStores(), millrace.MetricsListener("127.0.0.1:0"),
		millrace.Observe(observe.Hooks{Restore: func(p observe.RestoreProgress) {
			told <- p
			<-goOn
		}}))
	var p observe.RestoreProgress
	select {
	case p = <-told:
	case <-time.After(40 * time.Second):
		t.Fatal("no restore")
	}
	f := scrape(t, app)
	if got := sum(f, "restore_records_total", "store=counts"); got != float64(p.Records) || p.Records == 0 {
		t.Errorf("%v records restored, the hook was told of %d", got, p.Records)
	}
	if sum(f, "tasks", "state=restoring") < 1 || sum(f, "tasks", "state=running") > 1 || sum(f, "app_state", "state=running") != 0 {
		t.Errorf("while the restore is held: %v", f["millrace_tasks"])
	}
	var d observe.Description
	body, _ := get(t, "http://"+app.MetricsAddr()+"/describe")
	if err := json.Unmarshal(body, &d); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, task := range d.Tasks {
		if r := task.Stores[0].Restore; task.Task == p.Task {
			found = r != nil && r.Records == p.Records && r.Position == p.Position && r.End == p.End && task.State == "restoring"
		}
	}
	if !found {
		t.Errorf("the description does not show %+v:\n%s", p, body)
	}
	close(goOn)
	eventually(t, "running", func() bool { return app.State() == "running" })
	f = scrape(t, app)
	if got := sum(f, "restore_records_total"); got != float64(written.ChangelogRecords) {
		t.Errorf("%v records were restored, %d were written", got, written.ChangelogRecords)
	}
	// Nothing has come since: the lag is known by asking.
	eventually(t, "the lag is known", func() bool { return sum(scrape(t, app), "lag_records") == 0 })
	if got := sum(f, "restore_bytes_total"); got <= 0 {
		t.Errorf("%v bytes were restored, %d were written", got, written.ChangelogBytes)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestMetricsListener: what it serves, to whom, and for how long.
func TestMetricsListener(t *testing.T) {
	addrs := broker(t, 2)
	produceWords(t, addrs, 100, 10)
	done := newTally(100)
	app, stop := watched(t, addrs, countWords(t), millrace.MemoryStores(), millrace.Workers(1), millrace.MetricsListener("localhost:0"), millrace.MetricsPerTask(), done.hook())
	done.wait(t)
	base := "http://" + app.MetricsAddr()

	listed := map[string]string{}
	for _, m := range prom.Metrics() {
		listed[m.Name] = m.Type
	}
	f := scrape(t, app)
	for name, family := range f {
		if kind, ok := listed[name]; ok && strings.ToLower(family.GetType().String()) == kind || strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		t.Errorf("%s, a %s, is not listed", name, family.GetType())
	}
	if len(f) < len(listed) || sum(f, "records_total", "task=counts/0", "subtopology=counts")+sum(f, "records_total", "task=counts/1", "subtopology=counts") != 100 {
		t.Errorf("%d families; records by task: %v", len(f), f["millrace_records_total"])
	}

	body, header := get(t, base+"/describe")
	var d observe.Description
	strict := json.NewDecoder(bytes.NewReader(body))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&d); err != nil || d.App != "counter" || !strings.Contains(d.Topology, "subtopology counts") || len(d.Tasks) != 2 {
		t.Errorf("error %v in\n%s", err, body)
	}
	if got := header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	if body, _ := get(t, base+"/describe?as=text"); !strings.HasPrefix(string(body), "application counter, instance ") {
		t.Errorf("as text:\n%s", body)
	}

	for _, c := range []struct {
		method, path, host string
		want               int
	}{
		{"GET", "/metrics", "localhost", 200}, {"GET", "/metrics", "[::1]:80", 200}, {"GET", "/metrics", "rebound.example:9600", 403},
		{"GET", "/describe", "10.0.0.1", 403}, {"POST", "/metrics", "", 405}, {"GET", "/", "", 404}, {"GET", "/debug/pprof/", "", 404},
	} {
		req, err := http.NewRequest(c.method, base+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != c.want {
			t.Errorf("%s %s for %q: %s, want %d", c.method, c.path, c.host, resp.Status, c.want)
		}
	}

	addr := app.MetricsAddr()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", addr); err == nil || app.MetricsAddr() != "" {
		t.Errorf("the listener is there after Run, address %q", app.MetricsAddr())
	}
}

// TestMetricsListenerIsTaken: an address that cannot be had ends Run before it does anything.
func TestMetricsListenerIsTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	app, err := millrace.New("counter", countWords(t), millrace.SeedBrokers("127.0.0.1:1"), millrace.MemoryStores(), millrace.Logger(quiet),
		millrace.MetricsListener(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	err = app.Run(context.Background())
	if !errors.Is(err, &millrace.Error{Code: "config/metrics-listener"}) || millrace.ExitCode(err) != 2 || app.State() != "failed" {
		t.Errorf("error %v, exit status %d, state %s", err, millrace.ExitCode(err), app.State())
	}
	if s := app.Snapshot(); s.LastError == nil || !strings.Contains(s.LastError.Error, "config/metrics-listener") {
		t.Errorf("the last error is %+v", s.LastError)
	}
}

// TestNothingToSay: an application that was not run describes itself.
func TestNothingToSay(t *testing.T) {
	app, err := millrace.New("counter", countWords(t), millrace.SeedBrokers("127.0.0.1:1"), millrace.MemoryStores(), millrace.MetricsListener("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	d := app.Describe()
	if d.State != "created" || !strings.HasPrefix(d.String(), "application counter: created, exactly-once\n") || !strings.Contains(d.String(), "\nsubtopology counts\n") {
		t.Errorf("%s", d)
	}
	if app.MetricsAddr() != "" {
		t.Error("it listens before Run")
	}
}

// TestMetricsRefusals: addresses that others could reach, and what is no address.
func TestMetricsRefusals(t *testing.T) {
	const loopback = " is not a loopback address: whoever reaches it reads names of topics, sizes and texts of errors, without a password; " +
		"use 127.0.0.1, or add millrace.MetricsRemote() where the network keeps strangers out"
	for _, c := range []struct {
		addr   string
		remote bool
		want   string // "" if it is taken
	}{
		{"127.0.0.1:9600", false, ""}, {"[::1]:0", false, ""}, {"localhost:0", false, ""}, {"127.1.2.3:1", false, ""},
		{":9600", true, ""}, {"metrics.example:9600", true, ""}, {"0.0.0.0:9600", true, ""},
		{":9600", false, `":9600":` + loopback}, {"0.0.0.0:9600", false, `"0.0.0.0:9600":` + loopback}, {"[::]:9600", false, `"[::]:9600":` + loopback},
		{"10.0.0.1:9600", false, `"10.0.0.1:9600":` + loopback}, {"metrics.example:9600", false, `"metrics.example:9600":` + loopback},
		{"127.0.0.1", false, `"127.0.0.1": is no host:port; write it as 127.0.0.1:9600; port 0 takes a free one`},
		{"9600", true, `"9600": is no host:port; write it as 127.0.0.1:9600; port 0 takes a free one`},
		{"127.0.0.1:http", false, `"127.0.0.1:http": has the port "http"; use 0 to 65535; 0 takes a free one`},
		{"127.0.0.1:65536", false, `"127.0.0.1:65536": has the port "65536"; use 0 to 65535; 0 takes a free one`},
	} {
		opts := []millrace.Option{millrace.SeedBrokers("127.0.0.1:1"), millrace.MemoryStores(), millrace.MetricsListener(c.addr)}
		if c.remote {
			opts = append(opts, millrace.MetricsRemote())
		}
		_, err := millrace.New("counter", countWords(t), opts...)
		switch {
		case c.want == "" && err == nil:
		case c.want == "" || err == nil || err.Error() != "config/metrics-listener: metrics listener "+c.want:
			t.Errorf("%s: %v", c.addr, err)
		default:
			checkTyped(t, c.addr, err)
		}
	}
	_, err := millrace.New("counter", countWords(t), millrace.SeedBrokers("127.0.0.1:1"), millrace.MemoryStores(), millrace.StatsInterval(0))
	if !errors.Is(err, &millrace.Error{Code: "config/stats-interval"}) {
		t.Errorf("no interval: %v", err)
	}
}

// TestWhatIsLeftOutShows: records that fail, records that are dropped, and the last error.
func TestWhatIsLeftOutShows(t *testing.T) {
	addrs := broker(t, 1)
	cl := client(t, addrs)
	for i := range 20 {
		r := &kgo.Record{Topic: "words", Key: []byte("k"), Value: []byte("x")}
		switch {
		case i%10 == 3:
			r.Value = []byte("bad")
		case i%10 == 7:
			r.Key = nil
		}
		if err := cl.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	b := stream.NewBuilder()
	checked := stream.From(b, words).Filter(func(_, v string) bool {
		if v == "bad" {
			panic("bad word")
		}
		return true
	})
	stream.GroupByKey(checked).Count(counts).ToStream().To(totals)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	done := newTally(20)
	app, _ := watched(t, addrs, top, millrace.MemoryStores(), millrace.Workers(1), millrace.OnError(processor.Skip()), done.hook())
	done.wait(t)
	s := app.Snapshot()
	c := s.Subtopologies[0].Counters
	if c.Records != 20 || c.Skipped != 2 || c.Outputs != 16 || len(c.Drops) != 1 || c.Drops[0].Reason != "null key" || c.Drops[0].Node == "" || c.Drops[0].Count != 2 {
		t.Errorf("counters %+v", c)
	}
	if e := s.LastError; e == nil || e.What != "record" || e.Task != "counts/0" || !strings.Contains(e.Error, "bad word") {
		t.Errorf("last error %+v", e)
	}
	if !strings.Contains(app.Describe().String(), "record of task counts/0") {
		t.Errorf("%s", app.Describe())
	}
}

// TestFiguresOverAborts: epochs that are undone and stepped again count once.
func TestFiguresOverAborts(t *testing.T) {
	const n = 20_000
	fk, addrs := fake(t, 3)
	produceWords(t, addrs, n, 30)
	fk.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TransactionAbortable, Count: 2, When: ours})
	// The first commit is answered when records behind it have been processed: they are undone with it.
	var seen atomic.Int64
	var held atomic.Bool
	fk.ControlKey(int16(kmsg.TxnOffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		if held.Swap(true) {
			return nil, nil, false
		}
		fk.SleepControl(func() {
			for at, i := seen.Load(), 0; seen.Load() < at+2000 && i < 5000; i++ {
				<-time.After(time.Millisecond)
			}
		})
		return nil, nil, false
	})
	b := stream.NewBuilder()
	stream.GroupByKey(stream.From(b, words).Peek(func(string, string) { seen.Add(1) })).Count(counts).ToStream().To(totals)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	// Offsets are refused once a record was: of two errors in one epoch the first to be answered is its reason.
	var refused atomic.Bool
	h := fk.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.TransactionAbortable, Count: 4, When: func(kmsg.Request) bool { return refused.Load() }})
	aborts := millrace.Observe(observe.Hooks{Abort: func(a observe.Abort) {
		if a.Kind == "refused record" {
			refused.Store(true)
		}
	}})
	done := newTally(n)
	app, stop := watched(t, addrs, top, millrace.MemoryStores(), millrace.Workers(1), millrace.CommitInterval(5*time.Millisecond), done.hook(), aborts)
	done.wait(t)
	// A rebalance takes tasks away and gives them back, new incarnations with new kernels.
	_, leave := watched(t, addrs, top, millrace.MemoryStores(), millrace.Workers(1))
	eventually(t, "tasks have moved", func() bool { s := app.Snapshot(); return len(s.Tasks) < 3 && s.State == "running" })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "tasks are back", func() bool { s := app.Snapshot(); return len(s.Tasks) == 3 && s.State == "running" })
	before := app.Snapshot()
	produceWords(t, addrs, n, 30)
	eventually(t, "all is committed", func() bool { return app.Snapshot().Subtopologies[0].Records >= 2*n })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s := app.Snapshot()
	sub, st := s.Subtopologies[0], s.Subtopologies[0].Stores[0]
	if before.Subtopologies[0].Records != n || sub.Records != 2*n || sub.Outputs != 2*n || s.Workers[0].Records != 2*n || s.Workers[0].Outputs != 2*n {
		t.Errorf("before %+v\nin the end %+v\nworker %+v", before.Subtopologies[0].Counters, sub.Counters, s.Workers[0])
	}
	var kinds []string
	for _, c := range s.Workers[0].Aborts {
		kinds = append(kinds, c.Name)
	}
	if h.Hits() != 4 || !slices.Contains(kinds, "broker") || !slices.Contains(kinds, "refused record") || s.LastError == nil || s.LastError.What != "epoch" || s.Rebalances < 3 {
		t.Errorf("%d faults, aborts %v, last error %+v, %d rebalances", h.Hits(), s.Workers[0].Aborts, s.LastError, s.Rebalances)
	}
	if records, size := changelogOf(t, addrs, st.ChangelogRecords); records != st.ChangelogRecords || size != st.ChangelogBytes {
		t.Errorf("%d changelog records of %d bytes are counted, there are %d of %d", st.ChangelogRecords, st.ChangelogBytes, records, size)
	}
}

// BenchmarkFigures is a keyed count without a listener, with one, and with one that is read a hundred times a second.
func BenchmarkFigures(b *testing.B) {
	for _, c := range []struct {
		name   string
		opts   []millrace.Option
		scrape time.Duration
	}{
		{"off", nil, 0},
		{"listener", []millrace.Option{millrace.MetricsListener("127.0.0.1:0"), millrace.MetricsPerTask()}, 0},
		{"scraped", []millrace.Option{millrace.MetricsListener("127.0.0.1:0"), millrace.MetricsPerTask()}, 10 * time.Millisecond},
	} {
		b.Run(c.name, func(b *testing.B) {
			const n = 200_000
			for b.Loop() {
				b.StopTimer()
				cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "words", "totals"))
				if err != nil {
					b.Fatal(err)
				}
				cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("words"))
				if err != nil {
					b.Fatal(err)
				}
				for i := range n {
					cl.Produce(context.Background(), &kgo.Record{Key: fmt.Appendf(nil, "k%d", i%1000), Value: []byte("x")}, nil)
				}
				if err := cl.Flush(context.Background()); err != nil {
					b.Fatal(err)
				}
				cl.Close()
				sb := stream.NewBuilder()
				stream.GroupByKey(stream.From(sb, words)).Count(counts)
				top, err := sb.Build()
				if err != nil {
					b.Fatal(err)
				}
				done := newTally(n)
				app, err := millrace.New("counter", top, append([]millrace.Option{
					millrace.SeedBrokers(cluster.ListenAddrs()...), millrace.Logger(quiet), millrace.MemoryStores(), millrace.Workers(1), done.hook(),
				}, c.opts...)...)
				if err != nil {
					b.Fatal(err)
				}
				ended := make(chan error, 1)
				b.StartTimer()
				go func() { ended <- app.Run(context.Background()) }()
				for left := true; left; {
					var tick <-chan time.Time
					if c.scrape > 0 {
						tick = time.After(c.scrape)
					}
					select {
					case <-done.reached:
						left = false
					case <-tick:
						if addr := app.MetricsAddr(); addr != "" {
							if resp, err := http.Get("http://" + addr + "/metrics"); err == nil {
								_, _ = io.Copy(io.Discard, resp.Body)
								resp.Body.Close()
							}
						}
					}
				}
				b.StopTimer()
				_ = app.Close()
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
				cluster.Close()
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
		})
	}
}

var (
	wakes = timers.New("wakes", serde.String(), timers.EventTime)
	brief = store.KeyValue("brief", serde.String(), serde.String(), store.WithTTL(ttl.AfterWrite(time.Hour).EventTime()))
)

// sleeper notes each word for an hour and sets a timer an hour from it.
type sleeper struct {
	wakes *timers.Set[string]
	brief *store.KV[string, string]
}

func (p *sleeper) Init(ctx processor.InitContext) (err error) {
	if p.wakes, err = wakes.In(ctx); err != nil {
		return err
	}
	p.brief, err = brief.In(ctx)
	return err
}

func (p *sleeper) Process(ctx processor.Context[string, string], r processor.Record[string, string]) error {
	if err := p.brief.Put(r.Key, r.Value); err != nil {
		return err
	}
	return p.wakes.Set(r.Key, r.Time.Add(time.Hour))
}

// OnTimer finds the word dead, whether or not it was cleaned up.
func (p *sleeper) OnTimer(_ processor.Context[string, string], f timers.Fired[string]) error {
	_, _, err := p.brief.Get(f.Key)
	return err
}

// TestTimersAndExpiredRowsShow: nine timers wait; a record two hours later has them fire, and the rows they were set with are found dead.
func TestTimersAndExpiredRowsShow(t *testing.T) {
	addrs := broker(t, 1)
	cl := client(t, addrs)
	base := time.UnixMilli(1_700_000_000_000)
	produce := func(key string, at time.Time) {
		t.Helper()
		if err := cl.ProduceSync(context.Background(), &kgo.Record{Topic: "words", Key: []byte(key), Value: []byte("x"), Timestamp: at}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 9 {
		produce(fmt.Sprint("k", i), base)
	}
	b := stream.NewBuilder()
	stream.Process(stream.From(b, words), func() processor.Processor[string, string, string, string] { return &sleeper{} }, wakes, brief)
	top, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	app, _ := watched(t, addrs, top, millrace.StateDir(t.TempDir()), millrace.Workers(1), millrace.MetricsListener("127.0.0.1:0"))
	shown := func(what string, records, pending, fired, expired float64) {
		t.Helper()
		eventually(t, what, func() bool {
			if app.MetricsAddr() == "" {
				return false
			}
			f := scrape(t, app)
			return sum(f, "records_total") == records && sum(f, "timers_pending") == pending && sum(f, "timers_fired_total") == fired &&
				sum(f, "store_expired_total", "store=brief") == expired && sum(f, "clock_lag_seconds") > 0
		})
	}
	shown("nine timers", 9, 9, 0, 0)
	produce("late", base.Add(2*time.Hour))
	shown("nine have fired", 10, 1, 9, 9)
}
