// Package task is the kernel: a task is a state machine without I/O. Records, ticks and known log ends go in; outputs and
// sealed epochs come out. It has no goroutine, socket, clock or map-iteration order; whoever drives it (the Kafka runtime,
// streamtest, a fuzz target) makes an epoch durable and says so.
//
//	Enqueue(batch)  -> records wait, merged by head timestamp
//	Step(n)         -> up to n records are processed; Outputs() since the last call
//	Seal()          -> an Epoch: changelog rows, input offsets, the task record; a new epoch begins
//	Committed(e)    -> its rows go to the engine with their checkpoint; its inputs are let go
//	Discard()       -> every epoch not committed is undone; its inputs will be stepped again
//
// The same calls in the same order give the same outputs in the same order, in every driver: that is why the tests of a
// topology without a broker say something about its life with one. docs/design/0003-kernel.md tells the reasons.
package task
