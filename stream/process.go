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
