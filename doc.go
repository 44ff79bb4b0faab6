// Package millrace runs stateful stream processing applications on Kafka, exactly once, as ordinary Go programs.
//
// A program declares a topology with package stream (or the lower-level package topology), makes an App of it and runs
// it. Every process with the same application id is a member of one consumer group; the tasks are shared among them:
//
//	b := stream.NewBuilder()
//	words := stream.FlatMapValues(stream.From(b, lines), strings.Fields)
//	stream.GroupBy(words, word, byWord).Count(counts).ToStream().To(totals)
//	top, err := b.Build()
//	...
//	app, err := millrace.New("wordcount", top, millrace.SeedBrokers("localhost:9092"), millrace.StateDir("state"))
//	...
//	err = app.Run(ctx)
//
// The promise: every input record up to the committed offset is reflected exactly once in state and in what a
// read_committed consumer sees, across any number of crashes, pauses, partitions and rebalances. Local disks may lose or
// corrupt anything; the changelog topics may not. Not promised are effects of user code outside Kafka and order across
// partitions.
//
// Rooms a program meets: stream (the language), processor (code of one's own), store (state), serde (codecs), observe
// (what can be watched), streamtest (tests without a broker), devkafka (an embedded broker). ARCHITECTURE.md tells how
// a record flows.
package millrace
