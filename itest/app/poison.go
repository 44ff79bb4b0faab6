package main

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// What a value of the poison workload asks for. Everything else is counted like in the count workload. A value that is not
// 4 bytes long cannot be decoded.
const (
	askError    = -1 // the handler returns an error, after it wrote state and forwarded
	askPanic    = -2 // the handler panics, after the same
	askOversize = -3 // the handler forwards a record greater than any topic takes
	askTime     = -4 // the handler forwards a record from before 1970
)

// poison is count with records that go wrong. Outputs are the running count as 8 bytes in <topics>.audit.
func (c config) poison() (*topology.Topology, error) {
	var (
		in     = topology.NewTopic(c.topic("in"), serde.String(), serde.Int32())
		audit  = topology.NewTopic(c.topic("audit"), serde.String(), serde.Bytes())
		counts = store.KeyValue(countsName, serde.String(), serde.Int64())
	)
	newPoisoned := func() processor.Processor[string, int32, string, []byte] {
		return &poisoned{config: c, spec: counts}
	}
	b := topology.NewBuilder()
	topology.AddSink("audit", audit, topology.AddProcessor("poison", newPoisoned, []store.Spec{counts}, topology.AddSource(b, "in", in)))
	return b.Build()
}

type poisoned struct {
	config
	spec   store.KeyValueSpec[string, int64]
	counts *store.KV[string, int64]
	task   processor.TaskID
}

func (p *poisoned) Init(ctx processor.InitContext) (err error) {
	p.task = ctx.TaskID()
	p.counts, err = p.spec.In(ctx)
	return err
}

func (p *poisoned) Process(ctx processor.Context[string, []byte], r processor.Record[string, int32]) error {
	n, _, err := p.counts.Get(r.Key)
	if err != nil {
		return err
	}
	if err := p.counts.Put(r.Key, n+1); err != nil {
		return err
	}
	out := processor.With(r, r.Key, binary.BigEndian.AppendUint64(nil, uint64(n+1)))
	out.Headers = origin(ctx.Origin())
	if err := ctx.Forward(out); err != nil {
		return err
	}
	switch r.Value {
	case askError:
		return errors.New("asked to fail")
	case askPanic:
		panic("asked to panic")
	case askOversize:
		out.Value = bytes.Repeat([]byte("big "), 3<<20)
		return ctx.Forward(out)
	case askTime:
		out.Time = out.Time.AddDate(-200, 0, 0)
		return ctx.Forward(out)
	}
	return nil
}

func (p *poisoned) Close() error { return dump(p.config.dump, p.task, p.counts) }
