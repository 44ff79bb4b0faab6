package processor

import "github.com/millrace-io/millrace/store"

// Processor2 handles the records of two streams with one key type, in one task: Process1 those of the first, Process2 those of the
// second, one at a time, over the same stores. It may have Init, Close, OnTimer and Prefetch as a Processor has.
type Processor2[K, V1, V2, KOut, VOut any] interface {
	Process1(ctx Context[KOut, VOut], r Record[K, V1]) error
	Process2(ctx Context[KOut, VOut], r Record[K, V2]) error
}

// BroadcastProcessor handles the records of a stream, and those of a broadcast topic, which every task of the stream sees all of, in
// the same order. ProcessBroadcast writes broadcast state and Process reads it:
//
//	func (p *fraud) Init(ctx processor.InitContext) (err error) {
//		p.limits, err = limits.In(ctx)
//		return err
//	}
//	func (p *fraud) ProcessBroadcast(ctx processor.BroadcastContext[string, Alert], r processor.Record[string, Limit]) error {
//		return p.limits.Put(ctx, r.Key, r.Value)
//	}
//	func (p *fraud) Process(ctx processor.Context[string, Alert], r processor.Record[string, Payment]) error {
//		limit, ok, err := p.limits.Get(r.Value.Merchant)
//		...
//
// Writing needs a BroadcastContext, so it does not compile on the other side, nor in OnTimer. The other stores of the node may be
// read and written on both sides; in ProcessBroadcast their keys can be visited (store.ForEach, store.ForEachKey), which are those of
// this task. Timers are set and deleted by Process and OnTimer only.
type BroadcastProcessor[K, V, BK, BV, KOut, VOut any] interface {
	Process(ctx Context[KOut, VOut], r Record[K, V]) error
	ProcessBroadcast(ctx BroadcastContext[KOut, VOut], r Record[BK, BV]) error
}

// BroadcastContext is the Context of a record of a broadcast topic: with the right to write broadcast state. Every task forwards what
// its own ProcessBroadcast forwards: there are as many results as tasks.
type BroadcastContext[K, V any] interface {
	Context[K, V]
	store.BroadcastSide
}

// EpochHandler is implemented by processors that gather something in memory and have to write it down before an epoch ends, for it
// to be committed with the records it came of. OnEpoch is called once at the end of each epoch in which the task has done anything,
// and may write stores and forward as Process does. Event time is that of the clock. If it fails, the node's policy has no say, since
// there is no record to leave out: the application fails, and the epoch is processed again.
//
// Forget is called when everything since the last OnEpoch was undone, and perhaps epochs before it: those records come again. What was
// gathered must be thrown away; stores are as they were then. A single record that fails is not told: gather what is certain.
type EpochHandler[KOut, VOut any] interface {
	OnEpoch(ctx Context[KOut, VOut]) error
	Forget()
}
