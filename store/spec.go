// Package store holds a task's keyed state: typed stores over one ordered engine (Pebble, or memory), with the writes of
// uncommitted epochs kept in memory until Kafka has them.
package store

import (
	"strconv"

	"github.com/millrace-io/millrace/serde"
)

// Kind is what a store offers. It is written into manifests: never renumber.
type Kind uint8

// The kinds.
const (
	KindKeyValue    Kind = 1
	KindValue       Kind = 2
	KindList        Kind = 3
	KindMap         Kind = 4
	KindReducing    Kind = 5
	KindAggregating Kind = 6
	KindTimers      Kind = 7
	KindPartition   Kind = 8
	KindGlobal      Kind = 9
	KindBroadcast   Kind = 10
)

var kindNames = [...]string{
	KindKeyValue: "key-value", KindValue: "value", KindList: "list", KindMap: "map", KindReducing: "reducing",
	KindAggregating: "aggregating", KindTimers: "timers", KindPartition: "partition", KindGlobal: "global", KindBroadcast: "broadcast",
}

// String is the kind's name; one that this version does not know prints as its number.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Spec is one declared store: its name, kind and codecs. The name is the user's, unique in a topology, and names the
// changelog topic too. Only this package makes Specs.
type Spec interface {
	Name() string
	Kind() Kind
	KeyID() string   // serde id of the key, as written in manifests
	ValueID() string // serde id of the value
	settings() options
}

// RowsSpec declares a store whose rows another package gives their meaning: what it is built on, embedded in its own Spec.
type RowsSpec struct {
	name       string
	kind       Kind
	key, value string
	options
}

// NewRows declares such a store. key and value are what manifests remember of the rows' form.
func NewRows(name string, kind Kind, key, value string) RowsSpec {
	return RowsSpec{name: name, kind: kind, key: key, value: value}
}

// Name is the store's name.
func (s RowsSpec) Name() string { return s.name }

// Kind is the kind it was declared with.
func (s RowsSpec) Kind() Kind { return s.kind }

// KeyID is what manifests remember of the keys.
func (s RowsSpec) KeyID() string { return s.key }

// ValueID is what manifests remember of the values.
func (s RowsSpec) ValueID() string { return s.value }

// Source hands out the stores of a task by name. A node may open only stores that were attached to it.
type Source interface {
	// Rows returns the untyped rows of the store, or an error when the store does not exist or is not attached.
	Rows(store string) (*Rows, error)
}

// KeyValueSpec declares a KeyValue store.
type KeyValueSpec[K, V any] struct {
	name  string
	key   serde.Serde[K]
	value serde.Serde[V]
	options
}
