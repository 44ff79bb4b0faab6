// Package serde turns values into bytes and back. It is a leaf: topics, stores and timers all take their codecs from here.
package serde

// Serde is a codec for T. Append appends the encoding of v to dst and returns the extended slice; it must not keep dst.
// Decode must not keep src: the caller reuses it (a codec whose values hold on to bytes offers Owning). Both may be called by several goroutines at once.
// The same value must always encode to the same bytes, or keys would be found on one partition and missed on another.
type Serde[T any] interface {
	Append(dst []byte, v T) ([]byte, error)
	Decode(src []byte) (T, error)
}

// Ordered is what a Serde offers when its topic form does not sort like its values: stores keep keys in this form, so
// that ranges come back in the order a person expects (for int64: -1 before 0). bytes.Compare of two encodings must
// equal the order of the values.
type Ordered[T any] interface {
	AppendOrdered(dst []byte, v T) ([]byte, error)
	DecodeOrdered(src []byte) (T, error)
}

// Nullable is what a Serde offers when one of its values stands for Kafka's null: such a value is written as a null
// (a tombstone), not as bytes, and a null is read as that value. Optional is the ready-made one.
type Nullable[T any] interface {
	IsNull(v T) bool
}

// Identified is what a Serde offers to be told apart from others on disk. Without it a codec goes by its Go type name.
type Identified interface {
	// ID is stable and short: "string", "int64", "json:Payment". It is written into manifests and compared at start.
	ID() string
}

// Fixed is what a Serde offers all of whose encodings, ordered ones too, have the same length: keys of several parts need no
// mark then where this one ends. A codec that has written keys of state must not begin or cease to offer it without a new
// ID.
type Fixed interface {
	Width() int // bytes, more than 0
}

// Width is the length of everything s encodes, or 0 when lengths differ.
func Width[T any](s Serde[T]) int {
	if f, ok := s.(Fixed); ok {
		return f.Width()
	}
	return 0
}
