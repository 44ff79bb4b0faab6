package streamtest

import (
	"time"

	"github.com/millrace-io/millrace/processor"
)

// Option sets one thing about a Driver.
type Option func(*options)

type options struct {
	app        string
	partitions int32
	byTopic    map[string]int32
	start      time.Time
	every      int // records per epoch; 0: only Commit ends one
	onError    processor.Policy
	allowFail  bool
	pebble     bool
	maxBytes   map[string]int
	changelog  int
}

func defaults() options {
	return options{
		app: "test", partitions: 1, byTopic: map[string]int32{}, every: 1, maxBytes: map[string]int{},
		start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// App is the application's id: the prefix of its internal topics. Default "test".
func App(id string) Option { return func(o *options) { o.app = id } }

// Partitions is how many partitions every topic has that says nothing else. Default 1. More of them show a topology that
// relies on keys meeting where they do not.
func Partitions(n int) Option { return func(o *options) { o.partitions = int32(n) } }

// TopicPartitions is how many partitions the topic with that name has.
func TopicPartitions(topic string, n int) Option {
	return func(o *options) { o.byTopic[topic] = int32(n) }
}

// StartAt is what the clock shows at first. Default 2026-01-01 00:00 UTC.
func StartAt(t time.Time) Option { return func(o *options) { o.start = t } }

// CommitEvery ends an epoch after every n records. Default 1. What follows the last full epoch waits for Commit.
func CommitEvery(n int) Option { return func(o *options) { o.every = max(n, 1) } }

// ManualCommit leaves it to Commit to end an epoch. Records reach a Through topic when they are committed, and are then
// processed in the next epoch; Settle commits until all is done.
func ManualCommit() Option { return func(o *options) { o.every = 0 } }

// OnError is the policy of nodes that have none, as millrace.OnError sets it. Default Fail.
func OnError(p processor.Policy) Option { return func(o *options) { o.onError = p } }

// AllowFailure keeps a record that meets policy Fail from ending the test: Driver.Err tells of it.
func AllowFailure() Option { return func(o *options) { o.allowFail = true } }

// Pebble keeps state in the engine of production, in the test's temporary directory. Default is memory.
func Pebble() Option { return func(o *options) { o.pebble = true } }

// MaxRecordBytes is the max.message.bytes of a topic. Default: no limit.
func MaxRecordBytes(topic string, n int) Option {
	return func(o *options) { o.maxBytes[topic] = n }
}

// MaxChangelogBytes is the max.message.bytes of every changelog. Default: no limit.
func MaxChangelogBytes(n int) Option { return func(o *options) { o.changelog = n } }
