package millrace

import (
	"context"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/internal/runtime"
	"github.com/millrace-io/millrace/internal/task"
)

// StateSnapshot says what SnapshotState has written.
type StateSnapshot = runtime.TakenSnapshot

// ForkProgress is how far ForkState is.
type ForkProgress = changelog.ForkProgress

// ForkReport is what ForkState has done.
type ForkReport = changelog.ForkReport

// SnapshotState writes the state of all tasks of this running instance, and where each goes on, into dir, which is made if it is not there
// (docs/format/snapshot.md). `millrace state` looks into it, and ForkState makes another application from it. Nothing the application does
// later changes it.
//
// For the time of it all workers commit and stand still: a flush of the local databases, whose files the snapshot shares where it is on the
// same file system; MemoryStores are written out. Every task is as of the end of an epoch, and all tasks of the instance as of
// one moment. Several instances may write into one directory, each its tasks, and the snapshot is complete when all tasks are there.
// Where there are repartition topics one moment has to hold for all of them, so one instance must run all tasks; what is in those topics and
// not processed goes into the snapshot too.
//
// Any goroutine may call it but a handler's or a hook's, which it would wait for. ctx bounds it; at its end, or after any other error, what was
// written means nothing and the application goes on. Errors are *Error values.
func (a *App) SnapshotState(ctx context.Context, dir string) (StateSnapshot, error) {
	return a.rt.SnapshotState(ctx, dir)
}

// ForkState makes the new application id from a complete snapshot in dir, on the cluster that the snapshot is of: its changelogs with the
// snapshot's rows, its repartition topics with what was not processed, and its group's offsets. Instances of it that are started
// afterwards go on from the moment of the snapshot. The application that the snapshot was taken of is not touched and may go on running;
// both then read the same input topics, and write to the same output topics unless the new one's topology says otherwise.
//
// Of the options those about the connection count, and ReplicationFactor. progress may be nil. An id that has topics or a group is refused
// before anything is changed. A fork that was interrupted leaves an application that refuses to start (registry/fork-incomplete);
// `millrace reset` removes it.
func ForkState(ctx context.Context, dir, id string, progress func(ForkProgress), opts ...Option) (ForkReport, error) {
	c := runtime.Defaults()
	c.App = id
	for _, o := range opts {
		o.apply(&c)
	}
	if err := c.ValidateConnection(); err != nil {
		return ForkReport{}, err
	}
	return changelog.Fork(ctx, changelog.ForkConfig{
		App: id, Snapshot: dir, Client: c.Connection(), Replication: c.ReplicationFactor, Progress: progress, Rename: task.RenameTopics,
	})
}
