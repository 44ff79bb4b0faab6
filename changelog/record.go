package changelog

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/store"
)

// Record is the changelog record of one row (docs/format/changelog.md). The key is the row's key without the store's prefix; a
// nil value is a tombstone and deletes it; partition is the task's, set and never hashed. at is the wall clock, not the event
// time: brokers expire records by this timestamp, and state written from old events must not be born expired.
// The slices are used, not copied: they must stay untouched until the record's transaction has ended.
func Record(topic string, partition int32, key, value []byte, at time.Time) kgo.Record {
	return kgo.Record{Topic: topic, Partition: partition, Key: key, Value: value, Timestamp: at}
}

// mutation is the way back.
func mutation(r *kgo.Record) store.Mutation {
	return store.Mutation{Key: r.Key, Value: r.Value, Delete: r.Value == nil}
}
