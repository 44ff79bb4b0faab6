// Package processor is the contract between millrace and the code of its users: what a record is, what a processor
// must do, and what it may ask for.
package processor

import (
	"strconv"
	"time"
)

// Record is one record with its types. Key and Value are the reader's to keep; those of serde.SharedBytes are part of what
// was fetched and must not be changed. When NullKey or NullValue is set, Kafka holds a null there and Key or Value is the
// zero value; a null value is a tombstone: "this key is gone". Time is the event time, in milliseconds precision.
type Record[K, V any] struct {
	Key       K
	Value     V
	NullKey   bool
	NullValue bool
	Time      time.Time
	Headers   []Header
}

// Header is a record header. Its value is not copied: treat it as read-only.
type Header struct {
	Key   string
	Value []byte
}

// With returns a record with another key and value and r's time and headers.
func With[K, V, K2, V2 any](r Record[K, V], key K2, value V2) Record[K2, V2] {
	return Record[K2, V2]{Key: key, Value: value, Time: r.Time, Headers: r.Headers}
}

// Tombstone returns a record that deletes key, with r's time and headers.
func Tombstone[V2, K, V any](r Record[K, V]) Record[K, V2] {
	return Record[K, V2]{Key: r.Key, NullKey: r.NullKey, NullValue: true, Time: r.Time, Headers: r.Headers}
}

// TaskID names a task: one subtopology on one partition number. It prints as "counts/3".
type TaskID struct {
	Subtopology string
	Partition   int32
}

func (id TaskID) String() string { return id.Subtopology + "/" + strconv.Itoa(int(id.Partition)) }

// Origin is where the record being processed came from.
type Origin struct {
	Topic     string
	Partition int32
	Offset    int64
}
