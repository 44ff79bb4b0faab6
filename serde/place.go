package serde

import "github.com/millrace-io/millrace/internal/fault"

// Place is where a codec is used.
type Place uint8

// The places.
const (
	TopicKey Place = iota + 1
	TopicValue
	StoreKey // of stores and timers
	StoreValue
)

func (p Place) String() string {
	return [...]string{"codec", "key of a topic", "value of a topic", "key of a store", "value of a store"}[min(p, StoreValue)]
}

// Restricted is what a Serde offers that cannot be used everywhere: one whose bytes are not always the same for the same
// value is no codec of keys. It is asked once for each place, when a topology is built.
type Restricted interface {
	// Usable returns nil, or why not and what to use instead.
	Usable(at Place) error
}

// Usable reports whether s may be used at a place: nil, or why not. Codecs that are not Restricted may be used everywhere.
func Usable[T any](s Serde[T], at Place) error {
	if r, ok := s.(Restricted); ok {
		return r.Usable(at)
	}
	return nil
}

func unusable(id string, at Place, reason, remedy string) error {
	return &fault.Error{Code: "serde/place", Kind: fault.Config, Thing: at.String(), Value: id, Reason: reason, Remedy: remedy}
}
