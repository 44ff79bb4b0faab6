package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/millrace-io/millrace/itest"
	"github.com/millrace-io/millrace/itest/oracle"
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// countsName names the store of the counting workloads.
const countsName = "counts"

// count counts records by key. Each record gives one record in <topics>.audit, its key's running count and where it came
// from; those that are a multiple of -every go to <topics>.out too.
func (c config) count() (*topology.Topology, error) {
	var (
		in     = topology.NewTopic(c.topic("in"), serde.String(), serde.Int32())
		audit  = topology.NewTopic(c.topic("audit"), serde.String(), serde.Int64())
		out    = topology.NewTopic(c.topic("out"), serde.String(), serde.Int64())
		counts = store.KeyValue(countsName, serde.String(), serde.Int64())
	)
	newCounter := func() processor.Processor[string, int32, string, int64] {
		return &counter{config: c, spec: counts}
	}
	b := topology.NewBuilder()
	counted := topology.AddProcessor("count", newCounter, []store.Spec{counts}, topology.AddSource(b, "", in))
	topology.AddSink("", audit, counted)
	topology.AddSink("", out, topology.AddProcessor("sieve", c.sieve, nil, counted))
	return b.Build()
}

// sieve lets multiples of -every pass.
func (c config) sieve() processor.Processor[string, int64, string, int64] {
	return processor.Func[string, int64, string, int64](func(ctx processor.Context[string, int64], r processor.Record[string, int64]) error {
		if r.Value%c.every != 0 {
			return nil
		}
		return ctx.Forward(r)
	})
}

// counter is the state of one task.
type counter struct {
	config
	keepOrigin bool // the records say already where they came from

	spec   store.KeyValueSpec[string, int64]
	counts *store.KV[string, int64]
	task   processor.TaskID
}

func (c *counter) Init(ctx processor.InitContext) (err error) {
	c.task = ctx.TaskID()
	c.counts, err = c.spec.In(ctx)
	return err
}

func (c *counter) Process(ctx processor.Context[string, int64], r processor.Record[string, int32]) error {
	if r.Key == "hold" {
		if err := await(ctx, c.hold); err != nil {
			return err
		}
	}
	n, _, err := c.counts.Get(r.Key)
	if err != nil {
		return err
	}
	if err := c.counts.Put(r.Key, n+1); err != nil {
		return err
	}
	out := processor.With(r, r.Key, n+1)
	if !c.keepOrigin {
		out.Headers = origin(ctx.Origin())
	}
	return ctx.Forward(out)
}

// Close leaves the contents of the store behind, for a test to compare.
func (c *counter) Close() error { return dump(c.config.dump, c.task, c.counts) }

func dump(dir string, task processor.TaskID, counts *store.KV[string, int64]) error {
	if dir == "" || counts == nil {
		return nil
	}
	rows := make(map[string]int64)
	scan := counts.All()
	for k, n := range scan.Rows() {
		rows[k] = n
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("dump of %s: %w", task, err)
	}
	if len(rows) == 0 {
		return nil // a task without rows, or the dry run of New
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, strconv.Itoa(int(task.Partition))+".json")
	mine := fmt.Sprintf("%s.%d", file, os.Getpid())
	return errors.Join(os.WriteFile(mine, text, 0o600), os.Rename(mine, file))
}

func origin(o processor.Origin) []processor.Header {
	return []processor.Header{
		{Key: oracle.HeaderTopic, Value: []byte(o.Topic)},
		{Key: oracle.HeaderPartition, Value: strconv.AppendInt(nil, int64(o.Partition), 10)},
		{Key: oracle.HeaderOffset, Value: strconv.AppendInt(nil, o.Offset, 10)},
	}
}

// await waits until the file is there. It does not look at the context: it plays a handler that is deaf.
func await(_ processor.InitContext, file string) error {
	if file == "" {
		return errors.New("the key hold needs -hold")
	}
	say(itest.Event{Event: "holding"})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := os.Stat(file); err == nil {
			say(itest.Event{Event: "released"})
			return nil
		}
	}
	return nil
}
