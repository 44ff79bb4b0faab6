package stream

import (
	"github.com/millrace-io/millrace/processor"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/topology"
)

// Process runs a processor of the user's: newP makes one per task. The processor may open the stores given here and no
// others; verbs that share a store are in one task. The processor may forward any key, so what comes out has to be
// repartitioned before a verb that needs equal keys together; ProcessValues does not. Process itself asks for no
// repartition: behind Map or SelectKey its stores hold, per task, whatever keys the input's partitions held.
func Process[KI, VI, KO, VO any](s Stream[KI, VI], newP func() processor.Processor[KI, VI, KO, VO], stores ...store.Spec) Stream[KO, VO] {
	return rekeyed("Process", topology.AddProcessor("", newP, stores, s.node))
}

// ProcessValues is Process for a processor that keeps the key: whatever key it forwards, the record goes on with the
// key it came with, and need not be repartitioned.
func ProcessValues[K, VI, VO any](s Stream[K, VI], newP func() processor.Processor[K, VI, K, VO], stores ...store.Spec) Stream[K, VO] {
	return Stream[K, VO]{node: topology.AddValuesProcessor("", newP, stores, s.node), rekeyed: s.rekeyed}
}

// Process2 runs a processor of the user's on the records of two streams, in one task: newP makes one per task. Both streams must have
// the key they are partitioned by, and their topics equally many partitions, filled by the same partitioner, so that equal keys meet.
// The records of both are taken in the order of their event times, as those of any inputs of a task are. As with Process, what comes
// out has to be repartitioned before a verb that needs equal keys together.
func Process2[K, V1, V2, KO, VO any](a Stream[K, V1], b Stream[K, V2], newP func() processor.Processor2[K, V1, V2, KO, VO], stores ...store.Spec) Stream[KO, VO] {
	needsKey("Process2", a)
	needsKey("Process2", b)
	return rekeyed("Process2", topology.AddProcessor2("", newP, stores, a.node, b.node))
}

// ProcessBroadcast runs a processor of the user's on the records of a stream and on those of a broadcast topic, which has one
// partition, of which every task sees every record, in the same order. rules is what the processor keeps of them:
// ProcessBroadcast writes it, Process and OnTimer read it; of the stores a Broadcast may be more of the same, and the others are as
// with Process.
//
// After a start a task reads the broadcast topic as far as it goes then before it does anything else; later, a record of the
// broadcast topic is processed when it comes, before all others that are there. Between the tasks, and between the two topics,
// there is no order: a rule holds in a task for the records that it processes after it. Broadcast records have no part in the
// event-time clock and are not waited for. Each task that a broadcast record fails in meets its policy, and may write a dead letter.
//
// The topic should be compacted, or never deleted from: a task that comes later reads it from its start. Rules that were deleted
// from the topic stay in the tasks until a record says that they are gone.
func ProcessBroadcast[K, V, BK, BV, SK, SV, KO, VO any](s Stream[K, V], topic Topic[BK, BV], newP func() processor.BroadcastProcessor[K, V, BK, BV, KO, VO], rules store.BroadcastSpec[SK, SV], stores ...store.Spec) Stream[KO, VO] {
	return rekeyed("ProcessBroadcast", topology.AddBroadcast("", newP, rules, stores, s.node, topic))
}
