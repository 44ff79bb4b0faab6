// Package streamtest runs a topology inside a test: no broker, no waiting, the clock in your hand. It drives the kernel
// that production runs (the same merging, state, changelog, rollback and restore), so what a test shows is what an
// application does; a test takes milliseconds.
//
// # The first test
//
// Declare nouns once, build the topology in a function, and give the result to New:
//
//	func TestWordCount(t *testing.T) {
//		top, err := wordCount()
//		if err != nil {
//			t.Fatal(err)
//		}
//		d := streamtest.New(t, top)
//		in, out := streamtest.In(d, lines), streamtest.Out(d, totals)
//
//		in.Send("", "the cat the hat")
//
//		out.Want(out.Record("the", 1), out.Record("cat", 1), out.Record("the", 2), out.Record("hat", 1))
//	}
//
// Send writes a record and runs everything that follows from it, through every repartition topic, until nothing is left
// to do. Out reads committed records only, as a read_committed consumer would.
//
// # Time
//
// The clock stands still. [Driver.Advance] moves processing time; records carry the clock's time unless SendAt gives
// them their own event time.
//
// # State
//
// [Store] looks into a store, over all partitions; [Driver.Changelog] into the topic behind it.
//
// # Transactions
//
// By default every record is an epoch (a Kafka transaction) of its own. With [CommitEvery] and [ManualCommit] epochs are
// longer; [Driver.Commit] ends one, [Driver.Abort] aborts it: state and outputs are undone and the same input is
// processed again. [Driver.Crash] kills the application and starts it again: processors, handles and uncommitted state
// are gone without a goodbye, committed offsets and topics stay, and the stores come back from the local engine (which is
// some commits behind) and the tail of the changelog. [Driver.CrashLosingDisk] leaves the changelog alone to restore
// from. A topology that keeps something in a processor's field that belongs in a store fails a test with Crash in it.
//
// # Failure
//
// A record that meets policy Fail ends the test with Fatal. [Input.TrySend] returns the error instead, and [Driver.Err] has
// it afterwards; with [AllowFailure] Send leaves it there too. [DeadLetters] reads a dead-letter topic,
// [Driver.Failures] lists what went to which policy, [Driver.Refuse] makes the broker refuse an output.
//
// # What is not simulated
//
//   - Several instances and their rebalances: one worker runs all tasks, in order of name and partition, one record each.
//   - Kafka's protocol: a commit succeeds or, with Abort and Crash, does not; nothing is unknown. Control records and the
//     gaps that aborted transactions leave are there.
//   - Compaction and retention: changelogs and topics keep every record.
//   - With [Pebble], Crash closes the database properly: the loss of a process's last writes to its disk is simulated for
//     the memory engine only.
//   - Close: a crashed processor's Close is never called, as in life; those alive at the end of the test are closed.
package streamtest
