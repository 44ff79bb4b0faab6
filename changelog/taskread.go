package changelog

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/millrace-io/millrace/store"
)

// TaskRecords is what a partition of <app>-tasks said about some tasks.
type TaskRecords struct {
	ByKey     map[string]TaskRecord // by key, as TaskKey makes it; a task without a record above From is absent
	Next      int64                 // offset of the next record to read
	FromStart bool                  // the log was read from its start, although From was somewhere else
}

var taskReads atomic.Int64

// TaskRecords reads a partition of <app>-tasks to its end and returns the latest record of each of the keys. p.From is where
// the checkpoint got to (-1 without one): when no record of a task comes after it, what Checkpoint.Record says still holds,
// unless FromStart is set. It runs beside the restores and may be called by any goroutine.
func (r *Restorer) TaskRecords(ctx context.Context, p Part, keys ...string) (TaskRecords, error) {
	p.Store = ""
	t := &taskTarget{want: make(map[string]bool, len(keys)), latest: map[string]TaskRecord{}, fromStart: p.From < 0}
	for _, k := range keys {
		t.want[k] = true
	}
	res := <-r.Add(ctx, Request{
		Task:  "<" + p.Topic + "/" + strconv.Itoa(int(p.Partition)) + " " + strconv.FormatInt(taskReads.Add(1), 10) + ">",
		Parts: []Part{p}, Target: t,
	})
	if res.Err != nil {
		return TaskRecords{}, fmt.Errorf("read %s/%d: %w", p.Topic, p.Partition, res.Err)
	}
	return TaskRecords{ByKey: t.latest, Next: res.Positions[0], FromStart: t.fromStart}, nil
}

// taskTarget keeps the latest record per key.
type taskTarget struct {
	want      map[string]bool
	latest    map[string]TaskRecord
	fromStart bool
}

func (t *taskTarget) Apply(_ int, rows []store.Mutation, _ int64) error {
	for i := range rows {
		row := &rows[i]
		if !t.want[string(row.Key)] {
			continue
		}
		if row.Delete {
			delete(t.latest, string(row.Key))
			continue
		}
		rec, err := ParseTaskRecord(row.Value)
		if err != nil {
			return fmt.Errorf("task %s: %w", row.Key, err)
		}
		t.latest[string(row.Key)] = rec
	}
	return nil
}

func (t *taskTarget) Rebuild(error) error {
	t.fromStart = true
	clear(t.latest)
	return nil
}

func (t *taskTarget) Finish() error { return nil }
