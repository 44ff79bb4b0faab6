// Package store holds a task's keyed state: typed stores over one ordered engine (Pebble, or memory), with the writes of
// uncommitted epochs kept in memory until Kafka has them.
package store

import "github.com/millrace-io/millrace/serde"

// Kind is what a store offers. It is written into manifests: never renumber.
type Kind uint8

// The kinds.
const (
	KindKeyValue Kind = 1
)

// Spec is one declared store: its name, kind and codecs. The name is the user's, unique in a topology, and names the
// changelog topic too. Only this package makes Specs.
type Spec interface {
	Name() string
	Kind() Kind
	KeyID() string   // serde id of the key, as written in manifests
	ValueID() string // serde id of the value
	spec()
}

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
}
