package store

import (
	"fmt"

	"github.com/millrace-io/millrace/internal/fault"
)

// Memory is one memory limit shared out between the parts of an instance that hold state. Every field is in bytes.
//
//	at most 1/16  memtables: Pebble reserves up to three per task out of its block cache; little goes through them
//	of the rest, to three quarters of the limit:
//	    9/16      row tables, one per task: rows written back or not
//	    3/16      overlays: what uncommitted epochs wrote
//	    3/16      blocks of the block cache
//	    1/16      batches on their way from a table to Pebble
//	1/4           bulk restores: rows gathered to be sorted; while nothing is restored, records on their way in and out
type Memory struct {
	Limit      int64 // of the whole instance
	Tasks      int   // it was shared out for
	MemTable   int64 // each; a task may have three
	BlockCache int64 // of the process, the reservation for memtables included
	ReadCache  int64 // the row table of each task: Options.CacheBytes
	Overlay    int64 // of all tasks together: full means commit early
	Bulk       int64 // of all bulk restores together
}

const (
	memTableMin   = 64 << 10
	memTableMax   = 4 << 20
	memTablesUsed = 3 // per task: one filled, one flushed, one recycled
	blocksMin     = 4 << 20
	tableMin      = 128 << 10
	overlayMin    = 32 << 10

	sixteenths    = 16
	tableShare    = 9
	overlayShare  = 3
	blocksShare   = 3
	memTableShare = 16 // of the whole limit, the inverse
)

// MemoryMin is the least memory limit that tasks tasks can run with.
func MemoryMin(tasks int) int64 {
	n := int64(max(1, tasks))
	return (n*memTablesUsed*memTableMin + restMin(n) + 2) / 3 * 4
}

// restMin is the least that tables, overlays, blocks and batches need together.
func restMin(n int64) int64 {
	return max(
		atLeast(tableMin*n, tableShare),
		atLeast(overlayMin*n, overlayShare),
		atLeast(blocksMin, blocksShare),
	)
}

// atLeast is the least amount of which so many sixteenths are n.
func atLeast(n, share int64) int64 { return (n*sixteenths + share - 1) / share }

// ShareOut divides limit bytes among tasks tasks of an instance. A limit below MemoryMin is an error.
func ShareOut(limit int64, tasks int) (Memory, error) {
	tasks = max(1, tasks)
	if least := MemoryMin(tasks); limit < least {
		return Memory{}, &fault.Error{
			Code: "store/memory-limit", Kind: fault.Config, Thing: "memory limit", Value: fmt.Sprintf("%d bytes", limit),
			Reason: fmt.Sprintf("%s at least %d bytes (%d MiB)", needs(tasks), least, (least+1<<20-1)>>20),
			Remedy: "raise the limit, or run more instances so that each has fewer tasks",
		}
	}
	n := int64(tasks)
	m := Memory{Limit: limit, Tasks: tasks}
	memTables := min(limit/memTableShare, limit/4*3-restMin(n))
	m.MemTable = min(max(memTables/memTablesUsed/n, memTableMin), memTableMax)
	rest := limit/4*3 - n*memTablesUsed*m.MemTable
	m.BlockCache = rest/sixteenths*blocksShare + n*memTablesUsed*m.MemTable
	m.ReadCache = rest / sixteenths * tableShare / n
	m.Overlay = rest / sixteenths * overlayShare
	m.Bulk = limit / 4
	return m, nil
}

func needs(tasks int) string {
	if tasks == 1 {
		return "one task needs"
	}
	return fmt.Sprintf("%d tasks need", tasks)
}
