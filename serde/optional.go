package serde

import (
	"slices"

	"github.com/millrace-io/millrace/internal/fault"
)

// Optional makes a codec of pointers from a codec of values: nil is Kafka's null (a tombstone as a record's value), any
// other pointer is what it points at. Writers ask IsNull first; Append of nil is an error, because nil has no bytes.
func Optional[T any](s Serde[T]) Serde[*T] {
	o := optional[T]{inner: s}
	o.ordered, _ = s.(Ordered[T])
	o.versioned, _ = s.(Versioned[T])
	return o
}

type optional[T any] struct {
	inner     Serde[T]
	ordered   Ordered[T]   // nil when the topic form sorts already
	versioned Versioned[T] // nil when there is one form only
}

func (o optional[T]) ID() string { return "optional:" + ID(o.inner) }

func (o optional[T]) IsNull(v *T) bool { return v == nil }

func nilHasNoBytes() error {
	return &fault.Error{
		Code: "serde/null", Kind: fault.Record, Thing: "optional", Reason: "nil stands for null, which has no bytes",
		Remedy: "write a null instead, or a pointer to a value",
	}
}

func (o optional[T]) Append(dst []byte, v *T) ([]byte, error) {
	if v == nil {
		return dst, nilHasNoBytes()
	}
	return o.inner.Append(dst, *v)
}

func (o optional[T]) Decode(src []byte) (*T, error) {
	v, err := o.inner.Decode(src)
	if err != nil {
		return nil, err
	}
	return &v, nil
}

func (o optional[T]) AppendOrdered(dst []byte, v *T) ([]byte, error) {
	if v == nil {
		return dst, nilHasNoBytes()
	}
	if o.ordered == nil {
		return o.inner.Append(dst, *v)
	}
	return o.ordered.AppendOrdered(dst, *v)
}

func (o optional[T]) DecodeOrdered(src []byte) (*T, error) {
	if o.ordered == nil {
		return o.Decode(src)
	}
	v, err := o.ordered.DecodeOrdered(src)
	if err != nil {
		return nil, err
	}
	return &v, nil
}

func (o optional[T]) Usable(at Place) error { return Usable(o.inner, at) }

func (o optional[T]) Forms() []Form {
	forms := slices.Clone(Forms(o.inner))
	for i := range forms {
		forms[i].ID = "optional:" + forms[i].ID
	}
	return forms
}

func (o optional[T]) DecodeVersion(src []byte, version uint16) (*T, error) {
	if o.versioned == nil {
		if version != 1 {
			return nil, unknownVersion(version, o.Forms())
		}
		return o.Decode(src)
	}
	v, err := o.versioned.DecodeVersion(src, version)
	if err != nil {
		return nil, err
	}
	return &v, nil
}
