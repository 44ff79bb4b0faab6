package serde

import "unsafe"

// Owning is what a Serde offers whose values hold on to bytes, as strings and byte slices do. DecodeOwned is Decode of
// bytes that the value may keep: nobody changes them afterwards, and nobody but the value has a claim on them. Whoever
// decodes many values can then make the copies for many at once.
type Owning[T any] interface {
	DecodeOwned(src []byte) (T, error)
}

// Sharing is what a Serde offers whose values may be part of a fetched record. src stays as it is for as long as anybody
// refers to it; the value must not be changed, because the record is decoded again when its epoch is replayed.
type Sharing[T any] interface {
	DecodeShared(src []byte) (T, error)
}

// Decoder decodes with a Serde, and copies the bytes that values keep into chunks of about a kilobyte, so that most values
// cost no allocation of their own. A value that is kept keeps its chunk. Not for concurrent use.
type Decoder[T any] struct {
	serde     Serde[T]
	owning    Owning[T]    // nil when values keep no bytes
	sharing   Sharing[T]   // nil when values may not be part of a record
	versioned Versioned[T] // nil when there is one form only
	version   uint16       // of what serde reads
	chunk     []byte       // what is left of it
}

const (
	// chunkBytes is small because one value that a user keeps (a key in a map, say) holds on to all of it.
	chunkBytes = 1 << 10
	// ownBytes is the length from which a value has memory of its own.
	ownBytes = chunkBytes / 4
)

// NewDecoder returns a decoder.
func NewDecoder[T any](s Serde[T]) *Decoder[T] {
	d := &Decoder[T]{serde: s, version: 1}
	if d.versioned, _ = s.(Versioned[T]); d.versioned != nil {
		d.version = newest(d.versioned.Forms())
		if e, ok := s.(evolved[T]); ok && e.err == nil {
			s = e.serde
		} else if e, ok := s.(evolvedNullable[T]); ok && e.err == nil {
			s = e.serde
		}
		d.serde = s
	}
	d.owning, _ = any(s).(Owning[T])
	d.sharing, _ = any(s).(Sharing[T])
	return d
}

// Decode is Serde.Decode: src is not kept.
func (d *Decoder[T]) Decode(src []byte) (T, error) {
	if d.owning == nil {
		return d.serde.Decode(src)
	}
	return d.owning.DecodeOwned(d.copy(src))
}

// Version is the version of the values that the codec writes and Decode reads.
func (d *Decoder[T]) Version() uint16 { return d.version }

// DecodeVersion is Decode of bytes that were written as that version (see Evolve).
func (d *Decoder[T]) DecodeVersion(src []byte, version uint16) (T, error) {
	if version == d.version {
		return d.Decode(src)
	}
	if d.versioned == nil {
		var zero T
		return zero, unknownVersion(version, Forms(d.serde))
	}
	return d.versioned.DecodeVersion(src, version)
}

// DecodeFetched decodes bytes of a fetched record, which nobody changes and nobody uses for something else as long as they
// are referred to. Values of codecs that say so (Sharing) are part of them, others are as from Decode.
func (d *Decoder[T]) DecodeFetched(src []byte) (T, error) {
	if d.sharing != nil {
		return d.sharing.DecodeShared(src)
	}
	return d.Decode(src)
}

// Peek decodes a value to be looked at and let go: unlike that of Decode it may be part of src.
func (d *Decoder[T]) Peek(src []byte) (T, error) {
	if d.owning == nil {
		return d.serde.Decode(src)
	}
	return d.owning.DecodeOwned(src)
}

func (d *Decoder[T]) copy(src []byte) []byte {
	n := len(src)
	if n > len(d.chunk) {
		if n > ownBytes {
			return append(make([]byte, 0, n), src...)
		}
		d.chunk = make([]byte, chunkBytes)
	}
	own := d.chunk[:n:n]
	copy(own, src)
	d.chunk = d.chunk[n:]
	return own
}

// SharedBytes is the codec of byte slices that are only read: Bytes, without the copy. The keys and values of the records
// a topic of it brings are part of the batch that was fetched. They must not be changed: if the epoch is undone, the
// record is decoded again from the same memory. They may be kept, and keep the whole batch then, up to a megabyte: copy
// what stays. Values that come from a store are copies, as with Bytes.
func SharedBytes() Serde[[]byte] { return sharedSerde{} }

type sharedSerde struct{ bytesSerde }

func (sharedSerde) DecodeShared(src []byte) ([]byte, error) { return src[:len(src):len(src)], nil }

func (bytesSerde) DecodeOwned(src []byte) ([]byte, error) {
	if src == nil {
		src = []byte{}
	}
	return src[:len(src):len(src)], nil
}

func (stringSerde) DecodeOwned(src []byte) (string, error) {
	return unsafe.String(unsafe.SliceData(src), len(src)), nil
}
